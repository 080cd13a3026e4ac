"""Layers as ONNX Runtime executes them: which ONNX nodes it fuses, asked of ONNX Runtime itself, and `load`."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import networkx as nx

from dnnsplit.graph.constants import held_weights
from dnnsplit.graph.external_data import save
from dnnsplit.graph.flops import node_flops
from dnnsplit.graph.fusion import MOVES, fused, join_absorbed, join_activations, join_round_trips, untangled
from dnnsplit.graph.layers import QUANTIZABLE_OPS, Layer, LayerGraph, Tensor
from dnnsplit.graph.onnx_file import Model
from dnnsplit.graph.opset import INT8
from dnnsplit.graph.optimizing import FUSED, optimize
from dnnsplit.graph.partitions import finest_common, quotient, sorted_blocks
from dnnsplit.graph.reading import read_model
from dnnsplit.graph.shared_weights import find_shared
from dnnsplit.graph.signature import Shapes
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import find_provider


def load(path: str | Path, providers: Sequence[str | Provider] = ("cpu",), shapes: Shapes | None = None) -> LayerGraph:
    """Read an ONNX file as the graph of layers that ONNX Runtime executes.

    Parameters
    ----------
    path : str | Path
        ONNX file of any opset from 7 on.
    providers : Sequence[str | Provider], default ("cpu",)
        Execution providers that the servers run, as `dnnsplit.runtime.providers.find` names them; all of them installed here.
        Where they fuse differently, the layers are the finest that cut no block of any of them. A provider that compiles whole
        subgraphs (OpenVINO, TensorRT) shows ONNX Runtime no fusion: its layers are those of the CPU, and what a cut inside of
        what it fuses costs is in the measured times (`LayerTimes.overhead`), not avoided.
    shapes : Shapes | None, optional
        Extents by name of an input, for inputs that are open in the file: ``{"images": (1, 3, 640, 640)}``.

    Returns
    -------
    LayerGraph
        One layer per fused block (a convolution with its activation, and the like), named after the node that does most of its
        work; node names are kept in ``Layer.nodes``. It keeps the model that was read (`LayerGraph.model`), so that all that is
        measured and cut is of it, whatever becomes of the file. What follows from constants and from the shapes of inputs is
        neither a layer nor sent. Nodes around tensors that cannot be sent (their shape depends on data, or they are sequences or
        texts) are one layer, and `LayerGraph.notes` says so.

    Raises
    ------
    ModelError
        The file is missing, is no ONNX, is cyclic, is refused by ONNX Runtime, has open inputs that `shapes` does not settle, or
        takes or delivers what is no tensor of numbers.
    OptionError
        A provider is not installed or cannot start, or none is named.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph = ds.load(ds.examples.data_folder() / "models" / "yolo11n-ppe-320.onnx")
    >>> graph.layer("/model.0/conv/Conv").op_type
    'Conv'
    """
    check_arguments(load, locals(), some=("path",), but=("shapes",))
    found = [find_provider(name) for name in ([providers] if isinstance(providers, str) else providers)]
    if not found:
        message = "load needs a provider to ask for its layers; write providers=('cpu',)"
        raise OptionError(message)
    model = read_model(path, shapes=shapes)
    kinds = dict.fromkeys(find_provider("cpu") if provider.compiles else provider for provider in found)
    partitions = [find_blocks(model, kind) for kind in kinds]
    blocks = partitions[0]
    if len(partitions) > 1 or model.open:
        blocks = finest_common([*partitions, _whole(model)], _edges(model), list(model.nodes))
    return _graph(model, blocks, tuple(provider.text for provider in found))


def find_blocks(model: Model, provider: str | Provider = "cpu") -> list[tuple[str, ...]]:
    """Group the nodes of a model into blocks that ONNX Runtime runs as one.

    A tensor that survives in the model ONNX Runtime writes at ORT_ENABLE_EXTENDED (before layouts change) is a
    boundary; nodes with no boundary between them are one block, as long as they are one kernel: where ONNX Runtime keeps
    several and renames what is between (see `untangled`), each has a block. A DequantizeLinear is with its reader and a
    QuantizeLinear with what it alone reads, so that 8-bit tensors are the boundaries. An activation joins the convolution
    that alone feeds it. What has no kernel of its own at ORT_ENABLE_ALL joins the kernel that does its work: on processors
    with blocked layouts a convolution adds the residual too. Blocks never form a cycle, and come in topological order.
    The provider is one that does not compile (CPU, CUDA), because ONNX Runtime cannot write a compiled model.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = save(model.proto, Path(folder), apart=True)
        optimized = optimize(file, FUSED, provider)
        executed = optimize(file, provider=provider) if _may_be_blocked(model) else optimized
    groups = untangled(model, fused(model, optimized), optimized)
    join_round_trips(model, groups)
    join_activations(model, groups, optimized)
    join_absorbed(model, groups, executed)
    return _acyclic(model, [tuple(members) for members in groups.to_sets()])


