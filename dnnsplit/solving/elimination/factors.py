"""The placement problem as a sum of small tables: one per layer, one per tensor, one per pair that shares a server."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from dnnsplit.solving.arrays import Problem, Weights
from dnnsplit.solving.elimination.order import MAX_BYTES, MOST_AXES, Scope, Sizes, work
from dnnsplit.solving.elimination.relays import multicast, relay_tables

# Tensors whose tables shrink by such factors, once a set of servers stands between producer and receivers, are tried with it.
FACTORS = (2, 32)
# Fewer entries than this are filled in less time than another form is tried.
ENOUGH = 2**19

Table = np.ndarray | Callable[[], np.ndarray]  # large ones are made when their step comes


@dataclass(frozen=True)
class Form:
    """How the problem is written down as tables.

    Attributes
    ----------
    scopes : tuple[Scope, ...]
        Variables of each table, in the order of `values`; a q bit j is -1 - j, and the choice of a source form comes before them.
    sizes : Sizes
        How many values the variables have.
    starred : frozenset[int]
        Tensors with a variable of their own, the set of servers that they are brought to.
    """

    scopes: tuple[Scope, ...]
    sizes: Sizes
    starred: frozenset[int]


def best_form(problem: Problem, free_bits: bool = False, more: tuple[Scope, ...] = ()) -> Form:
    """Return the form that fills the fewest entries, of some, with the scopes of `more` tables.

    A set costs little in the tables of its tensor, but is one more variable: which is better is told by the whole order only.
    """

    def entries(form: Form) -> float:
        return work(form.scopes + more, form.sizes, -len(problem.choices) if free_bits else 0)

    best = _form(problem, frozenset())
    if entries(best) <= ENOUGH:
        return best
    smaller = {t: _shrinks(problem, *ends) for t, ends in _tensors(problem).items()}
    tried = dict.fromkeys(frozenset(t for t, factor in smaller.items() if factor > least) for least in FACTORS)
    return min([best, *(_form(problem, starred) for starred in tried if starred)], key=entries)


def _form(problem: Problem, starred: frozenset[int]) -> Form:
    bit = _bits(problem)
    servers, layers = problem.allowed.shape[::-1]
    found: list[Scope] = [(bit[i], i) if i in bit else (i,) for i in range(layers)]
    sets: list[int] = []
    optional = {t for source in problem.sources for t in source.tensors}
    for t, (p, receivers) in _tensors(problem).items():
        own = (-len(problem.choices),) if t in optional else (bit[p],) if p in bit else ()
        if t in starred:
            brought = layers + len(sets)
            sets.append(_count(servers, receivers))
            found += [(r, brought) for r in receivers if r >= 0]
            found.append((*own, *((p,) if p >= 0 else ()), brought))
        else:
            found.append((*own, *_layers(p, receivers)))
    found += [(min(pair), max(pair)) for pair in problem.colocated]
    return Form(tuple(found), Sizes(servers, layers, tuple(sets), problem.choices), starred)


def _sets(servers: int, receivers: tuple[int, ...]) -> np.ndarray:
    """Sets of servers that receivers can be on, as bits; a set comes before those that hold it."""
    most = min(sum(r >= 0 for r in receivers), servers)
    every = (sum(1 << k for k in members) for n in range(1, most + 1) for members in itertools.combinations(range(servers), n))
    return np.array(list(every))


def _count(servers: int, receivers: tuple[int, ...]) -> int:
    """How many such sets there are."""
    most = min(sum(r >= 0 for r in receivers), servers)
    return sum(math.comb(servers, n) for n in range(1, most + 1))


def _shrinks(problem: Problem, p: int, receivers: tuple[int, ...]) -> float:
    """Return how many times smaller the tables of a tensor are with a set of servers than without."""
    servers, layers = len(problem.network.servers), len(_layers(p, receivers))
    if min(sum(r >= 0 for r in receivers), servers) < 2:
        return 0.0
    sets = _count(servers, receivers)
    if servers * sets * 8 > MAX_BYTES:
        return 0.0
    return math.inf if layers > MOST_AXES else servers ** (layers - 1) / (layers * sets)


def values(problem: Problem, form: Form, *objectives: Weights) -> list[Table]:
    """Return the tables: float (objectives, one axis per variable); the first objective is infinite where nothing may be."""
    servers = len(problem.network.servers)
    bit = _bits(problem)
    compute = np.stack([w.compute for w in objectives])
    seconds = problem.layer_s.transpose(0, 2, 1) * compute[:, None, None]  # objective, layer, precision, server
    for own, w in zip(seconds, objectives, strict=True):
        own += problem.held_bytes[..., None] * w.held
    seconds[0][~np.broadcast_to(problem.allowed[:, None], seconds.shape[1:])] = np.inf
    found = [seconds[:, i] if i in bit else seconds[:, i, 0] for i in range(len(problem.graph.layers))]
    needed = problem.prices(*objectives)
    price = np.moveaxis(needed.worth, -1, 2)  # objective, tensor, precision, from, to
    tensors = _tensors(problem)
    few = {t: ends for t, ends in tensors.items() if t not in form.starred}
    relayed: dict[int, np.ndarray] = {}
    if problem.routing == "relay":
        relayed = relay_tables(price, {t: ends for t, ends in few.items() if t not in needed.sources}, problem.source)
        for t in (t for t in few if t in needed.sources):
            relayed |= {t: relay_tables(needed.sources[t][:, None], {0: few[t]}, problem.source)[0]}
    for t, (p, receivers) in tensors.items():
        rides = p in bit or t in needed.sources  # along with the table of its tensor
        own = needed.sources[t] if t in needed.sources else price[:, t]
        if t not in few:
            found += _star(problem, own if rides else own[:, :1], p, receivers, rides)
        elif relayed:
            found.append(relayed[t] if rides else relayed[t][:, 0])
        else:
            found.append(partial(_spread, own if rides else own[:, 0], p, receivers, problem.source))
    apart = np.zeros((len(objectives), servers, servers))
    apart[0][~np.eye(servers, dtype=bool)] = np.inf
    return found + [apart] * len(problem.colocated)


def _star(problem: Problem, price: np.ndarray, p: int, receivers: tuple[int, ...], rides: bool) -> list[np.ndarray]:
    """Tables of a tensor by the set of servers that it is brought to: receivers are on one of them, and the set is paid for.

    Prices are not negative, so no set that holds another is cheaper, and the least is that of the receivers' servers. From prices
    (objectives, precisions, from, to) to (objectives, server, set) for each receiver, and (objectives, [precision,] [producer's
    server,] set).
    """
    servers, count = price.shape[-1], len(price)
    every = _sets(servers, receivers)
    member = (every[:, None] >> np.arange(servers) & 1).astype(bool)
    on = np.zeros((count, servers, len(every)))
    on[0][~member.T] = np.inf
    if -1 in receivers:  # the source has it, whoever else does
        every = every | 1 << problem.source
        member[:, problem.source] = True
    if problem.routing == "relay":
        trees = multicast(price.reshape(count, -1, servers, servers), most=len(receivers))
        total = trees.price[..., trees.column[every]].reshape(*price.shape[:2], servers, -1)
    else:
        total = np.where(member, price[..., None, :], 0.0).sum(axis=-1)
    if p < 0:
        total = total[..., problem.source, :]
    return [on] * sum(r >= 0 for r in receivers) + [total if rides else total[:, 0]]


def _bits(problem: Problem) -> dict[int, int]:
    return {i: -1 - j for j, i in enumerate(problem.quantizable)}


def _tensors(problem: Problem) -> dict[int, tuple[int, tuple[int, ...]]]:
    """Producer and receivers of the tensors that some layer makes or reads."""
    pairs = zip(problem.producer, problem.receivers, strict=True)
    return {t: (p, r) for t, (p, r) in enumerate(pairs) if r and max(p, *r) >= 0}


def _layers(p: int, receivers: tuple[int, ...]) -> list[int]:
    return sorted({v for v in (p, *receivers) if v >= 0})


def _spread(price: np.ndarray, p: int, receivers: tuple[int, ...], source: int) -> np.ndarray:
    """Cost of one tensor over the servers of its producer and receivers: each target server is paid once.

    From prices (objectives, precisions, from, to) to (objectives, precisions, one axis per layer, ascending).
    """
    if p < 0:
        price = price[..., [source], :]
    delivered, layers, outer = -1 in receivers, [r for r in receivers if r >= 0], price.ndim - 2
    total = price[..., source] if delivered else price
    for n in range(not delivered, len(layers)):  # one more axis for each receiver, the last
        wider = total[..., None] + price.reshape(*price.shape[:-1], *[1] * n, -1)
        for earlier in range(outer + 1, outer + 1 + n):  # whoever shares its server with one before it finds the tensor there
            there = [*range(earlier), total.ndim, *range(earlier + 1, total.ndim)]
            np.einsum(wider, [*there, total.ndim], there)[...] = total
        if delivered:
            wider[..., source] = total
        total = wider
    if p < 0:
        total = total.squeeze(outer)
    ends = [p, *layers] if p >= 0 else layers
    order = sorted(range(len(ends)), key=ends.__getitem__)
    return total.transpose(*range(outer), *(outer + n for n in order))
