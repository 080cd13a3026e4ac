"""The hosts of a deployment, as its deployer sees them: who is there, what each takes for the model, and their network."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dnnsplit.agents.steps import Request
from dnnsplit.agents.wire import Remote, UnreachableError
from dnnsplit.deployment.wire.channels import Tls
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import sha256
from dnnsplit.network.servers import Link, Network, Server
from dnnsplit.profiling.times import LayerTimes

POLL_S = 0.2
PATIENCE_S = 10.0  # that a host which is gone is waited for while it is measured


class LostError(DeployError):
    """A host has gone, for longer than it is waited for."""


class Hosts:
    """The agents that have joined.

    Parameters
    ----------
    registry : Remote
        The agent that they have joined.
    tls : Tls | None
        Files that secure the connections.
    """

    def __init__(self, registry: Remote, tls: Tls | None) -> None:
        self.registry, self.tls = registry, tls
        self.members: dict[str, dict[str, Any]] = {}
        self.source, self.version = "", -1
        self._remotes: dict[tuple[str, str], Remote] = {}
        self._powers: dict[tuple[str, str], tuple[dict[str, float], str]] = {}  # (host, machine) -> measured [W], and how

    def look(self, limit_s: float = 0.0) -> None:
        """See who is there; with a limit, once something has changed, for which it waits so long at most [s]."""
        told = self.registry.ask("members", limit_s + 10.0, version=self.version if limit_s else -1, limit_s=limit_s)
        self.members, self.source, self.version = told["members"], told["source"], told["version"]

    @property
    def alive(self) -> list[str]:
        """Those that were heard of just now, the source first."""
        names = [name for name, member in self.members.items() if member["alive"]]
        return sorted(names, key=lambda name: (name != self.source, name))

    def member(self, name: str) -> dict[str, Any]:
        """Return what is known of a host.

        Raises
        ------
        UnreachableError
            It has left.
        """
        if name not in self.members:
            message = f"{name!r} has left"
            raise UnreachableError(message)
        return self.members[name]

    def remote(self, name: str) -> Remote:
        """Return a connection to a host."""
        key = name, self.member(name)["address"]
        if key not in self._remotes:
            self._remotes[key] = Remote(key[1], name, self.tls)
        return self._remotes[key]

    def patiently(self, name: str, do: Callable[[Remote], Any]) -> Any:
        """Ask a host, and wait where it is gone: an agent that is started again goes on where it was.

        Raises
        ------
        LostError
            It does not come back within 10 s.
        """
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return do(self.remote(name))
            except UnreachableError as error:
                if time.monotonic() > end:
                    raise LostError(str(error)) from None
                time.sleep(POLL_S)
                with suppress(UnreachableError):
                    self.look()  # it may have come back at another address

    def push(self, name: str, files: Mapping[str, Path], owner: str, kept: Iterable[str] = ()) -> int:
        """Bring files, by their hashes, to a host; return the bytes that had to be sent [B].

        It keeps them for the owner, and of what it has kept for that before, what is named in `kept`.
        """
        sent = 0

        def told(count: int) -> None:
            nonlocal sent
            sent += count

        self.patiently(name, lambda remote: remote.ask("keep", owner=owner, digests=[*files, *kept]))
        for digest, path in files.items():
            self.patiently(name, partial(Remote.push, path=path, digest=digest, told=told))
        return sent

    def job(self, name: str, kind: str, given: Mapping[str, Any], folder: Path) -> tuple[dict[str, Path], bool]:
        """Let a host do a job; return the files it made, brought here, and whether they were there already.

        Raises
        ------
        DeployError
            It failed, with what it said.
        """
        state = self.patiently(name, lambda remote: remote.ask("job", kind=kind, given=given))
        known = state["state"] == "done"
        while state["state"] == "running":
            time.sleep(POLL_S)
            state = self.patiently(name, lambda remote: remote.ask("job", kind=kind, given=given))
        if state["state"] == "failed":
            message = f"{kind} on {name!r} failed: {state['problem']}"
            raise DeployError(message)
        return {file: self._fetched(name, digest, folder / f"{name}.{file}") for file, digest in state["files"].items()}, known

    def _fetched(self, name: str, digest: str, path: Path) -> Path:
        if not (path.is_file() and sha256(path) == digest):
            path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=path.parent) as there:
                begun = Path(there) / path.name
                self.patiently(name, partial(Remote.pull, digest=digest, path=begun))
                if sha256(begun) != digest:
                    message = f"{path.name} from {name!r} came with another hash"
                    raise DeployError(message)
                begun.replace(path)
        return path

    def profile(self, name: str, request: Request, folder: Path) -> tuple[LayerTimes, bool]:
        """Let a host measure the model; return its times, in CPU seconds there, and whether they were known."""
        given = {**request.for_jobs(), "server": name, "provider": request.provider}
        files, known = self.job(name, "profile", given, folder)
        with TemporaryDirectory() as there:  # `LayerTimes.save` has several files beside each other, by their names
            for file, path in files.items():
                (Path(there) / file).write_bytes(path.read_bytes())
            times = LayerTimes.load(Path(there) / "times.csv")
        return times, known

    def measure_power(self, name: str, request: Request, folder: Path) -> str:
        """Let a host measure what it draws while it computes; return how that went, in words.

        Raises
        ------
        DeployError
            Nobody knows what it draws then, with what to do about it.
        """
        lacks = f"energy counts, but nobody knows what {name} draws"
        if "transmit_w" not in self.powers(name):
            way_out = "start its agent with --transmit, such as '3.5 W', and with --compute where no counters tell that"
            message = f"{lacks} while it sends; {way_out}"
            raise DeployError(message)
        given = {**request.for_jobs(), "layers": 0, "provider": request.provider}
        try:
            files, known = self.job(name, "power", given, folder)
        except LostError:
            raise
        except DeployError as error:
            message = f"{lacks} while it computes; start its agent with --compute, such as '5.8 W' ({error})"
            raise DeployError(message) from None
        told = json.loads(files["power.json"].read_text(encoding="utf-8"))
        self._powers[name, self.member(name)["facts"]["machine"]] = {"compute_w": told["compute_w"]}, told["note"]
        return f"{name}: {told['note']}" + (", known" if known else "")

    def _measured(self, name: str) -> tuple[dict[str, float], str]:
        return self._powers.get((name, self.member(name)["facts"]["machine"]), ({}, ""))

    def powers(self, name: str) -> dict[str, float]:
        """Return what a host draws [W]: as its agent was told, else as it was measured."""
        return {**self._measured(name)[0], **self.member(name)["powers"]}

    def are_alike(self, name: str, other: str) -> bool:
        """Whether two agents are on one machine, with the same share of its processors."""
        return all(self.member(name)["facts"][key] == self.member(other)["facts"][key] for key in ("machine", "cpu", "cpu_quota"))

    def factor(self, name: str, reference_s: float | None) -> tuple[float, str]:
        """Return how many seconds of a request a CPU second of a profile is on a host now, and why.

        Parameters
        ----------
        name : str
            Of the host.
        reference_s : float | None
            The pace of its profile [s]; see `LayerTimes.reference_s`.
        """
        facts, load = self.member(name)["facts"], self.member(name)["state"]["load"]
        share = min(1.0, max(facts["cpu_quota"] - load["own_cpu"], facts["cpu_quota"] / 2))
        notes = [f"a quota of {facts['cpu_quota']:.3g} CPU, of which the agent uses {load['own_cpu']:.2g}"] if share < 1 else []
        notes += [f"emulated, {facts['slowdown']:.3g} times slower"] if facts.get("slowdown") else []
        pace = self._pace_s(name) / reference_s if reference_s and "reference_s" in load else 1.0
        notes += [f"its pace of now, {pace:.3g}"] if pace != 1.0 else []
        return (facts.get("slowdown") or 1.0) * pace / share, "; ".join(notes)

    def _pace_s(self, name: str) -> float:
        """Return the pace of a host now [s]: what all agents on its machine see, as each of them sees little of it."""
        seen = [self.member(other)["state"]["load"].get("reference_s") for other in self.members if self.are_alike(name, other)]
        return statistics.fmean(filter(None, seen))

    def powers_known(self, names: Iterable[str]) -> bool:
        """Whether it is known of all of these what they draw."""
        return all({"compute_w", "transmit_w"} <= self.powers(name).keys() for name in names)

    def network(self, names: Iterable[str]) -> Network:
        """Return the network of some hosts, as their links were measured last."""
        names = list(names)
        servers = []
        for name in names:
            facts, measured = self.member(name)["facts"], self._measured(name)[1]
            note = f"{facts['cpu']}; {measured or 'powers as the agent was told'}"
            servers.append(Server(name, **self.powers(name), memory_bytes=facts.get("memory_limit"), note=note))
        links = []
        for source in names:
            for target, link in self.member(source)["state"]["links"].items():
                if target in names:
                    told = {key: value for key, value in link.items() if key != "at"}
                    links.append(Link(source, target, **told))
        return Network(tuple(servers), tuple(links), source=self.source, name="measured by agents")

    def close(self) -> None:
        """Close all connections."""
        for remote in self._remotes.values():
            remote.close()
