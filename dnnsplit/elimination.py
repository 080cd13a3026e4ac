"""Exact placement by min-sum variable elimination, for all quantization schemes at once.

Layer graphs are almost chains: eliminating one layer after another, each time minimising over its server, only ever
needs tables over the few layers next to it (Bertele and Brioschi, Nonserial Dynamic Programming, 1972). The q bits are
never minimised over: they ride along as axes of the tables, so that one pass gives the optimum of every scheme. Where no
limit on noise holds they may be minimised over too, like servers, and then any number of them is cheap.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from dnnsplit.errors import SolverError
from dnnsplit.problem import Problem, Weights

# Tables above this many entries (8 bytes each, and one for the choice) are refused.
MAX_ENTRIES = 2**26
# More q bits than this are refused: 2^18 schemes are a quarter of a million.
MAX_BITS = 18
# Objectives are sums of terms that are not negative; this is far above their rounding and far below any real difference.
TIE = 1e-12


@dataclass(frozen=True)
class Table:
    """A function of some servers' choices and some q bits.

    Attributes
    ----------
    axes : variable of each axis: layer position i >= 0, or -1 - j for the j-th q bit; ascending
    first, second : values of the two objectives; the second only breaks ties of the first
    """

    axes: tuple[int, ...]
    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True, eq=False)
class Optima:
    """The optimum of every quantization scheme, or of all of them together.

    Attributes
    ----------
    value : float (2^n,), the least objective of each scheme (first q bit lowest); infinite where no placement exists. With
        free bits (1,), the least of all schemes
    ties : float, of the same shape, the second objective of those placements
    """

    problem: Problem
    value: np.ndarray
    ties: np.ndarray
    _choices: Sequence[tuple[int, tuple[int, ...], np.ndarray]] = field(repr=False)

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
        for variable, axes, choice in reversed(self._choices):
            chosen[variable] = int(choice[tuple(chosen[a] for a in axes)])
        return chosen


def eliminate(problem: Problem, weights: Weights, ties: Weights | None = None, free_bits: bool = False) -> Optima:
    """Minimise a linear objective over all placements, for every quantization scheme or over the schemes too.

    Parameters
    ----------
    problem : the placement problem; n = number of its quantizable layers
    weights : the objective
    ties : a second objective that decides between placements whose first one is equal (to 1e-12 of its value)
    free_bits : minimise over the q bits as well: one optimum, whatever its noise

    Returns
    -------
    Optima : exact

    Raises
    ------
    SolverError : the tables would be too large; use the MILP (``method="milp"``), or fewer quantizable layers
    """
    factors = _factors(problem, weights, ties or 0.0 * weights)
    factors += [_together(a, b, len(problem.network.servers)) for a, b in problem.colocated]
    bits = tuple(-1 - j for j in range(len(problem.quantizable)))
    if len(bits) > MAX_BITS and not free_bits:
        raise SolverError(
            f"{len(bits)} quantizable layers are too many to treat every scheme at once (at most {MAX_BITS}); use method='milp'"
        )
    first = min(bits, default=0) if free_bits else 0  # variables from this one on are minimised over
    sizes = dict.fromkeys(range(len(problem.graph.layers)), len(problem.network.servers)) | dict.fromkeys(bits, 2)
    order = _order(tuple(f.axes for f in factors), len(problem.network.servers), first)
    touching: dict[int, dict[int, Table]] = {v: {} for v in sizes}
    for factor in factors:
        for axis in factor.axes:
            touching[axis][id(factor)] = factor
    keep = {id(f): f for f in factors}  # tables stay alive, so that ids stay unique
    choices = []
    constants = [f for f in factors if all(a < first for a in f.axes)]
    for variable in order:
        group = list(touching[variable].values())
        reduced, choice = _minimise(_sum(group, sizes), variable)
        choices.append((variable, reduced.axes, choice))
        for factor in group:
            for axis in factor.axes:
                touching[axis].pop(id(factor), None)
        keep[id(reduced)] = reduced
        if any(a >= first for a in reduced.axes):
            for axis in reduced.axes:
                touching[axis][id(reduced)] = reduced
        else:
            constants.append(reduced)
    total = _sum(constants, sizes, () if free_bits else bits)
    # axes ascend, so the last q bit comes first and flattening packs the bits as `pack_schemes` does
    return Optima(problem, total.first.reshape(-1), total.second.reshape(-1), choices)


def _factors(problem: Problem, weights: Weights, ties: Weights) -> list[Table]:
    bit = {i: -1 - j for j, i in enumerate(problem.quantizable)}
    factors = []
    for i in range(len(problem.graph.layers)):
        seconds = problem.layer_s[i].T if i in bit else problem.layer_s[i, :, 0]
        wall = np.where(problem.allowed[i], 0.0, np.inf)
        factors.append(Table((bit[i], i) if i in bit else (i,), seconds * weights.compute + wall, seconds * ties.compute))
    for t, (p, receivers) in enumerate(zip(problem.producer, problem.receivers, strict=True)):
        if receivers and any(v >= 0 for v in (p, *receivers)):
            factors.append(_tensor_table(problem, t, p, receivers, bit.get(p), weights, ties))
    return factors


def _together(a: int, b: int, servers: int) -> Table:
    """0 where two layers are on one server, infinite elsewhere."""
    return Table((min(a, b), max(a, b)), np.where(np.eye(servers, dtype=bool), 0.0, np.inf), np.zeros((servers, servers)))


def _tensor_table(
    problem: Problem, t: int, p: int, receivers: tuple[int, ...], bit: int | None, weights: Weights, ties: Weights
) -> Table:
    """Cost of one tensor over the servers of its producer and receivers: each target server is paid once."""
    layers = sorted({v for v in (p, *receivers) if v >= 0})
    if len(problem.network.servers) ** len(layers) > MAX_ENTRIES:
        name = problem.graph.tensors[t].name
        raise SolverError(f"tensor {name!r} has {len(receivers)} receivers, too many for elimination; use method='milp'")
    seconds = np.moveaxis(problem.transfer_s[t], -1, 0)[: 1 if bit is None else 2]  # precision, from, to
    reachable = np.isfinite(seconds)
    finite = np.where(reachable, seconds, 0.0)
    prices = (np.where(reachable, finite * weights.transfer, np.inf), finite * ties.transfer)
    tables = [_spread(price, problem.source, layers, p, receivers) for price in prices]
    axes = (*([] if bit is None else [bit]), *layers)
    return Table(axes, *(table if bit is not None else table[0] for table in tables))


def _spread(price: np.ndarray, source: int, layers: list[int], p: int, receivers: tuple[int, ...]) -> np.ndarray:
    """Sum a tensor's price over the servers it goes to: (precision, from, to) -> (precision, one axis per layer)."""
    if len(receivers) == 1 and len(layers) == 2:  # a chain link, which most tensors are
        return price if p < receivers[0] else price.transpose(0, 2, 1)
    servers = price.shape[-1]
    grid = dict(zip(layers, np.indices((servers,) * len(layers), sparse=True), strict=True))
    fixed = np.full((1,) * len(layers), source)
    at = grid.get(p, fixed)
    total = np.zeros((len(price), *(servers,) * len(layers)))
    for h in range(servers):
        goes = np.zeros((1,) * len(layers), bool)
        for receiver in receivers:
            goes = goes | (grid.get(receiver, fixed) == h)
        total += np.where(goes, price[:, at, h], 0.0)
    return total


