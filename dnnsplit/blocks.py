"""Layers as ONNX Runtime executes them: which ONNX nodes it fuses, asked of ONNX Runtime itself, and `load`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import networkx as nx
import onnx
import onnxruntime as ort

from dnnsplit.errors import OptionError
from dnnsplit.external import is_large, move_weights
from dnnsplit.flops import node_flops
from dnnsplit.graph import QUANTIZABLE_OPS, Layer, LayerGraph, Tensor
from dnnsplit.model import Model, read_model
from dnnsplit.onnx_graph import node_inputs
from dnnsplit.partitions import finest_common, quotient, sorted_blocks
from dnnsplit.providers import Provider
from dnnsplit.runtime import find_provider, session
from dnnsplit.weights import held_weights

# Activations that run as a kernel of their own but belong to the convolution that alone feeds them:
# cutting between the two costs 10-20 % of the time.
_ACTIVATIONS = frozenset({
    "QuickGelu", "Sigmoid", "Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Gelu", "BiasGelu", "FastGelu", "Tanh",
    "Elu", "Mish", "PRelu", "Softplus",
})  # fmt: skip

# Kernels that compute nothing: ONNX Runtime adds and moves them as it needs, so that no block begins with one.
_MOVES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def load(path: str | Path, providers: Sequence[str | Provider] = ("cpu",)) -> LayerGraph:
    """Read an ONNX file as the graph of layers that ONNX Runtime executes.

    Parameters
    ----------
    path : ONNX file with fixed input shapes
    providers : execution providers that the servers run, as `dnnsplit.providers.find` names them; all of them installed
        here. Where they fuse differently, the layers are the finest that cut no block of any of them. A provider that
        compiles whole subgraphs (OpenVINO, TensorRT) shows ONNX Runtime no fusion: its layers are those of the CPU, and
        what a cut inside of what it fuses costs is in the measured times (`LayerTimes.overhead`), not avoided

    Returns
    -------
    LayerGraph : one layer per fused block (a convolution with its activation, and the like), named after the node that
        does most of its work; node names are kept in ``Layer.nodes``

    Raises
    ------
    ModelError : the file is missing, is no ONNX, is cyclic, or has shapes that are not fixed
    OptionError : a provider is not installed or cannot start, or none is named
    """
    found = [find_provider(name) for name in ([providers] if isinstance(providers, str) else providers)]
    if not found:
        raise OptionError("load needs a provider to ask for its layers; write providers=('cpu',)")
    model = read_model(path)
    kinds = dict.fromkeys(find_provider("cpu") if provider.compiles else provider for provider in found)
    return _graph(model, finest_common([find_blocks(model, kind) for kind in kinds], _edges(model), list(model.nodes)))


def find_blocks(model: Model, provider: str | Provider = "cpu") -> list[tuple[str, ...]]:
    """Group the nodes of a model into blocks that ONNX Runtime runs as one.

    A tensor that survives in the model ONNX Runtime writes at ORT_ENABLE_EXTENDED (before layouts change) is a
    boundary; nodes with no boundary between them are one block, as long as they are one kernel: where ONNX Runtime keeps
    several and renames what is between (see `_untangled`), each has a block. A DequantizeLinear is with its reader and a
    QuantizeLinear with what it alone reads, so that 8-bit tensors are the boundaries. An activation joins the convolution
    that alone feeds it. What has no kernel of its own at ORT_ENABLE_ALL joins the kernel that does its work: on processors
    with blocked layouts a convolution adds the residual too. Blocks never form a cycle.

    Parameters
    ----------
    provider : whose blocks; one that does not compile (CPU, CUDA), because ONNX Runtime cannot write a compiled model

    Returns
    -------
    list of tuples of node names, in topological order
    """
    optimized = optimize(model.proto, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, provider)
    groups = _untangled(model, _fused(model, optimized), optimized)
    _join_round_trips(model, groups)
    products = {groups[n] for n, node in model.nodes.items() if node.op_type in QUANTIZABLE_OPS}
    for fused in optimized.graph.node:
        source = fused.input[0] if fused.input else ""
        producer = model.producer.get(source)
        if fused.op_type in _ACTIVATIONS and producer in model.nodes and source not in model.outputs:
            readers = {groups[c] for c in model.consumers[source]}
            if len(readers) == 1 and groups[producer] in products:
                groups.union(producer, *model.consumers[source])
                products.add(groups[producer])
    _join_absorbed(model, groups, optimize(model.proto, provider=provider))
    blocks = [tuple(n for n in model.nodes if n in members) for members in groups.to_sets()]
    return _acyclic(model, blocks)


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


def _fused(model: Model, optimized: onnx.ModelProto) -> nx.utils.UnionFind:
    """Join nodes that have no tensor between them of which the name survives."""
    groups = nx.utils.UnionFind(model.nodes)
    survivors: set[str] = set()
    for fused in optimized.graph.node:
        names = [o for o in fused.output if o in model.producer]
        survivors.update(names)
        groups.union(*[model.producer[o] for o in names if model.producer[o] in model.nodes])
    for tensor, producer in model.producer.items():
        if producer in model.nodes and tensor not in survivors:
            groups.union(producer, *[c for c in model.consumers.get(tensor, ()) if c in model.nodes])
    return groups


def _untangled(model: Model, fused: nx.utils.UnionFind, optimized: onnx.ModelProto) -> nx.utils.UnionFind:
    """Take groups apart that hold several working kernels: ONNX Runtime renamed what is between them, but keeps them.

    It renames where it moves a Transpose or a Cast, removes an Identity or a repeated node, or changes an 8-bit type. Each
    kernel begins a group of the nodes it is named after, by its outputs and by its own name. Other nodes are taken together
    where one alone reads the other; they join the group before them if they alone read it, else the one after.
    """
    anchors = nx.utils.UnionFind(n for n, node in model.nodes.items() if node.op_type in QUANTIZABLE_OPS)
    for kernel in optimized.graph.node:
        if kernel.op_type not in _ACTIVATIONS | _MOVES:
            made = [model.producer[o] for o in kernel.output if model.producer.get(o) in model.nodes]
            if named := [*made, *filter(None, [_namesake(model, kernel)])]:
                anchors.union(*named)
    _join_round_trips(model, anchors)
    held: dict[str, set[str]] = {}
    for name in list(anchors):
        held.setdefault(fused[name], set()).add(anchors[name])
    tangled = {n for n in model.nodes if len(held.get(fused[n], ())) > 1}
    groups = nx.utils.UnionFind(model.nodes)
    for members in fused.to_sets():
        groups.union(*(members - tangled))
    for members in anchors.to_sets():
        groups.union(*(members & tangled))
    anchored = set(anchors)
    _join_loose(model, fused, groups, [n for n in model.nodes if n in tangled and n not in anchored])
    return groups


def _join_loose(model: Model, fused: nx.utils.UnionFind, groups: nx.utils.UnionFind, loose: Sequence[str]) -> None:
    """Join nodes, given in topological order, to a group before or after them, within what ONNX Runtime has renamed."""
    reads = {n: [(t, p) for t in node_inputs(model.nodes[n]) if (p := model.producer.get(t)) in model.nodes] for n in loose}
    readers = {n: [c for o in model.nodes[n].output for c in model.consumers.get(o, ())] for n in loose}
    delivering = {n for n in loose if any(o in model.outputs for o in model.nodes[n].output)}

    def after(members: Sequence[str]) -> str | None:
        """Return the one group that reads the members, if it is one."""
        inside = set(members)
        found = [c for n in members for c in readers[n] if c not in inside]
        one = len({groups[c] for c in found}) == 1 and delivering.isdisjoint(members) and fused[found[0]] == fused[members[0]]
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
        alone = all(fused[p] == fused[members[0]] and inside.issuperset(model.consumers[t]) for t, p in before)
        if alone and len({groups[p] for _, p in before}) == 1 and not any(t in model.outputs for t, _ in before):
            groups.union(before[0][1], members[0])
        else:
            waiting.append(members)
    for members in reversed(waiting):
        if reader := after(members):
            groups.union(reader, members[0])


def _join_round_trips(model: Model, groups: nx.utils.UnionFind) -> None:
    """Join each DequantizeLinear to its only reader, and each QuantizeLinear to the maker of what it alone reads.

    Cut anywhere else, a product loses its int8 kernel.
    """
    for name, node in model.nodes.items():
        readers = [c for o in node.output for c in model.consumers.get(o, ())]
        if node.op_type == "DequantizeLinear" and len(readers) == 1 and node.output[0] not in model.outputs:
            groups.union(name, readers[0])
        elif node.op_type == "QuantizeLinear" and model.producer.get(node.input[0]) in model.nodes:
            if len(model.consumers[node.input[0]]) == 1 and node.input[0] not in model.outputs:
                groups.union(model.producer[node.input[0]], name)


def _join_absorbed(model: Model, groups: nx.utils.UnionFind, executed: onnx.ModelProto) -> None:
    """Join groups without a kernel of their own to the last kernel that makes one of their inputs: it does their work."""
    position: dict[str, int] = {}
    for i, kernel in enumerate(executed.graph.node):
        node = node_of(model, kernel)
        if node and not kernel.op_type.startswith("Reorder"):
            position[groups[node]] = i
    products = {groups[n] for n, node in model.nodes.items() if node.op_type in QUANTIZABLE_OPS}
    for name, node in model.nodes.items():  # in topological order, so that what feeds a group is settled before it
        if groups[name] not in position and groups[name] not in products:
            makers = [groups[model.producer[t]] for t in node_inputs(node) if model.producer.get(t) in model.nodes]
            if known := [m for m in makers if m in position and m != groups[name]]:
                last = max(known, key=position.__getitem__)
                at = position[last]
                holds = last in products
                groups.union(last, name)
                position[groups[name]] = at
                if holds:
                    products.add(groups[name])


def optimize(
    model: onnx.ModelProto | Path,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    provider: str | Provider = "cpu",
) -> onnx.ModelProto:
    """Return a model, or a file, as ONNX Runtime rewrites it at one optimisation level; large weights stay in a file."""
    with tempfile.TemporaryDirectory() as folder:
        whole, path = Path(folder) / "whole.onnx", Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        if isinstance(model, Path):
            whole = model
        elif is_large(model):
            model = _copy(model)
            move_weights(model, Path(folder) / "whole.data")
        if isinstance(model, onnx.ModelProto):
            whole.write_bytes(model.SerializeToString())
        # neither encoded nor read back: only the nodes are of interest
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        session(whole, options, provider)
        return onnx.load(path, load_external_data=False)


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def _edges(model: Model) -> list[tuple[str, str]]:
    """Pairs of nodes of which the first makes what the second reads."""
    made = ((model.producer.get(tensor, ""), name) for name, node in model.nodes.items() for tensor in node_inputs(node))
    return [(producer, name) for producer, name in made if producer in model.nodes]


def _acyclic(model: Model, blocks: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Split blocks that lie on a cycle of blocks back into their nodes; return all in topological order."""
    edges = _edges(model)
    while True:
        groups = nx.strongly_connected_components(quotient(blocks, edges))
        tangled = {b for group in groups if len(group) > 1 for b in group}
        if not tangled:
            return sorted_blocks(blocks, edges, list(model.nodes))
        blocks = [b for i, b in enumerate(blocks) if i not in tangled] + [(n,) for i in tangled for n in blocks[i]]


