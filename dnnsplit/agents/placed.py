"""The plans that hosts have loaded for a deployment, and the one in use: what is wanted of every stage, told until it is so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from dnnsplit.agents.hosts import Hosts, LostError
from dnnsplit.agents.planning import Cut
from dnnsplit.agents.stages import Wanted
from dnnsplit.agents.steps import Request
from dnnsplit.agents.wire import UnreachableError
from dnnsplit.deployment.hosts import host_port
from dnnsplit.ground.errors import DeployError

KEPT = 4  # plans whose parts stay loaded
TICK_S = 0.25
START_S = 60.0  # that stages may take to start, beside
SLOWEST_BYTES_PER_S = 2e6  # what they load
MOVED_S = 6.0  # in which it is known whether a host was lost


class Placed:
    """The stages of a deployment on its hosts.

    Parameters
    ----------
    name : str
        Of the deployment.
    hosts : Hosts
        Where they are.
    ports : Mapping[str, int]
        Where stages of before listened: they keep their ports.
    """

    def __init__(self, name: str, hosts: Hosts, ports: Mapping[str, int]) -> None:
        self.name, self.hosts, self.ports = name, hosts, dict(ports)
        self.request: Request | None = None
        self.reference_s: Callable[[str], float | None] = lambda name: None  # the pace of the profile of a host [s]
        self.limit_bytes = 0
        self.cuts: dict[str, Cut] = {}  # by the names of their bundles, the first to go first
        self.current = ""
        self.lock = threading.RLock()
        self._began: dict[str, tuple[str, int]] = {}  # host -> agent and stage by which a plan was started
        self._sent: dict[str, tuple[Wanted, str]] = {}  # host -> what it was told, and the instance that was

    def begin(self, request: Request, limit_bytes: int) -> None:
        """Take what the stages are to be like: messages up to `limit_bytes` [B]."""
        self.request, self.limit_bytes = request, limit_bytes

    @property
    def plan(self) -> Cut:
        """The one in use, or on its way to be."""
        with self.lock:
            return self.cuts[self.current]

    def bring(self, cut: Cut) -> dict[str, str]:
        """Bring the parts of a plan to the hosts that run them, and let them load it; return what is wrong with which host."""
        files = {digest: cut.bundle.folder / file for file, digest in cut.files.items()}
        with self.lock:
            kept = [digest for other in self.cuts.values() for digest in other.files.values()]
        wrong = {}
        for name in cut.bundle.stages:
            try:
                self.hosts.push(name, files, f"{self.name}/plans", kept)
            except DeployError as error:
                wrong[name] = str(error)
        if not wrong:
            with self.lock:
                self.cuts[cut.name] = self.cuts.pop(cut.name, cut)
        return wrong

    def use(self, cut: Cut) -> None:
        """Let requests start by a plan once all its stages are ready."""
        with self.lock:
            self.current = cut.name
        self.reconcile()

    def drop(self, kept: int = KEPT) -> None:
        """Drop the oldest plans, but the one in use, until so many are left."""
        with self.lock:
            spare = [name for name in self.cuts if name != self.current]
            for name in spare[: max(len(self.cuts) - kept, 0)]:
                del self.cuts[name]
        self.reconcile()

    def reconcile(self) -> None:
        """Tell every host what is wanted of its stage, where that is not what it was told."""
        with self.lock:
            cuts, members = dict(self.cuts), self.hosts.members
        for name in self.hosts.alive:
            if not any(name in cut.bundle.stages for cut in cuts.values()) and name not in self._sent:
                continue
            told = self._wanted(name, cuts), members[name]["instance"]
            if self._sent.get(name) == told:
                continue
            try:
                self.hosts.remote(name).ask("stage", deployment=self.name, wanted=asdict(told[0]))
                self._sent[name] = told
            except UnreachableError:
                self._sent.pop(name, None)  # it is told again when it is back

    def stage_of(self, name: str) -> dict[str, Any]:
        """Return what a host tells of its stage; nothing if that does not run."""
        stage: dict[str, Any] = self.hosts.members.get(name, {}).get("state", {}).get("stages", {}).get(self.name, {})
        return stage if stage.get("running") else {}

    def is_ready(self, name: str) -> bool:
        """Whether all stages of a plan have loaded it, and call each other where they are now."""
        with self.lock:
            cut = self.cuts.get(name)
        if cut is None or not set(cut.bundle.stages) <= set(self.hosts.alive):
            return False
        stages = {server: self.stage_of(server) for server in cut.bundle.stages}
        at = {server: stage.get("address") for server, stage in stages.items()}
        return all(
            stage.get("ready", {}).get(name) == {other: address for other, address in at.items() if other != server}
            for server, stage in stages.items()
        )

    def is_used(self, name: str) -> bool:
        """Whether requests start by a plan, and all its stages are ready."""
        return self.stage_of(self.hosts.source).get("used") == name and self.is_ready(name)

    def wait(self, cut: Cut) -> None:
        """Wait until requests start by a plan.

        Raises
        ------
        LostError
            A host is lost.
        DeployError
            One cannot run its part, or takes too long.
        """
        size_bytes = sum((cut.bundle.folder / file).stat().st_size for file in cut.files)
        end = time.monotonic() + START_S + size_bytes / SLOWEST_BYTES_PER_S
        while not self.is_used(cut.name):
            self.hosts.look(TICK_S)
            self.reconcile()
            if failed := self.failures(cut.name):
                raise DeployError("; ".join(f"{name!r} cannot run its part: {why}" for name, why in failed.items()))
            if gone := sorted(set(cut.bundle.stages) - set(self.hosts.alive)):
                message = f"{', '.join(gone)} cannot be reached any more"
                raise LostError(message)
            if time.monotonic() > end:
                message = f"the stages on {', '.join(cut.bundle.stages)} are not ready: they take too long to load their parts"
                raise DeployError(message)
        self._began = self._processes(cut)

    def has_moved(self, cut: Cut) -> bool:
        """Whether a host of a plan was lost since `wait`, or has another process now: it may go well the next time."""
        end = time.monotonic() + MOVED_S
        while time.monotonic() < end:
            with suppress(UnreachableError):
                self.hosts.look(TICK_S)
            if self._processes(cut) != self._began or not self.is_used(cut.name):
                return True
        return False

    def _processes(self, cut: Cut) -> dict[str, tuple[str, int]]:
        """Return the agent and the stage of each host that runs a part."""
        alive = [name for name in cut.bundle.stages if name in self.hosts.alive]
        return {name: (self.hosts.member(name)["instance"], self.stage_of(name).get("pid", 0)) for name in alive}

    def failures(self, name: str) -> dict[str, str]:
        """Return why hosts could not load a plan."""
        return {s: why for s in self.hosts.members if (why := self.stage_of(s).get("failed", {}).get(name))}

    @property
    def address(self) -> str:
        """Where clients call; empty until there is one."""
        return str(self.stage_of(self.hosts.source).get("address", ""))

    def _wanted(self, name: str, cuts: Mapping[str, Cut]) -> Wanted:
        assert self.request is not None
        is_source, before = name == self.hosts.source, self._sent.get(name)
        use = before[0].use if before else ""
        if is_source and self.is_ready(self.current):
            use = self.current
        bundles = {cut.name: dict(cut.files) for cut in cuts.values() if name in cut.bundle.stages}
        if address := self.stage_of(name).get("address"):
            self.ports[name] = host_port(address)[1]
        peers = {other: stage["address"] for other in self.hosts.members if other != name and (stage := self.stage_of(other))}
        return Wanted(
            self.name, is_source, self.ports.get(name, 0), self.limit_bytes, bundles, use if use in bundles else "",
            {other: there for other, there in peers.items() if there}, self._links(name, before[0] if before else None),
            self.request.deadline_s, self.request.in_flight, self.request.provider, self.reference_s(name),
        )  # fmt: skip

    def _links(self, name: str, before: Wanted | None) -> tuple[tuple[str, str, float, float, float], ...]:
        """Return the links that the source tells the bandwidths of; where its gauges began is of no account."""
        if name != self.hosts.source:
            return ()
        network = self.hosts.network(self.hosts.alive)
        links = tuple(
            (*link.ends, link.bandwidth_bytes_per_s, link.latency_s, link.serialise_s_per_byte) for link in network.links
        )
        same = before is not None and {link[:2] for link in before.links} == {link[:2] for link in links}
        return before.links if before is not None and same else links
