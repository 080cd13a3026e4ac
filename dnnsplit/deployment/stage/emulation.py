"""What is emulated on one machine: servers of another speed, and links of another bandwidth and latency.

Nothing here makes a transfer or a computation faster than it is. Whoever runs a stage on real hosts leaves the slowdown
and the links out, and then nothing is slept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# A part must last longer than it really takes, or there is nothing left to sleep; a quarter more absorbs most disturbances.
HEADROOM = 1.25


@dataclass(frozen=True)
class Emulation:
    """The pace of one emulated server and of the emulated links that leave it.

    Parameters
    ----------
    slowdown : float | None, optional
        Emulated seconds per CPU second of this machine; None for a real host, where nothing is dilated.
    time_dilation : float, default 1.0
        Wall seconds per emulated second, 1 or more; what is reported is divided by it.
    links : Mapping[str, tuple[float, float]], optional
        Target server -> (latency_s [s], seconds_per_byte [s/B]); a target that is not named is not paced.
    shaped : bool, default False
        Whether the kernel paces the links, so that the sender waits for their latency alone.
    reference_s : float | None, optional
        With a slowdown: that of the pace at which this machine's CPU seconds count as they are (`dnnsplit.runtime.pace`), such as
        the one it was profiled at; None: at any.
    huge_pages : bool | None, optional
        Whether the stage is started in huge pages (`dnnsplit.ground.huge_pages`), as the process that `slowdown` holds for was;
        None: as the process that starts it.
    watch : str, default ""
        File of the watch that the stages share (`dnnsplit.deployment.stage.watch`), which stands while a server computes that is
        too fast for the time dilation; without it a part of such a server overruns.
    """

    slowdown: float | None = None
    time_dilation: float = 1.0
    links: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shaped: bool = False
    reference_s: float | None = None
    huge_pages: bool | None = None
    watch: str = ""

    @property
    def stands(self) -> bool:
        """Whether the watch stands while this server computes."""
        return self.slowdown is not None and is_too_fast(self.slowdown, self.time_dilation)

    def transfer_s(self, target: str, size_bytes: int) -> float:
        """Emulated seconds to move `size_bytes` [B] to `target`; 0 where no link is emulated."""
        latency_s, seconds_per_byte = self.links.get(target, (0.0, 0.0))
        return latency_s + size_bytes * seconds_per_byte

    def hold_s(self, target: str, size_bytes: int, real_s: float) -> float:
        """Wall seconds that a sender waits before a send that takes `real_s` [s] by itself; below 0: no longer than that."""
        if self.shaped:
            return self.time_dilation * self.links.get(target, (0.0, 0.0))[0]
        return self.time_dilation * self.transfer_s(target, size_bytes) - real_s

    def compute_s(self, cpu_s: float) -> float:
        """Emulated seconds of a part that took `cpu_s` [s] of CPU time on this machine."""
        return cpu_s if self.slowdown is None else cpu_s * self.slowdown

    def rest_s(self, cpu_s: float, wall_s: float) -> float:
        """Wall seconds that a part must still last; negative when it lasted too long already (an overrun)."""
        return 0.0 if self.slowdown is None else self.compute_s(cpu_s) * self.time_dilation - wall_s


def smallest_dilation(slowdowns: Mapping[str, float]) -> float:
    """Smallest time dilation of 1 or more with slowdown * dilation >= 1.25 on every server.

    >>> smallest_dilation({"device": 4.0, "cloud": 0.5})
    2.5
    """
    return max([1.0, *(HEADROOM / slowdown for slowdown in slowdowns.values())])


def is_too_fast(slowdown: float, time_dilation: float) -> bool:
    """Whether what a server computes may take longer here than it is to last."""
    return slowdown * time_dilation < HEADROOM * (1 - 1e-9)
