"""The figure of a limit on the device's energy: what it costs in latency, and which servers get the layers."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnnsplit.ground.errors import OptionError
from dnnsplit.ground.units import show
from dnnsplit.plots.captions import between, listed, several, spelled, told
from dnnsplit.plots.style import DASHES, MARKS, SERVER_COLOURS, records, style

HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "||||")  # dots would fill files
CASE = ["topology", "latency_weight", "energy_weight"]
LAYERS = "layers_"


def energy_shares(planned: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Latency, and layers per server, against the limit J_0 on the device's energy: a column per topology and weights.

    Above is a line per noise limit, below are the layers at the loosest of them; both hold from one limit on the energy to the
    next. Where no plan keeps the limit, the ground is shaded; between there and the first plan nothing was asked.

    Parameters
    ----------
    planned : pd.DataFrame
        From `dnnsplit.studies.grid.sweep_plans` with several max_device_energy_j; rows without a limit are left out.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Raises
    ------
    OptionError
        No row has a limit, or none says how many layers each server has.
    """
    limited = planned.dropna(subset="max_device_energy_j").sort_values("max_device_energy_j")
    servers = [str(name).removeprefix(LAYERS) for name in planned if str(name).startswith(LAYERS)]
    if limited.empty or not servers:
        missing = "a limit on the device's energy" if limited.empty else "the layers of each server (layers_<server>)"
        message = f"no row has {missing}; give the table of sweep_plans(..., max_device_energy_j=[0.5, 1.0, ...])"
        raise OptionError(message)
    cases, loosest = list(limited.groupby(CASE, sort=False)), float(limited["max_noise"].max())
    with style():
        size = (2.9 * len(cases) + 1.4, 4.6)
        figure, axes = plt.subplots(2, len(cases), figsize=size, sharex="col", sharey="row", squeeze=False)
        for (above, below), ((topology, latency, energy), part) in zip(axes.T, cases, strict=True):
            _draw_latencies(above, part)
            _draw_layers(below, part[part["max_noise"] == loosest], servers)
            weights = f", weights {latency:g} and {energy:g}" if len(limited.groupby(CASE[1:])) > 1 else ""
            above.set_title(spelled(str(topology)) + weights)
            below.set(xlabel="limit on device energy J$_0$ [J]", xlim=(0, 1.03 * part["max_device_energy_j"].max()))
        axes[0][0].set(ylabel="latency [s]", ylim=(0, 1.08 * np.nanmax([1e-12, *limited["latency_s"]])))
        axes[1][0].set(ylabel=f"layers, noise limit {loosest:g}", ylim=(0, None))
        figure.legend(*axes[0][0].get_legend_handles_labels(), title="noise limit", loc="outside right upper")
        handles = {label: handle for axis in axes[1] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), title="layers on", loc="outside right lower")
    numbers = {"rows": records(limited), "servers": servers, "layers_at_noise_limit": loosest}
    caption = "Planned latency, and layers per server at the loosest noise limit, under a limit on the device's energy."
    caption += " Shaded: no plan keeps it."
    parts = []
    for topology, part in limited.dropna(subset="latency_s").groupby("topology", sort=False):
        start = show(part["max_device_energy_j"].min(), "J")
        parts.append(f"{spelled(str(topology))} has plans from {start} on, of {between(part['latency_s'], 's')}")
    alt = f"{listed(parts)}." if parts else "No plan keeps any of the limits."
    count = several(int(limited["latency_s"].notna().sum()), "plan")
    return told(figure, numbers, caption, f"{alt[0].upper()}{alt[1:]}", about=about, count=count)


def _draw_latencies(axis: Axes, part: pd.DataFrame) -> None:
    limits = sorted(part["max_noise"].unique())
    for i, limit in enumerate(limits):
        line = part[(part["max_noise"] == limit) & part["latency_s"].notna()]
        shade = plt.get_cmap("viridis")(0.85 * i / max(1, len(limits) - 1))
        looks: dict[str, Any] = {"marker": MARKS[i % 7], "markersize": max(2.0, 5.5 - 0.8 * i), "markerfacecolor": "white"}
        looks |= {"color": shade, "linestyle": DASHES[i % 7], "linewidth": 1.1}  # equal latencies of several limits are all seen
        axis.plot(line["max_device_energy_j"], line["latency_s"], drawstyle="steps-post", label=f"{limit:g}", **looks)
    _shade(axis, part)


def _draw_layers(axis: Axes, part: pd.DataFrame, servers: list[str]) -> None:
    there = part[part["latency_s"].notna()]
    base = np.zeros(len(there))
    for i, server in enumerate(servers):
        layers = there[f"{LAYERS}{server}"].fillna(0).to_numpy(float)
        if layers.any():
            axis.fill_between(there["max_device_energy_j"], base, base + layers, step="post", facecolor=SERVER_COLOURS[i % 6],
                              edgecolor="white", linewidth=0.4, hatch=HATCHES[i % 6], label=server)  # fmt: skip
        base += layers
    _shade(axis, part)


def _shade(axis: Axes, part: pd.DataFrame) -> None:
    """Shade the limits on the energy that no plan keeps."""
    reached = part.assign(there=part["latency_s"].notna()).groupby("max_device_energy_j")["there"].any()
    if not reached.all():
        last = float(reached.index[~reached].max())
        axis.axvspan(0, last, facecolor="0.9", edgecolor="0.75", hatch="\\\\", linewidth=0, zorder=0)
        axis.text(last / 2, 0.5, "no plan", rotation=90, ha="center", va="center", fontsize=7.5, color="0.25",
                  transform=axis.get_xaxis_transform(), bbox={"facecolor": "0.9", "edgecolor": "none", "pad": 1.0})  # fmt: skip
