"""What "layer i is quantized" means, in one place: the same rewriting serves noise, times and the deployed parts.

A quantized layer runs its convolution (or matrix product) in int8, from an int8 input and int8 weights, and its output
tensor is int8 for all that read it, on the same server or another. It is written in ONNX Runtime's QDQ form:

    y = DQ(Q(activation(DQ(Q(conv(DQ(Q(x)), DQ(w_int8)))))))

Nothing outside the layer changes, so the noise of a scheme does not depend on the placement.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.quant_utils import compute_data_quant_params, get_qmin_qmax_for_qType, quantize_nparray

from dnnsplit.errors import NoiseError, nearest
from dnnsplit.files import sha256
from dnnsplit.graph import LayerGraph
from dnnsplit.model import Model, read_model

_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


@dataclass(frozen=True)
class QuantizationSetting:
    """How tensors become int8.

    Attributes
    ----------
    activation : "uint8" (asymmetric) or "int8" (symmetric)
    per_channel : one scale per output channel of the weights, which are always symmetric int8
    reduce_range : weights use 7 of the 8 bits, which keeps CPUs without VNNI from saturating 16-bit sums
    calibration : "minmax"
    """

    activation: str = "uint8"
    per_channel: bool = True
    reduce_range: bool = True
    calibration: str = "minmax"

    def __post_init__(self) -> None:
        if self.activation not in _TYPES:
            raise NoiseError(f"activation type {self.activation!r} is unknown{nearest(self.activation, _TYPES)}")
        if self.calibration != "minmax":
            raise NoiseError(f"calibration {self.calibration!r} is unknown; there is 'minmax'")


#: The thesis' setting: S8S8, symmetric, per tensor.
THESIS = QuantizationSetting("int8", per_channel=False, reduce_range=False)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranges of the tensors of one model over some images, and the setting they are for.

    Attributes
    ----------
    ranges : (least, greatest) value by tensor
    setting : how int8 is made from them
    model_sha256, images_sha256 : what they were measured on
    """

    ranges: Mapping[str, tuple[float, float]] = field(repr=False)
    setting: QuantizationSetting
    model_sha256: str
    images_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` wrote."""
        try:
            ranges = {name: (float(low), float(high)) for name, (low, high) in value["ranges"].items()}
            setting = QuantizationSetting(**value["setting"])
            return Calibration(ranges, setting, value["model_sha256"], value["images_sha256"])
        except (KeyError, TypeError, ValueError) as error:
            raise NoiseError(f"no calibration can be read from this: {error!r}") from None

    def only(self, tensors: Iterable[str]) -> Calibration:
        """Return the same calibration with the ranges of some tensors alone."""
        return replace(self, ranges={tensor: self.ranges[tensor] for tensor in tensors})

    def parameters(self, tensor: str) -> tuple[float, int]:
        """Return scale and zero point of an int8 tensor."""
        if tensor not in self.ranges:
            raise NoiseError(f"the calibration has no range of tensor {tensor!r}; calibrate this model")
        low, high = (np.float32(v) for v in self.ranges[tensor])
        kind, symmetric = _TYPES[self.setting.activation].tensor_type, self.setting.activation == "int8"
        zero, scale = compute_data_quant_params(np.array([low, high], np.float32), kind, symmetric)
        return float(scale), int(zero)


def calibrate(
    graph: LayerGraph, images: np.ndarray | Mapping[str, np.ndarray], setting: QuantizationSetting | None = None
) -> Calibration:
    """Measure the range of every tensor over some images, once.

    Parameters
    ----------
    graph : read from an ONNX file
    images : float32 (n, *shape of one image) for a model with one input, else an array by input name
    setting : kept with the ranges

    Returns
    -------
    Calibration
    """
    model = read_model(model_path(graph))
    feeds = feeds_of(model, images)
    setting = setting or QuantizationSetting()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model.proto, path)
        calibrator = create_calibrator(
            path, augmented_model_path=str(Path(folder) / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
        )
        calibrator.collect_data(_Reader(feeds))
        data = calibrator.compute_data()
    ranges = {name: tuple(float(np.asarray(v).item()) for v in data[name].range_value) for name in data.keys()}  # noqa: SIM118
    return Calibration(ranges, setting, model.sha256, images_sha256(feeds))


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def model_path(graph: LayerGraph) -> Path:
    """Return the ONNX file behind a graph."""
    if graph.model_path is None:
        raise NoiseError("this graph was built by hand; noise and times are measured on graphs from dnnsplit.load('model.onnx')")
    return graph.model_path


def feeds_of(model: Model, images: np.ndarray | Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the inputs of one inference per image.

    Parameters
    ----------
    images : (n, *shape) for a model with one input whose batch is 1, or that by input name
    """
    by_name = dict(images) if isinstance(images, Mapping) else {model.inputs[0]: images}
    if set(by_name) != set(model.inputs):
        raise NoiseError(f"the model's inputs are {', '.join(model.inputs)}; images were given for {', '.join(by_name)}")
    feeds: list[dict[str, np.ndarray]] = []
    for name, value in by_name.items():
        array, shape = np.asarray(value), model.types[name][1]
        if array.ndim != len(shape) or array.shape[1:] != shape[1:] or not len(array) or len(array) % shape[0]:
            needed = ", ".join(map(str, shape[1:]))
            raise NoiseError(f"images for {name!r} have the shape {array.shape}; the model needs (n, {needed})")
        array = array.astype(model.dtype(name))
        if not feeds:
            feeds = [{} for _ in range(len(array) // shape[0])]
        for feed, start in zip(feeds, range(0, len(array), shape[0]), strict=True):
            feed[name] = array[start : start + shape[0]]
    return feeds


def images_sha256(feeds: list[dict[str, np.ndarray]]) -> str:
    """Return a hash of all inputs."""
    return sha256(b"".join(np.ascontiguousarray(feed[name]).tobytes() for feed in feeds for name in sorted(feed)))


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """The nodes of one layer in int8.

    Attributes
    ----------
    nodes : in topological order; they read the layer's inputs and make its output under its own name
    weights : constants that are not the model's own
    output : the layer's output tensor
    wire : the same tensor in int8, made by these nodes too: what crosses a link
    scale, zero_point : real = (wire - zero_point) * scale
    dtype : of the wire, "uint8" or "int8"
    """

    nodes: tuple[onnx.NodeProto, ...]
    weights: tuple[onnx.TensorProto, ...]
    output: str
    wire: str
    scale: float
    zero_point: int
    dtype: str


def quantize_layer(model: Model, graph: LayerGraph, name: str, calibration: Calibration) -> QuantizedLayer:
    """Rewrite one layer to int8.

    Raises
    ------
    NoiseError : the layer is not one of Conv, ConvTranspose, Gemm, MatMul with constant weights and one output, or
        the calibration is of another model
    """
    if calibration.model_sha256 != model.sha256:
        made_for = f"the calibration was made for another model (sha256 {calibration.model_sha256[:12]}...)"
        raise NoiseError(f"{made_for}; calibrate {model.path.name}")
    layer = graph.layer(name)
    outputs = {t.name for t in graph.outputs_of[name]}
    chief = model.nodes[name]
    if not layer.quantizable or len(outputs) != 1:
        raise NoiseError(f"layer {name!r} ({layer.op_type}) cannot run in int8; graph.quantizable() names those that can")
    (output,) = outputs
    build = _Builder(calibration)
    core = copy.deepcopy(chief)
    core.input[0] = build.round_trip(chief.input[0], f"{name}/input")
    core.input[1], weight_scale = build.weight(chief, model.weight(chief.input[1]), name)
    if len(chief.input) > 2 and chief.input[2]:
        scale = weight_scale * build.scale_of(chief.input[0])
        core.input[2] = build.bias(model.weight(chief.input[2]), scale, name)
    core.output[0] = f"{name}/float32"
    build.nodes.append(core)
    build.round_trip(core.output[0], f"{name}/output", ranges_of=chief.output[0], result=chief.output[0])
    rest = [copy.deepcopy(model.nodes[n]) for n in layer.nodes if n != name]
    for node in rest:
        for i, made in enumerate(node.output):
            if made == output:
                node.output[i] = f"{output}/float32"
        build.nodes.append(node)
    if rest:
        build.round_trip(f"{output}/float32", output, ranges_of=output, result=output)
    build.sort()
    wire = next(n.input[0] for n in build.nodes if n.op_type == "DequantizeLinear" and n.output[0] == output)
    scale, zero = calibration.parameters(output)
    weights = tuple(build.weights.values())
    return QuantizedLayer(tuple(build.nodes), weights, output, wire, scale, zero, calibration.setting.activation)


def ranges_needed(model: Model, graph: LayerGraph, names: Iterable[str]) -> tuple[str, ...]:
    """Return the tensors whose ranges the quantization of some layers rests on, sorted."""
    tensors = set()
    for name in names:
        tensors |= {model.nodes[name].input[0], model.nodes[name].output[0], *(t.name for t in graph.outputs_of[name])}
    return tuple(sorted(tensors))


class _Builder:
    """Nodes and constants of one quantized layer, while they are made."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights[name] = numpy_helper.from_array(value, name)
        return name

    def scale_of(self, tensor: str) -> float:
        return self.calibration.parameters(tensor)[0]

    def round_trip(self, tensor: str, stem: str, ranges_of: str | None = None, result: str | None = None) -> str:
        """Append Q and DQ of a tensor; return the name of the value that comes back."""
        scale, zero = self.calibration.parameters(ranges_of or tensor)
        parameters = [
            self.constant(f"{stem}/scale", np.array(scale, np.float32)),
            self.constant(f"{stem}/zero_point", np.array(zero, self.calibration.setting.activation)),
        ]
        wire, result = f"{stem}/int8", result or f"{stem}/dequantized"
        self.nodes.append(helper.make_node("QuantizeLinear", [tensor, *parameters], [wire], name=f"{stem}/QuantizeLinear"))
        self.nodes.append(helper.make_node("DequantizeLinear", [wire, *parameters], [result], name=f"{stem}/DequantizeLinear"))
        return result

    def weight(self, chief: onnx.NodeProto, value: np.ndarray, name: str) -> tuple[str, np.ndarray]:
        """Add int8 weights and their DQ; return the dequantized name and the scale (a scalar or one per channel)."""
        setting = self.calibration.setting
        kind = onnx.TensorProto.INT8
        axis = _channel_axis(chief, value) if setting.per_channel else None
        slices = [value] if axis is None else list(np.moveaxis(value, axis, 0))
        pairs = [compute_data_quant_params(s.ravel(), kind, True, setting.reduce_range) for s in slices]
        scale = np.array([float(s) for _, s in pairs], np.float32)
        low, high = (int(v) for v in get_qmin_qmax_for_qType(kind, setting.reduce_range, symmetric=True))
        zero = np.zeros((), np.int8)
        stored = [
            np.asarray(quantize_nparray(kind, s, np.float32(k), zero, low, high)) for s, k in zip(slices, scale, strict=True)
        ]
        whole = stored[0] if axis is None else np.moveaxis(np.stack(stored), 0, axis)
        scale = scale[0] if axis is None else scale
        inputs = [
            self.constant(f"{name}/weight/int8", np.ascontiguousarray(whole.astype(np.int8))),
            self.constant(f"{name}/weight/scale", np.asarray(scale, np.float32)),
            self.constant(f"{name}/weight/zero_point", np.zeros(np.shape(scale), np.int8)),
        ]
        attributes = {} if axis is None else {"axis": axis}
        node = helper.make_node(
            "DequantizeLinear", inputs, [f"{name}/weight/dequantized"], name=f"{name}/weight/DequantizeLinear", **attributes
        )
        self.nodes.append(node)
        return node.output[0], np.asarray(scale)

    def bias(self, value: np.ndarray, scale: np.ndarray, name: str) -> str:
        """Add the bias as int32 in the scale of the products, as the int8 kernels take it."""
        scale = np.broadcast_to(np.asarray(scale, np.float32), value.shape)
        stored = np.clip(np.round(value / scale), -(2**31), 2**31 - 1).astype(np.int32)
        inputs = [
            self.constant(f"{name}/bias/int32", stored),
            self.constant(f"{name}/bias/scale", np.ascontiguousarray(scale)),
            self.constant(f"{name}/bias/zero_point", np.zeros(value.shape, np.int32)),
        ]
        node = helper.make_node(
            "DequantizeLinear", inputs, [f"{name}/bias/dequantized"], name=f"{name}/bias/DequantizeLinear", axis=0
        )
        self.nodes.append(node)
        return node.output[0]

    def sort(self) -> None:
        """Order the nodes topologically; what they read from outside is there already."""
        made = {o for node in self.nodes for o in node.output}
        ordered, done = [], set()
        while self.nodes:
            ready = [n for n in self.nodes if all(i in done or i not in made for i in n.input)]
            self.nodes = [n for n in self.nodes if n not in ready]
            ordered += ready
            done |= {o for n in ready for o in n.output}
        self.nodes = ordered


def _channel_axis(chief: onnx.NodeProto, value: np.ndarray) -> int | None:
    if chief.op_type == "Conv":
        return 0
    if chief.op_type == "ConvTranspose":
        groups = next((a.i for a in chief.attribute if a.name == "group"), 1)
        return 1 if groups == 1 else None
    if chief.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in chief.attribute) else 1
    return value.ndim - 1 if value.ndim == 2 else None
