"""Every figure, as a function of stage objects; and `save`, which writes a figure with the numbers it draws."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from dnnsplit.files import write_bytes, write_json
from dnnsplit.graph import LayerGraph
from dnnsplit.noise import NoiseModel, NoiseSamples, noise_scores
from dnnsplit.plan import Plan
from dnnsplit.times import LayerTimes
from dnnsplit.units import show

SERVER_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_STYLE = Path(__file__).with_name("dnnsplit.mplstyle")


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with plt.style.context(_STYLE):
        yield


def save(figure: Figure, folder: str | Path, name: str, numbers: Mapping[str, Any], close: bool = True) -> dict[str, Path]:
    """Write a figure as SVG and PNG, and the numbers it draws as JSON with the version that made it.

    Parameters
    ----------
    figure : from one of the functions of this module
    folder : made if missing
    name : of the files, without ending
    numbers : what is drawn, JSON values
    close : the figure, so that it is not shown a second time

    Returns
    -------
    dict : path by ending
    """
    paths = {}
    with _style():
        for ending in ("svg", "png"):
            buffer = io.BytesIO()
            metadata = {"Date": None} if ending == "svg" else {"Software": None}
            figure.savefig(buffer, format=ending, metadata=metadata)
            paths[ending] = write_bytes(Path(folder) / f"{name}.{ending}", buffer.getvalue())
    paths["json"] = write_json(Path(folder) / f"{name}.json", {"figure": name, "dnnsplit": version("dnnsplit"), **numbers})
    if close:
        plt.close(figure)
    return paths


def noise_fit(models: Mapping[str, NoiseModel], test: NoiseSamples) -> tuple[Figure, dict[str, Any]]:
    """Figure 2: predicted against measured noise on schemes that no model was fitted to.

    Parameters
    ----------
    models : by the title of their panel
    test : the held-out schemes
    """
    with _style():
        figure, axes = plt.subplots(1, len(models), figsize=(2.55 * len(models), 2.75), sharex=True, sharey=True, squeeze=False)
        numbers: dict[str, Any] = {"measured": test.noise, "layers": list(test.layers), "models": {}}
        top = 1.05 * float(test.noise.max())
        for axis, (title, model) in zip(axes[0], models.items(), strict=True):
            predicted = model.predict(test.schemes)
            scores = noise_scores(test.noise, predicted)
            axis.plot([0, top], [0, top], color="0.45", linewidth=0.8, zorder=1)
            axis.scatter(test.noise, predicted, s=3, alpha=0.35, linewidths=0, rasterized=True, zorder=2)
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
    with _style():
        figure, axis = plt.subplots()
        edges = [*frame["noise"], right]
        axis.stairs(frame["latency_s"], edges, baseline=None, color="C0", linewidth=1.5, label="planned (exact optimum)")
        if measured is not None and len(measured):
            error = [measured["latency_s"] - measured["low_s"], measured["high_s"] - measured["latency_s"]]
            axis.errorbar(
                measured["max_noise"], measured["latency_s"], yerr=_not_negative(error), fmt="o", color="C1", capsize=2,
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


def placement(graph: LayerGraph, plan: Plan, title: str = "") -> tuple[Figure, dict[str, Any]]:
    """Draw where the layers run: a lane per server, layers collapsed to the blocks their names show, crossings in kB.

    Parameters
    ----------
    graph, plan : what is drawn
    title : above the drawing
    """
    lanes = [s for s in plan.cost.compute_s if s in plan.servers or s == plan.source]
    groups = _groups(graph, plan)
    of = {layer: key for key, layers in groups.items() for layer in layers}
    x = {key: i for i, key in enumerate(groups)}
    y = {server: float(len(lanes) - 1 - i) for i, server in enumerate(lanes)}
    ends = {"input": -1.2, "output": len(groups) + 0.2}
    with _style():
        figure, axis = plt.subplots(figsize=(max(6.0, 0.27 * len(groups) + 1.6), 0.75 + 0.95 * len(lanes)))
        axis.grid(False)
        for i, server in enumerate(lanes):
            axis.axhspan(y[server] - 0.42, y[server] + 0.42, color=SERVER_COLOURS[i % 6], alpha=0.09, linewidth=0)
            seconds = plan.cost.compute_s[server]
            axis.text(-2.0, y[server], f"{server}\n{show(seconds, 's')}", ha="right", va="center", fontsize=8)
        crossings = _draw_tensors(axis, graph, plan, of, x, y, ends)
        for key, layers in groups.items():
            prefix, server = key
            quantized = [n for n in layers if n in plan.quantized]
            colour = SERVER_COLOURS[lanes.index(server) % 6]
            axis.scatter(x[key], y[server], s=95, color=colour, edgecolors="black" if quantized else colour,
                         linewidths=1.4 if quantized else 0.5, zorder=3)  # fmt: skip
            axis.text(x[key], y[server], re.sub(r"^model\.", "", prefix)[-4:], ha="center", va="center", fontsize=5.8,
                      color="white", zorder=4)  # fmt: skip
        for name, at in ends.items():
            axis.scatter(at, y[plan.source], s=70, marker="s", color="0.35", zorder=3)
            axis.text(at, y[plan.source] - 0.3, name, ha="center", va="top", fontsize=6.5)
        note = f"latency {show(plan.latency_s, 's')}, noise {plan.noise:.3g}, {len(plan.quantized)} layers in int8 (black ring)"
        axis.set_title(f"{title}: {note}" if title else note, fontsize=8.5)
        axis.set(xlim=(-2.0, len(groups) + 1.0), ylim=(-0.62, len(lanes) - 0.38))
        axis.axis("off")
    numbers = {
        "title": title, "latency_s": plan.latency_s, "noise": plan.noise, "quantized": list(plan.quantized),
        "assignment": dict(plan.assignment), "crossings": crossings,
    }  # fmt: skip
    return figure, numbers


def _groups(graph: LayerGraph, plan: Plan) -> dict[tuple[str, str], list[str]]:
    """Layers by (first part of their name, server), in the order of their mean depth."""
    plain = len({_prefix(n) for n in graph.layer_names}) > 60
    chunk = max(1, len(graph.layers) // 40)
    groups: dict[tuple[str, str], list[str]] = {}
    place: dict[tuple[str, str], list[int]] = {}
    for i, name in enumerate(graph.topological):
        key = (str(i // chunk) if plain else _prefix(name), plan.assignment[name])
        groups.setdefault(key, []).append(name)
        place.setdefault(key, []).append(i)
    return {key: groups[key] for key in sorted(groups, key=lambda key: float(np.mean(place[key])))}


def _prefix(name: str) -> str:
    return name.strip("/").split("/")[0]


def _draw_tensors(
    axis: Axes, graph: LayerGraph, plan: Plan, of: Mapping[str, tuple[str, str]], x: Mapping[tuple[str, str], int],
    y: Mapping[str, float], ends: Mapping[str, float],
) -> list[dict[str, Any]]:  # fmt: skip
    drawn: set[tuple[Any, Any]] = set()
    labels: dict[tuple[float, float, float, float], float] = {}
    crossings = []
    for tensor in graph.tensors:
        start = ("input", plan.source) if tensor.producer is None else of[tensor.producer]
        stops = [of[c] for c in tensor.consumers] + ([("output", plan.source)] if tensor.is_output else [])
        for stop in stops:
            if start == stop:
                continue
            a = (ends.get(start[0], x.get(start, 0)), y[start[1]])
            b = (ends.get(stop[0], x.get(stop, 0)), y[stop[1]])
            crosses = start[1] != stop[1]
            if (start, stop) not in drawn:
                drawn.add((start, stop))
                bend = 0.0 if crosses or abs(b[0] - a[0]) <= 1 else -0.18
                axis.add_patch(
                    FancyArrowPatch(
                        a, b, arrowstyle="-|>", mutation_scale=6, shrinkA=5, shrinkB=5, zorder=2 if crosses else 1,
                        connectionstyle=f"arc3,rad={bend}", color="#D55E00" if crosses else "0.6",
                        linewidth=1.2 if crosses else 0.6,
                    )
                )  # fmt: skip
    for transfer in plan.transfers:
        if transfer.source == transfer.target:
            continue
        tensor = next(t for t in graph.tensors if t.name == transfer.tensor)
        start = ("input", plan.source) if tensor.producer is None else of[tensor.producer]
        stops = [of[c] for c in tensor.consumers if plan.assignment[c] == transfer.target]
        stop = min(stops, key=x.__getitem__) if stops else ("output", plan.source)
        a = (ends.get(start[0], x.get(start, 0)), y[start[1]])
        b = (ends.get(stop[0], x.get(stop, 0)), y[stop[1]])
        labels[(*a, *b)] = labels.get((*a, *b), 0.0) + transfer.size_bytes
        crossings.append({k: getattr(transfer, k) for k in ("tensor", "source", "target", "size_bytes", "seconds")})
    for i, ((ax, ay, bx, by), size) in enumerate(sorted(labels.items())):
        share = 0.5 + 0.16 * ((i % 3) - 1)  # labels of neighbouring arrows do not hide each other
        axis.text(
            ax + share * (bx - ax), ay + share * (by - ay), show(size, "B"), fontsize=6.5, color="#A03E00", ha="center",
            va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}, zorder=5,
        )  # fmt: skip
    return crossings


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
    with _style():
        figure, axis = plt.subplots()
        axis.step(100 * done / done[-1], crossing / 1e6, where="post", color="C0")
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
    with _style():
        figure, axis = plt.subplots(figsize=(5.4, 0.155 * len(table) + 0.9))
        rows = np.arange(len(table))
        axis.barh(rows + 0.2, 1e3 * table["float32"], height=0.38, color="C0", label="float32")
        axis.barh(rows - 0.2, 1e3 * table["int8"].fillna(0), height=0.38, color="C1", label="int8")
        axis.set_yticks(rows, [name.strip("/") for name in table.index], fontsize=6.3)
        axis.set(xlabel=f"time on {server} [ms], {origin}", title=f"The {len(table)} slowest layers")
        axis.grid(False, axis="y")
        axis.legend(loc="lower right")
    return figure, {"server": server, "origin": origin, "seconds": table.reset_index().astype(object).where(
        table.reset_index().notna(), None).to_dict("list")}  # fmt: skip


def sensitivity(samples: NoiseSamples) -> tuple[Figure, dict[str, Any]]:
    """Noise of each layer quantized alone, and of all together."""
    alone = {
        name: float(samples.noise[(samples.schemes[:, i] == 1) & (samples.schemes.sum(axis=1) == 1)][0])
        for i, name in enumerate(samples.layers)
        if ((samples.schemes[:, i] == 1) & (samples.schemes.sum(axis=1) == 1)).any()
    }
    every = samples.noise[samples.schemes.all(axis=1)]
    with _style():
        figure, axis = plt.subplots(figsize=(5.0, 0.19 * len(alone) + 0.9))
        names = list(alone)[::-1]
        axis.barh(range(len(names)), [alone[n] for n in names], color="C0")
        axis.set_yticks(range(len(names)), [n.strip("/") for n in names], fontsize=7)
        if len(every):
            axis.axvline(every[0], color="C1", linewidth=1.2)
            axis.text(every[0], len(names) - 0.4, "all together ", color="C1", ha="right", va="bottom", fontsize=7.5)
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
    error = 100 * (rows["latency_s"] / rows["predicted_s"] - 1)
    with _style():
        figure, axis = plt.subplots(figsize=(3.4, 3.1))
        top = 1.08 * max(rows["predicted_s"].max(), rows["latency_s"].max())
        axis.plot([0, top], [0, top], color="0.45", linewidth=0.8)
        for i, (topology, part) in enumerate(rows.groupby("topology", sort=False)):
            style = {"color": f"C{i}", "marker": "osD^v"[i % 5], "label": topology, "s": 18, "zorder": 3}
            axis.scatter(part["predicted_s"], part["latency_s"], **style)
        text = f"mean |error| {error.abs().mean():.1f} %\nworst {error.abs().max():.1f} %"
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
    with _style():
        figure, axis = plt.subplots()
        for i, ((method, servers), part) in enumerate(rows.groupby(["method", "servers"], sort=False)):
            style = "-" if method == "elimination" else "--"
            axis.plot(part["layers"], part["cpu_s"], style, marker="o", color=f"C{i % 7}", label=f"{method}, {servers} servers")
        axis.set(xscale="log", yscale="log", xlabel="layers", ylabel="CPU time of one solve [s]")
        axis.legend(loc="upper left", fontsize=7)
    return figure, {"rows": rows.to_dict("list")}
