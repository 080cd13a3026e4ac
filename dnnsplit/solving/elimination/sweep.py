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
from functools import cached_property, lru_cache, reduce

import numpy as np

from dnnsplit.ground.errors import SolverError
from dnnsplit.solving.arrays import Problem, Weights
from dnnsplit.solving.elimination import factors
from dnnsplit.solving.elimination.factors import Form, Table
from dnnsplit.solving.elimination.order import BLOCK, Ordering, Step, Sum, find_ordering
from dnnsplit.solving.elimination.relays import TIE

# More q bits than this are refused: 2^18 schemes are a quarter of a million.
MAX_BITS = 18
# Sums of no more entries than this are made in one piece.
SMALL = 2**15


@dataclass(frozen=True, eq=False)
class Optima:
    """The optimum of every quantization scheme, or of all of them together; found when they are first asked for.

    Few optima are ties. So a pass over the first objective alone tells the optimum and its placement, and the second
    objective is looked at only where that placement is not the only one, or where its values are asked for.
    """

    problem: Problem
    _form: Form = field(repr=False)
    _ordering: Ordering = field(repr=False)
    _objectives: tuple[Weights, ...] = field(repr=False)
    _bit_costs: np.ndarray | None = field(repr=False)

    @property
    def values(self) -> np.ndarray:
        """All objectives of the optimum of each scheme, float (objectives, schemes), first q bit lowest.

        The first objective is infinite where no placement exists. With free bits (objectives, 1), of the optimum of all schemes.
        """
        return self._all.values

    @property
    def value(self) -> np.ndarray:
        """The objective that was minimised."""
        run = self._all if "_all" in self.__dict__ else self._first
        return np.asarray(run.values[0])

    def placement(self, scheme: int) -> tuple[int, ...]:
        """Return the server position of each layer in the optimum of one scheme."""
        chosen = self._chosen(scheme)
        return tuple(chosen[i] for i in range(len(self.problem.graph.layers)))

    def best(self) -> tuple[tuple[int, ...], int]:
        """Return the placement and the scheme of the optimum over free bits."""
        chosen = self._chosen(0)
        scheme = sum(chosen[-1 - j] << j for j in range(len(self.problem.choices)))
        return tuple(chosen[i] for i in range(len(self.problem.graph.layers))), scheme

    @cached_property
    def _first(self) -> _Pass:
        return self._all if len(self._objectives) == 1 else self._run(self._objectives[:1], tells_ties=True)

    @cached_property
    def _all(self) -> _Pass:
        return self._run(self._objectives)

    def _run(self, objectives: Sequence[Weights], tells_ties: bool = False) -> _Pass:
        ordering, choices = self._ordering, []
        room = np.empty(len(objectives) * max(BLOCK, *(self._form.sizes.of(step.variable) for step in ordering.steps)))
        tables = _tables(self.problem, self._form, objectives, self._bit_costs)
        for step in ordering.steps:
            reduced, choice = _minimise(step, tables, len(objectives), tells_ties, room)
            tables.append(reduced)
            choices.append(choice)
            for number, _ in step.inputs:
                tables[number] = None
        # axes ascend, so the source form comes first, then the last q bit, and flattening packs them as schemes are numbered
        total = last_sum(ordering, self._form, tables, len(objectives)).reshape(len(objectives), -1)
        return _Pass(total, choices)

    def _chosen(self, scheme: int) -> dict[int, int]:
        found = None if "_all" in self.__dict__ else self._follow(self._first, scheme)
        if found is None:
            found = self._follow(self._all, scheme)
        assert found is not None  # with all objectives the first of equals is taken
        return found

    def _follow(self, run: _Pass, scheme: int) -> dict[int, int] | None:
        """Return the value of each variable; None where two are equally good and one objective cannot tell which to take."""
        source, q = self.problem.parted(scheme)
        chosen = {-1 - j: q >> j & 1 for j in range(len(self.problem.quantizable))}
        chosen[-1 - len(self.problem.quantizable)] = source
        for step, choice in zip(reversed(self._ordering.steps), reversed(run.choices), strict=True):
            value = int(choice[tuple([chosen[a] for a in step.rest])])
            if value < 0:
                return None
            chosen[step.variable] = value
        return chosen


