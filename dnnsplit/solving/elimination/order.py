"""The order in which variables are eliminated, and the tables that this needs: found once per graph, before any table is made."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import NoReturn

from dnnsplit.ground.errors import SolverError
from dnnsplit.ground.units import show

# Eliminations that would need more memory than this are refused.
MAX_BYTES = 4 * 2**30
# Entries of a sum that are made at once: blocks of this many (2 MB for each objective) stay in the cache.
BLOCK = 2**18
# Axes of a table: numpy has 64.
MOST_AXES = 60
# Where tables have more entries than this, it is worth the time to try another order.
MANY_ENTRIES = 2**24

# Variables of a table, ascending: -1 - j is the j-th q bit, and what comes before the last of them the choice of a source form; 0
# to layers - 1 are the layers' servers, and from there on come sets of servers, those that a tensor with many receivers is
# brought to.
Scope = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """How many values the variables have.

    `sets` tells it for each variable that is a set, `choices` for those below 0, the last one's first.
    """

    servers: int
    layers: int
    sets: tuple[int, ...] = ()
    choices: tuple[int, ...] = ()

    def of(self, variable: int) -> int:
        """Return 2 for a bit, the number of servers for a layer, that of its sets for a set."""
        if variable < 0:
            return self.choices[variable + len(self.choices)]
        return self.servers if variable < self.layers else self.sets[variable - self.layers]

    def entries(self, axes: Iterable[int]) -> int:
        """Return the entries of a table."""
        return math.prod(map(self.of, axes))


@dataclass(frozen=True)
class Sum:
    """Sum some tables.

    Attributes
    ----------
    inputs : tuple[tuple[int, tuple[int, ...]], ...]
        (position of a table, its shape among the axes): factors come first, then the result of each step.
    axes : Scope
        Variables of the sum.
    """

    inputs: tuple[tuple[int, tuple[int, ...]], ...]
    axes: Scope


@dataclass(frozen=True)
class Step(Sum):
    """Sum some tables and minimise over one variable."""

    variable: int

    @cached_property
    def rest(self) -> Scope:
        """Variables of the result."""
        return tuple(a for a in self.axes if a != self.variable)

    @cached_property
    def axis(self) -> int:
        """Position of the variable among the axes."""
        return self.axes.index(self.variable)


@dataclass(frozen=True)
class Ordering:
    """The steps of an elimination.

    Attributes
    ----------
    steps : tuple[Step, ...]
        One per variable that is minimised over.
    last : Sum
        The sum of what is left, over all variables that are not.
    entries : int
        Of all sums together; the work.
    largest : int
        Entries of the largest sum, which is made in blocks.
    peak_bytes : int
        Most memory held at once.
    """

    steps: tuple[Step, ...] = field(repr=False)
    last: Sum = field(repr=False)
    entries: int
    largest: int
    peak_bytes: int


@lru_cache(maxsize=32)
def find_ordering(scopes: tuple[Scope, ...], sizes: Sizes, first: int, objectives: int = 2) -> Ordering:
    """Return the steps that eliminate the variables from `first` on, the smallest next table first (greedy min-weight).

    Parameters
    ----------
    scopes : tuple[Scope, ...]
        Variables of each factor.
    first : int
        The first variable that is eliminated: 0, or the least where what rides along is minimised over too.
    objectives : int, default 2
        How many values each entry has.
    """
    order, entries = _greedy(scopes, sizes, first)
    if entries > MANY_ENTRIES:
        order = min((order, entries), _greedy(scopes, sizes, first, careful=True), key=itemgetter(1))[0]
    size = sizes.entries
    tables: list[Scope] = list(scopes)
    touching: dict[int, dict[int, None]] = {v: {} for v in order}
    for number, scope in enumerate(scopes):
        for v in scope:
            if v in touching:
                touching[v][number] = None
    live = sum(map(size, scopes)) * 8 * objectives
    steps, entries, largest, peak, used = [], 0, 0, 0, set()
    made: dict[int, int] = {}  # entries of the results, by number of the table
    for variable in order:
        group = list(touching.pop(variable))
        step = Step(*_sum(group, tables, sizes), variable)
        steps.append(step)
        number = len(tables)
        tables.append(step.rest)
        used.update(group)
        for v in step.rest:
            if v in touching:
                for old in group:
                    touching[v].pop(old, None)
                touching[v][number] = None
        wide = size(step.axes)
        narrow = wide // sizes.of(variable)
        made[number] = narrow
        entries, largest = entries + wide, max(largest, wide)
        # a block of the sum, what ties compare, the result and its choice; choices stay, tables that were read do not
        block = min(wide, BLOCK)
        peak = max(peak, live + block * (8 * objectives + 9 * (objectives - 1)) + narrow * (8 * objectives + 9))
        live += narrow * (8 * objectives + 1) - sum(made.get(g, 0) for g in group) * 8 * objectives
    if peak > MAX_BYTES:
        widest = max((step.axes for step in steps), key=size)
        _too_large(widest, sizes, show(peak, "B"))
    left = [number for number in range(len(tables)) if number not in used]
    last = Sum(*_sum(left, tables, sizes, tuple(range(-len(sizes.choices), 0)) if first >= 0 else ()))
    return Ordering(tuple(steps), last, entries, largest, peak)


def _sum(
    group: list[int], tables: list[Scope], sizes: Sizes, also: Scope = ()
) -> tuple[tuple[tuple[int, tuple[int, ...]], ...], Scope]:
    """Return the inputs and the axes of the sum of some tables."""
    axes = tuple(sorted({a for number in group for a in tables[number]} | set(also)))
    shapes = ((number, tuple(sizes.of(a) if a in tables[number] else 1 for a in axes)) for number in group)
    return tuple(shapes), axes


def work(scopes: tuple[Scope, ...], sizes: Sizes, first: int) -> float:
    """Return the entries of all tables in a first order; infinite where a table alone is too large."""
    try:
        return _greedy(scopes, sizes, first)[1]
    except SolverError:
        return math.inf


@lru_cache(maxsize=32)
def _greedy(scopes: tuple[Scope, ...], sizes: Sizes, first: int, careful: bool = False) -> tuple[list[int], int]:
    """Return the order, and the entries of the sums. The smallest table is next, of equal ones that of the first variable.

    Carefully, of equal ones the one that makes the fewest new neighbours, and of these that whose neighbours changed last:
    a tenth to a half fewer entries where they are many, in three times the time.
    """
    for scope in scopes:
        if len(scope) > MOST_AXES and max(scope) >= first:  # whichever of its variables is first needs a table of them all
            _too_large(scope, sizes, "more")
    near: dict[int, set[int]] = {v: {v} for scope in scopes for v in scope if v >= first}
    for scope in scopes:
        for v in scope:
            if v >= first:
                near[v].update(scope)
    size = {v: sizes.of(v) for scope in scopes for v in scope}

    def weigh(v: int) -> tuple[int, ...]:
        if not careful:
            return entries_of[v], v
        known = [near[a] for a in near[v] if a >= first]
        return entries_of[v], len(known) * len(near[v]) - sum(len(near[v] & own) for own in known), -changed_at[v], v

    entries_of = {v: math.prod([size[a] for a in own]) for v, own in near.items()}
    changed_at = dict.fromkeys(near, 0)
    weight = {v: weigh(v) for v in near}
    waiting = list(weight.values())
    heapq.heapify(waiting)
    order: list[int] = []
    total = 0
    while waiting:
        found = heapq.heappop(waiting)
        entries, variable = found[0], found[-1]
        if weight.get(variable) != found:
            continue  # one that a later one replaced
        if entries * 8 > MAX_BYTES or len(near[variable]) > MOST_AXES:
            _too_large(tuple(near[variable]), sizes, _at_least(entries * 8))
        order.append(variable)
        total += entries
        del weight[variable]
        rest = near.pop(variable)
        rest.discard(variable)
        changed = [v for v in rest if v >= first]
        for v in changed:
            new = rest - near[v]
            entries_of[v] = entries_of[v] // size[variable] * math.prod([size[a] for a in new])
            near[v] |= new
            near[v].discard(variable)
            changed_at[v] = len(order)
        if careful:
            changed = list({w for v in changed for w in near[v] if w >= first})
        for v in changed:
            found = weigh(v)
            if found != weight[v]:
                weight[v] = found
                heapq.heappush(waiting, found)
    return order, total


def _at_least(size: int) -> str:
    """Write a number of bytes that may be more than any float."""
    return f"{show(float(size), 'B')} or more" if size < 2**80 else "more"


def _too_large(axes: Scope, sizes: Sizes, needed: str) -> NoReturn:
    """Refuse an elimination, by its largest table."""
    bits, layers = sum(a < 0 and sizes.of(a) == 2 for a in axes), sum(0 <= a < sizes.layers for a in axes)
    sets = f", {len(axes) - bits - layers} sets of servers" if len(axes) > bits + layers else ""
    message = (
        f"elimination needs {needed} of memory (limit {show(MAX_BYTES, 'B')}): its largest table spans {layers} layers on "
        f"{sizes.servers} servers{sets} and {bits} q bits"
    )
    raise SolverError(
        message,
        "use method='milp', fewer servers, or fewer quantizable layers",
    )
