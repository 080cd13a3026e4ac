"""Figures 3 to 6: latency and energy against the noise limit, planned and real, a panel per model or per weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from dnnsplit.ground.units import show
from dnnsplit.plots.captions import EMULATED, between, bias, listed, requests, several, signed, spelled, told
from dnnsplit.plots.noise import LIMIT
from dnnsplit.plots.style import COLOURS, DASHES, MARKS, records, style
from dnnsplit.plots.weights import weight_columns, weight_title, weighted

PLANNED: dict[str, Any] = {"color": COLOURS[0], "marker": "s", "markerfacecolor": "white", "linestyle": "--"}
PLANNED |= {"markersize": 4.8, "label": "planned"}  # seen around a real one at the same place
REAL: dict[str, Any] = {
    "color": COLOURS[1],
    "marker": "o",
    "markersize": 2.6,
    "linewidth": 0.7,
    "label": "real (median, 5 to 95 %)",
}


def device_panels(
    planned: Mapping[str, pd.DataFrame], measured: Mapping[str, pd.DataFrame], *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Figure 3: latency of the device alone against the noise limit, planned and real, a panel per model.

    Parameters
    ----------
    planned : Mapping[str, pd.DataFrame]
        By model, rows of one topology from `dnnsplit.studies.grid.sweep_plans`; of several weights the largest of the latency is
        drawn, as one server alone plans the same at all of them.
    measured : Mapping[str, pd.DataFrame]
        By model, rows of that topology from `dnnsplit.studies.latency_tests`; models that were not measured have none.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> planned = ds.sweep_plans(graph, {"tiny": network}, times, noise, max_noise=[0.0, 0.05])
    >>> figure, numbers = ds.plots.device_panels({"tiny": planned}, {})
    """
    numbers: dict[str, Any] = {"models": {}}
    drawn: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}
    with style():
        size = 2.5 * len(planned) + 0.5, 3.0
        figure, axes = plt.subplots(1, len(planned), figsize=size, sharex=True, sharey=True, squeeze=False)
        for axis, (model, table) in zip(axes[0], planned.items(), strict=True):
            pair = weight_columns(table)[-1]
            lines, points = weighted(table, pair, model), weighted(measured.get(model), pair, model)
            _latency(axis, lines, points)
            _titled(axis, model, points)
            axis.set_xlabel(LIMIT)
            drawn[model] = lines, points
            numbers["models"][model] = {"planned": records(lines), "measured": records(points)}
        axes[0][0].set_ylabel("latency [s]")
        _from_zero(axes[0])
        _legend(figure, axes.flat)
    caption = f"Latency on the device alone at each noise limit, planned and real ({EMULATED}): a panel per model."
    run = pd.concat([points for _, points in drawn.values()])
    count = requests(run) if len(run) else several(sum(len(lines) for lines, _ in drawn.values()), "plan")
    alt = "; ".join(f"{model} takes {_found(*tables)}" for model, tables in drawn.items())
    return told(figure, numbers, caption, f"{alt}.", about=about, count=count)


def _found(planned: pd.DataFrame, measured: pd.DataFrame | None) -> str:
    """What the planned latencies are, and how far predictions are off."""
    error = _errors(measured)
    off = f" (predicted against measured: {bias(error)})" if len(error) else ""
    return f"{between(planned['latency_s'], 's')}{off}"


def _errors(measured: pd.DataFrame | None) -> pd.Series:
    """Errors of the predictions [%], of what was measured."""
    return pd.Series(dtype=float) if measured is None or "error_%" not in measured else measured["error_%"].dropna()


def _titled(axis: Axes, title: str, measured: pd.DataFrame | None) -> None:
    error = _errors(measured)
    text = f"{title}\npredicted against real {signed(error.mean())} %" if len(error) else title
    axis.set_title(text, fontweight="normal", fontsize=7.5)