def _whole(model: Model) -> list[tuple[str, ...]]:
    """Group the nodes that make or read a tensor that cannot be sent."""
    groups: nx.utils.UnionFind[str] = nx.utils.UnionFind()
    for tensor in model.open:
        groups.union(model.producer[tensor], *model.consumers.get(tensor, ()))
    return [tuple(group) for group in groups.to_sets()]


def _may_be_blocked(model: Model) -> bool:
    """Whether the model has products of images, which ONNX Runtime lays out anew, and fuses more, at its last level."""
    return any("Conv" in node.op_type or "Pool" in node.op_type for node in model.nodes.values())


def _edges(model: Model) -> list[tuple[str, str]]:
    """Pairs of nodes of which the first makes what the second reads."""
    made = ((model.producer.get(tensor, ""), name) for name in model.nodes for tensor in model.reads[name])
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
    """Whether the block has one product, with constant float32 weights that the file has not quantized itself."""
    node = model.nodes[chief]
    return (
        node.op_type in QUANTIZABLE_OPS
        and sum(model.nodes[n].op_type in QUANTIZABLE_OPS for n in nodes) == 1
        and not model.is_constant(node.input[0])
        and all(model.is_constant(name) and model.dtype(name) == "float32" for name in node.input[1:3] if name)
        and model.opset >= INT8
        and not any(tensor in model.open for n in nodes for tensor in (*model.reads[n], *model.nodes[n].output))
        and not any(constant.op_type == "DequantizeLinear" for constant in model.constants(node.input)[0])
    )


def _rank(op_type: str) -> tuple[bool, bool]:
    return op_type in QUANTIZABLE_OPS, op_type not in MOVES | {"QuantizeLinear", "DequantizeLinear"}


def _graph(model: Model, blocks: list[tuple[str, ...]], providers: tuple[str, ...]) -> LayerGraph:
    layers, of = [], dict[str, str]()
    held: dict[str, dict[str, int]] = {}
    for nodes in blocks:
        flops = {n: node_flops(model, model.nodes[n]) for n in nodes}
        chief = max(nodes, key=lambda n: (*_rank(model.nodes[n].op_type), flops[n]))
        held[chief] = {name: size for n in nodes for name, size in held_weights(model, model.nodes[n]).items()}
        kind, sizes = model.nodes[chief].op_type, (sum(flops.values()), sum(held[chief].values()))
        layers.append(Layer(chief, kind, *sizes, nodes, _quantizable(model, nodes, chief)))
        of |= dict.fromkeys(nodes, chief)
    tensors = []
    names = {kind: str(model.dtype(tensor)) for tensor, (kind, _) in model.types.items()}
    for tensor in (*model.inputs, *(o for node in model.nodes.values() for o in node.output if o)):
        producer = of.get(model.producer.get(tensor, ""))
        consumers = tuple(dict.fromkeys(of[c] for c in model.consumers.get(tensor, ()) if of.get(c, producer) != producer))
        if consumers or tensor in model.delivered:
            is_output, shape, dtype = tensor in model.delivered, model.types[tensor][1], names[model.types[tensor][0]]
            tensors.append(Tensor(tensor, producer, consumers, model.size_bytes(tensor), is_output, shape, dtype))
    kept = {of[model.producer[tensor]]: why for tensor, why in reversed(list(model.open.items())) if tensor in model.consumers}
    notes = [
        f"layer {layer.name!r} keeps {len(layer.nodes)} nodes on one server, because of {kept[layer.name]}"
        for layer in layers
        if layer.name in kept
    ]
    made, shared = defaultdict[str | None, list[str]](list), find_shared(held)
    for one in tensors:
        made[one.producer].append(one.dtype)
    layers = [replace(x, shared=shared[x.name], quantizable=x.quantizable and made[x.name] == ["float32"]) for x in layers]
    return LayerGraph(
        tuple(layers), tuple(tensors), model.path, model.sha256, providers, model.shapes, (*model.notes, *notes),
        model.metadata.get("weights", ""), model,
    )  # fmt: skip
