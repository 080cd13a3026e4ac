"""Exact placement by min-sum variable elimination, for all quantization schemes at once.

Layer graphs are almost chains: eliminating one layer after another, each time minimising over its server, only ever
needs tables over the few layers next to it (Bertele and Brioschi, Nonserial Dynamic Programming, 1972). The q bits are
never minimised over: they ride along as axes of the tables, so that one pass gives the optimum of every scheme. Where no
limit on noise holds they may be minimised over too, like servers, and then any number of them is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from dnnsplit import factors
from dnnsplit.errors import SolverError
from dnnsplit.ordering import Ordering, Step, find_ordering
from dnnsplit.problem import Problem, Weights
from dnnsplit.routes import TIE

# More q bits than this are refused: 2^18 schemes are a quarter of a million.
MAX_BITS = 18


@dataclass(frozen=True, eq=False)
class Optima:
    """The optimum of every quantization scheme, or of all of them together.

    Attributes
    ----------
    values : float (objectives, 2^n), of the optimum of each scheme (first q bit lowest), the first objective infinite where
        no placement exists. With free bits (objectives, 1), of the optimum of all schemes
    """

    problem: Problem
    values: np.ndarray
    _steps: Sequence[Step] = field(repr=False)
    _choices: Sequence[np.ndarray] = field(repr=False)

    @property
    def value(self) -> np.ndarray:
        """The objective that was minimised."""
        return self.values[0]

    def placement(self, scheme: int) -> tuple[int, ...]:
        """Return the server position of each layer in the optimum of one scheme."""
        chosen = self._chosen(scheme)
        return tuple(chosen[i] for i in range(len(self.problem.graph.layers)))

    def best(self) -> tuple[tuple[int, ...], int]:
        """Return the placement and the scheme of the optimum over free bits."""
        chosen = self._chosen(0)
        scheme = sum(chosen[-1 - j] << j for j in range(len(self.problem.quantizable)))
        return tuple(chosen[i] for i in range(len(self.problem.graph.layers))), scheme

    def _chosen(self, scheme: int) -> dict[int, int]:
        chosen = {-1 - j: scheme >> j & 1 for j in range(len(self.problem.quantizable))}
        for step, choice in zip(reversed(self._steps), reversed(self._choices), strict=True):
            chosen[step.variable] = int(choice[tuple(chosen[a] for a in step.rest)])
        return chosen


def eliminate(
    problem: Problem,
    *objectives: Weights,
    free_bits: bool = False,
    bit_costs: np.ndarray | None = None,
) -> Optima:
    """Minimise a linear objective over all placements, for every quantization scheme or over the schemes too.

    Parameters
    ----------
    problem : the placement problem; n = number of its quantizable layers
    objectives : the first is minimised; the second decides between placements whose first one is equal (to 1e-12 of its
        value); of others the values are told
    free_bits : minimise over the q bits as well: one optimum, whatever its noise
    bit_costs : float (n, 2), added to the objective for each value of each q bit; infinity fixes a bit

    Returns
    -------
    Optima : exact

    Raises
    ------
    SolverError : the tables would be too large; use the MILP (``method="milp"``), or fewer quantizable layers
    """
    ordering, tables = prepare(problem, objectives, free_bits, bit_costs)
    choices = []
    for step in ordering.steps:
        reduced, choice = _minimise(add(step, tables, len(objectives)), step.axis + 1)
        tables.append(reduced)
        choices.append(choice)
        for number, _ in step.inputs:
            tables[number] = None
    # axes ascend, so the last q bit comes first and flattening packs the bits as `pack_schemes` does
    total = add(ordering.last, tables, len(objectives)).reshape(len(objectives), -1)
    return Optima(problem, total, ordering.steps, choices)


def marginals(problem: Problem, weights: Weights, allowed: np.ndarray) -> np.ndarray:
    """Return the least objective with layer i on server k, for each of them, over the schemes that are allowed.

    One pass down the tables after the pass up (the two passes of belief propagation on a tree, with min and plus).

    Parameters
    ----------
    allowed : bool (2^n,)

    Returns
    -------
    float (layers, servers) : infinite where there is no such plan
    """
    ordering, tables = prepare(problem, (weights,))
    count = len(tables)
    sums = []
    for step in ordering.steps:
        sums.append(add(step, tables, 1)[0])
        tables.append(sums[-1].min(axis=step.axis)[None])
    last = np.where(allowed.reshape((2,) * len(problem.quantizable)), add(ordering.last, tables, 1)[0], np.inf)
    least = np.full(problem.allowed.shape, np.inf)
    down: dict[int, np.ndarray] = {}  # by step: what the rest of the problem adds to its result
    for number in range(len(ordering.steps), -1, -1):
        inner = number < len(ordering.steps)
        step = ordering.steps[number] if inner else ordering.last
        belief = sums[number] + np.expand_dims(down.pop(number), step.axis) if inner else last
        if inner and step.variable < len(least):
            least[step.variable] = belief.min(axis=tuple(n for n, a in enumerate(step.axes) if a != step.variable))
        for position, shape in step.inputs:
            if position >= count:
                other = tuple(n for n, size in enumerate(shape) if size == 1)
                message = tables[position][0]
                outside = belief.min(axis=other, keepdims=True).reshape(message.shape)
                reachable = np.isfinite(message)
                down[position - count] = np.where(reachable, outside - np.where(reachable, message, 0.0), 0.0)
    return least


def prepare(
    problem: Problem, objectives: Sequence[Weights], free_bits: bool = False, bit_costs: np.ndarray | None = None
) -> tuple[Ordering, list[np.ndarray | None]]:
    """Return the steps of an elimination and the tables that it starts from; what would be too large is refused before."""
    bits = len(problem.quantizable)
    if bits > MAX_BITS and not free_bits:
        raise SolverError(
            f"{bits} quantizable layers are too many to treat every scheme at once (at most {MAX_BITS}); use method='milp'"
        )
    scopes, sizes = factors.scopes(problem), factors.sizes(problem)
    if bit_costs is not None:
        scopes += tuple((-1 - j,) for j in range(bits))
    ordering = find_ordering(scopes, sizes, bits, -bits if free_bits else 0, len(objectives))
    tables: list[np.ndarray | None] = list(factors.values(problem, *objectives))
    for own in bit_costs if bit_costs is not None else ():
        tables.append(np.stack([own, *[np.zeros(2)] * (len(objectives) - 1)]))
    return ordering, tables


def add(step: Step, tables: Sequence[np.ndarray | None], objectives: int) -> np.ndarray:
    """Return the sum of the inputs of one step, float (objectives, one axis per variable)."""
    parts = [tables[number].reshape(objectives, *shape) for number, shape in step.inputs]
    if step.variable is None:  # q bits that no table knows have their axes too
        parts.append(np.zeros((objectives, *(2,) * len(step.axes))))
    return reduce(np.add, parts)


def _minimise(table: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the first objective over one axis, of equal ones the second; return the values and the choices."""
    before, after = table.shape[1:axis], table.shape[axis + 1 :]
    flat = table.reshape(len(table), math.prod(before), table.shape[axis], -1)
    first = flat[0]
    compared = first
    if len(table) > 1:
        compared = np.where(first <= first.min(axis=1, keepdims=True) * (1 + TIE), flat[1], np.inf)
    choice = compared.argmin(axis=1)
    least = flat[:, np.arange(flat.shape[1])[:, None], choice, np.arange(flat.shape[3])]
    return least.reshape(-1, *before, *after), choice.astype(np.uint8).reshape((*before, *after))
