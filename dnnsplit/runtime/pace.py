"""The pace of this machine: a small computation, run again and again, tells how fast its processors are at the moment.

Processors that are shared with others are faster and slower by several per cent from one minute to the next, and CPU time with
them. So what is timed at one moment is compared with what is timed at another only by way of this computation.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Collection
from functools import cache
from pathlib import Path

import numpy as np

from dnnsplit.runtime.sessions import session

# Convolutions, as networks have, on tensors of 1.6 MB: on larger ones a session is up to 15 % slower than the next, for good, by
# where its memory happens to lie.
REFERENCE = Path(__file__).with_name("reference.onnx")
SHAPE = (1, 16, 80, 80)
# Runs that tell what counts as the pace 1, and the last ones, of which the mean is the pace: what is timed meets slow moments in
# the share in which they come, and so does a mean; a median has none of them, or all. A run that was held up for many times its
# length counts as twice it: a processor that was away for a moment is not as slow as that.
FIRST, KEPT, HELD_UP = 100, 24, 2.0
SHARE = 0.02  # of the time between two looks that the runs of a look may take, so that what took long is seen with more of them
LEAST, COLD = 4, 6  # runs of a look, and those before that do not count: whatever ran last has left its own data in the caches


class Pace:
    """How many CPU seconds this machine takes at the moment for what took it one when its pace was 1.

    Parameters
    ----------
    reference_s : float | None, optional
        CPU seconds of the computation at the pace that counts as 1 [s]; None: that of now.
    """

    def __init__(self, reference_s: float | None = None) -> None:
        self._session, self._feed = session(REFERENCE), {"x": np.ones(SHAPE, np.float32)}
        self._last: deque[float] = deque(maxlen=KEPT)
        for _ in range(COLD):
            self._session.run(None, self._feed)
        first = [self._run() for _ in range(FIRST)]
        self.reference_s = reference_s or _mean(first)

    def now(self, most_s: float = math.inf) -> float:
        """Look at the pace of the last seconds, and return it.

        Parameters
        ----------
        most_s : float, optional
            That the look may take [s]; where that is too little, the pace is the last one that was seen.
        """
        missed = SHARE * (time.monotonic() - self._seen_s)
        runs = int(min(missed, most_s - COLD * self.reference_s, KEPT * self.reference_s) / self.reference_s)
        if runs >= LEAST:
            for _ in range(COLD):
                self._session.run(None, self._feed)
            for _ in range(runs):
                self._run()
        return _mean(self._last) / self.reference_s

    def _run(self) -> float:
        started = time.thread_time()
        self._session.run(None, self._feed)
        self._last.append(time.thread_time() - started)
        self._seen_s = time.monotonic()
        return self._last[-1]


def _mean(runs_s: Collection[float]) -> float:
    """Return the mean of runs, of which none counts for more than twice their median."""
    most_s = HELD_UP * statistics.median(runs_s)
    return statistics.fmean(min(run_s, most_s) for run_s in runs_s)


@cache
def own_pace() -> Pace:
    """Return the pace of this process, which is 1 when it is first asked for."""
    return Pace()
