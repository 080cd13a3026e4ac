"""Which nodes of a model are in one kernel of the model that ONNX Runtime makes of it, told by names and by what lies between."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import networkx as nx
import onnx

from dnnsplit.graph.cleanup import node_inputs
from dnnsplit.graph.layers import QUANTIZABLE_OPS
from dnnsplit.graph.onnx_file import Model

# Activations that run as a kernel of their own but belong to the convolution that alone feeds them:
# cutting between the two costs 10-20 % of the time.
ACTIVATIONS = frozenset({
    "QuickGelu", "Sigmoid", "Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Gelu", "BiasGelu", "FastGelu", "Tanh",
    "Elu", "Mish", "PRelu", "Softplus",
})  # fmt: skip

# Kernels that compute nothing: ONNX Runtime adds and moves them as it needs, so that no block begins with one.
MOVES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def node_of(model: Model, kernel: onnx.NodeProto) -> str | None:
    """Return the node of the model that an executed kernel is named after: by its outputs, else by its own name; or None."""
    return next((n for o in kernel.output if (n := model.producer.get(o, "")) in model.nodes), None) or _namesake(model, kernel)


def _namesake(model: Model, kernel: onnx.NodeProto) -> str | None:
    stem = re.sub(r"(_nchwc|_nhwc|_token_\d+)+$", "", kernel.name)
    while stem:
        if named := next((n for n in (model.producer.get(stem, ""), stem) if n in model.nodes), None):
            return named
        stem = stem.rstrip("/").rpartition("/")[0]  # fused nodes append to the name of the node they replace
    return None


def fused(model: Model, optimized: onnx.ModelProto) -> nx.utils.UnionFind[str]:
    """Join nodes that have no tensor between them of which the name survives."""
    groups = nx.utils.UnionFind(model.nodes)
    survivors: set[str] = set()
    for kernel in optimized.graph.node:
        names = [o for o in kernel.output if o in model.producer]
        survivors.update(names)
        groups.union(*[model.producer[o] for o in names if model.producer[o] in model.nodes])
    for tensor, producer in model.producer.items():
        if producer in model.nodes and tensor not in survivors:
            groups.union(producer, *[c for c in model.consumers.get(tensor, ()) if c in model.nodes])
    return groups


def untangled(model: Model, coarse: nx.utils.UnionFind[str], optimized: onnx.ModelProto) -> nx.utils.UnionFind[str]:
    """Take groups apart that hold several working kernels: ONNX Runtime renamed what is between them, but keeps them.

    It renames where it moves a Transpose or a Cast, removes an Identity or a repeated node, or changes an 8-bit type. Each
    kernel begins a group of the nodes it is named after, by its outputs and by its own name. Other nodes are taken together
    where one alone reads the other; they join the group before them if they alone read it, else the one after.
    """
    anchors: nx.utils.UnionFind[str] = nx.utils.UnionFind()
    one = set()
    for kernel in optimized.graph.node:
        if kernel.op_type not in MOVES:
            made = [model.producer[o] for o in kernel.output if model.producer.get(o) in model.nodes]
            if named := [*made, *filter(None, [_namesake(model, kernel)])]:
                anchors.union(*named)
                one |= {coarse[n] for n in named if "Attention" in kernel.op_type}  # the one kernel of several products
    for name, node in model.nodes.items():
        if node.op_type in QUANTIZABLE_OPS and coarse[name] not in one:
            anchors.union(name)
    join_round_trips(model, anchors)
    held: dict[str, set[str]] = {}
    for name in list(anchors):
        held.setdefault(coarse[name], set()).add(anchors[name])
    tangled = {n for n in model.nodes if len(held.get(coarse[n], ())) > 1}
    groups = nx.utils.UnionFind(model.nodes)
    for members in coarse.to_sets():
        groups.union(*(members - tangled))
    for members in anchors.to_sets():
        groups.union(*(members & tangled))
    anchored = set(anchors)
    _join_loose(model, coarse, groups, [n for n in model.nodes if n in tangled and n not in anchored])
    return groups


def _join_loose(model: Model, coarse: nx.utils.UnionFind[str], groups: nx.utils.UnionFind[str], loose: Sequence[str]) -> None:
    """Join nodes, given in topological order, to a group before or after them, within what ONNX Runtime has renamed."""
    reads = {n: [(t, p) for t in model.reads[n] if (p := model.producer.get(t)) in model.nodes] for n in loose}
    readers = {n: [c for o in model.nodes[n].output for c in model.consumers.get(o, ())] for n in loose}
    delivering = {n for n in loose if any(o in model.delivered for o in model.nodes[n].output)}

    def after(members: Sequence[str]) -> str | None:
        """Return the one group that reads the members, if it is one."""
        inside = set(members)
        found = [c for n in members for c in readers[n] if c not in inside]
        one = len({groups[c] for c in found}) == 1 and delivering.isdisjoint(members) and coarse[found[0]] == coarse[members[0]]
        return found[0] if one else None

    free = set(loose)
    for name in reversed(loose):
        if (reader := after([name])) in free and free.issuperset(readers[name]):
            groups.union(name, reader)
    together: dict[str, list[str]] = {}
    for name in loose:
        together.setdefault(groups[name], []).append(name)
    waiting = []
    for members in together.values():
        inside = set(members)
        before = [(t, p) for n in members for t, p in reads[n] if p not in inside]
        alone = all(coarse[p] == coarse[members[0]] and inside.issuperset(model.consumers[t]) for t, p in before)
        if alone and len({groups[p] for _, p in before}) == 1 and not any(t in model.delivered for t, _ in before):
            groups.union(before[0][1], members[0])
        else:
            waiting.append(members)
    for members in reversed(waiting):
        if reader := after(members):
            groups.union(reader, members[0])


def join_round_trips(model: Model, groups: nx.utils.UnionFind[str]) -> None:
    """Join each DequantizeLinear to its only reader, and each QuantizeLinear to the maker of what it alone reads.

    Cut anywhere else, a product loses its int8 kernel.
    """
    for node in model.nodes.values():
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        trip = (node.input if node.op_type == "QuantizeLinear" else node.output)[0]
        readers = model.consumers.get(trip, ())
        if len(readers) == 1 and model.producer.get(trip) in model.nodes and trip not in model.delivered:
            groups.union(model.producer[trip], *readers)


def join_activations(model: Model, groups: nx.utils.UnionFind[str], optimized: onnx.ModelProto) -> None:
    """Join each activation to the product that alone feeds it."""
    makers = {o: kernel for kernel in optimized.graph.node for o in kernel.output}
    reads = Counter(i for kernel in optimized.graph.node for i in node_inputs(kernel))
    reads.update(o.name for o in optimized.graph.output)
    products = {groups[n] for n, node in model.nodes.items() if node.op_type in QUANTIZABLE_OPS}
    for kernel in optimized.graph.node:
        if kernel.op_type in ACTIVATIONS and kernel.input[0] in makers and reads[kernel.input[0]] == 1:
            product, activation = node_of(model, makers[kernel.input[0]]), node_of(model, kernel)
            if product and activation and groups[product] in products and groups[activation] not in products:
                groups.union(product, activation)
                products.add(groups[product])


def join_absorbed(model: Model, groups: nx.utils.UnionFind[str], executed: onnx.ModelProto) -> None:
    """Join groups without a kernel of their own to the last kernel that makes one of their inputs: it does their work."""
    position: dict[str, int] = {}
    for i, kernel in enumerate(executed.graph.node):
        node = node_of(model, kernel)
        if node and not kernel.op_type.startswith("Reorder"):
            position[groups[node]] = i
    products = {groups[n] for n, node in model.nodes.items() if node.op_type in QUANTIZABLE_OPS}
    for name in model.nodes:  # in topological order, so that what feeds a group is settled before it
        if groups[name] not in position and groups[name] not in products:
            makers = [groups[model.producer[t]] for t in model.reads[name] if model.producer.get(t) in model.nodes]
            if known := [m for m in makers if m in position and m != groups[name]]:
                last = max(known, key=position.__getitem__)
                at = position[last]
                holds = last in products
                groups.union(last, name)
                position[groups[name]] = at
                if holds:
                    products.add(groups[name])
