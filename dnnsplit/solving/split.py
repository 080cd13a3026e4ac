"""`split`: the best placement and quantization under the limits, by the method that fits what was asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.shared_weights import total_bytes
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DnnSplitError, InfeasibleError, NoiseError, SolverError, raise_problems
from dnnsplit.ground.keywords import named
from dnnsplit.ground.tolerance import TOLERANCE, within
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.noise import verification
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.schemes import pack
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.arrays import Problem, Weights
from dnnsplit.solving.bounds.branching import branch
from dnnsplit.solving.bounds.multipliers import Relaxation, relax
from dnnsplit.solving.elimination.sweep import eliminate
from dnnsplit.solving.lossy_wires import improved, verified
from dnnsplit.solving.milp.solvers import OutOfTime, Solution, SolverFailed, check_solver, solve_milp
from dnnsplit.solving.milp.throughput import solve_bottleneck
from dnnsplit.solving.payoffs import normalised
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question, ask
from dnnsplit.solving.request import OWN_CHECKS, Effort, Request
from dnnsplit.solving.verifier import measurer

# Beyond this many flows, most of its variables, the tight MILP takes longer to build than branch and bound to finish.
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
    forbid: Mapping[str, str | Sequence[str]] | None = None,
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
    source_forms: str | Sequence[str] | None = None,
    wire_forms: str | Sequence[str] | None = None,
) -> Plan:
    """Decide which layers run where, which run in int8, and in which form tensors cross.

    Parameters
    ----------
    graph, network, times : LayerGraph, Network, LayerTimes
        What is placed, on what, and the seconds of each layer there.
    noise : NoiseModel | None, optional
        eta(q); its layers are the ones that may run in int8. Without it every layer stays float32.
    max_noise : float | None, optional
        eta_max; None means no limit.
    latency_weight, energy_weight : float, optional
        With one of them 0, the raw seconds or joules of the other are minimised; with both, the slides'
        ``latency_weight * T^norm + energy_weight * E^norm``, see `normalise`.
    max_device_energy_j : float | None, optional
        J_0, hard limit on the energy of the network's source [J].
    max_energy_j : float | None, optional
        Hard limit on the energy of all servers [J].
    pins : Mapping[str, str] | None, optional
        Server by layer.
    forbid : Mapping[str, str | Sequence[str]] | None, optional
        Servers by layer, where it must not run.
    colocate : Sequence[Sequence[str]], default ()
        Groups of layers that must share a server.
    forbid_links : Sequence[tuple[str, str]], default ()
        (source, target) of links that no tensor may use.
    routing : str, default "direct"
        "direct": a tensor crosses the link between its two servers, or there is none; "relay": it may pass through other servers,
        and pays each link once.
    method : str, default "auto"
        "elimination" (exact, milliseconds; with branch and bound over q where all schemes are too many), "milp" (tight
        formulation, for limits that couple layers), "slides" (the slides' formulation to the letter), or "auto": elimination, and
        the tight MILP only where a limit on energy or memory cuts off what elimination finds and multipliers leave a gap, or
        where its tables would be too large.
    solver : str, default "HiGHS"
        HiGHS, CBC, CPLEX, GUROBI or SCIP, for the MILP.
    gap : float, default 1e-9
        Relative gap at which the MILP may stop.
    time_limit_s : float | None, optional
        Wall time after which the MILP, or branch and bound, must stop [s].
    objective : str, default "latency"
        "latency", the slides' weighted sum, or "throughput": the seconds of the slowest stage of a pipeline, where each server's
        compute and each link is a stage (`Cost.stage_s`); the weights do not count then.
    verify : Callable[[tuple[str, ...]], float] | None, optional
        Names of the quantized layers -> measured noise. With it no plan is returned on a prediction: its scheme is measured, and
        one above max_noise is excluded and the next best sought (`dnnsplit.noise.verification`). A `noise_meter` on other images
        than those of `noise` measures every scheme anew, on images that did not choose it. Lossy `wire_forms` need one that
        measures whole plans, on their parts: `dnnsplit.parts_meter`.
    samples : NoiseSamples | None, optional
        What was measured before by the same measure, such as what `noise` was fitted to; it is not measured again.
    normalise : str, default "limited"
        By what the sum of both is normalised, T^norm = (T - T_min) / (T_max - T_min) and E^norm alike, with T_min the least T,
        E_max the least E at that T, and E_min and T_max the same the other way round: "limited", under the same limits, pins and
        prohibitions, so that both terms of the optimum are in [0, 1], as on the slides (`dnnsplit.solving.payoffs`); or "fixed",
        without any of them, so that objectives compare from one limit to another.
    confidence : float | None, optional
        Such as 0.95: max_noise is kept by the upper confidence bound of the mean over all images, which the plan tells as
        ``noise_upper`` (`dnnsplit.noise.confidence`); None: by the mean over those that were measured, as on the slides.
    source_forms : str | Sequence[str] | None, optional
        Forms in which the source may send graph inputs, by their names in ``times.forms``, and "float32" for the plain one. By
        default all that the profile knows, lossy ones where the noise model knows their noise (``noise.sources``); for
        method "slides" the plain one alone.
    wire_forms : str | Sequence[str] | None, optional
        Forms in which other tensors may cross; by default the lossless ones, and where `source_forms` is the plain one alone,
        that alone: then nothing is coded, as on the slides. Lossy ones that are named, and whose noise is known
        (``noise.tensors``), are chosen under a predicted noise, the power sum (`dnnsplit.solving.lossy_wires`).

    Returns
    -------
    Plan
        Re-priced by `evaluate`; it keeps every limit.

    Raises
    ------
    InfeasibleError
        With how far each limit is from reachable.
    NoiseError, OptionError
        A limit or an option that is not usable.
    ModelError, NetworkError, ProfileError
        Graph, network and times do not fit each other.
    SolverError
        No solver can answer.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> instance = ds.examples.tiny()
    >>> ds.split(*instance, max_noise=0.02)
    Plan: 1 layer on device, 3 layers on edge; 1 in int8
      2 tensors cross (104 kB)
      latency 258.2 ms, energy 1.19 J (device 319.5 mJ)
      noise 0.012 (predicted)
      optimal, by elimination; times given
    >>> ds.split(*instance, max_noise=0.02, pins={"conv1": "device"}).servers
    ('device', 'edge')
    """
    check_arguments(split, locals(), least={"gap": 0, "time_limit_s": 0}, but=OWN_CHECKS)
    if method == "slides" and source_forms is None:
        source_forms = (PLAIN,)
    request = Request(
        max_noise=max_noise, latency_weight=latency_weight, energy_weight=energy_weight, max_energy_j=max_energy_j,
        max_device_energy_j=max_device_energy_j, pins=pins or {}, forbid=forbid or {}, colocate=colocate,
        forbid_links=forbid_links, routing=routing, objective=objective, normalise=normalise, confidence=confidence,
        source_forms=source_forms, wire_forms=wire_forms,
    )  # fmt: skip
    effort = Effort(method, solver, gap, time_limit_s)
    if verify is None:
        question = pose(ask(graph, network, times, noise, request), effort)
        plan = answer(question, effort)
        return improved(question, plan, effort) if question.problem.lossy else plan
    if noise is None or max_noise is None:
        message = "verify needs a limit to verify: give noise and max_noise"
        raise NoiseError(message)
    # what verifies tells bounds itself
    question = replace(ask(graph, network, times, noise, replace(request, confidence=None)), request=request)
    measure = measurer(noise, verify, confidence, samples, bool(question.problem.sources))

    def choose(model: NoiseModel) -> Plan:
        return answer(pose(question.with_noise(model), effort), effort)

    known = None if measure.fresh else samples
    found = verification.verify(noise, measure.bound, choose, max_noise, known, fresh=measure.fresh)
    plan = measure.told(found.choice, len(found.measured))
    if question.problem.lossy is None:
        return plan
    posed = pose(ask(graph, network, times, noise, request), effort)
    return verified(posed, plan, effort, verify)


def pose(question: Question, effort: Effort) -> Question:
    """Settle the objective of a question: a sum may be normalised under its limits.

    The solver is checked here, whether or not it will be needed: what is wrong must not wait for the question that needs it.
    """
    check_solver(effort.solver)
    return normalised(question, lambda one: answer(one, replace(effort, method="auto")))


def answer(question: Question, effort: Effort) -> Plan:
    """Answer a question; errors are those of `split`."""
    if effort.method in ("milp", "slides"):
        return _by_milp(question, effort.method, effort, "asked for")
    if effort.method == "elimination":
        return _by_elimination(question, "asked for", effort)
    try:
        flows = sum(map(len, question.problem.receivers)) * len(question.problem.network.servers) ** 2
        return _by_elimination(question, "exact, and the fastest where it applies", effort, flows > MAX_FLOWS)
    except SolverError as error:
        return _by_milp(question, "milp", effort, error.reason, error.relaxed if isinstance(error, _GapLeft) else None)


class _GapLeft(SolverError):
    """Elimination and multipliers did not prove an optimum under limits that couple layers; what they found comes along."""

    def __init__(self, broken: str, relaxed: Relaxation) -> None:
        super().__init__(f"elimination cannot keep this limit: {broken}", "use method='auto' or 'milp'")
        self.relaxed = relaxed


def _by_elimination(question: Question, reason: str, effort: Effort, branches: bool = True) -> Plan:
    """Answer without the limits that couple layers; an answer that keeps them anyway is the optimum with them too."""
    status, bound = "optimal", None
    try:
        scheme = question.best_scheme()
        placement = question.optima.placement(scheme)
    except SolverError as error:
        if question.objective.bottleneck or not branches:
            raise
        found = branch(question, effort.time_limit_s)
        placement, scheme, bound = found.placement, found.scheme, found.bound
        status = "optimal" if found.value - bound <= effort.gap * abs(found.value) else "feasible"
        reason = f"branch and bound over q, {found.nodes} nodes: {error.reason}"
    cost = question.price(placement, scheme)
    broken = question.limits.broken(question.problem, cost)
    if not broken:
        return question.plan(placement, scheme, "elimination", cost, reason=reason, status=status, bound=bound)
    relaxed = relax(question, effort.gap)
    if relaxed.plan and relaxed.gap <= effort.gap:
        reason = "multipliers on the limits leave no gap"
        return question.plan(*relaxed.plan[:2], "elimination", relaxed.plan[2], reason=reason, bound=relaxed.bound)
    raise _GapLeft(broken[0], relaxed)


def _by_milp(question: Question, formulation: str, effort: Effort, reason: str, relaxed: Relaxation | None = None) -> Plan:
    objective, solver = question.objective, effort.solver
    problem, low = (relaxed.problem, relaxed.bound) if relaxed else (question.problem, math.nan)
    known = relaxed.plan if relaxed else None  # it keeps every limit

    def fall_back(why: str, bound: float = math.nan) -> Plan:
        """Return what the multipliers found, with what is known about its distance from the optimum."""
        assert known is not None
        bound = float(np.fmax(low, bound))
        return question.plan(*known[:2], "elimination", known[2], reason=f"{reason}; {why}", status="feasible", bound=bound)

    try:
        source, solution = _programmes(question, problem, formulation, effort)
    except (InfeasibleError, OutOfTime, SolverFailed) as error:
        if known:
            slow = f"{solver} found nothing better in time"
            wrong = f"{solver} calls that infeasible, which it is not: report it"
            why = {OutOfTime: slow, InfeasibleError: wrong}.get(type(error), f"nothing better was found, for {error}")
            return fall_back(why)
        if isinstance(error, InfeasibleError):
            message = "no placement satisfies the limits"
            raise InfeasibleError(message, details=_explain(question)) from None
        raise
    scheme = pack(solution.quantized) | source << len(solution.quantized)
    cost = problem.price(solution.placement, scheme, routes=solution.routes, chosen=solution.forms)
    bound, status = float(np.fmax(solution.bound, low)), solution.status
    if status == "feasible":
        if relaxed and known and relaxed.value < objective.weights.of(cost, problem.network):
            return fall_back(f"{solver} found nothing better in time", bound)
        reason = f"{reason}; {solution.note or f'{solver} was stopped by its limit of time'}"
    plan = question.plan(solution.placement, scheme, formulation, cost, solver, reason, status, bound)
    if status == "optimal" and plan.gap > max(effort.gap, 10 * TOLERANCE):  # by the exact price, not by the solver's
        plan = replace(plan, status="feasible", reason=f"{reason}; {solver} calls it optimal, but its own bound is below")
    broken = question.limits.broken(question.problem, plan.cost)
    if not within(plan.limited_noise, question.limits.max_noise):
        broken.append(f"noise {plan.limited_noise:.6g} is above max_noise {question.limits.max_noise:g}")
    raise_problems(SolverError, f"{solver} returned a plan that breaks its limits", broken)
    return plan


def _programmes(question: Question, problem: Problem, formulation: str, effort: Effort) -> tuple[int, Solution]:
    """Solve one programme for each source form that may be the best; return the best one, the proof being that of all."""
    objective, started = question.objective, time.monotonic()
    least = dict.fromkeys(question.sources if problem.sources else [0], -math.inf)
    if problem.sources and not objective.bottleneck:
        try:
            values = np.where(question.allowed, question.optima.value, np.inf).reshape(1 + len(problem.sources), -1).min(axis=1)
            least = {source: float(values[source]) for source in least}
        except SolverError:  # too many schemes to list: nothing is known in advance
            pass
    best: tuple[float, int, Solution] | None = None
    bound, proved, notes, refused = math.inf, True, list[str](), list[DnnSplitError]()
    for source in sorted(least, key=lambda one: least[one]):
        if best and best[0] <= least[source]:
            bound = math.nan if math.isnan(bound) else min(bound, least[source])
            continue
        part, asked = problem.under(source), question.under(source)
        left = None if effort.time_limit_s is None else max(1.0, started + effort.time_limit_s - time.monotonic())
        mine = replace(effort, time_limit_s=left)
        try:
            solve = solve_bottleneck if objective.bottleneck else solve_milp
            found = solve(part, objective.weights, asked.noise, asked.limits, formulation, mine)
        except (InfeasibleError, OutOfTime, SolverFailed) as error:
            refused.append(error)
            if not isinstance(error, InfeasibleError):
                bound, proved = math.nan, False
                notes.append(str(error))
            continue
        bound = math.nan if math.isnan(bound + found.bound) else min(bound, found.bound)  # a bound that one lacks, all lack
        proved = proved and found.status == "optimal"
        notes += [found.note] if found.note else []
        cost = part.price(found.placement, pack(found.quantized), routes=found.routes, chosen=found.forms)
        value = cost.bottleneck_s if objective.bottleneck else objective.weights.of(cost, part.network)
        if best is None or value < best[0]:
            best = value, source, found
    if best is None:
        raise next((error for error in refused if not isinstance(error, InfeasibleError)), refused[0])
    return best[1], replace(best[2], bound=bound, status="optimal" if proved else "feasible", note="; ".join(notes))


def _explain(question: Question) -> list[str]:
    """Say how far each limit is from what is reachable when it is the only objective."""
    problem, limits, network = question.problem, question.limits, question.problem.network
    lines = [
        f"{what}: {_reachable(question, use, most, unit)} (at max_noise {limits.max_noise:g})"
        for what, unit, use, most in limits.sums(network)
    ]
    held = show(total_bytes(problem.graph.layers), "B")
    memory = [(server.name, server.memory_bytes) for server in network.servers if server.memory_bytes is not None]
    return lines + [f"memory of {s!r}: limit {show(most, 'B')}; the model's weights are {held}" for s, most in memory]


def _reachable(question: Question, use: Weights, most: float, unit: str) -> str:
    """Say a limit on energy or latency, and the least that the noise limit admits."""
    limit = f"limit {show(most, unit)}"
    try:
        value = eliminate(question.problem, use).value
    except SolverError:
        return f"{limit}, too many schemes to say what is reachable"
    least = np.where(question.allowed, value, np.inf).min()
    if not math.isfinite(least):
        return f"{limit}, no placement connects the layers"
    if show(least, unit) == show(most, unit):  # a limit that was rounded, as a rule
        return f"limit {most:.9g} {unit}, best reachable {least:.9g} {unit}"
    return f"{limit}, best reachable {show(least, unit)}"
