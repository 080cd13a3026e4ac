"""Messages of the Open Inference Protocol (version 2, gRPC) as clients and stages of a deployment exchange them.

The whole deployment answers ModelInfer under the model's name. Four reserved names serve the stages among themselves:
``<model>/tensors`` hands over a tensor, or tells of a request where there is none, ``<model>/error`` ends a failed request,
``<model>/end`` ends a finished one and asks for its records, ``<model>/peers`` tells a stage where the others are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec
import numpy as np
from tritonclient.grpc import service_pb2

from dnnsplit.cutting.checks import DATATYPES, OPEN_BYTES
from dnnsplit.deployment.wire.encoding import Infer, array_of, raw
from dnnsplit.ground.errors import DeployError, nearest

TRACE = "dnnsplit_trace"
VERSION = "1"
PROBE = "dnnsplit/probe"  # takes any tensor and forgets it; no model of a bundle has a '/' in its name
LINKS = "dnnsplit/links"  # tells an emulated stage of other links
IGNORES = "ignores-"  # before the name of a graph input that nothing reads, among the extensions of a server
COLD = "cold-"  # before the name of a part that could not be warmed up, likewise
# gRPC carries the text of an error in a header, which must stay below 8 KiB
LONGEST_ERROR = 2000
NUMPY = {datatype: dtype for dtype, (datatype, _) in DATATYPES.items()}


class Refusal(DeployError):
    """A request that is answered with a gRPC status other than OK."""

    def __init__(self, code: grpc.StatusCode, text: object) -> None:
        super().__init__(str(text)[:LONGEST_ERROR])
        self.code = code


@dataclass(frozen=True)
class PartRecord:
    """One part of one request: emulated compute time, duration and overrun, all in emulated seconds [s]."""

    name: str
    server: str
    cpu_s: float
    wall_s: float
    overrun_s: float


@dataclass(frozen=True)
class TransferRecord:
    """One transfer of one request: `seconds` from its start to its acknowledgement, of which `paced_s` are emulated [s]."""

    wire: str
    source: str
    target: str
    size_bytes: int
    seconds: float
    paced_s: float


@dataclass(frozen=True)
class Records:
    """What stages tell of a request, which go from stage to stage and to the client as JSON; the source adds the latency [s]."""

    parts: tuple[PartRecord, ...] = ()
    transfers: tuple[TransferRecord, ...] = ()
    latency_s: float = 0.0

    def write(self, message: Any) -> None:
        """Put them into the parameters of a response (its head)."""
        set_parameter(message, TRACE, msgspec.json.encode(self).decode())

    @staticmethod
    def read(message: Any) -> Records:
        """Return those of a response."""
        return msgspec.json.decode(message.parameters[TRACE].string_param, type=Records)


def earlier(remaining_s: float) -> float:
    """Time that is left to whom a request is passed on [s]: a little less, so that its error arrives before ours."""
    return max(0.95 * remaining_s, remaining_s - 1.0)


def infer_request(
    model: str, identity: str = "", tensors: Mapping[str, np.ndarray] | None = None,
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


def describe(entries: Any, tensors: Mapping[str, np.ndarray]) -> list[memoryview]:
    """Add the names, types and shapes of tensors to the inputs or outputs of a message; return their raw contents."""
    for name, array in tensors.items():
        entries.add(name=name, datatype=DATATYPES[array.dtype.name][0], shape=array.shape)
    return [raw(array) for array in tensors.values()]


def set_parameter(message: Any, key: str, value: str | float) -> None:
    """Set a text or float parameter of a request or of a response."""
    if isinstance(value, str):
        message.parameters[key].string_param = value
    else:
        message.parameters[key].double_param = value


def tensors_of(
    entries: Iterable[Any], contents: Iterable[memoryview], expected: Mapping[str, tuple[str, tuple[int, ...]]],
    ignored: Collection[str] = (),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Read the raw tensors of a message.

    Parameters
    ----------
    entries, contents : Iterable[Any], Iterable[memoryview]
        Descriptions (name, datatype, shape) and raw bytes.
    expected : Mapping[str, tuple[str, tuple[int, ...]]]
        Name -> (numpy dtype, shape) that each must have; an extent of -1 may be any.
    ignored : Collection[str], default ()
        Names of tensors that may come and are left out.

    Returns
    -------
    dict[str, np.ndarray]
        Name -> read-only array.

    Raises
    ------
    Refusal
        INVALID_ARGUMENT that names every tensor that is unknown, repeated or of a wrong type, shape or size.
    """
    entries, contents = list(entries), list(contents)
    problems = []
    if len(contents) != len(entries):
        problems.append(f"{len(entries)} tensors came with {len(contents)} raw contents; send every tensor as raw content")
    arrays = {}
    for entry, content in zip(entries, contents, strict=False):
        if entry.name in ignored:
            continue
        shape, dtype = tuple(entry.shape), NUMPY.get(entry.datatype, entry.datatype)
        problem = mismatch(entry.name, dtype, shape, expected)
        if not problem and entry.name in arrays:
            problem = f"tensor {entry.name!r} came twice"
        if not problem and len(content) != math.prod(shape) * DATATYPES[dtype][1]:
            problem = f"tensor {entry.name!r} holds {len(content)} B, not {math.prod(shape) * DATATYPES[dtype][1]} B"
        if problem:
            problems.append(problem)
            continue
        arrays[entry.name] = array_of(content, dtype, shape)
    if problems:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "; ".join(problems))
    return arrays


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
