"""Random questions for `split`, with every feature that a question can have."""

import itertools
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from hypothesis import strategies as st

import dnnsplit as ds


@dataclass(frozen=True)
class Recipe:
    """What a question has. The figures come from all of it: hypothesis repeats a seed often, a whole recipe seldom.

    Budgets are shares of the way from the least that there is to what the best plan without them takes.
    """

    layers: int
    servers: int
    bits: int
    seed: int
    branches: bool
    odd_tensors: bool
    missing_links: bool
    self_links: bool
    slow_int8: bool
    table: bool
    pins: bool
    forbid: bool
    colocate: bool
    forbid_links: bool
    memory: bool
    objective: str
    max_noise: str
    device_energy: float | None
    energy: float | None
    scale: tuple[int, int, int] = field(default=(0, 0, 0), repr=False)  # powers of ten of seconds, bytes and watts
    shared_weights: bool = field(default=False, repr=False)


def recipes():
    """Return the strategy; it shrinks to a small question with few features."""
    rarely, often = st.sampled_from((False, False, False, True)), st.sampled_from((False, True, True))
    budget = st.sampled_from((None, None, None, None, 0.2, 0.5, 0.8, 1.1, -0.1))
    return st.builds(
        Recipe,
        layers=st.sampled_from((1, 3, 4, 5, 6, 6, 7, 7)), servers=st.sampled_from((1, 2, 2, 3, 3, 3)),
        bits=st.sampled_from((0, 1, 2, 3, 3, 4, 4)), seed=st.integers(0, 2**24 - 1),
        branches=often, odd_tensors=rarely, missing_links=rarely, self_links=rarely, slow_int8=often, table=rarely,
        pins=rarely, forbid=rarely, colocate=rarely, forbid_links=rarely, memory=rarely,
        objective=st.sampled_from(("latency", "latency", "energy", "fixed", "limited", "limited")),
        max_noise=st.sampled_from(("none", "zero", "between", "between", "equal")), device_energy=budget, energy=budget,
        shared_weights=st.booleans(), scale=st.tuples(*[st.sampled_from((0, *range(-9, 10)))] * 3),
    )  # fmt: skip


def random_question(recipe):
    """Return the arguments of `split` as two dicts: the problem, and the options except for budgets of energy."""
    rng = np.random.default_rng(zlib.crc32(repr(recipe).encode()))
    names = [f"n{i}" for i in range(recipe.layers)]
    hosts = [f"s{k}" for k in range(recipe.servers)]
    graph = _graph(rng, recipe, names)
    chosen = [str(n) for n in rng.permutation(names)[: recipe.bits]]  # V_Q in an order of its own
    network = _network(rng, recipe, hosts, int(sum(layer.weight_bytes for layer in graph.layers)))
    noise = _noise(rng, recipe, chosen) if chosen else None
    weights = {"latency": (1.0, 0.0), "energy": (0.0, 1.0), "both": rng.uniform(0.1, 1, 2).tolist()}
    named = recipe.objective in weights
    options = dict(zip(("latency_weight", "energy_weight"), weights[recipe.objective if named else "both"], strict=True))
    options |= {} if named else {"normalise": recipe.objective}
    if noise and recipe.max_noise != "none":
        known = noise.every()
        known = np.sort(known[np.isfinite(known)])
        limits = {"zero": 0.0, "equal": float(rng.choice(known)), "between": apart(known, rng.uniform(0, known[-1]))}
        options["max_noise"] = limits[recipe.max_noise]
    if recipe.pins:
        options["pins"] = {str(n): str(rng.choice(hosts)) for n in rng.permutation(names)[: rng.integers(1, 3)]}
    if recipe.forbid:
        free = [n for n in names if n not in options.get("pins", {})]
        some = lambda: tuple(rng.permutation(hosts)[: rng.integers(0, len(hosts))].tolist())  # noqa: E731
        options["forbid"] = {str(n): some() for n in rng.permutation(free)[:3]}
    if recipe.colocate:
        options["colocate"] = [tuple(rng.permutation(names)[: rng.integers(2, 4)].tolist()) for _ in range(rng.integers(1, 3))]
    between = [(link.source, link.target) for link in network.links if link.source != link.target]
    if recipe.forbid_links and between:
        options["forbid_links"] = [between[rng.integers(len(between))]]
    problem = {"graph": graph, "network": network, "times": _times(rng, recipe, names, hosts, chosen), "noise": noise}
    return scaled(problem, *(10.0**k for k in recipe.scale)), options


def scaled(problem, seconds, size, watts):
    """Return the same problem in other units: every time, every number of bytes and every power times a factor."""
    graph, network, times = problem["graph"], problem["network"], problem["times"]
    shared = [tuple((name, own * size) for name, own in layer.shared) for layer in graph.layers]
    pairs = zip(graph.layers, shared, strict=True)
    layers = [replace(layer, weight_bytes=layer.weight_bytes * size, shared=own) for layer, own in pairs]
    tensors = [replace(t, size_bytes=t.size_bytes * size) for t in graph.tensors]
    rate = seconds / size
    links = [
        replace(n, bandwidth_bytes_per_s=n.bandwidth_bytes_per_s / rate, latency_s=n.latency_s * seconds,
                serialise_s_per_byte=n.serialise_s_per_byte * rate)
        for n in network.links
    ]  # fmt: skip
    powers = ("compute_w", "transmit_w", "transmit_self_w")
    servers = [
        replace(
            s, **{p: getattr(s, p) * watts for p in powers}, transmit_j_per_byte=s.transmit_j_per_byte * watts * rate,
            memory_bytes=None if s.memory_bytes is None else s.memory_bytes * size,
        )
        for s in network.servers
    ]  # fmt: skip
    frame = times.frame.assign(seconds=times.frame["seconds"] * seconds)
    network = ds.Network(servers, links, network.source)
    return problem | {"graph": ds.LayerGraph(layers, tensors), "network": network, "times": ds.LayerTimes(frame)}


