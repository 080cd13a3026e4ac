"""What "layer i is quantized" means, in one place: the same rewriting serves noise, times and the deployed parts.

A quantized layer runs its convolution (or matrix product) in int8, from an int8 input and int8 weights, and its output
tensor is int8 for all that read it, on the same server or another. It is written in ONNX Runtime's QDQ form:

    y = DQ(Q(activation(DQ(Q(conv(DQ(Q(x)), DQ(w_int8)))))))

Nothing outside the layer changes, so the noise of a scheme does not depend on the placement.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization.quant_utils import compute_data_quant_params, get_qmin_qmax_for_qType, quantize_nparray

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.differences import TINY
from dnnsplit.ground.errors import NoiseError
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.names import OF_LAYER, OF_TENSOR, free_stem
from dnnsplit.quantize.operators import linear

BIAS_MAX = 2**30
WITHOUT_C_OPSET = 11  # the first whose Gemm does without C


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """The nodes of one layer in int8; real values of its output are (wire - zero_point) * scale."""

    nodes: tuple[onnx.NodeProto, ...]  # in topological order; they read the layer's inputs and make its output under its own name
    weights: tuple[onnx.TensorProto, ...]  # constants that are not the model's own
    output: str  # the layer's output tensor
    wire: str  # the same tensor in int8, made by these nodes too: what crosses a link
    scale: float
    zero_point: int
    dtype: str  # of the wire, "uint8" or "int8"


def quantize_layer(graph: LayerGraph, name: str, calibration: Calibration) -> QuantizedLayer:
    """Rewrite one layer to int8: a Conv, ConvTranspose, Gemm or MatMul with constant weights and one output."""
    model = graph.model
    if calibration.model_sha256 != model.sha256:
        made_for = f"the calibration was made for another model (sha256 {calibration.model_sha256[:12]}...)"
        message = f"{made_for}; calibrate {model.path.name}"
        raise NoiseError(message)
    layer = graph.layer(name)
    outputs = {t.name for t in graph.outputs_of[name]}
    chief = model.nodes[name]
    if not layer.quantizable or len(outputs) != 1 or model.dtype(next(iter(outputs))) != "float32":
        message = f"layer {name!r} ({layer.op_type}) cannot run in int8; graph.quantizable() names those that can"
        raise NoiseError(message)
    (output,) = outputs
    stem, end = free_stem(model, name, OF_LAYER), free_stem(model, output, OF_TENSOR)
    build = _Builder(model, calibration)
    core = copy.deepcopy(chief)
    core.input[0] = build.round_trip(chief.input[0], f"{stem}/input")
    weight, bias, addend = _constants(model, core)
    input_scale = build.scale_of(chief.input[0])
    core.input[1], weight_scale = build.weight(core, weight, stem, _least_scale(bias, input_scale))
    del core.input[2:]
    if bias is not None:
        core.input.append(build.bias(bias, weight_scale * input_scale, stem))
    product = core.output[0] = f"{stem}/product"
    build.nodes.append(core)
    if addend is not None:
        inputs, product = [product, build.constant(f"{stem}/bias/float32", addend)], f"{stem}/product/sum"
        build.nodes.append(helper.make_node("Add", inputs, [product], name=f"{stem}/product/Add"))
    build.round_trip(product, f"{stem}/output", ranges_of=chief.output[0], result=chief.output[0])
    rest = [copy.deepcopy(model.nodes[n]) for n in layer.nodes if n != name]
    for node in rest:
        for i, made in enumerate(node.output):
            if made == output:
                node.output[i] = f"{end}/float32"
        build.nodes.append(node)
    if output != chief.output[0]:
        build.round_trip(f"{end}/float32", end, ranges_of=output, result=output)
    build.sort()
    wire = next(n.input[0] for n in build.nodes if n.op_type == "DequantizeLinear" and n.output[0] == output)
    scale, zero = calibration.parameters(output)
    weights = tuple(build.weights.values())
    return QuantizedLayer(tuple(build.nodes), weights, output, wire, scale, zero, calibration.setting.activation)


def _constants(model: Model, core: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return the weights, the bias of the channels, and what is added to the product instead where it is none of channels.

    The factors of a Gemm go from its attributes into them: its int8 kernel has no place for the second.
    """
    weight = model.weight(core.input[1])
    bias = model.weight(core.input[2]) if len(core.input) > 2 and core.input[2] else None
    if core.op_type != "Gemm":
        return weight, bias, None
    factors = {attribute.name: np.float32(attribute.f) for attribute in core.attribute if attribute.name in ("alpha", "beta")}
    for attribute in [attribute for attribute in core.attribute if attribute.name in factors]:
        core.attribute.remove(attribute)
    weight = weight * factors.get("alpha", np.float32(1))
    channels = model.types[core.output[0]][1][-1:]
    none = None if model.opset >= WITHOUT_C_OPSET else np.zeros(channels, np.float32)
    if bias is None or not factors.get("beta", 1):
        return weight, none, None
    bias = np.asarray(bias * factors.get("beta", np.float32(1)))
    if max(bias.shape[:-1], default=1) > 1:
        return weight, none, bias
    return weight, np.broadcast_to(bias.ravel(), channels), None


