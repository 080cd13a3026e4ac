"""Which layers run in int8 is decided by the plan alone: the kernels that ONNX Runtime chose for a part, held against it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from dnnsplit.graph.fusion import node_of
from dnnsplit.graph.layers import QUANTIZABLE_OPS, LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.graph.optimizing import optimize
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import QuantizedLayer

# Products in integers. What only moves or compares int8 values (MaxPool, Transpose, ...) rounds nothing that the plan does not.
INTEGER = frozenset({
    "QLinearConv", "QLinearConvTranspose", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm",
    "DynamicQuantizeMatMul", "QAttention", "DynamicQuantizeLSTM", "MatMulNBits",
})  # fmt: skip


def stray_layers(part: Path, graph: LayerGraph, quantized: Collection[str]) -> dict[str, str]:
    """Return the layers that run in int8 in a part although the plan has them in float32, and the kernel of each.

    Layers whose own nodes are integer products, as in a model that was quantized before, are what the model says they are. A
    product of two tensors that are int8 already, as in attention, has no weights to round: in integers it is what it was.
    """
    model, of = graph.model, {node: layer.name for layer in graph.layers for node in layer.nodes}
    found = {}
    for kernel in optimize(part).graph.node:
        node = node_of(model, kernel) if kernel.op_type in INTEGER else None
        if node is None or of[node] in quantized:
            continue
        nodes = graph.layer(of[node]).nodes
        if _weighs(model, nodes) and not _integer(model, nodes):
            found[of[node]] = kernel.op_type
    return found


def float32_products(graph: LayerGraph, int8: Mapping[str, QuantizedLayer]) -> tuple[str, ...]:
    """Return those of the layers in int8 that the CPU multiplies in float32 between both conversions, for want of a kernel.

    Their tensors are int8 all the same, and so is their noise; only time is lost. On x86 these are layers of int8 activations
    that are read twice, as by SiLU, which ONNX Runtime does not turn into uint8 ones.
    """
    whole = build_part(graph, graph.topological, graph.model.outputs, int8)
    kernels = (kernel for kernel in optimize(whole).graph.node if kernel.op_type in INTEGER)
    integer = {node_of(graph.model, kernel) for kernel in kernels}
    return tuple(name for name in int8 if not integer.intersection(graph.layer(name).nodes))


def _weighs(model: Model, nodes: Collection[str]) -> bool:
    products = (model.nodes[n] for n in nodes if model.nodes[n].op_type in QUANTIZABLE_OPS)
    return any(model.is_constant(tensor) for node in products for tensor in node.input[:2])


def _integer(model: Model, nodes: Collection[str]) -> bool:
    return any(model.nodes[n].op_type in INTEGER | {"QuantizeLinear", "DequantizeLinear"} for n in nodes)
