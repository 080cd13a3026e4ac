"""Messages of the Open Inference Protocol (version 2, gRPC) as clients and stages of a deployment exchange them.

The whole deployment answers ModelInfer under the model's name. Reserved names serve the stages among themselves:
``<model>/tensors`` hands over a tensor, or tells of a request where there is none, ``<model>/error`` ends a failed request,
``<model>/end`` ends a finished one and asks for its records, ``<model>/open`` asks the source which requests have ended, and
``<model>/peers`` tells a stage where the others are.

A tensor that crosses in another form than it is made in is a tensor of BYTES with the parameters ``form`` and ``shape``. One
without them is for encoded images, one element each, which any client may send for a graph input that holds images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
import numpy as np
from tritonclient.grpc import service_pb2

from dnnsplit.codecs.plain import PLAIN
from dnnsplit.cutting.checks import DATATYPES, OPEN_BYTES
from dnnsplit.deployment.wire.encoding import Infer, array_of, raw
from dnnsplit.deployment.wire.typed import LENGTH, has_typed, raw_of
from dnnsplit.ground.errors import DeployError, nearest

TRACE = "dnnsplit_trace"
VERSION = "1"
PROBE = "dnnsplit/probe"  # takes any tensor and forgets it; no model of a bundle has a '/' in its name
LINKS = "dnnsplit/links"  # tells an emulated stage of other links
IGNORES = "ignores-"  # before the name of a graph input that nothing reads, among the extensions of a server
IMAGES = "images-"  # before the name of a graph input that takes encoded images, likewise
UNPROTECTED = "unprotected"  # likewise, where anybody who reaches the address of a server can use it
COLD = "cold-"  # before the name of a part that could not be warmed up, likewise
# gRPC carries the text of an error in a header, which must stay below 8 KiB
LONGEST_ERROR = 2000
BYTES = "BYTES"  # datatype of tensors whose elements are bytes, each behind its length
FORM, SHAPE = "form", "shape"  # parameters of such a tensor; the shape is that of its values
NUMPY = {datatype: dtype for dtype, (datatype, _) in DATATYPES.items()}


class Refusal(DeployError):
    """A request that is answered with a gRPC status other than OK, and after how long it may be tried again [s]; 0: no word."""

    def __init__(self, code: grpc.StatusCode, text: object, again_s: float = 0.0) -> None:
        super().__init__(str(text)[:LONGEST_ERROR])
        self.code, self.again_s = code, again_s


@dataclass(frozen=True, eq=False)
class Elements:
    """A tensor as bytes: in a form of `dnnsplit.codecs`, with its shape, or, without both, encoded images."""

    elements: Sequence[bytes | memoryview]
    form: str = ""
    shape: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all elements [B]."""
        return sum(map(len, self.elements))


@dataclass(frozen=True)
class PartRecord:
    """One part of one request: emulated compute time, duration and overrun, all in emulated seconds [s].

    `pace` is how many CPU seconds the machine took then for what took it one when it was profiled; 1 where nobody looks.
    """

    name: str
    server: str
    cpu_s: float
    wall_s: float
    overrun_s: float
    pace: float = 1.0


@dataclass(frozen=True)
class TransferRecord:
    """One transfer of one request: `seconds` from its start to its acknowledgement, of which `paced_s` are emulated [s].

    Of these, `latency_s` would be there without a byte. Its source took `encode_s` to write it in its form, and its target
    `decode_s` to read it, in emulated seconds [s].
    """

    wire: str
    source: str
    target: str
    size_bytes: int
    seconds: float
    paced_s: float
    form: str = PLAIN
    encode_s: float = 0.0
    decode_s: float = 0.0
    latency_s: float = 0.0


@dataclass(frozen=True)
class ReadRecord:
    """What the target of a transfer took to read it, in emulated seconds [s]; it becomes a part of the transfer's record."""

    wire: str
    target: str
    seconds: float


@dataclass(frozen=True)
class Records:
    """What stages tell of a request, which go from stage to stage and to the client as JSON; the source adds the latency [s]."""

    parts: tuple[PartRecord, ...] = ()
    transfers: tuple[TransferRecord, ...] = ()
    reads: tuple[ReadRecord, ...] = ()
    latency_s: float = 0.0

    def write(self, message: Any) -> None:
        """Put them into the parameters of a response (its head)."""
        set_parameter(message, TRACE, msgspec.json.encode(self).decode())

    @staticmethod
    def read(message: Any) -> Records:
        """Return those of a response; a `DeployError` says that it has none that can be read."""
        try:
            return msgspec.json.decode(message.parameters[TRACE].string_param, type=Records)
        except (msgspec.DecodeError, RecursionError) as error:
            told = f"what a server tells of a request is not readable: {error}"
            raise DeployError(told, "let all of them have the same dnnsplit") from None


