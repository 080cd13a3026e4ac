"""An ONNX model, indexed: unique node names, known shapes, and sub-models that share its constants."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dnnsplit.graph.cleanup import all_names, node_inputs
from dnnsplit.graph.opset import opset_of
from dnnsplit.graph.runs import run_once


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """An ONNX model with its index. Made by `dnnsplit.graph.reading.read_model`; never changed."""

    path: Path
    sha256: str  # of the file, and of the shapes that were given for its inputs
    proto: onnx.ModelProto  # every node has a unique name, what follows from small constants alone is an initializer
    nodes: dict[str, onnx.NodeProto]  # by name, in topological order, without those that depend on constants alone
    constant_nodes: dict[str, onnx.NodeProto]  # depend on constants alone; they are copied to wherever their value is used
    producer: dict[str, str]  # node name by tensor
    consumers: dict[str, tuple[str, ...]]  # node names by tensor
    types: dict[str, tuple[int, tuple[int, ...]]]  # (ONNX element type, shape) by tensor; -1: an extent that depends on data
    weights: dict[str, onnx.TensorProto]  # initializer by name
    inputs: tuple[str, ...]  # tensor names of the graph, those that something reads
    outputs: tuple[str, ...]  # each once
    unread: tuple[str, ...] = ()  # inputs of the file that nothing reads
    open: Mapping[str, str] = field(default_factory=dict)  # tensors that cannot be sent to another server, and why
    seen: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # extents in one run, of tensors that have no fixed ones
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # as given for open inputs
    metadata: Mapping[str, str] = field(default_factory=dict)  # what the file says of itself
    notes: tuple[str, ...] = ()  # what was done to the file, in words
    _values: dict[str, np.ndarray] = field(default_factory=dict)  # of constants that were asked for

    def __repr__(self) -> str:
        return f"Model({self.path.name}: {len(self.nodes)} nodes, sha256 {self.sha256[:8]})"

    @cached_property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """Names of the tensors that each node reads, its bodies too, by name of the node."""
        return {node.name: tuple(node_inputs(node)) for node in self.proto.graph.node}

    @cached_property
    def names(self) -> list[str]:
        """Names of all nodes, tensors and constants, those of bodies among them, sorted."""
        return sorted(set(all_names(self.proto.graph)))

    @property
    def opset(self) -> int:
        """Version of the default domain."""
        return opset_of(self.proto)

    @cached_property
    def taken(self) -> frozenset[str]:
        """The inputs, to look names up in."""
        return frozenset(self.inputs)

    @cached_property
    def delivered(self) -> frozenset[str]:
        """The outputs, to look names up in."""
        return frozenset(self.outputs)

    def is_constant(self, tensor: str) -> bool:
        """Whether the tensor is an initializer or computed from initializers alone."""
        return tensor in self.weights or self.producer.get(tensor) in self.constant_nodes

    def extents(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of a tensor; what depends on data as it was in one run, or 1 where no run told it."""
        known = self.types[tensor][1] if tensor in self.types else ()
        return self.seen.get(tensor, tuple(max(size, 1) if size < 0 else size for size in known))

    def size_bytes(self, tensor: str) -> int:
        """Size of a tensor [B]."""
        return math.prod(self.extents(tensor)) * self.dtype(tensor).itemsize

    def dtype(self, tensor: str) -> np.dtype[Any]:
        """Element type of a tensor as numpy names it."""
        return _dtype(self.types[tensor][0])

    def weight(self, name: str) -> np.ndarray:
        """Value of a constant, an initializer or one that ONNX Runtime computes from initializers."""
        if name in self.weights:
            return numpy_helper.to_array(self.weights[name])
        if name not in self._values:
            (self._values[name],) = run_once(self.assemble([], [], [self.value_info(name)], reads=[name]), [name], {})
        return self._values[name]

    def value_info(self, tensor: str) -> onnx.ValueInfoProto:
        """ONNX description of a tensor."""
        kind, shape = self.types[tensor]
        return helper.make_tensor_value_info(tensor, kind, [None if size < 0 else size for size in shape])

    def assemble(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        weights: Iterable[onnx.TensorProto] = (),
        name: str = "part",
        reads: Iterable[str] = (),
    ) -> onnx.ModelProto:
        """Build a model of its own from nodes in topological order, adding the constants of this model that they use.

        Nodes and weights may be others than this model's; inputs and outputs are what it receives and delivers. `reads` are
        constants that it has besides.
        """
        own = {weight.name: weight for weight in weights}
        used = {name for node in nodes for name in node_inputs(node)} | set(reads)
        constants, needed = self.constants(used - own.keys())
        graph = helper.make_graph([*constants, *nodes], name, list(inputs), list(outputs))
        graph.initializer.extend(own.values())
        graph.initializer.extend(self.weights[name] for name in sorted(needed))
        return helper.make_model(graph, opset_imports=self.proto.opset_import, ir_version=self.proto.ir_version)

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
                stack += self.reads[self.producer[name]]
        return [self.constant_nodes[name] for name in sorted(nodes, key=self._constant_order.__getitem__)], weights

    @cached_property
    def _constant_order(self) -> dict[str, int]:
        """Position of each constant node."""
        return {name: i for i, name in enumerate(self.constant_nodes)}


@cache
def _dtype(kind: int) -> np.dtype[Any]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))
