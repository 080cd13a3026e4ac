"""An ONNX file, read once and indexed: unique node names, known shapes, and sub-models that share its constants."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper, shape_inference

from dnnsplit.graph.cleanup import node_inputs, put_in_order, without_weights
from dnnsplit.ground.errors import ModelError, raise_problems
from dnnsplit.ground.files import sha256


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """An ONNX model with its index. Made by `read_model`; never changed."""

    path: Path
    sha256: str  # of the file
    proto: onnx.ModelProto  # every node has a unique name, Constant nodes have become initializers
    nodes: dict[str, onnx.NodeProto]  # by name, in topological order, without those that depend on constants alone
    constant_nodes: dict[str, onnx.NodeProto]  # depend on constants alone; they are copied to wherever their value is used
    producer: dict[str, str]  # node name by tensor
    consumers: dict[str, tuple[str, ...]]  # node names by tensor
    types: dict[str, tuple[int, tuple[int, ...]]]  # (ONNX element type, shape) by tensor
    weights: dict[str, onnx.TensorProto]  # initializer by name
    inputs: tuple[str, ...]  # tensor names of the graph
    outputs: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Model({self.path.name}: {len(self.nodes)} nodes, sha256 {self.sha256[:8]})"

    def is_constant(self, tensor: str) -> bool:
        """Whether the tensor is an initializer or computed from initializers alone."""
        return tensor in self.weights or self.producer.get(tensor) in self.constant_nodes

    def size_bytes(self, tensor: str) -> int:
        """Size of a tensor [B]."""
        return int(np.prod(self.types[tensor][1], dtype=np.int64)) * self.dtype(tensor).itemsize

    def dtype(self, tensor: str) -> np.dtype[Any]:
        """Element type of a tensor as numpy names it."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.types[tensor][0]))

    def weight(self, name: str) -> np.ndarray:
        """Value of an initializer."""
        return numpy_helper.to_array(self.weights[name])

    def value_info(self, tensor: str) -> onnx.ValueInfoProto:
        """ONNX description of a tensor."""
        return helper.make_tensor_value_info(tensor, *self.types[tensor])

    def assemble(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        weights: Iterable[onnx.TensorProto] = (),
        name: str = "part",
    ) -> onnx.ModelProto:
        """Build a model of its own from nodes in topological order, adding the constants of this model that they use.

        Nodes and weights may be others than this model's; inputs and outputs are what it receives and delivers.
        """
        own = {weight.name: weight for weight in weights}
        constants, needed = self.constants({name for node in nodes for name in node_inputs(node)} - own.keys())
        graph = helper.make_graph([*constants, *nodes], name, list(inputs), list(outputs))
        graph.initializer.extend(own.values())
        graph.initializer.extend(self.weights[name] for name in sorted(needed))
        model = helper.make_model(graph, opset_imports=self.proto.opset_import, ir_version=self.proto.ir_version)
        model.functions.extend(self.proto.functions)
        return model

    def constants(self, names: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
        """Return the constant nodes and initializers that some tensors rest on."""
        nodes: set[str] = set()
        weights: set[str] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name in self.weights:
                weights.add(name)
            elif self.producer.get(name) in self.constant_nodes and self.producer[name] not in nodes:
                nodes.add(self.producer[name])
                stack += node_inputs(self.constant_nodes[self.producer[name]])
        return [node for name, node in self.constant_nodes.items() if name in nodes], weights


def read_model(path: str | Path, expected_sha256: str = "") -> Model:
    """Read and index an ONNX file with fixed input shapes, and with the hash that is expected of it, if any."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        message = f"{path} is a folder; give the .onnx file itself"
        raise ModelError(message) from None
    except OSError as error:
        message = f"there is no model file {path} ({error.strerror})"
        raise ModelError(message) from None
    digest = sha256(content)
    if expected_sha256 not in ("", digest):
        message = f"{path} has changed since a graph was read from it; load it again"
        raise ModelError(message)
    try:
        proto = onnx.load_from_string(content)
        del content
    except (DecodeError, ValueError) as error:
        message = f"{path} is no ONNX file ({error}); export the network with its framework's ONNX exporter"
        raise ModelError(message) from None
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        message = f"{path} is no ONNX model: it has no nodes, no outputs or no opset"
        raise ModelError(message)
    try:
        onnx.external_data_helper.load_external_data_for_model(proto, os.fspath(path.resolve().parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        message = f"{path}: its weights are in another file that cannot be read ({error}); put it beside it"
        raise ModelError(message) from None
    put_in_order(proto.graph, path)
    try:
        bare = without_weights(proto)
        onnx.checker.check_model(bare, full_check=False)
        inferred = shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        message = f"{path} is not a valid ONNX model: {str(error).strip().splitlines()[0]}"
        raise ModelError(message) from None
    graph = proto.graph
    for entries, found in ((graph.value_info, inferred.value_info), (graph.output, inferred.output)):
        del entries[:]
        entries.extend(found)
    weights = {w.name: w for w in graph.initializer}
    producer = {o: n.name for n in graph.node for o in n.output if o}
    constant: dict[str, onnx.NodeProto] = {}
    consumers: dict[str, list[str]] = {}
    for node in graph.node:
        read = node_inputs(node)
        if read and not node.op_type.startswith("Random") and all(i in weights or producer.get(i) in constant for i in read):
            constant[node.name] = node
        for tensor in read:
            consumers.setdefault(tensor, []).append(node.name)
    types = {
        v.name: (v.type.tensor_type.elem_type, tuple(_dim(d) for d in v.type.tensor_type.shape.dim))
        for v in (*graph.input, *graph.value_info, *graph.output)
        if v.type.tensor_type.HasField("shape")
    }
    types |= {w.name: (w.data_type, tuple(w.dims)) for w in graph.initializer}
    model = Model(
        path=path.resolve(),
        sha256=digest,
        proto=proto,
        nodes={node.name: node for node in graph.node if node.name not in constant},
        constant_nodes=constant,
        producer=producer,
        consumers={tensor: tuple(names) for tensor, names in consumers.items()},
        types=types,
        weights=weights,
        inputs=tuple(i.name for i in graph.input if i.name not in weights),
        outputs=tuple(o.name for o in graph.output),
    )
    for name in filter(model.is_constant, model.outputs):
        message = f"{path}: output {name!r} rests on constants alone; take it out of the model's outputs"
        raise ModelError(message)
    _check_shapes(model)
    return model


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int:
    return dim.dim_value if dim.HasField("dim_value") else -1


def _check_shapes(model: Model) -> None:
    way_out = "export it with fixed shapes, or run: python -m onnxruntime.tools.make_dynamic_shape_fixed --help"
    shape = {tensor: dims for tensor, (_, dims) in model.types.items()}
    inputs = [name for name in model.inputs if -1 in shape.get(name, (-1,))]
    problems = [f"input {name!r} has the open shape {shape.get(name, ())}; {way_out}" for name in inputs]
    made = [(node, t) for node in model.nodes.values() for t in node.output if t and -1 in shape.get(t, (-1,))]
    problems = problems or [f"the shape of {t!r} (made by {n.op_type} {n.name!r}) is not known; {way_out}" for n, t in made]
    raise_problems(ModelError, f"{model.path.name} has no fixed shapes", problems, most=5)
