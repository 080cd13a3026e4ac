"""What stored plans are worth at any bandwidth of some links, and which of them is the best one for a noise limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.tolerance import within

MARGIN = 1.1  # by how much the bandwidths may be wrong before another plan is taken


@dataclass(frozen=True)
class FollowedLink:
    """A link, from one server to another, whose bandwidth decides between plans."""

    source: str
    target: str
    bandwidth_bytes_per_s: float  # what is believed before anything is measured [B/s]
    latency_s: float  # one-way [s]
    serialise_s_per_byte: float  # packing and unpacking [s/B]

    def __post_init__(self) -> None:
        if not (self.bandwidth_bytes_per_s > 0 and self.latency_s >= 0 and self.serialise_s_per_byte >= 0):
            message = f"{self}: the bandwidth of a link must be above 0, its times 0 or more"
            raise DeployError(message)

    @property
    def ends(self) -> tuple[str, str]:
        """(source, target)."""
        return self.source, self.target


@dataclass(frozen=True)
class Prices:
    """The objective of several plans, each affine in 1 / bandwidth: ``fixed + sum over links of per_bandwidth / bandwidth``.

    Compute times and latencies do not depend on a bandwidth, and a tensor of b bytes takes b / bandwidth more (the slides'
    g(t, n)). So the least of these is exactly the best of these plans at those bandwidths.
    """

    links: tuple[tuple[str, str], ...]  # (source, target) of those whose bandwidth is followed
    noise: tuple[float, ...]  # of each plan
    fixed: tuple[float, ...]  # of each plan, with unlimited bandwidth; [s] for a latency
    per_bandwidth: tuple[tuple[float, ...], ...]  # of each plan and link; [B] for a latency

    def __post_init__(self) -> None:
        rows = (self.noise, self.fixed, self.per_bandwidth)
        if not self.noise or len({len(row) for row in rows}) != 1 or any(len(p) != len(self.links) for p in self.per_bandwidth):
            message = "prices need one noise, one fixed part and one value per link for every plan"
            raise DeployError(message)
        if not (np.isfinite(self._fixed).all() and np.isfinite(self._slope).all() and all(n >= 0 for n in self.noise)):
            message = "prices must be finite, and noises 0 or more"
            raise DeployError(message)

    @cached_property
    def _fixed(self) -> np.ndarray:
        return np.array(self.fixed, float)

    @cached_property
    def _slope(self) -> np.ndarray:
        return np.array(self.per_bandwidth, float).reshape(len(self.fixed), len(self.links))

    def at(self, bandwidths: Sequence[float]) -> np.ndarray:
        """Return the objective of every plan, float (plans,), at one bandwidth per link [B/s]."""
        return self._fixed + self._slope @ (1 / np.asarray(bandwidths, float))

    def allowed(self, max_noise: float = math.inf) -> tuple[int, ...]:
        """Return the plans that keep a noise limit; there must be one."""
        if not max_noise >= 0:
            message = f"max_noise is {max_noise!r}; give a number, 0 or more"
            raise DeployError(message)
        found = tuple(i for i, noise in enumerate(self.noise) if within(noise, max_noise))
        if not found:
            message = f"no stored plan keeps max_noise {max_noise:g}; the least noise of one is {min(self.noise):g}"
            raise DeployError(message)
        return found

    def best(self, bandwidths: Sequence[float], max_noise: float = math.inf, current: int | None = None) -> int:
        """Return the best plan that keeps a noise limit, at one bandwidth per link [B/s].

        The current plan stays unless the best one is better at every bandwidth within a factor of 1.1 of those given, so that
        measurements that waver do not make the plan waver.
        """
        plans = self.allowed(max_noise)
        value = self.at(bandwidths)
        best = min(plans, key=lambda i: value[i])
        if current not in plans or current == best:
            return best
        # what the current plan sends more counts for the fastest link that is likely, what it sends less for the slowest
        more = (self._slope[current] - self._slope[best]) / np.asarray(bandwidths, float)
        gain = self._fixed[current] - self._fixed[best] + np.where(more > 0, more / MARGIN, more * MARGIN).sum()
        return best if gain > 0 else current
