"""Names of runs, which are those of their folders: what is run, and the parameters that tell it from other runs of it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from dnnsplit.ground.files import plain, sha256

LONGEST = 200  # bytes of a run's name; files beside its folder have endings
_FEW = 30  # characters of a value that are told
_DIGITS = 6  # of the hash of a value that is not told whole
_PLAIN = re.compile(r"[\w.+%-]+", re.ASCII)
_QUANTITY = re.compile(r"[\d.]+ [A-Za-z%]+(/s)?", re.ASCII)
_SHORT = str.maketrans(" /", "_-")  # "1 MB/s" is told as 1_MB-s
_SHORTENED = re.compile(r"[\d.]+_[A-Za-z%]+(-s)?", re.ASCII)


def name_of(called: str, parameters: Mapping[str, Any]) -> str:
    """Return a name for a run: the same for the same values, another one for others, and that of a folder on any system.

    Parameters
    ----------
    called : str
        Of the notebook, or in the sweep file.
    parameters : Mapping[str, Any]
        That tell it apart, JSON values, numpy scalars or paths.

    Returns
    -------
    str
        A value is told as it is written; a quantity without its blank and slash; one that is long, a path, or of other characters
        than letters, digits and ``.+%-_`` by how it begins, or by the last part of the path, and a hash.

    Examples
    --------
    >>> print(name_of("04-split", {"max_noise": 0.03, "bandwidth": "1 MB/s", "link": ["device", "edge"]}))
    04-split,max_noise=0.03,bandwidth=1_MB-s,link=[device+edge]
    >>> print(name_of("04-split", {"model": "../a/small.onnx"}), name_of("04-split", {"model": "../b/small.onnx"}))
    04-split,model=small.onnx~c70b73 04-split,model=small.onnx~128253
    """
    name = ",".join([called, *(f"{key}={_told(value)}" for key, value in parameters.items())])
    if len(name.encode()) <= LONGEST:
        return name
    return name.encode()[: LONGEST - 20].decode(errors="ignore") + _hash(name)


def _told(value: Any) -> str:
    try:
        value = json.loads(json.dumps(value, default=plain))
    except TypeError:  # it is refused where parameters are checked
        return type(value).__name__
    if isinstance(value, list) and value and not any(isinstance(one, list | dict) for one in value):
        parts = [_told(one) for one in value]
        whole = f"[{'+'.join(parts)}]"
        if len(whole) <= _FEW and not any("+" in part for part in parts):
            return whole
    elif isinstance(value, str) and value:
        if _QUANTITY.fullmatch(value) and len(value) <= _FEW:
            return value.translate(_SHORT)
        if _PLAIN.fullmatch(value) and len(value) <= _FEW and not _SHORTENED.fullmatch(value) and not _is_literal(value):
            return value
        last = re.sub(r"[^\w.+%-]+", "-", PurePath(value).name, flags=re.ASCII)
        return last[:_FEW] + _hash(value)
    elif not isinstance(value, list | dict):  # "" is told as it is
        return str(value) if len(str(value)) <= _FEW else str(value)[:_FEW] + _hash(str(value))
    return type(value).__name__ + _hash(json.dumps(value, sort_keys=True))


def _hash(text: str) -> str:
    return f"~{sha256(text)[:_DIGITS]}"


def _is_literal(text: str) -> bool:
    """Whether a text reads as a number, True, False, None, inf or nan, and so would be told as that."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text in ("inf", "-inf", "nan")
    return True