def earlier(remaining_s: float) -> float:
    """Time that is left to whom a request is passed on [s]: a little less, so that its error arrives before ours."""
    return max(0.95 * remaining_s, remaining_s - 1.0)


def infer_request(
    model: str, identity: str = "", tensors: Mapping[str, np.ndarray | Elements] | None = None,
    parameters: Mapping[str, str | float] | None = None,
) -> Infer:  # fmt: skip
    """Build a ModelInfer request with raw tensors; text and float parameters."""
    message = service_pb2.ModelInferRequest(model_name=model, id=identity)
    for key, value in (parameters or {}).items():
        set_parameter(message, key, value)
    return Infer(message, describe(message.inputs, tensors or {}))


def acknowledge(message: Infer) -> Infer:
    """Return the answer to a request that asks for no tensors."""
    return Infer(service_pb2.ModelInferResponse(model_name=message.head.model_name, id=message.head.id))


def describe(entries: Any, tensors: Mapping[str, np.ndarray | Elements]) -> list[memoryview]:
    """Add the names, types and shapes of tensors to the inputs or outputs of a message; return their raw contents."""
    contents = []
    for name, tensor in tensors.items():
        if isinstance(tensor, Elements):
            entry = entries.add(name=name, datatype=BYTES, shape=[len(tensor.elements)])
            if tensor.form:
                entry.parameters[FORM].string_param = tensor.form
                entry.parameters[SHAPE].string_param = " ".join(map(str, tensor.shape))
            contents.append(memoryview(b"".join(piece for one in tensor.elements for piece in (LENGTH.pack(len(one)), one))))
        else:
            entries.add(name=name, datatype=DATATYPES[tensor.dtype.name][0], shape=tensor.shape)
            contents.append(raw(tensor))
    return contents


def links_of(head: Any) -> dict[str, tuple[float, float]]:
    """Read the links of an emulated server, JSON in a parameter: target -> (latency [s], seconds per byte [s/B]).

    Raises
    ------
    Refusal
        INVALID_ARGUMENT: that is no such text, or numbers that no link has.
    """
    text = head.parameters["links"].string_param
    wanted = 'give JSON such as {"edge": [0.005, 1e-7]}: latency [s] and seconds per byte [s/B], finite, 0 or more'
    try:
        links = msgspec.json.decode(text, type=dict[str, tuple[float, float]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"the links are not readable: {error}; {wanted}") from None
    for target, numbers in links.items():
        if not all(0 <= number < math.inf for number in numbers):
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"the link to {target!r} is {list(numbers)}; {wanted}")
    return links


def set_parameter(message: Any, key: str, value: str | float) -> None:
    """Set a text or float parameter of a request or of a response."""
    if isinstance(value, str):
        message.parameters[key].string_param = value
    else:
        message.parameters[key].double_param = value


def tensors_of(
    entries: Iterable[Any], contents: Iterable[memoryview], expected: Mapping[str, tuple[str, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    """Read the raw tensors of a message, none of them as bytes; see `contents_of`."""
    found = contents_of(entries, contents, expected)
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, np.ndarray)}


def contents_of(
    entries: Iterable[Any], contents: Iterable[memoryview], expected: Mapping[str, tuple[str, tuple[int, ...]]],
    ignored: Collection[str] = (), forms: Mapping[str, str] | None = None, pixels: Collection[str] = (),
) -> dict[str, np.ndarray | Elements]:  # fmt: skip
    """Read the tensors of a message, raw or in typed contents, and those that come as bytes.

    Parameters
    ----------
    entries, contents : Iterable[Any], Iterable[memoryview]
        Descriptions (name, datatype, shape; typed contents where there are no raw ones) and raw bytes.
    expected : Mapping[str, tuple[str, tuple[int, ...]]]
        Name -> (numpy dtype, shape) that each must have; an extent of -1 may be any.
    ignored : Collection[str], default ()
        Names of tensors that may come and are left out.
    forms : Mapping[str, str] | None, optional
        Name -> form of the tensors that may come as bytes instead, in this form; without a form they are encoded images.
    pixels : Collection[str], default ()
        Names of tensors of floats that may come as the 8-bit images that they hold, in the same shape.

    Returns
    -------
    dict[str, np.ndarray | Elements]
        Name -> read-only array, or views of bytes.

    Raises
    ------
    Refusal
        INVALID_ARGUMENT that names every tensor that is unknown, repeated or of a wrong type, shape or size.
    """
    entries, contents, forms = list(entries), list(contents), forms or {}
    problems = []
    if not contents and has_typed(entries):
        found = [raw_of(entry) for entry in entries]
        problems = [one for one in found if isinstance(one, str)]
        contents = [memoryview(b"") if isinstance(one, str) else one for one in found]
    if problems:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "; ".join(problems))
    if len(contents) != len(entries):
        way_out = "send every tensor as raw content, or all as typed ones"
        problems.append(f"{len(entries)} tensors came with {len(contents)} raw contents; {way_out}")
    tensors: dict[str, np.ndarray | Elements] = {}
    for entry, content in zip(entries, contents, strict=False):
        if entry.name in ignored:
            continue
        coded = entry.datatype == BYTES and entry.name in expected
        tensor = _elements(entry, content, forms, expected) if coded else _array(entry, content, expected, pixels)
        if not isinstance(tensor, str) and entry.name in tensors:
            tensor = f"tensor {entry.name!r} came twice"
        if isinstance(tensor, str):
            problems.append(tensor)
        else:
            tensors[entry.name] = tensor
    if problems:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "; ".join(problems))
    return tensors


