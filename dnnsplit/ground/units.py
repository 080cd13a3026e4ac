"""Quantities as people write them (`5 MB/s`, `5 ms`, `2.9 W`) to and from the SI floats used inside."""

from __future__ import annotations

import math
import re
import sys
from numbers import Integral, Real
from typing import TypeGuard

from dnnsplit.ground.errors import OptionError

_PREFIX = {"": 1.0, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

# dimension -> unit symbol -> factor to the SI unit
_UNITS: dict[str, dict[str, float]] = {
    "bandwidth": {"B/s": 1.0, "bit/s": 0.125, "bps": 0.125},
    "latency": {"s": 1.0},
    "power": {"W": 1.0},
    "energy": {"J": 1.0},
    "memory": {"B": 1.0},
    "speed": {"CPU": 1.0},
    "compute": {"FLOP/s": 1.0},
    "serialise": {"s/B": 1.0},
    "power_per_rate": {"W/(bit/s)": 8.0, "W/(B/s)": 1.0, "J/bit": 8.0, "J/B": 1.0},
}
_LARGEST = int(sys.float_info.max)
_WHOLE = ("bandwidth", "memory", "compute")  # of what there are no thousandths, so that an m was meant to be an M
_SCALE = {
    dimension: {
        prefix + symbol: scale * factor
        for symbol, factor in units.items()
        for prefix, scale in (_PREFIX | _BINARY).items()
        if scale >= 1 or dimension not in _WHOLE
    }
    for dimension, units in _UNITS.items()
}
_EXAMPLE = {
    "bandwidth": "5 MB/s",
    "latency": "5 ms",
    "power": "2.9 W",
    "energy": "0.4 J",
    "memory": "16 GB",
    "speed": "0.5 CPU",
    "compute": "8.1 TFLOP/s",
    "serialise": "1.2 ns/B",
    "power_per_rate": "438.39 mW/(Mbit/s)",
}
_PER = re.compile(r"^([^\s/()]+) *(?:/| per ) *(\()?([^()]+)(?(2)\))$")  # mW/(Mbit/s), mW/Mbps, mW per Mbit/s
_NUMBER = re.compile(r"^\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf)\s*(.*?)\s*$")


SHARE = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*%\s*")  # of something, as "50 %"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number that a float can hold, and no truth value."""
    if type(value) is float:
        return True
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    if isinstance(value, Integral):
        return -_LARGEST <= int(value) <= _LARGEST
    try:  # of others, such as fractions, no bounds are known
        found = float(value)
        return not math.isinf(found) or value == found
    except OverflowError:
        return False


def is_whole(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether a value is a whole number, `least` or more, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def pattern(dimension: str) -> str:
    """Return the regular expression of the texts that `parse` takes as quantities of a dimension, for schemas of files."""
    prefix = "([kKMGT]|[KMGT]i)?" if dimension in _WHOLE else "([numµkKMGT]|[KMGT]i)?"
    unit = prefix + f"({'|'.join(map(re.escape, _UNITS[dimension]))})"
    unit = r"[^\s/()]+ *(/| per ) *\(?[^()]+\)?" if dimension == "power_per_rate" else unit.replace("\\/", "/")
    endless = "|inf" if dimension == "bandwidth" else ""
    return rf"^\s*(\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?{endless})\s*({unit})?\s*$"


def is_bare(text: str) -> bool:
    """Whether a written quantity above 0 is a number alone, whose unit `parse` takes for granted."""
    match = _NUMBER.match(text)
    return match is not None and not match[2] and 0 < float(match[1]) < math.inf


def number(text: str) -> float:
    """Turn a written number into a float; unlike `float` it takes no digits of other scripts, and no underscores.

    Raises
    ------
    ValueError
        It is none.
    """
    if "_" in text or not text.isascii():
        message = f"could not convert string to float: {text!r}"
        raise ValueError(message)
    return float(text)


def parse(text: str | float, dimension: str) -> float:
    """Turn a written quantity into a float in SI units.

    Parameters
    ----------
    text : str | float
        ``"5 MB/s"``; a bare number is taken as SI (B/s, s, W, J, B, CPU, FLOP/s, s/B, J/B).
    dimension : str
        ``bandwidth``, ``latency``, ``power``, ``energy``, ``memory``, ``speed``, ``compute``, ``serialise`` or
        ``power_per_rate`` (W per B/s, which is J/B).

    Returns
    -------
    float
        Not negative, finite (only a bandwidth may be ``inf B/s``).

    Raises
    ------
    OptionError
        Not a number, an unknown unit, negative or not finite.
    """
    example = f"write it like '{_EXAMPLE[dimension]}'"
    if not isinstance(text, str) and not is_number(text):
        message = f"{dimension} {text!r} is not a quantity; {example}"
        raise OptionError(message)
    if isinstance(text, str):
        match = _NUMBER.match(text)
        if not match:
            message = f"{dimension} {text!r} is not a number with a unit; {example}"
            raise OptionError(message)
        value = float(match[1]) * _factor(match[2], dimension, text, example)
    else:
        value = float(text)
    if math.isnan(value) or (math.isinf(value) and (dimension != "bandwidth" or "inf" not in str(text))):
        message = f"{dimension} {text!r} is not finite; {example}"
        raise OptionError(message)
    if value < 0:
        message = f"{dimension} {text!r} is negative; it must be 0 or more"
        raise OptionError(message)
    return value


def _factor(unit: str, dimension: str, text: str, example: str) -> float:
    if not unit:
        return 1.0
    found = _SCALE[dimension].get(unit)
    if found is None and dimension == "power_per_rate" and (match := _PER.match(unit)):
        power, rate = _SCALE["power"].get(match[1]), _SCALE["bandwidth"].get(match[3])
        found = power / rate if power and rate else None
    if found is not None:
        return found
    if dimension in _WHOLE and (meant := _meant(unit, dimension)):
        number = text[: text.rindex(unit)].strip()
        way_out = " or ".join(repr(f"{number} {one}") for one in meant)
        message = f"{dimension} {text!r} has the unknown unit {unit!r}; upper and lower case matter: write {way_out}"
        raise OptionError(message)
    known, prefixes = ", ".join(_UNITS[dimension]), "k, M, G, ..." if dimension in _WHOLE else "k, M, G, m, ..."
    message = f"{dimension} {text!r} has the unknown unit {unit!r} (known: {known}, with {prefixes}); {example}"
    raise OptionError(message)


def _meant(unit: str, dimension: str) -> list[str]:
    """Return the units that differ from this one in upper and lower case alone; a lone b may be bits or bytes."""
    written = {unit.lower(), re.sub(r"b(?=/s|$)", "bit", unit).lower(), re.sub(r"Bps$", "B/s", unit).lower()}
    return [one for one in _SCALE[dimension] if (one.lower() in written and one[:1] != "K") or one == unit]


def show(value: float, unit: str) -> str:
    """Return a short readable form of an SI value.

    >>> show(5e6, "B/s"), show(0.0123, "s"), show(0, "J")
    ('5 MB/s', '12.3 ms', '0 J')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9)):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.4g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
