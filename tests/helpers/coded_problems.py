"""Small random problems whose tensors have other forms, and every plan of theirs: placement, scheme, and forms on each link."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd

import dnnsplit as ds
from dnnsplit.profiling.wire_forms import WireForms
from helpers.problems import random_small

LOSSLESS, LOSSY = ("png-1", "uint8"), ("jpeg-90", "jpeg-95")
COLUMNS = ["tensor", "precision", "form", "server", "size_bytes", "size_bytes_95", "encode_s", "decode_s", "lossless"]


def coded_small(seed, layers=3, servers=2, quantizable=1, missing=0.0, lossy=2, lossy_wire=()):
    """A small random problem: lossless and lossy forms of its input, zstd-1 of other tensors, and the noise of lossy inputs."""
    graph, network, times, noise = random_small(seed, layers, servers, quantizable, missing)
    rng = np.random.default_rng(seed + 1)
    rows = []
    for tensor in graph.tensors:
        forms = [(n, True) for n in LOSSLESS] + [(n, False) for n in LOSSY[:lossy]]
        if tensor.producer is not None:
            forms = [("zstd-1", True), *((name, False) for name in lossy_wire)]
        for precision in ("float32", *(["int8"] if tensor.producer in noise.layers else [])):
            for form, lossless in forms if rng.random() < 0.8 else ():
                size = tensor.size_bytes * float(rng.uniform(0.05, 0.9))
                for server in network.server_names:
                    if rng.random() < 0.9:  # else this server cannot do it
                        seconds = rng.uniform(0, 0.25, 2)
                        rows.append((tensor.name, precision, form, server, size, size, *map(float, seconds), lossless))
    times = replace(times, forms=WireForms(pd.DataFrame(rows, columns=COLUMNS)))
    sources = {}
    for form in LOSSY[:lossy]:
        floor = float(rng.uniform(0.005, 0.05))
        kinds = (ds.NoiseModel.measured(_table(noise)).at, lambda _: noise)
        base = kinds[int(rng.integers(2))]("")
        sources[form] = _with_floor(base, floor)
    return graph, network, times, replace(noise, sources=sources)


def _table(noise):
    bits = np.array(list(itertools.product((0, 1), repeat=len(noise.layers))))
    frame = pd.DataFrame(bits, columns=list(noise.layers)).assign(noise=noise.predict(bits))
    return ds.NoiseSamples.from_frame(frame)


def _with_floor(base, floor):
    from dnnsplit.noise.models import PowerSum, Table

    if isinstance(base, Table):
        return Table(base.layers, {key: math.hypot(value, floor) for key, value in base.table.items()})
    return PowerSum(base.layers, base, floor=floor)


def every_plan(graph, network, times, noise, max_noise=math.inf, source_forms=None, wire_forms=None):
    """Yield the cost and the noise of every placement, scheme, source form, and form of every tensor on every link."""
    for cost, eta, lossy, _, _ in every_choice(graph, network, times, noise, max_noise, source_forms, wire_forms):
        yield cost, eta, lossy


def every_choice(graph, network, times, noise, max_noise=math.inf, source_forms=None, wire_forms=None):
    """Yield the same with the placement and the layers in int8."""
    forms = times.forms
    for bits in itertools.product((0, 1), repeat=len(noise.layers)):
        quantized = tuple(n for n, bit in zip(noise.layers, bits, strict=True) if bit)
        for lossy in ("", *(n for n in noise.sources if source_forms is None or n in source_forms)):
            taken = {t.name for t in graph.tensors if t.producer is None and not t.is_output and lossy in forms.of(t.name)}
            eta = noise.sources[lossy].of(quantized) if lossy else noise.of(quantized)
            if eta > max_noise or (lossy and not taken):
                continue
            for choice in itertools.product(network.server_names, repeat=len(graph.layers)):
                assignment = dict(zip(graph.layer_names, choice, strict=True))
                try:
                    plain = ds.evaluate(graph, network, times, assignment, quantized)
                except ds.InfeasibleError:
                    continue
                moves = [(t.tensor, t.source, t.target) for t in plain.transfers if t.source != t.target]
                inside = [
                    (n, network.source, network.source)
                    for n in taken
                    if any(assignment[c] == network.source for t in graph.tensors if t.name == n for c in t.consumers)
                ]
                alternatives = []
                for name, a, b in (*moves, *inside):
                    made = next(t.producer for t in graph.tensors if t.name == name)
                    known = forms.of(name, "int8" if made in quantized else "float32")
                    names = source_forms if made is None else wire_forms
                    there = [f for f, one in known.items() if a in one.encode_s and b in one.decode_s]
                    if name in taken:
                        alternatives.append([f for f in there if f == lossy])
                    else:
                        own = [f for f in there if known[f].lossless and (names is None or f in names)]
                        alternatives.append(["float32", *own])
                for picked in itertools.product(*alternatives):
                    chosen = {move: f for move, f in zip((*moves, *inside), picked, strict=True) if f != "float32"}
                    cost = ds.evaluate(graph, network, times, assignment, quantized, forms=chosen)
                    yield cost, eta, lossy, assignment, quantized