@dataclass(frozen=True, eq=False)
class _Pass:
    """What one elimination gives: the values of its objectives, and for each step the choice; below 0 it is a tie."""

    values: np.ndarray
    choices: Sequence[np.ndarray]


def eliminate(problem: Problem, *objectives: Weights, free_bits: bool = False, bit_costs: np.ndarray | None = None) -> Optima:
    """Minimise a linear objective over all placements, for every quantization scheme or over the schemes too.

    Parameters
    ----------
    *objectives : Weights
        The first is minimised; the second decides between placements whose first one is equal (to 1e-12 of its value); of others
        the values are told.
    free_bits : bool, default False
        Minimise over the q bits as well: one optimum, whatever its noise.
    bit_costs : np.ndarray | None, optional
        float (quantizable layers, 2), added to the objective for each value of each q bit; infinity fixes a bit.

    Raises
    ------
    SolverError
        The tables would be too large.
    """
    return Optima(problem, *_ordered(problem, len(objectives), free_bits, bit_costs), objectives, bit_costs)


def marginals(problem: Problem, weights: Weights, allowed: np.ndarray) -> np.ndarray:
    """Return the least objective with layer i on server k, float (layers, servers), over the schemes that are allowed.

    One pass down the tables after the pass up (the two passes of belief propagation on a tree, with min and plus). Infinite
    where there is no such plan.
    """
    form, ordering = _ordered(problem, 1)
    tables = _tables(problem, form, (weights,))
    count = len(tables)
    sums, messages = [], []
    for up in ordering.steps:
        sums.append(add(up, tables, 1)[0])
        messages.append(sums[-1].min(axis=up.axis))
        tables.append(messages[-1][None])
    last = np.where(allowed.reshape(problem.choices), last_sum(ordering, form, tables, 1)[0], np.inf)
    least = np.full(problem.allowed.shape, np.inf)
    down: dict[int, np.ndarray] = {}  # by step: what the rest of the problem adds to its result
    for number in range(len(ordering.steps), -1, -1):
        step: Sum = ordering.last
        belief = last
        if number < len(ordering.steps):
            step = inner = ordering.steps[number]
            belief = sums[number] + np.expand_dims(down.pop(number), inner.axis)
            if inner.variable < len(least):
                least[inner.variable] = belief.min(axis=tuple(n for n, a in enumerate(inner.axes) if a != inner.variable))
        for position, shape in step.inputs:
            if position >= count:
                other = tuple(n for n, size in enumerate(shape) if size == 1)
                message = messages[position - count]
                outside = belief.min(axis=other, keepdims=True).reshape(message.shape)
                reachable = np.isfinite(message)
                down[position - count] = np.where(reachable, outside - np.where(reachable, message, 0.0), 0.0)
    return least


def _ordered(
    problem: Problem, objectives: int, free_bits: bool = False, bit_costs: np.ndarray | None = None
) -> tuple[Form, Ordering]:
    """Return how the problem is written down, and the steps of its elimination; what would be too large is refused."""
    bits = len(problem.quantizable)
    if bits > MAX_BITS and not free_bits:
        message = f"{bits} quantizable layers are too many to treat every scheme at once (at most {MAX_BITS})"
        raise SolverError(message, "use method='milp'")
    more = () if bit_costs is None else tuple((-1 - j,) for j in range(bits))
    form = factors.best_form(problem, free_bits, more)
    return form, find_ordering(form.scopes + more, form.sizes, -len(problem.choices) if free_bits else 0, objectives)


def _tables(
    problem: Problem, form: Form, objectives: Sequence[Weights], bit_costs: np.ndarray | None = None
) -> list[Table | None]:
    """Return the tables that an elimination starts from."""
    tables: list[Table | None] = list(factors.values(problem, form, *objectives))
    for own in bit_costs if bit_costs is not None else ():
        tables.append(np.stack([own, *[np.zeros(2)] * (len(objectives) - 1)]))
    return tables


def add(step: Step, tables: Sequence[Table | None], objectives: int) -> np.ndarray:
    """Return the sum of the inputs of one step, float (objectives, one axis per variable)."""
    return reduce(np.add, _parts(step, tables, objectives))


def last_sum(ordering: Ordering, form: Form, tables: Sequence[Table | None], objectives: int) -> np.ndarray:
    """Return the sum of what is left when all steps are done; q bits that no table knows have their axes too."""
    parts = _parts(ordering.last, tables, objectives)
    return reduce(np.add, [*parts, np.zeros((objectives, *map(form.sizes.of, ordering.last.axes)))])


