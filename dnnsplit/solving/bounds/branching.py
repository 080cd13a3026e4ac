"""Branch and bound over the q bits, where there are too many to carry all schemes along.

A node fixes some bits. Minimising over the others too, whatever their noise, bounds it from below; a multiplier on a linear
function below the noise lifts the bound. A node is closed by its bound, by the least noise it can have, by an optimum that
keeps the limit, or, once its free bits are few enough, by one elimination over all its schemes.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dnnsplit.ground.errors import InfeasibleError, SolverError
from dnnsplit.ground.tolerance import loosened, within
from dnnsplit.noise.models import NoiseModel, Polynomial
from dnnsplit.noise.schemes import all_schemes, pack_schemes
from dnnsplit.solving.arrays import Problem
from dnnsplit.solving.elimination import factors
from dnnsplit.solving.elimination.order import find_ordering
from dnnsplit.solving.elimination.relays import TIE
from dnnsplit.solving.elimination.sweep import MAX_BITS, eliminate
from dnnsplit.solving.objective import unreachable
from dnnsplit.solving.question import Question

# A node is solved in one pass when that carries no more bits, and fills no more table entries, than these.
LEAF_BITS = 12
LEAF_ENTRIES = 2**22


@dataclass(frozen=True)
class Branched:
    """The best plan found, its objective, what bounds the optimum from below, and the nodes that were looked at."""

    placement: tuple[int, ...]
    scheme: int
    value: float
    bound: float
    nodes: int


def branch(question: Question, time_limit_s: float | None = None) -> Branched:
    """Find the best scheme within the noise limit without listing all of them; in time, or the best so far.

    Each source form is a search of its own, which begins with the best that those before it found.
    """
    if not question.problem.sources:
        return _branch(question, time_limit_s, Branched((), 0, math.inf, math.inf, 0))
    best, bits = Branched((), 0, math.inf, math.inf, 0), len(question.problem.quantizable)
    for source in question.sources:
        try:
            found = _branch(question.under(source), time_limit_s, best)
        except InfeasibleError:
            continue
        scheme = best.scheme if found.placement is best.placement else found.scheme | source << bits
        best = replace(found, scheme=scheme, bound=min(best.bound, found.bound))
    if not best.placement:
        raise InfeasibleError(unreachable(question.problem))
    return best


def _branch(question: Question, time_limit_s: float | None, best: Branched) -> Branched:
    started = time.monotonic()
    count = itertools.count()
    waiting = [(-math.inf, next(count), Node({}))]
    nodes = best.nodes
    while waiting and waiting[0][0] < best.value * (1 - TIE):
        if time_limit_s is not None and time.monotonic() - started > time_limit_s:
            if not best.placement:
                message = f"branch and bound found no plan within {time_limit_s:g} s"
                raise SolverError(message, "give it more time")
            return replace(best, bound=waiting[0][0], nodes=nodes)
        node = heapq.heappop(waiting)[2]
        nodes += 1
        bound, best, children = _look(question, node, best)
        for child in children if bound < best.value * (1 - TIE) else ():
            heapq.heappush(waiting, (bound, next(count), child))
    if not best.placement:
        raise InfeasibleError(unreachable(question.problem))
    return replace(best, bound=best.value, nodes=nodes)


@dataclass(frozen=True)
class Node:
    """Some fixed bits, and two points (linear noise, objective), over the limit and not, that tell its parent's multiplier."""

    fixed: dict[int, int]
    ends: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None)


