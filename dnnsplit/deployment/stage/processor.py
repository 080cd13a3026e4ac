"""The one processor of a server: it runs a part, writes a tensor or reads one, and never two at a time."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import grpc

from dnnsplit.codecs.pixels import Malformed
from dnnsplit.deployment.stage.buffers import Request

if TYPE_CHECKING:
    from dnnsplit.deployment.stage.work import Runner
    from dnnsplit.runtime.pace import Pace

Found = TypeVar("Found")
SPARE_S = 0.005  # of a rest, that looks at the pace leave


class Spent(NamedTuple):
    """What something took: compute time, duration and overrun, all in emulated seconds [s], and the pace of the machine then."""

    cpu_s: float
    wall_s: float
    overrun_s: float
    pace: float


class Job(NamedTuple):
    """Something to do for a request."""

    request: Request
    what: str
    do: Callable[[], None]


class Processor:
    """Does the jobs of a stage in the order in which they come; one that fails ends its request."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.pace: Pace | None = None  # of the machine; a stage that emulates a server sets it

    def do(self, request: Request, what: str, job: Callable[[], None]) -> None:
        """Put a job in the queue; `what` says in an error what failed."""
        self.jobs.put(Job(request, what, job))

    def close(self) -> None:
        """End the thread, once the job is done that it is at."""
        self.jobs.put(None)

    def work(self) -> None:
        """Do all jobs, as a thread."""
        server, fail = self.runner.server, self.runner.fail
        while (job := self.jobs.get()) is not None:
            if job.request.dropped.is_set():
                continue
            try:
                with self.runner.turns[server]:
                    job.do()
            except Malformed as error:
                fail(job.request, grpc.StatusCode.INVALID_ARGUMENT, f"{job.what} failed on {server!r}: {error}")
            except Exception as error:  # whatever a part raises must reach the client
                fail(job.request, grpc.StatusCode.INTERNAL, f"{job.what} failed on {server!r}: {error}")

    def timed(self, request: Request, work: Callable[[], Found], clock: Callable[[], float]) -> tuple[Found, Spent]:
        """Do something at the pace of the server; return what came of it and what it took."""
        emulation, watch = self.runner.emulation, self.runner.watch
        with watch.standing() if emulation.stands else nullcontext():
            started, cpu = watch.now(), clock()
            found = work()
            cpu_s = clock() - cpu
            # a look at the pace is part of the rest, if there is any
            most_s = math.inf if emulation.stands else emulation.rest_s(cpu_s, watch.now() - started) - SPARE_S
            pace = self.pace.now(max(most_s, 0.0)) if self.pace else 1.0
            cpu_s, now = cpu_s / pace, watch.now()
        rest_s = emulation.rest_s(cpu_s, now - started)
        watch.wait(request.dropped, now + rest_s)
        wall_s, dilation = watch.now() - started, emulation.time_dilation
        return found, Spent(emulation.compute_s(cpu_s), wall_s / dilation, max(-rest_s, 0.0) / dilation, pace)
