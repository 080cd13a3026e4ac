"""Ranges of tensors over some images, measured once, and the setting by which int8 is made from them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.quant_utils import compute_data_quant_params

from dnnsplit.graph.external_data import save
from dnnsplit.graph.feeds import Feed, Images, feeds_of, images_sha256
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, nearest, raise_problems
from dnnsplit.ground.forms import formed
from dnnsplit.ground.kinds import told
from dnnsplit.ground.markup import folded, shown
from dnnsplit.ground.units import is_number
from dnnsplit.quantize.names import free_stem
from dnnsplit.quantize.setting import QuantizationSetting
from dnnsplit.runtime.sessions import Session, session, session_options

ENDS = ("ReduceMin", "ReduceMax")
_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


@dataclass(frozen=True, eq=False, repr=False)
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

    Examples
    --------
    >>> import dnnsplit as ds
    >>> calibration = ds.calibrate(ds.examples.yolo11n().graph, ds.scenes.images(1))
    >>> least, greatest = calibration.ranges["images"]
    >>> 0 <= least < greatest <= 1
    True
    """

    ranges: Mapping[str, tuple[float, float]] = field(repr=False)
    setting: QuantizationSetting
    model_sha256: str
    images_sha256: str

    def __post_init__(self) -> None:
        check_arguments(Calibration, vars(self), NoiseError, but=("ranges",))
        ranges = self.ranges.items() if isinstance(self.ranges, Mapping) else [("", None)]
        if not all(isinstance(name, str) and _is_range(ends) for name, ends in ranges):  # NaN where a tensor holds it
            message = f"Calibration: ranges is {told(self.ranges)}; give a mapping of texts to (a number, a number)"
            raise NoiseError(message)

    def __repr__(self) -> str:
        of = f"model {self.model_sha256[:8]}, images {self.images_sha256[:8]}"
        return folded(f"Calibration({len(self.ranges)} tensors; {of})")

    def _repr_html_(self) -> str:
        widest = sorted(self.ranges, key=lambda tensor: self.ranges[tensor][0] - self.ranges[tensor][1])[:8]
        rows = [(tensor, *self.ranges[tensor], *self.parameters(tensor)) for tensor in widest]
        columns = ["widest ranges", "least", "greatest", "scale", "zero point"]
        return shown(self, pd.DataFrame(rows, columns=columns)) + self.setting._repr_html_()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back: the same that a file gives, as such values are compared."""
        return asdict(self) | {"ranges": {tensor: list(ends) for tensor, ends in self.ranges.items()}}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` wrote."""
        check_arguments(Calibration.from_json, locals())
        return formed(value, Calibration, NoiseError, "no calibration can be read from this")

    def only(self, tensors: Iterable[str]) -> Calibration:
        """Return the same calibration with the ranges of some tensors alone."""
        check_arguments(Calibration.only, locals())
        tensors = tuple(tensors)
        lost = [f"tensors: there is no range of {t!r}{nearest(t, self.ranges)}" for t in tensors if t not in self.ranges]
        raise_problems(NoiseError, "calibration", lost)
        return replace(self, ranges={tensor: self.ranges[tensor] for tensor in tensors})

    def parameters(self, tensor: str) -> tuple[float, int]:
        """Return scale and zero point of an int8 tensor."""
        check_arguments(Calibration.parameters, locals())
        if tensor not in self.ranges:
            message = f"the calibration has no range of tensor {tensor!r}; calibrate this model"
            raise NoiseError(message)
        low, high = (np.float32(v) for v in self.ranges[tensor])
        if not np.isfinite([low, high]).all():
            message = f"tensor {tensor!r} ranges from {low} to {high}: it cannot be quantized; look for what made it so"
            raise NoiseError(message)
        kind, symmetric = _TYPES[self.setting.activation].tensor_type, self.setting.activation == "int8"
        zero, scale = compute_data_quant_params(np.array([low, high], np.float32), kind, symmetric)
        return float(scale), int(zero)


def calibrate(
    graph: LayerGraph, images: Images, setting: QuantizationSetting | Mapping[str, Any] | str | None = None
) -> Calibration:
    """Measure the range of every float32 tensor over some images, once.

    The model runs as it is written, without optimisations, on all cores; a value that is no number (NaN) counts only where
    a tensor has no other.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    images : Images
        float32 (n, *shape of one image) for a model with one input, else an array by input name.
    setting : QuantizationSetting | Mapping[str, Any] | str | None, optional
        Kept with the ranges; or its JSON value, or its name, "thesis" for the thesis' S8S8, symmetric, per tensor.

    Returns
    -------
    Calibration

    Examples
    --------
    >>> import dnnsplit as ds
    >>> calibration = ds.calibrate(ds.examples.yolo11n().graph, ds.scenes.images(1))
    >>> calibration.setting
    QuantizationSetting(activation='uint8', per_channel=True, reduce_range=True)
    """
    check_arguments(calibrate, locals())
    model, setting = graph.model, QuantizationSetting.of(setting)
    feeds = feeds_of(model, images)
    return Calibration(measured_ranges(model, feeds), setting, model.sha256, images_sha256(feeds))


def measured_ranges(model: Model, feeds: Sequence[Feed]) -> dict[str, tuple[float, float]]:
    """Return the (least, greatest) value of each tensor over some inferences, sorted by name; see `calibrate`."""
    tensors = _measurable(model)
    one = _ranging(model, tensors)
    found = np.array([one.run(None, feed) for feed in feeds], np.float32).reshape(len(feeds), len(tensors), 2)
    low, high = np.fmin.reduce(found[..., 0]).tolist(), np.fmax.reduce(found[..., 1]).tolist()
    return dict(sorted(zip(tensors, zip(low, high, strict=True), strict=True)))


def _measurable(model: Model) -> list[str]:
    """Return the tensors that have a range: float32, of known shape, not empty, and no weights."""
    made = (tensor for node in model.proto.graph.node for tensor in node.output)
    found = {t: model.types[t] for t in (*model.inputs, *made) if t in model.types and t not in model.weights}
    return [tensor for tensor, (kind, shape) in found.items() if kind == TensorProto.FLOAT and all(size > 0 for size in shape)]


def _ranging(model: Model, tensors: Sequence[str]) -> Session:
    """Make a session that delivers the least and the greatest value of some tensors, one pair after the other, and nothing else.

    What it runs comes in the order that is written here, so that no tensor is kept for long.
    """
    stem = free_stem(model, "calibration", ENDS)
    extremes = {
        tensor: [helper.make_node(kind, [tensor], [f"{stem}/{kind}/{i}"], keepdims=0) for kind in ENDS]
        for i, tensor in enumerate(tensors)
    }
    first = [tensor for tensor in extremes if tensor in model.taken or model.is_constant(tensor)]
    nodes = [extreme for tensor in first for extreme in extremes[tensor]]
    for node in model.nodes.values():
        nodes += [node, *(extreme for tensor in node.output for extreme in extremes.get(tensor, []))]
    delivered = [helper.make_tensor_value_info(n.output[0], TensorProto.FLOAT, []) for pair in extremes.values() for n in pair]
    received = [model.value_info(tensor) for tensor in model.inputs]
    options = session_options(threads=0)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.enable_cpu_mem_arena = False
    with tempfile.TemporaryDirectory() as folder:
        return session(save(model.assemble(nodes, received, delivered), Path(folder), apart=True), options)


def _is_range(ends: object) -> bool:
    return isinstance(ends, tuple | list) and len(ends) == 2 and all(map(is_number, ends))
