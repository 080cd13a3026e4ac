"""Figure 12: how far each prediction is off, and how long each step of the line takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dnnsplit.ground.errors import OptionError
from dnnsplit.ground.units import show
from dnnsplit.plots.captions import EMULATED, bias, listed, requests, several, spelled, told
from dnnsplit.plots.noise import LIMIT
from dnnsplit.plots.style import COLOURS, MARKS, records, style
from dnnsplit.plots.weights import weight_columns, weight_title, weighted

BANDS = (2.0, 5.0)  # within which a prediction is good, and fair [%]
APART = 0.24  # of the weights at one limit


def prediction_errors(measured: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Figure 12: error of the predicted latency of every plan against its noise limit, a panel per topology, a mark per weight.

    Parameters
    ----------
    measured : pd.DataFrame
        From `dnnsplit.studies.latency_tests`; plans that were not measured have no mark. Bands show errors of 2 and 5 %.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Raises
    ------
    OptionError
        No plan was measured.
    """
    run = measured.dropna(subset="error_%")
    if run.empty:
        message = "prediction_errors: no row has an error_%; give a table of `latency_tests`, with a plan that was run"
        raise OptionError(message)
    limits, pairs = sorted(measured["max_noise"].unique()), weight_columns(measured)
    by_topology = {str(name): table for name, table in run.groupby("topology", sort=False)}
    every, scores = _scores(run), {topology: _scores(table) for topology, table in by_topology.items()}
    with style():
        size = max(3.4, min(2.1 * len(by_topology) + 0.5, 6.8)), 2.8
        figure, axes = plt.subplots(1, len(by_topology), figsize=size, sharex=True, sharey=True, squeeze=False)
        for axis, (topology, table) in zip(axes[0], by_topology.items(), strict=True):
            for band, shade in zip(BANDS[::-1], ("0.94", "0.86"), strict=True):
                axis.axhspan(-band, band, color=shade, linewidth=0, zorder=0)
            axis.axhline(0, color="0.45", linewidth=0.8, zorder=1)
            for i, pair in enumerate(pairs):
                rows = weighted(table, pair, topology)
                at = np.array([limits.index(limit) for limit in rows["max_noise"]]) + APART * (i - (len(pairs) - 1) / 2)
                marks: dict[str, Any] = {"color": COLOURS[i % 7], "marker": MARKS[i % 7], "s": 14, "zorder": 3}
                axis.scatter(at, rows["error_%"], label=weight_title(pair), **marks)
            axis.set_title(f"{spelled(topology)}\n{_told(scores[topology])}", fontsize=8, fontweight="normal")
            axis.set_xticks(range(len(limits)), [f"{limit:g}" for limit in limits], rotation=90, fontsize=6.5)
            axis.set_xlabel(LIMIT)
            axis.grid(False, axis="x")
        axes[0][0].set_ylabel("predicted against measured [%]")
        most = 1.15 * max(BANDS[-1], run["error_%"].abs().max())
        axes[0][0].set_ylim(-most, most)
        if most < 3 * BANDS[-1]:
            axes[0][0].set_yticks([0.0, *BANDS, *(-band for band in BANDS)])
        columns = min(len(pairs), len(by_topology) + 1)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    numbers = {"rows": records(measured), **every, "topologies": scores}
    caption = f"Predicted against measured latency of every plan [%], by noise limit, {EMULATED}; bands: within 2 and 5 %."
    parts = (f"{spelled(topology)} ({_told(one)})" for topology, one in scores.items())
    alt = f"Over {several(len(run), 'plan')} {_told(every)}, {bias(run['error_%'])}: {listed(parts)}."
    return told(figure, numbers, caption, alt, about=about, count=f"{requests(run)}: {_told(every)}")


def _scores(rows: pd.DataFrame) -> dict[str, float]:
    error = rows["error_%"].abs()
    return {"plans": len(rows), "MAPE_%": float(error.mean()), "worst_%": float(error.max())}


def _told(scores: dict[str, float]) -> str:
    return f"MAPE {scores['MAPE_%']:.1f} %, worst {scores['worst_%']:.1f} %"


def durations(rows: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Figure 12: what each step of the line takes, a bar per model, and beside it the sizes of the models' files.

    Parameters
    ----------
    rows : pd.DataFrame
        model, what (a step such as "profile", or a file such as "parts"), and seconds [s] or size_bytes [B]; the other is NaN, or
        without a column where no row has it.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Raises
    ------
    OptionError
        No row has either.
    """
    given = [column for column in ("seconds", "size_bytes") if column in rows]
    tables = {column: table for column in given if len(table := rows.dropna(subset=column))}
    if not tables:
        message = "durations: no row has seconds or size_bytes"
        raise OptionError(message)
    models = list(dict.fromkeys(rows["model"]))
    most = max(table["what"].nunique() for table in tables.values())
    with style():
        size = 3.3 * len(tables), most * (0.1 + 0.14 * len(models)) + 1.1
        figure, axes = plt.subplots(1, len(tables), figsize=size, squeeze=False)
        for axis, (column, table) in zip(axes[0], tables.items(), strict=True):
            _steps(axis, table, column, models)
            top = table["what"].nunique() - 0.4
            axis.set_ylim(top - most - 0.2, top)  # bars are as thick in both panels
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(models))
    caption = (
        "Seconds of each step of the line, and sizes of files, a bar per model (medians over plans where there are several)."
    )
    parts = []
    for model, table in rows.groupby("model", sort=False):
        values = ((row["what"], row.get("seconds", np.nan), row.get("size_bytes", np.nan)) for row in table.to_dict("records"))
        parts.append(
            f"{model}: " + ", ".join(f"{what} {show(s, 's') if np.isfinite(s) else show(b, 'B')}" for what, s, b in values)
        )
    return told(
        figure, {"rows": records(rows)}, caption, f"{'; '.join(parts)}.", about=about, count=several(len(models), "model")
    )


def _steps(axis: Axes, table: pd.DataFrame, column: str, models: Sequence[str]) -> None:
    """A row per step, a bar per model, and its value."""
    steps, height = list(dict.fromkeys(table["what"]))[::-1], 0.8 / len(models)
    values = table.set_index(["what", "model"])[column]
    timed = column == "seconds"
    for i, model in enumerate(models):
        at = np.arange(len(steps)) + 0.4 - (i + 0.5) * height
        widths = [float(values.get((step, model), np.nan)) for step in steps]
        marks: dict[str, Any] = {"hatch": ("", "//////", "xxxxxx")[i % 3], "edgecolor": "white", "linewidth": 0.3}
        axis.barh(at, widths, height, color=COLOURS[i % 7], label=model, **marks)
        for place, width in zip(at, widths, strict=True):
            if np.isfinite(width):
                text = f"{float(f'{width:.3g}'):g}" if timed else show(width, "B")
                axis.annotate(text, (width, place), xytext=(2, 0), textcoords="offset points", va="center", fontsize=6.5)
    axis.set_yticks(range(len(steps)), steps)
    axis.grid(False, axis="y")
    if timed:
        axis.set(xscale="log", xlabel="time [s]", xlim=(10 ** np.floor(np.log10(values.min() / 1.5)), 6 * values.max()))
    else:
        axis.set(xlabel="size", xlim=(0, 1.3 * values.max()))
        axis.xaxis.set_major_formatter(lambda value, _: show(value, "B"))
        axis.xaxis.set_major_locator(MaxNLocator(3))
