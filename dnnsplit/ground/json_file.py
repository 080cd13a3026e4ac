"""JSON as it is written by us or by people: no key twice, no number that is none, no nests without end."""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any, NoReturn

import numpy as np

from dnnsplit.ground.errors import shortened
from dnnsplit.ground.gate import Kind, read_bytes, text_of

MOST_DEPTH = 64  # lists and objects inside of each other
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)  # also one that does not end, so that none is begun twice
_BRACKETS = re.compile(r"[^\[\]{}]+")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_LONGEST = 300  # digits of a whole number, so that each is less than the largest float


class _Refused(ValueError):
    """What a reader of ours finds wrong; it does not leave this module."""


def read_json(path: str | os.PathLike[str], kind: Kind, finite: bool = True) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path, kind : str | os.PathLike[str], Kind
        As `dnnsplit.ground.gate.opened` takes them.
    finite : bool, default True
        Refuse NaN and Infinity, which Python writes though JSON has no such numbers.

    Raises
    ------
    DnnSplitError
        Of the class that `kind` names.
    """
    return json_of(path, text_of(path, read_bytes(path, kind), kind), kind, finite)


def json_of(path: str | os.PathLike[str], text: str, kind: Kind, finite: bool = True) -> Any:
    """Return what a JSON text says; `path` is for messages, the rest as `read_json` has it."""
    if _depth(text) > MOST_DEPTH:
        kind.refuse(path, f"lists and objects are nested more than {MOST_DEPTH} deep")
    constants = None if not finite else _constant
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_int=_whole, parse_float=_float, parse_constant=constants)
    except json.JSONDecodeError as error:
        kind.refuse(path, f"it is no JSON from line {error.lineno}, column {error.colno}, on ({error.msg.lower()})")
    except _Refused as refused:
        kind.refuse(path, str(refused))
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            kind.refuse(path, r"a text in it has half of a character (such as \ud800)")
    return value


def _depth(text: str) -> int:
    """Return how deep lists and objects are nested, outside of texts."""
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return 0
    brackets = np.frombuffer(_BRACKETS.sub("", _STRING.sub("", text)).encode(), np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    return int(np.cumsum(steps).max(initial=0))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"the key {shortened(twice)} is given twice; keep one"
        raise _Refused(message)
    return found


def _whole(text: str) -> int:
    if len(text) > _LONGEST:
        message = f"a whole number in it has {len(text)} digits, beginning with {text[:20]}"
        raise _Refused(message)
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        message = f"the number {shortened(text)} is beyond what a computer counts with"
        raise _Refused(message)
    return value


def _constant(name: str) -> NoReturn:
    message = f"it has {name}, which is no number in JSON"
    raise _Refused(message)
