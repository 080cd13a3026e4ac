"""What is best at which bandwidth and noise limit: one server, and which, or a split; and in which form the input is sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError, raise_problems
from dnnsplit.ground.keywords import named
from dnnsplit.ground.tolerance import within
from dnnsplit.ground.units import parse
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.front import pareto
from dnnsplit.solving.plan import Plan
from dnnsplit.studies.grid import at_bandwidth, single_servers
from dnnsplit.studies.inquiry import Ends, check_links

SPLIT = "split"  # what is best where no one server is
BANDWIDTHS = tuple(float(f"{b:.2g}") for b in np.geomspace(1e5, 1e8, 19))


@named()
def regimes(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel,
    *,
    max_noise: Sequence[float],
    bandwidths: Sequence[float | str] = BANDWIDTHS,
    links: Sequence[Ends] | None = None,
    confidence: float | None = None,
    source_forms: str | Sequence[str] | None = None,
    wire_forms: str | Sequence[str] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Return where a split pays: the fastest plan, and what it gains over the best server alone, by bandwidth and noise limit.

    One front per bandwidth answers all limits. The server alone runs all layers in float32 and gets the input in the form that
    makes it fastest, as `single_servers` tells. Such a plan is among those that the front is the best of, so the gain is never
    below 0.

    Parameters
    ----------
    graph, network, times, noise : LayerGraph, Network, LayerTimes, NoiseModel
        As for `pareto`.
    max_noise : Sequence[float]
        Noise limits.
    bandwidths : Sequence[float | str], optional
        Of `links` [B/s], or as people write them; default: 19 from 100 kB/s to 100 MB/s.
    links : Sequence[Ends] | None, optional
        (source, target) whose bandwidth is varied; default: those that leave the source.
    confidence : float | None, optional
        As for `pareto`.
    source_forms, wire_forms : str | Sequence[str] | None, optional
        As for `pareto`, of the best plan and of the servers alone.
    progress : bool, default True
        Show a bar.

    Returns
    -------
    pd.DataFrame
        One row per bandwidth and limit: bandwidth_bytes_per_s [B/s], max_noise, best (a server, or "split"), servers,
        source_form (empty: the input stays at the source), int8 (count), noise, latency_s [s], alone (the best server alone;
        empty: none keeps the limits), alone_form, alone_s [s], gain (1 - latency_s / alone_s).

    Raises
    ------
    OptionError
        No bandwidths, or no limits on the noise; a limit on memory that cuts the front.
    NetworkError
        There is no such link.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> table = ds.regimes(*ds.examples.tiny(), max_noise=[0.05], bandwidths=["100 kB/s", "10 MB/s"], progress=False)
    >>> table[["bandwidth_bytes_per_s", "best", "latency_s", "alone"]]
       bandwidth_bytes_per_s    best  latency_s   alone
    0               100000.0  device     0.3500  device
    1             10000000.0   split     0.2082    edge
    """
    check_arguments(regimes, locals())
    empty = [name for name, axis in (("max_noise", max_noise), ("bandwidths", bandwidths)) if len(axis) == 0]
    raise_problems(OptionError, "regimes", [f"{name} is empty; give at least one" for name in empty])
    links = None if links is None else check_links(network, links)
    asked: dict[str, Any] = {"confidence": confidence, "source_forms": source_forms, "wire_forms": wire_forms}
    rows = []
    for speed in tqdm([parse(b, "bandwidth") for b in bandwidths], desc="bandwidths", disable=not progress):
        there = at_bandwidth(network, speed, links)
        front = pareto(graph, there, times, noise, progress=False, **asked)
        alone = single_servers(graph, there, times, noise, **asked)
        limited = alone["noise" if confidence is None else "noise_upper"]
        for limit in max_noise:
            plan, point = front.at(limit), {"bandwidth_bytes_per_s": speed, "max_noise": limit}
            rows.append(point | _told(plan, graph) | _gain(plan, alone[within(limited, limit)]))
    frame = pd.DataFrame(rows)
    frame.attrs["units"] = {"bandwidth_bytes_per_s": "B/s", "latency_s": "s", "alone_s": "s"}
    return frame


def _told(plan: Plan, graph: LayerGraph) -> dict[str, Any]:
    inputs = {tensor.name for tensor in graph.tensors if tensor.producer is None}
    form = plan.source_form if any(t.tensor in inputs and t.source != t.target for t in plan.transfers) else ""
    figures = {"source_form": form, "int8": len(plan.quantized), "noise": plan.noise, "latency_s": plan.latency_s}
    return {"best": plan.servers[0] if len(plan.servers) == 1 else SPLIT, "servers": "+".join(plan.servers)} | figures


def _gain(plan: Plan, alone: pd.DataFrame) -> dict[str, Any]:
    """Tell the best server alone, and how much faster the plan is."""
    if alone.empty:
        return {"alone": "", "alone_form": "", "alone_s": math.nan, "gain": math.nan}
    best = alone.sort_values("latency_s").iloc[0]
    gain = 1.0 - plan.latency_s / best["latency_s"]
    form = "" if best["server"] == plan.source else best["source_form"]
    return {"alone": best["server"], "alone_form": form, "alone_s": best["latency_s"], "gain": gain}
