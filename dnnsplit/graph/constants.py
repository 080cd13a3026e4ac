"""Constants that a node holds wherever they are written down: initializers, and bodies of If, Loop and Scan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx
from onnx import helper

from dnnsplit.graph.cleanup import subgraphs
from dnnsplit.graph.onnx_file import Model


def held_weights(model: Model, node: onnx.NodeProto) -> dict[str, int]:
    """Return the size [B] of every constant that a server holds to run one node, by name.

    Initializers of the graph that the node, its bodies at any depth, or constant nodes before it read have their own names, so
    that two nodes share one where the names are equal. What is written in a body is held by each node that has it; its name
    begins with the node's.
    """
    nodes, names = model.constants(model.reads[node.name])
    held = {name: model.size_bytes(name) for name in sorted(names)}
    return held | {name: size for one in (*nodes, node) for name, size in _inside(one, one.name)}


def _inside(node: onnx.NodeProto, path: str) -> Iterator[tuple[str, int]]:
    """Yield name and size of the constants that are written in the attributes and bodies of a node."""
    for attribute in node.attribute:
        values = [attribute.t] if attribute.HasField("t") else list(attribute.tensors)
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else list(attribute.sparse_tensors)
        size = sum(map(_bytes, values)) + sum(map(_bytes, sparse))
        if node.op_type == "Constant" or node.domain == "ai.onnx.ml":  # whose lists are values, not settings
            size += 4 * len(attribute.floats) + 8 * len(attribute.ints) + sum(map(len, attribute.strings))
        if size:
            yield f"{path}/{attribute.name}", size
        for i, body in enumerate(subgraphs(attribute)):
            inside = f"{path}/{attribute.name}" + (f"#{i}" if i else "")
            yield from ((f"{inside}/{weight.name}", _bytes(weight)) for weight in body.initializer)
            yield from ((f"{inside}/{weight.values.name}", _bytes(weight)) for weight in body.sparse_initializer)
            yield from _within(body.node, inside)


def _within(nodes: Iterable[onnx.NodeProto], path: str) -> Iterator[tuple[str, int]]:
    for i, node in enumerate(nodes):
        yield from _inside(node, f"{path}/{i}")


def _bytes(value: onnx.TensorProto | onnx.SparseTensorProto) -> int:
    """Size as ONNX Runtime holds it: it writes sparse constants out."""
    kind = value.values.data_type if isinstance(value, onnx.SparseTensorProto) else value.data_type
    return int(math.prod(value.dims)) * helper.tensor_dtype_to_np_dtype(kind).itemsize
