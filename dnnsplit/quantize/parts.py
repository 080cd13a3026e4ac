"""A model of its own from some layers of a graph, some of them in int8: what is measured, and what is deployed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dnnsplit.graph.cleanup import node_inputs
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.quantize.names import OF_COPY, free_stem
from dnnsplit.quantize.operators import import_domains, linear
from dnnsplit.quantize.rewrite import QuantizedLayer

# Between int8 tensors ONNX Runtime computes sums, pools, sigmoids and the like in integers, with what float32 rounds to. Its
# Softmax of integers does not: it is off by more than the noise that the layers around it were measured to have.
ROUNDS_OTHERWISE = ("Softmax",)
MOVES = frozenset({
    "Concat", "Expand", "Flatten", "Gather", "MaxPool", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
})  # fmt: skip


@dataclass(frozen=True)
class Boundary:
    """Tensors that some layers read from elsewhere, and tensors of theirs that are read elsewhere; both sorted."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def boundary(graph: LayerGraph, layers: Iterable[str]) -> Boundary:
    """Return what crosses the border of a set of layers."""
    model = graph.model
    inside = {node for name in layers for node in graph.layer(name).nodes}
    made = {o for node in inside for o in model.nodes[node].output if o}
    read = {i for node in inside for i in node_inputs(model.nodes[node]) if i not in made and not model.is_constant(i)}
    used = {o for o in made if o in model.delivered or any(c not in inside for c in model.consumers.get(o, ()))}
    return Boundary(tuple(sorted(read)), tuple(sorted(used)))


def build_part(
    graph: LayerGraph,
    layers: Sequence[str],
    outputs: Sequence[str],
    int8: Mapping[str, QuantizedLayer] | None = None,
    name: str = "part",
) -> onnx.ModelProto:
    """Build the ONNX model of some layers; its inputs are what they read from elsewhere, sorted by name.

    `outputs` are the tensors it delivers, by their float32 name or, for a quantized layer's tensor, by its wire name; `int8` has
    the quantized layers of the whole plan. A tensor that comes from one of them and from outside this part is received in
    int8, by its wire name, and dequantized here. An input of the model may be delivered as it is.
    """
    model, int8 = graph.model, int8 or {}
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    inputs = []
    wires = {q.output: q for q in int8.values()}
    for tensor in boundary(graph, layers).inputs:
        if tensor in wires:
            nodes.append(_dequantize(model, wires[tensor], weights))
            inputs.append(_wire_info(model, wires[tensor]))
        else:
            inputs.append(model.value_info(tensor))
    received = {value.name for value in inputs}
    inputs += [model.value_info(name) for name in outputs if name in model.taken and name not in received]
    for layer in map(graph.layer, sorted(set(layers), key=graph.topological_index.__getitem__)):
        if layer.name in int8:
            nodes += int8[layer.name].nodes
            weights += int8[layer.name].weights
        else:
            nodes += [node for n in layer.nodes for node in _in_float32(model, model.nodes[n], wires)]
    by_wire = {q.wire: q for q in int8.values()}
    delivered = [_wire_info(model, by_wire[o]) if o in by_wire else model.value_info(o) for o in outputs]
    proto = model.assemble(nodes, inputs, delivered, weights, name)
    import_domains(proto)
    return proto


def _in_float32(model: Model, node: onnx.NodeProto, int8: Collection[str]) -> list[onnx.NodeProto]:
    """Return a node of a float32 layer, behind a copy of its input where ONNX Runtime would not leave it in float32."""
    if node.op_type not in ROUNDS_OTHERWISE or not _moved(model, node.input[0], int8):
        return [node]
    apart, stem = deepcopy(node), free_stem(model, node.name, OF_COPY)
    apart.input[0] = f"{stem}/copy"
    # a sum of one: an Identity would be taken out before int8 kernels are chosen
    return [helper.make_node("Sum", [node.input[0]], [apart.input[0]], name=f"{stem}/copy"), apart]


def _moved(model: Model, tensor: str, int8: Collection[str]) -> bool:
    """Whether a tensor holds values of one of some tensors, maybe in another order."""
    while tensor not in int8:
        maker = model.nodes.get(model.producer.get(tensor, ""))
        if maker is None or maker.op_type not in MOVES:
            return False
        tensor = maker.input[0]
    return True


def _dequantize(model: Model, wire: QuantizedLayer, weights: list[onnx.TensorProto]) -> onnx.NodeProto:
    names = [f"{wire.wire}/received/scale", f"{wire.wire}/received/zero_point"]
    weights.append(numpy_helper.from_array(np.array(wire.scale, np.float32), names[0]))
    weights.append(numpy_helper.from_array(np.array(wire.zero_point, wire.dtype), names[1]))
    return linear(model, "DequantizeLinear", [wire.wire, *names], wire.output, f"{wire.wire}/received")


def _wire_info(model: Model, wire: QuantizedLayer) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(wire.dtype))
    return helper.make_tensor_value_info(wire.wire, kind, model.types[wire.output][1])
