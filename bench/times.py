"""How well the times of deployed parts are predicted, beside the thesis' method on the same splits; CPU seconds of one thread.

python bench/times.py                  the shipped model
python bench/times.py --model M.onnx   another one; its images are the drawn scenes, repeated to fill its input
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

import dnnsplit as ds
from dnnsplit.graph.cleanup import node_inputs
from dnnsplit.graph.onnx_file import Model
from dnnsplit.profiling.kernels import profile_host
from dnnsplit.profiling.splits import (
    calibrated,
    calibration_splits,
    measure_parts,
    moved,
    predicted,
    random_splits,
    steps,
    whole_model,
)
from dnnsplit.quantize.rewrite import quantize_layer
from dnnsplit.runtime.sessions import session
from dnnsplit.runtime.timing import SETTLED, cpu_seconds

HELD_OUT = 1000  # seed of the splits; the calibration has seed 0


def scenes(model: Model, count: int) -> np.ndarray:
    """Drawn scenes, repeated to fill the input of a model."""
    images, shape = ds.examples.load_images("", count, seed=1), model.types[model.inputs[0]][1]
    times = [1, 1, *(-(-want // have) for want, have in zip(shape[2:], images.shape[2:], strict=True))]
    return np.tile(images, times)[:, :, : shape[2], : shape[3]]


def node_times(model: Model, graph: ds.LayerGraph, int8: Mapping[str, ds.Calibration], runs: int) -> pd.DataFrame:
    """The thesis' profile: every node is a model of its own, with inputs of the right shape; the layers are sums of nodes."""
    rng, jobs = np.random.default_rng(0), []
    for layer in graph.layers:
        jobs += [(layer.name, "float32", [model.nodes[n]], model.nodes[n].output[0], ()) for n in layer.nodes]
        if layer.name in int8:
            quantized, output = int8[layer.name], model.nodes[layer.name].output[0]
            last = next(i for i, node in enumerate(quantized.nodes) if node.output[0] == output)
            before = {n.output[0]: n for n in quantized.nodes[: last + 1]}
            needed, wanted = [], [output]
            while wanted:
                node = before.pop(wanted.pop(), None)
                if node is not None:
                    needed.append(node)
                    wanted += node.input
            jobs.append((layer.name, "int8", needed[::-1], output, quantized.weights))
            jobs += [(layer.name, "int8", [model.nodes[n]], model.nodes[n].output[0], ()) for n in layer.nodes if n != layer.name]
    rows = []
    for layer, precision, nodes, output, weights in jobs:
        made = {o for n in nodes for o in n.output}
        outputs = [o for o in nodes[-1].output if o] if precision == "float32" else [output]
        known = made | {w.name for w in weights}
        read = (i for n in nodes for i in node_inputs(n) if i not in known and not model.is_constant(i))
        inputs = list(dict.fromkeys(read))
        values = [[model.value_info(t) for t in group] for group in (inputs, outputs)]
        one = session(model.assemble(nodes, *values, weights, "node").SerializeToString())
        feed = {i: rng.random(model.types[i][1]).astype(model.dtype(i)) for i in inputs}
        rows.append((layer, precision, float(np.median(cpu_seconds(one, feed, runs)))))
    return pd.DataFrame(rows, columns=["layer", "precision", "seconds"]).groupby(["layer", "precision"], as_index=False).sum()


def rescaled(nodes: pd.DataFrame, float32_s: float, int8_s: float) -> pd.DataFrame:
    """The thesis' two global factors: one makes float32 sum to the whole model, one int8 to the whole model with all in int8."""
    table = nodes.pivot_table(index="layer", columns="precision", values="seconds")
    table["float32"] *= float32_s / table["float32"].sum()
    able = table["int8"].notna()
    table["int8"] *= (int8_s - table.loc[~able, "float32"].sum()) / table.loc[able, "int8"].sum()
    return table.stack().rename("seconds").reset_index().dropna()