def weight_panels(
    planned: pd.DataFrame,
    measured: pd.DataFrame | None = None,
    title: str = "",
    *,
    top: Sequence[float] = (0, 0),
    about: str = "",
) -> tuple[Figure, dict[str, Any]]:
    """Figures 4 and 5: a column per weight of the latency, with the latency, planned and real, above the planned energy.

    Parameters
    ----------
    planned : pd.DataFrame
        Rows of one topology from `dnnsplit.studies.grid.sweep_plans`.
    measured : pd.DataFrame | None, optional
        Rows of that topology from `dnnsplit.studies.latency_tests`.
    title : str, default ""
        The topology, above the first panel.
    top : Sequence[float], default (0, 0)
        A latency [s] and an energy [J] that the axes show, too: the largest of several figures that are to be compared.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> planned = ds.sweep_plans(graph, {"tiny": network}, times, noise, max_noise=[0.0, 0.05])
    >>> figure, numbers = ds.plots.weight_panels(planned, title="device + edge")
    """
    title = spelled(title)
    pairs, numbers = weight_columns(planned), {"title": title, "planned": records(planned)}
    with style():
        figure = plt.figure(figsize=(_width(len(pairs)), 4.4))
        axes = _columns(figure, pairs)
        for (above, below), pair in zip(axes.T, pairs, strict=True):
            lines = weighted(planned, pair, title)
            real = weighted(measured, pair, title)
            _latency(above, lines, real)
            _titled(above, f"{title}\n{weight_title(pair)}" if title and above is axes[0][0] else weight_title(pair), real)
            below.plot(lines["max_noise"], lines["energy_j"], **PLANNED)
        _finish(figure, axes, top)
    numbers |= {} if measured is None else {"measured": records(measured)}
    run = pd.DataFrame() if measured is None else measured
    told_real = f" and real ({EMULATED})" if len(run) else ""
    caption = f"Latency{f' of {title}' if title else ''}, planned{told_real}, above the planned energy: a column per weight."
    parts = [
        f"at {weight_title(pair)} it is {_found(*(weighted(t, pair, title) for t in (planned, measured)))}" for pair in pairs
    ]
    count = requests(run) if len(run) else several(len(planned), "plan")
    return told(figure, numbers, caption, f"Latency: {listed(parts)}.", about=about, count=count)


