"""The thesis' latency test: every plan of some noise limits and topologies is cut, run on a test-bed, and measured."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.cut import cut
from dnnsplit.deployment.client import Client, Trace
from dnnsplit.deployment.stage.emulation import is_too_fast, smallest_dilation
from dnnsplit.deployment.testbed.comparison import compare
from dnnsplit.deployment.testbed.processes import size_of
from dnnsplit.deployment.testbed.testbed import LatencyTest, requests, testbed
from dnnsplit.graph.feeds import Feed, Images, feeds_of, images_sha256
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, raise_problems
from dnnsplit.ground.files import write_text
from dnnsplit.ground.keywords import named
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.split import split
from dnnsplit.studies.grid import WEIGHTS, refuse_weights, weight_pairs
from dnnsplit.studies.latency_outputs import WholeModel, compare_outputs
from dnnsplit.studies.latency_rows import Point, Run, finished, folder_of, identity_of, write

MOST_BUSY = 0.15  # of one core, by test-beds that run at the same time: a median does not tell the few runs that meet others
STAGE_BYTES = 1.5e8  # of a stage's process, beside its weights and tensors
SPARE = 2.0  # ONNX Runtime packs weights anew, and takes memory in larger and larger pieces
MOST_BYTES = 2e9  # of test-beds that run at the same time; one may have more
# A request is stretched for a fast server to so many wall seconds, or twofold; where that is too little its watch stands.
LONGEST_S, TWOFOLD = 4.0, 2.0


@named(split)
def latency_tests(
    graph: LayerGraph,
    networks: Mapping[str, Network],
    times: LayerTimes,
    noise: NoiseModel,
    *,
    max_noise: Sequence[float],
    weights: Sequence[float | Sequence[float]] = ((1.0, 0.0),),
    images: Images,
    build: str | Path,
    repeats: int = 25,
    warm_up: int = 10,
    results: str | Path | None = None,
    time_dilation: float | None = None,
    progress: bool = True,
    confidence: float | None = None,
    **asked: Any,
) -> pd.DataFrame:
    """Plan, cut, run and measure, for every topology, weight and noise limit.

    Emulated servers sleep most of the time, so the test-beds of several plans run at the same time: as many as keep 15 %
    of one core busy. Plans that place, quantize and send everything alike, on servers and links that are as fast, are run once;
    each row has its own limit and its own planned figures.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    networks : Mapping[str, Network]
        By the name of the topology.
    times : LayerTimes
        Scaled from this machine, so that the test-bed knows how much slower each server is.
    noise : NoiseModel
        With the calibration that its layers are quantized by.
    max_noise : Sequence[float]
        The noise limits.
    weights : Sequence[float | Sequence[float]], default ((1.0, 0.0),)
        Weights of the latency, or pairs with that of the energy, as for `dnnsplit.studies.grid.weight_pairs`.
    images : Images
        Requests carry them in turn, as 8-bit images where these are what leaves the source; the noise of a plan is measured over
        all of them.
    build : str | Path
        Folder for the parts, in one of their own by topology and limit, such as ``device-0.05``, or ``device-w0.5-0.05`` where
        there are several weights; each point's gets ``terms.csv``, predicted beside measured for every term of its plan.
    repeats, warm_up : int, optional
        Requests that count, and those before them that do not, at most (the thesis: 25 and 10); they end as those of
        `latency_test`, once every image was sent.
    results : str | Path | None, optional
        CSV that gets rows as soon as they are there; those that it holds of plans that run the same are kept. Every request has a
        row in another beside it, ``NAME.runs.csv`` beside ``NAME.csv``: topology, latency_weight, max_noise (of the first point
        with that plan), plan_id, run, latency_s [s].
    time_dilation : float | None, optional
        See `testbed`; by default what that takes, but no more than stretches a request to 4 s, or twofold.
    progress : bool, default True
        Show a progress bar.
    confidence : float | None, optional
        Of the limits, as for `split`.
    **asked : Any
        Other arguments of `split`: source_forms, pins, method, ... Pinning all layers runs a baseline.

    Returns
    -------
    pd.DataFrame
        One row per point: topology, latency_weight, energy_weight, max_noise, predicted_s, latency_s (median), low_s, high_s (5th
        and 95th percentile) [s], error_% of the prediction, energy_j, device_energy_j (planned) [J], noise and noise_upper (of
        the plan), output_noise (rho of what the deployment returned), output_difference (greatest, relative, from the model with
        the same layers in int8 as its noise is measured), servers, source_form, parts, int8_layers, repeats, solve_s (CPU),
        cut_s, start_s (wall, until the deployment was ready) [s], size_bytes (of the parts' files) [B], pace (CPU seconds
        that this machine took in these runs for what took it one when it was profiled, median; servers are emulated as if it
        were 1), weights (what the model's file says of its own), plan_id (the same where plans run the same).

    Raises
    ------
    DeployError
        What a deployment returned has not the noise of its plan's scheme on the same images, or, where these are the images that
        the plan's noise was measured on, not the plan's noise, to 1 %. The rows before it are in `results`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> asked = {"max_noise": [0.05], "images": ds.scenes.images(2), "build": "build", "repeats": 2, "warm_up": 1}
    >>> tests = ds.latency_tests(graph, {"device-edge-cloud": network}, times, noise, **asked, progress=False)
    >>> tests[["topology", "max_noise", "servers"]].shape
    (1, 3)
    """
    check_arguments(latency_tests, locals(), least={"repeats": 1, "warm_up": 0}, some=("networks", "max_noise", "weights"))
    refuse_weights("latency_tests", asked)
    feeds, pairs = feeds_of(graph.model, images), weight_pairs(weights)
    run = (graph.model.sha256, images_sha256(feeds), repeats, warm_up, time_dilation, times.reference_s, times.huge_pages)
    way_out, known = "is scaled from this machine; profile it (dnnsplit.profile)", times.slowdown
    points = []
    for (name, network), pair, limit in itertools.product(networks.items(), pairs, max_noise):
        # what servers do at a cut is in the plan, but not emulated: they really do it
        weighted: dict[str, Any] = {**dict(zip(WEIGHTS, pair, strict=True)), **asked}
        plan = split(graph, network, times, noise, max_noise=limit, confidence=confidence, **weighted)
        folder = Path(build) / folder_of(name, pair, limit, len(pairs) > 1)
        point = Point(name, *pair, limit, network, plan, folder)
        lost = [server for server in point.stages if server not in known]
        raise_problems(DeployError, "latency test", [f"the times do not say how {server!r} {way_out}" for server in lost])
        slowdown = {server: _slowdown(times, known, plan, server) for server in point.stages}
        points.append(replace(point, slowdown=slowdown, identity=identity_of(plan, network, slowdown, run)))
    done = finished(results)
    left = list({point.identity: point for point in reversed(points) if point.identity not in done}.values())[::-1]
    bed = _Bed(time_dilation, repeats, warm_up, most_alive(graph), times.reference_s, times.huge_pages)
    whole = WholeModel(graph, feeds)
    with tqdm(total=len(left), desc="latency test", unit="plan", disable=not progress) as bar:
        for together in _side_by_side(left, bed):
            bar.set_postfix_str(", ".join(map(str, together)))
            for point, (gave, terms) in zip(together, _measured(whole, together, bed), strict=True):
                done[point.identity] = gave
                for same in (other for other in points if other.identity == point.identity):
                    write_text(same.folder / "terms.csv", terms)
            bar.update(len(together))
            # rows finished earlier stay, wherever in the list this run is stopped
            write(results, points, done, graph.weights)
    return write(results, points, done, graph.weights)


def _slowdown(times: LayerTimes, known: Mapping[str, float], plan: Plan, server: str) -> float:
    """Return the seconds of a server per CPU second of this machine: of its layers, else those that are `known` of all."""
    layers = [name for name, where in plan.assignment.items() if where == server]
    return times.slowdown_of(server, layers, plan.quantized) if layers else known[server]


@dataclass(frozen=True)
class _Bed:
    """How plans are run: how much slower, how often, how much one may hold in tensors [B], at which pace [s], in which pages."""

    time_dilation: float | None
    repeats: int
    warm_up: int
    alive_bytes: float
    reference_s: float | None = None
    huge_pages: bool = False

    def dilation(self, point: Point) -> float:
        """Return the time dilation of a point's test-bed: no request is stretched for long."""
        return self.time_dilation or min(smallest_dilation(point.slowdown), max(TWOFOLD, LONGEST_S / point.plan.latency_s))

    def busy(self, point: Point) -> float:
        """Return what share of the time its test-bed keeps one core of this machine busy; the rest is slept."""
        dilation, cost = self.dilation(point), point.plan.cost
        seconds = [*cost.compute_s.items(), *cost.codec_s.items()]
        cpu_s = {server: 0.0 for server, _ in seconds}
        for server, spent in seconds:
            cpu_s[server] += spent / point.slowdown[server] if spent else 0.0
        stood_s = math.fsum(s for server, s in cpu_s.items() if s and is_too_fast(point.slowdown[server], dilation))
        return math.fsum(cpu_s.values()) / (dilation * point.plan.latency_s + stood_s)

    def held_bytes(self, point: Point) -> float:
        """Return about how much memory its test-bed holds [B]."""
        weights = math.fsum(point.plan.cost.weight_bytes.values())
        return len(point.stages) * STAGE_BYTES + SPARE * (self.alive_bytes + weights)


def most_alive(graph: LayerGraph) -> float:
    """Return the most that the tensors take that there are at a time, where layers run one after the other [B]."""
    last = {name: i for i, name in enumerate(graph.topological)}
    change = np.zeros(len(last) + 1)
    for tensor in graph.tensors:
        change[last[tensor.producer] if tensor.producer else 0] += tensor.size_bytes
        change[max((last[name] for name in tensor.consumers), default=len(last) - 1) + 1] -= tensor.size_bytes
    return float(change.cumsum().max())


def _side_by_side(points: Sequence[Point], bed: _Bed) -> Iterator[list[Point]]:
    """Yield points, in their order, whose test-beds may run at the same time."""
    together: list[Point] = []
    busy = held = 0.0
    for point in points:
        own_busy, own_held = bed.busy(point), bed.held_bytes(point)
        if together and (busy + own_busy > MOST_BUSY or held + own_held > MOST_BYTES):
            yield together
            together, busy, held = [], 0.0, 0.0
        together, busy, held = [*together, point], busy + own_busy, held + own_held
    if together:
        yield together


def _measured(whole: WholeModel, points: Sequence[Point], bed: _Bed) -> list[tuple[Run, str]]:
    """Cut some plans, then run all of them at the same time; return what that gave, and predicted beside measured as a CSV."""
    feeds, bundles, cut_s = whole.feeds, [], []
    for point in points:
        started = time.perf_counter()
        # no check: what the deployment returns is compared, for every input
        bundles.append(cut(whole.graph, point.plan, point.folder, check=False))
        cut_s.append(time.perf_counter() - started)

    def ask(client: Client, bundle: Bundle, wait_s: float) -> tuple[list[Trace], list[Feed]]:
        time.sleep(wait_s)
        traces: list[Trace] = []
        answers: list[Feed] = []
        for answer, trace in requests(client, [handed_over(bundle, feed) for feed in feeds], bed.repeats, bed.warm_up):
            traces.append(trace)
            answers += [answer] if len(answers) < len(feeds) else []
        return traces, answers

    # test-beds that end let go of the threads that wait for their answers
    with ThreadPoolExecutor(len(points)) as pool, ExitStack() as stack:
        clients, start_s = [], []
        for point, bundle in zip(points, bundles, strict=True):
            factors = {server: point.slowdown[server] for server in bundle.stages}
            started = time.perf_counter()
            given = (bundle, point.network, factors, bed.dilation(point))
            clients.append(stack.enter_context(testbed(*given, reference_s=bed.reference_s, huge_pages=bed.huge_pages)))
            start_s.append(time.perf_counter() - started)
        # they begin one after another, so that the servers that all plans begin on do not compute at the same time
        waits = [i * point.plan.latency_s / len(points) for i, point in enumerate(points)]
        asked = list(pool.map(ask, clients, bundles, waits))
    rows = zip(points, bundles, zip(cut_s, start_s, strict=True), asked, strict=True)
    return [_told(whole, point.plan, bundle, took, *found) for point, bundle, took, found in rows]


def _told(
    whole: WholeModel, plan: Plan, bundle: Bundle, took: tuple[float, float], traces: list[Trace], answers: list[Feed]
) -> tuple[Run, str]:
    test = LatencyTest(np.array([trace.latency_s for trace in traces]), tuple(traces))
    noise, difference = compare_outputs(whole, plan, bundle, answers)
    pace = float(np.median([part.pace for trace in traces for part in trace.parts]))
    run = Run(tuple(test.latency_s.tolist()), noise, difference, len(bundle.parts), *took, size_of(bundle), pace)
    return run, compare(test, bundle).to_csv(index=False)


def handed_over(bundle: Bundle, feed: Feed) -> Feed:
    """Return the inputs as a source with a camera has them: as 8-bit images where that is what leaves it."""
    images = bundle.leave_as_images
    return {name: bundle.pixels[name].steps(array, exact=True) if name in images else array for name, array in feed.items()}
