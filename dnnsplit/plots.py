"""Every figure, as a function of stage objects. Each returns the figure and the numbers it draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.bandwidth import BandwidthPlans
from dnnsplit.graph import LayerGraph
from dnnsplit.lanes import placement
from dnnsplit.noise import NoiseModel, NoiseSamples
from dnnsplit.regression import first_order, noise_scores
from dnnsplit.style import COLOURS, save, style
from dnnsplit.times import LayerTimes
from dnnsplit.units import show

__all__ = [
    "bandwidth",
    "latency_noise",
    "layer_seconds",
    "learning_curve",
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


def sensitivity(samples: NoiseSamples, noise: NoiseModel | None = None) -> tuple[Figure, dict[str, Any]]:
    """Noise of each layer quantized alone, and of all together; beside it, its share in the variance over all schemes.

    Parameters
    ----------
    samples : measured; a layer that was not measured alone has no bar
    noise : tells the shares where not all schemes were measured; without it they are left out then
    """
    single = samples.schemes.sum(axis=1) == 1
    alone = {
        name: float(samples.noise[single & (samples.schemes[:, i] == 1)][0])
        for i, name in enumerate(samples.layers)
        if (single & (samples.schemes[:, i] == 1)).any()
    }
    every = samples.noise[samples.schemes.all(axis=1)]
    if noise is None and len(samples.noise) >= 2 ** len(samples.layers) - 1:
        noise = NoiseModel.measured(samples)
    shares = None if noise is None else dict(zip(noise.layers, first_order(noise).tolist(), strict=True))
    names = list(samples.layers if shares else alone)[::-1]
    ratios = [5, 3] if shares else [1]
    with style():
        figure, axes = plt.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)
        figure.set_size_inches(3.2 + 1.8 * len(ratios), 0.19 * len(names) + 1.0)
        axis = axes[0][0]
        axis.barh(range(len(names)), [alone.get(n, 0.0) for n in names], color=COLOURS[0])
        axis.set_yticks(range(len(names)), [n.strip("/") for n in names], fontsize=7)
        if len(every):
            axis.axvline(every[0], color=COLOURS[1], linewidth=1.2)
            axis.text(every[0], len(names) - 0.4, "all together ", color=COLOURS[1], ha="right", va="bottom", fontsize=7.5)
        axis.set(xlabel="noise (mean |difference| of the output)", title="Each layer quantized alone")
        axis.set_ylim(-0.6, len(names) + 0.3)
        if shares:
            axes[0][1].barh(range(len(names)), [100 * shares[n] for n in names], color=COLOURS[2])
            axes[0][1].set(xlabel=f"variance [%] ({100 * sum(shares.values()):.1f} in all)", title="First-order share")
        for axis in axes[0]:
            axis.grid(False, axis="y")
    return figure, {"alone": alone, "all": [float(v) for v in every], "first_order": shares}


def learning_curve(rows: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """Error on held-out schemes against the number of measured ones: the median and the range over the seeds.

    Parameters
    ----------
    rows : from `dnnsplit.regression.learning_curve`: model, samples, seed, R2, MAPE_%, low_MAPE_%
    """
    rows = rows.reset_index(drop=True)
    panels = {"1 - $R^2$": 1 - rows["R2"], "MAPE [%]": rows["MAPE_%"], "MAPE of lowest tenth [%]": rows["low_MAPE_%"]}
    steps = [m * 10.0**k for k in range(-6, 4) for m in (1, 2, 5)]
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.6, 2.9), sharex=True)
        for axis, (label, values) in zip(axes, panels.items(), strict=True):
            for i, (title, part) in enumerate(values.groupby(rows["model"], sort=False)):
                part = part.groupby(rows["samples"]).agg(["median", "min", "max"])
                axis.plot(part.index, part["median"], marker="osD^v"[i % 5], markersize=3.5, color=COLOURS[i % 7], label=title)
                axis.fill_between(part.index, part["min"], part["max"], color=COLOURS[i % 7], alpha=0.15, linewidth=0)
            axis.set(xscale="log", yscale="log", xlabel="measured schemes", title=label)
            for of, along in ((values, axis.yaxis), (rows["samples"], axis.xaxis)):
                along.set_ticks(shown := [t for t in steps if of.min() / 1.3 <= t <= of.max() * 1.3], [f"{t:g}" for t in shown])
                along.set_ticks([], minor=True)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, rows["model"].nunique()))
    return figure, {"rows": rows.to_dict("list")}


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
    """CPU seconds of one solve: against the layers, a line per number of servers, and against the servers at large sizes.

    Parameters
    ----------
    rows : layers, servers, method ("elimination", or a MILP, drawn dashed), cpu_s [s] and, where some solves were stopped,
        status; one that is not "optimal" would have taken longer and is drawn hollow
    """
    exact, largest = rows[rows["method"] == "elimination"], sorted(rows["layers"].unique())[-3:]
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.0), sharey=True)
        for i, ((method, servers), part) in enumerate(rows.groupby(["method", "servers"])):
            part, free = part.sort_values("layers"), method == "elimination"
            colour = COLOURS[i % 6] if free else "black"
            label = f"{servers} servers" if free else f"{method} MILP, {servers} servers"
            left.plot(part["layers"], part["cpu_s"], "-" if free else "--", color=colour, label=label, zorder=3)
            proved = part.get("status", pd.Series("optimal", part.index)) == "optimal"
            for marked, fill in ((part[proved], colour), (part[~proved], "white")):
                left.scatter(marked["layers"], marked["cpu_s"], s=14, color=colour, facecolor=fill, zorder=4)
        for layers, mark in zip(largest[::-1], "os^", strict=False):
            part = exact[exact["layers"] == layers].sort_values("servers")
            right.plot(part["servers"], part["cpu_s"], color="0.3", marker=mark, label=f"{layers} layers")
        left.set(xscale="log", yscale="log", xlabel="layers", ylabel="CPU time of one solve [s]", title="Elimination and MILP")
        right.set(xlabel="servers", xlim=(0, None), title="Elimination, largest graphs")
        left.set_ylim(top=30 * rows["cpu_s"].max())  # room for the legends
        left.legend(loc="upper left", fontsize=7, ncols=2)
        right.legend(loc="upper left", fontsize=7)
    return figure, {"rows": rows.astype(object).where(rows.notna(), None).to_dict("list")}


def bandwidth(plans: BandwidthPlans, title: str = "", mark: float | None = None) -> tuple[Figure, dict[str, Any]]:
    """What the optimum costs at every bandwidth of a link, one colour per plan, and where the plan changes.

    Parameters
    ----------
    plans : from `bandwidths`
    title : above the drawing; default: the links
    mark : a bandwidth to mark, such as the network's own [B/s]
    """
    what, label = ("energy_j", "energy [J]") if plans.objective_name == "energy_j" else ("latency_s", "latency [s]")
    points = np.array(plans.breakpoints)
    right = points[-1] if np.isfinite(points[-1]) else 10 * points[-2]  # a line is nearly level by then
    links = " and ".join(f"{a} to {b}" for a, b in plans.links)
    with style():
        figure, axis = plt.subplots(figsize=(5.0, 3.3))
        numbers: dict[str, Any] = {"title": title or links, "breakpoints_bytes_per_s": points[1:-1], "plans": []}
        for i, (line, low, high) in enumerate(zip(plans.lines, points, [*points[1:-1], right], strict=False)):
            sent = sum(t.size_bytes for t in line.plan.transfers if (t.source, t.target) in plans.links)
            text = f"{' + '.join(line.plan.servers)}: {len(line.plan.quantized)} in int8, {show(sent, 'B')} sent"
            x = np.geomspace(low, high, 80)
            y = np.array([line.of(what, b) for b in x])
            axis.plot(x, y, color=COLOURS[i % 7], linestyle="--" if i // 7 % 2 else "-", linewidth=1.8, label=text)
            numbers["plans"].append({"plan": text, "bandwidth_bytes_per_s": x, what: y})
        axis.set(xscale="log", xlim=(points[0], right), xlabel="bandwidth", ylabel=label, title=title or links)
        axis.xaxis.set_major_formatter(lambda value, _: show(value, "B/s"))
        few = right < 30 * points[0]  # no two decades: 2 and 5 are labelled as well
        axis.xaxis.set_minor_formatter(lambda value, _: show(value, "B/s") if few and f"{value:e}"[0] in "25" else "")
        axis.set_ylim(0, 1.4 * max(np.max(entry[what]) for entry in numbers["plans"]))  # the top is for what is written there
        marks = [(point, show(point, "B/s"), "0.35", ":") for point in points[1:-1]]
        if mark is not None:
            marks.append((mark, f"given: {show(mark, 'B/s')}", "0", "-"))
            numbers["mark_bytes_per_s"] = mark
        for at, text, colour, dashes in marks:
            axis.axvline(at, color=colour, linewidth=0.8, linestyle=dashes, zorder=1)
            axis.annotate(text, (at, 0.99), xycoords=axis.get_xaxis_transform(), rotation=90, ha="right", va="top", fontsize=7,
                          color=colour)  # fmt: skip
        figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    return figure, numbers
