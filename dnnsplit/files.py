"""Files that are either written whole or not at all, and the hashes that say what a result was made from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` atomically: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON atomically; numpy values, tuples and paths become plain JSON."""
    return write_text(path, json.dumps(value, indent=1, default=plain, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Return the JSON form of a numpy value, a tuple or a path (for ``json.dumps(default=...)``)."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def sha256(content: bytes | str | Path) -> str:
    """Return the hex SHA-256 of bytes, of a text, or of a file's content."""
    if isinstance(content, Path):
        content = content.read_bytes()
    return hashlib.sha256(content.encode("utf-8") if isinstance(content, str) else content).hexdigest()
