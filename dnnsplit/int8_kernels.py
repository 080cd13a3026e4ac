"""Which layers run in int8 is decided by the plan alone: the kernels that ONNX Runtime chose for a part, held against it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from dnnsplit.blocks import optimize
from dnnsplit.graph import LayerGraph
from dnnsplit.grouping import node_of
from dnnsplit.model import Model

# Products in integers. What only moves or compares int8 values (MaxPool, Transpose, ...) rounds nothing that the plan does not.
INTEGER = frozenset({
    "QLinearConv", "QLinearConvTranspose", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm",
    "DynamicQuantizeMatMul", "QAttention", "DynamicQuantizeLSTM", "MatMulNBits",
})  # fmt: skip


def stray_layers(part: Path, model: Model, graph: LayerGraph, quantized: Collection[str]) -> dict[str, str]:
    """Return the layers that run in int8 in a part although the plan has them in float32, and the kernel of each.

    Layers whose own nodes are integer products, as in a model that was quantized before, are what the model says they are.

    Parameters
    ----------
    part : its ONNX file
    quantized : layers of the plan that run in int8
    """
    of = {node: layer.name for layer in graph.layers for node in layer.nodes}
    found = {}
    for kernel in optimize(part).graph.node:
        node = node_of(model, kernel) if kernel.op_type in INTEGER else None
        if node and of.get(node) not in quantized and not _integer(model, graph.layer(of[node]).nodes):
            found[of[node]] = kernel.op_type
    return found


def _integer(model: Model, nodes: Collection[str]) -> bool:
    return any(model.nodes[n].op_type in INTEGER | {"QuantizeLinear", "DequantizeLinear"} for n in nodes)
