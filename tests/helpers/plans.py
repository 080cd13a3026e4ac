"""Plans of any placement and quantization that one wants."""

import json
from dataclasses import asdict, replace

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


def with_forms(plan, forms, pixels=None):
    """The plan with the tensors that cross in other forms: (tensor, source, target) -> form; the source may read one back."""
    asked = dict(forms)
    transfers = [replace(t, form=asked.pop((t.tensor, t.source, t.target), t.form), encode_s=0.002, decode_s=0.001)
                 for t in plan.transfers]  # fmt: skip
    inside = [ds.Transfer(*way, 0.0, 0.0, form, 0.002, 0.001) for way, form in asked.items()]
    told = {name: asdict(found) for name, found in (pixels or {}).items()}
    return replace(plan, cost=replace(plan.cost, transfers=(*transfers, *inside)), pixels=json.loads(json.dumps(told)))
