"""At which bandwidths of a link the optimal plan changes: every breakpoint, not a grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import InfeasibleError, NetworkError, OptionError, SolverError
from dnnsplit.ground.keywords import named
from dnnsplit.ground.markup import shown
from dnnsplit.ground.units import parse, show
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.profiling.overhead import priced
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.arrays import Weights, energy_weights, latency_weights
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question
from dnnsplit.solving.split import answer, split
from dnnsplit.studies.inquiry import Ends, check_links, crossing_bytes, inquire

TIE = 1e-12  # a plan must be better by this share of the objective to open an interval of its own


@dataclass(frozen=True)
class Line:
    """What a plan is worth at every bandwidth b of the links: ``fixed + per_bandwidth / b``.

    Attributes
    ----------
    plan : Plan
        Priced at a bandwidth where it is optimal.
    objective, latency_s, energy_j : tuple[float, float]
        (fixed, per_bandwidth) of each; the objective without the constant of a normalised sum.
    """

    plan: Plan
    objective: tuple[float, float]
    latency_s: tuple[float, float]
    energy_j: tuple[float, float]

    def of(self, what: str, bandwidth: float) -> float:
        """Return the "objective", the "latency_s" [s] or the "energy_j" [J] at a bandwidth [B/s]."""
        line: tuple[float, float] = getattr(self, what)
        return line[0] + line[1] / bandwidth


@dataclass(frozen=True)
class BandwidthPlans:
    """The optimal plan at every bandwidth of a link.

    Attributes
    ----------
    links : tuple[Ends, ...]
        (source, target) of the links whose bandwidth is meant.
    breakpoints : tuple[float, ...]
        Bandwidths where the plan changes, with both ends of the range, ascending [B/s].
    lines : tuple[Line, ...]
        One per interval between two breakpoints.
    objective_name : str
        What is minimised.
    """

    links: tuple[Ends, ...]
    breakpoints: tuple[float, ...]
    lines: tuple[Line, ...] = field(repr=False)
    objective_name: str = "latency_s"

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of each interval, priced at a bandwidth of the interval."""
        return tuple(line.plan for line in self.lines)

    def line(self, bandwidth: float | str) -> Line:
        """Return the line of the optimal plan at a bandwidth [B/s], or as people write it."""
        check_arguments(BandwidthPlans.line, locals())
        low, high = self.breakpoints[0], self.breakpoints[-1]
        value = parse(bandwidth, "bandwidth")
        if not low <= value <= high:
            message = f"bandwidth {show(value, 'B/s')} is outside {show(low, 'B/s')} to {show(high, 'B/s')}"
            raise OptionError(message)
        return next(line for line, end in zip(self.lines, self.breakpoints[1:], strict=True) if value <= end)

    def at(self, bandwidth: float | str) -> Plan:
        """Return the optimal plan at a bandwidth [B/s], or as people write it; it is priced at a bandwidth of its interval."""
        check_arguments(BandwidthPlans.at, locals())
        return self.line(bandwidth).plan

    @property
    def frame(self) -> pd.DataFrame:
        """One row per interval: its ends [B/s], latency [s] and energy [J] at both, what crosses [B], and how the plan runs."""
        rows = []
        for line, low, high in zip(self.lines, self.breakpoints, self.breakpoints[1:], strict=False):
            row: dict[str, Any] = {"from_bytes_per_s": low, "to_bytes_per_s": high}
            for what in ("latency_s", "energy_j"):
                row |= {f"from_{what}": line.of(what, low), f"to_{what}": line.of(what, high)}
            row |= {"crossing_bytes": crossing_bytes(line.plan, self.links), "servers": "+".join(line.plan.servers)}
            rows.append(row | {"int8": len(line.plan.quantized), "noise": line.plan.noise, "source_form": line.plan.source_form})
        frame = pd.DataFrame(rows)
        units = {"_bytes_per_s": "B/s", "_latency_s": "s", "_energy_j": "J", "_bytes": "B"}
        frame.attrs["units"] = {c: unit for ending, unit in units.items() for c in frame if str(c).endswith(ending)}
        return frame

    def __str__(self) -> str:
        where = " and ".join(f"{a} -> {b}" for a, b in self.links)
        lines = [f"{len(self.lines)} optimal plan{'s' * (len(self.lines) > 1)} for the bandwidth of {where}"]
        for row in self.frame.to_dict("records"):
            ends = f"{show(row['from_bytes_per_s'], 'B/s')} to {show(row['to_bytes_per_s'], 'B/s')}"
            latency = f"latency {show(row['from_latency_s'], 's')} to {show(row['to_latency_s'], 's')}"
            sends = f"{row['servers']}, {row['int8']} in int8, sends {show(row['crossing_bytes'], 'B')}"
            sends += f", the input as {row['source_form']}" if row["source_form"] != PLAIN else ""
            lines.append(f"  {ends}: {sends}; {latency}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return shown(str(self).splitlines()[0], self.frame)


@named(split)
def bandwidths(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None = None,
    *,
    max_noise: float | None = None,
    link: tuple[str, str] | Sequence[tuple[str, str]] = ("device", "edge"),
    low: float | str = "100 kB/s",
    high: float | str = "100 MB/s",
    both_ways: bool = False,
    **asked: Any,
) -> BandwidthPlans:
    """Return the optimal plan at every bandwidth of a link, with the exact bandwidths where it changes.

    What a plan is worth is linear in 1 / bandwidth (writing a tensor in another form takes as long at every bandwidth, and a
    power of sending that grows with the rate adds the same energy per byte), so the optimum is a concave, piecewise linear
    function of it: from the plans of both ends, solve where their lines cross, until no better plan is found there (Eisner and
    Severance, J. ACM 23, 1976). That takes at most two solves per interval.

    Parameters
    ----------
    graph, network, times, noise, max_noise : LayerGraph, Network, LayerTimes, NoiseModel | None, float | None
        As for `split`.
    link : tuple[str, str] | Sequence[tuple[str, str]], default ("device", "edge")
        (source, target), or several of them that share one bandwidth; what it is in the network does not matter.
    low, high : float | str, optional
        Ends of the range [B/s], or as people write them; high may be infinite.
    both_ways : bool, default False
        The link back has the same bandwidth.
    **asked : Any
        Other arguments of `split`. A normalised sum keeps the reference of the network as given, at every bandwidth.

    Raises
    ------
    NetworkError
        There is no such link.
    OptionError
        An empty range; a limit on energy, which allows other plans at other bandwidths; throughput as the objective.
    InfeasibleError
        No plan keeps the limits.
    SolverError
        A plan was not proved optimal.
    """
    check_arguments(bandwidths, locals())
    links = _links(network, link, both_ways)
    ends = parse(low, "bandwidth"), parse(high, "bandwidth")
    if not 0 < ends[0] < ends[1]:
        message = f"the range of bandwidths is {low!r} to {high!r}; give low above 0 and below high"
        raise OptionError(message)
    limits = [name for name in ("max_device_energy_j", "max_energy_j") if asked.get(name) is not None]
    if limits:
        way_out = "call split at each bandwidth, or minimise energy instead (latency_weight, energy_weight)"
        message = f"with {limits[0]} other plans are allowed at each bandwidth, and breakpoints are not exact; {way_out}"
        raise OptionError(message)
    question, effort = inquire(graph, network, times, noise, {"max_noise": max_noise, **asked})
    if question.objective.bottleneck:
        message = "the slowest stage is not linear in 1 / bandwidth; bandwidths are for latency, energy or their sum"
        raise OptionError(message)
    weights = (question.objective.weights, latency_weights(network), energy_weights(network))
    price = affine(question, links)

    def solve(bandwidth: float) -> Line:
        plan = answer(question.again(network.with_bandwidths(dict.fromkeys(links, bandwidth))), effort)
        if plan.status != "optimal":
            at = show(bandwidth, "B/s")
            message = f"the plan at {at} was not proved optimal (gap {plan.gap:.2%}); give it more time"
            raise SolverError(message)
        prices = ((fixed, math.fsum(slopes)) for fixed, slopes in (price(plan, each) for each in weights))
        return Line(plan, *prices)

    lines, crossings = _envelope(solve, solve(ends[0]), solve(ends[1]), *ends)
    return BandwidthPlans(links, (ends[0], *crossings, ends[1]), tuple(lines), question.objective.name)


@named(split)
def sweep_bandwidths(
    graph: LayerGraph,
    networks: Mapping[str, Network],
    times: LayerTimes,
    noise: NoiseModel | None = None,
    *,
    max_noise: Sequence[float],
    ends: Sequence[float | str],
    **asked: Any,
) -> pd.DataFrame:
    """Return the exact breakpoints between the points of `dnnsplit.studies.grid.sweep_plans`, of topologies and noise limits.

    Parameters
    ----------
    graph, networks, times, noise : LayerGraph, Mapping[str, Network], LayerTimes, NoiseModel | None
        As for `sweep_plans`; the bandwidth is that of all links that leave the source.
    max_noise : Sequence[float]
        Noise limits; one that no plan keeps has no rows.
    ends : Sequence[float | str]
        Bandwidths [B/s], or as people write them: the range is from the least to the largest, and there are no rows where those
        are one.
    **asked : Any
        As for `bandwidths`.

    Returns
    -------
    pd.DataFrame
        topology, max_noise, and the columns of `BandwidthPlans.frame`; a topology whose source has no links has a row per limit.

    Examples
    --------
    >>> from dnnsplit import examples
    >>> graph, network, times, noise = examples.tiny()
    >>> asked = {"max_noise": [0.0], "ends": ["1 kB/s", "1 GB/s"]}
    >>> sweep_bandwidths(graph, {"tiny": network}, times, noise, **asked)["servers"].tolist()
    ['device', 'device+edge', 'edge']
    """
    check_arguments(sweep_bandwidths, locals())
    speeds = sorted(parse(end, "bandwidth") for end in ends)
    frames, low, high = [], speeds[0], speeds[-1]
    for (topology, network), limit in itertools.product(networks.items(), max_noise if low < high else ()):
        links = [(one.source, one.target) for one in network.links if one.source == network.source != one.target]
        given: dict[str, Any] = {"max_noise": limit, **asked}
        try:
            if links:
                found = bandwidths(graph, network, times, noise, link=links, low=low, high=high, **given)
            else:
                plan = split(graph, network, times, noise, **given)
                flat = Line(plan, (plan.objective, 0.0), (plan.latency_s, 0.0), (plan.energy_j, 0.0))
                found = BandwidthPlans((), (low, high), (flat,), plan.objective_name)
        except InfeasibleError:
            continue
        frames.append(found.frame.assign(topology=topology, max_noise=limit))
    if not frames:
        return pd.DataFrame(columns=["topology", "max_noise"])
    frame = pd.concat(frames, ignore_index=True)
    return frame[["topology", "max_noise", *frame.columns.drop(["topology", "max_noise"])]]


def _links(network: Network, link: Ends | Sequence[Ends], both_ways: bool) -> tuple[Ends, ...]:
    """Return the links that are meant, each once; refuse what is not in the network."""
    pairs: list[Any] = [link] if len(link) == 2 and all(isinstance(end, str) for end in link) else list(link)
    if not pairs:
        message = f"link {link!r} is not a link; write (source, target), or a list of them"
        raise NetworkError(message)
    return check_links(network, (way for a, b in pairs for way in (((a, b), (b, a)) if both_ways else ((a, b),))))


def affine(question: Question, links: Sequence[Ends]) -> Callable[[Plan, Weights], tuple[float, tuple[float, ...]]]:
    """Return what tells (fixed, per_bandwidth of each link): a plan is worth fixed + sum over links of per_bandwidth / bandwidth.

    All terms are added up, so that none cancels.
    """
    unlimited = priced(question.network.with_bandwidths(dict.fromkeys(links, math.inf)), question.problem.times.overhead)
    handled = {t.name: t.handled_bytes for t in question.problem.graph.tensors}
    index = unlimited.server_index

    def price(plan: Plan, weights: Weights) -> tuple[float, tuple[float, ...]]:
        swift = []
        for t in plan.transfers:
            if (t.source, t.target) in links and (link := unlimited.link(t.source, t.target)):
                t = replace(t, seconds=link.transfer_s(t.size_bytes, handled[t.tensor]))
            swift.append(t)
        slopes = tuple(float(weights.transfer[index[a], index[b]]) * crossing_bytes(plan, [(a, b)]) for a, b in links)
        return weights.of(replace(plan.cost, transfers=tuple(swift)), unlimited), slopes

    return price


def _envelope(solve: Callable[[float], Line], slow: Line, fast: Line, low: float, high: float) -> tuple[list[Line], list[float]]:
    """Return the least lines between two bandwidths and where they cross, given those that are least at the ends."""
    if slow.of("objective", high) <= fast.of("objective", high) * (1 + TIE):
        return [slow], []
    if fast.of("objective", low) <= slow.of("objective", low) * (1 + TIE):
        return [fast], []
    crossing = (fast.objective[1] - slow.objective[1]) / (slow.objective[0] - fast.objective[0])
    middle = solve(crossing)
    if middle.of("objective", crossing) >= slow.of("objective", crossing) * (1 - TIE):
        return [slow, fast], [crossing]
    below, first = _envelope(solve, slow, middle, low, crossing)
    above, then = _envelope(solve, middle, fast, crossing, high)
    return below + above[1:], first + then  # the middle line ends the one and starts the other
