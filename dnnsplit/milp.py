"""Solving a formulation through PuLP. The only module that knows PuLP."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pulp
from pulp.apis.coin_api import pulp_cbc_path

from dnnsplit.errors import InfeasibleError, SolverError, nearest
from dnnsplit.formulation import Slides
from dnnsplit.formulation_relay import formulate
from dnnsplit.noise import NoiseModel
from dnnsplit.objective import Limits
from dnnsplit.problem import Problem, Weights
from dnnsplit.rows import Key
from dnnsplit.stages import Bracket, bracket, without_slow

SOLVERS = {"HiGHS": "HiGHS", "CBC": "COIN_CMD", "CPLEX": "CPLEX_PY", "GUROBI": "GUROBI", "SCIP": "SCIP_PY"}


@dataclass(frozen=True)
class Solution:
    """What a solver answered.

    Attributes
    ----------
    placement : server position of each layer
    quantized : q bit of each quantizable layer
    values : of all variables, by key
    status : "optimal" only if proved, else "feasible"
    bound, gap : lower bound on the objective (NaN where the solver tells none) and relative distance to it
    variables, constraints : size of the programme
    routes : with relays, the links of each tensor that leaves its server, by names
    """

    placement: tuple[int, ...]
    quantized: tuple[int, ...]
    values: dict[Key, float]
    status: str
    bound: float
    gap: float
    variables: int
    constraints: int
    routes: dict[str, tuple[tuple[str, str], ...]] | None = None


def solve_milp(
    problem: Problem,
    weights: Weights,
    noise: NoiseModel | None = None,
    limits: Limits | None = None,
    formulation: str = "slides",
    solver: str = "HiGHS",
    gap: float = 1e-9,
    time_limit_s: float | None = None,
    bottleneck: bool = False,
) -> Solution:
    """Minimise a linear objective of latency and energy, or the bottleneck of a pipeline.

    Parameters
    ----------
    problem : the arrays
    weights : the objective; for the bottleneck it only decides between routes, where there are relays
    noise : over exactly the problem's quantizable layers, needed with a limit on noise
    limits : noise and device energy; memory limits are the servers' own
    formulation : "slides" (to the letter) or "milp" (tight)
    solver : HiGHS, CBC, CPLEX, GUROBI or SCIP
    gap : relative gap at which the solver may stop
    time_limit_s : wall time after which it must stop [s]
    bottleneck : minimise the slowest stage instead, of the servers' compute and the links between them (`Cost.bottleneck_s`),
        and nothing else. Elimination, where it applies, bounds it from both sides before the MILP searches in between; a
        plan that this proves best has no MILP: no values, variables and constraints

    Raises
    ------
    InfeasibleError : no placement satisfies the limits
    SolverError : the solver is missing, failed, or found nothing in time
    """
    if solver not in SOLVERS:
        raise SolverError(f"solver {solver!r} is unknown{nearest(solver, SOLVERS)}")
    if solver not in available_solvers():
        raise SolverError(f"solver {solver!r} is not installed here; there are {', '.join(available_solvers())}")
    options = (noise, limits or Limits(), formulation, solver, gap)
    if bottleneck:
        return _bottleneck(problem, weights, *options, time_limit_s)
    return _solve(problem, weights, *options, time_limit_s)


def _bottleneck(
    problem: Problem, weights: Weights, noise: NoiseModel | None, limits: Limits, formulation: str, solver: str, gap: float,
    time_limit_s: float | None,
) -> Solution:  # fmt: skip
    started = time.monotonic()
    try:
        known = bracket(problem, noise, limits, gap, None if time_limit_s is None else time_limit_s / 2)
    except SolverError:  # too large for elimination; the MILP answers without its help
        known = Bracket()
    bound, values, size = known.low, {}, (0, 0)
    if known.gap > gap:
        left = None if time_limit_s is None else max(1.0, started + time_limit_s - time.monotonic())
        try:
            found = _solve(without_slow(problem, known.high), weights, noise, limits, formulation, solver, gap, left, known)
            bound, size = float(np.fmax(bound, found.bound)), (found.variables, found.constraints)
            better = _better(problem, found, known)
            values = found.values if better is not known else {}
            known = better
        except InfeasibleError:  # nothing is faster
            bound = known.high
            if known.plan is None:
                raise
        except SolverError:
            if known.plan is None:
                raise
    placement, scheme = known.plan
    bound = min(bound, known.high)
    far = (known.high - bound) / max(known.high, 1e-12)
    quantized = tuple(scheme >> j & 1 for j in range(len(problem.quantizable)))
    return Solution(placement, quantized, values, "optimal" if far <= gap else "feasible", bound, far, *size, known.routes)


def _better(problem: Problem, found: Solution, known: Bracket) -> Bracket:
    """Return what is known with a solution, if it has a lower bottleneck."""
    scheme = sum(bit << j for j, bit in enumerate(found.quantized))
    value = problem.price(found.placement, scheme, routes=found.routes).bottleneck_s
    return replace(known, high=value, plan=(found.placement, scheme), routes=found.routes) if value < known.high else known


def _solve(
    problem: Problem, weights: Weights, noise: NoiseModel | None, limits: Limits, formulation: str, solver: str, gap: float,
    time_limit_s: float | None, known: Bracket | None = None,
) -> Solution:  # fmt: skip
    model = formulate(problem, formulation)
    programme, variables = build(model, weights, noise, limits, known)
    log = _run(programme, solver, gap, time_limit_s)
    # PuLP's status says "Optimal" of an unproved incumbent too; sol_status does not.
    # CBC's "Integer infeasible" sets the status and not sol_status.
    none = (pulp.LpSolutionInfeasible, pulp.LpSolutionUnbounded)
    if programme.status == pulp.LpStatusInfeasible or programme.sol_status in none:
        raise InfeasibleError("no placement satisfies the limits")
    if programme.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        if time_limit_s is None:
            raise SolverError(f"{solver} failed: it ended as {pulp.LpStatus[programme.status]!r}; try another solver")
        raise SolverError(f"{solver} found no plan within its limit of time; give it more than time_limit_s={time_limit_s}")
    optimal = programme.sol_status == pulp.LpSolutionOptimal
    objective = pulp.value(programme.objective)
    bound = _bound(programme, solver, log, objective, optimal)
    values = {key: float(variable.value() or 0.0) for key, variable in variables.items()}
    placement = tuple(
        max((k for k in model.servers if ("x", i, k) in values), key=lambda k: values["x", i, k])
        for i in range(len(problem.graph.layers))
    )
    quantized = tuple(round(values["q", i]) for i in problem.quantizable)
    return Solution(
        placement=placement,
        quantized=quantized,
        values=values,
        status="optimal" if optimal else "feasible",
        bound=bound,
        gap=max(0.0, objective - bound) / max(abs(objective), 1e-12),
        variables=len(variables),
        constraints=programme.numConstraints(),
        routes=_routes(problem, weights, placement, quantized, values) if problem.routing == "relay" else None,
    )


def build(
    model: Slides, weights: Weights, noise: NoiseModel | None, limits: Limits, known: Bracket | None = None
) -> tuple[pulp.LpProblem, dict[Key, pulp.LpVariable]]:
    """Turn a formulation into a PuLP programme; names depend on positions alone, so that two builds are the same.

    The objective is the weights', or, with what is `known` of it, the bottleneck.
    """
    rows = model.rows(noise, limits)  # first: rows bring variables of their own
    objective = model.total(weights)
    if known:
        unit = known.high if known.plan else max(float(np.nansum(model.problem.layer_s[..., 0], axis=0).max()), 1e-9)
        rows += model.stages(known.low, known.high, unit)
        objective = [(("bottleneck",), unit)]
    programme = pulp.LpProblem("dnnsplit", pulp.LpMinimize)
    variables = {}
    for key, integer in model.variables.items():
        most = None if key == ("bottleneck",) else 1
        kind = pulp.LpInteger if integer else pulp.LpContinuous
        variables[key] = programme.add_variable("_".join(map(str, key)), 0, most, kind)
    programme += pulp.LpAffineExpression([(variables[key], value) for key, value in objective]), "objective"
    senses = {"<=": pulp.LpConstraintLE, ">=": pulp.LpConstraintGE, "==": pulp.LpConstraintEQ}
    for r in rows:
        if not r.terms:
            raise InfeasibleError("no placement satisfies the limits")
        expression = pulp.LpAffineExpression([(variables[key], value) for key, value in r.terms])
        programme.addConstraint(pulp.LpConstraint(expression, senses[r.sense], rhs=r.bound), r.name)
    return programme, variables


def _routes(
    problem: Problem, weights: Weights, placement: tuple[int, ...], quantized: tuple[int, ...], values: dict[Key, float]
) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the cheapest of the links that a solution uses: with limits, the cheapest of all may not be within them."""
    usable = np.zeros(problem.transfer_s.shape[:3], bool)
    for key, value in values.items():
        if key[0] == "y":
            usable[key[1:]] = value > 0.5
    return problem.routes(placement, sum(bit << j for j, bit in enumerate(quantized)), weights, usable=usable)


