"""The slides' mixed-integer programme, to the letter, through PuLP. The only module that knows PuLP.

Variables: x_ik (layer i runs on server k), q_i (layer i runs in int8), y_tn (tensor t crosses link n = (k, h)), and the
products x^q_ik = x_ik q_i and y^q_tn = y_tn q_p(t), with p(t) the producer of t. One function below per family of equations.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pulp
from pulp.apis.coin_api import pulp_cbc_path

from dnnsplit.costs import INT8_SHARE, Problem, Weights, energy_weights
from dnnsplit.errors import InfeasibleError, NoiseError, SolverError, nearest
from dnnsplit.noise import NoiseModel
from dnnsplit.objective import Limits

SOLVERS = {"HiGHS": "HiGHS", "CBC": "COIN_CMD", "CPLEX": "CPLEX_PY", "GUROBI": "GUROBI", "SCIP": "SCIP_PY"}


@dataclass(frozen=True)
class Solution:
    """What a solver answered: positions of servers per layer, q bits per quantizable layer, and how sure it is."""

    placement: tuple[int, ...]
    quantized: tuple[int, ...]
    status: str
    bound: float
    gap: float
    variables: int
    constraints: int


def solve_slides(
    problem: Problem,
    weights: Weights,
    noise: NoiseModel | None = None,
    limits: Limits | None = None,
    solver: str = "HiGHS",
    gap: float = 1e-9,
    time_limit_s: float | None = None,
) -> Solution:
    """Minimise a linear objective of latency and energy by the slides' formulation.

    Parameters
    ----------
    problem : the arrays
    weights : the objective
    noise : a polynomial over exactly the problem's quantizable layers, needed with a limit on noise
    limits : noise and device energy; memory limits are the servers' own
    solver : HiGHS, CBC, CPLEX, GUROBI or SCIP
    gap : relative gap at which the solver may stop
    time_limit_s : wall time after which it must stop [s]

    Returns
    -------
    Solution : "optimal" only if proved; else "feasible", with the bound known

    Raises
    ------
    InfeasibleError : no placement satisfies the limits
    SolverError : the solver is missing or found nothing in time
    NoiseError : the noise model is no polynomial
    """
    limits = limits or Limits()
    programme = pulp.LpProblem("dnnsplit", pulp.LpMinimize)
    model = _Slides(problem, programme)
    programme += model.total(weights), "objective"
    for group in (model.assignment(), model.coherence(), model.products(), model.noise(noise, limits.max_noise),
                  model.device_energy(limits), model.memory()):
        for name, constraint in group:
            programme.addConstraint(constraint, name)
    return _run(programme, model, solver, gap, time_limit_s)


class _Slides:
    """Variables and equations of the slides, over one problem."""

    def __init__(self, problem: Problem, programme: pulp.LpProblem) -> None:
        self.problem = problem
        self._programme = programme
        self.servers = range(len(problem.network.servers))
        layers = range(len(problem.graph.layers))
        self.x = {(i, k): self._binary(f"x_{i}_{k}") for i in layers for k in self.servers if problem.allowed[i, k]}
        self.q = {i: self._binary(f"q_{i}") for i in problem.quantizable}
        self.xq = {(i, k): self._binary(f"xq_{i}_{k}") for i, k in self.x if i in self.q}
        self.y, self.yq = {}, {}
        for t, receivers in enumerate(problem.receivers):
            for k, h in [(k, h) for k in self.servers for h in self.servers] if receivers else ():
                if math.isfinite(problem.transfer_s[t, k, h, 0]):
                    self.y[t, k, h] = self._binary(f"y_{t}_{k}_{h}")
                    if problem.producer[t] in self.q:
                        self.yq[t, k, h] = self._binary(f"yq_{t}_{k}_{h}")

    def _binary(self, name: str) -> pulp.LpVariable:
        return self._programme.add_variable(name, cat=pulp.LpBinary)

    def at(self, i: int, k: int) -> pulp.LpVariable | int:
        """x_ik; layer -1 stands for the source, where inputs start and outputs end."""
        return int(k == self.problem.source) if i < 0 else self.x.get((i, k), 0)

    def total(self, weights: Weights) -> pulp.LpAffineExpression:
        """T, E, E_0 or a mix: sum_ik w_k (f x + (f' - f) x^q) + sum_tn w_n (g y + (g' - g) y^q)."""
        terms = []
        for (i, k), variable in self.x.items():
            f = self.problem.layer_s[i, k]
            terms.append((variable, weights.compute[k] * f[0]))
            if (i, k) in self.xq:
                terms.append((self.xq[i, k], weights.compute[k] * (f[1] - f[0])))
        for (t, k, h), variable in self.y.items():
            g = self.problem.transfer_s[t, k, h]
            terms.append((variable, weights.transfer[k, h] * g[0]))
            if (t, k, h) in self.yq:
                terms.append((self.yq[t, k, h], weights.transfer[k, h] * (g[1] - g[0])))
        return pulp.LpAffineExpression([(v, float(c)) for v, c in terms])

    def assignment(self) -> Iterable[tuple[str, pulp.LpConstraint]]:
        """sum_k x_ik = 1."""
        for i in range(len(self.problem.graph.layers)):
            yield f"assignment_{i}", pulp.lpSum(self.at(i, k) for k in self.servers) == 1

    def coherence(self) -> Iterable[tuple[str, pulp.LpConstraint]]:
        """y_tn >= x_ik + x_jh - 1, y_tn <= x_ik, y_tn <= sum_j x_jh; without a link, x_ik + x_jh <= 1."""
        for t, (p, receivers) in enumerate(zip(self.problem.producer, self.problem.receivers, strict=True)):
            for k in self.servers:
                for h in self.servers if receivers else ():
                    y = self.y.get((t, k, h), 0)
                    for n, j in enumerate(receivers):
                        both = pulp.lpSum([self.at(p, k), self.at(j, h)])
                        if not both.isNumericalConstant() or both.constant > 1:
                            yield f"coherence_{t}_{k}_{h}_{n}", y >= both - 1
                    if (t, k, h) in self.y:
                        yield f"sent_{t}_{k}_{h}", y <= self.at(p, k) + pulp.LpAffineExpression()
                        yield f"received_{t}_{k}_{h}", y <= pulp.lpSum(self.at(j, h) for j in receivers)

    def products(self) -> Iterable[tuple[str, pulp.LpConstraint]]:
        """x^q = x q and y^q = y q: product <= each factor, product >= their sum - 1."""
        pairs = [("x", key, self.x[key], self.q[key[0]], product) for key, product in self.xq.items()]
        pairs += [("y", key, self.y[key], self.q[self.problem.producer[key[0]]], product) for key, product in self.yq.items()]
        for kind, key, left, right, product in pairs:
            name = "_".join(map(str, (kind, *key)))
            yield f"product_a_{name}", product <= left
            yield f"product_b_{name}", product <= right
            yield f"product_c_{name}", product >= left + right - 1

    def noise(self, noise: NoiseModel | None, most: float) -> Iterable[tuple[str, pulp.LpConstraint]]:
        """eta(q) <= eta_max, each monomial z = prod q_i linearised, the intercept on "any q_i = 1"."""
        if noise is None or math.isinf(most) or not self.q:
            return
        if noise.kind != "polynomial":
            raise NoiseError("the slides' formulation takes a noise polynomial; fit one (fit_noise), or use method='elimination'")
        index = dict(zip(noise.layers, self.problem.quantizable, strict=True))
        terms = []
        for n, (names, coefficient) in enumerate(noise.terms.items()):
            bits = [self.q[index[name]] for name in names]
            z = bits[0] if len(bits) == 1 else self._binary(f"z_{n}")
            if len(bits) > 1:
                for m, bit in enumerate(bits):
                    yield f"monomial_{n}_{m}", z <= bit
                yield f"monomial_{n}", z >= pulp.lpSum(bits) - (len(bits) - 1)
            terms.append((z, coefficient))
        exists = self._binary("q_any")
        for i, bit in self.q.items():
            yield f"any_{i}", exists >= bit
        yield "any", exists <= pulp.lpSum(self.q.values())
        yield "noise", pulp.LpAffineExpression([*terms, (exists, noise.intercept)]) <= most

    def device_energy(self, limits: Limits) -> Iterable[tuple[str, pulp.LpConstraint]]:
        """E_0 <= J_0."""
        if limits.max_device_energy_j is not None:
            network = self.problem.network
            yield "device_energy", self.total(energy_weights(network, network.source)) <= limits.max_device_energy_j

    def memory(self) -> Iterable[tuple[str, pulp.LpConstraint]]:
        """Weights on a server, a quarter of them for int8 layers, fit its memory."""
        for k, server in enumerate(self.problem.network.servers):
            if server.memory_bytes is not None:
                size = [layer.weight_bytes for layer in self.problem.graph.layers]
                terms = [(v, size[i]) for (i, s), v in self.x.items() if s == k]
                terms += [(v, -(1 - INT8_SHARE) * size[i]) for (i, s), v in self.xq.items() if s == k]
                yield f"memory_{k}", pulp.LpAffineExpression(terms) <= server.memory_bytes


def available_solvers() -> tuple[str, ...]:
    """Names of the solvers that can be used here."""
    return tuple(name for name in SOLVERS if _solver(name).available())


def _solver(name: str, **options: Any) -> pulp.LpSolver:
    if name == "CBC":
        options["path"] = pulp_cbc_path  # the one that PuLP 3 brings along
    return pulp.getSolver(SOLVERS[name], msg=False, **options)


def _run(programme: pulp.LpProblem, model: _Slides, solver: str, gap: float, time_limit_s: float | None) -> Solution:
    if solver not in SOLVERS:
        raise SolverError(f"solver {solver!r} is unknown{nearest(solver, SOLVERS)}")
    if solver not in available_solvers():
        raise SolverError(f"solver {solver!r} is not installed here; there are {', '.join(available_solvers())}")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        options: dict[str, Any] = {"gapRel": gap, "timeLimit": time_limit_s, "threads": 1}
        if solver == "CBC":
            options["logPath"] = str(log)
        try:
            programme.solve(_solver(solver, **options))
        except pulp.PulpSolverError as error:
            raise SolverError(f"{solver} failed: {error}") from None
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    # PuLP's status says "Optimal" of an unproved incumbent too; sol_status does not.
    if programme.sol_status in (pulp.LpSolutionInfeasible, pulp.LpSolutionUnbounded):
        raise InfeasibleError("no placement satisfies the limits")
    if programme.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        raise SolverError(f"{solver} found no plan within its limit of time; give it more than time_limit_s={time_limit_s}")
    optimal = programme.sol_status == pulp.LpSolutionOptimal
    objective = pulp.value(programme.objective)
    bound = _bound(programme, solver, text, objective, optimal)
    x = {key: variable.value() for key, variable in model.x.items()}
    return Solution(
        placement=tuple(
            max((k for k in model.servers if (i, k) in x), key=lambda k: x[i, k]) for i in range(len(model.problem.graph.layers))
        ),
        quantized=tuple(round(model.q[i].value() or 0) for i in model.problem.quantizable),
        status="optimal" if optimal else "feasible",
        bound=bound,
        gap=max(0.0, objective - bound) / max(abs(objective), 1e-12),
        variables=len(programme.variables()),
        constraints=programme.numConstraints(),
    )


def _bound(programme: pulp.LpProblem, solver: str, log: str, objective: float, optimal: bool) -> float:
    if solver == "HiGHS":
        return float(programme.solverModel.getInfo().mip_dual_bound)
    if optimal:
        return objective
    found = [line.split(":")[1] for line in log.splitlines() if line.startswith("Lower bound:")]
    return float(found[-1]) if found else float(np.nan)
