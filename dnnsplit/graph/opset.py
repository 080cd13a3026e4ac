"""Models of old opsets: int8 has operators from opset 10 on, so that older ones are read as a converted copy."""

from __future__ import annotations

import onnx
from onnx import version_converter

from dnnsplit.graph.cleanup import without_weights

INT8 = 10  # the first opset with QLinearConv and QLinearMatMul


def opset_of(proto: onnx.ModelProto) -> int:
    """Return the version of the default domain."""
    return next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 1)


def raised(proto: onnx.ModelProto) -> tuple[onnx.ModelProto | None, str]:
    """Return a model as one of the first opset with int8 operators, or None and the reason why that cannot be."""
    try:
        converted = version_converter.convert_version(without_weights(proto), INT8)
    except Exception as error:  # onnx's converter raises several kinds, its own and RuntimeError
        return None, str(error).strip().splitlines()[0]
    graph, small = converted.graph, {weight.name for weight in converted.graph.initializer}
    own = {weight.name for weight in proto.graph.initializer}
    inputs = [value for value in graph.input if value.name not in own]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(weight for weight in proto.graph.initializer if weight.name not in small)
    return converted, ""
