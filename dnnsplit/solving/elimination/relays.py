"""Routes of tensors through other servers: the cheapest links from a producer's server to a set of target servers.

A link is paid once per tensor, however many receivers lie behind it. So for one target the best route is a shortest path
(Floyd, 1962), and for several of them it is a minimum Steiner arborescence (Dreyfus and Wagner, 1971, here for directed
links): the best tree to a set is a path to some server, and from there two trees to the two parts of the set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from dnnsplit.ground.errors import SolverError

# Prices are sums of terms that are not negative; this is far above their rounding and far below any real difference.
TIE = 1e-12
# More joins of two trees than this (16 bytes each while they are compared), or more prices, are refused.
MAX_JOINS = 2**31
MAX_PRICES = 2**26

Route = tuple[tuple[int, int], ...]  # links (from, to), each after the one that brings the tensor to its first server


@dataclass(frozen=True, eq=False)
class Trees:
    """The cheapest trees of links for many tensors, from every server to every set of targets.

    Attributes
    ----------
    price : np.ndarray
        float (objectives, tensors, servers, sets); infinite where a target is out of reach. A target that is the first server
        itself costs what its self link does.
    targets : tuple[int, ...]
        Server positions.
    column : np.ndarray
        int (2^targets,): where the price of a set stands; bit j of a set is targets[j]. 0 for sets that are too large.
    """

    price: np.ndarray
    targets: tuple[int, ...]
    column: np.ndarray = field(repr=False)
    _hop: np.ndarray = field(repr=False)  # tensor, from, to: the next server on the shortest path
    _joins: dict[int, tuple[np.ndarray, np.ndarray]] = field(repr=False)  # set: where the tree forks, and one part of the set

    def route(self, tensor: int, start: int, members: int) -> Route:
        """Return the links of the cheapest tree of one tensor, self links left out; they are the same at every call."""
        nodes = [(start, members)]
        links: dict[tuple[int, int], None] = {}
        for at, rest in nodes:
            if rest.bit_count() == 1:
                links.update(dict.fromkeys(self._path(tensor, at, self.targets[rest.bit_length() - 1])))
            elif rest:
                fork, part = (int(choice[tensor, at]) for choice in self._joins[rest])
                links.update(dict.fromkeys(self._path(tensor, at, fork)))
                nodes += [(fork, part), (fork, rest ^ part)]
        return connect(start, links, [target for j, target in enumerate(self.targets) if members >> j & 1])

    def _path(self, tensor: int, start: int, end: int) -> list[tuple[int, int]]:
        path: list[tuple[int, int]] = []
        while start != end and len(path) < self.price.shape[2]:
            path.append((start, int(self._hop[tensor, start, end])))
            start = path[-1][1]
        return path


def multicast(price: np.ndarray, targets: Sequence[int] | None = None, most: int | None = None) -> Trees:
    """Return the cheapest trees from every server to every set of targets, for many tensors at once.

    Parameters
    ----------
    price : np.ndarray
        float (objectives, tensors, from, to), 0 or more: what each link costs a tensor. The first objective is minimised, and
        infinite where there is no link; a second one decides between equals. The diagonal holds the self links, paid once where a
        target is the first server.
    targets : Sequence[int] | None, optional
        Server positions; all servers by default.
    most : int | None, optional
        Sets of more targets than this are not needed.

    Raises
    ------
    SolverError
        Too many sets.
    """
    objectives, tensors, servers, _ = price.shape
    targets = tuple(range(servers) if targets is None else targets)
    most = len(targets) if most is None else min(most, len(targets))
    sets = [math.comb(len(targets), size) for size in range(most + 1)]
    joins = sum(count * (2 ** (size - 1) - 1) for size, count in enumerate(sets) if size) * servers * tensors
    if joins > MAX_JOINS or sum(sets) * servers * tensors > MAX_PRICES:
        message = (
            f"tensors that go to {most} of {len(targets)} servers can be relayed in too many ways to compare "
            f"({sum(sets)} sets of servers for each of {tensors} tensors)"
        )
        raise SolverError(
            message,
            "use routing='direct', or fewer servers",
        )
    near, hop = _shortest(price)
    every = sorted((s for s in range(2 ** len(targets)) if s.bit_count() <= most), key=int.bit_count)
    column = np.zeros(2 ** len(targets), int)
    column[every] = range(len(every))
    found = np.zeros((objectives, tensors, servers, len(every)))
    joined: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for members in every[1:]:
        if members.bit_count() == 1:
            found[..., column[members]] = near[..., targets[members.bit_length() - 1]]
            continue
        parts = np.array([s for s in range(1, members) if s & members == s and s & members & -members])
        part, forked = _least(found[..., column[parts]] + found[..., column[members ^ parts]])
        fork, found[..., column[members]] = _least(near + forked[..., None, :])
        joined[members] = (fork, np.take_along_axis(parts[part], fork, axis=1))
    for j, target in enumerate(targets):
        found[:, :, target, [column[s] for s in every if s >> j & 1]] += price[:, :, target, target, None]
    return Trees(found, targets, column, hop, joined)


def tree(price: np.ndarray, start: int, targets: Iterable[int]) -> Route | None:
    """Return the links of the cheapest tree for one tensor, or None if a target is out of reach; `price` is of this tensor."""
    wanted = tuple(sorted(set(targets) - {start}))
    trees = multicast(price[:, None], wanted)
    return trees.route(0, start, 2 ** len(wanted) - 1) if np.isfinite(trees.price[0, 0, start, -1]) else None


def connect(start: int, links: Iterable[tuple[int, int]], targets: Iterable[int]) -> Route:
    """Return those of the links that bring a tensor from `start` to its targets, each after what it needs."""
    ways: nx.DiGraph[int] = nx.DiGraph()
    ways.add_node(start)
    ways.add_edges_from(links)
    taken = list(nx.bfs_edges(ways, start))
    parent, needed = {target: source for source, target in taken}, {*targets}
    for at in (at for at in reversed(list(parent)) if at in needed):
        needed.add(parent[at])
    return tuple(link for link in taken if link[1] in needed)


def relay_tables(price: np.ndarray, tensors: Mapping[int, tuple[int, Sequence[int]]], source: int) -> dict[int, np.ndarray]:
    """Cost of tensors over the servers of their producers and receivers, by the cheapest tree in each case.

    Parameters
    ----------
    price : np.ndarray
        float (objectives, tensors, precisions, from, to); as in `multicast`. Precisions may take different trees.
    tensors : Mapping[int, tuple[int, Sequence[int]]]
        Positions of the layers that make and read each tensor; -1 is the source.

    Returns
    -------
    dict[int, np.ndarray]
        By tensor, float (objectives, precisions, one axis per layer, ascending).
    """
    servers = price.shape[-1]
    found: dict[int, np.ndarray] = {}
    for most in sorted({min(len(receivers), servers) for _, receivers in tensors.values()}):
        group = [t for t, (_, receivers) in tensors.items() if min(len(receivers), servers) == most]
        own = price[:, group]
        trees = multicast(own.reshape(len(price), -1, servers, servers), most=most)
        prices = trees.price.reshape(*own.shape[:4], -1)
        for n, t in enumerate(group):
            p, receivers = tensors[t]
            layers = sorted({v for v in (p, *receivers) if v >= 0})
            grid: dict[int, np.ndarray] = dict(zip(layers, np.indices((servers,) * len(layers), sparse=True), strict=True))
            members: np.ndarray | int = 0
            for receiver in receivers:
                members = members | 1 << np.asarray(grid.get(receiver, source))
            found[t] = prices[:, n][:, :, grid.get(p, source), trees.column[members]]
    return found


def _shortest(price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shortest paths between all pairs of servers: their price, and the next server on each."""
    near = price.copy()
    servers = price.shape[-1]
    near[..., range(servers), range(servers)] = 0.0
    hop = np.broadcast_to(np.arange(servers), near.shape[1:]).copy()
    for via in range(servers):
        other = near[..., via, None] + near[..., via, None, :]
        better = other[0] < near[0] * (1 - TIE)
        if len(price) > 1:
            better |= (other[0] <= near[0] * (1 + TIE)) & (other[1] < near[1] * (1 - TIE)) & np.isfinite(other[0])
        near = np.where(better, other, near)
        hop = np.where(better, hop[..., via, None], hop)
    return near, hop


def _least(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimise the first objective over the last axis, of equal ones the second; return the choice and the values."""
    choice = values[0].argmin(axis=-1)
    if len(values) > 1:
        best = values[0].min(axis=-1, keepdims=True)
        choice = np.where(values[0] <= best * (1 + TIE), values[1], np.inf).argmin(axis=-1)
    return choice, np.take_along_axis(values, choice[None, ..., None], axis=-1)[..., 0]
