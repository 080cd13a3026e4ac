"""Figures of bandwidths: what is best at each of them, with the exact ones where another plan takes over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnnsplit.ground.units import show
from dnnsplit.plots.captions import between, listed, several, spelled, told
from dnnsplit.plots.style import COLOURS, DASHES, MARKS, records, style
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.studies.bandwidths import BandwidthPlans

POINTS = 32  # of a curve between two breakpoints


def bandwidth(
    plans: BandwidthPlans | pd.DataFrame, title: str = "", mark: float | None = None, *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """What the optimum costs at every bandwidth of a link, one colour per plan, and where the plan changes.

    Parameters
    ----------
    plans : BandwidthPlans | pd.DataFrame
        From `bandwidths`; or its frame, also as read from a CSV, with a column ``links``: its latency is drawn.
    title : str, default ""
        Above the drawing.
    mark : float | None, optional
        A bandwidth to mark, such as the network's own [B/s].
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

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
    title = spelled(title)
    points = np.array([*rows["from_bytes_per_s"], rows["to_bytes_per_s"].iloc[-1]])
    right = points[-1] if np.isfinite(points[-1]) else 10 * points[-2]  # a line is nearly level by then
    over = "these links" if " and " in links else "this link"
    with style():
        figure, axis = plt.subplots(figsize=(5.2, 3.6))
        numbers: dict[str, Any] = {"title": title, "links": links, "breakpoints_bytes_per_s": points[1:-1], "plans": []}
        for i, (row, high) in enumerate(zip(rows.to_dict("records"), [*points[1:-1], right], strict=True)):
            servers = row["servers"].replace("+", " + ")
            form = f", the input as {row['source_form']}" if row.get("source_form", PLAIN) not in (PLAIN, "") else ""
            text = f"{servers}: {row['int8']} in int8, {show(row['crossing_bytes'], 'B')} over {over}{form}"
            x, y = _curve(row, what, high)
            axis.plot(x, y, color=COLOURS[i % 7], linestyle=DASHES[i % 7], linewidth=1.8, label=text)
            numbers["plans"].append({"plan": text, "bandwidth_bytes_per_s": x, what: y})
        most = max(np.max(entry[what]) for entry in numbers["plans"])
        for i, point in enumerate(points[1:-1]):
            axis.plot(point, numbers["plans"][i][what][-1], "o", color="0.2", markersize=3.5, zorder=4)
        axis.set(xscale="log", xlim=(points[0], right), xlabel=f"bandwidth of {links}", ylabel=label, title=title)
        _label(axis, few=right < 30 * points[0])
        axis.set_ylim(0, 1.4 * most)  # the top is for what is written there
        marks = [(point, show(point, "B/s"), "0.35", ":") for point in points[1:-1]]
        if mark is not None:
            marks.append((mark, f"given: {show(mark, 'B/s')}", "0", "-"))
            numbers["mark_bytes_per_s"] = mark
        for at, text, colour, dashes in marks:
            axis.axvline(at, color=colour, linewidth=0.8, linestyle=dashes, zorder=1)
            axis.annotate(text, (at, 0.99), xycoords=axis.get_xaxis_transform(), rotation=90, ha="right", va="top", fontsize=7,
                          color=colour)  # fmt: skip
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=1, fontsize=7)
    caption = f"Least {label.split()[0]}, planned, at every bandwidth of {links}: a curve per plan; dots: another takes over."
    ends = [
        f"{entry['plan'].split(':')[0]} up to {show(point, 'B/s')}"
        for entry, point in zip(numbers["plans"], points[1:-1], strict=False)
    ]
    found = listed([*ends, f"{numbers['plans'][-1]['plan'].split(':')[0]} {'beyond' if ends else 'at all bandwidths'}"])
    values = [*(value for entry in numbers["plans"] for value in entry[what])]
    alt = f"Best is {found}; {label.split()[0]} {between(values, what[-1].upper() if what == 'energy_j' else 's')}."
    return told(figure, numbers, caption, alt, about=about, count=several(len(rows), "optimal plan"))


