"""The service of one server of a deployment.

It speaks the Open Inference Protocol (version 2, gRPC). On the stage of the source server, ModelInfer with the model's name
is the whole deployment, so any client of the protocol can call it as if it were one model. Tensors go straight from the
stage that makes them to the stages that need them.

On the test-bed, compute speed and links are emulated; `work` and `emulation` in this room say how.
"""

from __future__ import annotations

import math
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from dnnsplit.codecs.pixels import Malformed
from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.checks import DATATYPES
from dnnsplit.deployment.hosts import is_loopback, read_hosts
from dnnsplit.deployment.stage.callers import check_peer
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.readiness import Readiness
from dnnsplit.deployment.stage.sessions import load, warm_codecs, warm_up
from dnnsplit.deployment.stage.work import Runner
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import (
    COLD,
    IGNORES,
    IMAGES,
    LINKS,
    PROBE,
    UNPROTECTED,
    VERSION,
    Refusal,
    acknowledge,
    contents_of,
    describe,
    earlier,
    links_of,
    set_parameter,
)
from dnnsplit.ground.errors import DeployError, nearest
from dnnsplit.runtime.pace import Pace
from dnnsplit.runtime.sessions import find_provider

READY_S = 60.0  # limit on the wait for the addresses of the peers
START_S = 5.0  # that a message waits for a stage that is still loading
LONGEST_ID = 64  # of a request between stages, which makes them 32 letters long

Response = service_pb2.ModelInferResponse
Code = grpc.StatusCode
Handler = Callable[[Infer, grpc.ServicerContext], Infer]
REASONS = {code.name: code for code in Code if code is not Code.OK}  # for which a request may end


