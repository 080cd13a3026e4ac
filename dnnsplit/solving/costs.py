"""What a placement costs: `evaluate` prices a plan by the slides' formulas, without any solver.

The slides' formulas, with f_k(i, q) the seconds of layer i on server k and g(t, n) those of tensor t over link n:

    T^c_k = sum_i x_ik f_k(i, q_i)            T^x_n = sum_t y_tn g(t, n)          T = sum_k T^c_k + sum_n T^x_n
    E_k   = P^c_k T^c_k + P^self_k T^x_kk + P^other_k sum_{h != k} T^x_kh         E = sum_k E_k,  E_0 = E of the source

A tensor that crosses in another form than its plain one takes, beside the link, the seconds of writing it on k and of reading it
on h; either is work of that server, at P^c.

Where P^other_k grows with the throughput, each transfer is priced at its own, bytes / g(t, n): see `Server`.

With many requests in flight a server computes one while links carry others: each T^c_k, and each T^x_kh with k != h, is a
stage of a pipeline, and the slowest stage sets the throughput.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import networkx as nx

from dnnsplit.graph.layers import LayerGraph, Tensor
from dnnsplit.graph.shared_weights import groups, own_bytes
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import InfeasibleError, ModelError, NetworkError, ProfileError, nearest_of, raise_problems
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.profiling.overhead import priced
from dnnsplit.profiling.times import PRECISIONS, LayerTimes
from dnnsplit.profiling.wire_forms import INT8, PLAIN
from dnnsplit.solving.cost import Cost, Routes, Transfer, WireChoice, codec_seconds

INT8_SHARE = 0.25  # an int8 tensor, or weight, has a quarter of the bytes of its float32 form


def evaluate(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    quantized: Iterable[str] = (),
    routes: Routes | None = None,
    forms: WireChoice | None = None,
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
    forms : WireChoice | None, optional
        The form in which a tensor crosses a link, by (tensor, source, target), as `Plan.forms` tells them; all others cross
        plainly. A lossy form of a graph input may be given for (input, source, source) too: the source reads it back.

    Raises
    ------
    ModelError, NetworkError
        The assignment names unknown layers or servers, or misses a layer; routes of unknown tensors.
    ProfileError
        Times that are needed are missing, or what a tensor takes in a form.
    InfeasibleError
        A tensor would have to cross where there is no link, or its route does not bring it where it is needed.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> ds.evaluate(graph, network, times, dict.fromkeys(graph.layer_names, "device"), quantized=["conv2"])
    Cost(latency 370 ms: computing 370 ms, 0 transfers 0 s; energy 1.073 J (device
        1.073 J))
    """
    check_arguments(evaluate, locals())
    quantized = tuple(quantized)
    problems = [f"layer {n!r} has no server" for n in graph.layer_names if n not in assignment]
    lost = [n for n in (*assignment, *quantized) if n not in graph.layer_index]
    near = nearest_of(graph.layer_names)
    problems += [f"there is no layer {n!r}{near(n)}" for n in dict.fromkeys(lost)]
    raise_problems(ModelError, "assignment", problems)
    tensors = dict.fromkeys(t.name for t in graph.tensors)
    near = nearest_of(tensors)
    lost = [f"there is no tensor {n!r}{near(n)}" for n in routes or {} if n not in tensors]
    raise_problems(ModelError, "routes", lost)
    names = network.server_names
    strange, near = sorted(set(assignment.values()) - set(names)), nearest_of(names)
    raise_problems(NetworkError, "assignment", [f"there is no server {s!r}{near(s)}" for s in strange])
    cost = cost_of(graph, priced(network, times.overhead), times, assignment, quantized, routes or {}, forms or {})
    taken = {(t.tensor, t.source, t.target) for t in cost.transfers}
    idle = [
        f"tensor {t!r} does not cross {a!r} -> {b!r}, so it has no form there"
        for t, a, b in forms or {}
        if (t, a, b) not in taken
    ]
    raise_problems(ModelError, "forms", idle)
    return cost


