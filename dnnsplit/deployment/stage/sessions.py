"""What runs a part: ONNX Runtime in this process, or a model server beside it that speaks the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from dnnsplit.cutting.bundle import Bundle, Part
from dnnsplit.deployment.wire.channels import Stub
from dnnsplit.deployment.wire.messages import infer_request, tensors_of
from dnnsplit.ground.errors import DeployError
from dnnsplit.runtime.sessions import session, session_options


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
            raise DeployError(message) from None
        arrays = tensors_of(answer.head.outputs, answer.contents, self.kinds)
        if missing := [name for name in outputs if name not in arrays]:
            message = f"the model server at {self.address} did not return {missing[0]!r}"
            raise DeployError(message)
        return [arrays[name].reshape(self.shapes[name]) for name in outputs]


def load(bundle: Bundle, part: Part, model_server: str = "", deadline_s: float = 60.0, provider: str = "cpu") -> Any:
    """Load a part for one thread, so that it runs in the thread that calls it, and run it twice on zeros to warm it.

    `provider` runs it, through IO binding where it has its own memory, unless a model server does.

    Raises
    ------
    DeployError
        The file cannot be loaded or run, or its inputs and outputs are not those of the bundle.
    """
    try:
        loaded: Any = RemotePart(bundle, part, model_server, deadline_s) if model_server else _session(bundle, part, provider)
        wires = [bundle.wire_by_name[name] for name in part.inputs]
        for _ in range(2):
            loaded.run(list(part.outputs), {wire.name: np.zeros(wire.shape, wire.dtype) for wire in wires})
    except Exception as error:  # onnxruntime has no common class of its errors
        message = f"part {part.name!r} cannot be run: {error}"
        raise DeployError(message) from None
    return loaded


def _session(bundle: Bundle, part: Part, provider: str) -> Any:
    loaded = session(bundle.folder / part.file, session_options(threads=1), provider)
    names = ({i.name for i in loaded.get_inputs()}, {o.name for o in loaded.get_outputs()})
    if names != (set(part.inputs), set(part.outputs)):
        message = f"{part.file!r} has the inputs {sorted(names[0])} and outputs {sorted(names[1])}"
        raise DeployError(message)
    return loaded
