"""Files that are either written whole or not at all, and the hashes that say what a result was made from."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dnnsplit.ground.outputs import check_file, is_device, writing


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when it is written: a reader sees the old file or the new one, never a part.

    A symbolic link at `path` is replaced, not followed; a device or a pipe is written through.

    Raises
    ------
    OutputError
        `path` cannot be written.
    """
    path = Path(path)
    with writing(path):
        if is_device(path):
            with path.open("wb") as file:
                yield file
            return
        check_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened as any new file is, so that the system takes the process's umask off its mode; to ask for the umask is to change
        # it for a moment, for all threads. Its name is shorter than the longest, which counts bytes.
        temporary = path.parent / f".{path.name[:50]}.{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                yield file
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # that it is there is not what went wrong
                temporary.unlink()
            raise


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write `content` atomically, see `replacing`."""
    with replacing(path) as file:
        file.write(content)
    return Path(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    with writing(path):
        content = text.encode()
    return write_bytes(path, content)


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
    message = f"{type(value).__name__} has no JSON form"
    raise TypeError(message)


def sha256(content: bytes | str | Path) -> str:
    """Return the hex SHA-256 of bytes, of a text, or of a file's content."""
    if isinstance(content, Path):
        with content.open("rb") as file:  # piece by piece: it may be larger than the memory
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content.encode("utf-8") if isinstance(content, str) else content).hexdigest()