def bandwidth_grid(frame: pd.DataFrame, exact: pd.DataFrame | None = None, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Least latency against bandwidth: a panel per topology, a line per noise limit.

    Parameters
    ----------
    frame : pd.DataFrame
        From `dnnsplit.studies.grid.sweep_plans` with bandwidths and one pair of weights: the points.
    exact : pd.DataFrame | None, optional
        From `dnnsplit.studies.bandwidths.sweep_bandwidths`: the curves between the exact breakpoints. Without it there are points
        alone, for between them nothing is known.
    about : str, default ""
        As for `bandwidth`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> asked = {"max_noise": [0.0, 0.05], "bandwidths": ["1 MB/s", "10 MB/s"]}
    >>> figure, numbers = ds.plots.bandwidth_grid(ds.sweep_plans(graph, {"tiny": network}, times, noise, **asked))
    """
    topologies, limits = list(frame["topology"].unique()), sorted(frame["max_noise"].unique())
    lines = {} if exact is None else {key: part for key, part in exact.groupby(["topology", "max_noise"], sort=False)}
    changes = 0
    with style():
        size = max(2.5 * len(topologies), 4.0) + 0.4, 3.2
        figure, axes = plt.subplots(1, len(topologies), figsize=size, sharey=True, squeeze=False)
        for axis, topology in zip(axes[0], topologies, strict=True):
            for i, limit in enumerate(limits):
                part = frame[(frame["topology"] == topology) & (frame["max_noise"] == limit)].sort_values("bandwidth_bytes_per_s")
                colour = plt.get_cmap("viridis")(0.85 * i / max(1, len(limits) - 1))
                marks: dict[str, Any] = {"color": colour, "marker": MARKS[i % 7], "markersize": max(2.2, 5.0 - 0.5 * i)}
                marks |= {"markerfacecolor": "white", "markeredgewidth": 0.8, "linestyle": "none"}
                axis.plot(part["bandwidth_bytes_per_s"], part["latency_s"], label=f"{limit:g}", **marks)
                intervals = lines.get((topology, limit), pd.DataFrame()).to_dict("records")
                for row in intervals:
                    x, y = _curve(row, "latency_s", row["to_bytes_per_s"])
                    axis.plot(x, y, color=colour, linestyle=DASHES[i % 7], linewidth=1.1, zorder=1)
                for row in intervals[1:]:
                    axis.plot(row["from_bytes_per_s"], row["from_latency_s"], "|", color=colour, markersize=8, zorder=3)
                changes += max(0, len(intervals) - 1)
            axis.set(xscale="log", title=spelled(topology), xlabel="bandwidth of the device")
            axis.xaxis.set_major_formatter(lambda value, _: show(value, "B/s"))
            axis.xaxis.set_minor_formatter(lambda *_: "")
        axes[0][0].set(ylabel="latency [s]", ylim=(0, 1.05 * frame["latency_s"].max()))
        figure.legend(*axes[0][0].get_legend_handles_labels(), title="noise limit", loc="outside right center")
    caption = "Least latency, planned, against the bandwidth of the device's links: a panel per topology, a mark per noise limit."
    caption += (
        " Curves are exact; a stroke is where another plan takes over." if lines else " Nothing is drawn between the points."
    )
    found = (
        f"{spelled(str(topology))} takes {between(part['latency_s'], 's')}"
        for topology, part in frame.groupby("topology", sort=False)
    )
    numbers = {"rows": records(frame)} | ({} if exact is None else {"exact": records(exact)})
    count = several(len(frame), "point") + (f", {several(changes, 'breakpoint')}" if lines else "")
    alt = f"From the slowest to the fastest links and over all noise limits, {listed(found)}."
    return told(figure, numbers, caption, alt, about=about, count=count)


def _curve(row: Mapping[Any, Any], what: str, high: float) -> tuple[Any, Any]:
    """Points of a plan's curve: between the ends of its interval it is worth a + b / bandwidth."""
    x = np.geomspace(row["from_bytes_per_s"], high if np.isfinite(high) else 10 * row["from_bytes_per_s"], POINTS)
    ends = [1 / row["to_bytes_per_s"], 1 / row["from_bytes_per_s"]]
    return x, np.interp(1 / x, ends, [row[f"to_{what}"], row[f"from_{what}"]])


def _label(axis: Axes, few: bool) -> None:
    """Bandwidths as people write them; below two decades 2 and 5 are labelled as well."""
    axis.xaxis.set_major_formatter(lambda value, _: show(value, "B/s"))
    axis.xaxis.set_minor_formatter(lambda value, _: show(value, "B/s") if few and f"{value:e}"[0] in "25" else "")
