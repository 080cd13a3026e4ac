"""What runs a part: ONNX Runtime in this process, or a model server beside it that speaks the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
import numpy as np

from dnnsplit.codecs.pixels import Unfit
from dnnsplit.cutting.bundle import Bundle, Part
from dnnsplit.cutting.examples import drawn
from dnnsplit.deployment.wire.channels import Stub
from dnnsplit.deployment.wire.messages import infer_request, tensors_of
from dnnsplit.ground.errors import DeployError
from dnnsplit.runtime.sessions import session, session_options

GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)  # no server, or no such part


class RunError(DeployError):
    """A part that is there, and failed on what it was given."""


class RemotePart:
    """A part that a model server (Triton, on the bundle's folder as its model repository) runs under the part's name.

    Parameters
    ----------
    bundle, part : Bundle, Part
        What is run.
    address : str
        ``host:port`` of the model server's gRPC service.
    deadline_s : float
        Limit on each run [s].
    """

    def __init__(self, bundle: Bundle, part: Part, address: str, deadline_s: float) -> None:
        self.part, self.address, self.deadline_s = part, address, deadline_s
        wires = bundle.wire_by_name
        self.shapes = {name: wires[name].shape for name in part.outputs}
        # A model server knows no scalars: `part_config` gives them one extent, on the wire alone.
        self.kinds = {name: (wires[name].dtype, shape or (1,)) for name, shape in self.shapes.items()}
        self.stub = Stub(address)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run the part once, like a session of ONNX Runtime."""
        try:
            tensors = {name: array.reshape(array.shape or (1,)) for name, array in inputs.items()}
            answer = self.stub.infer(infer_request(self.part.name, tensors=tensors), timeout=self.deadline_s)
        except grpc.RpcError as error:
            message = f"the model server at {self.address}: {error.code().name}: {error.details()}"
            raise (DeployError if error.code() in GONE else RunError)(message) from None
        arrays = tensors_of(answer.head.outputs, answer.contents, self.kinds)
        if missing := [name for name in outputs if name not in arrays]:
            message = f"the model server at {self.address} did not return {missing[0]!r}"
            raise DeployError(message)
        return [arrays[name] if self.shapes[name] else arrays[name].reshape(()) for name in outputs]


def load(bundle: Bundle, part: Part, model_server: str = "", deadline_s: float = 60.0, provider: str = "cpu") -> Any:
    """Load a part for one thread, so that it runs in the thread that calls it.

    `provider` runs it, through IO binding where it has its own memory, unless a model server does.

    Raises
    ------
    DeployError
        The file cannot be loaded, or its inputs and outputs are not those of the bundle.
    """
    try:
        return RemotePart(bundle, part, model_server, deadline_s) if model_server else _session(bundle, part, provider)
    except Exception as error:  # onnxruntime has no common class of its errors
        message = f"part {part.name!r} cannot be run: {error}"
        raise DeployError(message) from None


def warm_up(bundle: Bundle, part: Part, loaded: Any) -> str:
    """Run a loaded part twice, on what the bundle has seen of its inputs; return why it failed, or an empty text.

    That is no reason not to start: other values than those of a request may be no inputs of the part.

    Raises
    ------
    DeployError
        The model server does not answer, or has another part.
    """
    wires, examples = bundle.wire_by_name, bundle.example_of
    try:
        inputs = {name: drawn(wires[name], examples, bundle.pixels.get(name)) for name in part.inputs}
        for _ in range(2):
            loaded.run(list(part.outputs), inputs)
    except Exception as error:
        if isinstance(error, DeployError) and not isinstance(error, RunError):
            message = f"part {part.name!r} cannot be run: {error}"
            raise DeployError(message) from None
        return str(error)
    return ""


def warm_codecs(bundle: Bundle, server: str) -> None:
    """Write and read, once, what crosses the links of a server in forms, and an image where clients may send some."""
    wires, examples = bundle.wire_by_name, bundle.example_of
    used = {(wire, form) for (wire, *ends), form in bundle.forms.items() if server in ends}
    used |= {(name, "jpeg-90") for name in bundle.pixels if server == bundle.source}
    for name, form in used:
        if not wires[name].is_open:
            with suppress(Unfit):  # other values than those of a request may not fit
                array, codec = drawn(wires[name], examples, bundle.pixels.get(name)), bundle.codec(name, form)
                codec.decode(codec.encode(array), array.dtype.name, array.shape)


def _session(bundle: Bundle, part: Part, provider: str) -> Any:
    loaded = session(bundle.folder / part.file, session_options(threads=1), provider)
    names = ({i.name for i in loaded.get_inputs()}, {o.name for o in loaded.get_outputs()})
    if names != (set(part.inputs), set(part.outputs)):
        message = f"{part.file!r} has the inputs {sorted(names[0])} and outputs {sorted(names[1])}"
        raise DeployError(message)
    return loaded
