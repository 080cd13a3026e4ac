"""Several plans in one bundle, each optimal for some bandwidths of a link, and the stage that takes the one for now.

A folder holds ``adaptive.json`` and one bundle per plan, whose model is named ``<model>@<number>``. A stage runs all of
them side by side; a request stays with the plan it was started with, so that none is lost when the plan changes.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from dnnsplit.deploy.bundle import Bundle
from dnnsplit.deploy.config import Config
from dnnsplit.deploy.encoding import Infer
from dnnsplit.deploy.messages import PROBE, VERSION, TransferRecord, infer_request
from dnnsplit.deploy.stage import Stage
from dnnsplit.errors import DeployError
from dnnsplit.files import sha256, write_json

FILE = "adaptive.json"
SCHEMA = 1
MARGIN = 1.1  # how far past a breakpoint the bandwidth must be before the plan changes, so that it does not waver
SMOOTHING = 0.4  # weight of the newest measurement
QUIET_S = 2.0  # a link that requests have not used for so long is asked with a message of its own
PROBE_BYTES = 2**17


@dataclass(frozen=True)
class PlanSet:
    """What `adaptive.json` says.

    Parameters
    ----------
    folder : where it is
    model_name : under which the deployment answers, whatever the plan
    link : (source, target) of the link whose bandwidth decides; it starts at the bundles' source
    latency_s : of that link [s]
    breakpoints : ends of the intervals, ascending [B/s]; plan i is optimal between the i-th and the next
    digests : hash of each plan's ``bundle.json``
    """

    folder: Path
    model_name: str
    link: tuple[str, str]
    latency_s: float
    breakpoints: tuple[float, ...]
    digests: tuple[str, ...]

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Whether a folder holds a set of plans rather than one bundle."""
        return (Path(folder) / FILE).is_file()

    @staticmethod
    def load(folder: str | Path) -> PlanSet:
        """Read and check the file; the bundles are checked when they are loaded."""
        path = Path(folder) / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.pop("schema") != SCHEMA:
                raise ValueError(f"it is not of schema {SCHEMA}")
            link, ends = tuple(map(str, document.pop("link"))), tuple(map(float, document.pop("breakpoints")))
            digests, latency_s = tuple(map(str, document.pop("digests"))), float(document.pop("latency_s"))
            found = PlanSet(Path(folder), str(document.pop("model_name")), link, latency_s, ends, digests)
            if document or len(link) != 2 or len(ends) != len(digests) + 1 or list(ends) != sorted(ends) or not ends[0] > 0:
                raise ValueError("link must be two servers, breakpoints two or more ascending bandwidths, and nothing else")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DeployError(f"{path} is not usable as a set of plans: {error}; cut the plans again") from None
        return found

    def save(self) -> Path:
        """Write ``adaptive.json``."""
        document = {key: value for key, value in asdict(self).items() if key != "folder"}
        return write_json(self.folder / FILE, {"schema": SCHEMA} | document)

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        """The bundle of each plan, loaded and checked."""
        bundles = tuple(Bundle.load(self.folder / plan_folder(i)) for i in range(len(self.digests)))
        for bundle, digest in zip(bundles, self.digests, strict=True):
            if bundle.digest != digest:
                raise DeployError(f"{bundle.folder} was changed after the cut; cut the plans again")
        return bundles

    @property
    def stages(self) -> tuple[str, ...]:
        """The servers that need a running stage for one plan or another."""
        return tuple(dict.fromkeys(server for bundle in self.bundles for server in bundle.stages))

    @property
    def source(self) -> str:
        """The server where requests arrive."""
        return self.bundles[0].source

    def best(self, bandwidth: float, current: int) -> int:
        """Return the plan for a bandwidth [B/s]; the current one where it is within `MARGIN` of its interval."""
        low, high = self.breakpoints[current : current + 2]
        if low / MARGIN <= bandwidth <= high * MARGIN:
            return current
        inner = self.breakpoints[1:-1]
        return sum(bandwidth > end for end in inner)


def plan_folder(index: int) -> str:
    """Return the name of the folder of a plan."""
    return f"plan{index:02d}"


