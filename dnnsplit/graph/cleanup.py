"""Putting an ONNX graph in order before it is indexed: names, constants, order, and nodes that nothing needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import networkx as nx
import numpy as np
import onnx
from onnx import helper, numpy_helper

from dnnsplit.graph.external_data import SMALL
from dnnsplit.ground.errors import ModelError, raise_problems, shortened

MOST_DENSE_BYTES = 2**31  # of a sparse constant that is written out


def node_inputs(node: onnx.NodeProto) -> list[str]:
    """Names of the tensors a node reads, those that its subgraphs take from outside among them."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in subgraphs(attribute):
            inside = {i.name for i in graph.input} | {w.name for w in graph.initializer}
            inside |= {o for n in graph.node for o in n.output}
            names += [name for n in graph.node for name in node_inputs(n) if name not in inside]
            names += [o.name for o in graph.output if o.name not in inside]
    return list(dict.fromkeys(names))


def subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """Bodies that an attribute holds, as those of If, Loop and Scan."""
    return [attribute.g] if attribute.HasField("g") else list(attribute.graphs)


def all_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all nodes, tensors and constants, those of bodies among them."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield from (node.name, *node.output)
        for attribute in node.attribute:
            for body in subgraphs(attribute):
                yield from all_names(body)


def put_in_order(graph: onnx.GraphProto, path: Path) -> None:
    """Make a graph, in place, what is indexed: see the functions below. `path` is for messages."""
    name_nodes(graph)
    constants_to_weights(graph)
    sparse_to_dense(graph)
    unsigned(graph)
    one_reader_each(graph)
    sort_nodes(graph, path)
    drop_unused(graph)


def drop_weight_inputs(graph: onnx.GraphProto) -> None:
    """Take weights off the inputs of a graph, in place: old files list them there."""
    weights = {weight.name for weight in graph.initializer} | {weight.values.name for weight in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)


def check_makers(graph: onnx.GraphProto, path: Path) -> None:
    """Refuse a graph in which two things make one tensor, or a node that is looked at before it is run lacks its ends."""
    made = Counter([*(value.name for value in graph.input), *(name for node in graph.node for name in node.output if name)])
    problems = [f"{name!r} is made by {count} nodes or inputs" for name, count in made.items() if count > 1]
    early = [node for node in graph.node if node.op_type in ("Constant", "QuantizeLinear", "DequantizeLinear")]
    problems += [f"the {node.op_type} {node.name!r} makes nothing" for node in early if not any(node.output)]
    problems += [f"the {n.op_type} {n.name!r} reads nothing" for n in early if n.op_type != "Constant" and not any(n.input)]
    raise_problems(ModelError, f"{path} is not a valid ONNX model", problems, most=5)


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a unique, repeatable name (its own, else its first output's)."""
    taken: set[str] = set()
    last: dict[str, int] = {}
    for node in graph.node:
        stem = node.name or next((o for o in node.output if o), node.op_type)
        node.name = free(stem, taken, last) if stem in taken else stem
        taken.add(node.name)


def constants_to_weights(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, in place."""
    kept = []
    for node in graph.node:
        weight = _constant(node) if node.op_type == "Constant" else None
        if weight is None:
            kept.append(node)
        else:
            weight.name = node.output[0]
            graph.initializer.append(weight)
    keep_nodes(graph, kept)


def sparse_to_dense(graph: onnx.GraphProto) -> None:
    """Write sparse initializers out, in place, as ONNX Runtime does when it loads a model."""
    graph.initializer.extend(map(_dense, graph.sparse_initializer))
    del graph.sparse_initializer[:]


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, places = (numpy_helper.to_array(one) for one in (sparse.values, sparse.indices))
    name, extents = sparse.values.name, tuple(sparse.dims)
    ends = extents if places.ndim > 1 else (math.prod(extents),)
    if places.shape not in ((len(values),), (len(values), len(extents))) or places.dtype != np.int64:
        message = f"the sparse constant {name!r} has {len(values)} values, and {places.shape} places of {len(extents)} axes"
        raise ModelError(message)
    if min(extents, default=1) < 0 or math.prod(extents) * values.itemsize > MOST_DENSE_BYTES:
        message = f"the sparse constant {name!r} has the shape {shortened(extents)}, which cannot be written out"
        raise ModelError(message)
    if (places < 0).any() or (places >= ends).any():
        message = f"the sparse constant {name!r} has values outside of its shape {shortened(extents)}"
        raise ModelError(message)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim > 1:
        dense[tuple(places.T)] = values
    else:
        dense.reshape(-1)[places] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def deliver_constants(graph: onnx.GraphProto) -> None:
    """Give each output that is a constant a node that makes it, in place: what is delivered comes from a layer."""
    constants = {weight.name: weight for weight in graph.initializer}
    taken = {*constants, *(n.name for n in graph.node), *(name for n in graph.node for name in (*n.input, *n.output))}
    delivered = dict.fromkeys(output.name for output in graph.output if output.name in constants)
    renamed = {name: free(f"{name}/constant", taken) for name in delivered}
    for node in graph.node if renamed else ():
        for i, read in enumerate(node.input):
            if read in renamed:
                node.input[i] = renamed[read]
    for name, other in renamed.items():
        constants[name].name = other
        graph.node.add(op_type="Identity", name=free(name, taken) if name in taken else name, input=[other], output=[name])


def unsigned(graph: onnx.GraphProto) -> None:
    """Store int8 tensors between QuantizeLinear and DequantizeLinear as uint8, 128 higher: the same numbers, in place.

    ONNX Runtime does so on x86 when it loads a model, but not at the inputs and outputs of a part, and an integer product
    whose input and output differ in type has no kernel.
    """
    if all(node.op_type != "QuantizeLinear" for node in graph.node):
        return
    weights = {w.name: w for w in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node_inputs(node):
            readers.setdefault(name, []).append(node)
    fixed = {o.name for o in graph.output}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | weights.keys() | {i.name for i in graph.input}
    renamed: dict[str, str] = {}
    changed = set()
    for node in graph.node:
        pair = [node, *readers.get(node.output[0], [])] if node.op_type == "QuantizeLinear" else []
        zeros = [weights[n.input[2]] for n in pair if len(n.input) > 2 and n.input[2] in weights]
        if (
            len(pair) > 1
            and all(n.op_type == "DequantizeLinear" and n.input[0] == node.output[0] for n in pair[1:])
            and len(zeros) == len(pair)
            and all(zero.data_type == onnx.TensorProto.INT8 for zero in zeros)
            and node.output[0] not in fixed
            and not any(a.name == "output_dtype" and a.i for a in node.attribute)
        ):
            changed.add(node.output[0])
            for one, zero in zip(pair, zeros, strict=True):
                if zero.name not in renamed:
                    renamed[zero.name] = free(f"{zero.name}/uint8", taken)
                    value = (numpy_helper.to_array(zero).astype(np.int16) + 128).astype(np.uint8)
                    graph.initializer.append(numpy_helper.from_array(value, renamed[zero.name]))
                one.input[2] = renamed[zero.name]
    known = [v for v in graph.value_info if v.name not in changed]
    del graph.value_info[:]
    graph.value_info.extend(known)


def one_reader_each(graph: onnx.GraphProto) -> None:
    """Give every node that reads a DequantizeLinear a copy of its own, in place, as ONNX Runtime does when it loads a model.

    So a boundary can always lie on the 8-bit tensor before it: a product that gets float32 has no int8 kernel.
    """
    stored = {w.name for w in graph.initializer}
    shared = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in stored}
    if not shared:
        return
    taken = {n.name for n in graph.node} | {o for n in graph.node for o in n.output} | stored | {i.name for i in graph.input}
    # outputs, and what bodies read, stay with the first
    kept = {o.name for o in graph.output} | {i for n in graph.node for i in node_inputs(n) if i not in n.input}
    copies, last = [], dict[str, int]()
    for reader in list(graph.node):
        for tensor in dict.fromkeys(i for i in reader.input if i in shared):
            if tensor not in kept:
                kept.add(tensor)
                continue
            own = deepcopy(shared[tensor])
            own.name, own.output[0] = (free(name, taken, last) for name in (own.name, tensor))
            copies.append(own)
            for i, name in enumerate(reader.input):
                if name == tensor:
                    reader.input[i] = own.output[0]
    graph.node.extend(copies)


def free(stem: str, taken: set[str], last: dict[str, int] | None = None) -> str:
    """Return a name that is not taken, and take it; `last` remembers the number that each stem came to, for many names of one."""
    last = {} if last is None else last
    while (name := f"{stem}#{last.setdefault(stem, 2)}") in taken:
        last[stem] += 1
    taken.add(name)
    return name


def _constant(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return a copy of the value of a Constant node; None for texts."""
    for attribute in node.attribute:
        if attribute.name == "value":
            value: onnx.TensorProto = deepcopy(attribute.t)
            return value
        if attribute.name == "sparse_value":
            return _dense(attribute.sparse_tensor)
        if attribute.name in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), np.float32))
        if attribute.name in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), np.int64))
    return None


