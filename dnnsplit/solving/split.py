"""`split`: the best placement and quantization under the limits, by the method that fits what was asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.shared_weights import total_bytes
from dnnsplit.ground.errors import InfeasibleError, NoiseError, OptionError, SolverError, nearest, raise_problems
from dnnsplit.ground.keywords import named
from dnnsplit.ground.tolerance import TOLERANCE, within
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.noise import verification
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.schemes import pack
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.arrays import energy_weights
from dnnsplit.solving.bounds.branching import branch
from dnnsplit.solving.bounds.multipliers import Relaxation, relax
from dnnsplit.solving.elimination.sweep import eliminate
from dnnsplit.solving.milp.solvers import OutOfTime, SolverFailed, check_solver, solve_milp
from dnnsplit.solving.milp.throughput import solve_bottleneck
from dnnsplit.solving.payoffs import normalised
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question, ask, is_number
from dnnsplit.solving.verifier import measurer

METHODS = ("auto", "elimination", "milp", "slides")
# Beyond this many flows the tight MILP takes longer to build than branch and bound to finish.
MAX_FLOWS = 200_000


@named()
def split(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None = None,
    *,
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
    objective: str = "latency",
    verify: Callable[[tuple[str, ...]], float] | None = None,
    samples: NoiseSamples | None = None,
    normalise: str = "limited",
    confidence: float | None = None,
) -> Plan:
    """Decide which layers run where and which run in int8.

    Parameters
    ----------
    graph, network, times : what is placed, on what, and the seconds of each layer there
    noise : eta(q); its layers are the ones that may run in int8. Without it every layer stays float32
    max_noise : eta_max; None means no limit
    latency_weight, energy_weight : with one of them 0, the raw seconds or joules of the other are minimised; with both,
        the slides' ``latency_weight * T^norm + energy_weight * E^norm``, see `normalise`
    max_device_energy_j : J_0, hard limit on the energy of the network's source [J]
    max_energy_j : hard limit on the energy of all servers [J]
    pins : server by layer
    forbid : servers by layer, where it must not run
    colocate : groups of layers that must share a server
    forbid_links : (source, target) of links that no tensor may use
    routing : "direct": a tensor crosses the link between its two servers, or there is none; "relay": it may pass through
        other servers, and pays each link once
    method : "elimination" (exact, milliseconds; with branch and bound over q where all schemes are too many), "milp" (tight
        formulation, for limits that couple layers), "slides" (the slides' formulation to the letter), or "auto":
        elimination, and the tight MILP only where a limit on energy or memory cuts off what elimination finds and
        multipliers leave a gap, or where its tables would be too large
    solver : HiGHS, CBC, CPLEX, GUROBI or SCIP, for the MILP
    gap : relative gap at which the MILP may stop
    time_limit_s : wall time after which the MILP, or branch and bound, must stop [s]
    objective : "latency", the slides' weighted sum, or "throughput": the seconds of the slowest stage of a pipeline, where
        each server's compute and each link is a stage (`Cost.stage_s`); the weights do not count then
    verify : names of the quantized layers -> measured noise. With it no plan is returned on a prediction: its scheme is
        measured, and one above max_noise is excluded and the next best sought (`dnnsplit.noise.verification`). A `noise_meter` on
        other images than those of `noise` measures every scheme anew, on images that did not choose it
    samples : what was measured before by the same measure, such as what `noise` was fitted to; it is not measured again
    normalise : by what the sum of both is normalised, T^norm = (T - T_min) / (T_max - T_min) and E^norm alike, with T_min the
        least T, E_max the least E at that T, and E_min and T_max the same the other way round: "limited", under the same
        limits, pins and prohibitions, so that both terms of the optimum are in [0, 1], as on the slides
        (`dnnsplit.solving.payoffs`); or "fixed", without any of them, so that objectives compare from one limit to another
    confidence : such as 0.95: max_noise is kept by the upper confidence bound of the mean over all images, which the plan tells
        as ``noise_upper`` (`dnnsplit.noise.confidence`); None: by the mean over those that were measured, as on the slides

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
    question = ask(
        graph, network, times, noise, max_noise, latency_weight, energy_weight, max_device_energy_j, max_energy_j,
        pins, forbid, colocate, forbid_links, routing, objective, normalise, None if verify else confidence,
    )  # fmt: skip
    how = {"solver": solver, "gap": gap, "time_limit_s": time_limit_s}
    if verify is None:
        return answer(pose(question, **how), method, **how)
    if max_noise is None:
        raise NoiseError("verify needs a limit to verify: give max_noise")
    measure, question = measurer(noise, verify, confidence, samples), replace(question, confidence=confidence)
    choose = lambda model: answer(pose(question.with_noise(model), **how), method, **how)  # noqa: E731
    known = None if measure.fresh else samples
    found = verification.verify(noise, measure.bound, choose, max_noise, known, fresh=measure.fresh)
    return measure.told(found.choice, len(found.measured))


def pose(question: Question, solver: str = "HiGHS", gap: float = 1e-9, time_limit_s: float | None = None) -> Question:
    """Settle the objective of a question that `ask` has checked: a sum may be normalised under its limits.

    The solver, the gap and the time limit are checked here, whether or not they will be needed: what is wrong must not wait
    for the question that needs it.
    """
    check_solver(solver)
    given = {"gap": gap} if time_limit_s is None else {"gap": gap, "time_limit_s": time_limit_s}
    wrong = [f"{name} is {value!r}" for name, value in given.items() if not is_number(value) or not value >= 0]
    raise_problems(OptionError, "options", [f"{one}; it must be a number, 0 or more" for one in wrong])
    return normalised(question, lambda one: answer(one, "auto", solver, gap, time_limit_s))


def answer(
    question: Question, method: str = "auto", solver: str = "HiGHS", gap: float = 1e-9, time_limit_s: float | None = None
) -> Plan:
    """Answer a question that `ask` has checked; arguments and errors are those of `split`."""
    if method not in METHODS:
        raise OptionError(f"method {method!r} is unknown{nearest(method, METHODS)}")
    if method in ("milp", "slides"):
        return _by_milp(question, method, solver, gap, time_limit_s, "asked for")
    if method == "elimination":
        return _by_elimination(question, "asked for", gap, time_limit_s)
    try:
        branches = _flows(question) > MAX_FLOWS
        return _by_elimination(question, "exact, and the fastest where it applies", gap, time_limit_s, branches)
    except SolverError as error:
        relaxed = error.relaxed if isinstance(error, _GapLeft) else None
        return _by_milp(question, "milp", solver, gap, time_limit_s, str(error).partition(";")[0], relaxed)


class _GapLeft(SolverError):
    """Elimination and multipliers did not prove an optimum under limits that couple layers; what they found comes along."""

    def __init__(self, message: str, relaxed: Relaxation) -> None:
        super().__init__(message)
        self.relaxed = relaxed


def _flows(question: Question) -> int:
    """Return the number of flows of the tight MILP, which are most of its variables."""
    return sum(map(len, question.problem.receivers)) * len(question.problem.network.servers) ** 2


def _by_elimination(question: Question, reason: str, gap: float, time_limit_s: float | None, branches: bool = True) -> Plan:
    """Answer without the limits that couple layers; an answer that keeps them anyway is the optimum with them too."""
    status, bound = "optimal", None
    try:
        scheme = question.best_scheme()
        placement = question.optima.placement(scheme)
    except SolverError as error:
        if question.objective.bottleneck or not branches:
            raise
        found = branch(question, time_limit_s)
        placement, scheme, bound = found.placement, found.scheme, found.bound
        status = "optimal" if found.value - bound <= gap * abs(found.value) else "feasible"
        reason = f"branch and bound over q, {found.nodes} nodes: {str(error).partition(';')[0]}"
    cost = question.price(placement, scheme)
    broken = question.limits.broken(question.problem, cost)
    if not broken:
        return question.plan(placement, scheme, "elimination", cost, reason=reason, status=status, bound=bound)
    relaxed = relax(question, gap)
    if relaxed.gap <= gap:
        placement, scheme, cost = relaxed.plan
        reason = "multipliers on the limits leave no gap"
        return question.plan(placement, scheme, "elimination", cost, reason=reason, bound=relaxed.bound)
    raise _GapLeft(f"elimination cannot keep this limit: {broken[0]}; use method='auto' or 'milp'", relaxed)


def _by_milp(
    question: Question, formulation: str, solver: str, gap: float, time_limit_s: float | None, reason: str,
    relaxed: Relaxation | None = None,
) -> Plan:  # fmt: skip
    problem = relaxed.problem if relaxed else question.problem
    asked = (problem, question.objective.weights, question.noise, question.limits, formulation, solver, gap, time_limit_s)
    known = relaxed is not None and relaxed.plan is not None
    try:
        solution = solve_bottleneck(*asked) if question.objective.bottleneck else solve_milp(*asked)
    except InfeasibleError:
        if known:  # it keeps every limit
            return _unproved(question, relaxed, f"{reason}; {solver} calls that infeasible, which it is not: report it")
        raise InfeasibleError(_explain(question)) from None
    except OutOfTime:
        if not known:
            raise
        return _unproved(question, relaxed, f"{reason}; {solver} found nothing better in time")
    except SolverFailed as error:
        if not known:
            raise
        return _unproved(question, relaxed, f"{reason}; nothing better was found, for {error}")
    scheme = pack(solution.quantized)
    cost = problem.price(solution.placement, scheme, question.objective.weights, question.objective.ties, solution.routes)
    bound = float(np.fmax(solution.bound, relaxed.bound)) if relaxed else solution.bound
    if solution.status != "optimal" and known and relaxed.value < question.objective.weights.of(cost, problem.network):
        return _unproved(question, relaxed, f"{reason}; {solver} found nothing better in time", bound)
    status = solution.status
    if status == "feasible":
        reason = f"{reason}; {solution.note or f'{solver} was stopped by its limit of time'}"
    plan = question.plan(solution.placement, scheme, formulation, cost, solver, reason, status, bound)
    if status == "optimal" and plan.gap > max(gap, 10 * TOLERANCE):  # by the exact price, not by the solver's
        plan = replace(plan, status="feasible", reason=f"{reason}; {solver} calls it optimal, but its own bound is below")
    broken = question.limits.broken(question.problem, plan.cost)
    if not within(plan.limited_noise, question.limits.max_noise):
        broken.append(f"noise {plan.limited_noise:.6g} is above max_noise {question.limits.max_noise:g}")
    raise_problems(SolverError, f"{solver} returned a plan that breaks its limits", broken)
    return plan


def _unproved(question: Question, relaxed: Relaxation, reason: str, bound: float = -math.inf) -> Plan:
    """Return the plan that the multipliers found, with what is known about its distance from the optimum."""
    placement, scheme, cost = relaxed.plan
    bound = max(relaxed.bound, bound)
    return question.plan(placement, scheme, "elimination", cost, reason=reason, status="feasible", bound=bound)


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
            lines.append(f"  * {what}: {_reachable(question, only, most)} (at max_noise {limits.max_noise:g})")
    held = total_bytes(problem.graph.layers)
    for server in problem.network.servers:
        if server.memory_bytes is not None:
            limit = show(server.memory_bytes, "B")
            lines.append(f"  * memory of {server.name!r}: limit {limit}; the model's weights are {show(held, 'B')}")
    return "\n".join(lines)


def _reachable(question: Question, only: str | None, most: float) -> str:
    """Say a limit on the energy (of one server, or of all), and the least energy that the noise limit admits."""
    limit = f"limit {show(most, 'J')}"
    try:
        value = eliminate(question.problem, energy_weights(question.problem.network, only)).value
    except SolverError:
        return f"{limit}, too many schemes to say what is reachable"
    least = np.where(question.allowed, value, np.inf).min()
    if not math.isfinite(least):
        return f"{limit}, no placement connects the layers"
    if show(least, "J") == show(most, "J"):  # a limit that was rounded, as a rule
        return f"limit {most:.9g} J, best reachable {least:.9g} J"
    return f"{limit}, best reachable {show(least, 'J')}"
