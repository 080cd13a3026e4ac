"""Small problems whose costs are known, and the least cost by brute force."""

import itertools
import math

import numpy as np
import pandas as pd

import dnnsplit as ds


def by_hand():
    """A graph, a network and times whose every cost is easy to compute by hand.

    input --> a --> t1 --> b --> t2 --> d --> out
               \\-> t1 --> c --> t3 --/
    """
    graph = ds.LayerGraph(
        layers=[ds.Layer("a", "Conv", 100, 400), ds.Layer("b", "Conv", 50, 200), ds.Layer("c", "Relu"), ds.Layer("d", "Add")],
        tensors=[
            ds.Tensor("input", None, ("a",), 1000),
            ds.Tensor("t1", "a", ("b", "c"), 400),
            ds.Tensor("t2", "b", ("d",), 200),
            ds.Tensor("t3", "c", ("d",), 400),
            ds.Tensor("out", "d", (), 100, is_output=True),
        ],
    )
    network = ds.Network(
        servers=[ds.Server("device", 2.0, 3.0), ds.Server("edge", 5.0, 1.0)],
        links=[ds.Link("device", "edge", 100.0, 0.5), ds.Link("edge", "device", 200.0, 0.25)],
        source="device",
    )
    seconds = {
        ("a", "device"): (4, 3), ("b", "device"): (2, 2.5), ("c", "device"): (1, None), ("d", "device"): (0.5, None),
        ("a", "edge"): (1, 0.5), ("b", "edge"): (0.5, 0.75), ("c", "edge"): (0.25, None), ("d", "edge"): (0.125, None),
    }  # fmt: skip
    rows = [
        (layer, server, precision, value)
        for (layer, server), pair in seconds.items()
        for precision, value in zip(("float32", "int8"), pair, strict=True)
        if value is not None
    ]
    times = ds.LayerTimes.from_frame(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    return graph, network, times


def brute_force(
    graph,
    network,
    times,
    noise=None,
    max_noise=math.inf,
    value=lambda cost: cost.latency_s,
    keep=lambda cost: True,
    allowed=lambda layer, server: True,
    together=(),
):
    """Return the least value over every assignment and every scheme, priced by `evaluate` alone; inf if there is none."""
    layers = noise.layers if noise else ()
    best = math.inf
    for bits in itertools.product((0, 1), repeat=len(layers)):
        quantized = tuple(n for n, bit in zip(layers, bits, strict=True) if bit)
        if noise and noise.of(quantized) > max_noise:
            continue
        for choice in itertools.product(network.server_names, repeat=len(graph.layers)):
            assignment = dict(zip(graph.layer_names, choice, strict=True))
            if not all(allowed(*pair) for pair in assignment.items()):
                continue
            if any(len({assignment[n] for n in group}) > 1 for group in together):
                continue
            try:
                cost = ds.evaluate(graph, network, times, assignment, quantized)
            except ds.InfeasibleError:
                continue
            if keep(cost):
                best = min(best, value(cost))
    return best


def random_small(seed, layers=5, servers=2, quantizable=2, missing=0.0):
    """A small random problem: a DAG with branches and several readers per tensor, random times (int8 may be slower)."""
    rng = np.random.default_rng(seed)
    names = [f"n{i}" for i in range(layers)]
    readers = [[names[j] for j in range(i + 1, layers) if rng.random() < (0.9 if j == i + 1 else 0.3)] for i in range(layers)]
    tensors = [ds.Tensor("in", None, tuple(n for n in names if n == "n0" or rng.random() < 0.2), float(rng.integers(1, 100)))]
    for i in range(layers):
        is_output = not readers[i] or rng.random() < 0.15
        tensors.append(ds.Tensor(f"t{i}", names[i], tuple(readers[i]), float(rng.integers(1, 100)), is_output))
    graph = ds.LayerGraph([ds.Layer(n, "Conv", 1.0, float(rng.integers(1, 50))) for n in names], tensors)
    hosts = [f"s{k}" for k in range(servers)]
    links = [
        ds.Link(a, b, float(rng.uniform(20, 200)), float(rng.uniform(0, 0.3)))
        for a in hosts for b in hosts if a != b and rng.random() >= missing
    ]  # fmt: skip
    if rng.random() < 0.3:
        links.append(ds.Link("s0", "s0", 500.0, 0.01))
    network = ds.Network([ds.Server(h, *rng.uniform(0.5, 5, 3)) for h in hosts], links, "s0")
    chosen = names[:: max(1, layers // max(1, quantizable))][:quantizable]
    rows = [
        (n, h, p, float(rng.uniform(0.05, 1.5)))
        for n in names for h in hosts for p in ("float32", *(["int8"] if n in chosen else []))
    ]  # fmt: skip
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    terms = {(n,): float(rng.uniform(0.01, 0.1)) for n in chosen}
    if len(chosen) > 1:
        terms[tuple(chosen[:2])] = float(rng.uniform(-0.04, 0.04))
    noise = ds.NoiseModel.polynomial(chosen, terms, intercept=float(rng.uniform(0, 0.02)))
    return graph, network, times, noise
