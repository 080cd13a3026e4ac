"""What a placement costs: `evaluate` prices a plan by the slides' formulas, without any solver.

The slides' formulas, with f_k(i, q) the seconds of layer i on server k and g(t, n) those of tensor t over link n:

    T^c_k = sum_i x_ik f_k(i, q_i)            T^x_n = sum_t y_tn g(t, n)          T = sum_k T^c_k + sum_n T^x_n
    E_k   = P^c_k T^c_k + P^self_k T^x_kk + P^other_k sum_{h != k} T^x_kh         E = sum_k E_k,  E_0 = E of the source
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
