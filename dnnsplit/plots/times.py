"""Figures of sizes and times."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.units import show
from dnnsplit.plots.captions import EMULATED, bias, described, requests, several, spelled, told
from dnnsplit.plots.style import COLOURS, MARKS, records, style
from dnnsplit.profiling.times import LayerTimes


def tensor_sizes(graph: LayerGraph, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Bytes that would cross if all layers up to a depth ran elsewhere, against the share of FLOPs done by then.

    Parameters
    ----------
    graph : LayerGraph
        The model.
    about : str, default ""
        The model, from `described`, for the line above the figure; default: what the graph tells.

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
    caption = "Bytes of the tensors that cross a cut behind each layer, against the share of the work done by then."
    inside = crossing[1:-1] if count > 1 else crossing
    fewer = 100 * float(np.mean(inside < crossing[0]))
    least = int(np.argmin(inside)) + (count > 1)
    alt = f"The input has {show(crossing[0], 'B')}; {fewer:.0f} % of the cuts send less, the smallest "
    alt += f"{show(crossing[least], 'B')}, with {100 * done[least] / done[-1]:.0f} % of the work done."
    numbers = {"flops_share": done / done[-1], "crossing_bytes": crossing}
    return told(figure, numbers, caption, alt, about=about or described(graph), count=several(count, "layer"))


def layer_seconds(times: LayerTimes, server: str, most: int = 24, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Seconds of the slowest layers on one server, float32 beside int8 where that exists.

    Parameters
    ----------
    times : LayerTimes
        A profile.
    server : str
        Which of its servers.
    most : int, default 24
        How many layers.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

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
        axis.barh(rows - 0.2, 1e3 * table["int8"].fillna(0), height=0.38, color=COLOURS[1], label="int8, where measured",
                  hatch="//////", edgecolor="white", linewidth=0.3)  # fmt: skip
        axis.set_yticks(rows, [name.strip("/") for name in table.index], fontsize=6.3)
        axis.set(xlabel=f"time on {server} [ms], {origin}", title=f"The {len(table)} slowest layers")
        axis.grid(False, axis="y")
        axis.legend(loc="lower right")
    count = int((times.frame["server"].eq(server) & times.frame["precision"].eq("float32")).sum())
    slowest = table.iloc[-1] if len(table) else None
    alt = f"No layer has a time on {server}." if slowest is None else f"The slowest is {table.index[-1].strip('/')}, "
    if slowest is not None:
        share = 100 * table["float32"].sum() / times.seconds_of(server)
        whole = times.seconds_of(server)
        alt += (
            f"{show(float(slowest['float32']), 's')} in float32; those drawn take {share:.0f} % of the {show(whole, 's')} of all."
        )
    caption = f"Seconds of the {several(len(table), 'layer')} that take longest on {server} ({origin}), in float32 and in int8."
    numbers = {"server": server, "origin": origin, "seconds": records(table.reset_index())}
    return told(figure, numbers, caption, alt, about=about, count=f"{len(table)} of {several(count, 'layer')}")


def _by_precision(times: LayerTimes, server: str) -> pd.DataFrame:
    """Seconds of each layer on one server, float32 and int8."""
    frame = times.frame[times.frame["server"] == server]
    table = frame.pivot_table(index="layer", columns="precision", values="seconds", sort=False)
    return table.reindex(columns=["float32", "int8"])


def split_times(parts: pd.DataFrame, times: LayerTimes, server: str, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
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
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

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
        text = f"all parts, predicted against measured:\n{bias(error)}"
        right.text(0.04, 0.97, text, transform=right.transAxes, va="top", fontsize=7)
        right.set(xscale="log", yscale="log", xlabel="measured [s]", ylabel="predicted [s]", xlim=(low, high), ylim=(low, high),
                  title=f"{len(totals)} held-out splits on {server}")  # fmt: skip
        right.legend(loc="lower right", fontsize=7)
    numbers = {"server": server, "gain_s": gain.to_dict(), "total_error_%": error.tolist(), "totals": totals.to_dict("list")}
    numbers["parts"] = parts[["split", "seconds", "predicted_s"]].to_dict("list")
    slower = int((gain < 0).sum())
    caption = f"Seconds that int8 saves on {server}, by layer; right, predicted against measured seconds of held-out splits."
    alt = (
        f"{slower} of {several(len(gain), 'layer')} run slower in int8; whole splits, predicted against measured: {bias(error)}."
    )
    return told(figure, numbers, caption, alt, about=about, count=several(len(totals), "held-out split"))


def predicted_measured(rows: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Predicted against measured latency of every plan that was run, with the band of the requests.

    Parameters
    ----------
    rows : pd.DataFrame
        topology, predicted_s, latency_s [s], and optionally low_s, high_s (5th and 95th percentile of the requests) [s].
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"topology": "device-edge", "predicted_s": [0.30, 0.20], "latency_s": [0.31, 0.20]})
    >>> figure, numbers = ds.plots.predicted_measured(rows)
    """
    error = 100 * (rows["predicted_s"] / rows["latency_s"] - 1)
    with style():
        figure, axis = plt.subplots(figsize=(3.8, 4.3))
        top = 1.08 * max(rows[name].max() for name in ("predicted_s", "latency_s", "high_s") if name in rows)
        axis.plot([0, top], [0, top], color="0.45", linewidth=0.8)
        for i, (topology, part) in enumerate(rows.groupby("topology", sort=False)):
            marks: dict[str, Any] = {"color": COLOURS[i % 7], "zorder": 3}
            if "high_s" in rows:
                axis.hlines(part["predicted_s"], part["low_s"], part["high_s"], linewidth=0.9, **marks)
            axis.scatter(part["latency_s"], part["predicted_s"], marker=MARKS[i % 7], label=spelled(str(topology)), s=16, **marks)
        text = f"predicted against measured:\n{bias(error)}\nmean |error| {error.abs().mean():.1f} %"
        axis.text(0.04, 0.97, text, transform=axis.transAxes, va="top", fontsize=7)
        axis.set(xlabel="measured latency [s]", ylabel="predicted latency [s]", xlim=(0, top), ylim=(0, top), aspect="equal")
        title = "line: 5 to 95 % of the requests" if "high_s" in rows else None
        figure.legend(loc="outside lower center", ncols=3, title=title, title_fontsize=7)
    caption = f"Predicted against measured latency of every plan that was run, {EMULATED}; on the line both are equal."
    alt = f"Predictions against measured: {bias(error)}, {error.abs().mean():.1f} % off on average."
    numbers = {"rows": rows.to_dict("list"), "error_%": error.tolist()}
    return told(figure, numbers, caption, alt, about=about, count=requests(rows))
