"""Solving a formulation through PuLP, which this module and `dnnsplit.solving.milp.cbc` alone know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

import highspy
import numpy as np
import pulp

from dnnsplit.ground.errors import InfeasibleError, SolverError, nearest
from dnnsplit.ground.tolerance import TOLERANCE, relative_gap
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.schemes import pack
from dnnsplit.solving.arrays import Problem, Weights
from dnnsplit.solving.bounds.bottleneck import Bracket
from dnnsplit.solving.cost import WireChoice
from dnnsplit.solving.milp.cbc import Cbc
from dnnsplit.solving.milp.formulations import Slides
from dnnsplit.solving.milp.relay import formulate
from dnnsplit.solving.milp.rows import Key
from dnnsplit.solving.objective import Limits
from dnnsplit.solving.request import Effort

LEAST_HIGHS = (1, 15, 1)
SOLVERS = {"HiGHS": "HiGHS", "CBC": "COIN_CMD", "CPLEX": "CPLEX_PY", "GUROBI": "GUROBI", "SCIP": "SCIP_PY"}


class SolverFailed(SolverError):
    """A solver crashed, or ended without an answer for another reason than time."""


class OutOfTime(SolverError):
    """A solver found nothing within its limit of time."""


@dataclass(frozen=True)
class Solution:
    """What a solver answered.

    Attributes
    ----------
    placement : tuple[int, ...]
        Server position of each layer.
    quantized : tuple[int, ...]
        q bit of each quantizable layer.
    status : str
        "optimal" only if proved, else "feasible".
    bound : float
        Lower bound on the objective; NaN where the solver tells none.
    routes : dict[str, tuple[tuple[str, str], ...]] | None
        With relays, the links of each tensor that leaves its server, by names.
    forms : WireChoice | None
        The form of each tensor on each link that does not cross plainly.
    note : str
        What kept it from a proof, if anything did.
    values : dict[Key, float]
        Of all variables, by key.
    """

    placement: tuple[int, ...]
    quantized: tuple[int, ...]
    status: str
    bound: float
    routes: dict[str, tuple[tuple[str, str], ...]] | None = None
    note: str = ""
    forms: WireChoice | None = None
    values: dict[Key, float] = field(default_factory=dict, repr=False)


def solve_milp(
    problem: Problem,
    weights: Weights,
    noise: NoiseModel | None = None,
    limits: Limits | None = None,
    formulation: str = "slides",
    effort: Effort = Effort(),
    known: Bracket | None = None,
) -> Solution:
    """Minimise a linear objective of latency and energy, or the bottleneck of a pipeline.

    Parameters
    ----------
    weights : Weights
        The objective; with `known` it only decides between routes, where there are relays.
    noise : NoiseModel | None, optional
        Over exactly the problem's quantizable layers, needed with a limit on noise.
    formulation : str, default "slides"
        "slides" (to the letter) or "milp" (tight).
    known : Bracket | None, optional
        What is known of the bottleneck, which is then minimised instead (see `dnnsplit.solving.milp.throughput`).

    Raises
    ------
    InfeasibleError
        No placement satisfies the limits.
    SolverError
        The solver is missing or known to be wrong, failed (`SolverFailed`), or found nothing in time (`OutOfTime`).
    """
    solver, time_limit_s = effort.solver, effort.time_limit_s
    check_solver(solver)
    _prove(solver)
    limits = limits or Limits()
    sums = None if known else (weights, *(use for _, _, use, _ in limits.sums(problem.network)))
    model = formulate(problem, formulation, sums)
    programme, variables, unit = build(model, weights, noise, limits, known)
    try:
        log = _run(programme, effort)
    except pulp.PulpSolverError as error:
        message = f"{solver} failed: {error}; try another solver"
        raise SolverFailed(message) from None
    # PuLP's status says "Optimal" of an unproved incumbent too; sol_status does not.
    # CBC's "Integer infeasible" sets the status and not sol_status.
    none = (pulp.LpSolutionInfeasible, pulp.LpSolutionUnbounded)
    if programme.status == pulp.LpStatusInfeasible or programme.sol_status in none:
        message = "no placement satisfies the limits"
        raise InfeasibleError(message)
    if programme.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        if time_limit_s is None or not _out_of_time(programme, solver):
            message = f"{solver} failed: it ended as {pulp.LpStatus[programme.status]!r}; try another solver"
            raise SolverFailed(message)
        message = f"{solver} found no plan within its limit of time; give it more than time_limit_s={time_limit_s}"
        raise OutOfTime(message)
    optimal = programme.sol_status == pulp.LpSolutionOptimal
    objective = pulp.value(programme.objective)
    bound = _bound(programme, solver, log, objective, optimal)
    values = {key: float(variable.value() or 0.0) for key, variable in variables.items()}
    placement = tuple(
        max((k for k in model.servers if ("x", i, k) in values), key=lambda k: values["x", i, k])
        for i in range(len(problem.graph.layers))
    )
    quantized, routes = tuple(round(values["q", i]) for i in problem.quantizable), None
    if problem.routing == "relay":  # by the links that it uses: with limits, the cheapest of all may not be within them
        usable = np.zeros(problem.transfer_s.shape[:3], bool)
        for _, *link in model.keys("y"):
            usable[*link] = values["y", *link] > 0.5
        routes = problem.routes(placement, pack(quantized), weights, usable=usable)
    return Solution(
        placement=placement,
        quantized=quantized,
        values=values,
        status="optimal" if optimal else "feasible",
        bound=bound * unit,
        routes=routes,
        forms=problem.chosen(placement, pack(quantized), model.choice(values), routes or {}),
    )


def build(
    model: Slides, weights: Weights, noise: NoiseModel | None, limits: Limits, known: Bracket | None = None
) -> tuple[pulp.LpProblem, dict[Key, pulp.LpVariable], float]:
    """Turn a formulation into a PuLP programme; names depend on positions alone, so that two builds are the same.

    The objective is the weights', or, with what is `known` of it, the bottleneck. Solvers' tolerances are absolute, and a
    network of microseconds is a network: the objective is told in a unit of its own, which is returned, and so are the limits.
    """
    rows = model.rows(noise, limits)  # first: rows bring variables of their own
    if known:
        unit = known.high if known.plan else float(np.nansum(model.problem.layer_s[..., 0], axis=0).max()) or 1.0
        rows += model.stages(known.low, known.high, unit)
        objective = [(("bottleneck",), 1.0)]
    else:
        unit = _unit(model, weights)
        objective = [(key, value / unit) for key, value in model.total(weights)]
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
            message = "no placement satisfies the limits"
            raise InfeasibleError(message)
        expression = pulp.LpAffineExpression([(variables[key], value) for key, value in r.terms])
        programme.addConstraint(pulp.LpConstraint(expression, senses[r.sense], rhs=r.bound), r.name)
    return programme, variables, unit


def _unit(model: Slides, weights: Weights) -> float:
    """What a typical layer adds to the objective at least: the mean over layers of the server where each is cheapest."""
    worth = model.problem.layer_s * weights.compute[:, None]
    least = np.nanmin(np.where(model.problem.allowed[..., None], worth, np.nan), axis=(1, 2))
    every = [abs(value) for _, value in model.total(weights) if value]
    return float(least.mean()) or (math.fsum(every) / len(every) if every else 1.0)


def available_solvers() -> tuple[str, ...]:
    """Names of the solvers that can be used here."""
    return tuple(name for name in SOLVERS if _solver(name).available())


def check_solver(name: str) -> None:
    """Raise SolverError unless a solver is known, installed, and of a version without known wrong answers."""
    if name not in SOLVERS:
        message = f"solver {name!r} is unknown{nearest(name, SOLVERS)}"
        raise SolverError(message)
    if not _solver(name).available():
        message = f"solver {name!r} is not installed here; there are {', '.join(available_solvers())}"
        raise SolverError(message)
    if name == "HiGHS" and tuple(map(int, version("highspy").split(".")[:3])) < LEAST_HIGHS:
        least = ".".join(map(str, LEAST_HIGHS))
        message = (
            f"HiGHS {version('highspy')} is known to call optimal what is not (github.com/ERGO-Code/HiGHS, issues 2980 and "
            f"3043); pip install 'highspy>={least}', or take solver='CBC'"
        )
        raise SolverError(message)


@cache
def _prove(name: str) -> None:
    """Raise SolverError if a solver gets one of two small public problems wrong that a release of one did.

    min 2x + 3z with x + z >= 4.5 and min 2b + 99999y with a + b = 10, a <= 100y (z an integer, y 0 or 1) are 9 and 20: the
    presolve of HiGHS 1.14.0 calls 15 and 99999 optimal (github.com/ERGO-Code/HiGHS, issues 3043 and 2975).
    """
    one, two = pulp.LpProblem("one", pulp.LpMinimize), pulp.LpProblem("two", pulp.LpMinimize)
    x, z = one.add_variable("x", 0, 10), one.add_variable("z", 0, 10, pulp.LpInteger)
    one += 2 * x + 3 * z
    one += x + z >= 4.5
    a, b, y = two.add_variable("a", 0), two.add_variable("b", 0), two.add_variable("y", 0, 1, pulp.LpInteger)
    two += 2 * b + 99999 * y
    two += a + b == 10
    two += a - 100 * y <= 0
    for programme, optimum in ((one, 9.0), (two, 20.0)):
        _run(programme, Effort(solver=name))
        found = pulp.value(programme.objective)
        if found is None or abs(found - optimum) > 1e-6 * optimum:
            message = f"{name} gives {found} for a problem whose optimum is {optimum}; take another version or solver"
            raise SolverError(message)


class _QuietHighs(highspy.Highs):
    """HiGHS without the banner that it prints as soon as it is asked for anything."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()


