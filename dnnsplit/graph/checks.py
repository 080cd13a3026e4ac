"""What can be wrong with a graph of layers: its names, its numbers, and cycles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import networkx as nx

from dnnsplit.graph import shared_weights
from dnnsplit.ground.errors import nearest_of
from dnnsplit.ground.units import is_number

if TYPE_CHECKING:
    from dnnsplit.graph.layers import LayerGraph


def graph_problems(graph: LayerGraph) -> Iterable[str]:
    """Yield a sentence for everything that is wrong."""
    names = [layer.name for layer in graph.layers]
    if not names:
        yield "it has no layer"
    for kind, found in (("layers", names), ("tensors", [t.name for t in graph.tensors])):
        for name in sorted(name for name, count in Counter(found).items() if count > 1):
            yield f"two {kind} are named {name!r}; names must be unique"
    known, near = set(names), nearest_of(names)
    for layer in graph.layers:
        for attribute in ("flops", "weight_bytes"):
            if not _is_amount(getattr(layer, attribute)):
                yield f"layer {layer.name!r}: {attribute} is {getattr(layer, attribute)!r}; it must be a number, 0 or more"
    for tensor in graph.tensors:
        for end in (*([] if tensor.producer is None else [tensor.producer]), *tensor.consumers):
            if end not in known:
                yield f"tensor {tensor.name!r}: {end!r} is no layer{near(end)}"
        if not _is_amount(tensor.size_bytes):
            yield f"tensor {tensor.name!r}: size_bytes is {tensor.size_bytes!r}; it must be a number, 0 or more"
    yield from shared_weights.problems(graph.layers)
    digraph = nx.DiGraph([(t.producer, c) for t in graph.tensors if t.producer is not None for c in t.consumers])
    if not nx.is_directed_acyclic_graph(digraph):
        cycle = [edge[0] for edge in nx.find_cycle(digraph)]
        yield f"it has a cycle: {' -> '.join([*cycle, cycle[0]])}; a network of layers must be acyclic"


def _is_amount(value: object) -> bool:
    return is_number(value) and 0 <= float(value) < math.inf
