"""Parameters, grids and shapes as they are written on the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

from dnnsplit.ground.errors import OptionError, raise_problems

NUMBERS = ("inf", "-inf", "nan")  # as Python prints them; with quotes they are texts


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Return the parameters written as ``name=value``: a Python literal, or a text without quotes; inf and nan are numbers.

    Raises
    ------
    OptionError
        No ``=``.
    """
    return {name: _value(text) for name, text in map(_halves, texts)}


def grids(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values written as ``name=v1,v2,...``, by name; a name given twice has the values of both.

    Raises
    ------
    OptionError
        No ``=``, or no value after it.
    """
    found: dict[str, list[Any]] = {}
    for name, text in map(_halves, texts):
        listed = _value(f"({text},)")  # commas inside brackets and quotes belong to a value
        values = list(listed) if isinstance(listed, tuple) else [_value(part.strip()) for part in text.split(",")]
        if "" in [part.strip() for part in text.split(",")]:
            message = f"-g {name}={text}: a value is missing between the commas"
            raise OptionError(message)
        found[name] = [*found.get(name, []), *values]
    return found


def shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes written as ``name=1,3,640,640``, by name; ``name=`` is a scalar.

    Raises
    ------
    OptionError
        No ``=``, extents that are no whole numbers, or a name given twice.
    """
    found: dict[str, tuple[int, ...]] = {}
    problems = []
    for text in texts:
        name, equals, extents = (part.strip() for part in text.rpartition("="))
        numbers = [part.strip() for part in extents.split(",")] if extents else []
        if not equals or not name or not all(re.fullmatch("[0-9]{1,18}", number) for number in numbers):
            problems.append(f"{text!r} is not NAME=1,3,640,640")
        elif name in found:
            problems.append(f"{name!r} is given twice")
        else:
            found[name] = tuple(map(int, numbers))
    raise_problems(OptionError, "--shape", problems)
    return found


def _halves(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        message = f"{text!r} is not NAME=VALUE"
        raise OptionError(message)
    return name.strip(), value


def _value(text: str) -> Any:
    if text.strip() in NUMBERS:
        return float(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two of brackets in brackets
        return text