class AdaptiveStage:
    """The gRPC service of one server for all plans: what stages say to each other goes by the plan's name in it."""

    def __init__(self, plans: PlanSet, config: Config) -> None:
        self.plans, self.config = plans, config
        self.stages: dict[str, Stage] = {}
        for bundle in plans.bundles:
            if config.server in bundle.stages:
                self.stages[bundle.model_name] = Stage(bundle, replace(config, bundle=str(bundle.folder)))
        if not self.stages:
            raise DeployError(f"{config.server!r} has nothing to do in any plan of {plans.folder}")
        self.first = next(iter(self.stages.values()))
        self.tls = self.first.tls
        self.is_source = config.server == plans.source
        self.current, self.bandwidth = 0, math.nan
        self.lock = threading.Lock()
        self.seen = self.asked = -math.inf
        self.busy = False
        for stage in self.stages.values():
            stage.runner.observe = self.observe

    @property
    def largest_message_bytes(self) -> int:
        """Upper bound on one message of any plan [B]."""
        return max(bundle.largest_message_bytes for bundle in self.plans.bundles)

    def prepare(self) -> None:
        """Prepare the stage of every plan."""
        for stage in self.stages.values():
            stage.prepare()

    def look_after(self) -> None:
        """Called every now and then, as of a `Stage`; measure the link where the requests of late did not use it."""
        for stage in self.stages.values():
            stage.look_after()
        now = time.monotonic()
        if self.is_source and self.busy and now - max(self.seen, self.asked) > QUIET_S:
            self.busy, self.asked = False, now
            threading.Thread(target=self._probe, name="probe", daemon=True).start()

    def close(self) -> None:
        """End everything."""
        for stage in self.stages.values():
            stage.close()

    def observe(self, transfers: list[TransferRecord]) -> None:
        """Take the transfers of a finished request; of those over the link, the largest tells its bandwidth best."""
        mine = [t for t in transfers if (t.source, t.target) == self.plans.link]
        if mine:
            largest = max(mine, key=lambda t: t.size_bytes)
            self._measured(largest.size_bytes, largest.seconds)

    def _measured(self, size_bytes: int, seconds: float) -> None:
        new = size_bytes / max(seconds - self.plans.latency_s, 1e-9)
        with self.lock:
            self.seen = time.monotonic()
            # times, not rates, are averaged: a plan's latency is linear in them
            old = new if math.isnan(self.bandwidth) else self.bandwidth
            self.bandwidth = 1 / (SMOOTHING / new + (1 - SMOOTHING) / old)
            self.current = self.plans.best(self.bandwidth, self.current)

    def _probe(self) -> None:
        _, target = self.plans.link
        for stage in self.stages.values():
            if peer := stage.runner.peers.get(target):
                message = infer_request(PROBE, tensors={"x": np.ones(PROBE_BYTES, np.uint8)})
                try:
                    started = time.monotonic()
                    time.sleep(max(stage.runner.emulation.hold_s(target, PROBE_BYTES, 0.0), 0.0))
                    peer.stub.infer(message, timeout=self.config.deadline_s)
                    self._measured(PROBE_BYTES, (time.monotonic() - started) / self.config.time_dilation)
                except grpc.RpcError:
                    pass  # a link that is down has no bandwidth; requests say what is wrong with it
                return

    def _ask(self, method: Callable[[Stage], Any]) -> list[Any]:
        return [method(stage) for stage in self.stages.values()]

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer that the process runs."""
        return self.first.ServerLive(request, context)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether this server is ready for all plans."""
        return service_pb2.ServerReadyResponse(ready=all(self._ask(lambda s: s.ServerReady(request, context).ready)))

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer whether all stages are ready for all plans."""
        question = service_pb2.ModelReadyRequest
        ready = request.name == self.plans.model_name and request.version in ("", VERSION)
        ask = self._ask
        return service_pb2.ModelReadyResponse(
            ready=ready and all(ask(lambda s: s.ModelReady(question(name=s.bundle.model_name), context).ready))
        )

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer the name of the server, its version, and which set of plans it serves."""
        answer = self.first.ServerMetadata(request, context)
        answer.extensions[0] = f"bundle-{sha256(self.plans.folder / FILE)}"
        answer.extensions.append(f"plan-{self.current}")
        return answer

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer the inputs and outputs of the whole model."""
        if request.name == self.plans.model_name:
            request.name = self.first.bundle.model_name
        answer = self.first.ModelMetadata(request, context)
        answer.name = self.plans.model_name
        return answer

    def ModelInfer(self, request: Infer, context: grpc.ServicerContext) -> Infer:
        """Run the whole model by the plan for now, or take a message of another stage."""
        name = request.head.model_name
        if name == self.plans.model_name:
            self.busy = True
            chosen = self.plans.bundles[self.current].model_name if self.is_source else self.first.bundle.model_name
            request.head.model_name = chosen
            answer = self.stages[chosen].ModelInfer(request, context)
            answer.head.model_name = name
            answer.head.parameters["plan"].string_param = chosen
            return answer
        return self.stages.get(name.partition("/")[0], self.first).ModelInfer(request, context)


def stage_of(config: Config) -> Stage | AdaptiveStage:
    """Return the service of a server: of one plan, or of all plans where the folder holds several."""
    if PlanSet.is_in(config.bundle):
        return AdaptiveStage(PlanSet.load(config.bundle), config)
    return Stage(Bundle.load(config.bundle), config)
