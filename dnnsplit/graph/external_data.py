"""Weights of large models in a file beside them, as ONNX calls external data: nothing has to hold more than 2 GB in one message.

Weights go to the file as they are, one after the other, so that they are neither encoded nor held twice.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dnnsplit.ground.files import replacing
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import Session, session, session_options

if TYPE_CHECKING:
    import onnx

LARGE = 2**24  # values from which on the weights of a model get a file of their own (64 MiB of float32)
SMALL = 2**8  # values up to which a weight stays in the model, where shape inference can see it
PAGE_BYTES = 4096  # a weight starts at a page, so that it can be mapped into memory

Place = tuple[str, int, int]  # file, offset and length [B]


def is_large(proto: onnx.ModelProto) -> bool:
    """Whether the weights of an ONNX model are better kept in another file."""
    return sum(int(math.prod(weight.dims)) for weight in proto.graph.initializer) >= LARGE


def session_of(proto: onnx.ModelProto, provider: str | Provider = "cpu", lean: bool = False) -> Session:
    """Make a session of a model of any size, with its weights mapped from a file, so that they are not held beside it too.

    A `lean` one gives the memory of its tensors back after a run, for use beside many others: it is slower by what the system
    takes to give memory.
    """
    options = session_options()
    options.enable_cpu_mem_arena = not lean
    with tempfile.TemporaryDirectory() as folder:
        return session(save(proto, Path(folder), apart=True), options, provider)


def save(proto: onnx.ModelProto, folder: Path, apart: bool = False) -> Path:
    """Write a model, which stays as it is, into a folder; return its path.

    The weights of a large one, or of any if `apart`, are in a file beside it. A session that is made from there holds them
    once, not three times for a while.
    """
    if apart or is_large(proto):
        places, _ = _write_weights(proto, folder / "model.data")
        proto = _borrowing(proto, places)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def move_weights(proto: onnx.ModelProto, path: Path) -> tuple[dict[str, Place], str]:
    """Move the weights of a model, to be saved beside it, into the file `path`, atomically; return their places, and a hash."""
    places, digest = _write_weights(proto, path)
    borrow_weights(proto, places)
    return places, digest


def _write_weights(proto: onnx.ModelProto, path: Path) -> tuple[dict[str, Place], str]:
    places: dict[str, Place] = {}
    digest = hashlib.sha256()
    end = 0
    with replacing(path) as file:
        for weight in _outsized(proto):
            content = weight.raw_data
            places[weight.name] = (path.name, end, len(content))
            for piece in (content, bytes(-len(content) % PAGE_BYTES)):
                file.write(piece)
                digest.update(piece)
                end += len(piece)
    return places, digest.hexdigest()


def _borrowing(proto: onnx.ModelProto, places: Mapping[str, Place]) -> onnx.ModelProto:
    """Return a copy of a model that takes weights from `places`: its other parts alone are ever held twice."""
    copy = type(proto)(**{field.name: value for field, value in proto.ListFields() if field.name != "graph"})
    graph = copy.graph
    graph.MergeFrom(type(graph)(**{f.name: value for f, value in proto.graph.ListFields() if f.name != "initializer"}))
    for weight in proto.graph.initializer:
        if weight.name in places:
            graph.initializer.add(name=weight.name, data_type=weight.data_type, dims=weight.dims)
            _borrow(graph.initializer[-1], places[weight.name])
        else:
            graph.initializer.append(weight)
    return copy


def borrow_weights(proto: onnx.ModelProto, places: Mapping[str, Place]) -> None:
    """Make a model take the weights that are named in `places` from there, with files relative to its own folder."""
    for weight in _outsized(proto):
        if weight.name in places:
            weight.ClearField("raw_data")
            _borrow(weight, places[weight.name])


def _borrow(weight: onnx.TensorProto, place: Place) -> None:
    weight.data_location = type(weight).EXTERNAL
    for key, value in zip(("location", "offset", "length"), place, strict=True):
        weight.external_data.add(key=key, value=str(value))


def _outsized(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [w for w in proto.graph.initializer if math.prod(w.dims) > SMALL and w.HasField("raw_data")]
