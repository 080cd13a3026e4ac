"""The makespan of a plan: what its latency is when branches run side by side, by simulating servers and links."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from dnnsplit.graph.layers import LayerGraph, Tensor
from dnnsplit.network.servers import Network
from dnnsplit.profiling.times import PRECISIONS, LayerTimes
from dnnsplit.solving.costs import Routes, Transfer, WireChoice, evaluate


def makespan(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    quantized: Iterable[str] = (),
    routes: Routes | None = None,
    forms: WireChoice | None = None,
) -> float:
    """Return the seconds from the input's arrival to the last output's, with servers and links working side by side.

    Each server does one thing at a time: of the layers whose inputs are there the one that comes first in the graph; writing and
    reading a tensor that crosses in another form comes right after the layer that makes it. Each link sends one tensor at a time,
    in the order in which they reach it. The slides' latency is the sum of all these terms, so it is never less; for a plan
    without parallel branches the two are equal.

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
    forms : WireChoice | None, optional
        The form in which tensors cross, as for `evaluate`.

    Raises
    ------
    ModelError, NetworkError, ProfileError, InfeasibleError
        As `evaluate`.
    """
    quantized = tuple(quantized)
    cost = evaluate(graph, network, times, assignment, quantized, routes, forms)
    moves: dict[tuple[str, str], list[Transfer]] = {}
    for transfer in cost.transfers:
        moves.setdefault((transfer.tensor, transfer.source), []).append(transfer)
    made_by: dict[str | None, list[Tensor]] = {}
    for tensor in graph.tensors:
        made_by.setdefault(tensor.producer, []).append(tensor)
    waiting = {name: sum(name in t.consumers for t in graph.tensors) for name in graph.layer_names}
    rank: dict[str | None, int] = {name: i for i, name in enumerate((None, *graph.topological))}
    queues: dict[str, list[tuple[int, int, float, Callable[[], None]]]] = {server: [] for server in network.server_names}
    idle, link_free = dict.fromkeys(network.server_names, True), dict.fromkeys(((n.source, n.target) for n in network.links), 0.0)
    events: list[tuple[float, int, Callable[[], None]]] = []  # when, tie-break, what happens then
    count, now = itertools.count(), 0.0

    def queue(server: str, place: int, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(queues[server], (place, next(count), seconds, then))

    def happens(time: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (time, next(count), what))

    def start(name: str) -> None:
        seconds = times.seconds(name, assignment[name], PRECISIONS[name in quantized])
        queue(assignment[name], rank[name], seconds, partial(finish, name))

    def finish(name: str) -> None:
        for tensor in made_by.get(name, ()):
            make(tensor, assignment[name])

    def make(tensor: Tensor, server: str) -> None:
        if all(move.target != server for move in moves.get((tensor.name, server), ())):
            hand(tensor, server)
        send(tensor, server)

    def hand(tensor: Tensor, server: str) -> None:
        """Hand a tensor to the layers of a server that read it."""
        for name in (n for n in tensor.consumers if assignment[n] == server):
            waiting[name] -= 1
            if waiting[name] == 0:
                start(name)

    def send(tensor: Tensor, server: str) -> None:
        for move in moves.get((tensor.name, server), ()):
            code(tensor, server, move.encode_s, partial(travel, tensor, move))

    def code(tensor: Tensor, server: str, seconds: float, then: Callable[[], None]) -> None:
        """Write or read a tensor, which a plain one needs no turn of the server for."""
        if seconds:
            queue(server, rank[tensor.producer], seconds, then)
        else:
            then()

    def travel(tensor: Tensor, move: Transfer) -> None:
        free = now
        if move.source != move.target:
            free = max(now, link_free[move.source, move.target])
            link_free[move.source, move.target] = free + move.seconds
        happens(free + move.seconds, partial(code, tensor, move.target, move.decode_s, partial(receive, tensor, move)))

    def receive(tensor: Tensor, move: Transfer) -> None:
        hand(tensor, move.target)
        if move.source != move.target:
            send(tensor, move.target)

    def end(server: str, then: Callable[[], None]) -> None:
        idle[server] = True
        then()

    for name in (n for n, missing in waiting.items() if missing == 0):
        start(name)
    for tensor in made_by.get(None, ()):
        make(tensor, network.source)
    while True:
        for server in (s for s in queues if queues[s] and idle[s]):
            _, _, seconds, then = heapq.heappop(queues[server])
            idle[server] = False
            happens(now + seconds, partial(end, server, then))
        if not events:
            return now
        now, _, what = heapq.heappop(events)
        what()
