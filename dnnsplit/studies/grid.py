"""Plans over a grid of noise limits, bandwidths and topologies: one exact front answers all limits at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.partitions import components
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import InfeasibleError, NetworkError, OptionError, raise_problems
from dnnsplit.ground.keywords import named
from dnnsplit.ground.tolerance import within
from dnnsplit.ground.units import is_number, parse
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel, PowerSum, Table
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.front import pareto
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.split import split

COLUMNS = ("noise", "latency_s", "energy_j", "device_energy_j", "objective", "latency_norm", "energy_norm")
WEIGHTS = ("latency_weight", "energy_weight")


@named(pareto)
def sweep_plans(
    graph: LayerGraph,
    networks: Mapping[str, Network],
    times: LayerTimes,
    noise: NoiseModel,
    *,
    max_noise: Sequence[float],
    bandwidths: Sequence[float | str] = (),
    links: Sequence[tuple[str, str]] | None = None,
    weights: Sequence[float | Sequence[float]] = ((1.0, 0.0),),
    max_device_energy_j: Sequence[float | None] = (None,),
    normalise: str = "limited",
    **asked: Any,
) -> pd.DataFrame:
    """Return the optimal plan at every point of a grid.

    All noise limits are read off one front (`pareto`) where they can be: without a limit on energy, and where the objective
    is the same at all of them. Else each point is solved (`split`).

    Parameters
    ----------
    graph : LayerGraph
        As for `split`.
    networks : Mapping[str, Network]
        By the name of the topology.
    times, noise : LayerTimes, NoiseModel
        As for `split`.
    max_noise : Sequence[float]
        Noise limits.
    bandwidths : Sequence[float | str], default ()
        Of `links` [B/s], or as people write them; none: those of the networks.
    links : Sequence[tuple[str, str]] | None, optional
        (source, target) whose bandwidth is varied, where a topology has them; default: those that leave its source.
    weights : Sequence[float | Sequence[float]], default ((1.0, 0.0),)
        As for `weight_pairs`.
    max_device_energy_j : Sequence[float | None], default (None,)
        Limits on the device's energy [J]; None is no limit.
    normalise : str, default "limited"
        Of the sum of latency and energy, at each point under its own limits ("limited") or at all by the same payoffs ("fixed"),
        see `split`.
    **asked : Any
        What `split` and `pareto` both take: pins, forbid, colocate, forbid_links, source_forms, wire_forms, confidence.

    Returns
    -------
    pd.DataFrame
        One row per point: topology, bandwidth_bytes_per_s (NaN: as in the network) [B/s], latency_weight, energy_weight,
        max_device_energy_j [J], max_noise, status ("optimal", "feasible" or "infeasible"), noise, latency_s [s], energy_j [J],
        device_energy_j [J], objective, latency_norm, energy_norm (of a normalised sum), servers, int8 (count), quantized (names),
        source_form (in which the input is sent); of every server of any topology layers_<server>, int8_<server>, parts_<server>:
        how many layers run there, how many of them in int8, and in how many parts (NaN where the topology has not the server);
        solve_s, the CPU seconds until the plan was there, of one pass where all limits are read off a front [s].
        Figures of infeasible points are NaN.

    Raises
    ------
    OptionError, NetworkError
        An empty axis, a weight that is none, or a link that is in no topology.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> planned = ds.sweep_plans(graph, {"tiny": network}, times, noise, max_noise=[0.0, 0.05])
    >>> planned[["topology", "max_noise", "latency_s", "servers"]]
      topology  max_noise  latency_s      servers
    0     tiny       0.00     0.3382  device+edge
    1     tiny       0.05     0.2182  device+edge
    """
    check_arguments(sweep_plans, locals())
    refuse_weights("sweep_plans", asked)
    axes = {"networks": networks, "max_noise": max_noise, "weights": weights, "max_device_energy_j": max_device_energy_j}
    empty = [f"{name} is empty; give at least one" for name, axis in axes.items() if len(axis) == 0]
    raise_problems(OptionError, "sweep_plans", empty)
    known = [(link.source, link.target) for network in networks.values() for link in network.links]
    lost = [f"no topology has the link {a} -> {b}" for a, b in (() if links is None else links) if (a, b) not in known]
    raise_problems(NetworkError, "sweep_plans", lost)
    pairs = weight_pairs(weights)
    rows, servers = [], list(dict.fromkeys(name for network in networks.values() for name in network.server_names))
    counted = dict.fromkeys(name for server in servers for name in _counts(server))
    speeds: list[float | None] = [parse(b, "bandwidth") for b in bandwidths] or [None]
    for (topology, network), speed, (latency, energy), device_j in itertools.product(
        networks.items(), speeds, pairs, max_device_energy_j
    ):
        varied = network if speed is None else at_bandwidth(network, speed, links)
        weights_here = dict(zip(WEIGHTS, (latency, energy), strict=True))
        point = {"topology": topology, "bandwidth_bytes_per_s": speed, **weights_here, "max_device_energy_j": device_j}
        weighted: dict[str, Any] = {**weights_here, **asked}
        alike = device_j is None and (normalise == "fixed" or 0 in (latency, energy))
        front = pareto(graph, varied, times, noise, **weighted) if alike else None
        for limit in max_noise:
            try:
                if front:
                    plan = front.at(limit)
                else:
                    limits: dict[str, Any] = {"max_noise": limit, "max_device_energy_j": device_j, "normalise": normalise}
                    plan = split(graph, varied, times, noise, **limits, **weighted)
            except InfeasibleError:
                plan = None
            placed = {} if plan is None else placement_counts(graph, plan, varied.server_names)
            solve_s = None if plan is None else plan.solve_s
            rows.append({**point, "max_noise": limit, **_figures(plan), **counted, **placed, "solve_s": solve_s})
    floats = ("bandwidth_bytes_per_s", "max_device_energy_j", *counted, "solve_s")
    frame = pd.DataFrame(rows).astype(dict.fromkeys(floats, float))
    joules = dict.fromkeys(("max_device_energy_j", "energy_j", "device_energy_j"), "J")
    frame.attrs["units"] = {"bandwidth_bytes_per_s": "B/s", "latency_s": "s", "solve_s": "s", **joules}
    return frame


def weight_pairs(weights: Sequence[float | Sequence[float]]) -> list[tuple[float, float]]:
    """Return pairs (latency_weight, energy_weight).

    Parameters
    ----------
    weights : Sequence[float | Sequence[float]]
        Each a number from 0 to 1, the weight of the latency, where the energy has the rest; or a pair.

    Returns
    -------
    list[tuple[float, float]]

    Raises
    ------
    OptionError
        None at all, or some that are neither; all of them at once.

    Examples
    --------
    >>> weight_pairs([1, 0.5, (0.2, 0.6)])
    [(1.0, 0.0), (0.5, 0.5), (0.2, 0.6)]
    """
    if isinstance(weights, str) or not isinstance(weights, Iterable):
        message = f"weights is {weights!r}; give a list, such as [1.0, 0.5, 0.0]"
        raise OptionError(message)
    pairs, problems = [], []
    for given in weights:
        pair = (given, 1 - given) if is_number(given) else tuple(given) if isinstance(given, list | tuple) else ()
        if len(pair) == 2 and all(is_number(one) and 0 <= one < math.inf for one in pair) and any(pair):
            pairs.append((float(pair[0]), float(pair[1])))
        else:
            problems.append(f"{given!r} is no weight; give a number from 0 to 1, or a pair of numbers that are not both 0")
    raise_problems(OptionError, "weights", problems if pairs or problems else ["there is none; give at least one"])
    return pairs


def refuse_weights(called: str, asked: Mapping[str, object]) -> None:
    """Raise an `OptionError` where a single weight is given beside `weights`."""
    given = [f"{name}={asked[name]!r}" for name in WEIGHTS if name in asked]
    way_out = "is not taken; give weights=[(latency_weight, energy_weight)]"
    raise_problems(OptionError, called, [f"{one} {way_out}" for one in given])


def placement_counts(graph: LayerGraph, plan: Plan, servers: Iterable[str]) -> dict[str, int]:
    """Return how many layers run on each server, how many of those in int8, and in how many parts."""
    parts = [plan.assignment[names[0]] for names in components(graph, plan.assignment)]
    layers, int8 = [*plan.assignment.values()], [plan.assignment[name] for name in plan.quantized]
    places = (layers, int8, parts)
    return {name: on.count(server) for server in servers for name, on in zip(_counts(server), places, strict=True)}


def _counts(server: str) -> tuple[str, str, str]:
    return f"layers_{server}", f"int8_{server}", f"parts_{server}"


@named()
def single_servers(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None = None,
    *,
    max_noise: float | None = None,
    confidence: float | None = None,
    source_forms: str | Sequence[str] | None = None,
    wire_forms: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return what the whole model costs in float32 on each server alone: the baselines that a practitioner would use.

    The input is sent in the form that makes it fastest, so a server has a row for each form that is the best one at some limit
    on the noise: its front. The last row of a server is its best at `max_noise`.

    Parameters
    ----------
    graph, network, times : LayerGraph, Network, LayerTimes
        As for `split`.
    noise : NoiseModel | None, optional
        Which knows the noise of lossy forms of the input; without it there are only lossless ones.
    max_noise : float | None, optional
        Forms that make more noise are left out; None means no limit.
    confidence : float | None, optional
        As for `split`: the limit is then kept by the upper confidence bound of the noise.
    source_forms, wire_forms : str | Sequence[str] | None, optional
        As for `split`; ``source_forms=("float32",)`` gives the baselines of the slides.

    Returns
    -------
    pd.DataFrame
        server, source_form, noise, noise_upper (with a confidence), latency_s [s], energy_j [J], device_energy_j [J]; by server
        ascending in the noise and strictly descending in the latency. NaN where the server cannot be reached or used.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.single_servers(*ds.examples.tiny())[["server", "latency_s", "energy_j"]]
       server  latency_s  energy_j
    0  device     0.4700   1.36300
    1    edge     0.4382   1.95986
    """
    check_arguments(single_servers, locals())
    free = replace(network, servers=tuple(replace(server, memory_bytes=None) for server in network.servers))
    float32, most = _unquantized(noise), math.inf if max_noise is None else max_noise
    asked: dict[str, Any] = {"confidence": confidence, "source_forms": source_forms, "wire_forms": wire_forms}
    columns = ["source_form", "noise", "latency_s", "energy_j", "device_energy_j"]
    columns[2:2] = ["noise_upper"] * (confidence is not None)
    rows = []
    for server in network.servers:
        try:
            plans = pareto(graph, free, times, float32, pins=dict.fromkeys(graph.layer_names, server.name), **asked).plans
        except InfeasibleError:
            plans = ()
        room = math.inf if server.memory_bytes is None else server.memory_bytes
        fit = [p for p in plans if within(p.limited_noise, most) and within(p.cost.weight_bytes[server.name], room)]
        rows += [{"server": server.name} | {name: getattr(plan, name) for name in columns} for plan in fit]
        if not fit:
            rows.append({"server": server.name, "source_form": ""})
    frame = pd.DataFrame(rows, columns=["server", *columns])
    frame.attrs["units"] = {"latency_s": "s", "energy_j": "J", "device_energy_j": "J"}
    return frame


