"""The stages of an agent: child processes, one for each deployment, that end with it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dnnsplit.agents.accepted import check_accepted
from dnnsplit.agents.pool import Pool
from dnnsplit.cutting.bundle import FILE, Bundle
from dnnsplit.deployment.hosts import host_port
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.process import child_environment
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import write_json
from dnnsplit.ground.huge_pages import with_huge_pages

FRESH_S = 2.0  # what requests told of a link is of now for so long
END_S = 3.0  # a stage that does not end within this time is killed
TAIL_LINES = 8


@dataclass(frozen=True)
class Wanted:
    """What a stage is to do, as a deployer asks for it.

    Attributes
    ----------
    model_name : str
        Under which the deployment answers.
    is_source : bool
        Whether requests arrive at this server.
    port : int
        To listen on; 0 for any.
    limit_bytes : int
        Greatest message [B].
    bundles : Mapping[str, Mapping[str, str]]
        Name -> its files, by name the hash of each.
    use : str
        By which bundle requests start; empty for none.
    peers : Mapping[str, str]
        Server -> ``host:port`` of the other stages.
    links : tuple[tuple[str, str, float, float, float], ...]
        Source, target, bandwidth [B/s], latency [s] and serialisation [s/B] of links whose transfers are to be told of.
    deadline_s, in_flight, provider : float, int, str
        As for `serve`.
    reference_s : float | None
        The pace at which an emulated server is slow; see `Emulation`.
    """

    model_name: str
    is_source: bool
    port: int
    limit_bytes: int
    bundles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    use: str = ""
    peers: Mapping[str, str] = field(default_factory=dict)
    links: tuple[tuple[str, str, float, float, float], ...] = ()
    deadline_s: float = 60.0
    in_flight: int = 8
    provider: str = "cpu"
    reference_s: float | None = None

    @property
    def process(self) -> tuple[Any, ...]:
        """What a process is started with, and cannot change."""
        how = self.deadline_s, self.in_flight, self.provider, self.reference_s
        return self.model_name, self.is_source, self.limit_bytes, *how


class StageChild:
    """A stage process: what it was told, and what it has told since.

    Parameters
    ----------
    config : Config
        Of the stage, for all its bundles.
    wanted : Wanted
        What it is for.
    pool : Pool
        Where the files of bundles are.
    folder : Path
        For its configuration, its bundles and its stderr.
    told : Callable[[], None]
        Called whenever it says something.
    host : str
        By which others call this server.
    memory_bytes : int | None
        That it may use [B].
    """

    def __init__(
        self, config: Config, wanted: Wanted, pool: Pool, folder: Path, told: Callable[[], None], host: str,
        memory_bytes: int | None,
    ) -> None:  # fmt: skip
        self.config, self.model_name, self.pool, self.folder, self.host = config, wanted.model_name, pool, folder, host
        self.address, self.used, self.problem = "", "", ""
        self.paced: Any = None  # the links that it was told to emulate last
        self.added: dict[str, Any] = {}  # bundle -> the peers it was added with, while it loads too
        self._bundles: dict[str, Bundle] = {}
        self.ready: set[str] = set()  # bundles that are loaded
        self.failed: dict[str, str] = {}
        self.links: dict[tuple[str, str], tuple[float, float]] = {}  # ends -> bandwidth [B/s], and when it was told
        self._told = told
        folder.mkdir(parents=True, exist_ok=True)
        path = write_json(folder / "stage.json", asdict(config))
        role, limits = "source" if wanted.is_source else "other", (str(wanted.limit_bytes), str(memory_bytes or 0))
        command = [sys.executable, "-m", "dnnsplit.deployment.stage.changing", str(path), self.model_name, role, *limits]
        with (folder / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True,
                env=with_huge_pages(child_environment(), True),
            )  # fmt: skip
        threading.Thread(target=self._listen, name=f"stage {self.model_name}", daemon=True).start()

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def become(self, wanted: Wanted) -> None:
        """Take one step towards what is wanted; bundles are loaded in the background, and used once they are ready."""
        if not self.is_running or not self.address:
            return
        for name in [name for name in self.added if name not in wanted.bundles]:
            self._forget(name)
            self._order("drop", name, {"name": name})
        for name, files in wanted.bundles.items():
            try:
                bundle = self._laid_out(name, files)
            except DeployError as error:
                self.failed[name] = str(error)
                continue
            others = [server for server in bundle.stages if server != self.config.server]
            peers = {server: wanted.peers[server] for server in others if server in wanted.peers}
            if name in self.failed or self.added.get(name) == peers or len(peers) < len(others):
                continue
            self._forget(name)
            self.added[name] = peers
            self._order("add", name, {"folder": str(bundle.folder), "peers": peers, "links": wanted.links})
        if wanted.use and wanted.use != self.used and wanted.use in self.ready:
            self._order("use", wanted.use, {"name": wanted.use})
            self.used = wanted.use

    def pace(self, links: Mapping[str, tuple[float, float]]) -> None:
        """Let it emulate these links from now on: target -> (latency [s], seconds per byte [s/B])."""
        self.paced = links
        self._order("pace", "", {"links": links})

    def state(self) -> dict[str, Any]:
        """Return what others may know: address, bundles that are ready and the peers they call, the one in use, what failed."""
        return {
            "address": self.address, "ready": {name: self.added[name] for name in sorted(self.ready) if name in self.added},
            "used": self.used, "failed": self.failed,
            "pid": self.process.pid, "running": self.is_running, "problem": self.problem,
            "links": [(*ends, bandwidth) for ends, (bandwidth, when) in self.links.items() if time.monotonic() - when < FRESH_S],
        }  # fmt: skip

    def end(self) -> None:
        """End the process."""
        if self.is_running:
            self.process.terminate()
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

    def _laid_out(self, name: str, files: Mapping[str, str]) -> Bundle:
        """Put the files of a bundle into a folder, once, and check that they are what we accept."""
        if name in self._bundles:
            return self._bundles[name]
        folder = self.pool.lay_out(dict(files), self.folder / name)
        bundle = Bundle.load(folder)
        if unknown := set(files) - {FILE, *(file for part in bundle.parts for file in (part.file, part.data) if file)}:
            message = f"{name!r} came with files that its bundle does not name: {', '.join(sorted(unknown))}"
            raise DeployError(message)
        for part in bundle.parts:
            if part.server == self.config.server:
                beside = [Path(part.data).name] if part.data and Path(part.data).parent == Path(part.file).parent else []
                check_accepted(folder / part.file, beside)
        self._bundles[name] = bundle
        return bundle

    def _forget(self, name: str) -> None:
        for known in (self.added, self.failed, self._bundles):
            known.pop(name, None)
        self.ready.discard(name)
        if self.used == name:
            self.used = ""

    def _order(self, what: str, name: str, given: Mapping[str, Any]) -> None:
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"do": what, "name": name, "given": given}) + "\n")
            self.process.stdin.flush()
        except OSError:  # it has ended, which `is_running` says
            pass

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            if "address" in told:
                self.address = f"{self.host}:{host_port(told['address'])[1]}"
            elif "links" in told:
                now = time.monotonic()
                self.links |= {(source, target): (bandwidth, now) for source, target, bandwidth in told["links"]}
            elif "done" not in told:
                self.problem = told["problem"]
            elif told["problem"]:
                self.failed[told["name"]] = told["problem"]
            elif told["done"] == "add" and told["name"] in self.added:
                self.ready.add(told["name"])
            self._told()
        self.process.wait()
        lines = (self.folder / "stderr").read_text(encoding="utf-8", errors="replace").splitlines()
        self.problem = self.problem or "\n".join(lines[-TAIL_LINES:])
        self._told()
