"""Why no layer of a model can run in int8, in words."""

from __future__ import annotations

import onnx

from dnnsplit.graph.layers import QUANTIZABLE_OPS
from dnnsplit.graph.onnx_file import Model
from dnnsplit.quantize.kernels import INTEGER
from dnnsplit.quantize.operators import INTEGER_OPSET, opset_of


def why_none(model: Model) -> str:
    """Return a sentence on a model of which no layer can run in int8, with what stands in the way of its products."""
    if opset_of(model) < INTEGER_OPSET:
        return f"no layer can run in int8: the model has opset {opset_of(model)}, and int8 needs {INTEGER_OPSET} or later"
    products = [node for node in model.nodes.values() if node.op_type in {*QUANTIZABLE_OPS, *INTEGER}]
    found = dict.fromkeys(_obstacle(model, node) for node in products) or [f"the model has no {', '.join(QUANTIZABLE_OPS)}"]
    return f"no layer can run in int8: {', '.join(found)}"


def _obstacle(model: Model, node: onnx.NodeProto) -> str:
    if node.op_type in INTEGER:
        return "its products are of integers already"
    _, weight = node.input[:2]
    maker = model.constant_nodes.get(model.producer.get(weight, ""))
    if maker is not None and maker.op_type == "DequantizeLinear":
        return "its weights are int8 already"
    if not model.is_constant(weight):
        return "its weights are no constants"
    if weight in model.types and model.dtype(weight) != "float32":
        return f"its weights are {model.dtype(weight)}"
    return "its products share a layer or have several outputs"
