"""A command that is told to stop while it works takes away what it began, even where a library keeps the signal from it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from types import FrameType

from dnnsplit.cli.main import tell_stopped

TICK_S = 0.2
CLEARING_S = 5.0
STUCK_S = 10.0  # a library may compute so long before Python hears of a signal
AGAIN_S = 10.0  # until then a second signal is the same wish: it would only keep the first from clearing up


class Stopped(KeyboardInterrupt):
    """A signal has come."""


class Signals:
    """The signals that this process is stopped by; they raise `Stopped` until the command has ended.

    Parameters
    ----------
    numbers : Sequence[int]
        Which.

    Attributes
    ----------
    number : int
        Of the signal that came, or 0.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        self.number, self._numbers, self._late = 0, numbers, 0
        self._again = 0.0  # when a signal is heard anew
        self._heard, self._over = threading.Event(), threading.Event()

    def listen(self) -> None:
        """Hear them from now on."""
        if not self._numbers:
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lost
        for number in self._numbers:
            signal.signal(number, self._stop)

    def passed(self, code: int) -> int:
        """Return the exit code of a command, unless a signal is still to be heard: one that came too early, and not again yet."""
        if self._late and not self.number:
            self._stop(self._late, None)
        return code

    def end(self) -> None:
        """Nothing is to be taken away any more: a signal ends the process at once."""
        self._over.set()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._over.is_set():
            if not self.number:
                tell_stopped(number)
            os._exit(128 + (self.number or number))
        if time.monotonic() < self._again:
            return
        if _is_in(tempfile.__file__, frame):  # a folder that is made or removed: it comes again
            self._late = number
            return
        self.number, self._again = number, time.monotonic() + AGAIN_S
        self._heard.set()
        raise Stopped

    def _lost(self, told: sys.UnraisableHookArgs) -> None:
        """Take no note of a `Stopped` that nobody can catch, as in a destructor: it comes again."""
        if isinstance(told.exc_value, Stopped):
            self._again = 0.0
        else:
            self._unraisable(told)

    def _watch(self, reader: int) -> None:
        """Wait for a signal, and see to it that this process ends: wherever the main thread is, and whoever catches `Stopped`."""
        number = os.read(reader, 1)[0]
        while number not in self._numbers or signal.getsignal(number) != self._stop:  # a server's own, which ends it
            number = os.read(reader, 1)[0]
        main, stuck = threading.main_thread().ident, time.monotonic() + STUCK_S
        assert main is not None  # it has begun
        while not self._heard.wait(TICK_S) and time.monotonic() < stuck:
            signal.pthread_kill(main, number)  # it may have begun to wait just after the first
        if not self._heard.is_set():  # in a library that does not return
            tell_stopped(number)
            clearing = threading.Thread(target=atexit._run_exitfuncs, daemon=True)  # temporary folders
            clearing.start()
            clearing.join(CLEARING_S)
            os._exit(128 + number)
        while not self._over.wait(TICK_S):
            if time.monotonic() > self._again:
                signal.pthread_kill(main, number)
        time.sleep(AGAIN_S)  # the interpreter waits for threads that compute
        os._exit(128 + number)


def _is_in(file: str, frame: FrameType | None) -> bool:
    """Whether a call, or one of those that led to it, is of the code of a file."""
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return frame is not None
