"""What a model needs from outside its file: operators that somebody's library has, and weights in other files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path, PurePath

import networkx as nx
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import helper

from dnnsplit.ground.errors import ModelError, raise_problems, shortened
from dnnsplit.ground.gate import Kind, opened, read_bytes
from dnnsplit.ground.paths import real

FILE = Kind(
    "is no ONNX file", ModelError, 2**31, "the .onnx file", "there is no model file {path}",
    "export the network with its framework's ONNX exporter",
)  # fmt: skip
# Types that are packed, and their bits; what is in neither raw nor other bytes is in one of these lists
MOST_NODES = 200_000  # of a model, its functions written out
_BITS = {
    kind: bits
    for names, bits in (("UINT4 INT4 FLOAT4E2M1", 4), ("UINT2 INT2", 2))
    for name, kind in onnx.TensorProto.DataType.items()
    if name in names.split()
}
_ELEMENTS = frozenset({*onnx.TensorProto.DataType.values()} - {onnx.TensorProto.UNDEFINED})
_VALUES = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_NAMING = [onnx.TensorProto.DESCRIPTOR.fields_by_name[name] for name in ("name", "doc_string", "external_data")]
_WEIGHTS = Kind("cannot be read", ModelError, 2**42, "a file of weights")


def parsed(path: str | Path, content: bytes) -> onnx.ModelProto:
    """Return what an ONNX file holds, without weights that are in others; `path` is for messages."""
    try:
        proto = onnx.load_from_string(content)
    except DecodeError:
        FILE.refuse(path, "its content has another form, or is cut")
    if wrong := next(_undecoded(proto), None):
        FILE.refuse(path, f"a name or a text in it is no UTF-8, {shortened(wrong)}")
    return proto


def _undecoded(message: Message) -> Iterator[bytes]:
    """Yield the texts that protocol buffers give as bytes, because they are no UTF-8; what tensors hold is not looked at."""
    if isinstance(message, onnx.TensorProto):
        fields = [(field, getattr(message, field.name)) for field in _NAMING]
    else:
        fields = message.ListFields()
    for field, value in fields:
        if field.type == field.TYPE_STRING:
            yield from (one for one in ([value] if isinstance(value, str | bytes) else value) if isinstance(one, bytes))
        elif field.type == field.TYPE_MESSAGE:
            for one in [value] if isinstance(value, Message) else value:
                yield from _undecoded(one)


def domains_and_places(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the domains of all operators of an ONNX file, in bodies and functions too, and the files that weights are in.

    Nothing but the file itself is opened.

    Raises
    ------
    ModelError
        It cannot be read, or is no ONNX model.
    """
    proto = parsed(path, read_bytes(path, FILE))
    own = {function.domain for function in proto.functions}
    domains, places = dict[str, None](), dict[str, None]()
    for nodes, tensors in _bodies(proto):
        domains |= dict.fromkeys(node.domain for node in nodes if node.domain not in own)
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                places |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    return tuple(domains), tuple(places)


def check_tensors(proto: onnx.ModelProto, path: Path) -> bool:
    """Raise unless each constant has as many bytes as its shape takes, in the file or in a plain file beside it; none is read.

    Returns
    -------
    bool
        Whether some are in another file.

    Raises
    ------
    ModelError
        All that is wrong, by name of the constant.
    """
    places: dict[str, int] = {}  # size of each file of weights [B]
    folder, problems = path.resolve().parent, []
    for _, tensors in _bodies(proto):
        for tensor in tensors:
            wrong = _extents_problem(tensor) or _content_problem(tensor, folder, places)
            problems += [f"constant {shortened(tensor.name)} {wrong}"] if wrong else []
    raise_problems(ModelError, f"{path} has constants that cannot be read", problems, most=5)
    return bool(places)


def take_in(proto: onnx.ModelProto, path: Path) -> None:
    """Read the weights that are in other files, in place; `check_tensors` has found nothing wrong with them."""
    for _, tensors in _bodies(proto):
        for tensor in (one for one in tensors if one.data_location == onnx.TensorProto.EXTERNAL):
            entries = {entry.key: entry.value for entry in tensor.external_data}
            with opened(path.resolve().parent / entries["location"], _WEIGHTS) as (file, size):
                file.seek(int(entries.get("offset", "0")))
                tensor.raw_data = file.read(int(entries.get("length", size)))
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")


