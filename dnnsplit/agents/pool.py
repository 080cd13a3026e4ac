"""Files by the hash of what is in them: pushed once, in pieces that may be resumed, on a disk that they may fill to a limit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from dnnsplit.agents.names import DIGEST, NAME
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import sha256, write_json
from dnnsplit.ground.units import show

RESERVE_BYTES = 2**26  # of the disk that stay free, whatever the limit


class NoRoomError(DeployError):
    """The disk of a host has no room for a file."""


class Pool:
    """The files of one agent.

    Parameters
    ----------
    folder : str | Path
        Where they are; made if missing.
    most_bytes : float
        That all of them may hold [B]. What nobody keeps and was used longest ago makes room.
    """

    def __init__(self, folder: str | Path, most_bytes: float) -> None:
        self.folder, self.most_bytes = Path(folder), most_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._kept = self.folder / "kept.json"
        self._lock = threading.RLock()

    def path(self, digest: str) -> Path:
        """Return the whole file of a hash.

        Raises
        ------
        DeployError
            It is not there.
        """
        path = self._path(digest)
        if not path.is_file():
            message = f"there is no file {digest[:12]}... here; push it first"
            raise DeployError(message)
        os.utime(path)
        return path

    def held(self, digest: str) -> int:
        """Return how much of a file is here [B]: -1 for all of it, and what to go on from where a push was broken off."""
        path = self._path(digest)
        if path.is_file():
            return -1
        begun = path.with_suffix(".part")
        return begun.stat().st_size if begun.is_file() else 0

    def put(self, digest: str, size_bytes: int, offset: int, piece: bytes) -> int:
        """Take the next piece of a file; return what `held` would say then.

        Raises
        ------
        NoRoomError
            Neither the limit nor the disk leaves room for the whole file.
        DeployError
            The piece does not follow on what is here, or the whole is not what its hash says; then it begins anew.
        """
        path = self._path(digest)
        begun = path.with_suffix(".part")
        with self._lock:
            if (here := self.held(digest)) == -1:
                return -1
            if offset != here or offset + len(piece) > size_bytes or size_bytes < 1:
                message = f"a piece of {len(piece)} B at {offset} of {size_bytes} does not follow on the {here} B that are here"
                raise DeployError(message)
            self._make_room(size_bytes - here, digest)
            try:
                with begun.open("ab") as file:
                    file.write(piece)
            except OSError as error:
                raise _no_room(error, begun) from None
            if offset + len(piece) < size_bytes:
                return offset + len(piece)
            if sha256(begun) != digest:
                begun.unlink()
                message = f"what came as {digest[:12]}... has another hash; it begins anew"
                raise DeployError(message)
            begun.replace(path)
            return -1

    def add(self, file: Path) -> str:
        """Take a file of this machine; return its hash."""
        digest = sha256(file)
        path = self._path(digest)
        with self._lock:
            if not path.is_file():
                self._make_room(file.stat().st_size, digest)
                begun = path.with_suffix(".part")
                try:
                    shutil.copyfile(file, begun)
                except OSError as error:
                    begun.unlink(missing_ok=True)
                    raise _no_room(error, begun) from None
                begun.replace(path)
        return digest

    def lay_out(self, files: Mapping[str, str], folder: Path) -> Path:
        """Put files, by their names there, into a folder as links to those here; whatever else is in it goes.

        Raises
        ------
        DeployError
            A file is not here, or a name would lead out of the folder.
        """
        for name, digest in files.items():
            if not all(NAME.fullmatch(piece) for piece in name.split("/")):
                message = f"{name!r} is no name of a file in a folder"
                raise DeployError(message)
            there, here = folder / name, self.path(digest)
            there.parent.mkdir(parents=True, exist_ok=True)
            if not (there.is_file() and there.samefile(here)):
                there.unlink(missing_ok=True)
                try:
                    os.link(here, there)
                except OSError:  # a file system without hard links
                    shutil.copyfile(here, there)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                with suppress(OSError):  # not empty
                    path.rmdir()
            elif path.relative_to(folder).as_posix() not in files:
                path.unlink()
        return folder

    def keep(self, owner: str, digests: Iterable[str]) -> None:
        """Let an owner keep these files, and no others of before."""
        with self._lock:
            kept = {name: files for name, files in self._owners().items() if name != owner}
            if files := sorted(set(digests)):
                kept[owner] = files
            write_json(self._kept, kept)

    def release(self, deployment: str) -> None:
        """Let go of what is kept for a deployment: by owners named ``deployment/...``."""
        for owner in self._owners():
            if owner.startswith(f"{deployment}/"):
                self.keep(owner, ())

    @property
    def used_bytes(self) -> int:
        """What all files hold [B]."""
        return sum(path.stat().st_size for path in self._files())

    def _owners(self) -> dict[str, list[str]]:
        return json.loads(self._kept.read_text(encoding="utf-8")) if self._kept.is_file() else {}

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if DIGEST.fullmatch(path.stem) and path.suffix in ("", ".part")]

    def _make_room(self, size_bytes: int, digest: str) -> None:
        """Remove what nobody keeps, the longest unused first, until a file fits."""
        kept = {one for files in self._owners().values() for one in files} | {digest}
        spare = sorted((p for p in self._files() if p.stem not in kept), key=lambda p: p.stat().st_mtime)
        while (missing := self._missing(size_bytes)) and spare:
            spare.pop(0).unlink(missing_ok=True)
        if missing:
            message = f"{show(size_bytes, 'B')} do not fit: {missing}"
            raise NoRoomError(message)

    def _missing(self, size_bytes: int) -> str:
        """Return why a file does not fit, or an empty text."""
        if (used := self.used_bytes) + size_bytes > self.most_bytes:
            most = show(self.most_bytes, "B")
            return f"{show(used, 'B')} of the {most} that files may hold here are in use; give more with --disk"
        free = shutil.disk_usage(self.folder).free
        if size_bytes + RESERVE_BYTES > free:
            return f"the disk of {self.folder} has {show(free, 'B')} left"
        return ""

    def _path(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            message = f"{digest!r} is no SHA-256 in hex"
            raise DeployError(message)
        return self.folder / digest


def _no_room(error: OSError, path: Path) -> DeployError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoomError(f"the disk of {path.parent} is full")
    return DeployError(f"{path} cannot be written: {error.strerror}")