def ranges_needed(graph: LayerGraph, names: Iterable[str]) -> tuple[str, ...]:
    """Return the tensors whose ranges the quantization of some layers rests on, sorted."""
    tensors = set()
    for name in names:
        chief = graph.model.nodes[name]
        tensors |= {chief.input[0], chief.output[0], *(t.name for t in graph.outputs_of[name])}
    return tuple(sorted(tensors))


class _Builder:
    """Nodes and constants of one quantized layer, while they are made."""

    def __init__(self, model: Model, calibration: Calibration) -> None:
        self.model = model
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
        for op_type, given, made in (("QuantizeLinear", tensor, wire), ("DequantizeLinear", wire, result)):
            self.nodes.append(linear(self.model, op_type, [given, *parameters], made, f"{stem}/{op_type}"))
        return result

    def weight(self, chief: onnx.NodeProto, value: np.ndarray, name: str, least: np.ndarray) -> tuple[str, np.ndarray]:
        """Add int8 weights and their DQ; return the dequantized name and the scale (a scalar or one per channel).

        `least` is what the bias needs of the scale, of each channel or of all: see `_least_scale`.
        """
        setting = self.calibration.setting
        kind = onnx.TensorProto.INT8
        axis = _channel_axis(chief, value) if setting.per_channel else None
        slices = [value] if axis is None else list(np.moveaxis(value, axis, 0))
        pairs = [compute_data_quant_params(s.ravel(), kind, True, setting.reduce_range) for s in slices]
        least = np.broadcast_to(least if axis is not None and least.size == len(slices) else least.max(), len(slices))
        # a channel of zeros has a scale of 1 from ONNX Runtime, whatever its bias; here it is as fine as the bias can be
        own = [float(s) if v.any() or not low else 0.0 for v, (_, s), low in zip(slices, pairs, least, strict=True)]
        scale = np.maximum(np.array(own, np.float32), least.astype(np.float32))
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
        return self.dequantized(inputs, f"{name}/weight", axis), np.asarray(scale)

    def bias(self, value: np.ndarray, scale: np.ndarray, name: str) -> str:
        """Add the bias as int32 in the scale of the products, as the int8 kernels take it."""
        scale = np.broadcast_to(np.maximum(np.asarray(scale, np.float32), np.float32(TINY)), value.shape)
        stored = np.round(value.astype(np.float64) / scale).astype(np.int32)  # it fits: see `_least_scale`
        inputs = [
            self.constant(f"{name}/bias/int32", stored),
            self.constant(f"{name}/bias/scale", np.ascontiguousarray(scale)),
            self.constant(f"{name}/bias/zero_point", np.zeros(value.shape, np.int32)),
        ]
        return self.dequantized(inputs, f"{name}/bias", 0)

    def dequantized(self, inputs: list[str], stem: str, axis: int | None) -> str:
        """Append the DQ of a constant, along one axis or as a whole; return the name of its value."""
        result = f"{stem}/dequantized"
        self.nodes.append(linear(self.model, "DequantizeLinear", inputs, result, f"{stem}/DequantizeLinear", axis))
        return result

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


def _least_scale(bias: np.ndarray | None, input_scale: float) -> np.ndarray:
    """Return the least scale of the weights with which a bias fits half of int32; the sums of products have the other half.

    A channel of weights near zero (folded batch normalisation, pruning) has a scale in which its bias would saturate. With a
    greater one its weights are coarser, and no more than the bias' own rounding is lost (onnxruntime issues 11415, 22020).
    """
    if bias is None:
        return np.zeros(1)
    size = np.abs(bias.astype(np.float64)).ravel()
    return np.where(size > 0, np.maximum(size / (BIAS_MAX * input_scale), TINY / min(input_scale, 1.0)), 0.0)


def _channel_axis(chief: onnx.NodeProto, value: np.ndarray) -> int | None:
    if chief.op_type == "Conv":
        return 0
    if chief.op_type == "ConvTranspose":
        groups = next((a.i for a in chief.attribute if a.name == "group"), 1)
        return 1 if groups == 1 else None
    if chief.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in chief.attribute) else 1
    return value.ndim - 1 if value.ndim == 2 else None
