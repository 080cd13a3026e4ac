"""`split`: the best placement and quantization under the limits, by the method that fits what was asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dnnsplit.elimination import eliminate
from dnnsplit.errors import InfeasibleError, OptionError, SolverError, nearest, raise_problems
from dnnsplit.graph import LayerGraph
from dnnsplit.milp import solve_milp
from dnnsplit.network import Network
from dnnsplit.noise import NoiseModel
from dnnsplit.plan import Plan
from dnnsplit.problem import energy_weights
from dnnsplit.question import Question, ask
from dnnsplit.times import LayerTimes
from dnnsplit.units import show

METHODS = ("auto", "elimination", "milp", "slides")


def split(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None = None,
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
    method: str = "auto",
    solver: str = "HiGHS",
    gap: float = 1e-9,
    time_limit_s: float | None = None,
) -> Plan:
    """Decide which layers run where and which run in int8.

    Parameters
    ----------
    graph, network, times : what is placed, on what, and the seconds of each layer there
    noise : eta(q); its layers are the ones that may run in int8. Without it every layer stays float32
    max_noise : eta_max; None means no limit
    latency_weight, energy_weight : with one of them 0, the raw seconds or joules of the other are minimised; with both,
        the slides' ``latency_weight * T^norm + energy_weight * E^norm`` (see `dnnsplit.objective.Reference`)
    max_device_energy_j : J_0, hard limit on the energy of the network's source [J]
    max_energy_j : hard limit on the energy of all servers [J]
    pins : server by layer
    forbid : servers by layer, where it must not run
    colocate : groups of layers that must share a server
    forbid_links : (source, target) of links that no tensor may use
    routing : "direct": a tensor crosses the link between its two servers, or there is none
    method : "elimination" (exact, milliseconds), "milp" (tight formulation, for limits that couple layers), "slides" (the
        slides' formulation to the letter), or "auto": elimination, and the tight MILP only where a limit on device energy or
        memory cuts off what elimination finds, or where its tables would be too large
    solver : HiGHS, CBC, CPLEX, GUROBI or SCIP, for the MILP
    gap : relative gap at which the MILP may stop
    time_limit_s : wall time after which the MILP must stop [s]

    Returns
    -------
    Plan : re-priced by `evaluate`; it keeps every limit

    Raises
    ------
    InfeasibleError : with how far each limit is from reachable
    NoiseError, OptionError : a limit or an option that is not usable
    ModelError, NetworkError, ProfileError : graph, network and times do not fit each other
    SolverError : no solver can answer
    """
    if method not in METHODS:
        raise OptionError(f"method {method!r} is unknown{nearest(method, METHODS)}")
    question = ask(
        graph, network, times, noise, max_noise, latency_weight, energy_weight, max_device_energy_j, max_energy_j,
        pins, forbid, colocate, forbid_links, routing,
    )  # fmt: skip
    reason = "asked for"
    if method in ("auto", "elimination"):
        try:
            return _by_elimination(question, reason if method == "elimination" else "exact, and the fastest where it applies")
        except SolverError as error:
            if method == "elimination":
                raise
            reason = str(error).partition(";")[0]
    return _by_milp(question, "slides" if method == "slides" else "milp", solver, gap, time_limit_s, reason)


def _by_elimination(question: Question, reason: str) -> Plan:
    """Answer without the limits that couple layers; an answer that keeps them anyway is the optimum with them too."""
    scheme = question.best_scheme()
    placement = question.optima.placement(scheme)
    cost = question.problem.price(placement, scheme)
    broken = question.limits.broken(question.problem, cost)
    if broken:
        raise SolverError(f"elimination cannot keep this limit: {broken[0]}; use method='auto' or 'milp'")
    return question.plan(placement, scheme, "elimination", cost=cost, reason=reason)


def _by_milp(
    question: Question, formulation: str, solver: str, gap: float, time_limit_s: float | None, reason: str
) -> Plan:
    asked = (question.problem, question.objective.weights, question.noise, question.limits)
    try:
        solution = solve_milp(*asked, formulation, solver, gap, time_limit_s)
    except InfeasibleError:
        raise InfeasibleError(_explain(question)) from None
    scheme = sum(bit << j for j, bit in enumerate(solution.quantized))
    plan = question.plan(solution.placement, scheme, formulation, solution, solver, reason=reason)
    broken = question.limits.broken(question.problem, plan.cost)
    if plan.noise > question.limits.max_noise * (1 + 1e-6) + 1e-12:
        broken.append(f"noise {plan.noise:.6g} is above max_noise {question.limits.max_noise:g}")
    raise_problems(SolverError, f"{solver} returned a plan that breaks its limits", broken)
    return plan


def _explain(question: Question) -> str:
    """Say how far each limit is from what is reachable when it is the only objective."""
    problem, limits = question.problem, question.limits
    lines = ["no placement satisfies the limits"]
    network = problem.network
    for what, most, only in (
        ("device energy", limits.max_device_energy_j, network.source),
        ("energy", limits.max_energy_j, None),
    ):
        if most is not None:
            reach = _reachable(question, only)
            lines.append(f"  * {what}: limit {show(most, 'J')}, {reach} (at max_noise {limits.max_noise:g})")
    held = sum(layer.weight_bytes for layer in problem.graph.layers)
    for server in problem.network.servers:
        if server.memory_bytes is not None:
            limit = show(server.memory_bytes, "B")
            lines.append(f"  * memory of {server.name!r}: limit {limit}; the model's weights are {show(held, 'B')}")
    return "\n".join(lines)


def _reachable(question: Question, only: str | None) -> str:
    """Say the least energy (of one server, or of all) that the noise limit admits."""
    try:
        value = eliminate(question.problem, energy_weights(question.problem.network, only)).value
    except SolverError:
        return "too many schemes to say what is reachable"
    least = np.where(question.allowed, value, np.inf).min()
    return f"best reachable {show(least, 'J')}" if math.isfinite(least) else "no placement connects the layers"
