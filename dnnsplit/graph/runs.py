"""One run of a model here, for what only a run tells."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from dnnsplit.graph.external_data import save
from dnnsplit.runtime.sessions import run_within, session, session_options

SILENT = 4  # of ONNX Runtime's levels: what fails is told by an error


def run_once(proto: onnx.ModelProto, outputs: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a model on one inference's inputs; return some of its outputs.

    Raises
    ------
    ModelError
        ONNX Runtime does not load it, or the run fails, or does not end (`dnnsplit.runtime.sessions.SlowError`).
    """
    options = session_options()
    options.log_severity_level = SILENT
    with tempfile.TemporaryDirectory() as folder:
        return run_within(session(save(proto, Path(folder)), options), outputs, feed)