def sort_nodes(graph: onnx.GraphProto, path: Path) -> None:
    """Sort the nodes topologically, in place, keeping the file's order where it is one."""
    given = {i.name for i in graph.input} | {w.name for w in graph.initializer}
    makers = {o: i for i, node in enumerate(graph.node) for o in node.output if o not in given}
    read = [node_inputs(node) for node in graph.node]
    unknown = sorted({name for names in read for name in names} - given - makers.keys())
    if unknown:
        message = f"{path}: {unknown[0]!r} is read but nothing produces it ({len(unknown)} such tensors)"
        raise ModelError(message)
    edges = [(makers[t], i) for i, names in enumerate(read) for t in names if t in makers]
    if all(maker < reader for maker, reader in edges):
        return
    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(range(len(graph.node)))
    order.add_edges_from(edges)
    if not nx.is_directed_acyclic_graph(order):
        names = ", ".join(repr(graph.node[edge[0]].name) for edge in list(nx.find_cycle(order))[:3])
        message = f"{path} has a cycle through {names}; a network of layers must be acyclic"
        raise ModelError(message)
    keep_nodes(graph, [graph.node[i] for i in nx.lexicographical_topological_sort(order)])


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop the nodes and weights that no output of the graph rests on, in place, as ONNX Runtime does; nodes are sorted."""
    needed, kept = {o.name for o in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node_inputs(node))
            kept.append(node)
    keep_nodes(graph, kept[::-1])
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name not in needed:
            del graph.initializer[i]


def keep_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Make these the nodes of a graph, some of its own among them."""
    nodes = list(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def without_weights(model: onnx.ModelProto, above: float = SMALL) -> onnx.ModelProto:
    """Return a copy whose weights above some size are inputs instead: what there is to ask about a model, in a small message."""
    # from this version on, what is no input is a constant for ONNX Runtime
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import, functions=model.functions)
    graph, old = bare.graph, model.graph
    graph.name = old.name
    weights = {weight.name for weight in old.initializer}
    graph.node.extend(old.node)
    graph.input.extend(value for value in old.input if value.name not in weights)
    graph.output.extend(old.output)
    graph.value_info.extend(old.value_info)
    for weight in old.initializer:
        if math.prod(weight.dims) <= above:
            graph.initializer.append(weight)
        else:
            graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    return bare
