"""The stages of a test-bed as child processes: started, introduced to each other, watched, and ended in any case."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.plan_set import PlanSet
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.process import child_environment
from dnnsplit.deployment.testbed.namespaces import Place
from dnnsplit.deployment.wire.channels import Stub
from dnnsplit.deployment.wire.messages import infer_request
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import write_json
from dnnsplit.ground.huge_pages import with_huge_pages

READY_S = 60.0  # limit on the start of all stages, beside
SLOWEST_BYTES_PER_S = 2e6  # what they load and run twice to warm up, on a machine that may be busy
END_S = 3.0  # a stage that does not end within this time is killed
POLL_S = 0.02
TAIL_LINES = 12


class StageProcess:
    """A stage as a child process; its output goes to files, so that nobody has to read pipes."""

    def __init__(self, server: str, config: Config, stem: Path, place: Place | None = None) -> None:
        self.server, self.place = server, place
        self.out, self.err = stem.with_suffix(".out"), stem.with_suffix(".err")
        told = write_json(stem.with_suffix(".json"), asdict(config))
        command = [*(place.command if place else ()), sys.executable, "-m", "dnnsplit.deployment.stage.process", str(told)]
        environment = child_environment()
        if config.emulation.huge_pages is not None:
            environment = with_huge_pages(environment, config.emulation.huge_pages)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)

    @property
    def address(self) -> str:
        """The ``host:port`` where it can be called; empty until it has printed that it listens."""
        first, newline, _ = self.out.read_text(encoding="utf-8").partition("\n")
        return (self.place.address if self.place else first) if newline else ""

    @property
    def tail(self) -> str:
        """The last lines of its stderr."""
        return "\n".join(self.err.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]) or "(empty)"

    @property
    def death(self) -> str:
        """How it ended; empty while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"the stage of {self.server!r} has ended with {how}; its stderr: {self.tail}"

    def ask_to_end(self) -> None:
        """Send SIGTERM, and wake it up in case it was stopped."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)

    def wait(self) -> None:
        """Wait for its end, and kill it when that takes too long."""
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(
    bundle: Bundle | PlanSet, configs: Mapping[str, Config], folder: Path, places: Mapping[str, Place] | None = None
) -> Iterator[dict[str, StageProcess]]:
    """Start all stages, introduce them to each other unless they know where the others are, and end them whatever happens."""
    stages: dict[str, StageProcess] = {}
    try:
        for i, (server, config) in enumerate(configs.items()):
            stages[server] = StageProcess(server, config, folder / str(i), places[server] if places else None)
        started, ready_s = time.monotonic(), READY_S + size_of(bundle) // SLOWEST_BYTES_PER_S
        for stage in stages.values():
            _until(partial(getattr, stage, "address"), stage, stages, started, ready_s)
        addresses = {server: stage.address for server, stage in stages.items()}
        message = infer_request(f"{bundle.model_name}/peers", parameters=addresses)
        with ExitStack() as stack:
            stubs = {server: stack.enter_context(closing(Stub(address))) for server, address in addresses.items()}
            for server, stage in stages.items() if not places else ():
                _until(partial(stubs[server].infer, message, timeout=READY_S), stage, stages, started, ready_s)
            for server, stage in stages.items():  # each asks its peers, which opens the connections that requests will use
                _until(partial(_is_ready, stubs[server], bundle.model_name), stage, stages, started, ready_s)
        for server, place in (places or {}).items():  # only now: starting is not what a quota is for
            place.admit(stages[server].process.pid)
        yield stages
    finally:
        for stage in stages.values():
            stage.ask_to_end()
        for stage in stages.values():
            stage.wait()


def size_of(cut: Bundle | PlanSet) -> int:
    """Return the size of the files of all parts, with what weights are beside them [B]."""
    return sum(
        (one.folder / file).stat().st_size for one in cut.bundles for part in one.parts for file in (part.file, part.data) if file
    )


def _is_ready(stub: Stub, model_name: str) -> bool:
    return bool(stub.ModelReady(service_pb2.ModelReadyRequest(name=model_name), timeout=READY_S).ready)


def _until(
    step: Callable[[], Any], stage: StageProcess, stages: Mapping[str, StageProcess], started: float, limit_s: float
) -> None:
    """Try `step` until it gives something true; raise when a stage dies or the time since `started` is over."""
    problem = ""
    while True:
        try:
            if step():
                return
        except grpc.RpcError as error:
            problem = f" ({error.details()})"
        if dead := deaths(stages.values(), 0.0):
            message = f"the test-bed did not start: {dead}"
            raise DeployError(message)
        if time.monotonic() > started + limit_s:
            late = f"the stage of {stage.server!r} is not ready after {limit_s:g} s{problem}"
            message = f"{late}; its stderr: {stage.tail}"
            raise DeployError(message)
        time.sleep(POLL_S)


def deaths(stages: Iterable[StageProcess], patience_s: float = 0.3) -> str:
    """Which stages have died; one that has just been killed may take a moment until it counts as dead."""
    time.sleep(patience_s)
    return "; ".join(filter(None, (stage.death for stage in stages)))
