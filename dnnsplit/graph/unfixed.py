"""Tensors without a fixed shape, or of a type that cannot be sent: found and told why, so that none of them leaves its server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from dnnsplit.graph.feeds import Feed, made_up
from dnnsplit.graph.onnx_file import Model
from dnnsplit.graph.runs import run_once
from dnnsplit.graph.signature import SENDABLE, is_open, kind_of
from dnnsplit.ground.errors import ModelError

Types = Mapping[str, onnx.TypeProto]

# Sizes of what they make depend on values, in whatever domain they are.
_BY_VALUE = frozenset({"Compress", "Loop", "NonMaxSuppression", "NonZero", "Range", "Tokenizer", "Unique"})


def with_open(model: Model, types: Types) -> Model:
    """Return a model that knows its open tensors and, from one run, the shapes that they had in it; see `Model.open`."""
    found = dict(_open(model, types))
    if not found:
        return model
    told = [name for name in found if kind_of(types[name]) in SENDABLE]
    notes, seen = [], dict[str, tuple[int, ...]]()
    try:
        seen = _shapes(model, types, told, made_up(model)) if told else {}
    except ModelError as error:
        notes.append(f"sizes that depend on data are counted as 1, because no run told them: {error.reason}")
    sized, why = dict(model.types), f" ({notes[0]})" if notes else ""
    for name in (name for name in model.outputs if name in found):
        notes.append(f"the model delivers {found[name]}: it is sent with the shape that it has")
        if name not in sized and name not in seen:
            message = f"{model.path.name} delivers {found[name]}, and not even its rank is known; take it out of the outputs{why}"
            raise ModelError(message)
        sized.setdefault(name, (types[name].tensor_type.elem_type, (-1,) * len(seen.get(name, ()))))
    return replace(model, open=found, seen=seen, types=sized, notes=(*model.notes, *notes))


def seen_shapes(model: Model, types: Types) -> list[onnx.ValueInfoProto]:
    """Return tensors of which two runs tell the shape, made by operators of which ONNX Runtime infers none.

    It infers those of ONNX's own operators wherever they do not depend on data, so that only others are asked.
    """
    asked = [node for node in model.nodes.values() if node.domain not in ("", "ai.onnx") and node.op_type not in _BY_VALUE]
    own = [node for node in asked if not any(_lacks(types, tensor) for tensor in model.reads[node.name])]
    unknown = [tensor for node in own for tensor in _read(model, node) if _lacks(types, tensor)]
    names = [t for t in unknown if kind_of(types[t]) in SENDABLE]
    if not names:
        return []
    try:
        feed = made_up(model)
        other = {k: v / 2 if v.dtype.kind == "f" else v for k, v in feed.items()}
        first, second = (_shapes(model, types, names, one) for one in (feed, other))
    except ModelError:
        return []  # they stay open, and are told to be
    alike = [name for name in names if first[name] == second[name]]
    return [helper.make_tensor_value_info(name, types[name].tensor_type.elem_type, first[name]) for name in alike]


def _open(model: Model, types: Types) -> Iterator[tuple[str, str]]:
    root: dict[str, str] = {}
    for node in model.nodes.values():
        before = next((root[t] for t in model.reads[node.name] if t in root), f"{node.op_type} {node.name!r}")
        for tensor in _read(model, node):
            kind = kind_of(types[tensor])
            if kind not in SENDABLE:
                yield tensor, f"{tensor!r}, which is {kind} (made by {node.op_type} {node.name!r})"
            elif _lacks(types, tensor):
                root[tensor] = before
                yield tensor, f"{tensor!r}, whose shape depends on data ({before})"


def _lacks(types: Types, tensor: str) -> bool:
    """Whether a tensor has no fixed shape; constants that are no part of the types have one."""
    return tensor in types and is_open(types[tensor])


def _read(model: Model, node: onnx.NodeProto) -> list[str]:
    """Return the outputs of a node that something reads or the model delivers."""
    return [t for t in node.output if t and (t in model.consumers or t in model.delivered)]


def _shapes(model: Model, types: Types, names: Sequence[str], feed: Feed) -> dict[str, tuple[int, ...]]:
    """Run a model once; return the shapes of some of its tensors."""
    proto = onnx.ModelProto(ir_version=model.proto.ir_version, opset_import=model.proto.opset_import)
    proto.graph.CopyFrom(model.proto.graph)
    delivered = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in names if name not in delivered)
    return {name: np.shape(value) for name, value in zip(names, run_once(proto, names, feed), strict=True)}
