"""The placement problem as a sum of small tables: one per layer, one per tensor, one per pair that shares a server."""

from __future__ import annotations

import numpy as np

from dnnsplit.costs import INT8_SHARE
from dnnsplit.ordering import Scope
from dnnsplit.problem import Problem, Weights
from dnnsplit.routes import relay_tables


def scopes(problem: Problem) -> tuple[Scope, ...]:
    """Return the variables of each table, in the order of `values`; a q bit j is -1 - j."""
    bit = _bits(problem)
    found = [(bit[i], i) if i in bit else (i,) for i in range(len(problem.graph.layers))]
    for p, receivers in _tensors(problem).values():
        own = [bit[p]] if p in bit else []
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
    moves = problem.transfer_s.transpose(0, 3, 1, 2)  # tensor, precision, from, to
    reachable = np.isfinite(moves)
    price = np.where(reachable, moves, 0.0) * np.stack([w.transfer for w in objectives])[:, None, None]
    price[0][~reachable] = np.inf
    tensors = _tensors(problem)
    relayed = relay_tables(price, tensors, problem.source) if problem.routing == "relay" else {}
    for t, (p, receivers) in tensors.items():
        table = relayed[t] if relayed else _spread(price[:, t] if p in bit else price[:, t, :1], p, receivers, problem.source)
        found.append(table if p in bit else table[:, 0])
    apart = np.zeros((len(objectives), servers, servers))
    apart[0][~np.eye(servers, dtype=bool)] = np.inf
    return found + [apart] * len(problem.colocated)


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
