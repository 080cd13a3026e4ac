"""A request about a problem, and how an answer to it becomes a plan."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import InfeasibleError, NoiseError, SolverError
from dnnsplit.ground.tolerance import relative_gap, within
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel, PowerSum
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.arrays import Problem, build_problem
from dnnsplit.solving.coding import check_sources
from dnnsplit.solving.cost import Cost
from dnnsplit.solving.elimination.relays import TIE
from dnnsplit.solving.elimination.sweep import MAX_BITS, Optima, eliminate
from dnnsplit.solving.objective import Limits, Objective, normalised_sum, raw_objective, reference, scheme_noise, unreachable
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.request import Request


@dataclass(frozen=True, eq=False)
class Question:
    """A problem, an objective, limits, and the noise model that decides which schemes they allow.

    `weights` are those of latency and energy where their sum is to be normalised under the limits (`dnnsplit.solving.payoffs`);
    the objective is latency until then. With a confidence the noise model is one of upper bounds. `request` and `network` are
    what was asked of which network, before links were charged or forbidden.
    """

    problem: Problem
    objective: Objective
    limits: Limits
    noise: NoiseModel | None
    request: Request
    network: Network
    started: float
    weights: tuple[float, float] | None = None

    @cached_property
    def scheme_noise(self) -> np.ndarray:
        """Float (schemes,): noise of every scheme; infinite where it is not known."""
        return scheme_noise(self.problem, self.noise)

    @cached_property
    def optima(self) -> Optima:
        """The best placement of every scheme, by elimination."""
        if self.objective.bottleneck:
            message = "the slowest stage is no sum over layers, which elimination needs"
            raise SolverError(message, "use method='milp'")
        return eliminate(self.problem, self.objective.weights, self.objective.ties)

    def with_noise(self, noise: NoiseModel) -> Question:
        """Return the same question with another noise model over the same layers; what does not depend on it is kept."""
        other = replace(self, noise=noise)
        if len(self.problem.quantizable) <= MAX_BITS and not self.objective.bottleneck:
            other.__dict__["optima"] = self.optima
        return other

    def limited_to(self, max_noise: float) -> Question:
        """Return the same question under another limit on noise; what does not depend on it is kept."""
        other = replace(self, limits=replace(self.limits, max_noise=max_noise))
        other.__dict__.update({name: self.__dict__[name] for name in ("optima", "scheme_noise") if name in self.__dict__})
        return other

    def aimed_at(self, objective: Objective) -> Question:
        """Return the same question with this objective; what does not depend on it is kept."""
        other = replace(self, objective=objective, weights=None)
        if "scheme_noise" in self.__dict__:
            other.__dict__["scheme_noise"] = self.scheme_noise
        return other

    def under(self, source: int) -> Question:
        """Ask with the graph inputs in the one form that is so numbered, 0 for lossless ones (see `Problem.under`)."""
        form = self.problem.sources[source - 1].name if source else ""
        noise, limits = self.noise and self.noise.at(form), self.limits
        # the same limit, on what is left of it: one that linear rows can say
        if isinstance(noise, PowerSum) and noise.known is None:
            left = math.sqrt(max(limits.max_noise**2 - noise.floor**2, 0.0))
            noise, limits = noise.base, replace(limits, max_noise=left)
        return replace(self, problem=self.problem.under(source), noise=noise, limits=limits)

    @property
    def sources(self) -> list[int]:
        """The numbers of the source forms that the limit on noise admits at all."""
        named = enumerate(self.problem.sources, 1)
        most = self.limits.max_noise
        return [0, *(n for n, source in named if self.noise and within(self.noise.at(source.name).floor, most))]

    def again(self, network: Network | None = None, **more: Any) -> Question:
        """Ask with another network or other keywords of `split`, by the same objective, so that answers compare."""
        noise = self.noise and (self.noise.mean or self.noise)
        request = replace(self.request, **more)
        asked = ask(self.problem.graph, network or self.network, self.problem.times, noise, request)
        return asked.aimed_at(self.objective)

    @cached_property
    def allowed(self) -> np.ndarray:
        """Bool (schemes,): those within the noise limit."""
        return self.limits.quiet(self.scheme_noise)

    def best_scheme(self) -> int:
        """Return the best scheme within the noise limit; of equal ones the least noisy."""
        value = self.optima.value  # first: it refuses what has too many schemes to list
        value = np.where(self.allowed, value, np.inf)
        least = value.min()
        if not math.isfinite(least):
            raise InfeasibleError(unreachable(self.problem))
        equal = np.flatnonzero(value <= least * (1 + TIE))
        return int(equal[np.argmin(self.scheme_noise[equal])])

    def price(self, placement: Sequence[int], scheme: int) -> Cost:
        """Price positions; tensors that may be relayed take the routes that are best for the objective."""
        return self.problem.price(placement, scheme, self.objective.weights, self.objective.ties)

    def plan(
        self,
        placement: Sequence[int],
        scheme: int,
        method: str,
        cost: Cost,
        solver: str = "",
        reason: str = "",
        status: str = "optimal",
        bound: float | None = None,
    ) -> Plan:
        """Turn positions and their price into a plan; without a bound (on the objective without its constant) it is one."""
        assignment, quantized = self.problem.names(placement, scheme)
        lossy, noise = self.problem.source_form(scheme), self.noise
        if noise:
            noise = noise.at(lossy)
        objective, forms = self.objective.of(cost, self.problem.network), self.problem.times.forms
        bound = objective if bound is None else bound + self.objective.constant
        kind = "none" if not (quantized or lossy) else "measured" if noise and noise.is_measured(quantized) else "predicted"
        return Plan(
            assignment=assignment,
            quantized=quantized,
            cost=cost,
            noise=(noise.mean or noise).of(quantized) if noise else 0.0,
            noise_kind=kind,
            noise_upper=noise.of(quantized) if noise and noise.mean else math.nan,
            objective=objective,
            objective_name=self.objective.name,
            status=status,
            bound=bound,
            # a normalised sum may be 0; what it was before its constant went off is what rounding is relative to
            gap=relative_gap(objective, bound, max(abs(objective), abs(self.objective.constant))),
            method=method,
            reason=reason,
            solver=solver,
            solve_s=time.process_time() - self.started,
            error_s=self.problem.times.error_s(cost.compute_s),
            limits={
                "max_noise": self.limits.max_noise,
                "confidence": self.request.confidence,
                "max_device_energy_j": self.limits.max_device_energy_j,
                "max_energy_j": self.limits.max_energy_j,
                "memory_bytes": {s.name: s.memory_bytes for s in self.problem.network.servers if s.memory_bytes is not None},
            },
            reference=asdict(self.objective.reference) if self.objective.reference else {},
            source=self.problem.network.source,
            lossy_source=lossy,
            source_form=lossy or self._source_form(cost),
            pixels={} if forms is None else {name: asdict(pixels) for name, pixels in forms.pixels.items()},
            times_origin=" / ".join(dict.fromkeys(self.problem.times.frame["origin"])),
            origin=self.noise.origin if self.noise else {},
        )

    def _source_form(self, cost: Cost) -> str:
        """Return the forms in which graph inputs cross, the plain one where none does."""
        inputs = {t.name for t in self.problem.graph.tensors if t.producer is None}
        taken = dict.fromkeys(t.form for t in cost.transfers if t.tensor in inputs and t.source != t.target)
        return " and ".join(form for form in taken if form != PLAIN or len(taken) == 1) or PLAIN


def ask(
    graph: LayerGraph, network: Network, times: LayerTimes, noise: NoiseModel | None = None, request: Request | None = None
) -> Question:
    """Build the problem that a request describes.

    A sum that is normalised under the limits needs answers itself: `dnnsplit.solving.payoffs.normalised` makes it the objective.
    """
    started, request = time.process_time(), request or Request()
    if noise is None:
        if request.max_noise is not None:
            message = "max_noise needs a noise model: pass noise=fit_noise(samples), or leave max_noise out"
            raise NoiseError(message)
        if request.confidence is not None:
            message = "confidence is about a noise: pass noise=fit_noise(samples), or leave confidence out"
            raise NoiseError(message)
    else:
        times.check_setting(noise.origin.get("setting"))
        noise = noise if request.confidence is None else noise.bounded(request.confidence)
    layers, sources = (noise.layers, tuple(noise.sources)) if noise else ((), ())
    check_sources(graph, times.forms, request, sources)
    problem = build_problem(graph, network, times, layers, request, sources, noise.tensors if noise else None)
    minimised = raw_objective(problem, request.latency_weight, request.energy_weight, request.objective)
    weights = None
    if request.latency_weight and request.energy_weight and request.objective == "latency":
        weights = float(request.latency_weight), float(request.energy_weight)
        if request.normalise == "fixed":
            free = problem  # the reference is one, whatever is pinned or forbidden
            if request.restricts:
                same = Request(routing=request.routing, source_forms=request.source_forms, wire_forms=request.wire_forms)
                free = build_problem(graph, network, times, layers, same, sources)
            minimised, weights = normalised_sum(problem.network, *weights, reference(free)), None
    most = math.inf if request.max_noise is None else float(request.max_noise)
    limits = Limits(most, request.max_device_energy_j, request.max_energy_j)
    return Question(problem, minimised, limits, noise, request, network, started, weights)