def check_functions(proto: onnx.ModelProto, path: Path) -> None:
    """Raise unless a model is of a size that can be worked with once its functions are written out wherever they are called.

    Raises
    ------
    ModelError
        A few functions that call each other twice can be millions of nodes.
    """
    calls = {
        (body.domain, body.name): Counter((node.domain, node.op_type) for nodes, _ in _inside([body]) for node in nodes)
        for body in proto.functions
    }
    graph = nx.DiGraph([(name, called) for name, all_of_it in calls.items() for called in all_of_it if called in calls])
    if not nx.is_directed_acyclic_graph(graph):  # ONNX Runtime tells of those that call themselves
        return
    sizes = {name: calls[name].total() for name in calls}
    for name in reversed([*nx.topological_sort(graph)]):
        sizes[name] = sum(count * sizes.get(called, 1) for called, count in calls[name].items())
    whole = sum(sizes.get((node.domain, node.op_type), 1) for nodes, _ in _inside([proto.graph]) for node in nodes)
    if whole > MOST_NODES:
        message = (
            f"{path}: its functions, written out where they are called, are {whole:.4g} nodes; at most {MOST_NODES} are taken"
        )
        raise ModelError(message)


def _extents_problem(tensor: onnx.TensorProto) -> str:
    if tensor.data_type not in _ELEMENTS:
        return f"is of no known type ({tensor.data_type})"
    if any(extent < 0 for extent in tensor.dims):
        return f"has a negative extent, {shortened(list(tensor.dims))}"
    return ""


def _content_problem(tensor: onnx.TensorProto, folder: Path, places: dict[str, int]) -> str:
    if tensor.data_type == onnx.TensorProto.STRING:
        there, needed, what = len(tensor.string_data), math.prod(tensor.dims), "texts"
    elif tensor.data_location == onnx.TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        problem, there = _place(entries, folder, places)
        if problem:
            return f"is in another file, and {problem}"
        needed, what = _bytes(tensor), "B"
    elif tensor.HasField("raw_data"):
        there, needed, what = len(tensor.raw_data), _bytes(tensor), "B"
    else:
        there = sum(len(getattr(tensor, name)) for name in _VALUES)
        needed, what = math.prod(tensor.dims), "values"
        if tensor.data_type in _BITS:
            needed = -(-needed * _BITS[tensor.data_type] // 8)
        needed *= 2 if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) else 1
    if there != needed:
        shape = shortened(tuple(tensor.dims))
        return f"has the shape {shape}, which takes {needed} {what}, and there are {there}; export the model again"
    return ""


def _bytes(tensor: onnx.TensorProto) -> int:
    """Return what the values of a tensor take [B]."""
    return -(-int(math.prod(tensor.dims)) * _bits(tensor.data_type) // 8)


@cache
def _bits(kind: int) -> int:
    return _BITS.get(kind) or 8 * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _place(entries: Mapping[str, str], folder: Path, places: dict[str, int]) -> tuple[str, int]:
    """Return what is wrong with where weights are said to be, and how many bytes there are of them."""
    location, numbers = entries.get("location", ""), {}
    if not location:
        return "it is not said in which", 0
    for key in ("offset", "length"):
        if not (entries.get(key, "0").isascii() and entries.get(key, "0").isdecimal() and len(entries.get(key, "0")) < 19):
            return f"its {key} there is {shortened(entries[key])}, not a number of bytes", 0
        numbers[key] = int(entries.get(key, "0"))
    place = PurePath(location)
    if "\0" not in location and (".." in place.parts or not real(folder / place).is_relative_to(folder)):
        return f"{shortened(location)} is outside the folder of the model; put it beside the model", 0
    if location not in places:
        try:
            with opened(folder / location, _WEIGHTS) as (_, size):
                places[location] = size
        except ModelError as error:
            return f"{error.reason}; put it beside the model", 0
    there = places[location] - numbers["offset"]
    if there < numbers["length"]:
        return f"{location!r} ends before it; put it beside the model whole, as it was exported", 0
    return "", numbers["length"] if "length" in entries else max(0, there)


def _bodies(proto: onnx.ModelProto) -> Iterable[tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]:
    """Yield the nodes and tensors of every graph and function."""
    trained = [graph for training in proto.training_info for graph in (training.initialization, training.algorithm)]
    return _inside([proto.graph, *proto.functions, *trained])


def _inside(
    waiting: list[onnx.GraphProto | onnx.FunctionProto],
) -> Iterator[tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]:
    while waiting:
        body = waiting.pop()
        given = [attribute for node in body.node for attribute in node.attribute]
        given += list(getattr(body, "attribute_proto", ()))
        waiting += [
            graph for attribute in given for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
        ]
        tensors = [tensor for a in given for tensor in (*a.tensors, *([a.t] if a.HasField("t") else []))]
        sparse = [s for a in given for s in (*a.sparse_tensors, *([a.sparse_tensor] if a.HasField("sparse_tensor") else []))]
        if isinstance(body, onnx.GraphProto):
            tensors += body.initializer
            sparse += body.sparse_initializer
        tensors += [part for one in sparse for part in (one.values, one.indices)]
        yield list(body.node), tensors
