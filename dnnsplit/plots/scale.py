"""The figure of how long the steps of a solve take, against the sizes of graph and network."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from dnnsplit.ground.errors import OptionError, raise_problems
from dnnsplit.ground.units import show
from dnnsplit.plots.captions import listed, several, told
from dnnsplit.plots.style import COLOURS, DASHES, MARKS, records, style
from dnnsplit.studies.scale import STEPS

SIZE = ["graph", "method", "layers", "servers"]


def scale(rows: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """CPU seconds of the steps of a solve: a row per kind of graph, against the layers and against the servers.

    Beside them are whole solves by every method. One that was stopped would have taken longer and is drawn hollow.

    Parameters
    ----------
    rows : pd.DataFrame
        From `dnnsplit.studies.scale.solve_times`, of one method or several; the steps are drawn of elimination, or else of the
        first method. Against the layers they are drawn with the number of servers that most numbers of layers were solved with,
        and the other way round.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Raises
    ------
    OptionError
        The table lacks a column.
    """
    missing = [f"the column {name!r} is missing" for name in (*SIZE, "step", "cpu_s", "status") if name not in rows]
    raise_problems(OptionError, "this is no table of solve times; give that of solve_times, which 07-scale writes", missing)
    methods = sorted(rows["method"].unique(), key=lambda name: name != "elimination")
    steps = rows[rows["method"] == methods[0]]
    servers = _most(steps, "servers", "layers")
    layers = _most(steps, "layers", "servers")
    whole = _whole(rows)
    graphs = list(dict.fromkeys(rows["graph"]))
    with style():
        size = (8.2, 2.35 * len(graphs) + 0.75)
        figure, axes = plt.subplots(len(graphs), 3, figsize=size, sharex="col", sharey="row", squeeze=False)
        for across, graph in zip(axes, graphs, strict=True):
            here = steps[steps["graph"] == graph]
            _draw_steps(across[0], here[here["servers"] == servers], "layers")
            _draw_steps(across[1], here[here["layers"] == layers], "servers")
            _draw_whole(across[2], whole[whole["graph"] == graph], methods, servers)
            across[0].set(title=f"{graph}: {servers} servers", ylabel="CPU time [s]", yscale="log")
            across[1].set(title=f"{graph}: {layers} layers")
            across[2].set(title=f"{graph}: whole solves, {servers} servers")
        for axis, what in zip(axes[-1], ("layers", "servers", "layers"), strict=True):
            axis.set(xscale="log", xlabel=what)
        axes[-1][1].set_xticks(sorted(steps.loc[steps["layers"] == layers, "servers"].unique()))
        axes[-1][1].xaxis.set_major_formatter(ScalarFormatter())
        axes[-1][1].xaxis.set_minor_formatter(NullFormatter())
        left, right = (axis.get_legend_handles_labels() for axis in (axes[0][0], axes[0][2]))
        figure.legend(*left, loc="outside lower left", ncols=len(STEPS), title=f"steps of {methods[0]}")
        figure.legend(*right, loc="outside lower right", ncols=len(methods), title="hollow: stopped")
    numbers = {"rows": records(rows), "whole": records(whole), "servers": servers, "layers": layers}
    caption = "CPU seconds of the steps of a solve on made-up graphs; right, whole solves by each method, hollow where stopped."
    parts = []
    for method, part in whole[whole["servers"] == servers].groupby("method", sort=False):
        largest = part[part["layers"] == part["layers"].max()]
        stopped = "" if largest["proved"].all() else ", stopped"
        spent, most = show(float(largest["cpu_s"].max()), "s"), several(int(largest["layers"].max()), "layer")
        parts.append(f"{method} takes {spent} at {most}{stopped}")
    alt = f"On {several(servers, 'server')} {listed(parts)}."
    return told(figure, numbers, caption, alt, about=about, count=f"{several(len(whole), 'solve')} of random problems, CPU time")


def _most(steps: pd.DataFrame, fixed: str, varied: str) -> int:
    """The value of one size with which most values of the other one were solved; of equal ones the largest."""
    counts = steps.groupby(fixed)[varied].nunique()
    return int(max(counts[counts == counts.max()].index))


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """CPU seconds of all steps of each solve, and whether none of them was stopped."""
    proved = rows["status"] == "optimal"
    summed = rows.assign(proved=proved).groupby(SIZE, sort=False).agg(cpu_s=("cpu_s", "sum"), proved=("proved", "all"))
    return summed.reset_index()


def _draw_steps(axis: Axes, part: pd.DataFrame, against: str) -> None:
    for i, step in enumerate(STEPS):
        line = part[part["step"] == step].sort_values(against)
        axis.plot(line[against], line["cpu_s"], linestyle=DASHES[i], marker=MARKS[i], color=COLOURS[i], label=step)


def _draw_whole(axis: Axes, part: pd.DataFrame, methods: list[str], servers: int) -> None:
    for i, method in enumerate(methods):
        line = part[(part["method"] == method) & (part["servers"] == servers)].sort_values("layers")
        label = {"elimination": method, "milp": "tight MILP"}.get(method, f"{method} MILP")
        looks: dict[str, Any] = {"color": ("black", "0.45", "0.7")[i], "marker": MARKS[i]}
        axis.plot(line["layers"], line["cpu_s"], linestyle=DASHES[i], label=label, zorder=3, **looks)
        stopped = line[~line["proved"]]
        axis.plot(stopped["layers"], stopped["cpu_s"], linestyle="", markerfacecolor="white", zorder=4, **looks)
