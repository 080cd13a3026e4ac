"""The plan of a deployment for the hosts and links of the moment, what it is worth there, and the parts it is cut into."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dnnsplit.agents.steps import Request
from dnnsplit.cutting.bundle import FILE, Bundle
from dnnsplit.cutting.cut import cut
from dnnsplit.examples.shipped import load_images
from dnnsplit.graph.blocks import load
from dnnsplit.ground.errors import DnnSplitError
from dnnsplit.ground.files import sha256
from dnnsplit.network.servers import Network
from dnnsplit.noise.fit import fit_noise
from dnnsplit.noise.meter import NoiseMeter, noise_meter
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.solving.cost import Cost
from dnnsplit.solving.costs import evaluate
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.split import split
from dnnsplit.studies.adaptive import identity
from dnnsplit.studies.explain import explain

CALIBRATION, MEASURED = 16, 8  # images for the ranges of int8, and those that the noise of a plan is measured on, at most


@dataclass(frozen=True, eq=False)
class Cut:
    """A plan and its parts, with the hash of each file by its name."""

    plan: Plan
    bundle: Bundle
    files: Mapping[str, str]

    @property
    def name(self) -> str:
        """Of the bundle."""
        return self.bundle.model_name

    @property
    def label(self) -> str:
        """What tells the plan from others, as clients and logs have it."""
        return self.name.rpartition("@")[2]


class Planner:
    """Plans one deployment.

    Parameters
    ----------
    name : str
        Of the deployment.
    request : Request
        What it is to be.
    model : Path
        The ONNX file, beside the files it came with.
    folder : Path
        For parts, and for what was measured of the noise.
    """

    def __init__(self, name: str, request: Request, model: Path, folder: Path) -> None:
        self.name, self.request, self.folder, self.model = name, request, folder, model
        self.graph = load(model, [request.provider], shapes=dict(request.shapes) or None)
        self.noise: NoiseModel | None = None
        self._planning, self._cutting = threading.Lock(), threading.Lock()

    def images(self, first: int, count: int) -> Any:
        """Return some of the images."""
        return load_images(self.model.parent / self.request.images, count, start=first, graph=self.graph)

    def take_noise(self, path: Path) -> None:
        """Fit the noise to what a host measured."""
        samples = NoiseSamples.load(path)
        every = len(samples.noise) >= 2 ** len(samples.layers)
        self.noise = fit_noise(samples, "measured" if every else "gp")

    @cached_property
    def meter(self) -> NoiseMeter:
        """What measures the noise of a plan before it is used: on images that did not calibrate it, where there are enough."""
        assert self.noise is not None
        count, calibration = self.request.count, Calibration.from_json(self.noise.origin["calibration"])
        calibrating = min(CALIBRATION, count)
        some = min(MEASURED, count - calibrating or count)
        pictures = self.images(count - some, some)
        return noise_meter(self.graph, pictures, calibration, self.noise.layers, workers=1, resume=self.folder / "meter.npz")

    def plan(self, network: Network, times: LayerTimes) -> Plan:
        """Return the best plan.

        Raises
        ------
        InfeasibleError
            None keeps the limits there.
        """
        with self._planning:
            return self._planned(network, times)

    def _planned(self, network: Network, times: LayerTimes) -> Plan:
        verify: dict[str, Any] = {"verify": self.meter} if self.request.max_noise and self.noise else {}
        return split(self.graph, network, _of(times, network), self.noise, **self._asked, **verify)

    def price(self, plan: Plan, network: Network, times: LayerTimes) -> Cost | None:
        """Return what a plan costs at the prices of another moment; None where it cannot be kept there."""
        if not {*plan.assignment.values(), plan.source} <= set(network.server_names):
            return None
        try:
            return evaluate(self.graph, network, _of(times, network), plan.assignment, plan.quantized, plan.routes, plan.forms)
        except DnnSplitError:
            return None

    def ratio(self, cost: Cost, best: Plan | Cost) -> float:
        """Return how many times as much something costs as another, or as the best plan, by the weights that were asked for."""
        latency, energy = self.request.latency_weight, self.request.energy_weight
        parts = [(latency, cost.latency_s, best.latency_s), (energy, cost.energy_j, best.energy_j)]
        return sum(weight * one / other for weight, one, other in parts if weight) / (latency + energy)

    def why(self, plan: Plan, network: Network, times: LayerTimes) -> str:
        """Return the reasons for a plan in words; its alternatives are by the noise model alone, which may be off for it."""
        asked = self._asked
        if self.noise is not None and asked["max_noise"] is not None:
            asked |= {"max_noise": max(asked["max_noise"], self.noise.of(plan.quantized)), "confidence": None}
        return str(explain(plan, self.graph, network, _of(times, network), self.noise, **asked))

    def cut(self, plan: Plan) -> Cut:
        """Write the parts of a plan, unless they are there, under a name that says what it decides."""
        with self._cutting:
            return self._cut(plan)

    def _cut(self, plan: Plan) -> Cut:
        label = sha256(identity(plan))[:12]
        folder, model_name = self.folder / "plans" / label, f"{self.name}@{label}"
        try:
            bundle = Bundle.load(folder)
            if bundle.model_name != model_name:
                bundle = self._written(plan, folder, model_name)
        except DnnSplitError:
            bundle = self._written(plan, folder, model_name)
        names = {FILE, *(file for part in bundle.parts for file in (part.file, part.data) if file)}
        return Cut(plan, bundle, {name: sha256(folder / name) for name in sorted(names)})

    def _written(self, plan: Plan, folder: Path, model_name: str) -> Bundle:
        images = self.images(0, 1) if self.request.images else None
        bundle = replace(cut(self.graph, plan, folder, images=images), model_name=model_name)
        bundle.save()
        return bundle

    @property
    def _asked(self) -> dict[str, Any]:
        """The arguments of `split`."""
        r = self.request
        asked: dict[str, Any] = {"latency_weight": r.latency_weight, "energy_weight": r.energy_weight}
        asked["max_device_energy_j"] = r.max_device_energy_j
        if self.noise is not None:
            asked |= {"max_noise": r.max_noise, "confidence": r.confidence if r.max_noise else None}
        return asked


def _of(times: LayerTimes, network: Network) -> LayerTimes:
    """Leave out the times of servers that are not there."""
    others = [name for name in times.frame["server"].unique() if name not in network.server_names]
    return times.without(*others) if others else times