def _unquantized(noise: NoiseModel | None) -> NoiseModel:
    """Return the noise of lossy forms of the input alone."""
    if noise is None:
        return Table((), {0: 0.0})
    sources: dict[str, NoiseModel] = {}
    for form, model in noise.sources.items():
        spread = model.spread if isinstance(model, PowerSum) else model.spread.get(0) if isinstance(model, Table) else None
        sources[form] = Table((), {0: model.floor}, {} if spread is None else {0: spread})
    return Table((), {0: 0.0}, sources=sources, origin=noise.origin)


def at_bandwidth(network: Network, bandwidth: float, links: Sequence[tuple[str, str]] | None) -> Network:
    """Return the network with another bandwidth of some links; by default of those that leave the source."""
    meant = {(n.source, n.target) for n in network.links if n.source == network.source != n.target} if links is None else links
    return network.with_bandwidths(dict.fromkeys(meant, bandwidth))


def _figures(plan: Plan | None) -> dict[str, Any]:
    if plan is None:
        return (
            {"status": "infeasible"} | dict.fromkeys(COLUMNS) | {"servers": "", "int8": None, "quantized": "", "source_form": ""}
        )
    figures = {name: getattr(plan, name) for name in COLUMNS}
    names = {"servers": "+".join(plan.servers), "int8": len(plan.quantized), "quantized": " ".join(plan.quantized)}
    return {"status": plan.status} | figures | names | {"source_form": plan.source_form}
