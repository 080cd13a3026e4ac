"""QuantizeLinear and DequantizeLinear as a model's opset has them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from dnnsplit.graph.onnx_file import Model

# From the first with scales along an axis to the last that ONNX Runtime has kernels for; its own operators are at every opset.
ONNX_OPSETS = range(13, 26)
OWN = "com.microsoft"


def linear(model: Model, op_type: str, inputs: Sequence[str], output: str, name: str, axis: int | None = None) -> onnx.NodeProto:
    """Return a QuantizeLinear or DequantizeLinear, in ONNX Runtime's own domain where those of the model's opset will not do."""
    node = helper.make_node(op_type, inputs, [output], name, domain="" if model.opset in ONNX_OPSETS else OWN)
    node.attribute.extend([] if axis is None else [helper.make_attribute("axis", axis)])
    return node


def import_domains(proto: onnx.ModelProto) -> None:
    """Make a model import ONNX Runtime's own domain if its nodes are of that, in place."""
    if any(node.domain == OWN for node in proto.graph.node) and all(entry.domain != OWN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(OWN, 1))
