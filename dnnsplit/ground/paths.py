"""What is at a path, also where pathlib raises: a name too long, a link in a circle, below a file, or where nobody may look."""

# os.path says of all of these that nothing is there; pathlib of Python 3.11 passes most of the system's errors on
# ruff: noqa: PTH110, PTH112, PTH113

from __future__ import annotations

import os
from pathlib import Path


def exists(path: str | Path) -> bool:
    """Whether something is there that can be reached."""
    return os.path.exists(path)


def is_taken(path: str | Path) -> bool:
    """Whether a name is taken, also by a link that leads nowhere."""
    return os.path.lexists(path)


def is_file(path: str | Path) -> bool:
    """Whether a plain file is there."""
    return os.path.isfile(path)


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there."""
    return os.path.isdir(path)


def real(path: str | Path) -> Path:
    """Return where a path leads, made absolute; as far as it leads anywhere."""
    return Path(os.path.realpath(path))
