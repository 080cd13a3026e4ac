"""What a model does when it runs: its seconds, the kernels that ONNX Runtime's profiler sees, and those that fall to the CPU."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dnnsplit.ground.errors import ProfileError
from dnnsplit.runtime.providers import CPU, Provider
from dnnsplit.runtime.sessions import Session, session, session_options

WARM_UP = 5
_KERNEL = "_kernel_time"  # ends the names of the profiler's events that are runs of kernels


def cpu_seconds(
    one: Session, feed: Mapping[str, np.ndarray], runs: int, pause_s: float = 0.0, clock: Callable[[], float] = time.thread_time
) -> npt.NDArray[np.float64]:
    """Return the CPU seconds of each run of a session, or those of another `Provider.clock`, with a sleep before each.

    They are those of the calling thread, which is where a one-thread session computes.
    """
    seconds = np.empty(runs)
    for run in range(-WARM_UP, runs):
        time.sleep(pause_s)
        start = clock()
        one.run(None, dict(feed))
        if run >= 0:
            seconds[run] = clock() - start
    return seconds


@dataclass(frozen=True)
class KernelRun:
    """One run of a kernel: the executed node, the full name of the provider that ran it, and its time [s]."""

    node: str
    provider: str
    seconds: float


def kernel_runs(
    model: bytes, feed: Mapping[str, np.ndarray], provider: str | Provider, runs: int = 1, optimized: Path | None = None
) -> list[KernelRun]:
    """Run a model under ONNX Runtime's profiler; return what each kernel took, and write the model as executed to `optimized`."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        if optimized:
            options.optimized_model_filepath = str(optimized)
        one = session(model, options, provider)
        for _ in range(runs):
            one.run(None, dict(feed))
        events = json.loads(Path(one.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)]
    return [KernelRun(e["name"].removesuffix(_KERNEL), e["args"].get("provider", ""), 1e-6 * e["dur"]) for e in kernels]


def left_to_cpu(model: bytes, feed: Mapping[str, np.ndarray], provider: Provider) -> list[str]:
    """Return the executed nodes of a model that the provider leaves to the CPU; none where it is the CPU itself."""
    if provider.is_cpu:
        return []
    kernels = kernel_runs(model, feed, provider)
    left = [kernel.node for kernel in kernels if kernel.provider == CPU]
    if len(left) == len(kernels):
        message = f"execution provider {provider.name!r} takes no node of the model: all run on the CPU; profile 'cpu'"
        raise ProfileError(message)
    return left