def available_solvers() -> tuple[str, ...]:
    """Names of the solvers that can be used here."""
    return tuple(name for name in SOLVERS if _solver(name).available())


def _solver(name: str, **options: Any) -> pulp.LpSolver:
    if name == "CBC":
        options["path"] = pulp_cbc_path  # the one that PuLP 3 brings along
    return pulp.getSolver(SOLVERS[name], msg=False, **options)


def _run(programme: pulp.LpProblem, solver: str, gap: float, time_limit_s: float | None) -> str:
    """Solve; return what the solver logged, where only its log tells the bound."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        options: dict[str, Any] = {"gapRel": gap, "timeLimit": time_limit_s, "threads": 1}
        if solver == "HiGHS":
            options["gapAbs"] = 0.0  # else it stops within 1e-6 of anything, which is much of a few milliseconds
        if solver == "CBC":
            options["logPath"] = str(log)
        try:
            programme.solve(_solver(solver, **options))
            if solver == "HiGHS" and _contradicts_itself(programme):
                programme.solve(_solver(solver, **options, presolve="off"))
        except pulp.PulpSolverError as error:
            raise SolverError(f"{solver} failed: {error}") from None
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


def _contradicts_itself(programme: pulp.LpProblem) -> bool:
    """Whether HiGHS fails, or calls optimal what is above its own bound.

    Its presolve at times undoes its reductions wrongly (github.com/ERGO-Code/HiGHS/issues/2402, and 1.13 still); then the
    plan need not be the optimum, and without presolve it is.
    """
    if programme.solverModel.getModelStatus().name == "kSolveError":
        return True
    objective, bound = pulp.value(programme.objective), programme.solverModel.getInfo().mip_dual_bound
    return programme.sol_status == pulp.LpSolutionOptimal and abs(objective - bound) > 1e-5 * max(1.0, abs(objective))


def _bound(programme: pulp.LpProblem, solver: str, log: str, objective: float, optimal: bool) -> float:
    if solver == "HiGHS":
        return float(programme.solverModel.getInfo().mip_dual_bound)
    if optimal:
        return objective
    found = [line.split(":")[1] for line in log.splitlines() if line.startswith("Lower bound:")]
    return float(found[-1]) if found else math.nan
