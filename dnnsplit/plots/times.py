"""Figures of sizes, times and bandwidths."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.units import show
from dnnsplit.plots.style import COLOURS, records, style
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.studies.bandwidths import BandwidthPlans


def tensor_sizes(graph: LayerGraph) -> tuple[Figure, dict[str, Any]]:
    """Bytes that would cross if all layers up to a depth ran elsewhere, against the share of FLOPs done by then.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> figure, numbers = ds.plots.tensor_sizes(ds.examples.tiny().graph)
    """
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
        axis.text(99, crossing[0] / 1e6, "the input", ha="right", va="bottom", fontsize=7.5, color="0.35")
        axis.set(xlabel="FLOPs done before the cut [%]", ylabel="tensors at the cut [MB]", xlim=(0, 100), ylim=(0, None),
                 title="What one cut through the network would send")  # fmt: skip
    return figure, {"flops_share": done / done[-1], "crossing_bytes": crossing}


def layer_seconds(times: LayerTimes, server: str, most: int = 24) -> tuple[Figure, dict[str, Any]]:
    """Seconds of the slowest layers on one server, float32 beside int8 where that exists.

    Parameters
    ----------
    times : LayerTimes
        A profile.
    server : str
        Which of its servers.
    most : int, default 24
        How many layers.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> figure, numbers = ds.plots.layer_seconds(ds.examples.tiny().times, "device")
    """
    table = _by_precision(times, server).nlargest(most, "float32")[::-1]
    origin = " / ".join(dict.fromkeys(times.frame.loc[times.frame["server"] == server, "origin"]))
    with style():
        figure, axis = plt.subplots(figsize=(5.4, 0.155 * len(table) + 0.9))
        rows = np.arange(len(table))
        axis.barh(rows + 0.2, 1e3 * table["float32"], height=0.38, color=COLOURS[0], label="float32")
        axis.barh(rows - 0.2, 1e3 * table["int8"].fillna(0), height=0.38, color=COLOURS[1], label="int8")
        axis.set_yticks(rows, [name.strip("/") for name in table.index], fontsize=6.3)
        axis.set(xlabel=f"time on {server} [ms], {origin}", title=f"The {len(table)} slowest layers")
        axis.grid(False, axis="y")
        axis.legend(loc="lower right")
    return figure, {"server": server, "origin": origin, "seconds": records(table.reset_index())}


def _by_precision(times: LayerTimes, server: str) -> pd.DataFrame:
    """Seconds of each layer on one server, float32 and int8."""
    frame = times.frame[times.frame["server"] == server]
    table = frame.pivot_table(index="layer", columns="precision", values="seconds", sort=False)
    return table.reindex(columns=["float32", "int8"])


def split_times(parts: pd.DataFrame, times: LayerTimes, server: str) -> tuple[Figure, dict[str, Any]]:
    """What int8 gains or loses per layer, and predicted against measured time of splits that were not calibrated on.

    Parameters
    ----------
    parts : pd.DataFrame
        From `dnnsplit.profiling.splits.predicted`, in seconds of `server`; as read from a CSV, the names of its int8 layers are
        separated by blanks.
    times : LayerTimes
        A profile.
    server : str
        Which of its servers.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import pandas as pd
    >>> times = ds.examples.yolo11n().times
    >>> parts = pd.DataFrame({"split": [0, 0], "quantized": "", "seconds": [0.1, 0.2], "predicted_s": [0.11, 0.19]})
    >>> parts = parts.assign(priced_s=parts["predicted_s"])
    >>> figure, numbers = ds.plots.split_times(parts, times, "device")
    """
    table = _by_precision(times, server)
    gain = (table["float32"] - table["int8"]).dropna()[::-1]
    int8 = [len(names.split() if isinstance(names, str) else names) for names in parts["quantized"]]
    totals = parts.assign(int8=int8).groupby("split")[["seconds", "priced_s", "int8"]].sum()
    error = 100 * (totals["priced_s"] / totals["seconds"] - 1)
    with style():
        size = (7.2, max(3.1, 0.17 * len(gain) + 1.1))
        figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=[4, 5])
        left.barh(range(len(gain)), 1e3 * gain, color=[COLOURS[0] if g >= 0 else COLOURS[1] for g in gain])
        left.set_yticks(range(len(gain)), [name.strip("/") for name in gain.index], fontsize=6.3)
        left.axvline(0, color="0.3", linewidth=0.8)
        left.set(xlabel=f"time saved by int8 on {server} [ms]", title="Negative: slower in int8")
        left.grid(False, axis="y")
        low, high = parts["seconds"].min() / 1.5, 1.5 * totals["seconds"].max()
        right.plot([low, high], [low, high], color="0.45", linewidth=0.8)
        right.scatter(parts["seconds"], parts["predicted_s"], s=8, color="0.55", label="one part")
        for i, (label, some) in enumerate((("float32", totals["int8"] == 0), ("some in int8", totals["int8"] > 0))):
            marks = {"color": COLOURS[i], "marker": "os"[i], "s": 16, "zorder": 3, "label": f"all parts, {label}"}
            right.scatter(totals["seconds"][some], totals["priced_s"][some], **marks)
        text = f"all parts: mean |error| {error.abs().mean():.1f} %,\nworst {error.abs().max():.1f} %"
        right.text(0.05, 0.95, text, transform=right.transAxes, va="top")
        right.set(xscale="log", yscale="log", xlabel="measured [s]", ylabel="predicted [s]", xlim=(low, high), ylim=(low, high),
                  title=f"{len(totals)} held-out splits on {server}")  # fmt: skip
        right.legend(loc="lower right", fontsize=7)
    numbers = {"server": server, "gain_s": gain.to_dict(), "total_error_%": error.tolist(), "totals": totals.to_dict("list")}
    return figure, numbers | {"parts": parts[["split", "seconds", "predicted_s"]].to_dict("list")}


def predicted_measured(rows: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """Measured against predicted latency of every plan that was run.

    Parameters
    ----------
    rows : pd.DataFrame
        topology, predicted_s, latency_s [s].

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"topology": "device-edge", "predicted_s": [0.30, 0.20], "latency_s": [0.31, 0.20]})
    >>> figure, numbers = ds.plots.predicted_measured(rows)
    """
    error = 100 * (rows["predicted_s"] / rows["latency_s"] - 1)
    with style():
        figure, axis = plt.subplots(figsize=(3.4, 3.1))
        top = 1.08 * max(rows["predicted_s"].max(), rows["latency_s"].max())
        axis.plot([0, top], [0, top], color="0.45", linewidth=0.8)
        for i, (topology, part) in enumerate(rows.groupby("topology", sort=False)):
            marks: dict[str, Any] = {"color": COLOURS[i % 7], "marker": "osD^v"[i % 5], "label": topology, "s": 18, "zorder": 3}
            axis.scatter(part["predicted_s"], part["latency_s"], **marks)
        text = f"mean |error| of the prediction {error.abs().mean():.1f} %\nworst {error.abs().max():.1f} %"
        axis.text(0.05, 0.95, text, transform=axis.transAxes, va="top", fontsize=7.5)
        axis.set(xlabel="predicted latency [s]", ylabel="measured latency [s]", xlim=(0, top), ylim=(0, top), aspect="equal")
        axis.legend(loc="lower right")
    return figure, {"rows": rows.to_dict("list"), "error_%": error.tolist()}


def bandwidth(plans: BandwidthPlans | pd.DataFrame, title: str = "", mark: float | None = None) -> tuple[Figure, dict[str, Any]]:
    """What the optimum costs at every bandwidth of a link, one colour per plan, and where the plan changes.

    Parameters
    ----------
    plans : BandwidthPlans | pd.DataFrame
        From `bandwidths`; or its frame, also as read from a CSV, with a column ``links``: its latency is drawn.
    title : str, default ""
        Above the drawing.
    mark : float | None, optional
        A bandwidth to mark, such as the network's own [B/s].

    Examples
    --------
    >>> import dnnsplit as ds
    >>> plans = ds.bandwidths(*ds.examples.tiny(), link=("device", "edge"))
    >>> figure, numbers = ds.plots.bandwidth(plans, "device + edge", mark=5e6)
    """
    if isinstance(plans, BandwidthPlans):
        rows, links = plans.frame, " and ".join(f"{a} to {b}" for a, b in plans.links)
        what = "energy_j" if plans.objective_name == "energy_j" else "latency_s"
    else:
        rows, links, what = plans, plans["links"].iloc[0], "latency_s"
    label = {"energy_j": "energy [J]", "latency_s": "latency [s]"}[what]
    points = np.array([*rows["from_bytes_per_s"], rows["to_bytes_per_s"].iloc[-1]])
    right = points[-1] if np.isfinite(points[-1]) else 10 * points[-2]  # a line is nearly level by then
    with style():
        figure, axis = plt.subplots(figsize=(5.0, 3.3))
        numbers: dict[str, Any] = {"title": title, "links": links, "breakpoints_bytes_per_s": points[1:-1], "plans": []}
        for i, (row, high) in enumerate(zip(rows.to_dict("records"), [*points[1:-1], right], strict=True)):
            servers = row["servers"].replace("+", " + ")
            text = f"{servers}: {row['int8']} in int8, {show(row['crossing_bytes'], 'B')} sent"
            x = np.geomspace(row["from_bytes_per_s"], high, 80)
            # between its ends a plan's worth is linear in 1 / bandwidth
            ends = [1 / row["to_bytes_per_s"], 1 / row["from_bytes_per_s"]]
            y = np.interp(1 / x, ends, [row[f"to_{what}"], row[f"from_{what}"]])
            axis.plot(x, y, color=COLOURS[i % 7], linestyle="--" if i // 7 % 2 else "-", linewidth=1.8, label=text)
            numbers["plans"].append({"plan": text, "bandwidth_bytes_per_s": x, what: y})
        axis.set(xscale="log", xlim=(points[0], right), xlabel=f"bandwidth of {links}", ylabel=label, title=title)
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
