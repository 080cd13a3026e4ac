"""Plans for every noise limit and many bandwidths, cut into one folder whose stages take the best one for the links of now."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.cutting.cut import cut
from dnnsplit.cutting.plan_set import PlanSet
from dnnsplit.cutting.prices import FollowedLink, Prices
from dnnsplit.graph.blocks import load
from dnnsplit.graph.feeds import Images
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError, raise_problems
from dnnsplit.ground.files import sha256
from dnnsplit.ground.keywords import named
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.ground.units import parse
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.solving.front import pareto
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.split import split
from dnnsplit.studies.bandwidths import BandwidthPlans, affine
from dnnsplit.studies.inquiry import Ends, check_links, crossing_bytes, inquire


@dataclass(frozen=True)
class AdaptivePlans:
    """Plans that are optimal for some bandwidths and some noise limit, each once, and what they are worth at any bandwidths.

    Attributes
    ----------
    plans : tuple[Plan, ...]
        Ascending in noise.
    prices : Prices
        Their objective as a function of the bandwidths.
    objective_name : str
        What is minimised.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> link, asked = ("device", "edge"), {"max_noises": [0.02], "progress": False}
    >>> plans = ds.adaptive_plans(*ds.examples.tiny(), bandwidths={link: ["10 kB/s", "10 MB/s"]}, **asked)
    >>> plans
    AdaptivePlans(2 plans up to noise 0.012; by the bandwidth of device -> edge)
    >>> plans.at({link: "10 kB/s"}).servers, plans.at({link: "10 MB/s"}).servers
    (('device',), ('device', 'edge'))
    """

    plans: tuple[Plan, ...] = field(repr=False)
    prices: Prices = field(repr=False)
    objective_name: str = "latency_s"

    @staticmethod
    def of(plans: BandwidthPlans) -> AdaptivePlans:
        """Take the plans of `bandwidths`; where several links share the bandwidth, the objective must be the latency."""
        check_arguments(AdaptivePlans.of, locals())
        if len(plans.links) > 1 and plans.objective_name != "latency_s":
            message = f"{plans.objective_name} of {len(plans.links)} links with one bandwidth; use adaptive_plans"
            raise OptionError(message)
        if len(plans.links) == 1:
            slopes: list[tuple[float, ...]] = [(line.objective[1],) for line in plans.lines]
        else:
            slopes = [tuple(crossing_bytes(line.plan, [ends]) for ends in plans.links) for line in plans.lines]
        fixed = [line.objective[0] for line in plans.lines]
        return _distinct(plans.links, plans.plans, fixed, slopes, plans.objective_name)

    def at(self, bandwidths: Mapping[Ends, float | str], max_noise: float = math.inf) -> Plan:
        """Return the best of the plans that keep a noise limit, at one bandwidth per link [B/s], or as people write it."""
        check_arguments(AdaptivePlans.at, locals())
        missing = [f"the bandwidth of {a} -> {b} is missing" for a, b in self.prices.links if (a, b) not in bandwidths]
        raise_problems(OptionError, "bandwidths", missing)
        found = self.prices.best([parse(bandwidths[ends], "bandwidth") for ends in self.prices.links], max_noise)
        return self.plans[found]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per plan: noise, objective with unlimited links, what crosses each link [B], servers, int8, source form."""
        rows = []
        for plan, fixed in zip(self.plans, self.prices.fixed, strict=True):
            sent = {f"{a} -> {b}_bytes": crossing_bytes(plan, [(a, b)]) for a, b in self.prices.links}
            row = {"noise": plan.noise, f"unlimited_{self.objective_name}": fixed} | sent
            rows.append(row | {"servers": "+".join(plan.servers), "int8": len(plan.quantized), "source_form": plan.source_form})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        ways = ", ".join(f"{a} -> {b}" for a, b in self.prices.links) or "no link"
        many = f"{len(self.plans)} plan{'s' * (len(self.plans) != 1)}"
        return folded(f"AdaptivePlans({many} up to noise {self.plans[-1].noise:.4g}; by the bandwidth of {ways})")

    def _repr_html_(self) -> str:
        return shown(self, readable(self.frame))


