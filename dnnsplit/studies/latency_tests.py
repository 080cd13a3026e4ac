"""The thesis' latency test: every plan of some noise limits and topologies is cut, run on a test-bed, and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.cut import calibration_of, cut
from dnnsplit.cutting.running import received, run_parts
from dnnsplit.cutting.verification import OF_NOISE
from dnnsplit.deployment.client import Client, Trace
from dnnsplit.deployment.stage.emulation import smallest_dilation
from dnnsplit.deployment.testbed.comparison import compare
from dnnsplit.deployment.testbed.testbed import LatencyTest, requests, testbed
from dnnsplit.graph.feeds import Feed, Images, feeds_of, images_sha256
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.differences import ROUNDING, TINY, absolute, magnitude
from dnnsplit.ground.errors import DeployError, raise_problems
from dnnsplit.ground.files import sha256, write_text
from dnnsplit.ground.keywords import named
from dnnsplit.ground.tables import read_table
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.prefix_tree import build_tree
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.split import split

MOST_BUSY = 0.15  # of one core, by test-beds that run at the same time: a median does not tell the few runs that meet others
STAGE_BYTES = 1.5e8  # of a stage's process, beside its weights and tensors
MOST_BYTES = 2e9  # of test-beds that run at the same time; one may have more


@named(split)
def latency_tests(
    graph: LayerGraph,
    networks: Mapping[str, Network],
    times: LayerTimes,
    noise: NoiseModel,
    *,
    max_noise: Sequence[float],
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
    """Plan, cut, run and measure, for every topology and noise limit.

    Emulated servers sleep most of the time, so the test-beds of several plans run at the same time: as many as keep 15 %
    of one core busy.

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
    images : Images
        Requests carry them in turn, as 8-bit images where these are what leaves the source; the noise of a plan is measured over
        all of them.
    build : str | Path
        Folder for the parts; each plan's also gets ``terms.csv``, predicted beside measured for every term.
    repeats, warm_up : int, optional
        Requests that count, and those before them that do not, at most (the thesis: 25 and 10); they end as those of
        `latency_test`, once every image was sent.
    results : str | Path | None, optional
        CSV that gets rows as soon as they are there; those that it holds of the same plans and times are kept.
    time_dilation : float | None, optional
        See `testbed`.
    progress : bool, default True
        Show a progress bar.
    confidence : float | None, optional
        Of the limits, as for `split`.
    **asked : Any
        Other arguments of `split`: source_forms, pins, method, ... Pinning all layers runs a baseline.

    Returns
    -------
    pd.DataFrame
        One row per plan: topology, max_noise, predicted_s, latency_s (median), low_s, high_s (5th and 95th percentile) [s],
        error_% of the prediction, noise and noise_upper (of the plan), output_noise (rho of what the deployment returned),
        output_difference (greatest, relative, from the model with the same layers in int8 as its noise is measured), servers,
        source_form, parts, int8_layers, repeats, plan_id.

    Raises
    ------
    DeployError
        What a deployment returned has not the noise of its plan's scheme on the same images, or, where these are the images that
        the plan's noise was measured on, not the plan's noise, to 1 %. The rows before it are in `results`.
    """
    feeds = feeds_of(graph.model, images)
    run = (graph.model.sha256, images_sha256(feeds), times.slowdown, repeats, warm_up, time_dilation)
    jobs = []
    for name, network in networks.items():
        for limit in max_noise:
            # what servers do at a cut is in the plan, but not emulated: they really do it
            plan = split(graph, network, times, noise, max_noise=limit, confidence=confidence, **asked)
            decided = plan.frame.to_csv(), sorted(plan.forms.items()), plan.latency_s, plan.noise
            what = (*decided, network.frame.to_csv(), name, run)
            jobs.append(_Job(name, limit, network, plan, Path(build) / f"{name}-{limit:g}", sha256(repr(what))[:16]))
    way_out = "is scaled from this machine; profile it (dnnsplit.profile)"
    lost = dict.fromkeys(server for job in jobs for server in job.stages if server not in times.slowdown)
    raise_problems(DeployError, "latency test", [f"the times do not say how {server!r} {way_out}" for server in lost])
    done = _finished(results)
    left = list({job.identity: job for job in reversed(jobs) if job.identity not in done}.values())[::-1]
    tensors = sum(tensor.size_bytes for tensor in graph.tensors)
    with tqdm(total=len(left), desc="latency test", unit="plan", disable=not progress) as bar:
        for together in _side_by_side(left, times.slowdown, time_dilation, tensors):
            bar.set_postfix_str(", ".join(f"{job.topology}, noise <= {job.max_noise:g}" for job in together))
            rows = _measured(graph, together, times.slowdown, feeds, repeats, warm_up, time_dilation)
            for job, row in zip(together, rows, strict=True):
                done[job.identity] = {"topology": job.topology, "max_noise": job.max_noise, **row, "plan_id": job.identity}
            bar.update(len(together))
            # rows finished earlier stay, wherever in the list this run is stopped
            _write(results, jobs, done)
    return _write(results, jobs, done)


@dataclass(frozen=True)
class _Job:
    """A plan that is to be run."""

    topology: str
    max_noise: float
    network: Network
    plan: Plan
    folder: Path
    identity: str

    @property
    def stages(self) -> tuple[str, ...]:
        """The servers that take part: the source always does."""
        return tuple(dict.fromkeys([self.network.source, *self.plan.servers]))

    def busy(self, slowdown: Mapping[str, float], time_dilation: float | None) -> float:
        """What share of the time its test-bed keeps one core of this machine busy; the rest is slept."""
        dilation = time_dilation or smallest_dilation({server: slowdown[server] for server in self.stages})
        cost = self.plan.cost
        spent = [*cost.compute_s.items(), *cost.codec_s.items()]
        cpu_s = math.fsum(seconds / slowdown[server] for server, seconds in spent if seconds)
        return cpu_s / (dilation * self.plan.latency_s)


def _side_by_side(
    jobs: Sequence[_Job], slowdown: Mapping[str, float], time_dilation: float | None, tensors_bytes: float
) -> Iterator[list[_Job]]:
    """Yield jobs, in their order, whose test-beds may run at the same time."""
    together: list[_Job] = []
    busy = held = 0.0
    for job in jobs:
        own_busy = job.busy(slowdown, time_dilation)
        own_held = len(job.stages) * STAGE_BYTES + tensors_bytes + sum(job.plan.cost.weight_bytes.values())
        if together and (busy + own_busy > MOST_BUSY or held + own_held > MOST_BYTES):
            yield together
            together, busy, held = [], 0.0, 0.0
        together, busy, held = [*together, job], busy + own_busy, held + own_held
    if together:
        yield together


def _write(results: str | Path | None, jobs: Sequence[_Job], done: Mapping[str, dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame([{**done[job.identity], "max_noise": job.max_noise} for job in jobs if job.identity in done])
    if results is not None:
        write_text(results, table.to_csv(index=False))
    return table


def _finished(results: str | Path | None) -> dict[str, dict[str, object]]:
    if results is None or not Path(results).exists():
        return {}
    frame = read_table(results)
    rows = frame.to_dict("records") if "plan_id" in frame else []
    return {row["plan_id"]: {str(column): value for column, value in row.items()} for row in rows}


def _measured(
    graph: LayerGraph, jobs: Sequence[_Job], slowdown: Mapping[str, float], feeds: list[Feed],
    repeats: int, warm_up: int, time_dilation: float | None,
) -> list[dict[str, object]]:  # fmt: skip
    """Cut some plans, then run all of them at the same time; return their rows."""
    bundles = [cut(graph, job.plan, job.folder, images=feeds[0]) for job in jobs]

    def ask(client: Client, bundle: Bundle, wait_s: float) -> list[tuple[Feed, Trace]]:
        time.sleep(wait_s)
        return list(requests(client, [handed_over(bundle, feed) for feed in feeds], repeats, warm_up))

    # test-beds that end let go of the threads that wait for their answers
    with ThreadPoolExecutor(len(jobs)) as pool, ExitStack() as stack:
        clients = []
        for job, bundle in zip(jobs, bundles, strict=True):
            factors = {server: slowdown[server] for server in bundle.stages}
            clients.append(stack.enter_context(testbed(bundle, job.network, factors, time_dilation)))
        # they begin one after another, so that the servers that all plans begin on do not compute at the same time
        waits = [i * job.plan.latency_s / len(jobs) for i, job in enumerate(jobs)]
        asked = list(pool.map(ask, clients, bundles, waits))
    return [_row(graph, job.plan, bundle, feeds, found) for job, bundle, found in zip(jobs, bundles, asked, strict=True)]


def handed_over(bundle: Bundle, feed: Feed) -> Feed:
    """Return the inputs as a source with a camera has them: as 8-bit images where that is what leaves it."""
    images = bundle.leave_as_images
    return {name: bundle.pixels[name].steps(array, exact=True) if name in images else array for name, array in feed.items()}


def _row(
    graph: LayerGraph, plan: Plan, bundle: Bundle, feeds: list[Feed], asked: Sequence[tuple[Feed, Trace]]
) -> dict[str, object]:
    test = LatencyTest(np.array([trace.latency_s for _, trace in asked]), tuple(trace for _, trace in asked))
    noise, difference = _compare(graph, plan, bundle, feeds, [answer for answer, _ in asked[: len(feeds)]])
    write_text(bundle.folder / "terms.csv", compare(test, bundle).to_csv(index=False))
    low, high = test.spread_s
    return {
        "predicted_s": plan.latency_s,
        "latency_s": test.median_s,
        "low_s": low,
        "high_s": high,
        "error_%": 100.0 * (plan.latency_s / test.median_s - 1.0),
        "noise": plan.noise,
        "noise_upper": plan.noise_upper,
        "output_noise": noise,
        "output_difference": difference,
        "servers": "+".join(plan.servers),
        "source_form": plan.source_form,
        "parts": len(bundle.parts),
        "int8_layers": len(plan.quantized),
        "repeats": len(asked),
    }


def _compare(graph: LayerGraph, plan: Plan, bundle: Bundle, feeds: list[Feed], answers: list[Feed]) -> tuple[float, float]:
    """Return rho of the answers against the float32 model, and their greatest relative difference from the same int8 model.

    That model gets inputs as their forms leave them; where forms of other tensors lose something, it is the parts, run here.
    """
    int8 = [name for name in graph.topological if name in plan.quantized]
    tree = build_tree(graph, int8, calibration_of(plan))
    found, wanted, sizes, worst = [], [], [], 0.0
    for feed, answer in zip(feeds, answers, strict=False):
        scheme = np.ones((1, len(int8)), np.int8)
        plain, same = tree.walk(feed, scheme)
        if bundle.lossy_wires:
            outputs = run_parts(bundle, feed)
            same = [outputs[name] for name in tree.outputs]
        elif bundle.lossy_inputs:
            _, same = tree.walk(received(bundle, feed), scheme)
        found.append(np.mean([absolute(answer[n], p).mean() for n, p in zip(tree.outputs, plain, strict=True)]))
        wanted.append(np.mean([absolute(o, p).mean() for o, p in zip(same, plain, strict=True)]))
        sizes.append(np.mean([magnitude(p).mean() for p in plain]))
        for name, one in zip(tree.outputs, same, strict=True):
            worst = max(worst, float(absolute(answer[name], one).max() / max(magnitude(one).max(), TINY)))
    rho, expected = float(np.mean(found)), {"its scheme has on these images": float(np.mean(wanted))}
    there = plan.origin.get("images_sha256") == images_sha256(feeds) and "again" not in plan.origin
    if there and len(answers) >= len(feeds) and plan.noise_kind == "measured":
        expected["it was planned with"] = plan.noise
    rounding = ROUNDING * float(np.mean(sizes))
    off = [f"{what} {eta:.6g}" for what, eta in expected.items() if not abs(rho - eta) <= OF_NOISE * eta + rounding]
    raise_problems(DeployError, f"the noise of what the deployment returned is {rho:.6g}", off)
    return rho, worst
