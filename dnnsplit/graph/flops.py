"""Floating-point operations per ONNX node: 2 x multiply-accumulates where there are any, else one per output element."""

from __future__ import annotations

import math

import onnx

from dnnsplit.graph.onnx_file import Model

# Data that only moves costs no arithmetic.
_MOVES = frozenset({
    "Reshape", "Transpose", "Concat", "Split", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Gather", "GatherElements",
    "GatherND", "Expand", "Tile", "Pad", "Shape", "Size", "Cast", "Constant", "ConstantOfShape", "Range", "DepthToSpace",
    "SpaceToDepth", "ScatterND", "ScatterElements", "NonZero", "Dropout",
})  # fmt: skip
# Operations per output element of what is not one operation; the counts are conventions, small beside any Conv.
_PER_ELEMENT = {
    "Sigmoid": 4, "Tanh": 6, "Exp": 1, "Erf": 8, "Gelu": 10, "HardSigmoid": 3, "HardSwish": 4, "Softplus": 3, "Mish": 8,
}  # fmt: skip
_PER_INPUT_ELEMENT = {
    "Softmax": 5, "LogSoftmax": 6, "LayerNormalization": 8, "BatchNormalization": 2, "InstanceNormalization": 8,
    "GlobalAveragePool": 1, "GlobalMaxPool": 1, "TopK": 1, "ArgMax": 1, "ArgMin": 1,
}  # fmt: skip
_RESIZE = {"nearest": 0, "linear": 7, "cubic": 31}


def node_flops(model: Model, node: onnx.NodeProto) -> float:
    """Return the floating-point operations of one node; of products without those that add the bias."""
    out = _elements(model, next(o for o in node.output if o))
    kind = node.op_type
    if kind in ("Conv", "ConvTranspose"):
        moves = out if kind == "Conv" else _elements(model, node.input[0])
        return 2.0 * moves * math.prod(_shape(model, node.input[1])[1:])
    if kind in ("Gemm", "MatMul"):
        left = _shape(model, node.input[0])
        transposed = kind == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
        return 2.0 * out * (left[0] if transposed else left[-1])
    if kind == "Einsum":
        return 2.0 * _einsum(model, node)
    if kind in _MOVES:
        return 0.0
    if kind in ("MaxPool", "AveragePool"):
        return out * float(math.prod(next(a.ints for a in node.attribute if a.name == "kernel_shape")))
    if kind.startswith("Reduce"):
        return _elements(model, node.input[0])
    if kind == "Resize":
        mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "nearest")
        return out * _RESIZE.get(mode, 0)
    if kind in _PER_INPUT_ELEMENT:
        return _elements(model, node.input[0]) * _PER_INPUT_ELEMENT[kind]
    return out * _PER_ELEMENT.get(kind, 1)


def _einsum(model: Model, node: onnx.NodeProto) -> float:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    sizes: dict[str, int] = {}
    for term, tensor in zip(equation.split("->")[0].split(","), node.input, strict=True):
        shape = _shape(model, tensor)
        head, _, tail = term.partition("...")
        between = len(shape) - len(head) - len(tail)  # the axes that the ellipsis stands for, told apart from the right
        axes = [*head, *(f"...{k}" for k in range(between, 0, -1)), *tail]
        for axis, size in zip(axes, shape, strict=True):
            sizes[axis] = max(size, sizes.get(axis, 1))
    return float(math.prod(sizes.values()))


def _shape(model: Model, tensor: str) -> tuple[int, ...]:
    return model.extents(tensor)


def _elements(model: Model, tensor: str) -> float:
    return float(math.prod(_shape(model, tensor)))
