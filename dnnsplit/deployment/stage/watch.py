"""The watch of a test-bed, which its stages share: it stands still while a server computes that is faster than this machine.

What such a server does in 2 ms may take 70 ms here. The watch stands for as long as that really takes, and the 2 ms are waited
afterwards. Whatever the other servers do meanwhile still lasts as long as they are to take.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FIELDS = struct.Struct("=ddq")  # seconds that it has stood, since when it stands, and for how many
LEAST_S = 2e-3  # between two looks at a watch that stands


class Watch:
    """The time of `time.monotonic`, without that in which it stood [s].

    Parameters
    ----------
    file : str | Path, default ""
        That `new_watch` made, the same for all who share it; without one it never stands.
    """

    def __init__(self, file: str | Path = "") -> None:
        self._lock, self._file = threading.Lock(), -1
        if file:
            self._file = os.open(file, os.O_RDWR)
            self._fields = mmap.mmap(self._file, FIELDS.size)

    def now(self) -> float:
        """Seconds on the watch [s]."""
        if self._file < 0:
            return time.monotonic()
        with self._alone():
            stood_s, since, count = FIELDS.unpack_from(self._fields)
            return float((since if count else time.monotonic()) - stood_s)

    def wait(self, event: threading.Event, until: float) -> None:
        """Wait until the watch shows `until` [s] and goes, or the event is set.

        What is sent while it stands would take no time.
        """
        while (left_s := self._left_s(until)) > 0 and not event.wait(left_s):
            pass

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Let it stand meanwhile; several may."""
        if self._file < 0:
            yield
            return
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._file >= 0:
                self._fields.close()
                os.close(self._file)
                self._file = -1

    def _left_s(self, until: float) -> float:
        if self._file < 0:
            return until - time.monotonic()
        with self._alone():
            stood_s, since, count = FIELDS.unpack_from(self._fields)
            return float(max(until - since + stood_s, LEAST_S) if count else until - time.monotonic() + stood_s)

    def _count(self, step: int) -> None:
        with self._alone():
            stood_s, since, count = FIELDS.unpack_from(self._fields)
            if step > 0 and not count:
                since = time.monotonic()
            elif step < 0 and count == 1:
                stood_s += time.monotonic() - since
            FIELDS.pack_into(self._fields, 0, stood_s, since, count + step)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out the threads of this process, then other processes."""
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def new_watch(path: Path) -> str:
    """Make the file of a watch that has never stood; return its path."""
    path.write_bytes(bytes(FIELDS.size))
    return str(path)
