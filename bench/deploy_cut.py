"""What cutting costs: CPU seconds and peak memory of `dnnsplit.cut`, with its check and without, each in a new process.

python bench/deploy_cut.py                  the shipped model
python bench/deploy_cut.py --model M.onnx   another one

The plan is float32 on three servers, each with a third of the layers in their topological order.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

import dnnsplit as ds

SERVERS = ("device", "edge", "cloud")
STEPS = ("plan", "checked", "unchecked")
SHIPPED = ds.examples.data_folder() / "models" / f"{ds.examples.SHIPPED}.onnx"


def existing(path: str) -> Path:
    """A path on the command line that is a file."""
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    return Path(path)


def in_thirds(model: Path) -> ds.Plan:
    """A plan with three servers; its times are from FLOPs, for cutting does not depend on them."""
    graph = ds.load(model)
    share = len(graph.topological) / len(SERVERS)
    pins = {layer: SERVERS[int(i / share)] for i, layer in enumerate(graph.topological)}
    times = ds.joined(*(ds.flops_times(graph, server, 1e10, 1e10) for server in SERVERS))
    links = [ds.Link(a, b, 5e6, 0.005) for a in SERVERS for b in SERVERS if a != b]
    return ds.split(graph, ds.Network([ds.Server(name) for name in SERVERS], links, "device"), times, pins=pins)


def step(name: str, model: Path, folder: Path) -> dict[str, object]:
    """Make the plan, or cut by it; return what the cut cost."""
    plan = folder / "plan.json"
    if name == "plan":
        in_thirds(model).save(plan)
        return {}
    loaded = ds.Plan.load(plan)
    started = time.process_time()
    bundle = ds.cut(model, loaded, folder / name, check=name == "checked")
    cpu_s = time.process_time() - started
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cut": name, "cpu_s": cpu_s, "peak_gib": peak_bytes / 2**30, "parts": len(bundle.parts)}


def cut_costs(model: Path) -> pd.DataFrame:
    """Two rows, checked and unchecked: cpu_s of the call [s], all threads; peak_gib of the whole process; parts; model_mb."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in STEPS:
            # A process starts with the peak of the one that started it, so this one never reads the model itself.
            command = [sys.executable, __file__, "--model", str(model), "--step", name, "--folder", folder]
            rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    return pd.DataFrame(rows[1:]).assign(model_mb=model.stat().st_size / 1e6)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=existing, default=SHIPPED)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(options.step, options.model, options.folder)))
    else:
        print(cut_costs(options.model).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