def errors(parts: pd.DataFrame) -> dict[str, str]:
    """Mean and worst |error| [%] of the totals, charged as the links charge them, and of the parts above 5 % of the model."""
    totals = parts.assign(int8=parts["quantized"].map(len)).groupby("split")[["priced_s", "seconds", "int8"]].sum()
    off = 100 * (totals["priced_s"] / totals["seconds"] - 1).abs()
    large = parts[parts["seconds"] > 0.05 * totals["seconds"].median()]
    of_parts = 100 * (large["predicted_s"] / large["seconds"] - 1).abs()
    found = {
        "total, float32": off[totals["int8"] == 0],
        "total, random int8": off[totals["int8"] > 0],
        "part above 5 %": of_parts,
    }
    return {what: f"{values.mean():.1f} / {values.max():.1f}" for what, values in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ds.examples.data_folder() / "models" / f"{ds.examples.SHIPPED}.onnx")
    parser.add_argument("--count", type=int, default=12, help="layers that may run in int8")
    parser.add_argument("--splits", type=int, default=24, help="held-out splits, half of them with random int8")
    parser.add_argument("--runs", type=int, default=40, help="of the profile")
    options = parser.parse_args()
    graph = ds.load(options.model)
    model = graph.model
    images = scenes(model, 8)
    calibration, layers = ds.calibrate(graph, images), graph.quantizable(options.count)
    started = time.process_time()
    host = profile_host(graph, images, calibration, layers, options.runs)
    profile_s = time.process_time() - started

    # Calibration and test are run in turn, mixed: the machine's drift between them is not what is asked.
    fitted = calibration_splits(graph, 24, layers)
    plans = [*fitted, *random_splits(graph, options.splits, layers, HELD_OUT), whole_model(graph), whole_model(graph, layers)]
    started = time.process_time()
    order = np.random.default_rng(0).permutation(len(plans))
    parts = measure_parts(graph, [plans[i] for i in order], images, calibration, max(3, options.runs // 3))
    parts = parts.assign(split=order[parts["split"]]).sort_values("split", kind="stable", ignore_index=True)
    # a profile stops where its predictions have settled
    ends = [end for _, end in steps(fitted)]
    known = [parts[parts["split"] < end] for end in ends]
    enough = next((i for i in range(1, len(ends)) if moved(graph, host, known[i - 1], known[i]) <= SETTLED), len(ends) - 1)
    profile_s += (time.process_time() - started) * ends[enough] / len(plans)
    host, overhead = calibrated(graph, host, known[enough])
    parts = parts[parts["split"] >= len(fitted)]
    times = ds.LayerTimes(host.assign(server="here"), {"here": overhead})
    float32_s, int8_s = parts["seconds"].iloc[-2:]
    parts, spread = parts.iloc[:-2], (parts["high_s"] - parts["low_s"]) / parts["seconds"]

    started = time.process_time()
    int8 = {name: quantize_layer(graph, name, calibration) for name in layers}
    nodes = node_times(model, graph, int8, max(3, options.runs // 2))
    nodes_s = time.process_time() - started
    thesis = rescaled(nodes, float32_s, int8_s)

    plain = nodes[nodes["precision"] == "float32"]["seconds"].sum()
    ours, theirs = errors(predicted(parts, times.frame, overhead)), errors(predicted(parts, thesis))
    goals = {"total, float32": "2 / 5", "total, random int8": "3 / 6", "part above 5 %": "4 / 10"}
    rows = [(f"{what}: mean / worst |error|, %", goals[what], ours[what], theirs[what]) for what in goals]
    rows.append(("sum of float32 blocks against the whole, %", "4", f"{100 * (times.seconds_of('here') / float32_s - 1):+.1f}",
                 f"{100 * (plain / float32_s - 1):+.1f} before rescaling"))  # fmt: skip
    rows.append(("CPU time of the profile, s", "60", f"{profile_s:.0f}", f"{nodes_s:.0f}"))
    negative = [f"{(table['seconds'] <= 0).sum()}" for table in (times.frame, thesis)]
    rows.append(("times that are 0 or negative", "0", *negative))
    print(f"{options.model.name}: {len(graph.layers)} layers; whole model {1e3 * float32_s:.2f} ms in float32, "
          f"{1e3 * int8_s:.2f} ms with {len(layers)} layers in int8; {options.splits} held-out splits, {len(parts)} parts, "
          f"median spread of a part (quartiles) {100 * spread.median():.1f} %")  # fmt: skip
    print(pd.DataFrame(rows, columns=["what", "at most", "dnnsplit", "nodes alone (thesis)"]).to_string(index=False))
    print(f"calibration on {overhead.splits} splits: {1e9 * overhead.s_per_byte_in:.2f} ms/MB in, "
          f"{1e9 * overhead.s_per_byte_out:.2f} ms/MB out, {1e3 * overhead.s_per_part:.3f} ms per part; "
          f"left-out splits {100 * overhead.error:.1f} / {100 * overhead.worst:.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