class _HiGHS(pulp.HiGHS):
    """PuLP's interface to HiGHS, with a quiet one, and tolerances well inside that of our limits."""

    def createAndConfigureSolver(self, lp: pulp.LpProblem) -> None:
        lp.solverModel = _QuietHighs()
        options = {"mip_rel_gap": self.gapRel, "mip_abs_gap": self.gapAbs, "threads": self.threads, "time_limit": self.timeLimit}
        tolerances = dict.fromkeys(("mip_feasibility_tolerance", "primal_feasibility_tolerance"), 1e-9)
        for name, value in {**options, **tolerances, **self.optionsDict}.items():
            if value is not None:
                lp.solverModel.setOptionValue(name, float(value) if name == "time_limit" else value)


def _solver(name: str, **options: Any) -> pulp.LpSolver:
    if name == "HiGHS":
        return _HiGHS(msg=False, **options)
    if name == "CBC":
        return Cbc(msg=False, **options)
    return pulp.getSolver(SOLVERS[name], msg=False, **options)


def _run(programme: pulp.LpProblem, effort: Effort) -> str:
    """Solve; return what the solver logged, where only its log tells the bound."""
    options: dict[str, Any] = {"gapRel": effort.gap, "timeLimit": effort.time_limit_s, "threads": 1}
    if effort.solver == "HiGHS":
        options["gapAbs"] = 0.0  # else it stops within 1e-6 of anything
    solver = _solver(effort.solver, **options)
    programme.solve(solver)
    if effort.solver == "HiGHS" and _doubtful(programme):
        programme.solve(_solver(effort.solver, **options, presolve="off"))
    return solver.log if isinstance(solver, Cbc) else ""