@named(split, pareto)
def adaptive_plans(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None,
    *,
    bandwidths: Mapping[Ends, Iterable[float | str]],
    max_noises: Sequence[float] | None = None,
    progress: bool = True,
    **asked: Any,
) -> AdaptivePlans:
    """Return the optimal plans for every combination of bandwidths, for the whole noise front or for some limits.

    Parameters
    ----------
    graph, network, times, noise : LayerGraph, Network, LayerTimes, NoiseModel | None
        As for `split`; without noise every plan is in float32.
    bandwidths : Mapping[Ends, Iterable[float | str]]
        (source, target) -> bandwidths of that link [B/s], or as people write them; other links stay as they are.
    max_noises : Sequence[float] | None, optional
        Noise limits; None takes every plan of the exact front (`pareto`).
    progress : bool, default True
        Show a bar.
    **asked : Any
        Other arguments of `pareto`, or of `split` where there are limits or no noise. A sum of latency and energy is normalised
        as with ``normalise="fixed"``, and plans are compared by the reference of the network as given.

    Returns
    -------
    AdaptivePlans
        Links on whose bandwidth no choice depends are left out.

    Raises
    ------
    NetworkError
        There is no such link.
    OptionError
        No bandwidths; throughput as the objective, which is not affine in 1 / bandwidth.
    InfeasibleError
        No plan keeps a limit.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> bandwidths = {("device", "edge"): ["10 kB/s", "1 MB/s", "10 MB/s"]}
    >>> ds.adaptive_plans(*ds.examples.tiny(), bandwidths=bandwidths, progress=False)
    AdaptivePlans(7 plans up to noise 0.037; by the bandwidth of device -> edge)
    """
    check_arguments(adaptive_plans, locals(), some=("max_noises",))
    links = check_links(network, bandwidths)
    grid = [[parse(b, "bandwidth") for b in bandwidths[ends]] for ends in links]
    if not grid or not all(grid) or not all(b > 0 for values in grid for b in values):
        message = "bandwidths: give at least one link, and for each at least one bandwidth above 0"
        raise OptionError(message)
    if noise is None and max_noises is not None:
        message = "max_noises go with a noise model; pass noise=fit_noise(samples)"
        raise OptionError(message)
    limits: list[dict[str, Any]] = [{}] if max_noises is None else [{"max_noise": limit} for limit in max_noises]
    if asked.setdefault("normalise", "fixed") != "fixed":
        message = "plans of several limits and bandwidths compare by one objective; leave normalise='fixed'"
        raise OptionError(message)
    question, _ = inquire(graph, network, times, noise, asked)
    objective = question.objective
    if objective.bottleneck:
        message = "the slowest stage is not affine in 1 / bandwidth; plans are for latency, energy or their sum"
        raise OptionError(message)
    found: list[Plan] = []
    for values in tqdm(list(itertools.product(*grid)), desc="bandwidths", disable=not progress):
        there = network.with_bandwidths(dict(zip(links, values, strict=True)))
        if noise is not None and max_noises is None:
            found += pareto(graph, there, times, noise, **{n: v for n, v in asked.items() if n != "normalise"}).plans
        else:
            found += [split(graph, there, times, noise, **limit, **asked) for limit in limits]
    price = affine(question, links)
    fixed, slopes = zip(*(price(plan, objective.weights) for plan in found), strict=True)
    return _distinct(links, found, fixed, slopes, objective.name)


