"""Every figure of `dnnsplit.plots` once, from small inputs, by name."""

import numpy as np
import pandas as pd

import dnnsplit as ds
from dnnsplit.studies.bandwidths import sweep_bandwidths
from dnnsplit.studies.grid import sweep_plans
from dnnsplit.studies.scale import STEPS
from helpers.coded_problems import coded_small
from helpers.figure_tables import baselines, durations, measured, planned

SPEEDS, LIMITS = ["100 kB/s", "5 MB/s", "100 MB/s"], [0.0, 0.02]


def samples():
    noise = ds.NoiseModel.polynomial(("a", "b", "c"), {"a": 0.1, "b": 0.05, "c": 0.02, ("a", "b"): -0.03}, intercept=0.01)
    schemes = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
    frame = pd.DataFrame(schemes, columns=list("abc")).assign(noise=noise.predict(schemes))
    return ds.NoiseSamples(frame, origin={"images": 4})


def tested(front):
    """Plans of a front as they were measured: 2 % slower than planned."""
    return pd.DataFrame({
        "topology": "device-edge", "max_noise": front["noise"], "predicted_s": front["latency_s"],
        "latency_s": 1.02 * front["latency_s"], "low_s": front["latency_s"], "high_s": 1.1 * front["latency_s"], "repeats": 5,
    })  # fmt: skip


def solved():
    rows = [("chain", layers, servers, "elimination", step, 0.01 * (i + 1) * layers * servers, "optimal")
            for layers, servers in ((10, 2), (10, 3), (100, 3)) for i, step in enumerate(STEPS)]  # fmt: skip
    return pd.DataFrame(rows, columns=["graph", "layers", "servers", "method", "step", "cpu_s", "status"])


def drawings(about):
    """(figure, numbers) of each function of `dnnsplit.plots`, told what it is about."""
    plots, told = ds.plots, {"about": about}
    graph, network, times, noise = problem = ds.examples.tiny()
    coded = coded_small(0, layers=2)
    topologies = {"device": network.only("device"), "device-edge": network}
    front, plan = ds.pareto(*problem).frame, ds.split(*problem, max_noise=0.02)
    grid = sweep_plans(graph, topologies, times, noise, max_noise=LIMITS, bandwidths=SPEEDS)
    exact = sweep_bandwidths(graph, topologies, times, noise, max_noise=LIMITS, ends=SPEEDS)
    frugal = sweep_plans(graph, topologies, times, noise, max_noise=LIMITS, max_device_energy_j=[0.05, 0.3, 1.0])
    fronts = {name: ds.energy_front(graph, one, times, noise, progress=False).frame for name, one in topologies.items()}
    found = ds.regimes(*problem, max_noise=LIMITS, bandwidths=[1e5, 1e6, 1e7], progress=False)
    schemes, table = samples(), planned()
    model = ds.NoiseModel.polynomial(("a", "b", "c"), {"a": 0.1, "b": 0.05}, intercept=0.01)
    covered = pd.DataFrame({"limit": [0.01, 0.02] * 2, "rule": ["mean"] * 2 + ["bound"] * 2, "broken_%": [20.0, 0, 1, 0],
                            "most_over_%": 1.0, "value": [1.0, 0.9, 1.1, 0.95]})  # fmt: skip
    parts = pd.DataFrame({"split": [0, 0, 1, 1], "quantized": [("conv1",), (), (), ()], "seconds": [0.1, 0.2, 0.1, 0.3],
                          "predicted_s": [0.1, 0.2, 0.1, 0.3], "priced_s": [0.11, 0.2, 0.1, 0.3]})  # fmt: skip
    curve = pd.DataFrame({"model": ["link", "gp"] * 4, "samples": [20] * 4 + [100] * 4, "seed": [0, 0, 1, 1] * 2, "R2": 0.95,
                          "MAPE_%": [5.0, 4, 6, 5, 3, 1, 3, 1.5], "low_MAPE_%": 9.0})  # fmt: skip
    return {
        "bandwidth": plots.bandwidth(ds.bandwidths(*problem, max_noise=0.02), "device-edge", 5e6, **told),
        "bandwidth_grid": plots.bandwidth_grid(grid, exact, **told),
        "device_panels": plots.device_panels(
            {"m": table[table["topology"] == "device"]}, {"m": measured(planned(["device"]))}, **told
        ),
        "durations": plots.durations(durations(), **told),
        "energy_limits": plots.energy_limits(frugal, **told),
        "energy_shares": plots.energy_shares(frugal, **told),
        "execution": plots.execution(graph, network, times, plan, "device-edge", **told),
        "interactions": plots.interactions(),
        "latency_energy": plots.latency_energy(fronts, ds.single_servers(*problem), **told),
        "latency_noise": plots.latency_noise(
            front, "device-edge", tested(front), baselines=ds.single_servers(*problem), slides=front, **told
        ),
        "layer_seconds": plots.layer_seconds(times, "edge", **told),
        "layers_per_server": plots.layers_per_server(table, **told),
        "learning_curve": plots.learning_curve(curve, **told),
        "limit_coverage": plots.limit_coverage(covered, title="device-edge", **told),
        "noise_fit": plots.noise_fit({"degree 2": model}, schemes.only(np.arange(5)), schemes.only(np.arange(5, 8)), **told),
        "noise_fronts": plots.noise_fronts(front, {"gp": front.assign(measured=1.01 * front["noise"])}, "device-edge", **told),
        "parts_per_server": plots.parts_per_server(table, **told),
        "placement": plots.placement(graph, plan, "device-edge", **told),
        "predicted_measured": plots.predicted_measured(tested(front), **told),
        "prediction_errors": plots.prediction_errors(measured(table), **told),
        "regimes": plots.regimes(found, network.server_names, "device-edge", **told),
        "scale": plots.scale(solved(), **told),
        "sensitivity": plots.sensitivity(schemes, **told),
        "source_forms": plots.source_forms(*coded[:1], coded[2], coded[1], "device-edge", **told),
        "split_times": plots.split_times(parts, times, "edge", **told),
        "tensor_sizes": plots.tensor_sizes(graph, **told),
        "topologies": plots.topologies(table, baselines(), **told),
        "weight_panels": plots.weight_panels(
            table[table["topology"] == "device-edge"], measured(planned(["device-edge"])), "device-edge", **told
        ),
    }
