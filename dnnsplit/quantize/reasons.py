"""Why no layer of a model can run in int8, in words."""

from __future__ import annotations

import onnx

from dnnsplit.graph.layers import QUANTIZABLE_OPS
from dnnsplit.graph.onnx_file import Model
from dnnsplit.graph.opset import INT8
from dnnsplit.quantize.kernels import INTEGER


def why_none(model: Model) -> str:
    """Return a sentence on a model of which no layer can run in int8, with what stands in the way of its products."""
    if model.opset < INT8:
        return f"no layer can run in int8: the model has opset {model.opset}, and int8 needs {INT8} or later"
    products = [node for node in model.nodes.values() if node.op_type in {*QUANTIZABLE_OPS, *INTEGER}]
    found = dict.fromkeys(_obstacle(model, node) for node in products) or [f"the model has no {', '.join(QUANTIZABLE_OPS)}"]
    return f"no layer can run in int8: {', '.join(found)}"


def _obstacle(model: Model, node: onnx.NodeProto) -> str:
    if node.op_type in INTEGER:
        return "its products are of integers already"
    for what, name in zip(("weights", "biases"), node.input[1:3], strict=False):
        maker = model.constant_nodes.get(model.producer.get(name, ""))
        if maker is not None and maker.op_type == "DequantizeLinear":
            return f"its {what} are int8 already"
        if name and not model.is_constant(name):
            return f"its {what} are no constants"
        if name in model.types and model.dtype(name) != "float32":
            return f"its {what} are {model.dtype(name)}"
    return "its products share a layer, or their layers have several outputs or one of 8 bits"
