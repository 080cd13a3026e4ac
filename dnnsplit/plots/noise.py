"""Figures of the noise: what predicts it, what makes it, and what a limit on it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnnsplit.ground.units import show
from dnnsplit.noise.fit import first_order, noise_scores
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.plots.captions import EMULATED, between, bias, listed, requests, several, spelled, told
from dnnsplit.plots.style import COLOURS, DASHES, MARKS, records, style
from dnnsplit.profiling.wire_forms import PLAIN

LIMIT = "noise limit $\\eta_{max}$"
ERRORS = 20.0  # least half height of a panel of errors, so that figures can be compared [%]


def noise_fit(
    models: Mapping[str, NoiseModel], train: NoiseSamples, test: NoiseSamples, every: float | None = None, *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Figure 2: predicted against measured noise, a row per model, of what it was fitted to and of what no model was fitted to.

    Parameters
    ----------
    models : Mapping[str, NoiseModel]
        By the title of their row, from `dnnsplit.noise.fit.polynomials`; one or more.
    train, test : NoiseSamples
        The schemes that they were fitted to, and the held-out ones.
    every : float | None, optional
        The noise with all layers in int8, a dashed line beside the schemes that were fitted to; default: as measured, where that
        scheme is among the samples.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> samples = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / "yolo11n-ppe-320.csv")
    >>> train, test = samples.divide(1000)
    >>> figure, numbers = ds.plots.noise_fit({"degree 2": ds.fit_noise(train)}, train, test)
    """
    panels = {"train": train, "test": test}
    if every is None:
        every = next((float(eta) for some in panels.values() for eta in some.noise[some.schemes.all(axis=1)]), None)
    numbers: dict[str, Any] = {what: {"measured": some.noise} for what, some in panels.items()}
    numbers |= {"layers": list(test.layers), "every": every, "models": {}}
    with style():
        size = 4.9, 2.2 * len(models) + 0.35
        figure, axes = plt.subplots(len(models), 2, figsize=size, sharex=True, sharey=True, squeeze=False)
        for row, (title, model) in zip(axes, models.items(), strict=True):
            scored: dict[str, Any] = {"fit": dict(model.scores)}
            for axis, (what, some) in zip(row, panels.items(), strict=True):
                predicted = model.predict(some.schemes)
                scores = noise_scores(some.noise, predicted)
                axis.axline((0, 0), slope=1, color="0.45", linewidth=0.8, zorder=1)
                axis.scatter(some.noise, predicted, s=3, color=COLOURS[0], alpha=0.35, linewidths=0, rasterized=True, zorder=2)
                axis.set_title(f"{title}, {what}: $R^2$ = {scores['R2']:.4f}", fontsize=8)
                text = f"MAPE {scores['MAPE_%']:.1f} %\nlowest tenth {scores['low_MAPE_%']:.1f} %\n{len(predicted)} schemes"
                axis.text(0.04, 0.96, text, transform=axis.transAxes, va="top", fontsize=7)
                scored[what] = {"predicted": predicted, **scores}
            if every is not None:
                row[0].axvline(every, color=COLOURS[1], linewidth=1.0, linestyle="--", zorder=1)
                at = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom", "rotation": 90}
                row[0].annotate(" all layers in int8", (every, 0.0), color=COLOURS[1], fontsize=7, **at)
            row[0].set_ylabel("predicted noise")
            numbers["models"][title] = scored
        top = 1.05 * max(every or 1e-3, *train.noise, *test.noise)
        axes[0][0].set(xlim=(0, top), ylim=(0, top))
        for axis in axes.flat:
            axis.set_aspect("equal")
        for axis in axes[-1]:
            axis.set_xlabel("measured noise")
    caption = "Predicted against measured noise of schemes of int8 layers: left those a model was fitted to, right others."
    errors = ((title, one["test"]) for title, one in numbers["models"].items())
    found = (
        f"{title}: R2 {one['R2']:.4f}, mean error {one['MAPE_%']:.1f} %, {one['low_MAPE_%']:.1f} % among the least noisy tenth"
        for title, one in errors
    )
    alt = f"On {several(len(test.noise), 'scheme')} that nothing was fitted to, {'; '.join(found)}."
    return told(figure, numbers, caption, alt, about=about, count=_count(train, test))


