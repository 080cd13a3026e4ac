"""The stage of several plans: it starts each request by the plan that is best for the links as they are measured now.

The stages of all plans run side by side. What stages say to each other goes by the name of the plan's bundle, so a request
stays with the plan it was started with, and none is lost when the plan changes. A request may carry the parameter
``max_noise``; then it gets the best plan that keeps it.

The source follows the links by the transfers of answered requests, which tell it those of all stages. A link that no
request has used of late is measured, by the stage it starts at, with a message of its own.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from dnnsplit.cutting.bundle import Bundle, Part
from dnnsplit.cutting.plan_set import PlanSet, load_cut
from dnnsplit.deployment.stage.callers import check_peer
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.gauges import PROBE_BYTES, PROBE_S, Gauge, take_largest
from dnnsplit.deployment.stage.service import Stage
from dnnsplit.deployment.stage.work import Runner
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import (
    LINKS,
    PROBE,
    VERSION,
    Refusal,
    TransferRecord,
    acknowledge,
    infer_request,
    set_parameter,
)
from dnnsplit.ground.errors import DeployError, nearest

MAX_NOISE = "max_noise"  # parameter of a request
Code = grpc.StatusCode


class AdaptiveStage:
    """The gRPC service of one server for all plans."""

    def __init__(self, plans: PlanSet, config: Config) -> None:
        if config.model_server:
            message = "a model server runs the parts of one bundle; serve the folder of one plan with it"
            raise DeployError(message)
        self.plans, self.config = plans, config
        self.stages: dict[str, Stage] = {}
        for bundle in plans.bundles:
            if config.server in bundle.stages:
                self.stages[bundle.model_name] = Stage(bundle, replace(config, bundle=str(bundle.folder)))
        if not self.stages:
            message = f"{config.server!r} has nothing to do in any plan of {plans.folder}"
            raise DeployError(message)
        self.first = next(iter(self.stages.values()))
        self.tls = self.first.tls
        self.is_source = config.server == plans.source
        self.gauges = {link.ends: Gauge(link) for link in plans.links}
        self.current: dict[tuple[int, ...], int] = {}  # plans that a noise limit allows -> the one that was taken last
        self.lock, self.measuring = threading.Lock(), threading.Lock()
        self.busy = False
        turns = {name: threading.Lock() for bundle in plans.bundles for name in bundle.servers}
        for stage in self.stages.values():
            stage.runner.observe, stage.runner.turns = self.observe, turns
        name = plans.model_name
        self.control = {name: self._serve, f"{name}/peers": self._peers, f"{name}/measure": self._measure}
        if LINKS in self.first.handlers:
            self.control[LINKS] = self._links

    @property
    def largest_message_bytes(self) -> int:
        """Upper bound on one message of any plan [B]."""
        return max(bundle.largest_message_bytes for bundle in self.plans.bundles)

    def prepare(self) -> None:
        """Prepare the stage of every plan; what runs a part is kept once, however many plans have the same part."""
        loaded: dict[Part, Any] = {}
        for stage in self.stages.values():
            stage.prepare()
            for part in stage.runner.parts:
                same = replace(part, name="", file="", data="")  # the hashes say what is in the files
                stage.sessions[part.name] = loaded.setdefault(same, stage.sessions[part.name])

    def look_after(self) -> None:
        """Called every now and then, as of a `Stage`; measure the links that the requests of late did not use."""
        for stage in self.stages.values():
            stage.look_after()
        if self.is_source and self.busy:
            due = [gauge for gauge in self.gauges.values() if gauge.is_due()]
            for gauge in due:
                threading.Thread(target=self._gauge, args=(gauge,), name="gauge", daemon=True).start()
            self.busy = not due

    def close(self) -> None:
        """End everything."""
        for stage in self.stages.values():
            stage.close()

    def best(self, max_noise: float = math.inf) -> int:
        """Return the plan for now that keeps a noise limit.

        Raises
        ------
        DeployError
            None does.
        """
        prices = self.plans.prices
        allowed = prices.allowed(max_noise)
        with self.lock:
            bandwidths = [gauge.bandwidth for gauge in self.gauges.values()]
            self.current[allowed] = prices.best(bandwidths, max_noise, self.current.get(allowed))
            return self.current[allowed]

    def observe(self, transfers: list[TransferRecord]) -> None:
        """Take the transfers of an answered request."""
        take_largest(self.gauges, transfers)

    def _gauge(self, gauge: Gauge) -> None:
        """Measure a link here, or ask the stage where it starts to do so."""
        link, size = gauge.link, gauge.probe_bytes
        with suppress(grpc.RpcError, DeployError):  # a link that is down has no bandwidth; requests say what is wrong with it
            if link.source == self.config.server:
                seconds = self._seconds(link.target, size)
            else:
                asked: dict[str, str | float] = {"target": link.target, "size_bytes": float(size)}
                message = infer_request(f"{self.plans.model_name}/measure", parameters=asked)
                answer = self._runner(link.source).peers[link.source].stub.infer(message, timeout=self.config.deadline_s)
                seconds = answer.head.parameters["seconds"].double_param
            gauge.take(size, seconds)

    def _seconds(self, target: str, size: int) -> float:
        """Emulated seconds of a message to another server; it takes its turn on the link [s]."""
        runner = self._runner(target)
        peer, emulation = runner.peers[target], runner.emulation
        message = infer_request(PROBE, tensors={"x": np.ones(size, np.uint8)})
        with runner.turns[target]:
            started = runner.watch.now()
            runner.watch.wait(threading.Event(), started + emulation.hold_s(target, size, peer.real_s.get(PROBE, 0.0)))
            sent = time.monotonic()
            peer.stub.infer(message, timeout=self.config.deadline_s)
            real_s, ended = time.monotonic() - sent, runner.watch.now()
        peer.real_s[PROBE] = min(real_s, peer.real_s.get(PROBE, math.inf))
        return (ended - started) / emulation.time_dilation

    def _runner(self, peer: str) -> Runner:
        found = next((stage.runner for stage in self.stages.values() if peer in stage.runner.peers), None)
        if found is None:
            raise Refusal(Code.FAILED_PRECONDITION, f"{self.config.server!r} has no connection to {peer!r}")
        return found

    def _all(self, method: Callable[[Stage], bool]) -> bool:
        return all([method(stage) for stage in self.stages.values()])

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer that the process runs."""
        return self.first.ServerLive(request, context)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether this server is ready for all plans."""
        return service_pb2.ServerReadyResponse(ready=self._all(lambda s: s.ServerReady(request, context).ready))

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether all stages are ready for all plans."""
        question = service_pb2.ModelReadyRequest
        known = request.name == self.plans.model_name and request.version in ("", VERSION)
        ready = known and self._all(lambda s: s.ModelReady(question(name=s.bundle.model_name), context).ready)
        return service_pb2.ModelReadyResponse(ready=ready)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer the name of the server, its version, which set of plans it serves, the plan for now, and bandwidths [B/s]."""
        answer = self.first.ServerMetadata(request, context)
        answer.extensions[0] = f"bundle-{self.plans.digest}"
        answer.extensions.append(f"plan-{self.plans.folders[self.best()]}")
        if self.is_source:
            answer.extensions.extend(f"link-{a}-{b}-{gauge.bandwidth:.4g}" for (a, b), gauge in self.gauges.items())
        return answer

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer the inputs and outputs of the whole model."""
        if request.name == self.plans.model_name:
            request.name = self.first.bundle.model_name
        answer = self.first.ModelMetadata(request, context)
        answer.name = self.plans.model_name
        return answer

    def ModelInfer(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        """Run the whole model by the best plan for now, or take a message of another stage; a `Refusal` says why not."""
        name = request.head.model_name
        if name in self.control and not request.problem:
            return self.control[name](request, context)
        return self.stages.get(name.partition("/")[0], self.first).ModelInfer(request, context)

    def _serve(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        if not self.is_source:
            raise Refusal(Code.FAILED_PRECONDITION, f"this is {self.config.server!r}; requests go to {self.plans.source!r}")
        self.busy = True
        try:
            index = self.best(_max_noise(request.head))
        except DeployError as error:
            raise Refusal(Code.INVALID_ARGUMENT, error) from None
        chosen = request.head.model_name = self.plans.bundles[index].model_name
        answer = self.stages[chosen].ModelInfer(request, context)
        answer.head.model_name = self.plans.model_name
        set_parameter(answer.head, "plan", self.plans.folders[index])
        set_parameter(answer.head, "noise", self.plans.prices.noise[index])
        return answer

    def _peers(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        for stage in self.stages.values():
            stage.handlers[f"{stage.bundle.model_name}/peers"](request, context)
        return acknowledge(request)

    def _links(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        for stage in self.stages.values():
            stage.handlers[LINKS](request, context)
        return acknowledge(request)

    def _measure(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        peers = {peer.name: peer.address for stage in self.stages.values() for peer in stage.runner.peers.values()}
        check_peer(context, self.config, [name for bundle in self.plans.bundles for name in bundle.servers], peers.values())
        target, asked = (request.head.parameters[name] for name in ("target", "size_bytes"))
        size, (least, most) = asked.double_param, PROBE_BYTES
        if not least <= size <= most:
            raise Refusal(Code.INVALID_ARGUMENT, f"the parameter size_bytes is {size!r}; give a number from {least} to {most}")
        if target.string_param not in peers:
            text = f"{self.config.server!r} has no connection to {target.string_param!r}{nearest(target.string_param, peers)}"
            raise Refusal(Code.INVALID_ARGUMENT, text)
        if not self.measuring.acquire(blocking=False):
            text = f"{self.config.server!r} measures a link at the moment; try again in {PROBE_S:g} s"
            raise Refusal(Code.RESOURCE_EXHAUSTED, text, PROBE_S)
        try:
            seconds = self._seconds(target.string_param, int(size))
        finally:
            self.measuring.release()
        answer = acknowledge(request)
        set_parameter(answer.head, "seconds", seconds)
        return answer


def _max_noise(head: Any) -> float:
    """Read the noise limit of a request; a number, or text that is one, for clients that send text alone."""
    if MAX_NOISE not in head.parameters:
        return math.inf
    parameter = head.parameters[MAX_NOISE]
    kind = parameter.WhichOneof("parameter_choice")
    try:
        return float(getattr(parameter, kind))
    except (TypeError, ValueError):
        raise Refusal(Code.INVALID_ARGUMENT, f"the parameter {MAX_NOISE} must be a number, 0 or more") from None


def stage_of(config: Config) -> Stage | AdaptiveStage:
    """Return the service of a server: of one plan, or of all plans where the folder holds several."""
    cut = load_cut(config.bundle)
    return Stage(cut, config) if isinstance(cut, Bundle) else AdaptiveStage(cut, config)
