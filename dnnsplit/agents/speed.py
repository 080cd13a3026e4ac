"""How fast a host computes at the moment: processors that are shared, or hot, take longer one minute than the next."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque

from dnnsplit.runtime.pace import Pace

EVERY_S = 5.0  # between two looks
MOST = 0.02  # of what the host may compute goes into looks: a weak one looks less often
KEPT = 12  # looks that count


class Speed:
    """The pace of this machine over the last minute; see `dnnsplit.runtime.pace`.

    Parameters
    ----------
    cpus : float
        That this host may use [CPU].
    """

    def __init__(self, cpus: float) -> None:
        self.cpus = cpus
        self._looks: deque[float] = deque(maxlen=KEPT)
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._watch, name="speed", daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()

    @property
    def reference_s(self) -> float:
        """CPU seconds of the computation that tells the pace [s]; NaN before the first look."""
        return statistics.fmean(looks) if (looks := list(self._looks)) else math.nan

    def _watch(self) -> None:
        pace = Pace()
        self._looks.append(pace.reference_s)
        pause = EVERY_S
        while not self._stop.wait(pause):
            began = time.thread_time()
            self._looks.append(pace.reference_s * pace.now())
            pause = max(EVERY_S, (time.thread_time() - began) / (MOST * min(self.cpus, 1.0)))
