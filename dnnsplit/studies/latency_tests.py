"""The thesis' latency test: every plan of some noise limits and topologies is cut, run on a test-bed, and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.cutting.cut import OF_NOISE, calibration_of, cut
from dnnsplit.deployment.testbed.comparison import compare
from dnnsplit.deployment.testbed.testbed import LatencyTest, testbed
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


@named()
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
) -> pd.DataFrame:
    """Plan, cut, run and measure, for every topology and noise limit.

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
        Requests carry them in turn; the noise of a plan is measured over all of them.
    build : str | Path
        Folder for the parts; each plan's also gets ``terms.csv``, predicted beside measured for every term.
    repeats, warm_up : int, optional
        Requests that count, and those before them that do not (the thesis: 25 and 10).
    results : str | Path | None, optional
        CSV that gets each row as soon as it is there; rows that it holds of the same plans and times are kept.
    time_dilation : float | None, optional
        See `testbed`.
    progress : bool, default True
        Show a progress bar.
    confidence : float | None, optional
        Of the limits, as for `split`.

    Returns
    -------
    pd.DataFrame
        One row per plan: topology, max_noise, predicted_s, latency_s (median), low_s, high_s (5th and 95th percentile) [s],
        error_% of the prediction, noise and noise_upper (of the plan), output_noise (rho of what the deployment returned),
        output_difference (greatest, relative, from the model with the same layers in int8 as its noise is measured), servers,
        parts, int8_layers, repeats, plan_id.

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
            plan = split(graph, network, times, noise, max_noise=limit, confidence=confidence)
            what = (plan.frame.to_csv(), plan.latency_s, plan.noise, network.frame.to_csv(), name, run)
            jobs.append((name, limit, plan, sha256(repr(what))[:16]))
    done, table = _finished(results), pd.DataFrame()
    with tqdm(total=len(jobs), desc="latency test", unit="plan", disable=not progress) as bar:
        for name, limit, plan, identity in jobs:
            bar.set_postfix_str(f"{name}, noise <= {limit:g}")
            if identity not in done:
                folder = Path(build) / f"{name}-{limit:g}"
                row = _one(graph, networks[name], times, plan, feeds, folder, repeats, warm_up, time_dilation)
                done[identity] = {"topology": name, "max_noise": limit, **row, "plan_id": identity}
            bar.update()
            # rows finished earlier stay, wherever in the list this run is stopped
            table = pd.DataFrame([{**done[i], "max_noise": most} for _, most, _, i in jobs if i in done])
            if results is not None:
                write_text(results, table.to_csv(index=False))
    return table


def _finished(results: str | Path | None) -> dict[str, dict[str, object]]:
    if results is None or not Path(results).exists():
        return {}
    frame = read_table(results)
    rows = frame.to_dict("records") if "plan_id" in frame else []
    return {row["plan_id"]: {str(column): value for column, value in row.items()} for row in rows}


def _one(
    graph: LayerGraph, network: Network, times: LayerTimes, plan: Plan, feeds: list[Feed], build: Path,
    repeats: int, warm_up: int, time_dilation: float | None,
) -> dict[str, object]:  # fmt: skip
    bundle = cut(graph, plan, build, images=feeds[0])
    slowdown = {server: times.slowdown[server] for server in bundle.stages if server in times.slowdown}
    if missing := [server for server in bundle.stages if server not in slowdown]:
        message = f"the times do not say how {missing[0]!r} is scaled from this machine; profile it (dnnsplit.profile)"
        raise DeployError(message)
    answers, traces = [], []
    with testbed(bundle, network, slowdown, time_dilation) as client:
        for i in range(-warm_up, repeats):
            outputs, trace = client.trace(feeds[i % len(feeds)])
            if i >= 0:
                traces.append(trace)
            if 0 <= i < len(feeds):
                answers.append(outputs)
    test = LatencyTest(np.array([t.latency_s for t in traces]), tuple(traces))
    noise, difference = _compare(graph, plan, feeds, answers)
    write_text(build / "terms.csv", compare(test, bundle).to_csv(index=False))
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
        "parts": len(bundle.parts),
        "int8_layers": len(plan.quantized),
        "repeats": repeats,
    }


def _compare(graph: LayerGraph, plan: Plan, feeds: list[Feed], answers: list[Feed]) -> tuple[float, float]:
    """Return rho of the answers against the float32 model, and their greatest relative difference from the same int8 model."""
    int8 = [name for name in graph.topological if name in plan.quantized]
    tree = build_tree(graph, int8, calibration_of(plan))
    found, wanted, sizes, worst = [], [], [], 0.0
    for feed, answer in zip(feeds, answers, strict=False):
        plain, same = tree.walk(feed, np.ones((1, len(int8)), np.int8))
        outputs = [answer[name] for name in tree.outputs]
        found.append(np.mean([absolute(o, p).mean() for o, p in zip(outputs, plain, strict=True)]))
        wanted.append(np.mean([absolute(o, p).mean() for o, p in zip(same, plain, strict=True)]))
        sizes.append(np.mean([magnitude(p).mean() for p in plain]))
        for output, one in zip(outputs, same, strict=True):
            worst = max(worst, float(absolute(output, one).max() / max(magnitude(one).max(), TINY)))
    rho, expected = float(np.mean(found)), {"its scheme has on these images": float(np.mean(wanted))}
    there = plan.origin.get("images_sha256") == images_sha256(feeds) and "again" not in plan.origin
    if there and len(answers) >= len(feeds) and plan.noise_kind == "measured":
        expected["it was planned with"] = plan.noise
    rounding = ROUNDING * float(np.mean(sizes))
    off = [f"{what} {eta:.6g}" for what, eta in expected.items() if not abs(rho - eta) <= OF_NOISE * eta + rounding]
    raise_problems(DeployError, f"the noise of what the deployment returned is {rho:.6g}", off)
    return rho, worst