def _count(*parts: NoiseSamples) -> str:
    """How many schemes were measured, and on how many images, where the samples know it."""
    schemes = several(sum(len(part.noise) for part in parts), "scheme")
    images = parts[0].origin.get("images")
    return f"{schemes} measured" + (f" on {several(images, 'image')}" if isinstance(images, int) else "")


def sensitivity(samples: NoiseSamples, noise: NoiseModel | None = None, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Noise of each layer quantized alone, and of all together; beside it, its share in the variance over all schemes.

    Parameters
    ----------
    samples : NoiseSamples
        Measured; a layer that was not measured alone has no bar.
    noise : NoiseModel | None, optional
        Tells the shares where not all schemes were measured; without it they are left out then.
    about : str, default ""
        As for `noise_fit`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> samples = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / "yolo11n-ppe-320.csv")
    >>> figure, numbers = ds.plots.sensitivity(samples)
    """
    alone = {samples.layers[i]: float(samples.noise[row]) for i, row in sorted(samples.alone.items())}
    every = samples.noise[samples.schemes.all(axis=1)]
    if noise is None and len(samples.noise) >= 2 ** len(samples.layers) - 1:
        noise = NoiseModel.measured(samples)
    shares = None if noise is None else dict(zip(noise.layers, first_order(noise).tolist(), strict=True))
    names = list(samples.layers if shares else alone)[::-1]
    ratios = [5, 3] if shares else [1]
    with style():
        size = (3.2 + 1.8 * len(ratios), 0.19 * len(names) + 1.0)
        figure, axes = plt.subplots(1, len(ratios), figsize=size, sharey=True, squeeze=False, width_ratios=ratios)
        axis = axes[0][0]
        axis.barh(range(len(names)), [alone.get(n, 0.0) for n in names], color=COLOURS[0])
        axis.set_yticks(range(len(names)), [n.strip("/") for n in names], fontsize=7)
        for noise_of_all in every:
            axis.axvline(noise_of_all, color=COLOURS[1], linewidth=1.2)
            axis.text(noise_of_all, len(names) - 0.4, "all together ", color=COLOURS[1], ha="right", va="bottom", fontsize=7.5)
        title = "Each layer quantized alone"
        axis.set(xlabel="noise (mean |difference| of the output)", title=title, ylim=(-0.6, len(names) + 0.3))
        if shares:
            axes[0][1].barh(range(len(names)), [100 * shares[n] for n in names], color=COLOURS[2])
            axes[0][1].set(xlabel=f"variance [%] ({100 * sum(shares.values()):.1f} in all)", title="First-order share")
        for axis in axes[0]:
            axis.grid(False, axis="y")
    numbers = {"alone": alone, "all": every.tolist(), "first_order": shares}
    caption = "Noise of each layer quantized alone" + (
        "; right, its share in the variance of the noise over all schemes." if shares else "."
    )
    loudest = max(alone, key=alone.__getitem__, default="")
    alt = f"Most noise alone makes {loudest.strip('/')}, {alone[loudest]:.3g}" if alone else "No layer was measured alone"
    alt += f"; all together make {every[0]:.3g}" if len(every) else ""
    if shares:
        first = max(shares, key=shares.__getitem__)
        alt += f"; the largest share of the variance, {100 * shares[first]:.0f} %, is that of {first.strip('/')}"
    return told(figure, numbers, caption, f"{alt}.", about=about, count=_count(samples))


def learning_curve(rows: pd.DataFrame, *, about: str = "") -> tuple[Figure, dict[str, Any]]:
    """Error on held-out schemes against the number of measured ones: the median and the range over the seeds.

    Parameters
    ----------
    rows : pd.DataFrame
        From `dnnsplit.noise.fit.learning_curve`: model, samples, seed, R2, MAPE_%, low_MAPE_%.
    about : str, default ""
        As for `noise_fit`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"model": "polynomial", "samples": [50, 100], "seed": 0, "R2": [0.9, 0.95]})
    >>> rows = rows.assign(**{"MAPE_%": [8.0, 5.0], "low_MAPE_%": [20.0, 12.0]})
    >>> figure, numbers = ds.plots.learning_curve(rows)
    """
    rows = rows.reset_index(drop=True)
    panels = {"1 - $R^2$": 1 - rows["R2"], "MAPE [%]": rows["MAPE_%"], "MAPE of lowest tenth [%]": rows["low_MAPE_%"]}
    steps = [m * 10.0**k for k in range(-6, 4) for m in (1, 2, 5)]
    with style():
        figure, axes = plt.subplots(1, len(panels), figsize=(7.6, 2.9), sharex=True)
        for axis, (label, values) in zip(axes, panels.items(), strict=True):
            for i, (title, part) in enumerate(values.groupby(rows["model"], sort=False)):
                over = part.groupby(rows["samples"]).agg(["median", "min", "max"])
                marks: dict[str, Any] = {"marker": MARKS[i % 7], "linestyle": DASHES[i % 7], "color": COLOURS[i % 7]}
                axis.plot(over.index, over["median"], markersize=3.5, label=title, **marks)
                axis.fill_between(over.index, over["min"], over["max"], color=COLOURS[i % 7], alpha=0.15, linewidth=0)
            axis.set(xscale="log", yscale="log", xlabel="measured schemes", title=label)
            for of, along in ((values, axis.yaxis), (rows["samples"], axis.xaxis)):
                along.set_ticks(shown := [t for t in steps if of.min() / 1.3 <= t <= of.max() * 1.3], [f"{t:g}" for t in shown])
                along.set_ticks([], minor=True)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    seeds = several(rows["seed"].nunique(), "seed")
    caption = f"Error on held-out schemes against the number of measured ones: median and range over {seeds}."
    most = rows[rows["samples"] == rows["samples"].max()].groupby("model", sort=False)["MAPE_%"].median()
    few = rows[rows["samples"] == rows["samples"].min()].groupby("model", sort=False)["MAPE_%"].median()
    alt = "; ".join(
        f"with {rows['samples'].agg(end)} schemes {part.idxmin()} is best, with a mean error of {part.min():.1f} %"
        for end, part in (("min", few), ("max", most))
    )
    return told(figure, {"rows": rows.to_dict("list")}, caption, f"{alt[0].upper()}{alt[1:]}.", about=about, count=seeds)


def latency_noise(
    frame: pd.DataFrame,
    title: str,
    measured: pd.DataFrame | None = None,
    most: float | None = None,
    baselines: pd.DataFrame | None = None,
    slides: pd.DataFrame | None = None,
    *,
    top: float = 0.0,
    about: str = "",
) -> tuple[Figure, dict[str, Any]]:
    """Figures 3 to 5: least latency against the noise limit, as planned, with the plans that were run.

    Below it, by how much each prediction is off, with the band of the requests.

    Parameters
    ----------
    frame : pd.DataFrame
        Of a `Front`, or read from its CSV: noise (or noise_upper, where a confidence was asked for), latency_s [s].
    title : str
        The topology.
    measured : pd.DataFrame | None, optional
        Rows with max_noise, latency_s, low_s, high_s (median and 5th to 95th percentile of the runs) [s], and predicted_s [s] for
        the panel below.
    most : float | None, optional
        Right end of the noise axis; default: the largest noise of the front or of the measured rows.
    baselines : pd.DataFrame | None, optional
        From `dnnsplit.studies.grid.single_servers`, with the confidence of the front: a line per server, its forms named.
    slides : pd.DataFrame | None, optional
        The same as `frame` with the input sent in float32 alone, as on the slides: a thin line.
    top : float, default 0.0
        A latency that the axis shows, too: the largest of several figures that are to be compared [s].
    about : str, default ""
        As for `noise_fit`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> front = ds.pareto(*ds.examples.tiny(), progress=False)
    >>> figure, numbers = ds.plots.latency_noise(front.frame, "device + edge")
    """
    title, run = spelled(title), pd.DataFrame() if measured is None else measured
    column = "noise_upper" if "noise_upper" in frame else "noise"
    limited, alone = frame[column], pd.DataFrame() if baselines is None else baselines.dropna(subset="latency_s")
    right = most or max([*limited, *run.get("max_noise", []), 1e-3]) * 1.05
    compared = len(run) > 0 and "predicted_s" in run
    with style():
        rows: dict[str, Any] = (
            {"nrows": 2, "height_ratios": [3.4, 1], "figsize": (4.6, 4.0)} if compared else {"figsize": (4.6, 3.1)}
        )
        figure, axes = plt.subplots(sharex=True, squeeze=False, **rows)
        axis, bottom = axes[0][0], axes[-1][0]
        # wide and pale, so that a server alone is seen on it where that is the plan
        marks: dict[str, Any] = {"color": COLOURS[0], "linewidth": 4.0, "alpha": 0.5, "label": "planned (exact optimum)"}
        axis.stairs(frame["latency_s"], [*limited, right], baseline=None, **marks)
        if slides is not None:
            thin: dict[str, Any] = {"color": COLOURS[0], "linewidth": 0.7, "label": "planned, input sent in float32 (slides)"}
            axis.stairs(slides["latency_s"], [*slides[column], max(right, *slides[column])], baseline=None, **thin)
        for i, (server, part) in enumerate(alone.groupby("server", sort=False) if len(alone) else ()):
            part = part[part[column] < right]
            line: dict[str, Any] = {"color": COLOURS[(2, 3, 6, 4, 5)[i % 5]], "linewidth": 1.3, "linestyle": DASHES[1 + i % 6]}
            forms = list(dict.fromkeys(part["source_form"]))  # of the input, better ones where the limit allows their loss
            sent = "" if forms == [PLAIN] else f", input as {forms[0]}" if len(forms) == 1 else ", input as marked"
            axis.stairs(part["latency_s"], [*part[column], right], baseline=None, label=f"{server} alone, float32{sent}", **line)
            for row in part.to_dict("records") if len(forms) > 1 else ():
                axis.annotate(row["source_form"], (row[column], row["latency_s"]), (2, 4), textcoords="offset points", fontsize=6,
                              va="bottom", color="0.35")  # fmt: skip
        if len(run):
            _band(axis, run["max_noise"], run["latency_s"], run["low_s"], run["high_s"], "measured (median, 5 to 95 %)")
        if compared:
            bottom.axhline(0, color=COLOURS[0], linewidth=0.9)
            off = [100 * (run["predicted_s"] / run[name] - 1) for name in ("latency_s", "high_s", "low_s")]
            _band(bottom, run["max_noise"], off[0], off[1], off[2])
            half = max(ERRORS, 1.1 * max(one.abs().max() for one in off))
            bottom.set(ylim=(-half, half), ylabel="error [%]")
            bottom.set_title(f"Predicted against measured: {bias(off[0])}", fontsize=7, fontweight="normal")
        axis.set(title=title, ylabel="latency [s]", xlim=(-0.015 * right, right))
        bottom.set_xlabel(LIMIT)
        drawn = [*frame["latency_s"], *run.get("high_s", []), *([] if slides is None else slides["latency_s"])]
        axis.set_ylim(0, 1.08 * max([top, *drawn, *alone.get("latency_s", [])]))
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    numbers: dict[str, Any] = {"title": title, "front": frame.to_dict("list")}
    numbers |= {} if baselines is None else {"baselines": records(baselines)}
    numbers |= {} if slides is None else {"slides": slides.to_dict("list")}
    numbers |= {} if measured is None else {"measured": measured.to_dict("list")}
    caption = f"Least latency of {title} at each noise limit, as planned" + (
        f", and measured (points: medians, band: 5 to 95 % of the requests) {EMULATED}."
        if len(run)
        else "; predicted, not measured."
    )
    alt = f"The planned latency falls from {show(frame['latency_s'].iloc[0], 's')} to {show(frame['latency_s'].iloc[-1], 's')}"
    if len(alone):
        best = alone.sort_values("latency_s").iloc[0]
        alt += f"; the best server alone, {best['server']}, takes {show(best['latency_s'], 's')}"
    if compared:
        numbers |= {"bias_%": off[0].mean()}
        alt += f"; predicted against measured: {bias(off[0])}"
    count = several(len(frame), "optimal plan") + (f", {requests(run)}" if len(run) else "")
    return told(figure, numbers, caption, f"{alt}.", about=about, count=count)


def _band(axis: Axes, x: pd.Series, middle: pd.Series, low: pd.Series, high: pd.Series, label: str = "") -> None:
    """Points with the band and the bars between two other values."""
    order = np.argsort(x.to_numpy(float))
    at, mid, least, most = (values.to_numpy(float)[order] for values in (x, middle, low, high))
    axis.fill_between(at, least, most, color=COLOURS[1], alpha=0.18, linewidth=0)
    error = np.maximum([mid - least, most - mid], 0.0)  # a median can equal a percentile up to rounding
    marks: dict[str, Any] = {"fmt": "o", "color": COLOURS[1], "capsize": 2, "elinewidth": 0.9, "markersize": 3.2, "zorder": 4}
    axis.errorbar(at, mid, yerr=error, label=label, **marks)


def noise_fronts(
    exact: pd.DataFrame, predicted: Mapping[str, pd.DataFrame], title: str = "", *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Least latency against the noise limit by measured noise and by models of it; beside it, how far their plans overstep.

    Parameters
    ----------
    exact : pd.DataFrame
        Frame of the `Front` of a measured table: noise, latency_s [s].
    predicted : Mapping[str, pd.DataFrame]
        By title, frame of the `Front` of a model, with the noise measured of each plan as ``measured``; a plan breaks the limit
        it was chosen for where that is more than ``noise``.
    title : str, default ""
        Above the fronts.
    about : str, default ""
        As for `noise_fit`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> front = ds.pareto(*ds.examples.tiny(), progress=False).frame
    >>> promised = front.assign(measured=1.1 * front["noise"])
    >>> figure, numbers = ds.plots.noise_fronts(front, {"a model that is 10 % low": promised})
    """
    title = spelled(title)
    right = 1.05 * max(1e-3, *(part["noise"].max() for part in (exact, *predicted.values())))
    numbers: dict[str, Any] = {"title": title, "exact": exact[["noise", "latency_s"]].to_dict("list"), "predicted": {}}
    with style():
        figure, (front, excess) = plt.subplots(1, 2, figsize=(6.6, 3.2), sharex=True)
        marks: dict[str, Any] = {"color": "0.65", "linewidth": 3.0, "label": "measured noise"}
        front.stairs(exact["latency_s"], [*exact["noise"], right], baseline=None, **marks)
        excess.axhline(0.0, color="0.45", linewidth=0.8)
        for i, (name, part) in enumerate(predicted.items()):
            over = part["measured"] - part["noise"]  # no share of the limit, which may be 0 or all but 0
            broken = int((over > 0).sum())
            text = f"{name}: {broken} of {len(part)} plans over their limit"
            line: dict[str, Any] = {"color": COLOURS[i % 7], "linewidth": 1.2, "linestyle": DASHES[i % 7]}
            front.stairs(part["latency_s"], [*part["noise"], right], baseline=None, label=text, **line)
            excess.scatter(part["noise"], over, s=12, color=COLOURS[i % 7], marker=MARKS[i % 7], zorder=3)
            numbers["predicted"][name] = part[["noise", "measured", "latency_s"]].to_dict("list") | {"broken": broken}
        front.set(title=title, xlabel=LIMIT, ylabel="least latency [s]", xlim=(0, right))
        excess.set(title="Measured noise of the plans", xlabel=LIMIT, ylabel="measured noise - limit")
        figure.legend(*front.get_legend_handles_labels(), loc="outside lower center")
    caption = "Least latency at each noise limit by measured noise and by models; right, what their plans measure beyond it."
    found = (f"{several(one['broken'], 'plan')} of {len(one['noise'])} by {name}" for name, one in numbers["predicted"].items())
    alt = f"Over their limit are {listed(found)}." if numbers["predicted"] else "No model is drawn."
    return told(figure, numbers, caption, alt, about=about, count=several(len(exact), "plan") + " by measured noise")


