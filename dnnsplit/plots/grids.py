"""Figures of grids of plans: a limit on the device's energy, and latency against energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.ground.units import show
from dnnsplit.plots.captions import between, listed, several, spelled, told
from dnnsplit.plots.style import COLOURS, DASHES, MARKS, records, style
from dnnsplit.profiling.wire_forms import PLAIN


def energy_limits(frame: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Least latency against the limit on the device's energy: a panel per noise limit, a line per topology.

    Parameters
    ----------
    frame : pd.DataFrame
        From `dnnsplit.studies.grid.sweep_plans` with several max_device_energy_j; points that no plan reaches are left out.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.
    """
    limits, topologies = sorted(frame["max_noise"].unique()), list(frame["topology"].unique())
    most = frame["max_device_energy_j"].max()
    with style():
        figure, axes = plt.subplots(1, len(limits), figsize=(2.5 * len(limits) + 0.4, 2.9), sharey=True, squeeze=False)
        for axis, limit in zip(axes[0], limits, strict=True):
            for i, topology in enumerate(topologies):
                part = frame[(frame["topology"] == topology) & (frame["max_noise"] == limit) & frame["latency_s"].notna()]
                part = part.dropna(subset="max_device_energy_j").sort_values("max_device_energy_j")
                marks: dict[str, Any] = {"marker": MARKS[i % 7], "linestyle": DASHES[i % 7], "color": COLOURS[i % 7]}
                axis.plot(
                    part["max_device_energy_j"], part["latency_s"], drawstyle="steps-post", label=spelled(topology), **marks
                )
            axis.set(title=f"noise limit {limit:g}", xlabel="limit on device energy [J]", xlim=(0, 1.05 * most))
        axes[0][0].set(ylabel="latency [s]", ylim=(0, 1.08 * frame["latency_s"].max()))
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(topologies))
    caption = (
        "Least latency, planned, under a limit on the device's energy: a panel per noise limit; left of a line no plan keeps it."
    )
    found, reached = [], frame.dropna(subset=["latency_s", "max_device_energy_j"])
    for topology, part in reached.groupby("topology", sort=False):
        least = part["max_device_energy_j"].min()
        found.append(f"{spelled(str(topology))} has plans from {show(least, 'J')} on, of {between(part['latency_s'], 's')}")
    alt = f"{listed(found)}." if found else "No plan keeps any of the limits."
    return told(
        figure, {"rows": records(frame)}, caption, f"{alt[0].upper()}{alt[1:]}", about=about, count=several(len(reached), "plan")
    )


def latency_energy(
    fronts: Mapping[str, pd.DataFrame], baselines: pd.DataFrame | None = None, title: str = "", *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Least latency against energy, every plan of the exact fronts, and what single servers take.

    Parameters
    ----------
    fronts : Mapping[str, pd.DataFrame]
        By topology, frame of an `energy_front`.
    baselines : pd.DataFrame | None, optional
        From `dnnsplit.studies.grid.single_servers`.
    title : str, default ""
        Above the drawing.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.
    """
    alone = [] if baselines is None else baselines.dropna().to_dict("records")
    right, top = (
        max([*(value for front in fronts.values() for value in front[what]), *(row[what] for row in alone), 1e-12])
        for what in ("energy_j", "latency_s")
    )
    with style():
        figure, axis = plt.subplots(figsize=(4.8, 3.3))
        for i, (topology, front) in enumerate(fronts.items()):
            marks: dict[str, Any] = {"marker": MARKS[i % 7], "color": COLOURS[i % 7], "label": spelled(topology)}
            marks |= {
                "markersize": max(3.5, 8.0 - 2.0 * i),
                "linestyle": DASHES[i % 7],
            }  # one of several topologies is seen as each
            marks["markerfacecolor"] = COLOURS[i % 7] if i + 1 == len(fronts) else "white"
            axis.plot(front["energy_j"], front["latency_s"], drawstyle="steps-post", zorder=3, **marks)
        for row in alone:
            at = row["energy_j"], row["latency_s"]
            axis.scatter(*at, marker="x", color="0.35", zorder=2)
            form = f", {row['source_form']}" if row.get("source_form", PLAIN) != PLAIN else ""
            looks: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 7.5, "color": "0.35"}
            axis.annotate(f"{row['server']} alone{form}", at, (0, 5), **looks)
        axis.set(
            xlabel="energy of all servers [J]", ylabel="latency [s]", title=title, xlim=(0, 1.25 * right), ylim=(0, 1.15 * top)
        )
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(fronts))
    numbers: dict[str, Any] = {"title": title, "fronts": {topology: records(front) for topology, front in fronts.items()}}
    numbers |= {} if baselines is None else {"baselines": records(baselines)}
    caption = "Planned latency against energy: the exact front of each topology; crosses: the whole model on one server."
    found = (
        f"{spelled(topology)}: {between(front['energy_j'], 'J')} and {between(front['latency_s'], 's')}"
        for topology, front in fronts.items()
    )
    count = several(sum(map(len, fronts.values())), "plan")
    return told(figure, numbers, caption, f"On {'; on '.join(found)}.", about=about, count=count)
