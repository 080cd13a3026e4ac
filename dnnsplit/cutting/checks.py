"""What can be wrong with a bundle: whether its JSON is readable, the wiring of its parts, and its files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dnnsplit.codecs.plain import INT8, PLAIN
from dnnsplit.ground.errors import DeployError, DnnSplitError, nearest, shortened
from dnnsplit.ground.files import sha256
from dnnsplit.ground.gate import Kind, file_problem
from dnnsplit.ground.json_file import read_json
from dnnsplit.ground.paths import is_file, real
from dnnsplit.ground.units import show

if TYPE_CHECKING:
    from dnnsplit.cutting.bundle import Bundle

Name = TypeVar("Name", str, tuple[str, str, str])

# numpy name -> (datatype of the Open Inference Protocol, bytes per value)
DATATYPES = {
    "bool": ("BOOL", 1), "uint8": ("UINT8", 1), "uint16": ("UINT16", 2), "uint32": ("UINT32", 4), "uint64": ("UINT64", 8),
    "int8": ("INT8", 1), "int16": ("INT16", 2), "int32": ("INT32", 4), "int64": ("INT64", 8),
    "float16": ("FP16", 2), "float32": ("FP32", 4), "float64": ("FP64", 8),
}  # fmt: skip

# types that may stand for float32 -> range of their zero point
ZERO_POINTS = {"uint8": (0, 255), "int8": (-128, 127)}

# most that a tensor may hold whose shape depends on data [B]: a message needs a limit before the shape is known
OPEN_BYTES = 2**26
MOST_BYTES = 2**31 - 2**21  # of a tensor in a message, whose size gRPC counts in 31 bits [B]


_KIND = Kind(
    "is not readable as JSON", DeployError, 2**27, "the folder of a bundle",
    "there is no bundle in {path.parent}: {path.name} is missing; cut a model into it first", "cut the model again",
)  # fmt: skip


def read_document(path: Path, schema: int) -> dict[str, Any]:
    """Read a JSON file of ours whose form has a number, and take that number off."""
    document = read_json(path, _KIND)
    found = document.pop("schema", None) if isinstance(document, dict) else document
    if found != schema or not isinstance(document, dict):
        message = f"{path} is not of schema {schema} (it says {shortened(found)}); cut the model again"
        raise DeployError(message)
    return document


@dataclass(frozen=True)
class _Sent:
    """What is read of a transfer of the plan that a bundle was cut by."""

    tensor: str
    source: str
    target: str
    size_bytes: float
    form: str = PLAIN
    encode_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class _Cost:
    transfers: tuple[_Sent, ...] = ()
    compute_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Planned:
    cost: _Cost = field(default_factory=_Cost)


def _plan_problems(plan: Mapping[str, Any]) -> Iterable[str]:
    """Yield what is wrong with what is read of the plan that a bundle was cut by."""
    try:
        found = msgspec.convert(plan, _Planned).cost
    except msgspec.ValidationError as error:
        yield f"the plan in it has another form than `cut` writes: {error}"
        return
    for sent in found.transfers:
        if not all(0 <= amount < math.inf for amount in (sent.size_bytes, sent.encode_s, sent.decode_s)):
            yield f"the plan in it sends {sent.tensor!r} in amounts that are no numbers of 0 or more"
    for server, seconds in found.compute_s.items():
        if not 0 <= seconds < math.inf:
            yield f"the plan in it lets {server!r} compute for {seconds!r} s"


def bundle_problems(bundle: Bundle) -> Iterable[str]:
    """Yield a sentence for everything that is wrong with the names, the wiring and the files of `bundle`."""
    if problems := list(_plan_problems(bundle.plan)):
        yield from problems
        return
    yield from _name_problems(bundle)
    yield from _wire_problems(bundle)
    yield from _part_problems(bundle)
    yield from _hop_problems(bundle)
    yield from _pixel_problems(bundle)
    yield from _coding_problems(bundle)
    yield from _file_problems(bundle)


def _name_problems(bundle: Bundle) -> Iterable[str]:
    if not bundle.model_name or "/" in bundle.model_name:
        yield f"the model name {bundle.model_name!r} must not be empty nor hold '/'"
    for what, names in (
        ("server", bundle.servers),
        ("part", [part.name for part in bundle.parts]),
        ("output", [output.name for output in bundle.outputs]),
    ):
        yield from (f"two {what}s are named {name!r}" for name in _repeated(names))
    read = {wire.name for wire in bundle.inputs}
    for name in bundle.ignored:
        if name in read:
            yield f"graph input {name!r} is both read and ignored; take it out of one"
    if not bundle.outputs:
        yield "it has no outputs; name at least one"
    servers = set(bundle.servers)
    for what, server in [("source", bundle.source), *((f"part {part.name!r}: server", part.server) for part in bundle.parts)]:
        if server not in servers:
            yield f"{what} {server!r} is no server of the bundle{nearest(server, bundle.servers)}"


def _wire_problems(bundle: Bundle) -> Iterable[str]:
    for name in _repeated([wire.name for wire in dict.fromkeys(bundle.inputs + bundle.wires)]):
        yield f"the wire {name!r} is described twice"
    read = {name for part in bundle.parts for name in part.inputs} | {wire.name for wire in bundle.inputs}
    for wire in dict.fromkeys(bundle.inputs + bundle.wires):
        yield from type_problems(wire.name, wire.dtype)
        if any(extent < -1 for extent in wire.shape):
            yield f"wire {wire.name!r}: the shape {list(wire.shape)} must have extents of 0 or more, or -1 for one that is open"
        if wire.is_open and (wire.name in read or wire.scale is not None):
            yield (
                f"wire {wire.name!r} has the open shape {list(wire.shape)}, so it can only be an output of the model, without a "
                "scale; keep it and the layers that read it in one part"
            )
        if wire.scale is not None and not (wire.dtype in ZERO_POINTS and 0 < wire.scale < math.inf):
            yield f"wire {wire.name!r}: a scale ({wire.scale!r}) must be above 0 and goes with uint8 or int8, not {wire.dtype}"
        low, high = ZERO_POINTS.get(wire.dtype, (0, 0))
        if (wire.scale is None) != (wire.zero_point is None) or not low <= (wire.zero_point or 0) <= high:
            yield f"wire {wire.name!r}: scale {wire.scale!r} needs a zero_point in {low}..{high}, not {wire.zero_point!r}"
    answered = {output.wire for output in bundle.outputs}
    coded = {*bundle.pixels, *(coding.wire for coding in bundle.codings)}
    sent = answered | {wire.name for wire in bundle.inputs} | bundle.needed.keys()
    for wire in dict.fromkeys(bundle.inputs + bundle.wires):
        if wire.name in sent and wire.dtype in DATATYPES:
            size_bytes = wire.real_bytes if wire.name in answered else wire.size_bytes
            if wire.name in coded:
                size_bytes = max(size_bytes, wire.coded_bytes)
            if size_bytes > MOST_BYTES:
                yield (
                    f"tensor {wire.name!r} has the shape {list(wire.shape)}, {show(size_bytes, 'B')}, and a message holds "
                    f"{show(MOST_BYTES, 'B')}; keep the layers that make and read it on one server, inputs and outputs of the "
                    "model smaller"
                )
    for wire in bundle.inputs:
        if wire.scale is not None:
            yield f"graph input {wire.name!r} has a scale; quantise it in a part on {bundle.source!r} instead"


def type_problems(tensor: str, dtype: str) -> Iterable[str]:
    """Yield a sentence if values of a type cannot be sent."""
    if dtype not in DATATYPES:
        kind = "text" if dtype == "object" else dtype
        yield (
            f"tensor {tensor!r} is {kind}, which cannot be sent{nearest(dtype, DATATYPES)}; place the layers that make and read "
            f"it on one server, or export the model with another type there ({', '.join(DATATYPES)})"
        )


def _part_problems(bundle: Bundle) -> Iterable[str]:
    made = {wire.name: "the graph inputs" for wire in bundle.inputs}
    makers = {name: part.name for part in bundle.parts for name in part.outputs}
    for part in bundle.parts:
        for name in part.inputs:
            if name not in made:
                late = f"part {makers[name]!r}, which comes later" if name in makers else "nobody"
                yield f"part {part.name!r} needs {name!r}, which is made by {late}"
        for name in part.outputs:
            if name in made:
                yield f"the wire {name!r} is made twice: by {made[name]} and by part {part.name!r}"
            if name not in bundle.wire_by_name:
                yield f"part {part.name!r} makes {name!r}, which is not among the wires{nearest(name, bundle.wire_by_name)}"
            made[name] = f"part {part.name!r}"
    for output in bundle.outputs:
        if output.wire not in made or output.wire not in bundle.wire_by_name:
            yield f"output {output.name!r} is carried by {output.wire!r}, which nobody makes{nearest(output.wire, made)}"


def _hop_problems(bundle: Bundle) -> Iterable[str]:
    producers, needed, servers = bundle.producers, bundle.needed, set(bundle.servers)
    there = {name: {server} for name, server in producers.items()}
    for hop in bundle.hops:
        where = f"hop of {hop.wire!r}, {hop.source!r} -> {hop.target!r}"
        if hop.wire not in producers:
            yield f"{where}: nobody makes that wire{nearest(hop.wire, producers)}"
            continue
        for server in {hop.source, hop.target} - servers:
            yield f"{where}: {server!r} is no server of the bundle{nearest(server, bundle.servers)}"
        if hop.source not in there[hop.wire]:
            yield f"{where}: the wire has not come to {hop.source!r} before; put the hops in the order of travel"
        if hop.target in there[hop.wire]:
            yield f"{where}: the wire is at {hop.target!r} already"
        there[hop.wire].add(hop.target)
    for name in dict.fromkeys(hop.wire for hop in bundle.hops if hop.wire in producers):
        for server in needed.get(name, ()):
            if server not in there[name]:
                yield f"the hops of wire {name!r} do not bring it to {server!r}, which needs it"


def _pixel_problems(bundle: Bundle) -> Iterable[str]:
    inputs = {wire.name: wire for wire in bundle.inputs}
    for name, pixels in bundle.pixels.items():
        if name not in inputs:
            yield f"pixels of {name!r}: there is no such graph input{nearest(name, inputs)}"
        elif pixels.sizes(inputs[name].shape) is None:
            shape = list(inputs[name].shape)
            yield f"pixels of {name!r}: {len(pixels.scale)} channels as {pixels.layout} do not fit the shape {shape}"


def _coding_problems(bundle: Bundle) -> Iterable[str]:
    """Yield what is wrong with the forms in which wires cross, link by link and then of each graph input as a whole."""
    wires, inputs, routes = bundle.wire_by_name, {wire.name for wire in bundle.inputs}, bundle.routes
    ways = {(wire, source, target) for (wire, source), targets in routes.items() for target in targets}
    read = {name for part in bundle.parts if part.server == bundle.source for name in part.inputs} & inputs
    delivered = {output.wire for output in bundle.outputs} & inputs
    planned = _planned_forms(bundle)
    yield from (f"{_way(*way)} has two forms" for way in _repeated([(c.wire, c.source, c.target) for c in bundle.codings]))
    lossy: dict[str, set[str]] = {}
    for coding in bundle.codings:
        way, what = (coding.wire, coding.source, coding.target), _way(coding.wire, coding.source, coding.target)
        if coding.wire not in wires:
            yield f"{what} has a form, and nobody makes that wire{nearest(coding.wire, wires)}"
            continue
        if coding.form in (PLAIN, INT8):
            yield f"{what} is to cross as {coding.form!r}, which is how it is made; leave its form out"
            continue
        try:
            lossless = bundle.codec(coding.wire, coding.form).lossless
        except DnnSplitError as error:
            yield f"{what}: {error}"
            continue
        local = coding.source == coding.target == bundle.source and coding.wire in inputs
        if way not in ways and not (local and not lossless and coding.wire in read | delivered):
            yield f"{what} has the form {coding.form!r}, and the wire does not go that way"
        wire = wires[coding.wire]
        if not lossless and not wire.dtype.startswith("float") and coding.wire not in inputs:
            yield f"{what}: {coding.form!r} loses something, and is for floats; the wire is {wire.dtype}"
        if not lossless and planned is not None and planned.get((wire.tensor or wire.name, *way[1:])) != coding.form:
            yield f"{what}: {coding.form!r} loses something, and the plan does not say so"
        if not lossless and coding.wire in inputs:
            lossy.setdefault(coding.wire, set()).add(coding.form)
    leaving: dict[str, set[tuple[str, str, str]]] = {}
    for way in ways if lossy else ():
        leaving.setdefault(way[0], set()).add(way)
    for name, forms in lossy.items():
        needed = leaving.get(name, set()) | ({(name, bundle.source, bundle.source)} if name in read else set())
        plain = [_way(*way) for way in sorted(needed) if bundle.forms.get(way) not in forms]
        if len(forms) > 1 or plain:
            told = ", ".join(sorted(forms)) + (f"; not so: {', '.join(plain)}" if plain else "")
            yield f"graph input {name!r} must have one form that loses something, for whoever reads it: {told}"


def _planned_forms(bundle: Bundle) -> dict[tuple[str, str, str], str] | None:
    """(tensor, source, target) -> form, by the plan; None where there is none."""
    transfers = bundle.plan.get("cost", {}).get("transfers")
    return None if transfers is None else {(t["tensor"], t["source"], t["target"]): t.get("form", PLAIN) for t in transfers}


def _way(wire: str, source: str, target: str) -> str:
    return f"wire {wire!r}, {source!r} -> {target!r}"


def _file_problems(bundle: Bundle) -> Iterable[str]:
    for part in bundle.parts:
        for file, digest in ((part.file, part.sha256), *([(part.data, part.data_sha256)] if part.data else [])):
            if _leaves(bundle.folder, file):
                yield f"part {part.name!r}: the path {file!r} leaves the bundle folder; use a plain file name"
            elif wrong := file_problem(file):
                yield f"part {part.name!r}: the path {shortened(file)} {wrong}"
            elif not is_file(bundle.folder / file):
                yield f"part {part.name!r}: the file {file!r} is missing"
            elif sha256(bundle.folder / file) != digest:
                yield f"part {part.name!r}: {file!r} was changed after the cut (its sha256 differs); cut the model again"


def _repeated(names: Iterable[Name]) -> list[Name]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _leaves(folder: Path, file: str) -> bool:
    """Whether `file` could point outside `folder`, on any system, also through a symbolic link."""
    written = (PurePosixPath(file), PureWindowsPath(file))
    if "\0" in file:
        return False  # it points nowhere
    if not file or any(p.is_absolute() or p.drive or p.root or ".." in p.parts for p in written):
        return True
    return not real(folder / file).is_relative_to(real(folder))
