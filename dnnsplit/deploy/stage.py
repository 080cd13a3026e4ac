"""One server of a deployment as a process: ``python -m dnnsplit.deploy.stage config.json``.

It speaks the Open Inference Protocol (version 2, gRPC). On the stage of the source server, ModelInfer with the model's name
is the whole deployment, so any client of the protocol can call it as if it were one model. Tensors go straight from the
stage that makes them to the stages that need them.

On the test-bed, compute speed and links are emulated; `dnnsplit.deploy.runner` and `dnnsplit.deploy.emulation` say how.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
import numpy as np
import onnxruntime
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dnnsplit.deploy.bundle import Bundle, Part
from dnnsplit.deploy.bundle_checks import DATATYPES
from dnnsplit.deploy.config import Config
from dnnsplit.deploy.emulation import Emulation
from dnnsplit.deploy.messages import (
    TRACE,
    VERSION,
    Refusal,
    earlier,
    raw,
    set_parameter,
    size_options,
    tensors_of,
    trace_text,
)
from dnnsplit.deploy.runner import Runner
from dnnsplit.errors import DeployError, nearest
from dnnsplit.runtime import session, session_options

READY_S = 60.0  # limit on the wait for the addresses of the peers, and for each of them to answer
TICK_S = 0.1

Response = service_pb2.ModelInferResponse
Code = grpc.StatusCode


class Stage(service_pb2_grpc.GRPCInferenceServiceServicer):
    """The gRPC service of one server."""

    def __init__(self, bundle: Bundle, config: Config) -> None:
        if config.server not in bundle.servers:
            raise DeployError(f"{config.server!r} is no server of the bundle{nearest(config.server, bundle.servers)}")
        self.bundle, self.config = bundle, config
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        emulation = Emulation(config.slowdown, config.time_dilation, config.links)
        self.runner = Runner(bundle, config.server, emulation, self.sessions)
        self.ready, self.addressed = threading.Event(), threading.Event()
        self.incoming = {n: self.runner.kinds[n] for (n, _), targets in bundle.routes.items() if config.server in targets}
        control = {"/tensors": self._receive, "/error": self._error, "/end": self._end, "/peers": self._peers}
        self.handlers = {bundle.model_name + suffix: handler for suffix, handler in {"": self._serve, **control}.items()}

    def prepare(self) -> None:
        """Load and warm the sessions, wait for the peers, then be ready."""
        for part in self.runner.parts:
            self.sessions[part.name] = load(self.bundle, part)
        if self.config.peers:
            self._connect(self.config.peers)
        if not self.addressed.wait(READY_S):
            raise DeployError(f"nobody told {self.config.server!r} within {READY_S:g} s where the other stages are")
        for peer in self.runner.peers.values():
            try:  # opens the connection now instead of during the first request
                peer.stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=READY_S, wait_for_ready=True)
            except grpc.RpcError as error:
                raise DeployError(f"{peer.name!r} at {peer.address} does not answer: {error.details()}") from None
        self.ready.set()

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer that the process runs."""
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether all parts are loaded and all peers are known."""
        return service_pb2.ServerReadyResponse(ready=self.ready.is_set())

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether the model is known and ready."""
        return service_pb2.ModelReadyResponse(ready=request.name == self.bundle.model_name and self.ready.is_set())

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer the name of the server and its version."""
        return service_pb2.ServerMetadataResponse(name=f"dnnsplit-{self.config.server}", version=VERSION)

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer the inputs and outputs of the whole model."""
        if request.name != self.bundle.model_name or request.version not in ("", VERSION):
            context.abort(Code.NOT_FOUND, self._unknown(request.name, request.version))
        response = service_pb2.ModelMetadataResponse(name=request.name, versions=[VERSION], platform="onnxruntime_onnx")
        for wire in self.bundle.inputs:
            response.inputs.add(name=wire.name, datatype=DATATYPES[wire.dtype][0], shape=wire.shape)
        for output in self.bundle.outputs:
            wire = self.bundle.wire_by_name[output.wire]
            response.outputs.add(name=output.name, datatype=DATATYPES[wire.real_dtype][0], shape=wire.shape)
        return response

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Run the whole model, or take a message of another stage."""
        try:
            if request.model_name not in self.handlers or request.model_version not in ("", VERSION):
                raise Refusal(Code.NOT_FOUND, self._unknown(request.model_name, request.model_version))
            return self.handlers[request.model_name](request, context)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))

    def _unknown(self, name: str, version: str) -> str:
        return f"there is no model {name!r}, version {version!r}; this is {self.bundle.model_name!r}, version {VERSION!r}"

    def _serve(self, message: Any, context: grpc.ServicerContext) -> Any:
        started = time.monotonic()
        if not self.runner.is_source:
            raise Refusal(Code.FAILED_PRECONDITION, f"this is {self.config.server!r}; requests go to {self.bundle.source!r}")
        self._check_ready()
        inputs = tensors_of(message.inputs, message.raw_input_contents, {w.name: (w.dtype, w.shape) for w in self.bundle.inputs})
        if missing := [wire.name for wire in self.bundle.inputs if wire.name not in inputs]:
            raise Refusal(Code.INVALID_ARGUMENT, f"the inputs {', '.join(map(repr, missing))} are missing")
        outputs = self._asked_for([entry.name for entry in message.outputs])
        remaining_s = min(self.config.deadline_s, earlier(context.time_remaining() or float("inf")))
        request = self.runner.open(uuid.uuid4().hex, remaining_s, self.config.in_flight)
        if not context.add_callback(lambda: self.runner.fail(request, Code.CANCELLED, "the client went away")):
            self.runner.fail(request, Code.CANCELLED, "the client went away")
        for name, array in inputs.items():
            self.runner.deliver(request, name, array)
        self.runner.wait(request)
        latency_s = (time.monotonic() - started) / self.config.time_dilation
        parts, transfers = self.runner.finish_all(request)
        response = Response(model_name=self.bundle.model_name, model_version=VERSION, id=message.id)
        for name in outputs:
            wire = self.bundle.wire_by_name[outputs[name]]
            array = wire.real(request.tensors[wire.name])
            response.outputs.add(name=name, datatype=DATATYPES[array.dtype.name][0], shape=array.shape)
            response.raw_output_contents.append(raw(array))
        set_parameter(response, TRACE, trace_text(latency_s, parts, transfers))
        return response

    def _asked_for(self, names: list[str]) -> dict[str, str]:
        outputs = {output.name: output.wire for output in self.bundle.outputs}
        if unknown := [name for name in names if name not in outputs]:
            raise Refusal(Code.INVALID_ARGUMENT, f"there is no output {unknown[0]!r}{nearest(unknown[0], outputs)}")
        return {name: outputs[name] for name in names} or outputs

    def _check_ready(self) -> None:
        if not self.ready.is_set():
            raise Refusal(Code.UNAVAILABLE, f"{self.config.server!r} is not ready yet")

    def _receive(self, message: Any, context: grpc.ServicerContext) -> Any:
        self._check_ready()
        arrays = tensors_of(message.inputs, message.raw_input_contents, self.incoming)
        remaining_s = min(message.parameters["remaining_s"].double_param, self.config.deadline_s)
        # twice the limit of the source: the end of a request may reach this stage after the start of the next
        request = self.runner.open(message.id, remaining_s, 2 * self.config.in_flight)
        for name, array in arrays.items() if request else ():
            self.runner.deliver(request, name, array)
        return Response(model_name=message.model_name, id=message.id)

    def _error(self, message: Any, context: grpc.ServicerContext) -> Any:
        code = getattr(Code, message.parameters["code"].string_param, Code.UNKNOWN)
        if not self.runner.is_source:
            self.runner.discard(message.id)
        elif (request := self.runner.requests.get(message.id)) is not None:
            self.runner.fail(request, code, message.parameters["text"].string_param)
        return Response(model_name=message.model_name, id=message.id)

    def _end(self, message: Any, context: grpc.ServicerContext) -> Any:
        response = Response(model_name=message.model_name, id=message.id)
        set_parameter(response, TRACE, trace_text(None, *self.runner.finish(message.id)))
        return response

    def _peers(self, message: Any, context: grpc.ServicerContext) -> Any:
        self._connect({name: value.string_param for name, value in message.parameters.items()})
        return Response(model_name=message.model_name)

    def _connect(self, addresses: Mapping[str, str]) -> None:
        missing = [name for name in self.bundle.stages if name != self.config.server and name not in addresses]
        if missing:
            raise Refusal(Code.INVALID_ARGUMENT, f"the addresses of {', '.join(missing)} are missing")
        if self.addressed.is_set():
            raise Refusal(Code.FAILED_PRECONDITION, f"{self.config.server!r} knows its peers already; start it anew")
        self.runner.connect(addresses)
        self.addressed.set()


def load(bundle: Bundle, part: Part) -> onnxruntime.InferenceSession:
    """Load a part for one thread, so that it runs in the thread that calls it, and run it twice on zeros to warm it.

    Raises
    ------
    DeployError : the file cannot be loaded or run, or its inputs and outputs are not those of the bundle
    """
    try:
        loaded = session(bundle.folder / part.file, session_options(threads=1))
        names = ({i.name for i in loaded.get_inputs()}, {o.name for o in loaded.get_outputs()})
        if names != (set(part.inputs), set(part.outputs)):
            raise DeployError(f"{part.file!r} has the inputs {sorted(names[0])} and outputs {sorted(names[1])}")
        wires = [bundle.wire_by_name[name] for name in part.inputs]
        for _ in range(2):
            loaded.run(list(part.outputs), {wire.name: np.zeros(wire.shape, wire.dtype) for wire in wires})
    except Exception as error:  # onnxruntime has no common class of its errors
        raise DeployError(f"part {part.name!r} cannot be run: {error}") from None
    return loaded


def main(arguments: list[str]) -> NoReturn:
    """Run a stage until it is told to end (SIGTERM) or its parent has died."""
    code = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted notebook ends its stages in order
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if len(arguments) != 1:
            raise DeployError("give one argument: the JSON file with the configuration of the stage")
        config = Config.load(arguments[0])
        if config.parent_pid:
            threading.Thread(target=_follow, args=(config.parent_pid,), daemon=True).start()
        _run(Stage(Bundle.load(config.bundle), config), config)
    except SystemExit:
        code = 0
    except DeployError as error:
        print(error, file=sys.stderr)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # no interpreter shutdown: it could catch a thread inside onnxruntime, and there is nothing left to save
        os._exit(code)


def _run(stage: Stage, config: Config) -> NoReturn:
    options = [*size_options(stage.bundle.largest_message_bytes), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(2 * config.in_flight + 8), options=options)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(stage, server)
    try:
        port = server.add_insecure_port(f"{config.host}:{config.port}")
    except RuntimeError as error:
        raise DeployError(f"cannot listen on {config.host}:{config.port}: {error}; choose port 0 or a free one") from None
    server.start()
    try:
        print(f"{config.host}:{port}", flush=True)
        stage.prepare()
        while True:
            time.sleep(TICK_S)
            stage.runner.look_after()
    finally:
        server.stop(0)


def _follow(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(2 * TICK_S)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
