"""The stages of a test-bed as child processes: started, introduced to each other, watched, and ended in any case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dnnsplit.deploy.bundle import Bundle
from dnnsplit.deploy.messages import channel, infer_request, set_parameter
from dnnsplit.errors import DeployError
from dnnsplit.files import write_json

READY_S = 60.0  # limit on the start of all stages
END_S = 3.0  # a stage that does not end within this time is killed
POLL_S = 0.02
TAIL_LINES = 12


class StageProcess:
    """A stage as a child process; its output goes to files, so that nobody has to read pipes."""

    def __init__(self, server: str, config: Mapping[str, Any], stem: Path) -> None:
        self.server = server
        self.out, self.err = stem.with_suffix(".out"), stem.with_suffix(".err")
        command = [sys.executable, "-m", "dnnsplit.deploy.stage", str(write_json(stem.with_suffix(".json"), config))]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)

    @property
    def address(self) -> str:
        """The ``host:port`` that it has printed; empty until then."""
        first, newline, _ = self.out.read_text(encoding="utf-8").partition("\n")
        return first if newline else ""

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
def running(bundle: Bundle, configs: Mapping[str, Any], folder: Path) -> Iterator[dict[str, StageProcess]]:
    """Start all stages, introduce them to each other, and end them whatever happens."""
    stages: dict[str, StageProcess] = {}
    try:
        for i, (server, config) in enumerate(configs.items()):
            stages[server] = StageProcess(server, config, folder / str(i))
        limit = time.monotonic() + READY_S
        for stage in stages.values():
            _until(partial(getattr, stage, "address"), stage, stages, limit)
        message = infer_request(f"{bundle.model_name}/peers")
        for stage in stages.values():
            set_parameter(message, stage.server, stage.address)
        with ExitStack() as stack:
            channels = [stack.enter_context(channel(stage.address)) for stage in stages.values()]
            stubs = [service_pb2_grpc.GRPCInferenceServiceStub(opened) for opened in channels]
            for stage, stub in zip(stages.values(), stubs, strict=True):
                _until(partial(stub.ModelInfer, message, timeout=READY_S), stage, stages, limit)
            for stage, stub in zip(stages.values(), stubs, strict=True):
                _until(partial(_is_ready, stub), stage, stages, limit)
        yield stages
    finally:
        for stage in stages.values():
            stage.ask_to_end()
        for stage in stages.values():
            stage.wait()


def _is_ready(stub: service_pb2_grpc.GRPCInferenceServiceStub) -> bool:
    return stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=READY_S).ready


def _until(step: Callable[[], Any], stage: StageProcess, stages: Mapping[str, StageProcess], limit: float) -> None:
    """Try `step` until it gives something true; raise when a stage dies or the time is over."""
    problem = ""
    while True:
        try:
            if step():
                return
        except grpc.RpcError as error:
            problem = f" ({error.details()})"
        if dead := deaths(stages.values(), 0.0):
            raise DeployError(f"the test-bed did not start: {dead}")
        if time.monotonic() > limit:
            late = f"the stage of {stage.server!r} is not ready after {READY_S:g} s{problem}"
            raise DeployError(f"{late}; its stderr: {stage.tail}")
        time.sleep(POLL_S)


def deaths(stages: Iterable[StageProcess], patience_s: float = 0.3) -> str:
    """Which stages have died; one that has just been killed may take a moment until it counts as dead."""
    time.sleep(patience_s)
    return "; ".join(filter(None, (stage.death for stage in stages)))
