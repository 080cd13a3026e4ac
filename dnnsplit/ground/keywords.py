"""Arguments by name: functions of many options say which of them are unknown, and which was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

from dnnsplit.ground.errors import OptionError, nearest, raise_problems

Given = ParamSpec("Given")
Result = TypeVar("Result")


def named(*passed_to: Callable[..., Any]) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Make a function refuse unknown keywords, and values without a name where it wants one, with an `OptionError`.

    Parameters
    ----------
    *passed_to : Callable[..., Any]
        Functions that get what its ``**`` collects; it then takes all that one of them takes by keyword.

    Examples
    --------
    >>> @named()
    ... def cut(layer: str, *, max_noise: float = 0.0) -> float:
    ...     return max_noise
    >>> cut("conv", max_nois=0.1)
    Traceback (most recent call last):
    dnnsplit.ground.errors.OptionError: cut: there is no argument 'max_nois' (did you mean 'max_noise'?)
    """

    def decorate(function: Callable[Given, Result]) -> Callable[Given, Result]:
        own = signature(function).parameters.values()
        places = [p.name for p in own if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
        every = (p for f in (function, *passed_to) for p in signature(f).parameters.values())
        known = list(dict.fromkeys(p.name for p in every if p.kind is not Parameter.VAR_KEYWORD))
        first = next((p.name for p in own if p.kind is Parameter.KEYWORD_ONLY), "")

        @wraps(function)
        def checked(*args: Given.args, **options: Given.kwargs) -> Result:
            if len(args) > len(places):
                value, by_place = args[len(places)], ", ".join(places)
                way_out = f"only {by_place} may come without one; write {first}={value!r}, or what you mean"
                message = f"{function.__name__}: the value {value!r} has no name, and {way_out}"
                raise OptionError(message)
            lost = [f"there is no argument {name!r}{nearest(name, known)}" for name in options if name not in known]
            raise_problems(OptionError, function.__name__, lost)
            return function(*args, **options)

        return checked

    return decorate
