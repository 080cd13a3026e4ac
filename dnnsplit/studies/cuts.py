"""Placements that others search, each the best of its kind: cuts of the layer order, and minimum cuts between two servers.

All of them are float32 placements under any linear objective, with a tensor paid once per server that reads it. What a layer or a
tensor adds is constant over boxes in the plane of the two places at which the order is cut, so that sums over the boxes price
every cut at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from dnnsplit.graph.shared_weights import groups, own_bytes
from dnnsplit.ground.tolerance import within
from dnnsplit.solving.arrays import Weights
from dnnsplit.solving.question import Question

Placement = tuple[int, ...]  # the server's position of each layer
Box = tuple[int, int, int, int]  # first and last place of the first cut, first and last place of the second
FIRST, SECOND, THIRD = range(3)  # blocks of the layer order
FLOW_BITS = 80  # of the integers that capacities become: flows of floats need not come to an end


@dataclass(frozen=True, eq=False)
class Terms:
    """What layers and tensors are worth by one objective or more, in float32 and in the forms that are best for the first.

    Attributes
    ----------
    layers : np.ndarray
        float (objectives, layers, servers).
    tensors : np.ndarray
        float (objectives, tensors, servers, servers); the first is infinite where there is no link.
    """

    layers: np.ndarray
    tensors: np.ndarray

    @staticmethod
    def of(question: Question, *limits: Weights) -> Terms:
        """Return them by the objective of a question, and by some limits."""
        problem, objective = question.problem, question.objective
        by = (objective.weights, *limits)
        layers = np.stack([one.compute * problem.layer_s[..., 0] for one in by])
        worth = problem.prices(objective.weights, objective.ties, *limits).worth[..., 0]
        return Terms(layers, np.delete(worth, 1, axis=0))


@dataclass(frozen=True, eq=False)
class Blocks:
    """The topological order cut into consecutive blocks: up to `first` on one server, up to `second` on the next, the rest.

    Parameters
    ----------
    question : Question
        Without layers in int8 and without a choice of source forms.
    least : int
        The first place of the second cut that is looked at: 0 for three blocks, the number of layers for two.
    """

    question: Question
    least: int
    order: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        graph = self.question.problem.graph
        object.__setattr__(self, "order", tuple(graph.layer_index[name] for name in graph.topological))

    def best(self, pipelines: Sequence[Sequence[int]], admitted: np.ndarray | None = None) -> Placement:
        """Return the best placement of some pipelines, three servers each; one that breaks limits only where all do.

        Parameters
        ----------
        admitted : np.ndarray | None, optional
            bool, the places of the first cut that may be taken; all by default.
        """
        limits = self.question.limits.sums(self.question.problem.network)
        terms = Terms.of(self.question, *(use for _, _, use, _ in limits))
        layers, tensors = self._layers(), self._tensors()
        places = np.arange(len(self.order) + 1)
        there = places[:, None] <= places[None, self.least :]
        if admitted is not None:
            there &= admitted[:, None]
        found = []
        for servers in pipelines:
            hosts = np.array(servers)
            value, *used = (
                self._sum(layers, own[layers.what, hosts[layers.end]])
                + self._sum(tensors, worth[tensors.what, hosts[tensors.start], hosts[tensors.end]])
                for own, worth in zip(terms.layers, terms.tensors, strict=True)
            )
            value = np.where(there, value, np.inf)
            keeps = np.logical_and.reduce([within(one, most) for one, (*_, most) in zip(used, limits, strict=True)] or [there])
            keeps &= self._fits(servers)
            kept = np.where(keeps, value, np.inf)
            taken = kept if np.isfinite(kept.min()) else value
            first, second = divmod(int(taken.argmin()), taken.shape[1])
            found.append((taken is not kept, float(taken[first, second]), servers, first, second + self.least))
        _, _, servers, first, second = min(found, key=lambda one: one[:2])
        placement = np.full(len(self.order), servers[THIRD])
        placement[list(self.order[:second])] = servers[SECOND]
        placement[list(self.order[:first])] = servers[FIRST]
        return tuple(placement.tolist())

    @property
    def articulation(self) -> np.ndarray:
        """The places of the first cut over which no more than one tensor is read, and the two ends: bool (layers + 1,)."""
        edges = np.zeros(len(self.order) + 2, int)
        for made, read, _ in self._ranks():
            if read:
                edges[made + 1] += 1
                edges[read[-1] + 1] -= 1
        single: np.ndarray = edges.cumsum()[:-1] <= 1
        single[[0, -1]] = True
        return single

    def _ranks(self) -> Iterator[tuple[int, list[int], bool]]:
        """Yield, of each tensor, the place of its layer (-1 for an input), those of its readers, and whether it is an output."""
        problem, rank = self.question.problem, {i: place for place, i in enumerate(self.order)}
        for producer, receivers in zip(problem.producer, problem.receivers, strict=True):
            yield rank.get(producer, -1), sorted(rank[r] for r in receivers if r >= 0), -1 in receivers

    def _layers(self) -> Boxes:
        boxes = ((i, block, box) for place, i in enumerate(self.order) for block, box in enumerate(_made(place, len(self.order))))
        return Boxes.of([(i, block, block, box) for i, block, box in boxes])

    def _tensors(self) -> Boxes:
        found, count = [], len(self.order)
        for t, (made, read, delivered) in enumerate(self._ranks()):
            for start, box in enumerate(_made(made, count)):
                found += [(t, start, end, _overlap(box, other)) for end, other in _read(read, count, delivered)]
        return Boxes.of(found)

    def _fits(self, servers: Sequence[int]) -> np.ndarray:
        """Say where each block's weights fit its server, bool; each constant counts once per server."""
        graph, count, network = self.question.problem.graph, len(self.order), self.question.problem.network
        rank = {i: place for place, i in enumerate(self.order)}
        held = [(own_bytes(layer), (i,)) for i, layer in enumerate(graph.layers)] + [*groups(graph.layers)]
        boxes = Boxes.of([
            (n, block, block, box)
            for n, (_, readers) in enumerate(held)
            for block, box in _read(sorted(rank[i] for i in readers), count, delivered=False)
        ])  # fmt: skip
        sizes, fits = np.array([size for size, _ in held]), np.array(True)
        for block, memory in enumerate(network.servers[k].memory_bytes for k in servers):
            if memory is not None:
                fits = fits & within(self._sum(boxes, np.where(boxes.end == block, sizes[boxes.what], 0.0)), memory)
        return fits

    def _sum(self, boxes: Boxes, values: np.ndarray) -> np.ndarray:
        """Return the sum of the values whose boxes hold each pair of cuts: float (places of the first, of the second)."""
        low, high, low_2, high_2 = boxes.ends.T
        low_2, high_2 = np.maximum(low_2 - self.least, 0), high_2 - self.least
        inside = high_2 >= 0
        sums = []
        for every in (np.where(np.isfinite(values), values, 0.0), np.isinf(values).astype(float)):
            edges = np.zeros((len(self.order) + 2, len(self.order) + 2 - self.least))
            for first, second, sign in ((low, low_2, 1), (high + 1, low_2, -1), (low, high_2 + 1, -1), (high + 1, high_2 + 1, 1)):
                np.add.at(edges, (first[inside], second[inside]), sign * every[inside])
            sums.append(edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1])
        return np.where(sums[1] > 0.5, np.inf, sums[0])


