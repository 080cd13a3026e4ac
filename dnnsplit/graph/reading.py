"""Reading an ONNX file: what ONNX Runtime takes, put in order, with all that is constant folded and all shapes known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from dnnsplit.graph.cleanup import (
    check_makers,
    deliver_constants,
    drop_unused,
    drop_weight_inputs,
    name_nodes,
    node_inputs,
    put_in_order,
    sort_nodes,
)
from dnnsplit.graph.feeds import made_up
from dnnsplit.graph.folding import fold
from dnnsplit.graph.foreign import FILE, check_functions, check_tensors, parsed, take_in
from dnnsplit.graph.onnx_file import Model
from dnnsplit.graph.opset import INT8, opset_of, raised
from dnnsplit.graph.runs import run_once
from dnnsplit.graph.signature import Shapes, check_kinds, extents_of, forget_shapes, is_open, kind_of, settle_inputs
from dnnsplit.graph.unfixed import seen_shapes, with_open
from dnnsplit.ground.errors import ModelError, raise_problems, shortened
from dnnsplit.ground.files import sha256
from dnnsplit.ground.gate import memory_bytes, read_bytes
from dnnsplit.ground.units import show


def read_model(path: str | Path, expected_sha256: str = "", shapes: Shapes | None = None) -> Model:
    """Read and index an ONNX file, with the shapes of its open inputs, and with the hash that is expected of both, if any."""
    path, shapes = Path(path), {} if shapes is None else shapes
    if not isinstance(shapes, Mapping):
        message = f"shapes is {shapes!r}; write them by name of input, such as {{'images': (1, 3, 640, 640)}}"
        raise ModelError(message)
    proto, digest = _parsed(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}  # of which a converted copy has none
    drop_weight_inputs(proto.graph)
    check_kinds(proto.graph, path.name)
    left_open = {value.name for value in proto.graph.input if is_open(value.type)}
    notes = settle_inputs(proto.graph, shapes, path.name)
    given = {name: tuple(int(size) for size in shapes[name]) for name in sorted(left_open)}
    if given:
        digest = sha256(f"{digest} {given}".encode())
    if expected_sha256 not in ("", digest):
        message = f"{path} has changed since a graph was read from it; load it again"
        raise ModelError(message)
    forget_shapes(proto.graph, all_of_them=bool(given))
    check_makers(proto.graph, path)
    put_in_order(proto.graph, path)
    named = [value.name for value in proto.graph.input]
    model, types = _settled(proto, path, given) if opset_of(proto) >= INT8 else _converted(proto, path, given, notes)
    model = with_open(replace(model, path=path.resolve(), sha256=digest, shapes=given, metadata=metadata), types)
    unread = tuple(name for name in named if name not in model.taken)
    if unread:
        notes.append(
            f"nothing reads the input{'s' * (len(unread) > 1)} {', '.join(map(repr, unread))}; what is given for it is ignored"
        )
    if len(model.proto.graph.output) > len(model.outputs):
        notes.append("an output that the file lists twice is delivered once")
    return replace(model, unread=unread, notes=(*notes, *model.notes))


def _settled(proto: onnx.ModelProto, path: Path, given: Shapes) -> tuple[Model, dict[str, onnx.TypeProto]]:
    """Return a model as ONNX Runtime folds it, in order and indexed, with the types of its tensors."""
    model, types = _folded(proto, path, given)
    asked: set[str] = set()
    while seen := [value for value in seen_shapes(model, types) if value.name not in asked]:
        asked |= {value.name for value in seen}
        model.proto.graph.value_info.extend(seen)
        model, types = _folded(model.proto, path, given)
        types |= {value.name: value.type for value in seen}
    return model, types


def _folded(proto: onnx.ModelProto, path: Path, given: Shapes) -> tuple[Model, dict[str, onnx.TypeProto]]:
    try:
        types = fold(proto)
    except ModelError as error:
        message = f"{path.name} is not a valid ONNX model; {error.reason}"
        if given:
            fixed = f"{path.name} with its inputs fixed to {dict(given)}"
            message = f"ONNX Runtime does not take {fixed}; give other sizes, or mend this: {error.reason}"
        raise ModelError(message) from None
    name_nodes(proto.graph)
    deliver_constants(proto.graph)
    sort_nodes(proto.graph, path)
    drop_unused(proto.graph)
    model = index(proto, types)
    _check_sizes(model, path.name)
    inputs = [value for value in proto.graph.input if value.name in model.taken]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return model, types


def _converted(proto: onnx.ModelProto, path: Path, given: Shapes, notes: list[str]) -> tuple[Model, dict[str, onnx.TypeProto]]:
    """Return a model of an opset that has int8 operators, if that gives what the file gives, else the file's own."""
    own, (converted, why) = opset_of(proto), raised(proto)
    if converted is not None:
        try:
            name_nodes(converted.graph)
            model, types = _settled(converted, path, given)
            outputs, feed = list(model.outputs), made_up(model)
            unread = {i.name: np.zeros(*_form(i)) for i in proto.graph.input if i.name not in feed}
            before, after = run_once(proto, outputs, feed | unread), run_once(model.proto, outputs, feed)
            if all(np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in zip(before, after, strict=True)):
                notes.append(f"opset {own} has no int8 operators: the model is a copy that onnx converted to opset {INT8}")
                return model, types
            why = "the copy gives other values"
        except ModelError as error:
            why = error.reason
    notes.append(f"opset {own} has no int8 operators, and onnx cannot convert it ({why}): every layer is float32")
    return _settled(proto, path, given)


