"""QuantizeLinear and DequantizeLinear as a model's opset has them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.errors import NoiseError

INTEGER_OPSET = 10  # the first with products of integers, which int8 kernels are; ONNX Runtime makes them of older models too
AXIS_OPSET = 13  # the first with scales along an axis; ONNX Runtime's own operators have them at every opset
OWN = "com.microsoft"


def opset_of(model: Model) -> int:
    """Return the version of ONNX's own operators that a model is written in."""
    return max((entry.version for entry in model.proto.opset_import if entry.domain in ("", "ai.onnx")), default=AXIS_OPSET)


def check_opset(model: Model) -> None:
    """Raise NoiseError for a model in whose opset no layer can run in int8."""
    opset = opset_of(model)
    if opset < INTEGER_OPSET:
        message = (
            f"{model.path.name} has opset {opset}, in which ONNX Runtime has no int8 convolution; int8 needs {INTEGER_OPSET} or "
            f"later: onnx.version_converter.convert_version(onnx.load(path), {AXIS_OPSET}) writes it so"
        )
        raise NoiseError(message)


def linear(model: Model, op_type: str, inputs: Sequence[str], output: str, name: str, axis: int | None = None) -> onnx.NodeProto:
    """Return a QuantizeLinear or DequantizeLinear, in ONNX Runtime's own domain where the opset of the model knows no axis."""
    node = helper.make_node(op_type, inputs, [output], name, domain="" if opset_of(model) >= AXIS_OPSET else OWN)
    node.attribute.extend([] if axis is None else [helper.make_attribute("axis", axis)])
    return node


def import_domains(proto: onnx.ModelProto) -> None:
    """Make a model import ONNX Runtime's own domain if its nodes are of that, in place."""
    if any(node.domain == OWN for node in proto.graph.node) and all(entry.domain != OWN for entry in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(OWN, 1))