def cut_plans(
    model: LayerGraph | str | Path,
    plans: AdaptivePlans | BandwidthPlans,
    network: Network,
    out: str | Path,
    calibration: Calibration | None = None,
    check: bool = True,
    progress: bool = True,
    images: Images | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> PlanSet:
    """Write the parts of every plan; `serve` and `testbed` take the folder in place of a bundle.

    Its stages measure the links by the tensors that cross them, or by messages of their own, and start each request by the
    plan that is best for what they measure and keeps the request's ``max_noise``.

    Parameters
    ----------
    model : LayerGraph | str | Path
        The graph the plans were made for, as `load` returned it, or its ONNX file.
    plans : AdaptivePlans | BandwidthPlans
        From `adaptive_plans` or `bandwidths`.
    network : Network
        The latencies of the links, and their bandwidths until they are measured, are taken from it.
    out : str | Path
        Folder; made if missing.
    calibration, check : Calibration | None, bool
        As for `cut`.
    progress : bool, default True
        Show a bar.
    images, shapes : Images | None, Mapping[str, Sequence[int]] | None
        As for `cut`.

    Raises
    ------
    OptionError
        The network lacks a link.
    DeployError
        See `cut`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> plans = ds.bandwidths(graph, network, times, link=("device", "cloud"), low="1 MB/s", high="1.1 MB/s")
    >>> ds.cut_plans(graph, plans, network, "plans", check=False, progress=False).source
    'device'
    """
    check_arguments(cut_plans, locals(), some=("out",))
    if isinstance(plans, BandwidthPlans):
        plans = AdaptivePlans.of(plans)
    followed = []
    for source, target in plans.prices.links:
        if (link := network.link(source, target)) is None:
            message = f"the network has no link {source!r} -> {target!r}"
            raise OptionError(message)
        followed.append(FollowedLink(source, target, link.bandwidth_bytes_per_s, link.latency_s, link.serialise_s_per_byte))
    out, bundles, graph = Path(out), [], model if isinstance(model, LayerGraph) else load(model, shapes=shapes)
    files: dict[str, Path] = {}
    for plan in tqdm(plans.plans, desc="plans", disable=not progress or len(plans.plans) < 2):
        name = sha256(identity(plan))[:12]
        bundle = cut(graph, plan, out / f"plan-{name}", calibration, check, images=images)
        bundles.append(replace(bundle, model_name=f"{bundle.model_name}@{name}"))
        bundles[-1].save()
        for part in bundle.parts:
            _share(files, bundle.folder / part.file, part.sha256)
            if part.data:
                _share(files, bundle.folder / part.data, part.data_sha256)
    folders, digests = (tuple(b.folder.name for b in bundles), tuple(b.digest for b in bundles))
    model_name = bundles[0].model_name.rpartition("@")[0]
    found = PlanSet(out, model_name, tuple(followed), folders, digests, plans.prices)
    found.save()
    return found


def _share(files: dict[str, Path], file: Path, digest: str) -> None:
    """Make equal files one file on disk."""
    first = files.setdefault(digest, file)
    if first != file:
        spare = file.with_name(f".{file.name}.link")
        with suppress(OSError):  # a file system without hard links keeps a copy, which is as good
            os.link(first, spare)
            spare.replace(file)


def identity(plan: Plan) -> str:
    """What a plan decides, as a text: placement, precision, routes and forms."""
    routes = sorted((t.tensor, t.source, t.target, t.form) for t in plan.transfers)
    return json.dumps([sorted(plan.assignment.items()), sorted(plan.quantized), routes, plan.lossy_source])


def _distinct(
    links: Sequence[Ends], plans: Sequence[Plan], fixed: Sequence[float], slopes: Sequence[tuple[float, ...]], objective: str
) -> AdaptivePlans:
    """Keep each plan once, in the order of their noise, and the links that tell plans apart."""
    first = {identity(plan): i for i, plan in reversed(list(enumerate(plans)))}
    order = sorted(first.values(), key=lambda i: (plans[i].limited_noise, fixed[i]))
    kept = [n for n in range(len(links)) if len({slopes[i][n] for i in order}) > 1]
    prices = Prices(
        tuple(links[n] for n in kept),
        tuple(float(plans[i].limited_noise) for i in order),
        tuple(float(fixed[i]) for i in order),
        tuple(tuple(float(slopes[i][n]) for n in kept) for i in order),
    )
    return AdaptivePlans(tuple(plans[i] for i in order), prices, objective)