def _doubtful(programme: pulp.LpProblem) -> bool:
    """Whether HiGHS fails, calls optimal what is above its own bound, or calls a problem infeasible.

    Its presolve at times undoes its reductions wrongly (github.com/ERGO-Code/HiGHS/issues/2402, and 1.13 still), and 1.16
    calls some small feasible problems of ours infeasible with it; without presolve the answers are right.
    """
    if programme.solverModel.getModelStatus().name in ("kSolveError", "kInfeasible", "kUnboundedOrInfeasible"):
        return True
    objective, bound = pulp.value(programme.objective), programme.solverModel.getInfo().mip_dual_bound
    return bool(programme.sol_status == pulp.LpSolutionOptimal) and abs(relative_gap(objective, bound)) > 10 * TOLERANCE


def _out_of_time(programme: pulp.LpProblem, solver: str) -> bool:
    if solver == "HiGHS":
        return bool(programme.solverModel.getModelStatus().name == "kTimeLimit")
    return bool(programme.status == pulp.LpStatusNotSolved)


def _bound(programme: pulp.LpProblem, solver: str, log: str, objective: float, optimal: bool) -> float:
    if solver == "HiGHS":
        return float(programme.solverModel.getInfo().mip_dual_bound)
    if optimal:
        return objective
    found = [line.split(":")[1] for line in log.splitlines() if line.startswith("Lower bound:")]
    return float(found[-1]) if found else math.nan
