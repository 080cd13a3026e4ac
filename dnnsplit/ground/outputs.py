"""Where results go: that a path cannot be written is told before the work; if it is found out later, they are kept elsewhere."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dnnsplit.ground.errors import OutputError

TRIAL_BYTES = 4096  # a full disk takes empty files


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Tell what goes wrong in the ``with`` block as what it means: `path` cannot be written.

    Raises
    ------
    OutputError
        An OSError was raised, or no path has such a name.
    """
    path = Path(path)
    if "\0" in str(path):
        message = f"{str(path)!r} cannot be written: a path has no NUL"
        raise OutputError(message)
    try:
        yield
    except OutputError:
        raise
    except UnicodeEncodeError as error:
        near = ascii(error.object[max(0, error.start - 20) : error.end])
        message = f"{shown(path)} cannot be written: {near} ends in half of a character, which {error.encoding} does not have"
        raise OutputError(message) from None
    except OSError as error:
        told = OutputError(f"{shown(path)} cannot be written: {_reason(path, error)}")
        told.errno = error.errno
        raise told from None


def check_output(path: str | Path, folder: bool = False) -> None:
    """Find out whether a file can be written, or a folder be filled; nothing of that stays.

    Parameters
    ----------
    path : str | Path
        Of the file or the folder, which need not exist, and neither need the folders that it is in.
    folder : bool, default False
        Which of both it is.

    Raises
    ------
    OutputError
        It cannot.
    """
    path = Path(path)
    with writing(path):
        place = path if folder else path.parent
        missing = [parent for parent in (place, *place.parents) if not parent.exists()]
        trial = place / f".{secrets.token_hex(8)}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            if not folder:
                check_file(path)
            if not is_device(path):
                trial.write_bytes(bytes(TRIAL_BYTES))
            with suppress(FileNotFoundError):
                path.lstat()  # its name may be too long
        finally:
            with suppress(OSError):
                trial.unlink()
            for parent in missing:
                with suppress(OSError):
                    parent.rmdir()


def keep(path: Path, save: Callable[[Path], Any]) -> None:
    """Save a result; where that fails, keep it in the current folder or in that of temporary files.

    Parameters
    ----------
    path : Path
        Where it should go.
    save : Callable[[Path], Any]
        Writes it to a path.

    Raises
    ------
    OutputError
        `path` cannot be written; the message says where the result is.
    """
    try:
        save(path)
    except OutputError as error:
        if spare := _kept(path.suffix[:20], save):
            raise OutputError(error.reason, f"the result is kept in {shown(spare)}") from None
        raise


def _kept(suffix: str, save: Callable[[Path], Any]) -> Path | None:
    """Save a result where there is room; return the path, or None."""
    for place in (os.getcwd, tempfile.gettempdir):
        with suppress(OSError):  # nor can this be written
            spare = Path(place()) / f"dnnsplit-{secrets.token_hex(4)}{suffix}"
            save(spare)
            return spare
    return None


def check_file(path: Path) -> None:
    """Raise IsADirectoryError for a folder."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def is_device(path: Path) -> bool:
    """Whether `path` is written through, as /dev/null and pipes are: a file that took its place would be none."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    # /dev/stdout is a link to whatever it is
    special = path.parent in (Path("/dev"), Path("/dev/fd")) or path.is_relative_to("/proc")
    return not stat.S_ISDIR(mode) and (special or not stat.S_ISREG(mode))


def shown(path: Path) -> str:
    """Return a path as one line."""
    return str(path) if str(path).isprintable() else repr(str(path))


def _reason(path: Path, error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "it is a folder; give the path of a file"
    if isinstance(error, FileExistsError | NotADirectoryError):
        for place in (path, *path.parents):
            with suppress(OSError):
                if not place.is_dir() and (place.exists() or place.is_symlink()):
                    kind = "file, not a folder" if place.exists() else "link that leads nowhere"
                    return f"{'it' if place == path else shown(place)} is a {kind}"
    return error.strerror or str(error)
