"""What a placement costs: `evaluate` prices a plan by the slides' formulas, without any solver.

The slides' formulas, with f_k(i, q) the seconds of layer i on server k and g(t, n) those of tensor t over link n:

    T^c_k = sum_i x_ik f_k(i, q_i)            T^x_n = sum_t y_tn g(t, n)          T = sum_k T^c_k + sum_n T^x_n
    E_k   = P^c_k T^c_k + P^self_k T^x_kk + P^other_k sum_{h != k} T^x_kh         E = sum_k E_k,  E_0 = E of the source

Where P^other_k grows with the throughput, each transfer is priced at its own, bytes / g(t, n): see `Server`.

With many requests in flight a server computes one while links carry others: each T^c_k, and each T^x_kh with k != h, is a
stage of a pipeline, and the slowest stage sets the throughput.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import pandas as pd

from dnnsplit.graph.layers import LayerGraph, Tensor
from dnnsplit.graph.shared_weights import groups, own_bytes
from dnnsplit.ground.errors import InfeasibleError, ModelError, NetworkError, nearest, raise_problems
from dnnsplit.ground.markup import shown
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.profiling.overhead import priced
from dnnsplit.profiling.times import PRECISIONS, LayerTimes
from dnnsplit.profiling.wire_forms import INT8, PLAIN

Routes = Mapping[str, Sequence[tuple[str, str]]]  # (source, target) of the links that a tensor takes, by its name

INT8_SHARE = 0.25  # an int8 tensor, or weight, has a quarter of the bytes of its float32 form


@dataclass(frozen=True)
class Transfer:
    """A tensor that crosses one link: y_tn = 1.

    Attributes
    ----------
    tensor : str
        Name.
    source, target : str
        Servers.
    size_bytes : float
        As it is sent [B].
    seconds : float
        That the link takes [s].
    form : str, default "float32"
        How it is written: plainly ("float32", or "int8" where its layer is quantized), or as a codec of `dnnsplit.codecs` does.
    encode_s, decode_s : float, default 0.0
        What the source takes to write it so, and the target to read it [s].
    """

    tensor: str
    source: str
    target: str
    size_bytes: float
    seconds: float
    form: str = PLAIN
    encode_s: float = 0.0
    decode_s: float = 0.0

    @property
    def whole_s(self) -> float:
        """Writing, sending and reading it [s]."""
        return self.encode_s + self.seconds + self.decode_s

    def _repr_html_(self) -> str:
        ends = {"source": self.source, "target": self.target, "form": self.form}
        codec = f"{show(self.encode_s, 's')} to write, {show(self.decode_s, 's')} to read" if self.encode_s or self.decode_s else ""
        facts = {"size": show(self.size_bytes, "B"), "time on the link": show(self.seconds, "s"), "codec": codec}
        return shown(f"Transfer of {self.tensor}", {**ends, **facts})


@dataclass(frozen=True)
class Cost:
    """What a placement costs.

    Attributes
    ----------
    latency_s : float
        T = T^c + T^x [s], the slides' sum.
    compute_s : Mapping[str, float]
        T^c_k by server [s].
    transfers : tuple[Transfer, ...]
        Every y_tn = 1, with bytes and seconds, a relayed tensor once per link; moves inside a server only where a self link
        prices them.
    energy_j : float
        E [J].
    server_energy_j : Mapping[str, float]
        E_k by server [J].
    device_energy_j : float
        E_0, of the network's source [J].
    weight_bytes : Mapping[str, float]
        Weights held by server [B]: each constant once, whichever of its float32 layers read it, and the int8 copies of each
        quantized layer, which are its own. (A server that runs several parts which read one constant has it in each file.)
    """

    latency_s: float
    compute_s: Mapping[str, float]
    transfers: tuple[Transfer, ...]
    energy_j: float
    server_energy_j: Mapping[str, float]
    device_energy_j: float
    weight_bytes: Mapping[str, float]

    @property
    def compute_latency_s(self) -> float:
        """T^c [s]."""
        return math.fsum(self.compute_s.values())

    @property
    def transfer_latency_s(self) -> float:
        """T^x [s]."""
        return math.fsum(t.seconds for t in self.transfers)

    @property
    def stage_s(self) -> dict[str, float]:
        """Seconds per request [s] of each stage: "compute on <server>", and "<source> -> <target>" of each link that is used."""
        moved: dict[str, list[float]] = {}
        for t in self.transfers:
            if t.source != t.target:
                moved.setdefault(f"{t.source} -> {t.target}", []).append(t.seconds)
        stages = {f"compute on {server}": seconds for server, seconds in self.compute_s.items()}
        return stages | {link: math.fsum(seconds) for link, seconds in moved.items()}

    @property
    def bottleneck_s(self) -> float:
        """Seconds of the slowest stage [s]: with many requests in flight, one leaves every so often."""
        return max(self.stage_s.values())

    @property
    def throughput_per_s(self) -> float:
        """Requests per second [1/s] that a pipeline sustains: 1 / bottleneck."""
        return 1.0 / self.bottleneck_s if self.bottleneck_s else math.inf

    @property
    def frame(self) -> pd.DataFrame:
        """One row per term of the latency: term, seconds [s], bytes [B]."""
        rows = [(f"compute on {server}", seconds, math.nan) for server, seconds in self.compute_s.items()]
        rows += [(f"{t.tensor}: {t.source} -> {t.target}", t.seconds, t.size_bytes) for t in self.transfers]
        return pd.DataFrame(rows, columns=["term", "seconds", "bytes"])

    def _repr_html_(self) -> str:
        return shown(f"latency {show(self.latency_s, 's')}, energy {show(self.energy_j, 'J')}", readable(self.frame))


def readable(terms: pd.DataFrame) -> pd.DataFrame:
    """Return a `Cost.frame` with units."""
    sizes = ["" if math.isnan(b) else show(b, "B") for b in terms["bytes"]]
    return terms.assign(seconds=[show(s, "s") for s in terms["seconds"]], bytes=sizes)


def evaluate(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    quantized: Iterable[str] = (),
    routes: Routes | None = None,
) -> Cost:
    """Price a placement by the slides' formulas, independently of every solver.

    Parameters
    ----------
    graph, network, times : LayerGraph, Network, LayerTimes
        What is placed, on what, and the seconds of each layer there.
    assignment : Mapping[str, str]
        Server by layer, for every layer.
    quantized : Iterable[str], default ()
        Layers that run in int8.
    routes : Routes | None, optional
        (source, target) of the links between servers that a tensor takes, by its name; it pays each of them once, and the sender
        of each pays the energy. Tensors without an entry take the link from their producer's server to each receiver's.

    Raises
    ------
    ModelError, NetworkError
        The assignment names unknown layers or servers, or misses a layer; routes of unknown tensors.
    ProfileError
        Times that are needed are missing.
    InfeasibleError
        A tensor would have to cross where there is no link, or its route does not bring it where it is needed.
    """
    quantized = tuple(quantized)
    problems = [f"layer {n!r} has no server" for n in graph.layer_names if n not in assignment]
    lost = [n for n in (*assignment, *quantized) if n not in graph.layer_index]
    problems += [f"there is no layer {n!r}{nearest(n, graph.layer_names)}" for n in dict.fromkeys(lost)]
    raise_problems(ModelError, "assignment", problems)
    tensors = [t.name for t in graph.tensors]
    lost = [f"there is no tensor {n!r}{nearest(n, tensors)}" for n in routes or {} if n not in tensors]
    raise_problems(ModelError, "routes", lost)
    names = network.server_names
    strange = sorted(set(assignment.values()) - set(names))
    raise_problems(NetworkError, "assignment", [f"there is no server {s!r}{nearest(s, names)}" for s in strange])
    return cost_of(graph, priced(network, times.overhead), times, assignment, quantized, routes or {})


def cost_of(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    quantized: Sequence[str],
    routes: Routes,
) -> Cost:
    """Price a placement of known layers on known servers, with links that are `priced` already; see `evaluate`."""
    names = network.server_names
    compute: dict[str, list[float]] = {name: [] for name in names}
    weight = dict.fromkeys(names, 0.0)
    for layer in graph.layers:
        runs_on = assignment[layer.name]
        compute[runs_on].append(times.seconds(layer.name, runs_on, PRECISIONS[layer.name in quantized]))
        weight[runs_on] += INT8_SHARE * layer.weight_bytes if layer.name in quantized else own_bytes(layer)
    for size, positions in groups(graph.layers):
        readers = [graph.layers[i].name for i in positions if graph.layers[i].name not in quantized]
        for holder in {assignment[name] for name in readers}:
            weight[holder] += size
    compute_s = {name: math.fsum(values) for name, values in compute.items()}
    transfers, missing = _transfers(graph, network, assignment, quantized, routes)
    raise_problems(InfeasibleError, "assignment", missing)
    energy = {}
    for server in network.servers:
        self_s = math.fsum(t.seconds for t in transfers if t.source == t.target == server.name)
        sent = [t for t in transfers if t.source == server.name != t.target]
        sending_j = server.sending_j(math.fsum(t.seconds for t in sent), math.fsum(t.size_bytes for t in sent))
        energy[server.name] = server.compute_w * compute_s[server.name] + server.transmit_self_w * self_s + sending_j
    return Cost(
        latency_s=math.fsum([*compute_s.values(), *(t.seconds for t in transfers)]),
        compute_s=compute_s,
        transfers=transfers,
        energy_j=math.fsum(energy.values()),
        server_energy_j=energy,
        device_energy_j=energy[network.source],
        weight_bytes=weight,
    )


def _transfers(
    graph: LayerGraph, network: Network, assignment: Mapping[str, str], quantized: Sequence[str], routes: Routes
) -> tuple[tuple[Transfer, ...], list[str]]:
    """Return every y_tn = 1 (each link once per tensor, in the order of travel) and what is wrong with the rest."""
    found, missing = [], []
    for tensor in graph.tensors:
        source = network.source if tensor.producer is None else assignment[tensor.producer]
        targets = [assignment[c] for c in tensor.consumers] + ([network.source] if tensor.is_output else [])
        size = tensor.size_bytes * (INT8_SHARE if tensor.producer in quantized else 1.0)
        if tensor.name in routes:
            links, lost = _travel(source, targets, routes[tensor.name])
            missing += [f"{_what(tensor, size)}: {problem}" for problem in lost]
        else:
            links = [(source, target) for target in dict.fromkeys(targets)]
        for start, end in links:
            link = network.link(start, end)
            if link is not None:
                seconds = link.transfer_s(size, tensor.handled_bytes)
                found.append(Transfer(tensor.name, start, end, size, seconds))
            elif start != end:
                missing.append(f"{_what(tensor, size)} would cross {start!r} -> {end!r}, where there is no link")
    return tuple(found), missing


def _what(tensor: Tensor, size: float) -> str:
    return f"tensor {tensor.name!r} ({show(size, 'B')})"


def _travel(source: str, targets: Sequence[str], route: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Put the links of a route in the order of travel; say which of them, and which targets, a tensor does not reach."""
    ways: nx.DiGraph[str] = nx.DiGraph()
    ways.add_node(source)
    ways.add_edges_from((start, end) for start, end in route if start != end)
    taken = list(nx.bfs_edges(ways, source))
    there = {source, *(end for _, end in taken)}
    problems = []
    for start, end in (link for link in ways.edges if link not in taken):
        if start in there:
            problems.append(f"its route brings it to {end!r} once more by {start!r} -> {end!r}")
        else:
            problems.append(f"its route has {start!r} -> {end!r}, but it never gets to {start!r}")
    problems += [f"its route does not bring it from {source!r} to {t!r}" for t in dict.fromkeys(targets) if t not in there]
    return [(source, source)] * (source in targets) + taken, problems