class Stage:
    """The gRPC service of one server."""

    def __init__(self, bundle: Bundle, config: Config) -> None:
        if config.server not in bundle.servers:
            message = f"{config.server!r} is no server of the bundle{nearest(config.server, bundle.servers)}"
            raise DeployError(message)
        self.bundle, self.config = bundle, config
        self.sessions: dict[str, Any] = {}
        self.cold: list[str] = []
        self.tls = config.tls
        self.runner = Runner(bundle, config.server, config.emulation, self.sessions)
        self.runner.clock = find_provider(config.provider).clock
        self.ready, self.addressed = threading.Event(), threading.Event()
        self.peers_ready = Readiness(lambda: self.runner.peers.values())
        # a wire comes to a server once, in one form
        self.forms = {wire: form for (wire, source, target), form in bundle.forms.items() if source != target == config.server}
        self.incoming = {n: self.runner.kinds[n] for (n, _), targets in bundle.routes.items() if config.server in targets}
        control = {"/tensors": self._receive, "/error": self._error, "/end": self._end, "/peers": self._peers}
        control["/open"] = self._open
        self.handlers: dict[str, Handler] = {bundle.model_name + suffix: f for suffix, f in {"": self._serve, **control}.items()}
        self.handlers[PROBE] = lambda message, context: acknowledge(message)
        if config.emulation.slowdown is not None and not config.emulation.shaped:  # hosts and the kernel have the links they have
            self.handlers[LINKS] = self._links

    @property
    def largest_message_bytes(self) -> int:
        """Upper bound on one message [B]."""
        return self.bundle.largest_message_bytes

    def look_after(self) -> None:
        """Called every now and then: end requests that are overdue or lost."""
        self.runner.look_after()

    def close(self) -> None:
        """End all requests, threads and channels."""
        self.runner.close()

    def prepare(self) -> None:
        """Load and warm the sessions, wait for the addresses of the peers, then be ready.

        The peers themselves are not waited for: stages may be started, and started again, in any order.
        """
        config = self.config
        for part in self.runner.parts:
            one = load(self.bundle, part, config.model_server, config.deadline_s, config.provider)
            self.sessions[part.name] = one
            if problem := warm_up(self.bundle, part, one):
                self.cold.append(part.name)
                print(f"part {part.name!r} was not warmed up, its first request takes longer: {problem}", file=sys.stderr)
        warm_codecs(self.bundle, config.server)
        if config.emulation.reference_s and config.emulation.slowdown is not None:
            self.runner.processor.pace = Pace(config.emulation.reference_s)
        if self.config.peers:
            self._connect(self.config.peers)
        elif len(self.bundle.stages) == 1:
            self.addressed.set()
        if not self.addressed.wait(READY_S):
            message = f"nobody told {self.config.server!r} within {READY_S:g} s where the other stages are"
            raise DeployError(message)
        self.ready.set()

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer that the process runs."""
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether the parts of this server are loaded and the addresses of the others known."""
        return service_pb2.ServerReadyResponse(ready=self.ready.is_set())

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether the model is known, and all stages are ready."""
        if request.name != self.bundle.model_name or request.version not in ("", VERSION) or not self.ready.is_set():
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=self.peers_ready.of_all())

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer the name of the server, its version, its bundle, inputs it ignores or takes as images, parts that are cold."""
        name, told = f"dnnsplit-{self.config.server}", [f"bundle-{self.bundle.digest}"]
        told += [f"{IGNORES}{one}" for one in self.bundle.ignored] + [f"{COLD}{part}" for part in self.cold]
        told += [f"{IMAGES}{one}" for one in self.bundle.pixels]
        told += [UNPROTECTED] if self.tls is None and not is_loopback(self.config.host) else []
        return service_pb2.ServerMetadataResponse(name=name, version=VERSION, extensions=told)

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

    def ModelInfer(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        """Run the whole model, or take a message of another stage; a `Refusal` says why not."""
        name, version = request.head.model_name, request.head.model_version
        if request.problem:
            raise Refusal(Code.INVALID_ARGUMENT, request.problem)
        if name not in self.handlers or version not in ("", VERSION):
            raise Refusal(Code.NOT_FOUND, self._unknown(name, version))
        # whoever starts the stages may say where they are, once
        if "/" in name and name not in (PROBE, LINKS) and (self.addressed.is_set() or not name.endswith("/peers")):
            known = {peer.name: peer.address for peer in self.runner.peers.values()} or self.config.peers
            check_peer(context, self.config, self.bundle.servers, known.values())
        if "/" in name and len(request.head.id) > LONGEST_ID:
            text = f"an id of {len(request.head.id)} letters; those of stages have {LONGEST_ID} at most"
            raise Refusal(Code.INVALID_ARGUMENT, text)
        return self.handlers[name](request, context)

    def _unknown(self, name: str, version: str) -> str:
        return f"there is no model {name!r}, version {version!r}; this is {self.bundle.model_name!r}, version {VERSION!r}"

    def _serve(self, message: Infer, context: grpc.ServicerContext) -> Infer:
        started = self.runner.watch.now()
        if not self.runner.is_source:
            raise Refusal(Code.FAILED_PRECONDITION, f"this is {self.config.server!r}; requests go to {self.bundle.source!r}")
        self._check_ready(context.time_remaining() or math.inf)
        expected = {wire.name: (wire.dtype, wire.shape) for wire in self.bundle.inputs}
        images = dict.fromkeys(self.bundle.pixels, "")
        pixels = [name for name, its in self.bundle.pixels.items() if its.exact]
        inputs = contents_of(message.head.inputs, message.contents, expected, self.bundle.ignored, images, pixels)
        if missing := [name for name in expected if name not in inputs]:
            raise Refusal(Code.INVALID_ARGUMENT, f"the inputs {', '.join(map(repr, missing))} are missing")
        outputs = self._asked_for([entry.name for entry in message.head.outputs])
        left_s = context.time_remaining() or math.inf
        remaining_s, limit_s = (min(self.config.deadline_s, s) for s in (earlier(left_s), left_s))
        # the id is the client's own; inside, a fresh one keeps apart requests that repeat it
        request = self.runner.open(uuid.uuid4().hex, remaining_s, limit_s, self.config.in_flight)
        if not context.add_callback(lambda: self.runner.fail(request, Code.CANCELLED, "the client went away")):
            self.runner.fail(request, Code.CANCELLED, "the client went away")
        try:
            for name, given in inputs.items():
                self.runner.coder.take(request, name, given)
        except Malformed as error:
            self.runner.fail(request, Code.INVALID_ARGUMENT, str(error))
        self.runner.wait(request)
        latency_s = (self.runner.watch.now() - started) / self.config.emulation.time_dilation
        records = replace(self.runner.finish_all(request), latency_s=latency_s)
        response = Response(model_name=self.bundle.model_name, model_version=VERSION, id=message.head.id)
        records.write(response)
        wires = self.bundle.wire_by_name
        arrays = {name: wires[wire].real(request.tensors[wire]) for name, wire in outputs.items()}
        return Infer(response, describe(response.outputs, arrays))

    def _asked_for(self, names: list[str]) -> dict[str, str]:
        outputs = {output.name: output.wire for output in self.bundle.outputs}
        if unknown := [name for name in names if name not in outputs]:
            raise Refusal(Code.INVALID_ARGUMENT, f"there is no output {unknown[0]!r}{nearest(unknown[0], outputs)}")
        return {name: outputs[name] for name in names} or outputs

    def _check_ready(self, left_s: float) -> None:
        """Refuse what comes before all is loaded; it waits for that a little."""
        if not self.ready.wait(min(left_s, START_S)):
            raise Refusal(Code.UNAVAILABLE, f"{self.config.server!r} is not ready yet")

    def _receive(self, message: Infer, context: grpc.ServicerContext) -> Infer:
        self._check_ready(context.time_remaining() or math.inf)
        tensors = contents_of(message.head.inputs, message.contents, self.incoming, forms=self.forms)
        remaining_s = self._seconds(message.head, "remaining_s")
        limit_s = self._seconds(message.head, "limit_s") if "limit_s" in message.head.parameters else remaining_s
        # twice the limit of the source: the end of a request may reach this stage after the start of the next
        if request := self.runner.join(message.head.id, remaining_s, limit_s, 2 * self.config.in_flight):
            for name, came in tensors.items():
                self.runner.coder.receive(request, name, came)
        return acknowledge(message)

    def _seconds(self, head: Any, name: str) -> float:
        """Return a time that a message tells [s], the deadline of this stage at most."""
        seconds = head.parameters[name].double_param if name in head.parameters else math.nan
        if not 0 < seconds < math.inf:
            raise Refusal(Code.INVALID_ARGUMENT, f"the parameter {name} is {seconds!r}; give finite seconds above 0")
        return min(seconds, self.config.deadline_s)

    def _open(self, message: Infer, context: grpc.ServicerContext) -> Infer:
        """Answer which of some requests are not open here: what other stages hold of them is for nobody."""
        answer = acknowledge(message)
        asked = message.head.parameters["ids"].string_param.split()
        set_parameter(answer.head, "gone", " ".join(one for one in asked if one not in self.runner.requests))
        return answer

    def _error(self, message: Infer, context: grpc.ServicerContext) -> Infer:
        head = message.head
        code = REASONS.get(head.parameters["code"].string_param, Code.UNKNOWN)
        if not self.runner.is_source:
            self.runner.discard(head.id)
        elif (request := self.runner.requests.get(head.id)) is not None:
            self.runner.fail(request, code, head.parameters["text"].string_param)
        return acknowledge(message)

    def _end(self, message: Infer, context: grpc.ServicerContext) -> Infer:
        response = Response(model_name=message.head.model_name, id=message.head.id)
        self.runner.finish(message.head.id).write(response)
        return Infer(response)

    def _peers(self, message: Infer, context: grpc.ServicerContext) -> Infer:
        self._connect({name: value.string_param for name, value in message.head.parameters.items()})
        return acknowledge(message)

    def _links(self, message: Infer, context: grpc.ServicerContext) -> Infer:
        self.runner.emulation = replace(self.runner.emulation, links=links_of(message.head))
        return acknowledge(message)

    def _connect(self, addresses: Mapping[str, str]) -> None:
        others = {name: addresses.get(name, "") for name in self.bundle.stages if name != self.config.server}
        try:
            read_hosts(others)
        except DeployError as error:
            raise Refusal(Code.INVALID_ARGUMENT, error) from None
        if self.addressed.is_set() and others != {peer.name: peer.address for peer in self.runner.peers.values()}:
            raise Refusal(Code.FAILED_PRECONDITION, f"{self.config.server!r} knows its peers already; start it anew")
        if not self.addressed.is_set():
            self.runner.connect(others, self.tls)
            self.addressed.set()
