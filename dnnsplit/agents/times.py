"""What a model takes on the hosts of a deployment: as it was profiled there, at the speed and the quota that they have now."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dnnsplit.agents.hosts import Hosts
from dnnsplit.profiling.elsewhere import joined, scaled_times
from dnnsplit.profiling.times import LayerTimes

SAME = 1.02  # a host whose speed has changed by less is as fast as before


class HostTimes:
    """The times of one model on the hosts of a deployment.

    Parameters
    ----------
    hosts : Hosts
        That tell how fast they are.
    """

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._raw: dict[str, tuple[LayerTimes, float | None]] = {}  # as they were measured, and at which pace
        self._now: dict[str, tuple[float, LayerTimes]] = {}  # as requests see them: this many times as long
        self._lock = threading.RLock()

    def learn(self, name: str, profile: Callable[[str], tuple[LayerTimes, bool]]) -> bool:
        """Take the profile of a host, measured once for all agents on one machine; return whether it was known."""
        with self._lock:
            same = [(other, *found) for other, found in self._raw.items() if other != name and self.hosts.are_alike(name, other)]
        if same:
            other, times, reference_s = same[0]
            found, known = scaled_times(times, other, name, 1.0, note=f"on the same machine as {other}"), True
        else:
            found, known = profile(name)
            reference_s = found.reference_s
        with self._lock:
            self._raw[name] = found, reference_s
        return known

    def take(self, name: str) -> None:
        """Let plans use a host, whose profile is there."""
        with self._lock:
            self.of(name)

    def drop(self, name: str) -> None:
        """Let no plan use a host any more."""
        with self._lock:
            self._now.pop(name, None)

    def __contains__(self, name: str) -> bool:
        """Whether plans may use a host."""
        return name in self._now

    def of(self, name: str) -> LayerTimes:
        """Return the times of a host as requests see them now."""
        with self._lock:
            if name in self.hosts.members:
                raw, reference_s = self._raw[name]
                factor, why = self.hosts.factor(name, reference_s)
                if name not in self._now or not 1 / SAME < factor / self._now[name][0] < SAME:
                    self._now[name] = factor, raw if factor == 1.0 else scaled_times(raw, name, name, factor, note=why)
            return self._now[name][1]

    def every(self) -> LayerTimes:
        """Return the times of all hosts, as requests see them now."""
        with self._lock:
            return joined(*(self.of(name) for name in list(self._now)))

    @property
    def speeds(self) -> dict[str, float]:
        """Seconds of a request per CPU second of the profile of each host, as it was looked at last."""
        with self._lock:
            return {name: factor for name, (factor, _) in self._now.items()}

    def reference_s(self, name: str) -> float | None:
        """Return the pace at which a host was profiled [s]; None where it is not known."""
        return self._raw.get(name, (None, None))[1]
