"""What a model needs from outside its file: operators that somebody's library has, and weights in other files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from dnnsplit.ground.errors import ModelError


def domains_and_places(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the domains of all operators of an ONNX file, in bodies and functions too, and the files that weights are in.

    Nothing but the file itself is opened.

    Raises
    ------
    ModelError
        It cannot be read, or is no ONNX model.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        message = f"{path} is not readable as an ONNX model: {error}"
        raise ModelError(message) from None
    own = {function.domain for function in proto.functions}
    domains, places = dict[str, None](), dict[str, None]()
    for nodes, tensors in _bodies(proto):
        domains |= dict.fromkeys(node.domain for node in nodes if node.domain not in own)
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                places |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    return tuple(domains), tuple(places)


def _bodies(proto: onnx.ModelProto) -> Iterable[tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]:
    """Yield the nodes and tensors of every graph and function."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    waiting += [graph for training in proto.training_info for graph in (training.initialization, training.algorithm)]
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
