"""The placement problem as arrays, and the linear objectives over it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.shared_weights import groups, own_bytes
from dnnsplit.ground.errors import InfeasibleError, ModelError, NetworkError, nearest, raise_problems
from dnnsplit.network.servers import Network
from dnnsplit.noise.schemes import names_of, unpack
from dnnsplit.profiling.overhead import priced
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.costs import INT8_SHARE, Cost, Routes, cost_of
from dnnsplit.solving.elimination.relays import tree
from dnnsplit.solving.request import Request


@dataclass(frozen=True, eq=False)
class Problem:
    """The placement problem as arrays; layers, servers and tensors by position.

    Attributes
    ----------
    graph, times : LayerGraph, LayerTimes
        What it was made from.
    network : Network
        Where it runs, its links charged with what the servers do with a tensor (`priced`), without those that are forbidden.
    quantizable : tuple[int, ...]
        Positions of the layers of V_Q.
    layer_s : np.ndarray
        float (layers, servers, 2) [s]; NaN in [..., 1] for layers that are not quantizable.
    transfer_s : np.ndarray
        float (tensors, servers, servers, 2) [s], by the producer's precision; infinite without a link.
    size_bytes : np.ndarray
        float (tensors, 2) [B], by the producer's precision.
    held_bytes : np.ndarray
        float (layers, 2) [B], weights of each layer by its precision, those that it shares divided by how many do: the sum over
        the layers of a server is what it holds, or less.
    producer : tuple[int, ...]
        Position of each tensor's producer, -1 for graph inputs (they are at the source).
    receivers : tuple[tuple[int, ...], ...]
        Positions of each tensor's consumers; -1 stands for the delivery of an output to the source.
    allowed : np.ndarray
        bool (layers, servers); pins and prohibitions.
    colocated : tuple[tuple[int, int], ...]
        Pairs of layers that must share a server.
    source : int
        Position of the source server.
    routing : str
        "direct": a tensor crosses the link between its two servers; "relay": it may pass through other servers.
    """

    graph: LayerGraph
    network: Network
    times: LayerTimes
    quantizable: tuple[int, ...]
    layer_s: np.ndarray = field(repr=False)
    transfer_s: np.ndarray = field(repr=False)
    size_bytes: np.ndarray = field(repr=False)
    held_bytes: np.ndarray = field(repr=False)
    producer: tuple[int, ...] = field(repr=False)
    receivers: tuple[tuple[int, ...], ...] = field(repr=False)
    allowed: np.ndarray = field(repr=False)
    colocated: tuple[tuple[int, int], ...] = field(repr=False)
    source: int = 0
    routing: str = "direct"

    @property
    def quantizable_names(self) -> tuple[str, ...]:
        """Names of the layers of V_Q."""
        return tuple(self.graph.layer_names[i] for i in self.quantizable)

    def names(self, placement: Sequence[int], scheme: int) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the server of each layer and the quantized layers, by name; of the scheme the first q bit is the lowest."""
        servers = self.network.server_names
        assignment = {name: servers[k] for name, k in zip(self.graph.layer_names, placement, strict=True)}
        return assignment, names_of(self.quantizable_names, unpack(scheme, len(self.quantizable)))

    def price(self, placement: Sequence[int], scheme: int, *by: Weights, routes: Routes | None = None) -> Cost:
        """Price a placement given by positions; with relays, and no `routes` given, by the cheapest ones (see `routes`)."""
        if routes is None and self.routing == "relay":
            routes = self.routes(placement, scheme, *by)
        return cost_of(self.graph, self.network, self.times, *self.names(placement, scheme), routes or {})

    def routes(
        self, placement: Sequence[int], scheme: int, *by: Weights, usable: np.ndarray | None = None
    ) -> dict[str, tuple[tuple[str, str], ...]]:
        """Return the cheapest links for each tensor that leaves its server, each link once, as (source, target) names.

        Parameters
        ----------
        *by : Weights
            What is minimised, and what decides between equals, if anything; latency and then energy by default.
        usable : np.ndarray | None, optional
            bool (tensors, servers, servers), the links that each tensor may take; all by default.
        """
        by = by or (latency_weights(self.network), energy_weights(self.network))
        worth = np.stack([w.moves(self) for w in by])
        quantized = {i for j, i in enumerate(self.quantizable) if scheme >> j & 1}
        names = self.network.server_names
        found, stuck = {}, []
        for t, (p, receivers) in enumerate(zip(self.producer, self.receivers, strict=True)):
            start = self.source if p < 0 else placement[p]
            targets = {self.source if r < 0 else placement[r] for r in receivers} - {start}
            if not targets:
                continue
            linked = np.isfinite(self.transfer_s[t, :, :, int(p in quantized)])
            there = linked if usable is None else linked & usable[t]
            price = np.where(there, worth[:, t, :, :, int(p in quantized)], 0.0)
            price[0][~there] = np.inf
            links, name = tree(price, start, targets), self.graph.tensors[t].name
            if links is None:
                to = ", ".join(repr(names[k]) for k in sorted(targets))
                stuck.append(f"tensor {name!r} cannot get from {names[start]!r} to {to}, not even by relays")
            else:
                found[name] = tuple((names[k], names[h]) for k, h in links)
        raise_problems(InfeasibleError, "assignment", stuck)
        return found


