"""A meter of the noise of whole plans, on the parts that will run: lossy forms of tensors between layers are in it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnnsplit.cutting.cut import cut
from dnnsplit.cutting.running import run_parts
from dnnsplit.graph.feeds import Feed, feeds_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.differences import absolute
from dnnsplit.noise.confidence import upper_bound
from dnnsplit.noise.meter import NoiseMeter, noise_meter
from dnnsplit.noise.prefix_tree import PrefixTree, build_tree
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.quantize.calibration import Calibration, calibrate
from dnnsplit.solving.plan import Plan


@dataclass(frozen=True, eq=False)
class PartsMeter:
    """Measures schemes as a `NoiseMeter` does, and plans on their parts; made by `parts_meter`.

    Attributes
    ----------
    schemes : NoiseMeter
        Of what is quantized, and of lossy forms of the inputs.
    graph, calibration : LayerGraph, Calibration
        What plans are cut from, and the ranges of their int8 layers.
    """

    schemes: NoiseMeter
    graph: LayerGraph = field(repr=False)
    calibration: Calibration = field(repr=False)
    _feeds: Sequence[Feed] = field(repr=False)
    _float32: PrefixTree = field(repr=False)

    @property
    def origin(self) -> Mapping[str, Any]:
        """What the noise depends on."""
        return self.schemes.origin

    def __call__(self, quantized: Sequence[str], source: str = "") -> float:
        """Return the noise when exactly these layers are quantized, and the inputs come in this lossy form, "" for none."""
        return self.schemes(quantized, source)

    def samples(self, schemes: np.ndarray, progress: bool = True, source: str = "") -> NoiseSamples:
        """Return the noise of schemes; see `NoiseMeter.samples`."""
        return self.schemes.samples(schemes, progress, source)

    def of_plan(self, plan: Plan, confidence: float | None = None) -> tuple[float, float]:
        """Return the noise of a plan on its parts, run here, and its upper confidence bound; without a confidence it is both.

        Parameters
        ----------
        plan : Plan
            Of this graph.
        confidence : float | None, optional
            As for `split`; two images are needed then.
        """
        with tempfile.TemporaryDirectory(prefix="dnnsplit-") as folder:
            bundle = cut(self.graph, plan, folder, self.calibration, check=False)
            found = []
            for feed in self._feeds:
                answer = run_parts(bundle, feed)
                exact = next(self._float32.walk(feed, np.zeros((0, 0), np.int8)))
                pairs = zip(self._float32.outputs, exact, strict=True)
                found.append(np.mean([absolute(answer[name], one).mean() for name, one in pairs]))
        mean = float(np.mean(found))
        if confidence is None:
            return mean, mean
        return mean, float(upper_bound(mean, np.std(found, ddof=1), len(found), confidence))


def parts_meter(
    graph: LayerGraph,
    images: np.ndarray | Mapping[str, np.ndarray],
    calibration: Calibration | None = None,
    layers: int | Sequence[str] = 12,
) -> PartsMeter:
    """Prepare to measure the noise (rho) of any plan on its parts: what ``split(..., wire_forms=..., verify=meter)`` asks for.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    images : np.ndarray | Mapping[str, np.ndarray]
        As for `noise_meter`.
    calibration : Calibration | None, optional
        As for `noise_meter`.
    layers : int | Sequence[str], default 12
        As for `noise_meter`; those of the noise model.

    Returns
    -------
    PartsMeter
        Call it as a `NoiseMeter`; ``of_plan`` measures a plan.

    Raises
    ------
    NoiseError
        See `measure_noise`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> meter = ds.parts_meter(graph, ds.scenes.images(1), layers=noise.layers)
    >>> plan = ds.split(graph, network, times, noise, max_noise=0.05)
    >>> 0 <= meter.of_plan(plan)[0] < 0.2
    True
    """
    check_arguments(parts_meter, locals())
    calibration = calibration or calibrate(graph, images)
    meter = noise_meter(graph, images, calibration, layers)
    return PartsMeter(meter, graph, calibration, feeds_of(graph.model, images), build_tree(graph, (), calibration))
