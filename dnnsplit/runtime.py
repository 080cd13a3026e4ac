"""One way to make ONNX Runtime sessions, so that profiles, noise and deployed parts run under the same options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort

from dnnsplit.errors import ModelError

PROVIDERS = ("CPUExecutionProvider",)


def session_options(threads: int = 1) -> ort.SessionOptions:
    """Return the options of a deployed part: all optimisations, fixed threads, no spinning."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def session(model: bytes | str | Path, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """Load a model on the CPU; raise `ModelError` where ONNX Runtime cannot."""
    content: Any = str(model) if isinstance(model, Path) else model
    try:
        return ort.InferenceSession(content, options or session_options(), providers=list(PROVIDERS))
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise ModelError(f"ONNX Runtime cannot load the model: {str(error).strip().splitlines()[0]}") from None
