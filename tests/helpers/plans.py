"""Plans of any placement and quantization that one wants."""

import pandas as pd

import dnnsplit as ds

SERVERS = ("device", "edge", "cloud")


def any_network():
    links = [ds.Link(a, b, 1e6, 0.001) for a in SERVERS for b in SERVERS if a != b]
    return ds.Network([ds.Server(name, 1.0, 1.0) for name in SERVERS], links, "device")


def plan_for(graph, assignment, quantized=(), origin=None):
    """A plan with a given placement: every layer pinned, the quantized ones much faster in int8."""
    rows = [(n, s, p, 1.0 if p == "float32" or n not in quantized else 0.1)
            for n in graph.layer_names for s in SERVERS for p in ("float32", "int8")]  # fmt: skip
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    noise = ds.NoiseModel.polynomial(quantized, {(n,): 0.0 for n in quantized}, origin=origin) if quantized else None
    return ds.split(graph, any_network(), times, noise, pins=assignment)
