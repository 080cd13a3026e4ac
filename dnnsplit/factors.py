"""The placement problem as a sum of small tables: one per layer, one per tensor, one per pair that shares a server."""

from __future__ import annotations

import itertools

import numpy as np

from dnnsplit.costs import INT8_SHARE
from dnnsplit.ordering import Scope, Sizes
from dnnsplit.problem import Problem, Weights
from dnnsplit.routes import multicast, relay_tables

# A tensor with more receivers than this has a table for each of them, with sets of servers in between, where those are smaller.
MANY = 4


def sizes(problem: Problem) -> Sizes:
    """Return how many values the variables have."""
    return Sizes(len(problem.network.servers), len(problem.graph.layers))


def scopes(problem: Problem) -> tuple[Scope, ...]:
    """Return the variables of each table, in the order of `values`; a q bit j is -1 - j."""
    bit = _bits(problem)
    found = [(bit[i], i) if i in bit else (i,) for i in range(len(problem.graph.layers))]
    sets = itertools.count(len(problem.graph.layers))
    for p, receivers in _tensors(problem).values():
        own = (bit[p],) if p in bit else ()
        if _many(problem, receivers):
            chain = [r for r in receivers if r >= 0]
            reached = list(itertools.islice(sets, len(chain)))
            found.append((chain[0], reached[0]))
            found += [(r, a, b) for r, (a, b) in zip(chain[1:], itertools.pairwise(reached), strict=True)]
            found.append((*own, *((p,) if p >= 0 else ()), reached[-1]))
        else:
            found.append((*own, *_layers(p, receivers)))
    return tuple(found + [(min(pair), max(pair)) for pair in problem.colocated])


def values(problem: Problem, *objectives: Weights) -> list[np.ndarray]:
    """Return the tables: float (objectives, one axis per variable); the first objective is infinite where nothing may be."""
    servers = len(problem.network.servers)
    bit = _bits(problem)
    compute = np.stack([w.compute for w in objectives])
    seconds = problem.layer_s.transpose(0, 2, 1) * compute[:, None, None]  # objective, layer, precision, server
    size = np.array([layer.weight_bytes for layer in problem.graph.layers])
    for own, w in zip(seconds, objectives, strict=True):
        own += (size[:, None] * (1.0, INT8_SHARE))[..., None] * w.held
    seconds[0][~np.broadcast_to(problem.allowed[:, None], seconds.shape[1:])] = np.inf
    found = [seconds[:, i] if i in bit else seconds[:, i, 0] for i in range(len(problem.graph.layers))]
    moves = np.stack([w.moves(problem) for w in objectives])
    moves[0][~np.isfinite(problem.transfer_s)] = np.inf
    price = np.moveaxis(moves, -1, 2)  # objective, tensor, precision, from, to
    tensors = _tensors(problem)
    few = {t: ends for t, ends in tensors.items() if not _many(problem, ends[1])}
    relayed = relay_tables(price, few, problem.source) if problem.routing == "relay" else {}
    for t, (p, receivers) in tensors.items():
        if t not in few:
            found += _chain(problem, price[:, t] if p in bit else price[:, t, :1], p, receivers, p in bit)
            continue
        table = relayed[t] if relayed else _spread(price[:, t] if p in bit else price[:, t, :1], p, receivers, problem.source)
        found.append(table if p in bit else table[:, 0])
    apart = np.zeros((len(objectives), servers, servers))
    apart[0][~np.eye(servers, dtype=bool)] = np.inf
    return found + [apart] * len(problem.colocated)


def _many(problem: Problem, receivers: tuple[int, ...]) -> bool:
    servers = len(problem.network.servers)
    return len(receivers) > MANY and servers * 4**servers < servers ** (len(receivers) + 1)


def _chain(problem: Problem, price: np.ndarray, p: int, receivers: tuple[int, ...], int8: bool) -> list[np.ndarray]:
    """Tables of a tensor with many receivers: each adds its server to a set, and the last set is what is paid for.

    Parameters
    ----------
    price : float (objectives, precisions, from, to)

    Returns
    -------
    float (objectives, server, set), (objectives, server, set before, set after) for each further receiver, and
    (objectives, [precision,] [producer's server,] set)
    """
    servers, count = price.shape[-1], len(price)
    every = np.arange(2**servers)
    after = every[None, :, None] | 1 << np.arange(servers)[:, None, None]  # server, set before -> set after
    step = np.zeros((count, servers, len(every), len(every)))
    step[0][after != every] = np.inf
    if problem.routing == "relay":
        trees = multicast(price.reshape(count, -1, servers, servers))
        total = trees.price[..., trees.column[every]].reshape(*price.shape[:2], servers, -1)
        total[..., 0] = np.inf  # some receiver there is
        total[1:, ..., 0] = 0.0
    else:
        member = (every[:, None] >> np.arange(servers) & 1).astype(bool)
        total = np.where(member, price[..., None, :], 0.0).sum(axis=-1)
    if -1 in receivers:  # the source has it in the end, whoever else does
        total = total[..., every | 1 << problem.source]
    if p < 0:
        total = total[..., problem.source, :]
    first = step[:, :, 0]  # from the empty set
    return [first, *[step] * (sum(r >= 0 for r in receivers) - 1), total if int8 else total[:, 0]]


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

    Parameters
    ----------
    price : float (objectives, precisions, from, to)
    p, receivers : positions of layers; -1 is the source

    Returns
    -------
    float (objectives, precisions, one axis per layer, ascending)
    """
    layers = _layers(p, receivers)
    servers = price.shape[-1]
    shape = lambda *own: tuple(servers if v in own else 1 for v in layers)  # noqa: E731
    total: np.ndarray | float = 0.0
    for n, r in enumerate(receivers):
        if p < 0 or r < 0:
            term = price[..., source if p < 0 else slice(None), source if r < 0 else slice(None)]
        else:
            term = price if p < r else price.swapaxes(-1, -2)
        term = term.reshape(*price.shape[:2], *shape(p, r))
        for earlier in receivers[:n]:  # whoever shares its server with one before it finds the tensor there
            alone = ~np.eye(servers, dtype=bool) if min(r, earlier) >= 0 else np.arange(servers) != source
            term = np.where(alone.reshape(shape(r, earlier)), term, 0.0)
        total = term if n == 0 else total + term
    return total