def limit_coverage(
    table: pd.DataFrame, promised: float = 5.0, title: str = "", *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """How often noise limits are broken over all images, by the mean of a draw of them and by its bound; what the bound costs.

    Parameters
    ----------
    table : pd.DataFrame
        From `dnnsplit.studies.coverage.coverage`, the value being a latency [s].
    promised : float, default 5.0
        Share of cases in which the bound may be broken [%].
    title : str, default ""
        Above the shares.
    about : str, default ""
        As for `noise_fit`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import numpy as np
    >>> from dnnsplit.studies.coverage import coverage
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> meter = ds.noise_meter(graph, ds.scenes.images(3), layers=2)
    >>> _ = meter.samples(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), progress=False)
    >>> table = coverage(meter, graph, network, times, measured=2, limits=[0.02, 0.05], resamples=5)
    >>> figure, numbers = ds.plots.limit_coverage(table)
    """
    title = spelled(title)
    by_rule = {rule: part.set_index("limit") for rule, part in table.groupby("rule", sort=False)}
    cost = 100.0 * (by_rule["bound"]["value"] / by_rule["mean"]["value"] - 1.0)
    names = {"mean": "mean of the drawn images", "bound": "its upper confidence bound"}
    with style():
        figure, (share, price) = plt.subplots(1, 2, figsize=(6.6, 3.0))
        for i, (rule, part) in enumerate(by_rule.items()):
            marks: dict[str, Any] = {"marker": "os"[i], "color": COLOURS[i], "linestyle": DASHES[i]}
            marks |= {"markersize": (7.0, 3.5)[i], "markerfacecolor": ("white", COLOURS[i])[i]}  # equal shares are both seen
            share.plot(part.index, part["broken_%"], label=names[str(rule)], **marks)
        share.axhline(promised, color="0.45", linewidth=0.8, linestyle="--", label=f"{promised:g} % promised of one scheme")
        share.set(title=title, xlabel=LIMIT, ylabel="limit broken over all images [%]", ylim=(0, None))
        price.plot(cost.index, cost, marker="s", color=COLOURS[1], linestyle=DASHES[1], markersize=3.5)
        low = min(0.0, float(cost.min()))
        price.set(title="What the bound costs", xlabel=LIMIT, ylabel="more latency [%]", ylim=(low, None))
        figure.legend(*share.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = "How often plans break their noise limit over all images, chosen by a mean or by its bound; right, its cost."
    worst = {rule: part["broken_%"].max() for rule, part in by_rule.items()}
    alt = f"By the mean, up to {worst['mean']:.3g} % of the plans break their limit, by the bound up to {worst['bound']:.3g} %; "
    alt += f"the bound costs {between(cost.round(2))} % of latency."
    numbers = {"rows": table.to_dict("list"), "cost_%": cost.tolist()}
    return told(figure, numbers, caption, alt, about=about, count=several(len(cost), "limit"))
