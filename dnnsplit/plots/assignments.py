"""Figures 7 and 8: how many layers, and components, each server has at each noise limit and weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from dnnsplit.plots.captions import between, several, spelled, told
from dnnsplit.plots.noise import LIMIT
from dnnsplit.plots.style import SERVER_COLOURS, records, style
from dnnsplit.plots.weights import weight_columns, weight_title, weighted

HATCHES = ("", "\\\\\\\\\\", "/////", "xxxxx")  # so that servers are told apart in print without colours
NO_PLAN: dict[str, Any] = {"marker": "x", "color": "0.35", "linestyle": "none", "clip_on": False, "zorder": 4}
WIDTH = 0.84  # of the bars of one limit


def layers_per_server(planned: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Figure 7: layers per server at each noise limit, a column per weight; for each topology all above those in int8.

    Parameters
    ----------
    planned : pd.DataFrame
        From `dnnsplit.studies.grid.sweep_plans`; topologies of one server are left out where there are others. Points that no
        plan reaches are crossed.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.
    """
    return _bars(planned, {"layers": "layers", "int8": "in int8"}, "layers, and below those of them in int8,", about)


def parts_per_server(planned: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Figure 8: components per server at each noise limit, a row per topology and a column per weight.

    Parameters
    ----------
    planned : pd.DataFrame
        As of `layers_per_server`.
    about : str, default ""
        As of `layers_per_server`.
    """
    return _bars(planned, {"parts": "components"}, "components", about)


def _bars(planned: pd.DataFrame, counts: Mapping[str, str], what: str, about: str) -> tuple[Figure, dict[str, Any]]:
    """Grouped bars: a row per topology and count (the beginning of its columns, with what it counts), a column per weight."""
    pairs, first = weight_columns(planned), next(iter(counts))
    of = {str(name): _servers(table, first) for name, table in planned.groupby("topology", sort=False)}
    shown = {name: servers for name, servers in of.items() if len(servers) > 1} or of
    servers = list(dict.fromkeys(server for those in shown.values() for server in those))
    rows = [(topology, count) for topology in shown for count in counts]
    with style():
        size = max(3.4, min(2.1 * len(pairs) + 0.5, 6.8)), 1.45 * len(rows) + 0.9
        figure, axes = plt.subplots(len(rows), len(pairs), figsize=size, sharex=True, sharey="row", squeeze=False)
        for row, (topology, count) in zip(axes, rows, strict=True):
            table, here = planned[planned["topology"] == topology], shown[topology]
            for axis, pair in zip(row, pairs, strict=True):
                _panel(axis, weighted(table, pair, topology), count, here, servers)
            _scale(row[0], table[[f"{count}_{server}" for server in here]])
            row[0].set_ylabel(f"{spelled(topology)}\n{counts[count]}", fontsize=7)
        for axis, pair in zip(axes[0], pairs, strict=True):
            axis.set_title(weight_title(pair), fontweight="normal")
        for axis in axes[-1]:
            axis.set_xlabel(LIMIT)
        handles: list[Artist] = [Patch(label=server, **_marks(i)) for i, server in enumerate(servers)]
        if planned.loc[planned["topology"].isin(shown), "latency_s"].isna().any():
            handles.append(Line2D([], [], label="no plan", **NO_PLAN))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    numbers = {"planned": records(planned), "topologies": shown}
    caption = f"Planned {what} per server at each noise limit: a column per weight of the latency, rows by topology."
    parts = []
    for topology, here in shown.items():
        table = planned[planned["topology"] == topology]
        of_each = ", ".join(f"{between(table[f'{first}_{server}'])} on {server}" for server in here)
        parts.append(f"{spelled(topology)}: {counts[first]} {of_each}")
    alt, count = f"On {'; on '.join(parts)}.", several(int(planned["latency_s"].notna().sum()), "plan")
    return told(figure, numbers, caption, alt, about=about, count=count)


def _servers(table: pd.DataFrame, count: str) -> list[str]:
    """Return the servers that a topology has, in the order of the columns."""
    columns = [name for name in table if str(name).startswith(f"{count}_") and table[name].notna().any()]
    return [str(name).removeprefix(f"{count}_") for name in columns]


def _panel(axis: Axes, rows: pd.DataFrame, count: str, here: Sequence[str], servers: Sequence[str]) -> None:
    places, width = np.arange(len(rows)), WIDTH / max(1, len(here))
    for i, server in enumerate(here):
        at = places + (i - (len(here) - 1) / 2) * width
        axis.bar(at, rows[f"{count}_{server}"], width, **_marks(servers.index(server)))
    for lost in places[rows["latency_s"].isna()]:
        axis.plot(lost, 0.0, **NO_PLAN)
    axis.set_xticks(places, [f"{limit:g}" for limit in rows["max_noise"]], rotation=90, fontsize=6.5)
    axis.grid(False, axis="x")


def _marks(place: int) -> dict[str, Any]:
    return {"facecolor": SERVER_COLOURS[place % 6], "hatch": HATCHES[place % 4], "edgecolor": "white", "linewidth": 0.3}


def _scale(axis: Axes, counts: pd.DataFrame) -> None:
    """Whole numbers; hundreds beside a few need the decades."""
    most, together = (int(np.nan_to_num(of.max(), nan=0.0)) for of in (counts.stack(), counts.sum(axis=1)))
    if most > 30:
        ticks = [0, *(10**k for k in range(9) if 10**k < 0.7 * together), together]
        axis.set_yscale("symlog", linthresh=1.0)
        axis.set_ylim(0, 1.6 * together)
        axis.set_yticks(ticks, [f"{tick}" for tick in ticks])
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.set_ylim(0, 1.1 * max(1, most))
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
