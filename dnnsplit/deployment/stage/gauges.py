"""The bandwidth of a link as it is now, from the transfers that cross it anyway or from messages of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping

from dnnsplit.cutting.prices import FollowedLink
from dnnsplit.deployment.wire.messages import TransferRecord

SMOOTHING = 0.4  # weight of the newest of several measurements
TELLING_BYTES = 2**14  # a smaller transfer tells more of the latency than of the bandwidth
PROBE_S = 0.2  # what a message that only measures should take
PROBE_BYTES = (2**14, 2**18)  # least and greatest size of such a message [B]
LEAST_S_PER_BYTE = 1e-12  # of a link that is too fast to be measured
QUIET_S = 2.0  # a link that requests have not used for so long is asked with such a message


def take_largest(gauges: Mapping[tuple[str, str], Gauge], transfers: Iterable[TransferRecord]) -> None:
    """Take the transfers of an answered request; of those over a link, the largest tells its bandwidth best."""
    largest: dict[tuple[str, str], TransferRecord] = {}
    for t in sorted(transfers, key=lambda t: t.size_bytes):
        largest[t.source, t.target] = t
    for ends, t in largest.items():
        if ends in gauges:
            gauges[ends].take(t.size_bytes, t.seconds)


class Gauge:
    """Follows the bandwidth of one link; safe to use from several threads."""

    def __init__(self, link: FollowedLink) -> None:
        self.link = link
        self._s_per_byte = max(1 / link.bandwidth_bytes_per_s, LEAST_S_PER_BYTE)
        self._seen = self._asked = -math.inf
        self._lock = threading.Lock()

    @property
    def bandwidth(self) -> float:
        """Bandwidth [B/s]."""
        return 1 / self._s_per_byte

    @property
    def age_s(self) -> float:
        """How long ago the last transfer was taken [s]."""
        return time.monotonic() - self._seen

    @property
    def probe_bytes(self) -> int:
        """Size of a message that takes about 0.2 s at the bandwidth of late [B]."""
        least, most = PROBE_BYTES
        return round(min(max(PROBE_S * self.bandwidth, least), most))

    def take(self, size_bytes: int, seconds: float) -> None:
        """Take a transfer: its size [B] and what it took [s], in emulated seconds; a small one is left out."""
        if size_bytes < TELLING_BYTES:
            return
        per_byte = (seconds - self.link.latency_s) / size_bytes - self.link.serialise_s_per_byte
        with self._lock:
            now = time.monotonic()
            # what was measured long ago tells nothing of now; times, not rates, are averaged: a plan is linear in them
            share = SMOOTHING if now - self._seen < QUIET_S else 1.0
            self._s_per_byte = share * max(per_byte, LEAST_S_PER_BYTE) + (1 - share) * self._s_per_byte
            self._seen = now

    def is_due(self) -> bool:
        """Whether it is time for a message that only measures; if so, it counts as sent."""
        with self._lock:
            now = time.monotonic()
            due = now - max(self._seen, self._asked) > QUIET_S
            if due:
                self._asked = now
            return due
