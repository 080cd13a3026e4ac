"""Which nodes a provider takes, and which ONNX Runtime runs on the CPU in its place."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnnsplit.ground.errors import ProfileError
from dnnsplit.runtime.providers import CPU, Provider
from dnnsplit.runtime.sessions import session, session_options


def left_to_cpu(model: bytes | Path, feed: Mapping[str, np.ndarray], provider: Provider) -> list[str]:
    """Return the executed nodes of a model that the provider leaves to the CPU; none where it is the CPU itself.

    Parameters
    ----------
    model : ONNX file, or its content
    feed : inputs of one run, which ONNX Runtime's profiler watches

    Raises
    ------
    ProfileError : the provider takes no node at all
    """
    if provider.is_cpu:
        return []
    with tempfile.TemporaryDirectory() as folder:
        options = session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "placement")
        one = session(model, options, provider)
        one.run(None, dict(feed))
        events = json.loads(Path(one.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    left = [event["name"].removesuffix("_kernel_time") for event in kernels if event["args"].get("provider") == CPU]
    if len(left) == len(kernels):
        raise ProfileError(f"execution provider {provider.name!r} takes no node of the model: all run on the CPU; profile 'cpu'")
    return left
