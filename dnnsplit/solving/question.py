"""What `split` and `pareto` were asked: the arguments, checked once, and how an answer becomes a plan."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import InfeasibleError, NoiseError, OptionError, SolverError, nearest, raise_problems
from dnnsplit.ground.tolerance import relative_gap
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel, Table
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.quantize.setting import check_one_setting
from dnnsplit.solving.arrays import Problem, build_problem
from dnnsplit.solving.costs import Cost
from dnnsplit.solving.elimination.relays import TIE
from dnnsplit.solving.elimination.sweep import MAX_BITS, Optima, eliminate
from dnnsplit.solving.objective import Limits, Objective, normalised_sum, raw_objective, reference, unreachable
from dnnsplit.solving.plan import Plan

OBJECTIVES = ("latency", "throughput")
NORMALISE = ("limited", "fixed")


@dataclass(frozen=True, eq=False)
class Question:
    """A problem, an objective, limits, and the noise model that decides which schemes they allow.

    `weights` are those of latency and energy where their sum is to be normalised under the limits (`dnnsplit.solving.payoffs`);
    the objective is latency until then. With a `confidence` the noise model is one of upper bounds.
    """

    problem: Problem
    objective: Objective
    limits: Limits
    noise: NoiseModel | None
    started: float
    weights: tuple[float, float] | None = None
    confidence: float | None = None

    @cached_property
    def scheme_noise(self) -> np.ndarray:
        """float (2^n,): noise of every scheme; infinite where it is not known."""
        return self.noise.every() if self.noise else np.zeros(1)

    @cached_property
    def optima(self) -> Optima:
        """The best placement of every scheme, by elimination."""
        if self.objective.bottleneck:
            raise SolverError("the slowest stage is no sum over layers, which elimination needs; use method='milp'")
        return eliminate(self.problem, self.objective.weights, self.objective.ties)

    def with_noise(self, noise: NoiseModel) -> Question:
        """Return the same question with another noise model over the same layers; what does not depend on it is kept."""
        other = replace(self, noise=noise)
        if len(self.problem.quantizable) <= MAX_BITS and not self.objective.bottleneck:
            other.__dict__["optima"] = self.optima
        return other

    def aimed_at(self, objective: Objective) -> Question:
        """Return the same question with this objective; what does not depend on it is kept."""
        other = replace(self, objective=objective, weights=None)
        if "scheme_noise" in self.__dict__:
            other.__dict__["scheme_noise"] = self.scheme_noise
        return other

    @cached_property
    def allowed(self) -> np.ndarray:
        """bool (2^n,): schemes within the noise limit."""
        return self.limits.quiet(self.scheme_noise)

    def best_scheme(self) -> int:
        """Return the best scheme within the noise limit; of equal ones the least noisy.

        Raises
        ------
        InfeasibleError : no placement exists at all
        """
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
        self, placement: Sequence[int], scheme: int, method: str, cost: Cost, solver: str = "", reason: str = "",
        status: str = "optimal", bound: float | None = None,
    ) -> Plan:
        """Turn positions and their price into a plan; without a bound (on the objective without its constant) it is one."""
        assignment, quantized = self.problem.names(placement, scheme)
        objective = self.objective.of(cost, self.problem.network)
        bound = objective if bound is None else bound + self.objective.constant
        kind = "none" if not quantized else "measured" if isinstance(self.noise, Table) else "predicted"
        return Plan(
            assignment=assignment,
            quantized=quantized,
            cost=cost,
            noise=(self.noise.mean or self.noise).of(quantized) if self.noise else 0.0,
            noise_kind=kind,
            noise_upper=self.noise.of(quantized) if self.noise and self.noise.mean else math.nan,
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
                "confidence": self.confidence,
                "max_device_energy_j": self.limits.max_device_energy_j,
                "max_energy_j": self.limits.max_energy_j,
                "memory_bytes": {s.name: s.memory_bytes for s in self.problem.network.servers if s.memory_bytes is not None},
            },
            reference=asdict(self.objective.reference) if self.objective.reference else {},
            source=self.problem.network.source,
            times_origin=" / ".join(dict.fromkeys(self.problem.times.frame["origin"])),
            origin=self.noise.origin if self.noise else {},
        )


def ask(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None,
    max_noise: float | None = None,
    latency_weight: float = 1.0,
    energy_weight: float = 0.0,
    max_device_energy_j: float | None = None,
    max_energy_j: float | None = None,
    pins: Mapping[str, str] | None = None,
    forbid: Mapping[str, Sequence[str]] | None = None,
    colocate: Sequence[Sequence[str]] = (),
    forbid_links: Sequence[tuple[str, str]] = (),
    routing: str = "direct",
    objective: str = "latency",
    normalise: str = "limited",
    confidence: float | None = None,
) -> Question:
    """Check the arguments of `split` and `pareto` and build the problem they describe.

    A sum that is normalised under the limits needs answers itself: `dnnsplit.solving.payoffs.normalised` makes it the objective.
    """
    started = time.process_time()
    most = _max_noise(noise, max_noise)
    problems = []
    for name, value in {"latency_weight": latency_weight, "energy_weight": energy_weight}.items():
        if not is_number(value) or not 0 <= value < math.inf:
            problems.append(f"{name} is {value!r}; it must be a number, 0 or more")
    for name, value in {"max_device_energy_j": max_device_energy_j, "max_energy_j": max_energy_j}.items():
        if value is not None and (not is_number(value) or not value >= 0):
            problems.append(f"{name} is {value!r}; it must be a number of joules, 0 or more, or None")
    if not problems and latency_weight == energy_weight == 0:
        problems.append("latency_weight and energy_weight are both 0; there is nothing to minimise")
    if objective not in OBJECTIVES:
        problems.append(f"objective {objective!r} is unknown{nearest(objective, OBJECTIVES)}")
    if normalise not in NORMALISE:
        problems.append(f"normalise {normalise!r} is unknown{nearest(normalise, NORMALISE)}")
    raise_problems(OptionError, "options", problems)
    layers = noise.layers if noise else ()
    if noise:
        check_one_setting({"noise": noise.origin} | {f"times of {server}": made for server, made in times.made.items()})
    if confidence is not None:
        if noise is None:
            raise NoiseError("confidence is about a noise: pass noise=fit_noise(samples), or leave confidence out")
        noise = noise.bounded(confidence)
    problem = build_problem(graph, network, times, layers, pins, forbid, colocate, forbid_links, routing)
    minimised = raw_objective(problem, latency_weight, energy_weight, objective)
    weights = None
    if latency_weight and energy_weight and objective == "latency":
        weights = float(latency_weight), float(energy_weight)
        if normalise == "fixed":
            free = problem  # the reference is one, whatever is pinned or forbidden
            if pins or forbid or colocate or forbid_links:
                free = build_problem(graph, network, times, layers, routing=routing)
            minimised, weights = normalised_sum(problem.network, *weights, reference(free)), None
    limits = Limits(most, max_device_energy_j, max_energy_j)
    return Question(problem, minimised, limits, noise, started, weights, confidence)


def _max_noise(noise: NoiseModel | None, max_noise: float | None) -> float:
    if max_noise is None:
        return math.inf
    if not is_number(max_noise) or math.isnan(max_noise):
        raise NoiseError(f"max_noise is {max_noise!r}, not a number; give 0 or more, or None for no limit")
    if max_noise < 0:
        raise NoiseError(f"max_noise is {max_noise!r}; it must be 0 or more (0 keeps every layer in float32)")
    if noise is None:
        raise NoiseError("max_noise needs a noise model: pass noise=fit_noise(samples), or leave max_noise out")
    return float(max_noise)


def is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