def topologies(planned: pd.DataFrame, baselines: pd.DataFrame | None = None, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Figure 6: a column per weight with the latency above the energy, a line per topology; below them the baselines.

    Parameters
    ----------
    planned : pd.DataFrame
        From `dnnsplit.studies.grid.sweep_plans`, of several topologies, at one bandwidth.
    baselines : pd.DataFrame | None, optional
        method, latency_s [s], energy_j [J], a point per row: those of the largest topology, from `dnnsplit.studies.baselines`.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> planned = ds.sweep_plans(graph, {"tiny": network}, times, noise, max_noise=[0.0, 0.05])
    >>> figure, numbers = ds.plots.topologies(planned)
    """
    pairs, numbers = weight_columns(planned), {"planned": records(planned)}
    height = 0.0 if baselines is None else 0.17 * baselines["method"].nunique() + 0.75
    with style():
        whole = plt.figure(figsize=(max(_width(len(pairs)), 5.0 if height else 0.0), 4.1 + height))
        heights = [4.1, height] if height else [4.1]
        figure, *below = whole.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        axes = _columns(figure, pairs)
        for column, pair in zip(axes.T, pairs, strict=True):
            for i, (topology, table) in enumerate(planned.groupby("topology", sort=False)):
                lines = weighted(table, pair, str(topology))
                marks: dict[str, Any] = {"color": COLOURS[i % 7], "marker": MARKS[i % 7], "linestyle": DASHES[i % 7]}
                marks |= {"markersize": max(2.5, 7.0 - 2.2 * i), "markerfacecolor": "white"}  # equal plans are all seen
                marks["linewidth"] = max(0.8, 1.8 - 0.5 * i)
                for axis, what in zip(column, ("latency_s", "energy_j"), strict=True):
                    axis.plot(lines["max_noise"], lines[what], label=spelled(str(topology)), **marks)
        _finish(figure, axes)
        if baselines is not None:
            _baselines(below[0], baselines)
    numbers |= {} if baselines is None else {"baselines": records(baselines)}
    caption = "Planned latency above planned energy at each noise limit, a line per topology and a column per weight"
    caption += "; below, what other methods plan without a limit on the noise." if baselines is not None else "."
    parts = [
        f"{spelled(str(topology))} takes {between(t['latency_s'], 's')}"
        for topology, t in planned.groupby("topology", sort=False)
    ]
    alt = f"Over all weights and limits, {listed(parts)}."
    if baselines is not None and len(reached := baselines.dropna(subset="latency_s")):
        least = reached["latency_s"].min()
        best = reached.loc[reached["latency_s"] <= least * (1 + 1e-9), "method"]
        alt += f" Of the methods, {listed(best)} {'has' if len(best) == 1 else 'have'} the least latency, {show(least, 's')}."
    return told(whole, numbers, caption, alt, about=about, count=several(len(planned), "plan"))


def _baselines(figure: SubFigure, table: pd.DataFrame) -> None:
    """A row per method, so that equal ones do not hide each other."""
    methods = list(dict.fromkeys(table["method"]))[::-1]
    axes = figure.subplots(1, 2, sharey=True)
    places = [methods.index(method) for method in table["method"]]
    for axis, what, label in zip(axes, ("latency_s", "energy_j"), ("latency [s]", "energy [J]"), strict=True):
        axis.hlines(places, 0, table[what], color="0.7", linewidth=0.8)
        axis.plot(table[what], places, "D", color="0.15", markersize=3.5)
        for place, value in zip(places, table[what], strict=True):
            at, text = (value, f" {value:#.4g}") if math.isfinite(value) else (0.0, "no plan")
            axis.annotate(text, (at, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
        axis.set(xlabel=label, ylim=(-0.6, len(methods) - 0.4), xlim=(0, 1.15 * np.nanmax([*table[what], 1e-9])))
        axis.grid(False, axis="y")
    axes[0].set_yticks(range(len(methods)), methods, fontsize=7)
    axes[0].set_title("Baselines")


def _latency(axis: Axes, planned: pd.DataFrame, measured: pd.DataFrame) -> None:
    axis.plot(planned["max_noise"], planned["latency_s"], **PLANNED)
    if len(measured):
        axis.plot(measured["max_noise"], measured["latency_s"], zorder=3, **REAL)
        low, high = measured["low_s"], measured["high_s"]
        axis.fill_between(measured["max_noise"], low, high, color=REAL["color"], alpha=0.3, linewidth=0)
        axis.vlines(measured["max_noise"], low, high, color=REAL["color"], linewidth=0.9)


def _width(columns: int) -> float:
    """Of a figure with a column per weight, within a page [inch]."""
    return max(3.4, min(2.0 * columns + 0.5, 6.5))


def _columns(figure: Figure | SubFigure, pairs: Sequence[tuple[float, float]]) -> Any:
    axes = figure.subplots(2, len(pairs), sharex=True, sharey="row", squeeze=False)
    for axis, pair in zip(axes[0], pairs, strict=True):
        axis.set_title(weight_title(pair), fontweight="normal")
    return axes


def _finish(figure: Figure | SubFigure, axes: Any, top: Sequence[float] = (0, 0)) -> None:
    """Labels, a legend below, and axes that begin at 0."""
    for axis in axes[-1]:
        axis.set_xlabel(LIMIT)
    for row, label, least in zip(axes, ("latency [s]", "energy [J]"), top, strict=True):
        row[0].set_ylabel(label)
        _from_zero(row, least)
    _legend(figure, axes[0])


def _from_zero(axes: Sequence[Axes], least: float = 0.0) -> None:
    """Axes that share their heights begin at 0 and show all that is drawn in any of them."""
    axes[0].set_ylim(0, 1.08 * max([least, *(axis.dataLim.y1 for axis in axes if np.isfinite(axis.dataLim.y1))]))


def _legend(figure: Figure | SubFigure, axes: Any) -> None:
    """Below the figure, what is drawn in any of the panels."""
    named = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named))
