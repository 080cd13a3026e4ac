"""The stage of an agent: its bundles come and go while it runs, and requests start by the one that is in use at the moment.

It is told what to do in lines of JSON on its standard input, and tells what became of it on its standard output; whoever holds
the other ends is the only one that may. Where they are closed it ends.

A request stays with the bundle it was started with. Where a server is lost meanwhile, it is started anew by the next bundle that
comes into use, or by the same one, as the server may be back, as long as its deadline lets it: inference changes nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn

import grpc
from tritonclient.grpc import service_pb2

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.prices import FollowedLink
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.gauges import QUIET_S, Gauge, take_largest
from dnnsplit.deployment.stage.process import TICK_S, answering, limit_memory
from dnnsplit.deployment.stage.service import Stage
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import PROBE, VERSION, Refusal, TransferRecord, acknowledge, set_parameter
from dnnsplit.ground.errors import DeployError

CHANGE_S = 8.0  # how long a request that lost a server waits for another bundle to come into use, or for the server
AGAIN_S = 1.0  # after which it tries the same bundle again
TOLD_S = 0.5  # between two reports of the links
Code = grpc.StatusCode


class ChangingStage:
    """The gRPC service of one server of a deployment.

    Parameters
    ----------
    config : Config
        Of all its bundles; its `bundle` and `peers` are left aside, as each bundle comes with its own.
    model_name : str
        Under which the deployment answers.
    is_source : bool
        Whether requests arrive here.
    """

    def __init__(self, config: Config, model_name: str, is_source: bool) -> None:
        self.config, self.model_name, self.is_source = config, model_name, is_source
        self.stages: dict[str, Stage] = {}
        self.current = ""
        self.changed = threading.Condition()
        self.turns: dict[str, threading.Lock] = {}
        self.gauges: dict[tuple[str, str], Gauge] = {}
        self.leaving: dict[str, Stage] = {}
        self.emulation = config.emulation
        self.tls = config.tls

    def add(self, folder: str, peers: Mapping[str, str], links: Sequence[Sequence[Any]] = ()) -> str:
        """Load a bundle, whose other stages are at these addresses; return its name, once it is ready here."""
        bundle = Bundle.load(folder)
        stage = Stage(bundle, replace(self.config, bundle=folder, peers=peers, emulation=self.emulation))
        stage.runner.turns = {name: self.turns.setdefault(name, threading.Lock()) for name in bundle.servers}
        stage.runner.observe = self._observe
        for source, target, bandwidth, latency_s, serialise_s_per_byte in links:
            link = FollowedLink(source, target, bandwidth, latency_s, serialise_s_per_byte)
            self.gauges.setdefault(link.ends, Gauge(link))
        try:
            stage.prepare()
        except BaseException:
            stage.close()
            raise
        if (old := self.stages.get(bundle.model_name)) is not None:
            self.leaving[f"{bundle.model_name} {id(old)}"] = old
        self.stages[bundle.model_name] = stage
        return bundle.model_name

    def use(self, name: str) -> None:
        """Start requests by this bundle from now on."""
        with self.changed:
            if name not in self.stages:
                message = f"{name!r} is not loaded here"
                raise DeployError(message)
            self.current = name
            self.changed.notify_all()

    def drop(self, name: str) -> None:
        """Let a bundle go, once its requests have ended."""
        with self.changed:
            if name == self.current:
                self.current = ""
            if stage := self.stages.pop(name, None):
                self.leaving[name] = stage

    def pace(self, links: Mapping[str, tuple[float, float]]) -> None:
        """Emulate these links that leave this server from now on: target -> (latency [s], seconds per byte [s/B])."""
        self.emulation = replace(self.emulation, links=links)
        for stage in [*self.stages.values(), *self.leaving.values()]:
            stage.runner.emulation = self.emulation

    def look_after(self) -> None:
        """Called every now and then, as of a `Stage`; close what was dropped and has nothing left to do."""
        for stage in [*self.stages.values(), *self.leaving.values()]:
            stage.look_after()
        for name, stage in list(self.leaving.items()):
            if not stage.runner.requests:
                del self.leaving[name]
                threading.Thread(target=stage.close, name="close", daemon=True).start()

    def close(self) -> None:
        """End everything."""
        for stage in [*self.stages.values(), *self.leaving.values()]:
            stage.close()

    def measured(self) -> list[tuple[str, str, float]]:
        """Return the links that requests have used of late: source, target, bandwidth [B/s]."""
        return [(*ends, gauge.bandwidth) for ends, gauge in self.gauges.items() if gauge.age_s < QUIET_S]

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer that the process runs."""
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether a bundle is in use, or on other servers than the source, loaded."""
        return service_pb2.ServerReadyResponse(ready=bool(self.current or (self.stages and not self.is_source)))

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether all stages of the bundle in use are ready."""
        stage = self._stage(request.name)
        if stage is None or request.version not in ("", VERSION):
            return service_pb2.ModelReadyResponse(ready=False)
        return stage.ModelReady(service_pb2.ModelReadyRequest(name=stage.bundle.model_name), context)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer as the stage of the bundle in use does, and which one that is."""
        stage = self._stage(self.model_name) or next(iter(self.stages.values()), None)
        if stage is None:
            context.abort(Code.UNAVAILABLE, self._idle())
            raise AssertionError
        answer = stage.ServerMetadata(request, context)
        answer.extensions.append(f"plan-{self.current}")
        return answer

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer the inputs and outputs of the whole model."""
        stage = self._stage(request.name)
        if stage is None:
            known = request.name == self.model_name
            context.abort(Code.UNAVAILABLE if known else Code.NOT_FOUND, self._idle() if known else self._unknown(request.name))
            raise AssertionError
        asked, request.name = request.name, stage.bundle.model_name
        answer = stage.ModelMetadata(request, context)
        answer.name = asked
        return answer

    def ModelInfer(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        """Run the whole model by the bundle in use, or take a message of another stage; a `Refusal` says why not."""
        name = request.head.model_name
        if name == PROBE and not request.problem:
            return acknowledge(request)
        if name == self.model_name:
            return self._serve(request, context)
        if (stage := self._stage(name.partition("/")[0])) is None:
            raise Refusal(Code.NOT_FOUND, self._unknown(name))
        return stage.ModelInfer(request, context)

    def _serve(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        if not self.is_source:
            raise Refusal(Code.FAILED_PRECONDITION, f"this is {self.config.server!r}; requests go to the deployment's address")
        end = time.monotonic() + CHANGE_S
        while True:
            with self.changed:
                name = self.current
                stage = self.stages.get(name)
            if stage is None:
                raise Refusal(Code.UNAVAILABLE, self._idle())
            request.head.model_name = name
            try:
                answer = stage.ModelInfer(request, context)
            except Refusal as refusal:
                left_s = min(end - time.monotonic(), (context.time_remaining() or CHANGE_S) - TICK_S)
                if refusal.code is not Code.UNAVAILABLE or left_s <= 0:
                    raise
                self._wait_for_another(name, min(left_s, AGAIN_S))
                continue
            answer.head.model_name = self.model_name
            set_parameter(answer.head, "plan", name.rpartition("@")[2])
            return answer

    def _wait_for_another(self, name: str, limit_s: float) -> None:
        """Wait until another bundle is in use, for so long at most [s]."""
        with self.changed:
            self.changed.wait_for(lambda: self.current != name, limit_s)

    def _stage(self, name: str) -> Stage | None:
        with self.changed:
            return self.stages.get(self.current if name == self.model_name else name) or self.leaving.get(name)

    def _observe(self, transfers: list[TransferRecord]) -> None:
        take_largest(self.gauges, transfers)

    def _idle(self) -> str:
        return f"{self.model_name!r} has no plan in use on {self.config.server!r} at the moment; try again later"

    def _unknown(self, name: str) -> str:
        return f"there is no model {name!r}; this is {self.model_name!r}, version {VERSION!r}"


class _Orders:
    """What the lines of the standard input say, done one after the other; bundles are loaded beside."""

    def __init__(self, stage: ChangingStage) -> None:
        self.stage, self.loader = stage, ThreadPoolExecutor(1, "load")

    def follow(self) -> None:
        """Do what the lines say until there are no more, and end the process then."""
        for line in sys.stdin:
            order = json.loads(line)
            what, given = order["do"], order.get("given", {})
            if what == "add":
                self.loader.submit(self._do, what, order["name"], given)
            else:
                self._do(what, order.get("name", ""), given)
        os._exit(0)

    def _do(self, what: str, name: str, given: dict[str, Any]) -> None:
        try:
            getattr(self.stage, what)(**given)
        except DeployError as error:
            tell(done=what, name=name, problem=str(error))
        except Exception as error:  # the agent has to know, whatever it is
            traceback.print_exc()
            tell(done=what, name=name, problem=f"{type(error).__name__}: {error}")
        else:
            tell(done=what, name=name, problem="")


def tell(**what: Any) -> None:
    """Write one line to whoever started this process."""
    print(json.dumps(what), flush=True)


def main(arguments: list[str]) -> NoReturn:
    """Run the stage: ``python -m dnnsplit.deployment.stage.changing CONFIG MODEL source|other MESSAGE_BYTES MEMORY_BYTES``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path, model_name, role, limit, memory = arguments
    limit_memory(int(memory))
    code = 1
    try:
        config = Config.load(path)
        stage = ChangingStage(config, model_name, role == "source")
        with answering(stage, config, int(limit)) as address:
            tell(address=address)
            threading.Thread(target=_Orders(stage).follow, name="orders", daemon=True).start()
            told = 0.0
            while True:
                time.sleep(TICK_S)
                stage.look_after()
                if time.monotonic() - told > TOLD_S and (measured := stage.measured()):
                    tell(links=measured)
                    told = time.monotonic()
    except DeployError as error:
        tell(problem=str(error))
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # no interpreter shutdown, see `process`


if __name__ == "__main__":
    main(sys.argv[1:])
