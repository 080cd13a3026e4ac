"""Arguments of public functions, checked where a function begins: what its signature says of their kinds, a call has to keep."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import cache
from operator import ge, gt, le
from typing import Any, get_type_hints

from dnnsplit.ground.errors import DnnSplitError, OptionError, raise_problems, shortened
from dnnsplit.ground.kinds import ANYTHING, Kind, each, either, is_nan, kind_of, path_text, told
from dnnsplit.ground.units import is_number

# What reads an object of a class from a file, and how that may be called; what makes one of the others.
READ = {
    "LayerGraph": ("ds.load({!r})", "model.onnx"),
    "Network": ("ds.Network.load({!r})", "network.yaml"),
    "LayerTimes": ("ds.LayerTimes.load({!r})", "times.csv"),
    "NoiseModel": ("ds.fit_noise(ds.NoiseSamples.load({!r}))", "noise.csv"),
    "NoiseSamples": ("ds.NoiseSamples.load({!r})", "noise.csv"),
    "Plan": ("ds.Plan.load({!r})", "plan.json"),
    "Bundle": ("ds.Bundle.load({!r})", "folder"),
}
MADE = {
    "Layer": "ds.Layer(name)",
    "Tensor": "ds.Tensor(name, producer, consumers)",
    "Server": "ds.Server(name)",
    "Link": "ds.Link(source, target, bandwidth)",
    "Calibration": "ds.calibrate(graph, images)",
    "BandwidthPlans": "ds.bandwidths(...)",
    "AdaptivePlans": "ds.adaptive_plans(...)",
}


def check_arguments(
    owner: Callable[..., Any],
    given: Mapping[str, Any],
    error: type[DnnSplitError] = OptionError,
    *,
    least: Mapping[str, float] | None = None,
    above: Mapping[str, float] | None = None,
    most: Mapping[str, float] | None = None,
    finite: Sequence[str] = (),
    some: Sequence[str] = (),
    but: Sequence[str] = (),
) -> None:
    """Refuse arguments that are not of the kinds which a signature tells, all of them at once.

    A number is never a truth value nor NaN (unless that is the default), and a number of numpy is as good as one of Python. A
    text is no sequence of texts. What a sequence or a mapping holds is checked too.

    Parameters
    ----------
    owner : Callable[..., Any]
        A function, or a dataclass.
    given : Mapping[str, Any]
        Values by name: ``locals()`` at the beginning of a function, ``vars(self)`` in ``__post_init__``.
    error : type[DnnSplitError], default OptionError
        Of what is raised.
    least, above, most : Mapping[str, float] | None, optional
        By the names of numbers: what they must be at least, above, or at most.
    finite : Sequence[str], default ()
        Numbers that must not be infinite.
    some : Sequence[str], default ()
        Texts and collections that must not be empty.
    but : Sequence[str], default ()
        What is checked elsewhere, where more can be said of it.

    Raises
    ------
    DnnSplitError
        Of the class `error`.

    Examples
    --------
    >>> def cut(layer: str, gap: float = 0.0) -> None:
    ...     check_arguments(cut, locals(), least={"gap": 0})
    >>> cut(3)
    Traceback (most recent call last):
    dnnsplit.ground.errors.OptionError: cut: layer is 3; give a text
    """
    kinds = _kinds(owner)
    wrong = [name for name, kind in kinds.items() if name in given and not kind.fits(given[name]) and name not in but]
    limits = [
        (name, words.format(bound), not is_number(value := given[name]) or keeps(value, bound))
        for bounds, keeps, words in ((least, ge, "{:g} or more"), (above, gt, "above {:g}"), (most, le, "{:g} or less"))
        for name, bound in (bounds or {}).items()
    ]
    limits += [(name, "finite", not is_number(value := given[name]) or not math.isinf(value)) for name in finite]
    limits += [
        (name, "not empty", name in wrong or not isinstance(value := given[name], Sized) or len(value) > 0) for name in some
    ]
    broken = [name for name, _, kept in limits if not kept and name not in wrong]
    if wrong or broken:
        more = {name: "".join(f", {words}" for called, words, _ in limits if called == name) for name in (*wrong, *broken)}
        problems = [problem_of(name, kinds[name], given[name], more[name]) for name in wrong]
        problems += [f"{name} is {told(given[name])}; give {kinds[name].words}{more[name]}" for name in dict.fromkeys(broken)]
        raise_problems(error, owner.__qualname__.removesuffix(".__init__"), problems)


def problem_of(name: str, kind: Kind, value: object, more: str = "") -> str:
    """Say what is wrong with a value that does not fit its kind, or with the first wrong one that it holds."""
    for place, inner, part in kind.parts(value) or ():
        if not inner.fits(part):
            return problem_of(f"{name}{place}", inner, part)
    file = path_text(value) or ""
    ways = [text.format(file or usual) for text, usual in (READ[one] for one in kind.classes if one in READ)]
    ways += [MADE[one] for one in kind.classes if one in MADE]
    if isinstance(value, str | bytes | tuple | list) and kind.fits([value]):
        ways = [shortened([value])]
    return f"{name} is {told(value)}; give {kind.words}{more}" + (f", such as {ways[0]}" if ways else "")


class _Unimported(type):
    """A class that a module names for type checkers alone: what is of a class of that name is taken for one of it."""

    def __instancecheck__(cls, value: object) -> bool:
        return any(one.__name__ == cls.__name__ for one in type(value).__mro__)


@cache
def _kinds(owner: Callable[..., Any]) -> dict[str, Kind]:
    """Return the kinds of a function's parameters, or of the fields that a dataclass is made from; private ones have none."""
    hints, unimported = None, dict[str, Any]()
    while hints is None:
        try:
            hints = get_type_hints(owner, localns=unimported)
        except NameError as missing:
            name = str(missing.name)
            unimported[name] = _Unimported(name, (), {})
    found = {}
    for parameter in inspect.signature(owner).parameters.values():
        name, default = parameter.name, parameter.default
        if name not in hints or name.startswith("_") or name == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        kind = kind_of(hints[name])
        if parameter.kind is parameter.VAR_POSITIONAL:
            kind = each(kind, once=False)
        if isinstance(default, float) and math.isnan(default):
            kind = either([kind, Kind(is_nan, "NaN")])
        if kind is not ANYTHING:
            found[name] = kind
    return found
