"""What goes into a model and comes out of it: kinds that can be sent, and sizes for inputs that are open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import onnx
from onnx import helper

from dnnsplit.ground.errors import ModelError, nearest, raise_problems
from dnnsplit.ground.units import is_whole

Shapes = Mapping[str, Sequence[int]]  # extents by the name of an input

# Element types that numpy and the Open Inference Protocol have both.
SENDABLE = frozenset({
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
})  # fmt: skip
UNKNOWN = "of unknown type"
_ELEMENTS = frozenset({*onnx.TensorProto.DataType.values()} - {onnx.TensorProto.UNDEFINED})
_TYPICAL = {3: 1000, 4: 224}  # extents in an example, by rank


def kind_of(value: onnx.TypeProto) -> str:
    """Return how a type is called: "float32", "texts", "a sequence", ..."""
    kind = value.WhichOneof("value") or "tensor_type"
    if kind != "tensor_type":
        return {"sequence_type": "a sequence", "map_type": "a map", "optional_type": "an optional"}.get(kind, "a sparse tensor")
    element = value.tensor_type.elem_type
    if element == onnx.TensorProto.STRING:
        return "texts"
    return _name(element) if element in _ELEMENTS else UNKNOWN


@cache
def _name(element: int) -> str:
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(element)))


def extents_of(value: onnx.TypeProto) -> tuple[int, ...] | None:
    """Return the extents of a tensor, -1 where one is open; None where not even their number is known."""
    if not value.tensor_type.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.tensor_type.shape.dim)


def is_open(value: onnx.TypeProto) -> bool:
    """Whether a tensor has an extent that is not known, or not even their number."""
    extents = extents_of(value)
    return extents is None or -1 in extents


def check_kinds(graph: onnx.GraphProto, name: str) -> None:
    """Refuse a model that takes or delivers what is no tensor of numbers."""
    maps = {output for node in graph.node if node.op_type == "ZipMap" for output in node.output}
    problems = []
    for what, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            kind = kind_of(value.type)
            if value.name in maps:
                kind, way_out = "a sequence of maps", "convert the model with options={'zipmap': False}"
            elif kind in ("texts", "a sequence", "a map", "an optional", "a sparse tensor"):
                way_out = "turn it into numbers before the model" if what == "input" else "export the model without it"
            else:
                way_out = f"export the model with a Cast {'behind' if what == 'input' else 'before'} it, float32 outside"
            if wrong := [extent for extent in extents_of(value.type) or () if extent < -1]:
                problems.append(f"{what} {value.name!r} has the extent {wrong[0]}; it must be 0 or more, or be left open")
            if kind not in SENDABLE and not (what == "output" and kind == UNKNOWN):
                problems.append(f"{what} {value.name!r} is {kind}, and only tensors of numbers are sent; {way_out}")
    raise_problems(ModelError, f"{name} cannot be split", problems)


def settle_inputs(graph: onnx.GraphProto, shapes: Shapes, name: str) -> list[str]:
    """Give the open inputs of a graph, in place, the extents that `shapes` has; return what is worth telling.

    Raises
    ------
    ModelError
        Names of no input, extents that do not fit, inputs that stay open; all of them at once.
    """
    inputs = {value.name: value for value in graph.input}
    problems = [f"there is no input {given!r} to give a shape{nearest(given, inputs)}" for given in shapes if given not in inputs]
    symbols: dict[str, dict[int, list[str]]] = {}
    still = {}
    for key, value in inputs.items():
        dims = value.type.tensor_type.shape.dim
        known = extents_of(value.type)
        if key not in shapes:
            if is_open(value.type):
                still[key] = value
            continue
        wanted, wrong = _extents(shapes[key])
        fits = known is None or (len(known) == len(wanted) and all(a in (-1, b) for a, b in zip(known, wanted, strict=True)))
        if wrong:
            problems.append(f"the shape of input {key!r} is {shapes[key]!r}; {wrong}")
        elif not fits:
            problems.append(f"input {key!r} has the shape {written(value)} in the file; {_text(wanted)} does not fit")
        else:
            for dim, size in zip(dims, wanted, strict=False):
                if dim.dim_param:
                    symbols.setdefault(dim.dim_param, {}).setdefault(size, []).append(key)
            value.type.tensor_type.shape.Clear()
            value.type.tensor_type.shape.SetInParent()
            for size in wanted:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    if still:
        problems.append(_way_out(still, name))
    heading = f"{name} has no fixed shapes" if still and len(problems) == 1 else f"shapes of {name}"
    raise_problems(ModelError, heading, problems)
    return [
        f"the symbol {symbol!r} stands for "
        + " and ".join(f"{size} (in {', '.join(dict.fromkeys(at))})" for size, at in sizes.items())
        for symbol, sizes in symbols.items()
        if len(sizes) > 1
    ]


def _way_out(still: Mapping[str, onnx.ValueInfoProto], name: str) -> str:
    """Return what is said of inputs that are open, with a call that settles them."""
    listed = " and ".join(f"{key!r} {written(value)}" for key, value in still.items())
    examples = {key: _example(value) for key, value in still.items()}
    call = ", ".join(f"{key!r}: {_text(example)}" for key, example in examples.items())
    options = " ".join(f"--shape {key}={','.join(map(str, example))}" for key, example in examples.items())
    what = "the inputs are open" if len(still) > 1 else "the input is open"
    return f"{what}: {listed}; give sizes, such as load({name!r}, shapes={{{call}}}), on the command line {options}"


def forget_shapes(graph: onnx.GraphProto, all_of_them: bool) -> None:
    """Forget, in place, what a file says of inner tensors and of open outputs, or of all: it may be of other sizes."""
    del graph.value_info[:]
    for value in graph.output:
        if value.type.HasField("tensor_type") and (all_of_them or is_open(value.type)):
            value.type.tensor_type.ClearField("shape")


def written(value: onnx.ValueInfoProto) -> str:
    """Return a shape as people write it: (batch, 3, ?, ?)."""
    if not value.type.tensor_type.HasField("shape"):
        return "(of unknown rank)"
    return _text(
        [dim.dim_param or "?" if not dim.HasField("dim_value") else dim.dim_value for dim in value.type.tensor_type.shape.dim]
    )


def _text(extents: Sequence[object]) -> str:
    return f"({', '.join(map(str, extents))}{',' if len(extents) == 1 else ''})"


def _example(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return sizes as somebody may give them: one at a time, of a usual size."""
    known = extents_of(value.type) or (-1, -1)
    usual = _TYPICAL.get(len(known), 16)
    return tuple(size if size >= 0 else 1 if i == 0 else usual for i, size in enumerate(known))


def _extents(given: object) -> tuple[tuple[int, ...], str]:
    """Return extents, and what is wrong with them."""
    way_out = "write whole numbers, 0 or more, such as (1, 3, 640, 640)"
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        return (), way_out
    whole = all(is_whole(size) and 0 <= size < 2**31 for size in given)
    return (tuple(int(size) for size in given), "") if whole else ((), way_out)
