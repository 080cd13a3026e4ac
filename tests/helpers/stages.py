"""One object of every public class that is a stage of the line, with names that would be HTML."""

from pathlib import Path

import pandas as pd

import dnnsplit as ds
from dnnsplit.cutting.bundle import Output, Part, Wire
from dnnsplit.sweep.jobs import Job

EVIL = "<i>x</i>&"
# what measures, calls or holds keys is no stage of the line from the ONNX file to the figures
NO_STAGES = {"Client", "Deployed", "NoiseMeter", "Preprocessing", "Tls"}


def objects():
    """One object of every public class, with names that would be HTML."""
    layers = [ds.Layer(f"{EVIL}a", f"{EVIL}Conv", 1e6, 400, (f"{EVIL}node",), quantizable=True), ds.Layer(f"{EVIL}b")]
    tensors = [
        ds.Tensor("x", None, (f"{EVIL}a",), 100, False, (1, 5, 5), f"{EVIL}float32"),
        ds.Tensor(f"{EVIL}t", f"{EVIL}a", (f"{EVIL}b",), 50),
        ds.Tensor("y", f"{EVIL}b", (), 50, is_output=True),
    ]
    graph, near, far = ds.LayerGraph(layers, tensors), f"{EVIL}near", f"{EVIL}far"
    servers = [ds.Server(near, 2, 3, memory_bytes=1e6, note=EVIL), ds.Server(far, 5, 1)]
    links = [ds.Link(near, far, 1e3, 0.01, note=EVIL), ds.Link(far, near, 1e3, 0.01)]
    network = ds.Network(servers, links, near, EVIL)
    rows = [(n.name, s.name, p, 0.1 * (1 + (s.name == near))) for n in layers for s in servers for p in ("float32", "int8")]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    noise = ds.NoiseModel.polynomial((f"{EVIL}a",), {f"{EVIL}a": 0.1})
    plan = ds.split(graph, network, times, noise, pins={f"{EVIL}b": far})
    setting = ds.QuantizationSetting()
    samples = ds.NoiseSamples(pd.DataFrame({f"{EVIL}a": [0, 1], "noise": [0.0, 0.1]}), {}, pd.DataFrame({f"{EVIL}m": [0.0, 0.1]}))
    x, y = (Wire(name, "float32", (1, 5)) for name in "xy")
    part = Part(f"{EVIL}part", near, "part.onnx", "0", ("x",), ("y",))
    bundle = ds.Bundle(Path(), EVIL, "0", near, (near, far), (x,), (Output("y", "y"),), (y,), (part,))
    windows = [{"pair": i // 2, "state": ("idle", "busy")[i % 2], "seconds": 1.0, "runs": i % 2, "own_cpu": 1.0,
                "others_cpu": 0.0, f"{EVIL}cpu 0": 1.0 + i} for i in range(4)]  # fmt: skip
    job = Job(EVIL, Path("n.ipynb"), {"x": EVIL}, Path())
    return [
        graph, layers[0], layers[1], tensors[0], tensors[1], network, servers[0], servers[1], links[0], times,
        ds.Overhead(1e-9, 1e-9, 1e-3, 2.0, 0.02, 0.05, 12), setting, ds.QuantizationSetting.of("thesis"),
        ds.Calibration({f"{EVIL}t": (-1.0, 2.0)}, setting, "0" * 64, "1" * 64), noise,
        samples, ds.noise_for(samples, f"{EVIL}m", 0.2), ds.Instance(graph, network, times, noise),
        ds.Instance(graph, network, times), plan, plan.cost, plan.transfers[0], ds.pareto(graph, network, times, noise),
        ds.explain(plan, graph, network, times, noise, pins={f"{EVIL}b": far}), bundle,
        ds.bandwidths(graph, network, times, noise, link=(near, far)),
        ds.adaptive_plans(graph, network, times, noise, bandwidths={(near, far): [1e3, 1e6]}, progress=False),
        ds.Power(pd.DataFrame(windows), (f"{EVIL}cpu 0",), EVIL, EVIL, EVIL, EVIL, EVIL),
        ds.Runs((job,), {EVIL: {"run": EVIL, "notebook": "n", "status": "failed", "error": EVIL, "results": {"r": EVIL}}}),
    ]  # fmt: skip


SOME = objects()