def cost_of(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    int8: Iterable[str],
    routes: Routes,
    forms: WireChoice,
) -> Cost:
    """Price a placement of known layers on known servers, with links that are `priced` already; see `evaluate`."""
    names, quantized = network.server_names, frozenset(int8)
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
    transfers = _coded(graph, network, times, assignment, quantized, transfers, forms)
    codec_s = codec_seconds(names, transfers)
    energy, inside, leaving = {}, dict[str, list[float]](), dict[str, list[Transfer]]()
    for t in transfers:
        if t.source == t.target:
            inside.setdefault(t.source, []).append(t.seconds)
        else:
            leaving.setdefault(t.source, []).append(t)
    for server in network.servers:
        self_s, sent = math.fsum(inside.get(server.name, ())), leaving.get(server.name, ())
        sending_j = server.sending_j(math.fsum(t.seconds for t in sent), math.fsum(t.size_bytes for t in sent))
        computing_j = server.compute_w * (compute_s[server.name] + codec_s[server.name])
        energy[server.name] = computing_j + server.transmit_self_w * self_s + sending_j
    return Cost(
        latency_s=math.fsum([*compute_s.values(), *(s for t in transfers for s in (t.encode_s, t.seconds, t.decode_s))]),
        compute_s=compute_s,
        transfers=transfers,
        energy_j=math.fsum(energy.values()),
        server_energy_j=energy,
        device_energy_j=energy[network.source],
        weight_bytes=weight,
    )


def _transfers(
    graph: LayerGraph, network: Network, assignment: Mapping[str, str], quantized: Collection[str], routes: Routes
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
                found.append(Transfer(tensor.name, start, end, size, seconds, INT8 if tensor.producer in quantized else PLAIN))
            elif start != end:
                missing.append(f"{_what(tensor, size)} would cross {start!r} -> {end!r}, where there is no link")
    return tuple(found), missing


def _coded(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    assignment: Mapping[str, str],
    quantized: Collection[str],
    transfers: tuple[Transfer, ...],
    forms: WireChoice,
) -> tuple[Transfer, ...]:
    """Return transfers in the forms that are chosen for them; what the source reads back of an input comes last."""
    if not forms:
        return transfers
    tensors = {t.name: t for t in graph.tensors}
    moved = {(t.tensor, t.source, t.target) for t in transfers}
    inside = [
        Transfer(t, a, b, 0.0, 0.0)
        for t, a, b in forms
        if a == b == network.source and t in tensors and tensors[t].producer is None and (t, a, b) not in moved
        if any(assignment[c] == a for c in tensors[t].consumers)
    ]
    found, problems = [], []
    for move in (*transfers, *inside):
        form = forms.get((move.tensor, move.source, move.target), "")
        if form in ("", PLAIN, INT8):
            found.append(move)
            continue
        tensor, link = tensors[move.tensor], network.link(move.source, move.target)
        one = times.forms and times.forms.of(tensor.name, INT8 if tensor.producer in quantized else PLAIN).get(form)
        if not one or move.source not in one.encode_s or move.target not in one.decode_s:
            problems.append(f"tensor {move.tensor!r} has no form {form!r} from {move.source!r} to {move.target!r}; profile it")
            continue
        # what is passed on in a lossy form was written at the source
        passed = not one.lossless and tensor.producer is None and move.source != network.source
        encode_s = 0.0 if passed else one.encode_s[move.source]
        size, seconds = move.size_bytes, move.seconds
        if link is not None and move.source != move.target:
            size, seconds = one.size_bytes, link.transfer_s(one.size_bytes, tensor.handled_bytes)
        found.append(
            replace(move, size_bytes=size, seconds=seconds, form=form, encode_s=encode_s, decode_s=one.decode_s[move.target])
        )
    raise_problems(ProfileError, "forms", problems)
    return tuple(found)


def _what(tensor: Tensor, size: float) -> str:
    return f"tensor {tensor.name!r} ({show(size, 'B')})"


def _travel(source: str, targets: Sequence[str], route: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Put the links of a route in the order of travel; say which of them, and which targets, a tensor does not reach."""
    ways: nx.DiGraph[str] = nx.DiGraph()
    ways.add_node(source)
    ways.add_edges_from((start, end) for start, end in route if start != end)
    taken = dict.fromkeys(nx.bfs_edges(ways, source))
    there = {source, *(end for _, end in taken)}
    problems = []
    for start, end in (link for link in ways.edges if link not in taken):
        if start in there:
            problems.append(f"its route brings it to {end!r} once more by {start!r} -> {end!r}")
        else:
            problems.append(f"its route has {start!r} -> {end!r}, but it never gets to {start!r}")
    problems += [f"its route does not bring it from {source!r} to {t!r}" for t in dict.fromkeys(targets) if t not in there]
    return [(source, source)] * (source in targets) + list(taken), problems
