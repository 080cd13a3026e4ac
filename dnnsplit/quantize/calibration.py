"""Ranges of tensors over some images, measured once, and the setting by which int8 is made from them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
from onnx import helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.quant_utils import compute_data_quant_params

from dnnsplit.graph.external_data import save
from dnnsplit.graph.feeds import Feed, Images, feeds_of, images_sha256
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.errors import NoiseError
from dnnsplit.ground.forms import formed
from dnnsplit.ground.markup import shown
from dnnsplit.quantize.names import free_stem
from dnnsplit.quantize.setting import QuantizationSetting
from dnnsplit.runtime.sessions import session, session_options

ENDS = {"ReduceMin": "least", "ReduceMax": "greatest"}
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranges of the tensors of one model over some images, and the setting they are for.

    Attributes
    ----------
    ranges : Mapping[str, tuple[float, float]]
        (least, greatest) value by tensor.
    setting : QuantizationSetting
        How int8 is made from them.
    model_sha256, images_sha256 : str
        What they were measured on.
    """

    ranges: Mapping[str, tuple[float, float]] = field(repr=False)
    setting: QuantizationSetting
    model_sha256: str
    images_sha256: str

    def _repr_html_(self) -> str:
        widest = sorted(self.ranges, key=lambda tensor: self.ranges[tensor][0] - self.ranges[tensor][1])[:8]
        rows = [(tensor, *self.ranges[tensor], *self.parameters(tensor)) for tensor in widest]
        title = f"Calibration({len(self.ranges)} tensors; model {self.model_sha256[:8]}, images {self.images_sha256[:8]})"
        columns = ["widest ranges", "least", "greatest", "scale", "zero point"]
        return shown(title, pd.DataFrame(rows, columns=columns)) + self.setting._repr_html_()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` wrote."""
        return formed(value, Calibration, NoiseError, "no calibration can be read from this")

    def only(self, tensors: Iterable[str]) -> Calibration:
        """Return the same calibration with the ranges of some tensors alone."""
        return replace(self, ranges={tensor: self._range(tensor) for tensor in tensors})

    def parameters(self, tensor: str) -> tuple[float, int]:
        """Return scale and zero point of an int8 tensor."""
        low, high = (np.float32(v) for v in self._range(tensor))
        if not np.isfinite([low, high]).all():
            message = f"tensor {tensor!r} ranges from {low} to {high}: it cannot be quantized; look for what made it so"
            raise NoiseError(message)
        kind, symmetric = _TYPES[self.setting.activation].tensor_type, self.setting.activation == "int8"
        zero, scale = compute_data_quant_params(np.array([low, high], np.float32), kind, symmetric)
        return float(scale), int(zero)

    def _range(self, tensor: str) -> tuple[float, float]:
        if tensor not in self.ranges:
            message = f"the calibration has no range of tensor {tensor!r}; calibrate this model"
            raise NoiseError(message)
        return self.ranges[tensor]


def calibrate(graph: LayerGraph, images: Images, setting: QuantizationSetting | str | None = None) -> Calibration:
    """Measure the range of every tensor over some images, once.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    images : Images
        float32 (n, *shape of one image) for a model with one input, else an array by input name.
    setting : QuantizationSetting | str | None, optional
        Kept with the ranges; or its name, "thesis" for the thesis' S8S8, symmetric, per tensor.

    Returns
    -------
    Calibration
    """
    model, setting = graph.model, QuantizationSetting.of(setting)
    feeds = feeds_of(model, images)
    tensors = sorted(tensor for tensor in _made(model) if _has_range(model, tensor))
    ranges = dict(zip(tensors, _ranges(model, tensors, feeds), strict=True)) if tensors else {}
    return Calibration(ranges, setting, model.sha256, images_sha256(feeds))


def _made(model: Model) -> set[str]:
    return {*model.inputs, *(tensor for node in model.nodes.values() for tensor in node.output if tensor)}


def _has_range(model: Model, tensor: str) -> bool:
    kind, shape = model.types.get(tensor, (0, ()))
    return kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16) and min(shape, default=1) > 0


def _ranges(model: Model, tensors: Sequence[str], feeds: Sequence[Feed]) -> list[tuple[float, float]]:
    """Run the model as it is written, each tensor reduced to its least and greatest value beside it."""
    stem = free_stem(model, "calibration", ENDS.values())
    nodes, outputs = [], []
    for i, tensor in enumerate(tensors):
        for op_type, end in ENDS.items():
            name = f"{stem}/{end}/{i}"
            nodes.append(helper.make_node(op_type, [tensor], [name], name=name, keepdims=0))
            outputs.append(helper.make_tensor_value_info(name, model.types[tensor][0], ()))
    proto = model.assemble([*model.nodes.values(), *nodes], [model.value_info(name) for name in model.inputs], outputs, name=stem)
    options = session_options(threads=0)  # all cores
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        one = session(save(proto, Path(folder)), options)
        names = [output.name for output in outputs]
        found = np.array([[float(value) for value in one.run(names, feed)] for feed in feeds])
    return list(zip(found[:, ::2].min(axis=0).tolist(), found[:, 1::2].max(axis=0).tolist(), strict=True))
