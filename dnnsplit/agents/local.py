"""Agents of one machine, as child processes: to try deployments where there is no other host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from dnnsplit.agents.deploy import status
from dnnsplit.agents.stages import TAIL_LINES
from dnnsplit.agents.wire import tls_of
from dnnsplit.deployment.stage.process import child_environment
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, NetworkError
from dnnsplit.ground.huge_pages import with_huge_pages
from dnnsplit.ground.outputs import check_output
from dnnsplit.ground.paths import real
from dnnsplit.network.servers import Network

START_S = 60.0
END_S = 10.0


@dataclass
class LocalAgents:
    """Agents that run as children of this process.

    Attributes
    ----------
    at : str
        ``host:port`` of the first, which others have joined.
    processes : dict[str, subprocess.Popen[bytes]]
        By name.
    options, within : Mapping[str, Sequence[str]]
        By name, what is added to the command line of an agent, and what it starts with.
    """

    folder: Path = field(repr=False)
    keys: Path | None = None
    emulate: Path | None = None
    at: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)
    options: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    within: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)

    def start(self, name: str) -> None:
        """Start an agent, or start it again where it was."""
        command = [sys.executable, "-m", "dnnsplit", "agent", "--name", name, "--folder", str(self.folder / name)]
        command += ["--parent", str(os.getpid())]
        command += ["--join", self.at] if self.at and self._first != name else ["--port", self.at.rpartition(":")[2] or "0"]
        command += ["--keys", str(self.keys / name)] if self.keys else []
        command += ["--emulate", str(self.emulate)] if self.emulate else []
        command = [*self.within.get(name, ()), *command, *self.options.get(name, ())]
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        with out.open("wb") as stdout, err.open("ab") as stderr:
            environment = with_huge_pages(child_environment())
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)
        self.processes[name] = process
        end = time.monotonic() + START_S
        while not (line := out.read_text(encoding="utf-8")).endswith("\n"):
            if process.poll() is not None or time.monotonic() > end:
                tail = "\n".join(err.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
                message = f"the agent {name!r} did not start: {tail}"
                raise DeployError(message)
            time.sleep(0.05)
        self.at = self.at or line.strip()

    @property
    def _first(self) -> str:
        return next(iter(self.processes), "")

    def wait(self, *names: str, limit_s: float = START_S) -> None:
        """Wait until these have joined."""
        end = time.monotonic() + limit_s
        while not set(names) <= self.alive():
            if time.monotonic() > end:
                message = f"{', '.join(sorted(set(names) - self.alive()))} did not join within {limit_s:g} s"
                raise DeployError(message)
            time.sleep(0.1)

    def alive(self) -> set[str]:
        """Return those that were heard of just now."""
        keys = self.keys / self._first if self.keys else ""
        found = status(self.at, keys)["members"]
        running = {name: process.pid for name, process in self.processes.items() if process.poll() is None}
        return {name for name, member in found.items() if member["alive"] and running.get(name) == member["facts"]["pid"]}

    def kill(self, name: str) -> None:
        """End an agent at once, as a power cut does."""
        self.processes[name].kill()
        self.processes[name].wait()

    @contextmanager
    def running(self, names: Sequence[str]) -> Iterator[LocalAgents]:
        """Start agents, the first being the one that others join, wait until they have joined, and end them in any case."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for name in names:
                self.start(name)
            self.wait(*names)
            yield self
        finally:
            self.end()

    def end(self) -> None:
        """End all of them in order."""
        for process in reversed(list(self.processes.values())):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def local_agents(
    names: Sequence[str] | str | Path, folder: str | Path | None = None, keys: str | Path | None = None
) -> Iterator[LocalAgents]:
    """Run agents on this machine, and end them in any case.

    Parameters
    ----------
    names : Sequence[str] | str | Path
        Of the agents, the first being the one that others join; or a network YAML, to whose servers and links they are made
        alike: they are as slow as these, and so are their links, which follow the file when it changes.
    folder : str | Path | None, optional
        For what is to last; by default a folder that goes with them.
    keys : str | Path | None, optional
        Folder from `make_keys` with those of each.

    Yields
    ------
    LocalAgents
        ``at`` is the address to deploy at.

    Raises
    ------
    DeployError
        An agent has no keys there, or does not start.
    NetworkError
        The network cannot be read.
    OutputError
        The folder cannot be written.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> with ds.local_agents(["device", "edge"]) as agents:
    ...     members = ds.status(agents.at)["members"]
    >>> sorted(members)
    ['device', 'edge']
    """
    check_arguments(local_agents, locals(), some=("names",))
    emulate = None
    if isinstance(names, str | Path):
        emulate = real(names)
        network = Network.load(emulate)
        names = sorted(network.server_names, key=lambda name: name != network.source)
    if not names:
        message = "name at least one agent"
        raise NetworkError(message)
    if folder:
        check_output(folder, folder=True)
    if keys:  # are there, before anything starts
        for name in names:
            tls_of(Path(keys) / name)
    with TemporaryDirectory(prefix="dnnsplit-agents-") as there:
        agents = LocalAgents(Path(folder or there), Path(keys) if keys else None, emulate)
        with agents.running(names):
            yield agents
