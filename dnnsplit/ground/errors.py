"""Every error that dnnsplit raises on purpose, and the one way to collect several into a single message."""

from __future__ import annotations

import difflib
import itertools
import os
import reprlib
from collections.abc import Callable, Iterable
from datetime import date
from numbers import Real
from typing import Any

PRINTED = 20  # problems of one error

LONGEST = 2000  # characters of a reason or a detail
SHOWN = 80  # characters of something wrong that are told


class DnnSplitError(ValueError):
    """Base of all errors of ours: bad input or an outcome the user has to decide about.

    Parameters
    ----------
    reason : str
        What is wrong.
    way_out : str, default ""
        What to do about it.
    details : Iterable[str], default ()
        One line each.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> try:
    ...     ds.split(*ds.examples.tiny(), max_noise=-1)
    ... except ds.DnnSplitError as error:
    ...     print(error)
    max_noise is -1; it must be 0 or more (0 keeps every layer in float32)
    """

    def __init__(self, reason: str, way_out: str = "", details: Iterable[str] = ()) -> None:
        self.reason, self.details = _cut(reason), tuple(map(_cut, details))
        reason = self.reason
        first = f"{reason}; {way_out}" if way_out else reason
        super().__init__("\n".join([first, *(f"  * {line}" for line in self.details)]))


def _cut(text: str) -> str:
    """Return a text without its middle, if it is too long to be read."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST * 3 // 4]} ... {text[-LONGEST // 4 :]}"


class ModelError(DnnSplitError):
    """The ONNX file or the layer graph cannot be used.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.examples.tiny().graph.layer("conv3")
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.ModelError: there is no layer 'conv3' (did you mean 'conv2'?)
    """


class NetworkError(DnnSplitError):
    """The physical graph (servers, links) is wrong.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.examples.tiny().network.server("edgy")
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.NetworkError: there is no server 'edgy' (did you mean 'edge'?)
    """


class ProfileError(DnnSplitError):
    """Layer times are missing, negative or do not fit the graph.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> ds.split(graph, network, times.without("edge"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.ProfileError: ... no time is known of server 'edge' (there is: 'device'); profile it, or name it so
    """


class NoiseError(DnnSplitError):
    """Noise samples, a noise model or a noise limit cannot be used.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> ds.split(graph, network, times, max_noise=0.05, confidence=0.95)
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.NoiseError: max_noise needs a noise model: pass noise=fit_noise(samples), or leave max_noise out
    """


class OptionError(DnnSplitError):
    """An argument of a function or of a notebook is wrong.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.split(*ds.examples.tiny(), objective="speed")
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.OptionError: options: objective 'speed' is unknown (there is: 'latency', 'throughput')
    """


class InfeasibleError(DnnSplitError):
    """No placement satisfies all limits; the message says how far each limit is from reachable.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.split(*ds.examples.tiny(), max_device_energy_j=0.001)
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.InfeasibleError: no placement satisfies the limits
      * device energy: limit 1 mJ, best reachable 319.5 mJ (at max_noise inf)
    """


class SolverError(DnnSplitError):
    """A solver is missing, failed, or stopped before it found any plan.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.pareto(*ds.examples.random_problem(30, 2, quantizable=24))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.SolverError: 24 quantizable layers are too many to treat every scheme at once ...
    """


class DeployError(DnnSplitError):
    """A cut or a running deployment failed.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.Tls(ca="missing.pem")
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.DeployError: TLS: the ca file 'missing.pem' is missing
    """


class OutputError(DnnSplitError, OSError):
    """A file or a folder cannot be written.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.split(*ds.examples.tiny()).save("/dev/null/plan.json")
    Traceback (most recent call last):
        ...
    dnnsplit.ground.errors.OutputError: /dev/null/plan.json cannot be written: /dev/null is a file, not a folder
    """


class _Short(reprlib.Repr):
    """Short texts of values; what is no plain value is told by its type, for it may say anything of itself."""

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, int) and x.bit_length() > 200:  # Python writes none of more than some thousand digits
            return f"a whole number of {x.bit_length()} bits"
        return super().repr1(x, level) if x is None or isinstance(x, _PLAIN) else f"<{type(x).__name__}>"

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: SHOWN + 1])

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: SHOWN + 1])


_PLAIN = (str, bytes, Real, date, os.PathLike, list, tuple, dict, set, frozenset)
_SHORT = _Short()
_SHORT.maxother = SHOWN


def shortened(value: object, most: int = SHOWN) -> str:
    """Return a text of a value of any size: what `repr` writes of a small one, the beginning of a large one.

    Examples
    --------
    >>> print(shortened("abc"), shortened([1] * 1000), shortened(2**9999))
    'abc' [1, 1, 1, 1, 1, 1, ...] a whole number of 10000 bits
    """
    text = _SHORT.repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def nearest(name: str, options: Iterable[str], most: int = 8) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest option, or the list of options, `most` at most, when none is close."""
    options = [str(option) for option in options]
    by_lower = {option.lower(): option for option in options}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {by_lower[close[0]]!r}?)"
    if 0 < len(options) <= most:
        return f" (there is: {', '.join(map(repr, options))})"
    return ""


def nearest_of(options: Iterable[str], most: int = PRINTED) -> Callable[[str], str]:
    """Return `nearest` among some options, for as many names as are printed: each takes a look at all options; "" for more."""
    options, left = tuple(options), itertools.count(1)
    return lambda name: nearest(name, options) if next(left) <= most else ""


def raise_problems(error: type[DnnSplitError], heading: str, problems: list[str], most: int = PRINTED) -> None:
    """Raise one `error` that lists all `problems`; do nothing when there are none.

    Parameters
    ----------
    error : type[DnnSplitError]
        Class of the error.
    heading : str
        What was being checked.
    problems : list[str]
        One sentence each.
    most : int, default 20
        How many are printed; the rest is counted.
    """
    if not problems:
        return
    if len(problems) == 1:
        message = f"{heading}: {problems[0]}"
        raise error(message)
    more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    message = f"{heading}: {len(problems)} problems"
    raise error(message, details=[*problems[:most], *more])
