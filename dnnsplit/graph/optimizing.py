"""A model as ONNX Runtime rewrites it before it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from dnnsplit.graph.external_data import save
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import session, session_options

# levels: constants folded, nodes fused, and as it runs here, with layouts of the processor
FOLDED = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
FUSED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
EXECUTED = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
MOST_BYTES = 2**30  # of a model that is written to one file again


def optimize(
    model: onnx.ModelProto | Path,
    level: ort.GraphOptimizationLevel = EXECUTED,
    provider: str | Provider = "cpu",
    disabled: Sequence[str] = (),
    known: Collection[str] | None = None,
) -> onnx.ModelProto:
    """Return a model, or a file, as ONNX Runtime rewrites it at one optimisation level without some optimizers.

    Large constants are left out: only the nodes are of interest. With `known`, the values of all other constants are there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        file = model if isinstance(model, Path) else save(model, Path(folder), apart=True)
        options = session_options()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.disable_prepacking", "1")  # nothing is run
        # Constants that the rewriting leaves alone are not written again, but for those of a model too large for one file.
        if sum(one.stat().st_size for one in file.parent.iterdir() if one.is_file()) > MOST_BYTES:
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        session(file, options, provider, disabled)
        optimized = onnx.load(path, load_external_data=False)
        for weight in optimized.graph.initializer:
            if known is not None and weight.name not in known and uses_external_data(weight):
                load_external_data_for_tensor(weight, folder)
                weight.data_location = onnx.TensorProto.DEFAULT
                del weight.external_data[:]
        return optimized
