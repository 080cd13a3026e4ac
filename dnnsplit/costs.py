"""What a placement costs: the arrays of the problem, and `evaluate`, which prices a plan without any solver.

The slides' formulas, with f_k(i, q) the seconds of layer i on server k and g(t, n) those of tensor t over link n:

    T^c_k = sum_i x_ik f_k(i, q_i)            T^x_n = sum_t y_tn g(t, n)          T = sum_k T^c_k + sum_n T^x_n
    E_k   = P^c_k T^c_k + P^self_k T^x_kk + P^other_k sum_{h != k} T^x_kh         E = sum_k E_k,  E_0 = E of the source
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dnnsplit.errors import InfeasibleError, ModelError, NetworkError, nearest, raise_problems
from dnnsplit.graph import LayerGraph
from dnnsplit.network import Network
from dnnsplit.times import PRECISIONS, LayerTimes
from dnnsplit.units import show

INT8_SHARE = 0.25  # an int8 tensor, or weight, has a quarter of the bytes of its float32 form


@dataclass(frozen=True)
class Transfer:
    """A tensor that crosses one link: y_tn = 1."""

    tensor: str
    source: str
    target: str
    size_bytes: float
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What a placement costs.

    Attributes
    ----------
    latency_s : T = T^c + T^x [s], the slides' sum
    compute_s : T^c_k by server [s]
    transfers : every y_tn = 1, with bytes and seconds; moves inside a server only where a self link prices them
    energy_j : E [J]
    server_energy_j : E_k by server [J]
    device_energy_j : E_0, of the network's source [J]
    weight_bytes : weights held by server [B]
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
    def frame(self) -> pd.DataFrame:
        """One row per term of the latency: term, seconds [s], bytes [B]."""
        rows = [(f"compute on {server}", seconds, math.nan) for server, seconds in self.compute_s.items()]
        rows += [(f"{t.tensor}: {t.source} -> {t.target}", t.seconds, t.size_bytes) for t in self.transfers]
        return pd.DataFrame(rows, columns=["term", "seconds", "bytes"])


@dataclass(frozen=True, eq=False)
class Problem:
    """The placement problem as arrays; layers, servers and tensors by position.

    Attributes
    ----------
    graph, network, times : what it was made from
    quantizable : positions of the layers of V_Q
    layer_s : float (layers, servers, 2) [s]; NaN in [..., 1] for layers that are not quantizable
    transfer_s : float (tensors, servers, servers, 2) [s], by the producer's precision; infinite without a link
    producer : position of each tensor's producer, -1 for graph inputs (they are at the source)
    receivers : positions of each tensor's consumers; -1 stands for the delivery of an output to the source
    allowed : bool (layers, servers); pins and prohibitions
    source : position of the source server
    """

    graph: LayerGraph
    network: Network
    times: LayerTimes
    quantizable: tuple[int, ...]
    layer_s: np.ndarray = field(repr=False)
    transfer_s: np.ndarray = field(repr=False)
    producer: tuple[int, ...] = field(repr=False)
    receivers: tuple[tuple[int, ...], ...] = field(repr=False)
    allowed: np.ndarray = field(repr=False)
    source: int = 0

    @property
    def quantizable_names(self) -> tuple[str, ...]:
        """Names of the layers of V_Q."""
        return tuple(self.graph.layer_names[i] for i in self.quantizable)

    def names(self, placement: Sequence[int], scheme: int) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the server of each layer and the quantized layers, by name.

        Parameters
        ----------
        placement : server position of each layer
        scheme : q bits, the first quantizable layer lowest
        """
        servers = self.network.server_names
        assignment = {name: servers[k] for name, k in zip(self.graph.layer_names, placement, strict=True)}
        return assignment, tuple(name for j, name in enumerate(self.quantizable_names) if scheme >> j & 1)

    def price(self, placement: Sequence[int], scheme: int) -> Cost:
        """Price a placement given by positions."""
        return evaluate(self.graph, self.network, self.times, *self.names(placement, scheme))


@dataclass(frozen=True, eq=False)
class Weights:
    """A linear objective: what a second of compute on k, and a second of transfer from k to h, is worth.

    Attributes
    ----------
    compute : float (servers,)
    transfer : float (servers, servers)
    """

    compute: np.ndarray
    transfer: np.ndarray

    def __add__(self, other: Weights) -> Weights:
        return Weights(self.compute + other.compute, self.transfer + other.transfer)

    def __rmul__(self, factor: float) -> Weights:
        return Weights(factor * self.compute, factor * self.transfer)

    def of(self, cost: Cost, network: Network) -> float:
        """Return the objective of a priced placement."""
        index = {name: k for k, name in enumerate(network.server_names)}
        terms = [self.compute[index[name]] * seconds for name, seconds in cost.compute_s.items()]
        return math.fsum(terms + [self.transfer[index[t.source], index[t.target]] * t.seconds for t in cost.transfers])


def latency_weights(network: Network) -> Weights:
    """T: every second counts once."""
    count = len(network.servers)
    return Weights(np.ones(count), np.ones((count, count)))


def energy_weights(network: Network, only: str | None = None) -> Weights:
    """E [J per s], or E_k of one server alone when `only` names it."""
    keep = np.array([only in (None, server.name) for server in network.servers], float)
    transfer = np.repeat(np.array([[s.transmit_w] for s in network.servers]), len(keep), axis=1)
    np.fill_diagonal(transfer, [s.transmit_self_w for s in network.servers])
    return Weights(keep * [s.compute_w for s in network.servers], keep[:, None] * transfer)