def _array(
    entry: Any, content: memoryview, expected: Mapping[str, tuple[str, tuple[int, ...]]], pixels: Collection[str]
) -> np.ndarray | str:
    """Return a tensor, or what is wrong with it."""
    shape, dtype = tuple(entry.shape), NUMPY.get(entry.datatype, entry.datatype)
    if dtype == "uint8" and entry.name in pixels:
        expected = {**expected, entry.name: (dtype, expected[entry.name][1])}
    if problem := mismatch(entry.name, dtype, shape, expected):
        return problem
    if len(content) != (size_bytes := math.prod(shape) * DATATYPES[dtype][1]):
        return f"tensor {entry.name!r} holds {len(content)} B, not {size_bytes} B"
    return array_of(content, dtype, shape)


def _elements(
    entry: Any, content: memoryview, forms: Mapping[str, str], expected: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Elements | str:
    """Return a tensor that comes as bytes, or what is wrong with it; what the bytes are is for a codec to say."""
    dtype, shape = expected[entry.name]
    plain = f"{dtype} of the shape {list(shape)}"
    if entry.name not in forms:
        return f"tensor {entry.name!r} comes as bytes; here it is taken as {plain} alone"
    form = entry.parameters[FORM].string_param if FORM in entry.parameters else ""
    if form != forms[entry.name]:
        wanted = repr(forms[entry.name]) if forms[entry.name] else "that of encoded images (PNG, JPEG, WebP)"
        return f"tensor {entry.name!r} has the form {form!r}, not {wanted}; or send it as {plain}"
    told = entry.parameters[SHAPE].string_param if form else ""
    if form:
        shape = tuple(int(extent) for extent in told.split()) if re.fullmatch(r"[ 0-9]{0,200}", told) else (-1,)
        if problem := mismatch(entry.name, dtype, shape, expected):
            return problem
    elements, position, count = list[memoryview](), 0, math.prod(entry.shape)
    while position < len(content) and len(elements) < count:
        start = position + LENGTH.size
        if start > len(content):
            break
        end = start + LENGTH.unpack(content[position:start])[0]
        if end > len(content):
            break
        elements.append(content[start:end])
        position = end
    if position != len(content) or len(elements) != count:
        return (
            f"tensor {entry.name!r} holds {len(content)} B, which are not {count} elements, each behind its length in 4 B, "
            "little-endian"
        )
    return Elements(elements, form, shape)


def mismatch(name: str, dtype: str, shape: tuple[int, ...], expected: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """Return what is wrong with a tensor's name, type or shape, or an empty text."""
    if name not in expected:
        return f"there is no tensor {name!r}{nearest(name, expected)}"
    if dtype != expected[name][0]:
        return f"tensor {name!r} has the type {dtype}, not {expected[name][0]}"
    fixed = tuple(expected[name][1])
    fits = [extent >= 0 and wanted in (-1, extent) for extent, wanted in zip(shape, fixed, strict=False)]
    if len(shape) != len(fixed) or not all(fits):
        return f"tensor {name!r} has the shape {list(shape)}, not {list(fixed)}{' (-1: any extent)' if -1 in fixed else ''}"
    if -1 in fixed and (size_bytes := math.prod(shape) * DATATYPES[dtype][1]) > OPEN_BYTES:
        return f"tensor {name!r} has the shape {list(shape)}, {size_bytes} B; one of open shape may hold {OPEN_BYTES} B"
    return ""