@dataclass(frozen=True, eq=False)
class Boxes:
    """Where something counts: what (int), from and to which block (int), and its boxes, int (n, 4)."""

    what: np.ndarray
    start: np.ndarray
    end: np.ndarray
    ends: np.ndarray

    @staticmethod
    def of(boxes: Sequence[tuple[int, int, int, Box]]) -> Boxes:
        """Take (what, from, to, box), those that are empty left out."""
        full = [(what, start, end, *box) for what, start, end, box in boxes if box[0] <= box[1] and box[2] <= box[3]]
        table = np.array(full, int).reshape(-1, 7)
        return Boxes(table[:, 0], table[:, 1], table[:, 2], table[:, 3:])


def _made(place: int, count: int) -> tuple[Box, Box, Box]:
    """Return where a layer is in each block; what is at place -1, a graph input, is with the first."""
    return (place + 1, count, 0, count), (0, place, place + 1, count), (0, count, 0, place)


def _read(places: Sequence[int], count: int, delivered: bool) -> Iterator[tuple[int, Box]]:
    """Yield where each block has any of some layers, or is the first, to which outputs are delivered; boxes do not overlap."""
    if places or delivered:
        yield FIRST, (0 if delivered else places[0] + 1, count, 0, count)
    for before, place in itertools.pairwise((-1, *places)):
        yield SECOND, (before + 1, place, place + 1, count)
    if places:
        yield THIRD, (0, count, 0, places[-1])


def _overlap(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), min(one[3], other[3])


def minimum_cut(question: Question, server: int) -> Placement:
    """Return the best placement on the source and one other server from which nothing but outputs comes back.

    Layers on the source are on its side of an s-t cut. Every tensor has a vertex between its layer and its readers, so that it is
    paid once, however many read it; arcs without a limit back from the readers keep them from being on the source alone.

    Parameters
    ----------
    question : Question
        Without layers in int8 and without a choice of source forms. Moves inside a server are free to the cut, but for inputs.
    server : int
        Position of the other one.
    """
    problem, home = question.problem, question.problem.source
    terms = Terms.of(question)
    here, there = terms.layers[0][:, home].tolist(), terms.layers[0][:, server].tolist()
    worth = terms.tensors[0]
    scale = math.ldexp(1.0, FLOW_BITS - math.frexp(math.fsum(here) or 1.0)[1])
    flow: nx.DiGraph[object] = nx.DiGraph()

    def arc(start: object, end: object, value: float = math.inf) -> None:
        flow.add_edge(start, end, **({"capacity": int(value * scale)} if math.isfinite(value) else {}))

    for t, (producer, receivers) in enumerate(zip(problem.producer, problem.receivers, strict=True)):
        made, readers = "source" if producer < 0 else producer, [r for r in receivers if r >= 0]
        if producer >= 0 and -1 in receivers:
            there[producer] += worth[t, server, home]
        arc(made, ("sent", t), worth[t, home, server])
        for reader in readers:
            arc(("sent", t), reader)
            if producer >= 0:
                arc(reader, made)
            elif worth[t, home, home]:  # an input that the source itself must write and read
                arc(reader, ("read", t))
                arc(("read", t), "server", worth[t, home, home])
    for i, (stays, goes) in enumerate(zip(here, there, strict=True)):
        arc("source", i, goes)
        arc(i, "server", stays)
    try:
        _, (stay, _) = nx.minimum_cut(flow, "source", "server")
    except nx.NetworkXUnbounded:  # no such placement exists; the price of this one tells why
        return (home,) * len(here)
    return tuple(home if i in stay else server for i in range(len(here)))


def moves_inside(question: Question) -> bool:
    """Say whether tensors between layers take time, or energy, inside of a server."""
    worth, made = Terms.of(question).tensors[0], np.array(question.problem.producer) >= 0
    return bool(np.diagonal(worth, axis1=1, axis2=2)[made].any())
