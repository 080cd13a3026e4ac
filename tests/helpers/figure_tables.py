"""Tables as the studies write them, with numbers like those of the slides, for the figures that draw them."""

import numpy as np
import pandas as pd

LIMITS = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.5)
WEIGHTS = (1.0, 0.5, 0.0)
SERVERS = ("device", "edge", "cloud")
TOPOLOGIES = {"device": SERVERS[:1], "device-edge": SERVERS[:2], "device-edge-cloud": SERVERS}
# at the limit 0, and which share of it is left at the last one
LATENCY_S = {"device": (5.33, 0.7), "device-edge": (3.65, 0.66), "device-edge-cloud": (1.75, 0.97)}
ENERGY_J = {"device": (15.4, 0.69), "device-edge": (17.4, 0.56), "device-edge-cloud": (6.97, 0.98)}
COUNT = 652


def planned(topologies=tuple(TOPOLOGIES), weights=WEIGHTS, limits=LIMITS, infeasible=()):
    """A table of `sweep_plans`; (topology, latency weight, limit) of `infeasible` have no plan."""
    rows = []
    for topology in topologies:
        servers = TOPOLOGIES[topology]
        for weight in weights:
            for i, limit in enumerate(limits):
                row = {"topology": topology, "latency_weight": weight, "energy_weight": 1 - weight, "max_noise": limit}
                if (topology, weight, limit) in infeasible:
                    rows.append(row | {"status": "infeasible", "servers": ""})
                    continue
                spent = 1 - np.exp(-limit / 0.05)
                latency, energy = (at * (1 - (1 - left) * spent) for at, left in (LATENCY_S[topology], ENERGY_J[topology]))
                many = len(servers) > 1
                row |= {"status": "optimal", "servers": "+".join(servers), "latency_s": latency * (1 + 0.4 * many * (1 - weight)),
                        "energy_j": energy * (1 - 0.1 * many * (1 - weight)), "int8": min(i, 12)}  # fmt: skip
                layers = np.array([COUNT, 0, 0] if not many else [2 + 63 * (i > 2), 10 * (weight < 1), 0])
                layers[len(servers) - 1] += COUNT - layers.sum()
                for k, server in enumerate(servers):
                    row[f"layers_{server}"] = layers[k]
                    row[f"int8_{server}"] = min(i, 12) - 2 * (many and i > 4) if k == len(servers) - 1 else 2 * (k == 0 and i > 4)
                    row[f"parts_{server}"] = int(layers[k] > 0) + (many and k == 0) * (1 + (i > 2) * (weight < 1))
                rows.append(row)
    return pd.DataFrame(rows)


def measured(table, seed=0):
    """A table of `latency_tests` of the feasible rows: the real latency lies within some percent of the planned one."""
    random, some = np.random.default_rng(seed), table.dropna(subset="latency_s")
    real = some["latency_s"] * random.normal(0.985, 0.015, len(some))
    kept = some[["topology", "latency_weight", "energy_weight", "max_noise"]]
    return kept.assign(predicted_s=some["latency_s"], latency_s=real, low_s=0.985 * real, high_s=1.03 * real,
                       **{"error_%": 100 * (some["latency_s"] / real - 1)})  # fmt: skip


def baselines():
    """A table of baselines, two of which cost the same."""
    rows = [
        ("device alone", 5.13, 14.97), ("edge alone", 3.55, 17.09), ("cloud alone", 1.296, 6.303),
        ("best single cut (Neurosurgeon)", 1.296, 6.303), ("articulation points", 1.296, 6.303),
        ("two-server min cut (DADS, QDMP)", 1.296, 6.303), ("contiguous tiers (Scission)", 1.296, 6.303),
        ("greedy", 1.41, 6.6), ("MILP of the slides", 1.292, 6.183), ("dnnsplit", 1.292, 6.183),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "latency_s", "energy_j"])


def durations(models=("yolo11m", "yolo11x-seg")):
    """What the steps take and how large the files are, of some models."""
    steps = {"profile": 400.0, "noise": 900.0, "plan": 1.2, "cut": 4.0, "start": 2.5, "one request": 1.3}
    sizes = {"model": 250e6, "parts": 240e6}
    rows = [(model, what, value * (1 + i), np.nan) for i, model in enumerate(models) for what, value in steps.items()]
    rows += [(model, what, np.nan, value * (1 + i)) for i, model in enumerate(models) for what, value in sizes.items()]
    return pd.DataFrame(rows, columns=["model", "what", "seconds", "size_bytes"])
