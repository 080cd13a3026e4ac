"""The makespan of a plan: what its latency is when branches run side by side, by simulating servers and links."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import networkx as nx
import pandas as pd

from dnnsplit.graph.layers import LayerGraph, Tensor
from dnnsplit.graph.partitions import components, quotient
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.network.servers import Network
from dnnsplit.profiling.times import PRECISIONS, LayerTimes
from dnnsplit.solving.cost import Routes, Transfer, WireChoice
from dnnsplit.solving.costs import evaluate

COLUMNS = ("kind", "component", "layers", "tensor", "source", "target", "form", "size_bytes", "start_s", "end_s")
NOTHING: dict[str, Any] = {"component": -1, "tensor": "", "form": "", "size_bytes": 0.0}


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

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> plan = ds.split(graph, network, times, noise)
    >>> ds.makespan(graph, network, times, plan.assignment, plan.quantized) <= plan.latency_s * (1 + 1e-9)
    True
    """
    check_arguments(makespan, locals())
    return float(max(schedule(graph, network, times, assignment, quantized, routes, forms)["end_s"], default=0.0))


def schedule(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    quantized: Iterable[str] = (),
    routes: Routes | None = None,
    forms: WireChoice | None = None,
) -> pd.DataFrame:
    """Return when each server and each link does what, by the simulation whose end is the `makespan`.

    Parameters
    ----------
    graph, network, times, assignment, quantized, routes, forms : LayerGraph, Network, LayerTimes, Mapping, Iterable, optional
        As for `makespan`.

    Returns
    -------
    pd.DataFrame
        One row per stretch of work, by its start: kind ("compute", or what is done with a tensor: "write", "transfer", "read"),
        component (its position in `dnnsplit.graph.partitions.components`; -1 for tensors), layers (how many of them run without
        a break), tensor, source, target (the same server, but for a link), form, size_bytes [B], start_s and end_s [s]. All
        stretches together take the slides' latency.

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
    queues: dict[str, list[tuple[int, int, float, dict[str, Any], Callable[[], None]]]] = {s: [] for s in network.server_names}
    idle, link_free = dict.fromkeys(network.server_names, True), dict.fromkeys(((n.source, n.target) for n in network.links), 0.0)
    events: list[tuple[float, int, Callable[[], None]]] = []  # when, tie-break, what happens then
    count, now = itertools.count(), 0.0
    part_of = {name: i for i, names in enumerate(components(graph, assignment)) for name in names}
    work: list[dict[str, Any]] = []

    def queue(server: str, place: int, seconds: float, told: dict[str, Any], then: Callable[[], None]) -> None:
        heapq.heappush(queues[server], (place, next(count), seconds, told | {"source": server, "target": server}, then))

    def takes(start: float, seconds: float, told: dict[str, Any]) -> float:
        """Note a stretch of work; return its end."""
        work.append(told | {"start_s": start, "end_s": start + seconds})
        return start + seconds

    def happens(time: float, what: Callable[[], None]) -> None:
        heapq.heappush(events, (time, next(count), what))

    def start(name: str) -> None:
        seconds = times.seconds(name, assignment[name], PRECISIONS[name in quantized])
        queue(assignment[name], rank[name], seconds, {"kind": "compute", "component": part_of[name]}, partial(finish, name))

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
            code("write", tensor, move, server, move.encode_s, partial(travel, tensor, move))

    def code(kind: str, tensor: Tensor, move: Transfer, server: str, seconds: float, then: Callable[[], None]) -> None:
        """Write or read a tensor, which a plain one needs no turn of the server for."""
        if seconds:
            queue(server, rank[tensor.producer], seconds, _told(kind, move), then)
        else:
            then()

    def travel(tensor: Tensor, move: Transfer) -> None:
        free = now
        if move.source != move.target:
            free = max(now, link_free[move.source, move.target])
            link_free[move.source, move.target] = free + move.seconds
        then = partial(code, "read", tensor, move, move.target, move.decode_s, partial(receive, tensor, move))
        happens(takes(free, move.seconds, _told("transfer", move)), then)

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
            _, _, seconds, told, then = heapq.heappop(queues[server])
            idle[server] = False
            happens(takes(now, seconds, told), partial(end, server, then))
        if not events:
            return _stretches(work)
        now, _, what = heapq.heappop(events)
        what()


def side_by_side(graph: LayerGraph, assignment: Mapping[str, str]) -> list[tuple[int, int]]:
    """Return the pairs of components on two servers that do not wait for each other: these can run at the same time.

    Parameters
    ----------
    graph : LayerGraph
        What is placed.
    assignment : Mapping[str, str]
        Server by layer.

    Returns
    -------
    list[tuple[int, int]]
        Their positions in `dnnsplit.graph.partitions.components`.
    """
    parts = components(graph, assignment)
    after = nx.transitive_closure_dag(quotient(parts, graph.digraph.edges))
    servers = [assignment[names[0]] for names in parts]
    pairs = itertools.combinations(range(len(parts)), 2)
    return [(a, b) for a, b in pairs if servers[a] != servers[b] and not after.has_edge(a, b) and not after.has_edge(b, a)]


def _told(kind: str, move: Transfer) -> dict[str, Any]:
    """What the schedule tells of a tensor."""
    names = ("tensor", "source", "target", "form", "size_bytes")
    return {"kind": kind} | {name: getattr(move, name) for name in names}


def _stretches(work: list[dict[str, Any]]) -> pd.DataFrame:
    """Join what a server computes of one component without a break; sort by the start."""
    joined: list[dict[str, Any]] = []
    last: dict[str, dict[str, Any]] = {}  # of each server
    for one in work:
        row = NOTHING | {"layers": int(one["kind"] == "compute")} | one
        before = last.get(row["source"])
        if row["kind"] == "transfer":
            joined.append(row)
        elif before and row["layers"] and before["component"] == row["component"] and before["end_s"] == row["start_s"]:
            before |= {"end_s": row["end_s"], "layers": before["layers"] + 1}
        else:
            last[row["source"]] = row
            joined.append(row)
    frame = pd.DataFrame(joined, columns=COLUMNS).sort_values(["start_s", "end_s"], kind="stable", ignore_index=True)
    frame.attrs["units"] = {"size_bytes": "B", "start_s": "s", "end_s": "s"}
    return frame