def _parts(step: Sum, tables: Sequence[Table | None], objectives: int) -> list[np.ndarray]:
    """Return the inputs of one step, float (objectives, one axis per variable, of one entry where an input lacks it)."""
    found = [table for number, _ in step.inputs if (table := tables[number]) is not None]
    made = [table() if callable(table) else table for table in found]
    return [table.reshape(objectives, *shape) for table, (_, shape) in zip(made, step.inputs, strict=True)]


def _minimise(
    step: Step, tables: Sequence[Table | None], objectives: int, tells_ties: bool, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the inputs of one step and minimise over its variable; return the values and the choices.

    A large sum is never made whole: blocks of it, in a room that is used again and again, stay in the processor's cache. The
    axes that the largest input has are the inner ones, in the order in which it lies in memory, so that the inner loops are
    long; those that it lacks come next, so that a piece of it is read again while it is still there.
    """
    parts, axis = _parts(step, tables, objectives), step.axis
    shape = tuple(map(max, zip(*(part.shape[1:] for part in parts), strict=True)))
    size, rest = shape[axis], [n for n in range(len(shape)) if n != axis]
    if math.prod(shape) <= SMALL:
        own = [shape[n] for n in rest]
        table = reduce(np.add, parts).transpose(0, axis + 1, *(n + 1 for n in rest))
        least, choice = _least(table.reshape(objectives, size, -1), tells_ties)
        return least.reshape(objectives, *own), choice.reshape(own)
    parts = sorted([np.zeros((objectives, *[1] * len(shape))), *parts], key=np.size)
    while len(parts) > 2:
        parts = sorted([parts[0] + parts[1], *parts[2:]], key=np.size)
    large = parts[1]
    rest.sort(key=lambda n: (large.shape[n + 1] > 1, -large.strides[n + 1]))
    outer = next((n for n in range(len(rest)) if size * math.prod(shape[m] for m in rest[n:]) <= BLOCK), len(rest))
    rest[:outer] = sorted(rest[:outer], key=lambda n: large.shape[n + 1] == 1)
    parts = [part.transpose(0, axis + 1, *(n + 1 for n in rest)) for part in parts]
    own = [shape[n] for n in rest]
    least, choice = np.empty((objectives, *own)), np.empty(own, np.min_scalar_type(-size))
    block = room[: objectives * size * math.prod(own[outer:])].reshape(objectives, size, *own[outer:])
    for at in np.ndindex(*own[:outer]):
        pieces = [part[:, :, *(min(i, n - 1) for i, n in zip(at, part.shape[2:], strict=False))] for part in parts]
        np.add(pieces[0], pieces[1], out=block)
        values, chosen = _least(block.reshape(objectives, size, -1), tells_ties)
        least[:, *at], choice[*at] = values.reshape(objectives, *own[outer:]), chosen.reshape(own[outer:])
    back = np.argsort(rest)
    return least.transpose(0, *(back + 1)), choice.transpose(back)


def _least(table: np.ndarray, tells_ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the first objective over the second axis of (objectives, values, n), of equal ones the second.

    Return the values and where they stand; -1 where there are equal ones, if it `tells_ties`.
    """
    objectives, size, count = table.shape
    first = table[0]
    least = first.min(axis=0)
    ties = objectives > 1 or tells_ties
    equal = first <= (least + TIE * np.abs(least) if ties else least)  # costs of bits may be below 0
    ties = ties and np.count_nonzero(equal) > count
    if ties and objectives > 1:
        second = np.where(equal, table[1], np.inf)
        equal &= second <= second.min(axis=0)
    # the first of those that are left: numpy's argmin and argmax are many times slower along this axis
    choice = (equal * _places(size)).max(axis=0)
    np.subtract(size - 1, choice, out=choice)
    if objectives == 1:
        if ties:
            choice[equal.sum(axis=0) > 1] = -1
        return least[None], choice
    return table.reshape(objectives, -1).take(choice * np.intp(count) + np.arange(count), axis=1), choice


@lru_cache
def _places(size: int) -> np.ndarray:
    return np.arange(size - 1, -1, -1, dtype=np.min_scalar_type(-size))[:, None]