@dataclass(frozen=True, eq=False)
class Weights:
    """A linear objective, or limit: what a second of compute on k, of transfer from k to h, and a byte of either is worth.

    Attributes
    ----------
    compute : np.ndarray
        float (servers,), of a second of compute.
    transfer : np.ndarray
        float (servers, servers), of a second of transfer.
    held : np.ndarray | float
        float (servers,), of a byte of weights, or 0.
    sent : np.ndarray | float
        float (servers, servers), of a byte that crosses, or 0.
    """

    compute: np.ndarray
    transfer: np.ndarray
    held: np.ndarray | float = 0.0
    sent: np.ndarray | float = 0.0

    def __add__(self, other: Weights) -> Weights:
        return Weights(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Weights)))

    def __rmul__(self, factor: float) -> Weights:
        return Weights(*(factor * getattr(self, f.name) for f in fields(Weights)))

    def moves(self, problem: Problem) -> np.ndarray:
        """Return what each tensor is worth on each link: float (tensors, servers, servers, 2); 0 without a link."""
        linked = np.isfinite(problem.transfer_s)
        worth = np.where(linked, problem.transfer_s, 0.0)
        worth *= self.transfer[..., None]
        if np.any(self.sent):
            worth += np.where(linked, problem.size_bytes[:, None, None, :] * np.asarray(self.sent)[..., None], 0.0)
        return worth

    def of(self, cost: Cost, network: Network) -> float:
        """Return the objective of a priced placement."""
        index = {name: k for k, name in enumerate(network.server_names)}
        held, sent = np.broadcast_to(self.held, self.compute.shape), np.broadcast_to(self.sent, self.transfer.shape)
        terms = [self.compute[index[name]] * seconds for name, seconds in cost.compute_s.items()]
        terms += [held[index[name]] * size for name, size in cost.weight_bytes.items()]
        for t in cost.transfers:
            link = index[t.source], index[t.target]
            terms += [self.transfer[link] * t.seconds, sent[link] * t.size_bytes]
        return math.fsum(terms)


def latency_weights(network: Network) -> Weights:
    """T: every second counts once."""
    count = len(network.servers)
    return Weights(np.ones(count), np.ones((count, count)))


def energy_weights(network: Network, only: str | None = None) -> Weights:
    """E [J per s, and per byte sent], or E_k of one server alone when `only` names it."""
    keep = np.array([only in (None, server.name) for server in network.servers], float)
    transfer = np.repeat(np.array([[s.transmit_w] for s in network.servers]), len(keep), axis=1)
    np.fill_diagonal(transfer, [s.transmit_self_w for s in network.servers])
    sent = np.array([[s.transmit_j_per_byte] for s in network.servers]) * ~np.eye(len(keep), dtype=bool)
    return Weights(keep * [s.compute_w for s in network.servers], keep[:, None] * transfer, sent=keep[:, None] * sent)