@lru_cache(maxsize=32)
def _order(scopes: tuple[tuple[int, ...], ...], servers: int, first: int) -> tuple[int, ...]:
    """Return the variables from `first` on in the order of the smallest next table (the greedy min-weight rule), once per graph.

    Raises
    ------
    SolverError : a table would be too large; said before any table is made
    """
    sizes = {a: servers if a >= 0 else 2 for scope in scopes for a in scope}
    near: dict[int, set[int]] = {v: {v} for v in sizes if v >= first}
    for scope in scopes:
        for v in scope:
            if v >= first:
                near[v].update(scope)
    weight = {v: math.prod(sizes[a] for a in near[v]) for v in near}
    waiting = [(w, v) for v, w in weight.items()]
    heapq.heapify(waiting)
    order: list[int] = []
    while waiting:
        entries, variable = heapq.heappop(waiting)
        if weight.get(variable) != entries:
            continue  # an entry that a later one replaced
        if entries > MAX_ENTRIES or len(near[variable]) > 60:
            raise SolverError(
                f"elimination needs a table of {entries:.2g} entries (limit {MAX_ENTRIES:.2g}); "
                "use method='milp', fewer servers, or fewer quantizable layers"
            )
        order.append(variable)
        del weight[variable]
        rest = near.pop(variable) - {variable}
        for v in rest:
            if v >= first:
                near[v] = (near[v] | rest) - {variable}
                weight[v] = math.prod(sizes[a] for a in near[v])
                heapq.heappush(waiting, (weight[v], v))
    return tuple(order)


def _sum(tables: Sequence[Table], sizes: dict[int, int], axes: Iterable[int] = ()) -> Table:
    """Add tables over the union of their axes."""
    union = tuple(sorted({a for table in tables for a in table.axes} | set(axes)))
    shape = tuple(sizes[a] for a in union)
    first, second = np.zeros(shape), np.zeros(shape)
    for table in tables:
        spread = tuple(sizes[a] if a in table.axes else 1 for a in union)
        first += table.first.reshape(spread)
        second += table.second.reshape(spread)
    return Table(union, first, second)


def _minimise(table: Table, variable: int) -> tuple[Table, np.ndarray]:
    """Minimise over one variable; return the smaller table and the choice that attains each of its entries."""
    axis = table.axes.index(variable)
    best = table.first.min(axis=axis, keepdims=True)
    second = np.where(table.first <= best * (1 + TIE), table.second, np.inf)
    choice = second.argmin(axis=axis)
    pick = np.expand_dims(choice, axis)
    rest = tuple(a for a in table.axes if a != variable)
    first = np.take_along_axis(table.first, pick, axis).squeeze(axis)
    return Table(rest, first, np.take_along_axis(second, pick, axis).squeeze(axis)), choice.astype(np.uint8)