def apart(values, limit):
    """Return a limit like this one that no value is nearer to than solvers can tell apart."""
    near = np.sort(values[np.abs(values - limit) <= 2e-4 * np.abs(limit)])
    if not len(near) or np.abs(near - limit).min() > 2e-5 * abs(limit):
        return float(limit)
    edges = np.r_[limit * (1 - 2e-4), near, limit * (1 + 2e-4)]
    widest = np.diff(edges).argmax()
    return float(edges[widest : widest + 2].mean())


def _graph(rng, recipe, names):
    """Every layer reads its predecessor's tensor, mostly; branches read more. Layers stand in no particular order."""
    count, join = len(names), 0.4 if recipe.branches else 0.0
    size = lambda: 0.0 if recipe.odd_tensors and rng.random() < 0.2 else float(rng.integers(1, 100))  # noqa: E731
    readers = lambda i: tuple(n for j, n in enumerate(names) if j == i or (j > i and rng.random() < join))  # noqa: E731
    tensors = [ds.Tensor("in", None, readers(0), size())]
    for i, name in enumerate(names):
        consumers = readers(i + 1) if rng.random() < 0.9 else ()
        delivered = rng.random() < (0.1 if consumers else 0.9)
        tensors.append(ds.Tensor(f"t{i}", name, consumers, size(), delivered))
        if recipe.odd_tensors and rng.random() < 0.3:  # layers with two tensors, and inputs in the middle
            late = int(rng.integers(0, count))
            tensors.append(ds.Tensor(f"u{i}", name if late > i else None, (names[late],), size(), bool(rng.random() < 0.2)))
    layers = [ds.Layer(n, "Conv", 1.0, float(rng.integers(0, 50))) for n in names]
    if recipe.shared_weights:  # up to two constants, each of some of the layers
        for name, size in (("v", float(rng.integers(5, 60))), ("w", float(rng.integers(5, 60)))):
            for i in rng.permutation(count)[: rng.integers(0, count + 1)]:
                with_it = (*layers[i].shared, (name, size))
                layers[i] = replace(layers[i], weight_bytes=layers[i].weight_bytes + size, shared=with_it)
    return ds.LayerGraph([layers[i] for i in rng.permutation(count)], tensors)


def _network(rng, recipe, hosts, weights):
    lost = 0.35 if recipe.missing_links else 0.0
    bandwidth = lambda: np.inf if rng.random() < 0.05 else float(rng.uniform(20, 300))  # noqa: E731
    links = [
        ds.Link(a, b, bandwidth(), float(rng.uniform(0, 0.2)), float(rng.choice([0, 1e-3])))
        for a, b in itertools.permutations(hosts, 2)
        if rng.random() >= lost
    ]
    if recipe.self_links:
        links += [ds.Link(a, a, 800.0, 0.005) for a in hosts if rng.random() < 0.6]
    limited = [recipe.memory and rng.random() < 0.8 for _ in hosts]
    # in a third of the questions the power of sending grows with the rate, but for one server
    servers = [
        ds.Server(a, *rng.uniform(0.5, 5, 3), memory_bytes=float(rng.integers(weights // 4, weights + 2)) if limit else None,
                  transmit_j_per_byte=0.0 if recipe.seed % 3 else 0.05 * n)
        for n, (a, limit) in enumerate(zip(hosts, limited, strict=True))
    ]  # fmt: skip
    return ds.Network(servers, links, str(rng.choice(hosts)))


def _times(rng, recipe, names, hosts, chosen):
    float32 = {(n, h): 0.0 if rng.random() < 0.05 else float(rng.uniform(0.05, 1.5)) for n in names for h in hosts}
    most = 1.5 if recipe.slow_int8 else 1.0
    rows = [(n, h, "float32", seconds) for (n, h), seconds in float32.items()]
    rows += [(n, h, "int8", seconds * rng.uniform(0.3, most)) for (n, h), seconds in float32.items() if n in chosen]
    return ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))


def _noise(rng, recipe, chosen):
    if recipe.table:  # neither monotone nor complete
        schemes = np.arange(2 ** len(chosen))[:, None] >> np.arange(len(chosen)) & 1
        values = np.where(schemes.any(axis=1), rng.uniform(0, 0.1, len(schemes)), 0.0)
        frame = pd.DataFrame(schemes, columns=chosen).assign(noise=values)
        keep = rng.random(len(frame)) < 0.8
        keep[0] = True
        return ds.NoiseModel.measured(ds.NoiseSamples(frame[keep]))
    terms = {(n,): float(rng.uniform(0.0, 0.1)) for n in chosen}
    for degree in (2, 3):
        group = tuple(chosen[:degree])
        if len(group) == degree and rng.random() < 0.7:
            terms[group] = float(rng.uniform(-0.06, 0.06))
    return ds.NoiseModel.polynomial(chosen, terms, intercept=float(rng.uniform(-0.01, 0.02)))