def held_weights(network: Network, server: str) -> Weights:
    """Bytes of weights on one server [B], or, where layers share some, no more than there are: see `Problem.held_bytes`."""
    count = len(network.servers)
    return Weights(np.zeros(count), np.zeros((count, count)), np.array([float(s.name == server) for s in network.servers]))


def _held(graph: LayerGraph) -> np.ndarray:
    own = np.array([own_bytes(layer) for layer in graph.layers])
    for size, positions in groups(graph.layers):
        own[list(positions)] += size / len(positions)
    return np.stack([own, INT8_SHARE * np.array([float(layer.weight_bytes) for layer in graph.layers])], axis=-1)


def build_problem(
    graph: LayerGraph, network: Network, times: LayerTimes, quantizable: Sequence[str] = (), request: Request | None = None
) -> Problem:
    """Check that graph, network and times fit each other, and turn them into arrays.

    Parameters
    ----------
    quantizable : Sequence[str], default ()
        Layers that may run in int8.
    request : Request | None, optional
        Whose pins, prohibitions and routing hold.
    """
    request = request or Request()
    pins, forbid, colocate = request.pins, request.forbid, request.colocate
    named = [("quantizable", n) for n in quantizable] + [("pins", n) for n in pins] + [("forbid", n) for n in forbid]
    named += [("colocate", n) for group in colocate for n in group]
    lost = [(what, n) for what, n in named if n not in graph.layer_index]
    raise_problems(ModelError, "layers", [f"{what}: there is no layer {n!r}{nearest(n, graph.layer_names)}" for what, n in lost])
    servers = [("pins", s) for s in pins.values()] + [("forbid", s) for group in forbid.values() for s in group]
    index = {name: k for k, name in enumerate(network.server_names)}
    strange = [f"{what}: there is no server {s!r}{nearest(s, index)}" for what, s in servers if s not in index]
    raise_problems(NetworkError, "servers", strange)
    inside = [f"{a!r} -> {b!r}" for a, b in request.forbid_links if a == b]
    inside = [f"{link} is inside a server, where tensors move without a link too" for link in inside]
    raise_problems(NetworkError, "forbid_links", inside)
    network = priced(network.without(*request.forbid_links), times.overhead)
    allowed = np.ones((len(graph.layers), len(index)), bool)
    for name, server in pins.items():
        allowed[graph.layer_index[name]] = np.arange(len(index)) == index[server]
    for name, group in forbid.items():
        allowed[graph.layer_index[name], [index[s] for s in group]] = False
    stuck = [f"layer {graph.layer_names[i]!r} may run on no server" for i in np.flatnonzero(~allowed.any(axis=1))]
    raise_problems(InfeasibleError, "pins and prohibitions", stuck)
    together = (pair for group in colocate for pair in itertools.pairwise(group))
    sizes = np.array([t.size_bytes for t in graph.tensors], float)
    handled = np.array([t.handled_bytes for t in graph.tensors], float)
    return Problem(
        graph=graph,
        network=network,
        times=times,
        quantizable=tuple(graph.layer_index[n] for n in quantizable),
        layer_s=times.array(graph, network, tuple(quantizable)),
        transfer_s=np.stack([network.transfer_s(sizes, handled), network.transfer_s(sizes * INT8_SHARE, handled)], axis=-1),
        size_bytes=np.stack([sizes, sizes * INT8_SHARE], axis=-1),
        held_bytes=_held(graph),
        producer=tuple(-1 if t.producer is None else graph.layer_index[t.producer] for t in graph.tensors),
        receivers=tuple((*(graph.layer_index[c] for c in t.consumers), *([-1] if t.is_output else [])) for t in graph.tensors),
        allowed=allowed,
        colocated=tuple(dict.fromkeys((graph.layer_index[a], graph.layer_index[b]) for a, b in together if a != b)),
        source=index[network.source],
        routing=request.routing,
    )
