"""The placement problem as arrays, and the linear objectives over it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.shared_weights import groups, own_bytes
from dnnsplit.ground.errors import InfeasibleError, ModelError, NetworkError, nearest_of, raise_problems
from dnnsplit.network.servers import Network
from dnnsplit.noise.schemes import names_of, unpack
from dnnsplit.profiling.overhead import priced
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import INT8, PLAIN
from dnnsplit.solving.coding import Forms, Prices, Source, forms_of, forms_on_links, lossy_sources, prices
from dnnsplit.solving.cost import Cost, Routes, WireChoice
from dnnsplit.solving.costs import INT8_SHARE, cost_of
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
    forms : Forms
        What tensors take on links, by the producer's precision, in each lossless form.
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
    sources : tuple[Source, ...]
        Lossy forms of the graph inputs, of which a plan takes one or none. The number of a scheme has that choice, 0 for none,
        in front of its q bits.
    lossy : Forms | None
        The forms with lossy ones of tensors between layers among them, where these were asked for; see
        `dnnsplit.solving.lossy_wires`.
    """

    graph: LayerGraph
    network: Network
    times: LayerTimes
    quantizable: tuple[int, ...]
    layer_s: np.ndarray = field(repr=False)
    forms: Forms = field(repr=False)
    held_bytes: np.ndarray = field(repr=False)
    producer: tuple[int, ...] = field(repr=False)
    receivers: tuple[tuple[int, ...], ...] = field(repr=False)
    allowed: np.ndarray = field(repr=False)
    colocated: tuple[tuple[int, int], ...] = field(repr=False)
    source: int = 0
    routing: str = "direct"
    sources: tuple[Source, ...] = ()
    lossy: Forms | None = field(default=None, repr=False)

    @property
    def transfer_s(self) -> np.ndarray:
        """Seconds of tensors on links in their first form: float (tensors, servers, servers, 2); infinite without a link."""
        return self.forms.link_s[..., 0]

    @property
    def choices(self) -> tuple[int, ...]:
        """How many values what rides along has: the choice of a source form, if there is one, and each q bit."""
        return ((1 + len(self.sources),) if self.sources else ()) + (2,) * len(self.quantizable)

    def parted(self, scheme: int) -> tuple[int, int]:
        """Return the choice of a source form, 0 for lossless ones, and the q bits, from the number of a scheme."""
        return divmod(scheme, 1 << len(self.quantizable))

    def source_form(self, scheme: int) -> str:
        """Return the lossy form of the graph inputs in a scheme, "" for lossless ones."""
        source = self.parted(scheme)[0]
        return self.sources[source - 1].name if source else ""

    def under(self, source: int) -> Problem:
        """Return the problem in which the graph inputs are sent in the one form that is so numbered, 0 for lossless ones."""
        if not self.sources:
            return self
        taken = self.sources[source - 1]
        forms = self.forms.only(taken.tensors, taken.forms) if source else self.forms
        return replace(self, sources=(), forms=forms)

    def prices(self, *by: Weights) -> Prices:
        """Return what tensors are worth on each link, each in the form that is best; see `dnnsplit.solving.coding`."""
        return prices(self.forms, self.sources, by)

    @property
    def quantizable_names(self) -> tuple[str, ...]:
        """Names of the layers of V_Q."""
        return tuple(self.graph.layer_names[i] for i in self.quantizable)

    def names(self, placement: Sequence[int], scheme: int) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the server of each layer and the quantized layers, by name; of the scheme the first q bit is the lowest."""
        servers = self.network.server_names
        assignment = {name: servers[k] for name, k in zip(self.graph.layer_names, placement, strict=True)}
        return assignment, names_of(self.quantizable_names, unpack(scheme, len(self.quantizable)))

    def price(
        self, placement: Sequence[int], scheme: int, *by: Weights, routes: Routes | None = None, chosen: WireChoice | None = None
    ) -> Cost:
        """Price a placement given by positions; by the cheapest routes and forms where these are not given (see `routes`)."""
        coded = bool(self.sources) or self.forms.coded
        needed = self.prices(*(by or self._by)) if coded or (routes is None and self.routing == "relay") else None
        if routes is None and self.routing == "relay":
            routes = self.routes(placement, scheme, *by)
        if chosen is None:
            chosen = self.chosen(placement, scheme, needed.choice, routes or {}) if needed and coded else {}
        return cost_of(self.graph, self.network, self.times, *self.names(placement, scheme), routes or {}, chosen)

    def _lossless(self, tensor: str, form: str) -> bool:
        return self.times.forms is None or self.times.forms.of(tensor)[form].lossless

    @property
    def _by(self) -> tuple[Weights, Weights]:
        return latency_weights(self.network), energy_weights(self.network)

    def chosen(self, placement: Sequence[int], scheme: int, choice: np.ndarray, routes: Routes) -> WireChoice:
        """Return the form of each tensor on each link that it takes, by name, where that is not the plain one.

        Parameters
        ----------
        choice : np.ndarray
            int (tensors, servers, servers, 2), as in `Prices`.
        routes : Routes
            Of the tensors that do not go straight.
        """
        source, q = self.parted(scheme)
        lossy = set(self.sources[source - 1].tensors) if source else set()
        quantized = {i for j, i in enumerate(self.quantizable) if q >> j & 1}
        names, index = self.network.server_names, self.network.server_index
        found = {}
        for t, (p, receivers) in enumerate(zip(self.producer, self.receivers, strict=True)):
            start, tensor = self.source if p < 0 else placement[p], self.graph.tensors[t].name
            links = {(start, self.source if r < 0 else placement[r]) for r in receivers}
            if tensor in routes:
                links = {(k, h) for k, h in links if k == h} | {(index[a], index[b]) for a, b in routes[tensor]}
            for k, h in links:
                own = self.forms.names[t][int(p in quantized)] or (PLAIN,)  # what may not be sent at all stays where it is
                form = self.sources[source - 1].name if t in lossy else own[choice[t, k, h, int(p in quantized)]]
                if form not in (PLAIN, INT8) and (k != h or t in lossy or not self._lossless(tensor, form)):
                    found[tensor, names[k], names[h]] = form
        return found

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
        needed = self.prices(*(by or self._by))
        source, q = self.parted(scheme)
        quantized = {i for j, i in enumerate(self.quantizable) if q >> j & 1}
        names = self.network.server_names
        found, stuck = {}, []
        for t, (p, receivers) in enumerate(zip(self.producer, self.receivers, strict=True)):
            start = self.source if p < 0 else placement[p]
            targets = {self.source if r < 0 else placement[r] for r in receivers} - {start}
            if not targets:
                continue
            price = needed.of(t, int(p in quantized), source)
            there = np.isfinite(price[0]) if usable is None else np.isfinite(price[0]) & usable[t]
            price = np.where(there, price, 0.0)
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
    power : float
        Of the squared noise of a tensor that crosses in a lossy form, or 0.
    """

    compute: np.ndarray
    transfer: np.ndarray
    held: np.ndarray | float = 0.0
    sent: np.ndarray | float = 0.0
    power: float = 0.0

    def __add__(self, other: Weights) -> Weights:
        return Weights(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Weights)))

    def __rmul__(self, factor: float) -> Weights:
        return Weights(*(factor * getattr(self, f.name) for f in fields(Weights)))

    def of(self, cost: Cost, network: Network) -> float:
        """Return the objective of a priced placement."""
        index = network.server_index
        held, sent = np.broadcast_to(self.held, self.compute.shape), np.broadcast_to(self.sent, self.transfer.shape)
        terms = [self.compute[index[name]] * seconds for name, seconds in cost.compute_s.items()]
        terms += [held[index[name]] * size for name, size in cost.weight_bytes.items()]
        for t in cost.transfers:
            link = index[t.source], index[t.target]
            terms += [self.transfer[link] * t.seconds, sent[link] * t.size_bytes]
            terms += [self.compute[link[0]] * t.encode_s, self.compute[link[1]] * t.decode_s]
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
    graph: LayerGraph, network: Network, times: LayerTimes, quantizable: Sequence[str] = (), request: Request | None = None,
    sources: Collection[str] = (), tensors: Mapping[str, Mapping[str, float]] | None = None,
) -> Problem:  # fmt: skip
    """Check that graph, network and times fit each other, and turn them into arrays.

    Parameters
    ----------
    quantizable : Sequence[str], default ()
        Layers that may run in int8.
    request : Request | None, optional
        Whose pins, prohibitions, forms and routing hold.
    sources : Collection[str], default ()
        Lossy forms of graph inputs whose noise is known.
    tensors : Mapping[str, Mapping[str, float]] | None, optional
        Noise of other tensors alone in a lossy form, by tensor and form.
    """
    request = request or Request()
    pins, forbid, colocate = request.pins, request.forbid, request.colocate
    named = [("quantizable", n) for n in quantizable] + [("pins", n) for n in pins] + [("forbid", n) for n in forbid]
    named += [("colocate", n) for group in colocate for n in group]
    lost = [(what, n) for what, n in named if n not in graph.layer_index]
    near = nearest_of(graph.layer_names)
    raise_problems(ModelError, "layers", [f"{what}: there is no layer {n!r}{near(n)}" for what, n in lost])
    servers = [("pins", s) for s in pins.values()] + [("forbid", s) for group in forbid.values() for s in group]
    index = network.server_index
    near = nearest_of(index)
    strange = [f"{what}: there is no server {s!r}{near(s)}" for what, s in servers if s not in index]
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
    source_forms, wire_forms = forms_of(graph, times.forms, request)
    forms = forms_on_links(graph, network, times.forms, source_forms, wire_forms, tensors or {})
    return Problem(
        graph=graph,
        network=network,
        times=times,
        quantizable=tuple(graph.layer_index[n] for n in quantizable),
        layer_s=times.array(graph, network, tuple(quantizable)),
        forms=forms.lossless,
        lossy=forms if forms.power.any() else None,
        held_bytes=_held(graph),
        producer=tuple(-1 if t.producer is None else graph.layer_index[t.producer] for t in graph.tensors),
        receivers=tuple((*(graph.layer_index[c] for c in t.consumers), *([-1] if t.is_output else [])) for t in graph.tensors),
        allowed=allowed,
        colocated=tuple(dict.fromkeys((graph.layer_index[a], graph.layer_index[b]) for a, b in together if a != b)),
        source=index[network.source],
        routing=request.routing,
        sources=lossy_sources(graph, network, times.forms, [name for name in source_forms if name in sources]),
    )
