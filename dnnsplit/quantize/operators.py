"""QuantizeLinear and DequantizeLinear as a model's opset has them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from dnnsplit.graph.onnx_file import Model

AXIS_OPSET = 13  # the first with scales along an axis; ONNX Runtime's own operators have them at every opset
OWN = "com.microsoft"


def linear(model: Model, op_type: str, inputs: Sequence[str], output: str, name: str, axis: int | None = None) -> onnx.NodeProto:
    """Return a QuantizeLinear or DequantizeLinear, in ONNX Runtime's own domain where the opset of the model knows no axis."""
    node = helper.make_node(op_type, inputs, [output], name, domain="" if model.opset >= AXIS_OPSET else OWN)
    node.attribute.extend([] if axis is None else [helper.make_attribute("axis", axis)])
    return node


def import_domains(proto: onnx.ModelProto) -> None:
    """Make a model import ONNX Runtime's own domain if its nodes are of that, in place."""
    if any(node.domain == OWN for node in proto.graph.node) and all(entry.domain != OWN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(OWN, 1))