def build_problem(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    quantizable: Sequence[str] = (),
    pins: Mapping[str, str] | None = None,
    forbid: Mapping[str, Sequence[str]] | None = None,
) -> Problem:
    """Check that graph, network and times fit each other, and turn them into arrays.

    Parameters
    ----------
    quantizable : layers that may run in int8
    pins : server by layer: the layer runs there
    forbid : servers by layer: the layer never runs there

    Raises
    ------
    ModelError, NetworkError : unknown layers or servers in `quantizable`, `pins` or `forbid`
    ProfileError : times that are missing
    InfeasibleError : pins and prohibitions leave a layer no server
    """
    pins, forbid = dict(pins or {}), {k: (v,) if isinstance(v, str) else tuple(v) for k, v in (forbid or {}).items()}
    named = [("quantizable", n) for n in quantizable] + [("pins", n) for n in pins] + [("forbid", n) for n in forbid]
    lost = [(what, n) for what, n in named if n not in graph.layer_index]
    raise_problems(ModelError, "layers", [f"{what}: there is no layer {n!r}{nearest(n, graph.layer_names)}" for what, n in lost])
    servers = [("pins", s) for s in pins.values()] + [("forbid", s) for group in forbid.values() for s in group]
    index = {name: k for k, name in enumerate(network.server_names)}
    raise_problems(
        NetworkError, "servers", [f"{what}: there is no server {s!r}{nearest(s, index)}" for what, s in servers if s not in index]
    )
    allowed = np.ones((len(graph.layers), len(index)), bool)
    for name, server in pins.items():
        allowed[graph.layer_index[name]] = np.arange(len(index)) == index[server]
    for name, group in forbid.items():
        allowed[graph.layer_index[name], [index[s] for s in group]] = False
    stuck = [f"layer {graph.layer_names[i]!r} may run on no server" for i in np.flatnonzero(~allowed.any(axis=1))]
    raise_problems(InfeasibleError, "pins and prohibitions", stuck)
    sizes = np.array([t.size_bytes for t in graph.tensors], float)
    return Problem(
        graph=graph,
        network=network,
        times=times,
        quantizable=tuple(graph.layer_index[n] for n in quantizable),
        layer_s=times.array(graph, network, tuple(quantizable)),
        transfer_s=np.stack([network.transfer_s(sizes), network.transfer_s(sizes * INT8_SHARE)], axis=-1),
        producer=tuple(-1 if t.producer is None else graph.layer_index[t.producer] for t in graph.tensors),
        receivers=tuple(
            (*(graph.layer_index[c] for c in t.consumers), *([-1] if t.is_output else [])) for t in graph.tensors
        ),
        allowed=allowed,
        source=index[network.source],
    )


def evaluate(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    quantized: Iterable[str] = (),
) -> Cost:
    """Price a placement by the slides' formulas, independently of every solver.

    Parameters
    ----------
    assignment : server by layer, for every layer
    quantized : layers that run in int8

    Returns
    -------
    Cost

    Raises
    ------
    ModelError, NetworkError : the assignment names unknown layers or servers, or misses a layer
    ProfileError : times that are needed are missing
    InfeasibleError : a tensor would have to cross where there is no link
    """
    quantized = tuple(quantized)
    problems = [f"layer {n!r} has no server" for n in graph.layer_names if n not in assignment]
    lost = [n for n in (*assignment, *quantized) if n not in graph.layer_index]
    problems += [f"there is no layer {n!r}{nearest(n, graph.layer_names)}" for n in dict.fromkeys(lost)]
    raise_problems(ModelError, "assignment", problems)
    names = network.server_names
    strange = sorted(set(assignment.values()) - set(names))
    raise_problems(NetworkError, "assignment", [f"there is no server {s!r}{nearest(s, names)}" for s in strange])
    compute: dict[str, list[float]] = {name: [] for name in names}
    weight = dict.fromkeys(names, 0.0)
    for layer in graph.layers:
        server = assignment[layer.name]
        compute[server].append(times.seconds(layer.name, server, PRECISIONS[layer.name in quantized]))
        weight[server] += layer.weight_bytes * (INT8_SHARE if layer.name in quantized else 1.0)
    compute_s = {name: math.fsum(values) for name, values in compute.items()}
    transfers, missing = _transfers(graph, network, assignment, quantized)
    raise_problems(InfeasibleError, "assignment", missing)
    energy = {}
    for server in network.servers:
        self_s = math.fsum(t.seconds for t in transfers if t.source == t.target == server.name)
        other_s = math.fsum(t.seconds for t in transfers if t.source == server.name != t.target)
        energy[server.name] = (
            server.compute_w * compute_s[server.name] + server.transmit_self_w * self_s + server.transmit_w * other_s
        )
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
    graph: LayerGraph, network: Network, assignment: Mapping[str, str], quantized: Sequence[str]
) -> tuple[tuple[Transfer, ...], list[str]]:
    """Return every y_tn = 1 (once per tensor and target) and the pairs of servers that lack the link for it."""
    found, missing = [], []
    for tensor in graph.tensors:
        source = network.source if tensor.producer is None else assignment[tensor.producer]
        targets = [assignment[c] for c in tensor.consumers] + ([network.source] if tensor.is_output else [])
        size = tensor.size_bytes * (INT8_SHARE if tensor.producer in quantized else 1.0)
        for target in dict.fromkeys(targets):
            link = network.link(source, target)
            if link is not None:
                found.append(Transfer(tensor.name, source, target, size, link.transfer_s(size)))
            elif source != target:
                missing.append(
                    f"tensor {tensor.name!r} ({show(size, 'B')}) would cross {source!r} -> {target!r}, where there is no link"
                )
    return tuple(found), missing