def _quantizable(model: Model, nodes: tuple[str, ...], chief: str) -> bool:
    """Whether the block is one product with constant float32 weights, with one tensor going out."""
    node = model.nodes[chief]
    outgoing = [
        o for n in nodes for o in model.nodes[n].output
        if o in model.outputs or any(c not in nodes for c in model.consumers.get(o, ()))
    ]  # fmt: skip
    return (
        node.op_type in QUANTIZABLE_OPS
        and sum(model.nodes[n].op_type in QUANTIZABLE_OPS for n in nodes) == 1
        and not model.is_constant(node.input[0])
        and all(name in model.weights and model.dtype(name) == "float32" for name in node.input[1:3] if name)
        and len(outgoing) == 1
    )


def _rank(op_type: str) -> tuple[bool, bool]:
    return op_type in QUANTIZABLE_OPS, op_type not in ("QuantizeLinear", "DequantizeLinear")


def _graph(model: Model, blocks: list[tuple[str, ...]]) -> LayerGraph:
    layers, of = [], {}
    for nodes in blocks:
        flops = {n: node_flops(model, model.nodes[n]) for n in nodes}
        chief = max(nodes, key=lambda n: (*_rank(model.nodes[n].op_type), flops[n]))
        held = {name: size for n in nodes for name, size in held_weights(model, model.nodes[n]).items()}
        kind, sizes = model.nodes[chief].op_type, (sum(flops.values()), sum(held.values()))
        layers.append(Layer(chief, kind, *sizes, nodes, _quantizable(model, nodes, chief)))
        of |= dict.fromkeys(nodes, chief)
    tensors = []
    for tensor in (*model.inputs, *(o for node in model.nodes.values() for o in node.output if o)):
        producer = of.get(model.producer.get(tensor, ""))
        consumers = tuple(dict.fromkeys(of[c] for c in model.consumers.get(tensor, ()) if of.get(c, producer) != producer))
        if consumers or tensor in model.outputs:
            tensors.append(
                Tensor(
                    tensor,
                    producer,
                    consumers,
                    model.size_bytes(tensor),
                    tensor in model.outputs,
                    model.types[tensor][1],
                    str(model.dtype(tensor)),
                )
            )
    return LayerGraph(tuple(layers), tuple(tensors), model_path=model.path)
