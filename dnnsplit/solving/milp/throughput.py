"""The least bottleneck of a pipeline: bracketed by elimination, searched for in between by a mixed-integer programme."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from dnnsplit.ground.errors import InfeasibleError, SolverError
from dnnsplit.ground.tolerance import TOLERANCE, relative_gap
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.schemes import pack, unpack
from dnnsplit.solving.arrays import Problem, Weights
from dnnsplit.solving.bounds.bottleneck import Bracket, bracket, without_slow
from dnnsplit.solving.milp.solvers import Solution, solve_milp
from dnnsplit.solving.objective import Limits
from dnnsplit.solving.request import Effort


def solve_bottleneck(
    problem: Problem, weights: Weights, noise: NoiseModel | None, limits: Limits, formulation: str, effort: Effort
) -> Solution:
    """Minimise the slowest stage, of the servers' compute and the links between them (`Cost.bottleneck_s`), and nothing else.

    Elimination, where it applies, bounds it from both sides before the MILP searches in between. Arguments and errors are those
    of `solve_milp`; the weights only decide between routes, where there are relays.
    """
    started, gap, time_limit_s = time.monotonic(), effort.gap, effort.time_limit_s
    try:
        known = bracket(problem, noise, limits, gap, None if time_limit_s is None else time_limit_s / 2)
    except SolverError:  # too large for elimination; the MILP answers without its help
        known = Bracket()
    if known.plan is None and math.isinf(known.low):
        message = "no placement satisfies the limits"
        raise InfeasibleError(message)
    bound, note, proved = known.low, "", known.gap <= gap
    if not proved:
        left = None if time_limit_s is None else max(1.0, started + time_limit_s - time.monotonic())
        try:
            quick = without_slow(problem, known.high)
            found = solve_milp(quick, weights, noise, limits, formulation, replace(effort, time_limit_s=left), known)
            bound = float(np.fmax(bound, found.bound))
            scheme, proved = pack(found.quantized), found.status == "optimal"
            value = problem.price(found.placement, scheme, routes=found.routes, chosen=found.forms).bottleneck_s
            if value < known.high:
                known = replace(known, high=value, plan=(found.placement, scheme), routes=found.routes, forms=found.forms)
        except InfeasibleError:  # nothing is faster
            bound, proved = known.high, True
            if known.plan is None:
                raise
        except SolverError as error:
            if known.plan is None:
                raise
            note = str(error)
    assert known.plan is not None  # else it was infeasible, or not solved
    placement, scheme = known.plan
    bound = min(bound, known.high)
    far = relative_gap(known.high, bound)
    quantized = unpack(scheme, len(problem.quantizable))
    # a solver that calls its answer optimal tells its bound no more exactly than limits are kept
    status = "optimal" if far <= gap or (proved and far <= TOLERANCE) else "feasible"
    return Solution(placement, quantized, status, bound, known.routes, note, known.forms)
