"""The hosts of a deployment, as its deployer sees them: who is there, what each takes for the model, and their network."""

from __future__ import annotations

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
from dnnsplit.profiling.elsewhere import scaled_times
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

    def are_alike(self, name: str, other: str) -> bool:
        """Whether two agents are on one machine, with the same share of its processors."""
        return all(self.member(name)["facts"][key] == self.member(other)["facts"][key] for key in ("machine", "cpu", "cpu_share"))

    def as_it_is(self, name: str, times: LayerTimes) -> LayerTimes:
        """Return the times of a host, in CPU seconds of its machine, as its requests will see them."""
        facts = self.member(name)["facts"]
        factor = (facts.get("slowdown") or 1.0) / facts["cpu_share"]
        notes = [f"a quota of {facts['cpu_share']:.3g} CPU"] if facts["cpu_share"] != 1 else []
        notes += [f"emulated, {facts['slowdown']:.3g} times slower"] if facts.get("slowdown") else []
        return times if factor == 1.0 else scaled_times(times, name, name, factor, note="; ".join(notes))

    def powers_known(self, names: Iterable[str]) -> bool:
        """Whether all of these agents were told what their hosts draw."""
        return all({"compute_w", "transmit_w"} <= self.member(name)["powers"].keys() for name in names)

    def network(self, names: Iterable[str]) -> Network:
        """Return the network of some hosts, as their links were measured last."""
        names = list(names)
        servers = []
        for name in names:
            facts, powers = self.member(name)["facts"], self.member(name)["powers"]
            servers.append(
                Server(
                    name, **powers, memory_bytes=facts.get("memory_limit"), note=f"{facts['cpu']}; powers as the agent was told"
                )
            )
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
