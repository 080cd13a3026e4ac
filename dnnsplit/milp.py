"""Solving a formulation through PuLP. The only module that knows PuLP."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulp
from pulp.apis.coin_api import pulp_cbc_path

from dnnsplit.errors import InfeasibleError, SolverError, nearest
from dnnsplit.formulation import FORMULATIONS, Key, Slides
from dnnsplit.noise import NoiseModel
from dnnsplit.objective import Limits
from dnnsplit.problem import Problem, Weights

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
    """

    placement: tuple[int, ...]
    quantized: tuple[int, ...]
    values: dict[Key, float]
    status: str
    bound: float
    gap: float
    variables: int
    constraints: int


def solve_milp(
    problem: Problem,
    weights: Weights,
    noise: NoiseModel | None = None,
    limits: Limits | None = None,
    formulation: str = "slides",
    solver: str = "HiGHS",
    gap: float = 1e-9,
    time_limit_s: float | None = None,
) -> Solution:
    """Minimise a linear objective of latency and energy.

    Parameters
    ----------
    problem : the arrays
    weights : the objective
    noise : over exactly the problem's quantizable layers, needed with a limit on noise
    limits : noise and device energy; memory limits are the servers' own
    formulation : "slides" (to the letter) or "milp" (tight)
    solver : HiGHS, CBC, CPLEX, GUROBI or SCIP
    gap : relative gap at which the solver may stop
    time_limit_s : wall time after which it must stop [s]

    Raises
    ------
    InfeasibleError : no placement satisfies the limits
    SolverError : the solver is missing, failed, or found nothing in time
    """
    if solver not in SOLVERS:
        raise SolverError(f"solver {solver!r} is unknown{nearest(solver, SOLVERS)}")
    if solver not in available_solvers():
        raise SolverError(f"solver {solver!r} is not installed here; there are {', '.join(available_solvers())}")
    model = FORMULATIONS[formulation](problem)
    programme, variables = build(model, weights, noise, limits or Limits())
    log = _run(programme, solver, gap, time_limit_s)
    # PuLP's status says "Optimal" of an unproved incumbent too; sol_status does not.
    if programme.sol_status in (pulp.LpSolutionInfeasible, pulp.LpSolutionUnbounded):
        raise InfeasibleError("no placement satisfies the limits")
    if programme.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        raise SolverError(f"{solver} found no plan within its limit of time; give it more than time_limit_s={time_limit_s}")
    optimal = programme.sol_status == pulp.LpSolutionOptimal
    objective = pulp.value(programme.objective)
    bound = _bound(programme, solver, log, objective, optimal)
    values = {key: float(variable.value() or 0.0) for key, variable in variables.items()}
    return Solution(
        placement=tuple(
            max((k for k in model.servers if ("x", i, k) in values), key=lambda k: values["x", i, k])
            for i in range(len(problem.graph.layers))
        ),
        quantized=tuple(round(values["q", i]) for i in problem.quantizable),
        values=values,
        status="optimal" if optimal else "feasible",
        bound=bound,
        gap=max(0.0, objective - bound) / max(abs(objective), 1e-12),
        variables=len(variables),
        constraints=programme.numConstraints(),
    )


def build(
    model: Slides, weights: Weights, noise: NoiseModel | None, limits: Limits
) -> tuple[pulp.LpProblem, dict[Key, pulp.LpVariable]]:
    """Turn a formulation into a PuLP programme; names depend on positions alone, so that two builds are the same."""
    rows = model.rows(noise, limits)  # first: rows bring variables of their own
    programme = pulp.LpProblem("dnnsplit", pulp.LpMinimize)
    variables = {
        key: programme.add_variable("_".join(map(str, key)), 0, 1, pulp.LpInteger if integer else pulp.LpContinuous)
        for key, integer in model.variables.items()
    }
    programme += pulp.LpAffineExpression([(variables[key], value) for key, value in model.total(weights)]), "objective"
    senses = {"<=": pulp.LpConstraintLE, ">=": pulp.LpConstraintGE, "==": pulp.LpConstraintEQ}
    for r in rows:
        if not r.terms:
            raise InfeasibleError("no placement satisfies the limits")
        expression = pulp.LpAffineExpression([(variables[key], value) for key, value in r.terms])
        programme.addConstraint(pulp.LpConstraint(expression, senses[r.sense], rhs=r.bound), r.name)
    return programme, variables


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
        if solver == "CBC":
            options["logPath"] = str(log)
        try:
            programme.solve(_solver(solver, **options))
        except pulp.PulpSolverError as error:
            raise SolverError(f"{solver} failed: {error}") from None
        return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


def _bound(programme: pulp.LpProblem, solver: str, log: str, objective: float, optimal: bool) -> float:
    if solver == "HiGHS":
        return float(programme.solverModel.getInfo().mip_dual_bound)
    if optimal:
        return objective
    found = [line.split(":")[1] for line in log.splitlines() if line.startswith("Lower bound:")]
    return float(found[-1]) if found else math.nan
