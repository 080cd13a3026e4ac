"""The agent of a host: it registers, keeps files, measures its machine and its links, and runs stages, for whoever deploys."""

from __future__ import annotations

import math
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from dnnsplit.agents import machine
from dnnsplit.agents.deployments import Deployments
from dnnsplit.agents.jobs import Jobs
from dnnsplit.agents.monitor import Emulated, Monitor
from dnnsplit.agents.names import name_problem
from dnnsplit.agents.options import AgentOptions
from dnnsplit.agents.pool import Pool
from dnnsplit.agents.registry import Registry
from dnnsplit.agents.speed import Speed
from dnnsplit.agents.stages import StageChild, Wanted
from dnnsplit.agents.wire import PIECE_BYTES, Handler, Remote, UnreachableError, serve_agent, tls_of
from dnnsplit.deployment.hosts import address_problem, host_port, joined
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.stage.process import follow
from dnnsplit.deployment.wire.channels import Tls
from dnnsplit.ground.errors import DeployError, ProfileError
from dnnsplit.ground.forms import formed

PAUSE_S = 2.0  # before a stage that could not start is started anew
BEAT_S = 0.5  # between two messages to the registry


class Agent:
    """One host.

    Parameters
    ----------
    options : AgentOptions
        How it is started.
    """

    def __init__(self, options: AgentOptions) -> None:
        self.options, self.name = options, options.name
        self.folder = Path(options.folder or Path.home() / ".local" / "share" / "dnnsplit" / options.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._alone = machine.alone(self.folder)
        self.tls: Tls | None = tls_of(options.keys)
        self.instance = secrets.token_hex(8)
        self.facts = machine.facts(self.folder)
        self.emulated = Emulated(options.emulate, self.name) if str(options.emulate) else None
        if options.memory_bytes is not None:
            self.facts["memory_limit"] = options.memory_bytes
        if self.emulated:
            self.facts |= {"emulated": self.emulated.told, "slowdown": self.emulated.slowdown}
        self.own, self.speed = machine.OwnUse(), Speed(self.facts["cpu_quota"])
        self.drawn = None if self.emulated else machine.drawn()
        self._news = threading.Event()
        self._stop = threading.Event()
        self.pool = Pool(self.folder / "pool", options.disk_bytes)
        self.jobs = Jobs(self.folder / "jobs", self.pool, self.facts, self._news.set, options.memory_bytes)
        self.monitor = Monitor(self.name, self.tls, self.emulated, self._news.set, self.facts["cpu_quota"])
        self.stages: dict[str, StageChild] = {}
        self.wanted: dict[str, Wanted] = {}
        self._due: dict[str, float] = {}  # deployment -> when a stage that ended may start again
        self.registry = Registry() if not options.join else None
        self.deployments: Deployments | None = None
        self._lock = threading.RLock()
        self.problem = ""
        answers: dict[str, Handler] = {
            "held": lambda who, given: {digest: self.pool.held(digest) for digest in given["digests"]},
            "keep": lambda who, given: self.pool.keep(given["owner"], given["digests"]),
            "job": lambda who, given: self.jobs.do(given["kind"], given["given"]),
            "probe": lambda who, given: vars(self.monitor.measure(given["target"], given["address"])),
            "stage": self._stage,
        }
        if self.registry is not None:
            answers |= {"beat": self._beat, "leave": self._leave, "members": self._members}
        self._server, port = serve_agent(answers, self.pool.put, self._read, options.host, options.port, self.tls)
        here, given = joined(options.host, port), options.address
        self.address = (joined(given, port) if address_problem(given) else given) if given else here
        if self.registry is not None:
            start = [sys.executable, "-m", "dnnsplit.agents.deployer", here, self.name, str(options.keys)]
            self.deployments = Deployments(self.folder / "deployments", start, self.registry.news)
            answers |= self.deployments.answers()

    def run(self, started: Callable[[str], None]) -> None:
        """Work until `stop`; `started` is told ``host:port``."""
        self.monitor.start()
        if self.facts.get("slowdown") is None:  # else stages keep the pace that the profile was made at
            self.speed.start()
        if self.deployments:
            self.deployments.start()
            threading.Thread(target=self._call_on_silent, name="silent", daemon=True).start()
        started(self.address)
        registry = None if self.registry is not None else Remote(self.options.join, "", self.tls)
        try:
            while not self._stop.is_set():
                self._look_after()
                self._report(registry)
                self._news.wait(BEAT_S)
                self._news.clear()
        finally:
            if registry:
                with suppress(DeployError):
                    registry.ask("leave", 1.0, name=self.name)
                registry.close()
            self.close()

    def _call_on_silent(self) -> None:
        assert self.registry is not None
        while not self._stop.wait(BEAT_S):
            self.registry.call_on_silent()

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()
        self._news.set()

    def close(self) -> None:
        """End everything that it has started."""
        self.monitor.stop()
        self.speed.stop()
        if self.deployments:
            self.deployments.end()
        self.jobs.end()
        for child in self.stages.values():
            child.end()
        self._server.stop(0.2)
        self._alone.close()

    def _look_after(self) -> None:
        """Start stages that have ended anew, and let each take a step towards what is wanted of it."""
        if self.emulated:
            links = self._emulated_links()
        with self._lock:
            for name, child in list(self.stages.items()):
                if not child.is_running and time.monotonic() > self._due.get(name, 0.0):
                    # one that could not even listen may have found its port taken
                    port = host_port(child.address)[1] if child.address else 0
                    pause = 0.0 if child.address else PAUSE_S
                    self._due[name] = time.monotonic() + pause
                    child.end()
                    child = self.stages[name] = self._child(name, self.wanted[name], port)
                child.become(self.wanted[name])
                if self.emulated and child.address and links != child.paced:
                    child.pace(links)

    def _child(self, deployment: str, wanted: Wanted, port: int) -> StageChild:
        slowdown = self.emulated.slowdown if self.emulated else None
        emulation = Emulation(slowdown, links=self._emulated_links(), reference_s=wanted.reference_s)
        config = Config(
            "", self.name, self.options.host, port, emulation=emulation, tls=self.tls, deadline_s=wanted.deadline_s,
            in_flight=wanted.in_flight, provider=wanted.provider,
        )  # fmt: skip
        folder = self.folder / "stages" / deployment
        host = host_port(self.address)[0]
        return StageChild(config, wanted, self.pool, folder, self._news.set, host, self.options.memory_bytes)

    def _emulated_links(self) -> dict[str, tuple[float, float]]:
        if not (self.emulated and self.emulated.has_links):
            return {}
        return {target: (link.latency_s, 1 / link.bandwidth_bytes_per_s) for target, link in self.monitor.links.items()}

    def _stage(self, who: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Take what is wanted of the stage of a deployment; return its state."""
        name = given["deployment"]
        if problem := name_problem(name, "the deployment"):
            raise DeployError(problem)
        wanted = formed(given["wanted"], Wanted, DeployError, f"what is wanted of {name!r}")
        self.pool.keep(f"{name}/stage", {digest for files in wanted.bundles.values() for digest in files.values()})
        with self._lock:
            old = self.wanted.get(name)
            self.wanted[name] = wanted
            if old and old.process != wanted.process and name in self.stages:
                self.stages.pop(name).end()
            if name not in self.stages:
                self.stages[name] = self._child(name, wanted, wanted.port)
            child = self.stages[name]
            child.become(wanted)
            return child.state()

    def _end_stage(self, name: str) -> None:
        """End the stage of a deployment that is not there any more."""
        with self._lock:
            self.wanted.pop(name, None)
            child = self.stages.pop(name, None)
        if child:
            child.end()
        self.pool.release(name)
        self._news.set()

    def _told(self) -> dict[str, Any]:
        """Return what this agent tells of itself."""
        with self._lock:
            stages = {name: child.state() for name, child in self.stages.items()}
        state = {
            "load": self._load(), "pool_bytes": self.pool.used_bytes, "jobs": self.jobs.running(),
            "stages": stages, "links": self.monitor.state(), "problem": self.emulated.problem if self.emulated else "",
        }  # fmt: skip
        told = {"name": self.name, "address": self.address, "instance": self.instance}
        powers = dict(self.options.powers) or (self.emulated.powers if self.emulated else {})
        return told | {"facts": self.facts, "powers": powers, "state": state}

    def _load(self) -> dict[str, Any]:
        told = machine.load(self.folder) | {"own_cpu": round(self.own.cpus(), 5)}
        if not math.isnan(reference_s := self.speed.reference_s):
            told["reference_s"] = reference_s
        try:
            if self.drawn and not math.isnan(watts := self.drawn.watts()):
                told["drawn_w"] = round(watts, 3)
        except ProfileError as error:  # what counters there are do not tell it
            print(error, file=sys.stderr, flush=True)
            self.drawn = None
        return told

    def _report(self, registry: Remote | None) -> None:
        """Tell the registry of this agent, and hear who else is there."""
        try:
            if registry is None:
                heard = self._beat(self.name if self.tls else "", {"told": self._told()})
            else:
                heard = registry.ask("beat", 2.0, told=self._told())
        except DeployError as error:
            self._say(str(error))
            if not isinstance(error, UnreachableError):
                self._stop.wait(BEAT_S)
            return
        self._say("")
        self.monitor.know({name: peer["address"] for name, peer in heard["peers"].items() if peer["alive"]})
        for target, bandwidth in heard["links"]:
            self.monitor.take(target, bandwidth)
        for name in set(self.stages) - set(heard["deployments"]):
            self._end_stage(name)

    def _say(self, problem: str) -> None:
        """Tell once what is wrong, and once that it is over."""
        if problem != self.problem:
            print(problem or f"{self.name!r} is back with {self.options.join}", file=sys.stderr, flush=True)
        self.problem = problem

    def _beat(self, who: str, given: Mapping[str, Any]) -> dict[str, Any]:
        assert self.registry is not None
        self.registry.beat(who, given["told"])
        assert self.deployments is not None
        members = self.registry.members()
        name = given["told"]["name"]
        stages = [stage for member in members.values() for stage in member["state"]["stages"].values()]
        used = [(target, bandwidth) for stage in stages for source, target, bandwidth in stage["links"] if source == name]
        peers = {name: {"address": member["address"], "alive": member["alive"]} for name, member in members.items()}
        return {"peers": peers, "links": used, "deployments": self.deployments.names}

    def _leave(self, who: str, given: Mapping[str, Any]) -> None:
        assert self.registry is not None
        if who and who != given["name"]:
            message = f"{who!r} cannot leave for {given['name']!r}"
            raise DeployError(message)
        self.registry.forget(given["name"])

    def _members(self, who: str, given: Mapping[str, Any]) -> dict[str, Any]:
        assert self.registry is not None
        version = self.registry.wait(given.get("version", -1), given.get("limit_s", 0.0))
        return {"version": version, "source": self.name, "members": self.registry.members()}

    def _read(self, digest: str, offset: int) -> tuple[int, bytes]:
        path = self.pool.path(digest)
        with path.open("rb") as file:
            file.seek(offset)
            return path.stat().st_size, file.read(PIECE_BYTES)


def run_agent(options: AgentOptions, started: Callable[[str], None] = print) -> None:
    """Run an agent until Ctrl-C or SIGTERM; its stages and jobs end with it.

    Parameters
    ----------
    options : AgentOptions
        How it is started.
    started : Callable[[str], None], optional
        Is called with ``host:port`` once it listens.

    Raises
    ------
    DeployError
        The port is taken, or the folder is another agent's.
    NetworkError
        The network to be like cannot be used.
    """
    agent = Agent(options)
    if options.parent:
        threading.Thread(target=follow, args=(options.parent,), name="parent", daemon=True).start()

    def stop(number: int, frame: FrameType | None) -> None:
        agent.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        agent.run(started)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
