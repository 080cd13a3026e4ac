"""The links that leave an agent: measured when somebody asks, and watched with small messages in between."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnsplit.deployment.probing import message_timer, probe
from dnnsplit.deployment.stage.emulation import HEADROOM
from dnnsplit.deployment.wire.channels import Tls
from dnnsplit.ground.errors import DeployError, NetworkError
from dnnsplit.network.servers import Network

EVERY_S = 2.0  # between two looks at a link
MOST = 0.02  # of what the host may compute goes into looks: a weak one looks less often
LOOK_S = 0.1  # that a message of a look should take
LOOK_BYTES = (2**14, 2**17)
MOST_BYTES = 2**23  # of a message of a probe
REPEATS = 5
OFF = 1.25  # a look that is off by more than this factor takes the place of what was measured
USED_OFF = 1.05  # and what requests tell, of whose transfers many are averaged
LIMIT_S = 10.0


@dataclass(frozen=True)
class Measured:
    """A link as it was measured, or as a file says where it is emulated."""

    bandwidth_bytes_per_s: float
    latency_s: float
    serialise_s_per_byte: float
    note: str
    at: float  # seconds since the epoch [s]


class Emulated:
    """A network YAML that says what this server and its links are to be like; it is read again whenever it changes.

    Where no link leaves the server in that file, its links are what they are.

    Parameters
    ----------
    path : str | Path
        The file.
    name : str
        Of this server in it.

    Raises
    ------
    NetworkError
        It cannot be read, or has no such server.
    """

    def __init__(self, path: str | Path, name: str) -> None:
        self.path, self.name, self._seen = Path(path), name, 0.0
        self.problem = self._failed = ""  # why the file, as it is now, is not followed
        self.network = Network.load(path)
        self.network.server(name)
        self.changed()

    @property
    def slowdown(self) -> float | None:
        """How much slower this server is than the machine it is on; None where it is the machine."""
        speed = self.network.server(self.name).speed_cpu
        return None if speed is None or speed > 1 / HEADROOM else 1 / speed

    @property
    def told(self) -> str:
        """What is emulated, in words."""
        speed = self.network.server(self.name).speed_cpu or 1.0
        as_it_is = (
            "" if self.slowdown or speed == 1 else f"; as fast as this machine, as {speed:g} times its speed cannot be emulated"
        )
        return f"{self.path}{as_it_is}{'' if self.has_links else '; with its own links'}"

    @property
    def has_links(self) -> bool:
        """Whether the links are emulated."""
        return any(link.source == self.name for link in self.network.links)

    @property
    def powers(self) -> dict[str, float]:
        """What the file says this server draws [W]; nothing where it says nothing."""
        server = self.network.server(self.name)
        told = {"compute_w": server.compute_w, "transmit_w": server.transmit_w, "transmit_self_w": server.transmit_self_w}
        return told if any(told.values()) else {}

    def links(self) -> dict[str, Measured]:
        """Return the links that leave this server."""
        return {
            link.target: Measured(
                link.bandwidth_bytes_per_s, link.latency_s, 0.0, f"emulated, from {self.path.name}", time.time()
            )
            for link in self.network.links
            if link.source == self.name
        }

    def changed(self) -> bool:
        """Whether the file is another than last time; where it cannot be used, `problem` says why, and all stays as it was."""
        try:
            when = self.path.stat().st_mtime_ns
            if when == self._seen:
                return False
            network = Network.load(self.path)
            network.server(self.name)
        except (OSError, NetworkError) as error:
            why = f"{self.path} is not followed: {error}"
            self.problem, self._failed = (why if why == self._failed else ""), why  # the first time it may be half written
            return False
        self.network, self._seen, self.problem, self._failed = network, when, "", ""
        return True


class Monitor:
    """Follows the links from here to the other agents.

    Parameters
    ----------
    name : str
        Of this agent.
    tls : Tls | None
        Files that secure the connections.
    emulated : Emulated | None
        What the links are to be like instead.
    told : Callable[[], None]
        Called when a link has changed.
    cpus : float
        That this host may use [CPU].
    """

    def __init__(
        self, name: str, tls: Tls | None, emulated: Emulated | None, told: Callable[[], None], cpus: float
    ) -> None:  # fmt: skip
        self.cpus = cpus
        self.name, self.tls, self.emulated, self._told = name, tls, emulated, told
        self.links: dict[str, Measured] = emulated.links() if emulated else {}
        self._peers: dict[str, str] = {}
        self._used: dict[str, float] = {}  # target -> when requests last told of the link
        self._turn, self._stop = threading.Lock(), threading.Event()

    def start(self) -> None:
        """Begin to follow the links."""
        threading.Thread(target=self._watch, name="monitor", daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()

    def know(self, peers: Mapping[str, str]) -> None:
        """Take the agents that are there: name -> ``host:port``."""
        self._peers = {name: address for name, address in peers.items() if name != self.name}

    def measure(self, target: str, address: str) -> Measured:
        """Measure a link with messages of growing size.

        Raises
        ------
        DeployError
            Nobody answers there, or the file of an emulated network has no such link.
        """
        if self.emulated and self.emulated.has_links:
            if target not in self.links:
                message = f"{self.emulated.path.name} has no link {self.name!r} -> {target!r}"
                raise DeployError(message)
            return self.links[target]
        with self._turn:
            found = probe(address, REPEATS, MOST_BYTES, LIMIT_S, self.tls, target)
            link = found.link(self.name, target)
            per_byte, note = link.serialise_s_per_byte, "measured by messages of its own"
            self.links[target] = Measured(link.bandwidth_bytes_per_s, link.latency_s, per_byte, note, time.time())
        self._told()
        return self.links[target]

    def take(self, target: str, bandwidth_bytes_per_s: float) -> None:
        """Take what requests tell of a link [B/s]: while they do, no messages of our own are needed."""
        self._used[target] = time.monotonic()
        if (
            (known := self.links.get(target))
            and not (self.emulated and self.emulated.has_links)
            and _is_off(bandwidth_bytes_per_s, known.bandwidth_bytes_per_s, USED_OFF)
        ):
            self._becomes(target, known, bandwidth_bytes_per_s, "measured by the requests that cross it")

    def _becomes(self, target: str, known: Measured, bandwidth_bytes_per_s: float, note: str) -> None:
        self.links[target] = Measured(bandwidth_bytes_per_s, known.latency_s, known.serialise_s_per_byte, note, time.time())
        self._told()

    def _watch(self) -> None:
        due = 0.0
        while not self._stop.wait(EVERY_S if self.emulated is None else EVERY_S / 8):
            if self.emulated:
                self._follow(self.emulated)
                if self.emulated.has_links:
                    continue
            if time.monotonic() < due:
                continue
            began = time.process_time()
            for target, address in dict(self._peers).items():
                if time.monotonic() - self._used.get(target, 0.0) < 2 * EVERY_S:
                    continue
                try:
                    self._look(target, address)
                except DeployError:  # whoever does not answer is for the registry to call lost
                    continue
            due = time.monotonic() + max(EVERY_S, (time.process_time() - began) / (MOST * self.cpus))

    def _follow(self, emulated: Emulated) -> None:
        before = emulated.problem
        if emulated.changed():
            if emulated.has_links:
                self.links = emulated.links()
            self._told()
        elif emulated.problem not in ("", before):
            print(emulated.problem, file=sys.stderr, flush=True)
            self._told()

    def _look(self, target: str, address: str) -> None:
        """Look whether a link is still what it was; measure one that is not known."""
        if (known := self.links.get(target)) is None:
            self.measure(target, address)
            return
        for _ in range(2):  # whoever was busy for a moment has another chance
            bandwidth = self._seen(target, address, known)
            if bandwidth is None or not _is_off(bandwidth, known.bandwidth_bytes_per_s):
                return
        if bandwidth is not None and bandwidth < known.bandwidth_bytes_per_s:
            self._becomes(target, known, bandwidth, "measured by small messages")
        else:
            self.measure(target, address)  # larger messages tell how much faster it is

    def _seen(self, target: str, address: str, known: Measured) -> float | None:
        """Return the bandwidth by a few small messages [B/s]; None where so fast a link cannot be told from a faster one."""
        size = round(min(max(LOOK_S * known.bandwidth_bytes_per_s, LOOK_BYTES[0]), LOOK_BYTES[1]))
        with self._turn, message_timer(address, LIMIT_S, self.tls, target) as timed:
            seconds = [timed(number) for number in (1, 1, 1, size, size, size)]
        empty_s, took_s = min(seconds[1:3]), min(seconds[3:])
        if max(took_s, size / known.bandwidth_bytes_per_s) < LOOK_S / 4:
            return None
        return 1 / max((took_s - empty_s) / size - known.serialise_s_per_byte, 1e-12)

    def state(self) -> dict[str, Any]:
        """Return the links, as JSON has them."""
        return {target: vars(link) for target, link in dict(self.links).items()}


def _is_off(one: float, other: float, factor: float = OFF) -> bool:
    return not 1 / factor < one / other < factor
