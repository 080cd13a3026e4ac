"""The payoffs that the slides normalise by: the least latency and the least energy that the limits of a question admit.

    T^norm = (T - T_min) / (T_max - T_min)        E^norm = (E - E_min) / (E_max - E_min)

T_min is the least T under eta_max, J_0, the memories, pins and prohibitions, and E_max the least E of the plans that have it;
E_min and T_max are the same the other way round (a lexicographic payoff table; Mavrotas, Appl. Math. Comput. 213, 2009). The
optimum of the weighted sum then has both terms in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from dnnsplit.ground.errors import SolverError
from dnnsplit.solving.cost import Cost
from dnnsplit.solving.elimination.relays import TIE
from dnnsplit.solving.objective import Objective, Reference, normalised_sum, raw_objective
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question

Payoff = tuple[Cost, bool]  # the cost of a plan, and whether it is proved to be the best


def normalised(question: Question, solve: Callable[[Question], Plan]) -> Question:
    """Return a question with its normalised sum as the objective, if it asks for one that its limits decide.

    `solve` answers the questions whose objective is latency or energy.
    """
    if question.weights is None:
        return question
    latency, energy = objectives(question)
    return normalised_by(question, payoff(question, latency, energy, solve), payoff(question, energy, latency, solve))


def objectives(question: Question) -> tuple[Objective, Objective]:
    """Return the latency and the energy of a question's problem as objectives."""
    return raw_objective(question.problem, 1, 0), raw_objective(question.problem, 0, 1)


def normalised_by(question: Question, fast: Payoff, frugal: Payoff) -> Question:
    """Return a question with the sum as the objective that is normalised by its two payoffs: least latency, least energy."""
    assert question.weights is not None
    seconds, joules = (fast[0].latency_s, frugal[0].latency_s), (frugal[0].energy_j, fast[0].energy_j)
    by = Reference(seconds, joules, "limited", fast[1] and frugal[1])
    return question.aimed_at(normalised_sum(question.problem.network, *question.weights, by))


def payoff(question: Question, first: Objective, second: Objective, solve: Callable[[Question], Plan]) -> Payoff:
    """Return what is least in the first objective and, of that, in the second: by elimination where it can tell."""
    aimed = question.aimed_at(first)
    try:
        value, other = aimed.optima.values
    except SolverError:  # too many schemes or too wide; `solve` takes the MILP or a search over the schemes
        pass
    else:
        value = np.where(question.allowed, value, np.inf)
        other = np.where(value <= value.min() * (1 + TIE), other, np.inf)
        scheme = int(other.argmin())
        if np.isfinite(other[scheme]):
            cost = aimed.price(aimed.optima.placement(scheme), scheme)
            if not question.limits.broken(question.problem, cost):
                return cost, True
    return one_after_the_other(aimed, second, solve)


def one_after_the_other(question: Question, second: Objective, solve: Callable[[Question], Plan]) -> Payoff:
    """Return what is least in the objective of a question and, of that, in the second one, by two answers of `solve`."""
    best = solve(question)
    held: dict[str, Any] = {f"max_{question.objective.name}": getattr(best, question.objective.name)}
    then = solve(replace(question.aimed_at(second), limits=replace(question.limits, **held)))
    return then.cost, best.status == then.status == "optimal"