def _look(question: Question, node: Node, best: Branched) -> tuple[float, Branched, tuple[Node, ...]]:
    """Return a lower bound of a node, the best plan so far, and the two halves of the node unless it is closed."""
    most = question.limits.max_noise
    base, slopes = minorant(question.noise, node.fixed)
    if not within(base + np.minimum(slopes, 0.0).sum(), most):
        return math.inf, best, ()
    problem = fix_bits(question.problem, node.fixed)
    free = [j for j in range(len(question.problem.quantizable)) if j not in node.fixed]
    objective = question.objective
    if _few(problem):
        optima = eliminate(problem, objective.weights, objective.ties)
        quiet = question.limits.quiet(_noise(question, node.fixed, free, all_schemes(len(free))))
        values = np.where(quiet, optima.value, np.inf)
        own = int(values.argmin())
        if values[own] < best.value:
            scheme = _scheme(node.fixed, free, own)
            best = replace(best, placement=optima.placement(own), scheme=scheme, value=float(values[own]))
        return math.inf, best, ()
    bound, scheme = -math.inf, 0
    over, under = node.ends
    multipliers = [0.0, math.inf] if over is None else []  # first no penalty, then the least noise that there can be
    for _ in range(8 if multipliers else 3):
        if multipliers:
            m = multipliers.pop(0)
        elif over and under:
            m = max(0.0, (under[1] - over[1]) / (over[0] - under[0]))
        else:
            break
        costs = np.zeros((len(free), 2))
        if math.isinf(m):
            costs[slopes[free] > 0, 1] = costs[slopes[free] < 0, 0] = math.inf
        else:
            costs[:, 1] = m * slopes[free]
        optima = eliminate(problem, objective.weights, objective.ties, free_bits=True, bit_costs=costs)
        if math.isinf(optima.value[0]):
            return math.inf, best, ()
        placement, own = optima.best()
        scheme = _scheme(node.fixed, free, own)
        penalty = math.fsum(slopes[j] for j in free if scheme >> j & 1)
        value = float(optima.value[0]) - (0.0 if math.isinf(m) else m * penalty)
        if not math.isinf(m):
            bound = max(bound, float(optima.value[0]) + _lift(m, base, slopes, loosened(most)))
        bits = np.array([[own >> n & 1 for n in range(len(free))]])
        if value < best.value and question.limits.quiet(_noise(question, node.fixed, free, bits))[0]:
            best = replace(best, placement=placement, scheme=scheme, value=value)
        end = (base + penalty, value)
        converged = end in (over, under)
        over, under = (end, under) if end[0] > most else (over, end)
        if bound >= best.value * (1 - TIE) or converged or over is None:
            break
    pick = max([j for j in free if scheme >> j & 1] or free, key=lambda j: abs(slopes[j]))
    ends = (None, None) if over is None or under is None else (over, under)
    return bound, best, tuple(Node(node.fixed | {pick: bit}, ends) for bit in (1, 0))


def _lift(m: float, base: float, slopes: np.ndarray, most: float) -> float:
    """What a multiplier on the linear noise adds to a bound; rounding is taken off, so that the bound stays one."""
    return m * (base - most) - 1e-12 * m * (abs(base) + abs(most) + float(np.abs(slopes).sum())) if m else 0.0


def minorant(noise: NoiseModel | None, fixed: Mapping[int, int]) -> tuple[float, np.ndarray]:
    """Return (base, slopes) with base + slopes . q <= eta(q) for every scheme q that has the fixed bits.

    A product of bits is at least 0, and at most the mean of its bits, which bounds terms below 0. A table is bounded by 0.
    """
    slopes = np.zeros(len(noise.layers) if noise else 0)
    if noise is None or not isinstance(noise, Polynomial) or noise.power != 1:
        return 0.0, slopes  # a link's polynomial bounds a power of the noise, which is no multiple of it
    index = {name: j for j, name in enumerate(noise.layers)}
    base = noise.intercept if any(fixed.values()) else min(noise.intercept, 0.0)
    for names, coefficient in noise.terms.items():
        bits = [index[name] for name in names]
        free = [j for j in bits if j not in fixed]
        if any(fixed.get(j) == 0 for j in bits):
            continue
        if not free:
            base += coefficient
        elif coefficient < 0 or len(free) == 1:
            slopes[free] += coefficient / len(free)
    return base, slopes


def fix_bits(problem: Problem, fixed: Mapping[int, int]) -> Problem:
    """Return the problem in which some q bits are settled: those layers have one precision, and are quantizable no more."""
    ones = [problem.quantizable[j] for j, bit in fixed.items() if bit]
    tensors = [t for t, p in enumerate(problem.producer) if p in ones]
    settled = {}
    for name in ("layer_s", "held_bytes"):
        settled[name] = array = getattr(problem, name).copy()
        array[ones, ..., 0] = array[ones, ..., 1]
    free = tuple(i for j, i in enumerate(problem.quantizable) if j not in fixed)
    return replace(problem, quantizable=free, forms=problem.forms.settled(tensors), **settled)


def _few(problem: Problem) -> bool:
    bits = len(problem.quantizable)
    if bits > LEAF_BITS:
        return False
    try:
        form = factors.best_form(problem)
        entries = find_ordering(form.scopes, form.sizes, 0).entries
    except SolverError:
        return False
    return bits == 0 or entries <= LEAF_ENTRIES


def _scheme(fixed: Mapping[int, int], free: list[int], own: int) -> int:
    return sum(bit << j for j, bit in fixed.items()) + sum((own >> n & 1) << j for n, j in enumerate(free))


def _noise(question: Question, fixed: Mapping[int, int], free: list[int], bits: np.ndarray) -> np.ndarray:
    """Noise of schemes given by their free bits, 0/1 (n, free)."""
    if question.noise is None:
        return np.zeros(len(bits))
    schemes = np.zeros((len(bits), len(question.problem.quantizable)), np.int8)
    schemes[:, free] = bits
    for j, bit in fixed.items():
        schemes[:, j] = bit
    if schemes.shape[1] <= MAX_BITS:
        return np.asarray(question.scheme_noise[pack_schemes(schemes)])
    return question.noise.predict(schemes)
