"""Weights of large models in a file beside them, as ONNX calls external data: nothing has to hold more than 2 GB in one message.

Weights go to the file as they are, one after the other, so that they are neither encoded nor held twice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dnnsplit.ground.files import replacing

if TYPE_CHECKING:
    import onnx

LARGE = 2**24  # values from which on the weights of a model get a file of their own (64 MiB of float32)
SMALL = 2**8  # values up to which a weight stays in the model, where shape inference can see it
PAGE_BYTES = 4096  # a weight starts at a page, so that it can be mapped into memory

Place = tuple[str, int, int]  # file, offset and length [B]


def is_large(proto: onnx.ModelProto) -> bool:
    """Whether the weights of an ONNX model are better kept in another file."""
    return sum(int(math.prod(weight.dims)) for weight in proto.graph.initializer) >= LARGE


def save(proto: onnx.ModelProto, folder: Path, apart: bool = False) -> Path:
    """Write a model into a folder, with the weights of a large one, or of any, in a file beside it; return its path."""
    path = folder / "model.onnx"
    if apart or is_large(proto):
        proto = _shell(proto, folder / "model.data")
    path.write_bytes(proto.SerializeToString())
    return path


def _shell(proto: onnx.ModelProto, data: Path) -> onnx.ModelProto:
    """Return a copy of a model that takes its weights from a file, which is written; they are never held twice."""
    shell = type(proto)()
    for field, value in proto.ListFields():
        if field.name != "graph":
            setattr(shell, field.name, value) if not field.is_repeated else getattr(shell, field.name).extend(value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            setattr(shell.graph, field.name, value) if not field.is_repeated else getattr(shell.graph, field.name).extend(value)
    with data.open("wb") as file:
        for weight in proto.graph.initializer:
            if not _is_outsized(weight):
                shell.graph.initializer.append(weight)
                continue
            file.seek(-(-file.tell() // PAGE_BYTES) * PAGE_BYTES)
            own = shell.graph.initializer.add(name=weight.name, data_type=weight.data_type, dims=weight.dims)
            _borrow(own, (data.name, file.tell(), len(weight.raw_data)))
            file.write(weight.raw_data)
    return shell


def move_weights(proto: onnx.ModelProto, path: Path) -> tuple[dict[str, Place], str]:
    """Move the weights of a model, to be saved beside it, into the file `path`, atomically; return their places, and a hash."""
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
    borrow_weights(proto, places)
    return places, digest.hexdigest()


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
    return [weight for weight in proto.graph.initializer if _is_outsized(weight)]


def _is_outsized(weight: onnx.TensorProto) -> bool:
    return bool(math.prod(weight.dims) > SMALL and weight.HasField("raw_data"))
