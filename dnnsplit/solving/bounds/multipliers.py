"""Limits that couple all layers (energy, memory), priced into the objective: bounds, plans, and what no optimum can use.

For multipliers m >= 0, min over plans of objective + sum_c m_c (use_c - limit_c) is never above the optimum under the limits
(Everett, 1963; Geoffrion, 1974), and elimination computes it exactly. The best multipliers are found with Kelley's cutting
planes (1960): each plan seen is a plane above the dual function, and a small linear programme tells where to look next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
from scipy.optimize import linprog

from dnnsplit.ground.tolerance import loosened, relative_gap
from dnnsplit.solving.arrays import Problem, Weights, held_weights
from dnnsplit.solving.cost import Cost
from dnnsplit.solving.elimination.sweep import eliminate, marginals
from dnnsplit.solving.question import Question

ROUNDS = 30
TRIES = 8  # schemes that are priced exactly in search of one that keeps all limits


@dataclass(frozen=True, eq=False)
class Relaxation:
    """What the multipliers tell about a question.

    Attributes
    ----------
    bound : float
        No plan within the limits has a lower objective (without the objective's constant).
    value : float
        Objective of the best plan found, infinite if none was.
    plan : tuple[tuple[int, ...], int, Cost] | None
        Its placement, its scheme and its cost.
    problem : Problem
        The problem without the servers of layers that no better plan can use.
    """

    bound: float
    value: float
    plan: tuple[tuple[int, ...], int, Cost] | None
    problem: Problem

    @property
    def gap(self) -> float:
        """Relative distance between the two."""
        return relative_gap(self.value, self.bound) if self.plan else math.inf


def relax(question: Question, gap: float = 1e-9) -> Relaxation:
    """Bound a question with limits on energy or memory, and find a good plan for it; a relative gap of `gap` will do."""
    limits = coupling(question)
    uses = [use for use, _ in limits]
    most = np.array([limit for _, limit in limits])
    best = Relaxation(-math.inf, math.inf, None, question.problem)
    planes: list[np.ndarray] = []  # objective and uses of plans
    for use in uses:  # the plan with the least use of each: good starts, and often within the limits
        best, plane = _look(question, uses, most, use, best)
        planes.append(plane)
    multipliers = at = np.zeros(len(limits))  # at: those of the best bound
    above = math.inf
    for _ in range(ROUNDS):
        priced = _priced(question, uses, multipliers)
        before = best.bound
        best, plane = _look(question, uses, most, priced, best, float(multipliers @ most))
        planes.append(plane)
        at = multipliers if best.bound > before else at
        if best.gap <= gap or not above - best.bound > 1e-6 * abs(best.bound):
            break
        multipliers, above = _where(np.array(planes), most)
    if best.gap <= gap or best.plan is None:
        return best
    least = marginals(question.problem, _priced(question, uses, at), question.allowed) - at @ most
    keep = question.problem.allowed & (least <= best.value * (1 + 1e-9))
    return replace(best, problem=replace(question.problem, allowed=keep))


def _priced(question: Question, uses: list[Weights], multipliers: np.ndarray) -> Weights:
    return reduce(add, (float(m) * use for m, use in zip(multipliers, uses, strict=True)), question.objective.weights)


def coupling(question: Question) -> list[tuple[Weights, float]]:
    """Return what the limits on energy, latency and memory are on, and the most that keeps each."""
    network = question.problem.network
    found = [(use, most) for *_, use, most in question.limits.sums(network)]
    found += [(held_weights(network, s.name), s.memory_bytes) for s in network.servers if s.memory_bytes is not None]
    return [(use, loosened(most)) for use, most in found]


def _look(
    question: Question, uses: list[Weights], most: np.ndarray, priced: Weights, best: Relaxation, share: float = math.inf
) -> tuple[Relaxation, np.ndarray]:
    """Solve for a priced objective; keep a better plan, and the bound, which is the optimum without the limits' share."""
    objective = question.objective.weights
    optima = eliminate(question.problem, priced, objective, *uses)
    value = np.where(question.allowed, optima.values[0], np.inf)
    least = int(value.argmin())
    best = replace(best, bound=max(best.bound, float(value[least]) - share))
    # what no placement has is infinite in the first objective alone
    within = question.allowed & np.isfinite(value) & (optima.values[2:] <= most[:, None]).all(axis=0)
    own = np.where(within, optima.values[1], np.inf)
    for scheme in map(int, np.argsort(own)[:TRIES]):
        if not own[scheme] < best.value:
            break
        placement = optima.placement(scheme)
        cost = question.problem.price(placement, scheme, priced, objective)
        if not question.limits.broken(question.problem, cost):  # the use told is less where layers share their weights
            best = replace(best, value=float(own[scheme]), plan=(placement, scheme, cost))
            break
    return best, optima.values[1:, least]


def _where(planes: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the multipliers at which the lowest plane is highest, and its height there."""
    count = len(most)
    excess = planes[:, 1:] - most
    scale = np.abs(excess).max(axis=0)  # of the multipliers, so that all numbers are of one size
    scale[scale == 0] = 1.0
    rows = np.hstack([-excess / scale, np.ones((len(planes), 1))])
    unit = np.abs(planes[:, 0]).max() or 1.0
    found = linprog(np.r_[np.zeros(count), -1.0], rows, planes[:, 0] / unit, bounds=[(0, 1e3)] * count + [(None, None)])
    if not found.success:
        return np.zeros(count), -math.inf  # the bound that is there stands
    return found.x[:count] * unit / scale, float(found.x[count] * unit)
