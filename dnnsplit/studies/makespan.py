"""The makespan of a plan: what its latency is when branches run side by side, by simulating servers and links."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.network.servers import Network
from dnnsplit.profiling.times import PRECISIONS, LayerTimes
from dnnsplit.solving.costs import Routes, evaluate


def makespan(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    quantized: Iterable[str] = (),
    routes: Routes | None = None,
) -> float:
    """Return the seconds from the input's arrival to the last output's, with servers and links working side by side.

    Each server runs one layer at a time, of those whose inputs are there the one that comes first in the graph; each link
    sends one tensor at a time, in the order in which they reach it. The slides' latency is the sum of all these terms, so
    it is never less; for a plan without parallel branches the two are equal.

    Parameters
    ----------
    graph, network, times : LayerGraph, Network, LayerTimes
        What is placed, on what, and the seconds of each layer there.
    assignment : Mapping[str, str]
        Server by layer.
    quantized : Iterable[str], default ()
        Layers that run in int8.
    routes : Routes | None, optional
        Links by tensor, as for `evaluate`.

    Raises
    ------
    ModelError, NetworkError, ProfileError, InfeasibleError
        As `evaluate`.
    """
    quantized = tuple(quantized)
    cost = evaluate(graph, network, times, assignment, quantized, routes)
    moves: dict[str, list[tuple[str, str, float]]] = {}
    for transfer in cost.transfers:
        moves.setdefault(transfer.tensor, []).append((transfer.source, transfer.target, transfer.seconds))
    waiting = {name: sum(name in t.consumers for t in graph.tensors) for name in graph.layer_names}
    rank = {name: i for i, name in enumerate(graph.topological)}
    ready: dict[str, list[tuple[int, str]]] = {server: [] for server in network.server_names}
    busy = dict.fromkeys(network.server_names, False)
    link_free: dict[tuple[str, str], float] = {}
    count = itertools.count()
    events: list[tuple[float, int, str, str, int]] = []  # time, tie-break, what, of which layer or where, of which tensor
    last = 0.0

    def at(time: float, kind: str, what: str, tensor_index: int = -1) -> None:
        heapq.heappush(events, (time, next(count), kind, what, tensor_index))

    def send(tensor_index: int, server: str, time: float, made: bool) -> float:
        """Send a tensor from a server on its next links; return when the source has it, if it is an output."""
        tensor = graph.tensors[tensor_index]
        arrival = {server: time} if made else {}
        for source, target, seconds in moves.get(tensor.name, ()):
            if source != server:
                continue
            start = max(time, link_free.get((source, target), 0.0)) if source != target else time
            arrival[target] = start + seconds
            if source != target:
                link_free[source, target] = arrival[target]
                if any(onward == target for onward, _, _ in moves[tensor.name]):
                    at(arrival[target], "passes", target, tensor_index)
        for consumer in tensor.consumers:
            if assignment[consumer] in arrival:
                at(arrival[assignment[consumer]], "arrived", consumer)
        return arrival.get(network.source, 0.0) if tensor.is_output else 0.0

    of_layer: dict[str | None, list[int]] = {}
    for index, tensor in enumerate(graph.tensors):
        of_layer.setdefault(tensor.producer, []).append(index)
    for name, missing in waiting.items():
        if missing == 0:
            heapq.heappush(ready[assignment[name]], (rank[name], name))
    for index in of_layer.get(None, ()):
        last = max(last, send(index, network.source, 0.0, made=True))
    now = 0.0
    while True:
        for server, queue in ready.items():
            if queue and not busy[server]:
                _, name = heapq.heappop(queue)
                busy[server] = True
                at(now + times.seconds(name, server, PRECISIONS[name in quantized]), "done", name)
        if not events:
            return last
        now, _, kind, what, index = heapq.heappop(events)
        if kind == "passes":
            last = max(last, send(index, what, now, made=False))
        elif kind == "arrived":
            waiting[what] -= 1
            if waiting[what] == 0:
                heapq.heappush(ready[assignment[what]], (rank[what], what))
        else:
            busy[assignment[what]] = False
            last = max(last, now)
            for index in of_layer.get(what, ()):
                last = max(last, send(index, assignment[what], now, made=True))
