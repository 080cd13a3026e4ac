"""Figures of grids of plans: bandwidth, a limit on the device's energy, and latency against energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.ground.units import show
from dnnsplit.plots.style import COLOURS, records, style
from dnnsplit.profiling.wire_forms import PLAIN

MARKS = "osD^vP*"


def bandwidth_grid(frame: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """Least latency against bandwidth: a panel per topology, a line per noise limit.

    Parameters
    ----------
    frame : pd.DataFrame
        From `dnnsplit.studies.grid.sweep_plans` with bandwidths and one pair of weights.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> asked = {"max_noise": [0.0, 0.05], "bandwidths": ["1 MB/s", "10 MB/s"]}
    >>> figure, numbers = ds.plots.bandwidth_grid(ds.sweep_plans(graph, {"tiny": network}, times, noise, **asked))
    """
    topologies, limits = list(frame["topology"].unique()), sorted(frame["max_noise"].unique())
    with style():
        figure, axes = plt.subplots(1, len(topologies), figsize=(2.5 * len(topologies) + 0.4, 2.9), sharey=True, squeeze=False)
        for axis, topology in zip(axes[0], topologies, strict=True):
            for i, limit in enumerate(limits):
                part = frame[(frame["topology"] == topology) & (frame["max_noise"] == limit)].sort_values("bandwidth_bytes_per_s")
                shade = {"color": plt.get_cmap("viridis")(0.85 * i / max(1, len(limits) - 1)), "label": f"{limit:g}"}
                axis.plot(part["bandwidth_bytes_per_s"], part["latency_s"], **shade)
            axis.set(xscale="log", title=topology.replace("-", " + "), xlabel="bandwidth of the device")
            axis.xaxis.set_major_formatter(lambda value, _: show(value, "B/s"))
            axis.xaxis.set_minor_formatter(lambda *_: "")
        axes[0][0].set(ylabel="latency [s]", ylim=(0, 1.05 * frame["latency_s"].max()))
        handles = axes[0][0].get_legend_handles_labels()
        figure.legend(*handles, title="noise limit", loc="outside right center")
    return figure, {"rows": records(frame)}


def energy_limits(frame: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """Least latency against the limit on the device's energy: a panel per noise limit, a line per topology.

    Parameters
    ----------
    frame : pd.DataFrame
        From `dnnsplit.studies.grid.sweep_plans` with several max_device_energy_j; points that no plan reaches are left out.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> asked = {"max_noise": [0.05], "max_device_energy_j": [1.0, 2.0]}
    >>> figure, numbers = ds.plots.energy_limits(ds.sweep_plans(graph, {"tiny": network}, times, noise, **asked))
    """
    limits, topologies = sorted(frame["max_noise"].unique()), list(frame["topology"].unique())
    most = frame["max_device_energy_j"].max()
    with style():
        figure, axes = plt.subplots(1, len(limits), figsize=(2.5 * len(limits) + 0.4, 2.9), sharey=True, squeeze=False)
        for axis, limit in zip(axes[0], limits, strict=True):
            for i, topology in enumerate(topologies):
                part = frame[(frame["topology"] == topology) & (frame["max_noise"] == limit) & frame["latency_s"].notna()]
                part = part.dropna(subset="max_device_energy_j").sort_values("max_device_energy_j")
                axis.plot(part["max_device_energy_j"], part["latency_s"], marker=MARKS[i % 7], color=COLOURS[i % 7],
                          drawstyle="steps-post", label=topology.replace("-", " + "))  # fmt: skip
            axis.set(title=f"noise limit {limit:g}", xlabel="limit on device energy [J]", xlim=(0, 1.05 * most))
        axes[0][0].set(ylabel="latency [s]", ylim=(0, 1.08 * frame["latency_s"].max()))
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(topologies))
    return figure, {"rows": records(frame)}


def latency_energy(
    fronts: Mapping[str, pd.DataFrame], baselines: pd.DataFrame | None = None, title: str = ""
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

    Examples
    --------
    >>> import dnnsplit as ds
    >>> front = ds.energy_front(*ds.examples.tiny(), progress=False)
    >>> figure, numbers = ds.plots.latency_energy({"device + edge": front.frame})
    """
    with style():
        figure, axis = plt.subplots()
        for i, (topology, front) in enumerate(fronts.items()):
            marks: dict[str, Any] = {"marker": MARKS[i % 7], "color": COLOURS[i % 7], "label": topology.replace("-", " + ")}
            marks["markersize"] = max(3.5, 8.0 - 2.0 * i)  # a plan of several topologies is seen in all of their colours
            axis.plot(front["energy_j"], front["latency_s"], drawstyle="steps-post", zorder=3, **marks)
        for row in [] if baselines is None else baselines.dropna().to_dict("records"):
            at = row["energy_j"], row["latency_s"]
            axis.scatter(*at, marker="x", color="0.35", zorder=2)
            form = f", {row['source_form']}" if row.get("source_form", PLAIN) != PLAIN else ""
            axis.annotate(f" {row['server']} alone{form}", at, fontsize=7.5, color="0.35", va="bottom")
        axis.set(xlabel="energy of all servers [J]", ylabel="latency [s]", title=title, xlim=(0, None), ylim=(0, None))
        axis.margins(0.12)
        axis.legend(loc="best")
    numbers = {"title": title, "fronts": {topology: records(front) for topology, front in fronts.items()}}
    return figure, numbers | ({} if baselines is None else {"baselines": records(baselines)})
