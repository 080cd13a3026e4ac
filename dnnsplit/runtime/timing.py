"""What a model does when it runs: its seconds, the kernels that ONNX Runtime's profiler sees, and those that fall to the CPU."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dnnsplit.ground.errors import ProfileError
from dnnsplit.runtime.pace import own_pace
from dnnsplit.runtime.providers import CPU, Provider
from dnnsplit.runtime.sessions import Session, find_provider, session, session_options

WARM_UP, WARM_S = 5, 1.0  # runs before those that count, at most; where one takes long, no more than it takes to fill this [s]
LEAST_RUNS = 5
SETTLED = 0.01  # of an estimate: what is known so well is worth no more runs
LONG_S = 5.0  # what took so long in all [s] is run no more, though its median may not be known to 1 % then
# Before a run, as a server rests that waits for its inputs: what the processor holds of a model goes cold. One of 1 ms takes a
# fifth more after 20 ms, or 50, or 100; one of 27 ms takes 1 to 5 % more.
PAUSE_S = 0.02
_KERNEL = "_kernel_time"  # ends the names of the profiler's events that are runs of kernels
_EXECUTED = "SequentialExecutor::Execute"  # names those of a model, or of a body in it, after the kernels that it ran
_RUN = "model_run"


def half_width(seconds: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Return the half-width of the 95 % confidence interval of a median, relative to it: 1.82 IQR / sqrt(n).

    Source: R. McGill, J. W. Tukey, W. A. Larsen, "Variations of Box Plots", The American Statistician 32(1), 1978: the standard
    error of a median is about 1.25 / 1.35 IQR / sqrt(n).
    """
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    width = 1.82 * float(high - low) / math.sqrt(len(seconds))
    return width / max(float(middle), 1e-12)


def settled(seconds: Sequence[float] | npt.NDArray[np.float64]) -> bool:
    """Whether runs are enough: 5 or more, of which the median is known to 1 %."""
    return len(seconds) >= LEAST_RUNS and half_width(seconds) <= SETTLED


def enough(seconds: Sequence[float] | npt.NDArray[np.float64]) -> bool:
    """Whether runs of something that takes long are enough: they have `settled`, or are 5 or more that took 5 s in all."""
    return settled(seconds) or (len(seconds) >= LEAST_RUNS and float(np.sum(seconds)) >= LONG_S)


def at_pace(seconds: float, clock: Callable[[], float]) -> float:
    """Return CPU seconds that were just taken as they would be at the pace 1 of this process; of other clocks as they are."""
    return seconds / pace_of(clock)


def pace_of(clock: Callable[[], float]) -> float:
    """Return the pace at which a clock runs that tells CPU seconds; 1 for others."""
    return own_pace().now() if clock is time.thread_time else 1.0


def cpu_seconds(
    one: Session, feed: Mapping[str, np.ndarray], runs: int, pause_s: float = 0.0, clock: Callable[[], float] = time.thread_time
) -> npt.NDArray[np.float64]:
    """Return the CPU seconds of each run of a session, or those of another `Provider.clock`, with a sleep before each.

    They are those of the calling thread, which is where a one-thread session computes, `at_pace`. There are at most `runs` of
    them, and no more than are `enough`.
    """

    def once() -> float:
        time.sleep(pause_s)
        start = clock()
        one.run(None, dict(feed))
        return at_pace(clock() - start, clock)

    warm_up(once)
    seconds: list[float] = []
    while len(seconds) < runs and not enough(seconds):
        seconds.append(once())
    return np.array(seconds)


def warm_up(once: Callable[[], float], most: int = WARM_UP) -> int:
    """Run a few times before what counts: once at least, and until that took `WARM_S`; return how often.

    `once` returns the seconds of a run. None is run if `most` is 0.
    """
    spent, count = 0.0, 0
    while count < most and spent < WARM_S:
        spent, count = spent + once(), count + 1
    return count


@dataclass(frozen=True)
class Kernel:
    """A kernel of a model as it is executed: its place and name there, its operator, and the full name of its provider."""

    index: int
    node: str
    op_type: str
    provider: str


def kernel_runs(
    model: bytes | Path,
    feed: Mapping[str, np.ndarray],
    provider: str | Provider,
    runs: int = 1,
    most_warm_up: int = 0,
    optimized: Path | None = None,
) -> dict[Kernel, list[float]]:
    """Run a model under ONNX Runtime's profiler; return what each kernel took in each run [s], in the order they ran in.

    Kernels in bodies of If, Loop and Scan are left out: the time of the kernel that holds the body includes them. The model as
    executed is written to `optimized`, its weights beside it. Runs after those to warm up end when there are `enough`.
    """
    found, taken_s, paces = find_provider(provider), list[float](), list[float]()

    def once() -> float:
        start = found.clock()
        one.run(None, dict(feed))
        taken = found.clock() - start
        paces.append(pace_of(found.clock))
        return taken / paces[-1]

    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        if optimized:
            options.optimized_model_filepath = str(optimized)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "executed.data")
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        one = session(model, options, found)
        warm = warm_up(once, most_warm_up)
        while len(taken_s) < runs and not enough(taken_s):
            taken_s.append(once())
        seconds: dict[Kernel, list[float]] = {}
        for number, kernels in enumerate(_outermost(_events(Path(one.end_profiling())))):
            for kernel, taken in kernels if number >= warm else ():
                seconds.setdefault(kernel, []).append(taken / paces[number])
    return seconds


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """Read the profiler's file, an array with one event in a line: all of it at once takes ten times its size."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if (text := line.strip().rstrip(",")) not in "[]":
                yield json.loads(text)


def _outermost(events: Iterable[dict[str, Any]]) -> Iterator[list[tuple[Kernel, float]]]:
    """Yield the kernels of each run, without those that ran inside of another."""
    waiting: list[tuple[int, Kernel, float]] = []
    done: list[tuple[Kernel, float]] = []
    for event in events:
        name = event["name"]
        if event["cat"] == "Node" and name.endswith(_KERNEL):
            about = event["args"]
            kernel = Kernel(int(about["node_index"]), name.removesuffix(_KERNEL), about["op_name"], about.get("provider", ""))
            waiting.append((event["ts"], kernel, 1e-6 * event["dur"]))
        elif name == _EXECUTED:  # of a body, unless the run ends with it
            done = []
            while waiting and waiting[-1][0] >= event["ts"]:
                done.append(waiting.pop()[1:])
        elif name == _RUN:
            yield done[::-1]
            waiting, done = [], []


def left_to_cpu(model: bytes | Path, feed: Mapping[str, np.ndarray], provider: Provider) -> list[str]:
    """Return the executed nodes of a model that the provider leaves to the CPU."""
    kernels = kernel_runs(model, feed, provider)
    left = [kernel.node for kernel in kernels if kernel.provider == CPU]
    if kernels and len(left) == len(kernels):
        message = f"execution provider {provider.name!r} takes no node of the model: all run on the CPU; profile 'cpu'"
        raise ProfileError(message)
    return left
