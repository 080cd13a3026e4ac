"""Names of what quantizing adds to a model: none that the model has, and the same whichever other layers are quantized."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import onnx

from dnnsplit.graph.cleanup import subgraphs
from dnnsplit.graph.onnx_file import Model

OF_LAYER = ("input", "weight", "bias", "product", "output")
OF_TENSOR = ("scale", "zero_point", "int8", "float32", "QuantizeLinear", "DequantizeLinear")
OF_COPY = ("copy",)


def free_stem(model: Model, stem: str, endings: Collection[str]) -> str:
    """Return what the names that are made for a layer or a tensor begin with: its own name, with a number behind it if need be.

    They are ``{stem}/{ending}``, or begin with that and a slash; no name of the model does. Layers and tensors have no ending in
    common, so that what is made for two of them never meets: one would have to be called like what is made for the other.
    """
    names = [name for name in _names(model.proto.graph) if name.startswith(f"{stem}/")]
    stems = itertools.chain([stem], (f"{stem}/#{count}" for count in itertools.count(2)))
    return next(free for free in stems if not any(f"{name}/".startswith(f"{free}/{e}/") for name in names for e in endings))


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all nodes, tensors and constants, those of bodies among them."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield from (node.name, *node.output)
        for attribute in node.attribute:
            for body in subgraphs(attribute):
                yield from _names(body)