def _check_sizes(model: Model, name: str) -> None:
    """Refuse a model with a tensor that this machine cannot hold: it is to be run here."""
    most = memory_bytes()
    known = ((tensor, shape) for tensor, (kind, shape) in model.types.items() if kind != onnx.TensorProto.STRING)
    large = [tensor for tensor, shape in known if math.prod(shape) * model.dtype(tensor).itemsize > most]
    told = [f"tensor {tensor!r} has the shape {shortened(model.types[tensor][1])}" for tensor in large]
    raise_problems(ModelError, f"{name} does not fit into the {show(most, 'B')} of memory of this machine", told, most=3)


def _form(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...], str]:
    return extents_of(value.type) or (), kind_of(value.type)


def index(proto: onnx.ModelProto, types: Mapping[str, onnx.TypeProto]) -> Model:
    """Index a model that is in order."""
    graph = proto.graph
    weights = {w.name: w for w in graph.initializer}
    producer = {o: n.name for n in graph.node for o in n.output if o}
    delivered = dict.fromkeys(o.name for o in graph.output)
    constant: dict[str, onnx.NodeProto] = {}
    consumers: dict[str, list[str]] = {}
    for node in graph.node:
        read = node_inputs(node)
        fixed = read and not is_random(node) and delivered.keys().isdisjoint(node.output)
        if fixed and all(i in weights or producer.get(i) in constant for i in read):
            constant[node.name] = node
        for tensor in read:
            consumers.setdefault(tensor, []).append(node.name)
    known = {name: kind.tensor_type for name, kind in types.items() if kind.HasField("tensor_type")}
    sizes = {name: (kind.elem_type, extents_of(types[name])) for name, kind in known.items() if kind.elem_type}
    return Model(
        path=Path(),
        sha256="",
        proto=proto,
        nodes={node.name: node for node in graph.node if node.name not in constant},
        constant_nodes=constant,
        producer=producer,
        consumers={tensor: tuple(names) for tensor, names in consumers.items()},
        types={name: (kind, shape) for name, (kind, shape) in sizes.items() if shape is not None}
        | {w.name: (w.data_type, tuple(w.dims)) for w in graph.initializer},
        weights=weights,
        inputs=tuple(i.name for i in graph.input if i.name in consumers or i.name in delivered),
        outputs=tuple(delivered),
    )


def is_random(node: onnx.NodeProto) -> bool:
    """Whether two runs of a node may differ."""
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


def _parsed(path: Path) -> tuple[onnx.ModelProto, str]:
    """Return the content of a file, with weights that are in others, and its hash."""
    content = read_bytes(path, FILE)
    digest = sha256(content)
    proto = parsed(path, content)
    del content
    if not proto.graph.node or not proto.graph.output or not proto.opset_import:
        message = f"{path} is no ONNX model: it has no nodes, no outputs or no opset"
        raise ModelError(message)
    check_functions(proto, path)
    if check_tensors(proto, path):
        take_in(proto, path)
    return proto, digest
