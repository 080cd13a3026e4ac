"""Every figure, as a function of stage objects. Each returns the figure and the numbers it draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.graph import LayerGraph
from dnnsplit.lanes import placement
from dnnsplit.noise import NoiseModel, NoiseSamples
from dnnsplit.regression import noise_scores
from dnnsplit.style import COLOURS, save, style
from dnnsplit.times import LayerTimes

__all__ = [
    "latency_noise",
    "layer_seconds",
    "noise_fit",
    "placement",
    "predicted_measured",
    "save",
    "scale",
    "sensitivity",
    "tensor_sizes",
]


def noise_fit(models: Mapping[str, NoiseModel], test: NoiseSamples) -> tuple[Figure, dict[str, Any]]:
    """Figure 2: predicted against measured noise on schemes that no model was fitted to.

    Parameters
    ----------
    models : by the title of their panel
    test : the held-out schemes
    """
    with style():
        figure, axes = plt.subplots(1, len(models), figsize=(2.55 * len(models), 2.75), sharex=True, sharey=True, squeeze=False)
        numbers: dict[str, Any] = {"measured": test.noise, "layers": list(test.layers), "models": {}}
        top = 1.05 * float(test.noise.max())
        for axis, (title, model) in zip(axes[0], models.items(), strict=True):
            predicted = model.predict(test.schemes)
            scores = noise_scores(test.noise, predicted)
            axis.plot([0, top], [0, top], color="0.45", linewidth=0.8, zorder=1)
            axis.scatter(test.noise, predicted, s=3, color=COLOURS[0], alpha=0.35, linewidths=0, rasterized=True, zorder=2)
            axis.set(title=title, xlabel="measured noise", xlim=(0, top), ylim=(0, top), aspect="equal")
            text = f"$R^2$ = {scores['R2']:.4f}\nMAPE {scores['MAPE_%']:.1f} %\nlowest tenth {scores['low_MAPE_%']:.1f} %"
            axis.text(0.05, 0.95, text, transform=axis.transAxes, va="top", fontsize=8)
            numbers["models"][title] = {"predicted": predicted, **scores, "fit": dict(model.scores)}
        axes[0][0].set_ylabel("predicted noise")
    return figure, numbers


def latency_noise(
    frame: pd.DataFrame, title: str, measured: pd.DataFrame | None = None, most: float | None = None
) -> tuple[Figure, dict[str, Any]]:
    """Figures 3 to 5: least latency against the noise limit, as planned, with the plans that were run.

    Parameters
    ----------
    frame : of a `Front`, or read from its CSV: noise, latency_s [s]
    title : the topology
    measured : rows with max_noise, latency_s, low_s, high_s (median and 5th to 95th percentile of the runs) [s]
    most : right end of the noise axis; default: the largest noise of the front or of the measured rows
    """
    limits = [] if measured is None else list(measured["max_noise"])
    right = most or max([*frame["noise"], *limits, 1e-3]) * 1.05
    with style():
        figure, axis = plt.subplots()
        edges = [*frame["noise"], right]
        axis.stairs(frame["latency_s"], edges, baseline=None, color=COLOURS[0], linewidth=1.5, label="planned (exact optimum)")
        if measured is not None and len(measured):
            error = [measured["latency_s"] - measured["low_s"], measured["high_s"] - measured["latency_s"]]
            axis.errorbar(
                measured["max_noise"], measured["latency_s"], yerr=_not_negative(error), fmt="o", color=COLOURS[1], capsize=2,
                elinewidth=0.9, label="measured (median, 5 to 95 %)", zorder=3,
            )  # fmt: skip
        axis.set(title=title, xlabel="noise limit $\\eta_{max}$", ylabel="latency [s]", xlim=(0, right))
        values = [*frame["latency_s"], *([] if measured is None else measured["high_s"])]
        axis.set_ylim(0, max(values) * 1.12)
        axis.legend(loc="lower left")
    numbers = {"title": title, "front": frame.to_dict("list")}
    if measured is not None:
        numbers["measured"] = measured.to_dict("list")
    return figure, numbers


def _not_negative(error: list[pd.Series]) -> np.ndarray:
    """Error bars that are never negative: a median can equal a percentile up to rounding."""
    return np.maximum(np.array([np.asarray(e, float) for e in error]), 0.0)


def tensor_sizes(graph: LayerGraph) -> tuple[Figure, dict[str, Any]]:
    """Bytes that would cross if all layers up to a depth ran elsewhere, against the share of FLOPs done by then."""
    position = {name: i for i, name in enumerate(graph.topological)}
    count = len(graph.layers)
    crossing = np.zeros(count + 1)
    for tensor in graph.tensors:
        start = 0 if tensor.producer is None else position[tensor.producer] + 1
        stop = max([position[c] + 1 for c in tensor.consumers] + [count + 1] * tensor.is_output)
        crossing[start:stop] += tensor.size_bytes
    done = np.r_[0, np.cumsum([graph.layer(name).flops for name in graph.topological])]
    with style():
        figure, axis = plt.subplots()
        axis.step(100 * done / done[-1], crossing / 1e6, where="post", color=COLOURS[0])
        axis.axhline(crossing[0] / 1e6, color="0.45", linewidth=0.8, linestyle="--")
        axis.text(99, crossing[0] / 1e6, "the input itself", ha="right", va="bottom", fontsize=7.5, color="0.35")
        axis.set(xlabel="FLOPs done before the cut [%]", ylabel="tensors at the cut [MB]", xlim=(0, 100), ylim=(0, None))
        axis.set_title("What one cut through the network would send")
    return figure, {"flops_share": done / done[-1], "crossing_bytes": crossing}


def layer_seconds(times: LayerTimes, server: str, most: int = 24) -> tuple[Figure, dict[str, Any]]:
    """Seconds of the slowest layers on one server, float32 beside int8 where that exists.

    Parameters
    ----------
    times : a profile
    server : which of its servers
    most : how many layers
    """
    frame = times.frame[times.frame["server"] == server]
    table = frame.pivot_table(index="layer", columns="precision", values="seconds", sort=False)
    table = table.reindex(columns=["float32", "int8"]).nlargest(most, "float32")[::-1]
    origin = " / ".join(dict.fromkeys(frame["origin"]))
    with style():
        figure, axis = plt.subplots(figsize=(5.4, 0.155 * len(table) + 0.9))
        rows = np.arange(len(table))
        axis.barh(rows + 0.2, 1e3 * table["float32"], height=0.38, color=COLOURS[0], label="float32")
        axis.barh(rows - 0.2, 1e3 * table["int8"].fillna(0), height=0.38, color=COLOURS[1], label="int8")
        axis.set_yticks(rows, [name.strip("/") for name in table.index], fontsize=6.3)
        axis.set(xlabel=f"time on {server} [ms], {origin}", title=f"The {len(table)} slowest layers")
        axis.grid(False, axis="y")
        axis.legend(loc="lower right")
    numbers = table.reset_index().astype(object)
    return figure, {"server": server, "origin": origin, "seconds": numbers.where(numbers.notna(), None).to_dict("list")}


def sensitivity(samples: NoiseSamples) -> tuple[Figure, dict[str, Any]]:
    """Noise of each layer quantized alone, and of all together."""
    alone = {
        name: float(samples.noise[(samples.schemes[:, i] == 1) & (samples.schemes.sum(axis=1) == 1)][0])
        for i, name in enumerate(samples.layers)
        if ((samples.schemes[:, i] == 1) & (samples.schemes.sum(axis=1) == 1)).any()
    }
    every = samples.noise[samples.schemes.all(axis=1)]
    with style():
        figure, axis = plt.subplots(figsize=(5.0, 0.19 * len(alone) + 0.9))
        names = list(alone)[::-1]
        axis.barh(range(len(names)), [alone[n] for n in names], color=COLOURS[0])
        axis.set_yticks(range(len(names)), [n.strip("/") for n in names], fontsize=7)
        if len(every):
            axis.axvline(every[0], color=COLOURS[1], linewidth=1.2)
            axis.text(every[0], len(names) - 0.4, "all together ", color=COLOURS[1], ha="right", va="bottom", fontsize=7.5)
        axis.set(xlabel="noise (mean absolute difference of the output)", title="Each layer quantized alone")
        axis.set_ylim(-0.6, len(names))
        axis.grid(False, axis="y")
    return figure, {"alone": alone, "all": [float(v) for v in every]}


def predicted_measured(rows: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """Measured against predicted latency of every plan that was run.

    Parameters
    ----------
    rows : topology, predicted_s, latency_s [s]
    """
    error = 100 * (rows["predicted_s"] / rows["latency_s"] - 1)
    with style():
        figure, axis = plt.subplots(figsize=(3.4, 3.1))
        top = 1.08 * max(rows["predicted_s"].max(), rows["latency_s"].max())
        axis.plot([0, top], [0, top], color="0.45", linewidth=0.8)
        for i, (topology, part) in enumerate(rows.groupby("topology", sort=False)):
            marks = {"color": COLOURS[i % 7], "marker": "osD^v"[i % 5], "label": topology, "s": 18, "zorder": 3}
            axis.scatter(part["predicted_s"], part["latency_s"], **marks)
        text = f"mean |error| of the prediction {error.abs().mean():.1f} %\nworst {error.abs().max():.1f} %"
        axis.text(0.05, 0.95, text, transform=axis.transAxes, va="top")
        axis.set(xlabel="predicted latency [s]", ylabel="measured latency [s]", xlim=(0, top), ylim=(0, top), aspect="equal")
        axis.legend(loc="lower right")
    return figure, {"rows": rows.to_dict("list"), "error_%": error.tolist()}


def scale(rows: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """CPU seconds of one exact solve against the number of layers, one line per number of servers and method.

    Parameters
    ----------
    rows : layers, servers, method, cpu_s [s]
    """
    with style():
        figure, axis = plt.subplots()
        for i, ((method, servers), part) in enumerate(rows.groupby(["method", "servers"], sort=False)):
            line = "-" if method == "elimination" else "--"
            axis.plot(part["layers"], part["cpu_s"], line, marker="o", color=COLOURS[i % 7], label=f"{method}, {servers} servers")
        axis.set(xscale="log", yscale="log", xlabel="layers", ylabel="CPU time of one solve [s]")
        axis.legend(loc="upper left", fontsize=7)
    return figure, {"rows": rows.to_dict("list")}
