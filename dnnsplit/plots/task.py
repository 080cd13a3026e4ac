"""The figure of what a noise means: the model's task, as each quantization scheme does it, against the scheme's noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnnsplit.ground.errors import NoiseError, nearest
from dnnsplit.noise.limits import NoiseLimit
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.plots.captions import several, told
from dnnsplit.plots.style import COLOURS, style

SHOWN = ("disagreement", "top1", "mAP50_loss", "mAP50-95_loss")  # where they were measured
TITLES = {"disagreement": "F1 agreement with float32", "top1": "top-1 agreement with float32"}
BINS = 16  # of as many schemes each


def noise_task(
    samples: NoiseSamples,
    metrics: Sequence[str] = (),
    at: float = 0.05,
    limits: Sequence[NoiseLimit] = (),
    *,
    about: str = "",
) -> tuple[Figure, dict[str, Any]]:
    """Beside Figure 2: how well each scheme does the task, against its noise; a panel per metric, a point per scheme.

    A line is the median of the schemes of about that noise, within the band lie 90 % of them, and the steps are the worst scheme
    up to each noise: what a limit there lets in. The bar is the standard error of one scheme's value over the images.

    Parameters
    ----------
    samples : NoiseSamples
        With these metrics among their details, as `dnnsplit.examples.scoring.task_scores` tells them.
    metrics : Sequence[str], optional
        Which of the details are drawn; default: of disagreement, top1, mAP50_loss and mAP50-95_loss those that there are.
    at : float, default 0.05
        The noise that the finding is told for, in the numbers' ``alt``.
    limits : Sequence[NoiseLimit], optional
        From `noise_for`: dashed lines in the panel of their metric.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.

    Raises
    ------
    NoiseError
        The samples know none of the metrics.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> figure, numbers = ds.plots.noise_task(ds.examples.yolo11n_task())
    """
    details = pd.DataFrame() if samples.details is None else samples.details
    known = [str(c) for c in details]
    drawn = [*(metrics or [name for name in SHOWN if name in known])]
    lost = [name for name in drawn if name not in known]
    if lost or not drawn:
        which = f"the metric {lost[0]!r}{nearest(lost[0], known)}" if lost else "what their noise does to a task"
        message = f"the samples do not know {which}"
        raise NoiseError(message, "measure_noise(..., detections=True) tells the disagreement of detections")
    noise = np.sort(samples.noise).round(5).tolist()
    shown = {name: _shown(samples, details, name, at) for name in drawn}
    with style():
        figure, axes = plt.subplots(1, len(drawn), figsize=(0.6 + 2.5 * len(drawn), 2.9), squeeze=False)
        for axis, (name, numbers) in zip(axes[0], shown.items(), strict=True):
            _draw(axis, noise, numbers)
            for limit in (one for one in limits if one.metric == name):
                line: dict[str, Any] = {"color": COLOURS[3], "linestyle": "--", "linewidth": 1.0}
                axis.axvline(limit.limit, **line)
                axis.axhline(numbers["float32"] + numbers["sign"] * limit.at_most, **line)
                place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom"}
                axis.annotate(f"{limit.limit:.3g} ", (limit.limit, 0.1), color=COLOURS[3], fontsize=7, **place)
        handles, labels = axes[0][0].get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=3)
    numbers = {"noise": noise, "metrics": shown, "limits": {one.metric: one.limit for one in limits}}
    count = f"{several(len(samples.frame), 'scheme')}, {samples.origin.get('images', 'unknown')} images"
    return told(figure, numbers, *_words(samples, shown, at), about=about, count=count)


def _shown(samples: NoiseSamples, details: pd.DataFrame, name: str, at: float) -> dict[str, Any]:
    """Return what is drawn of a metric: points, median and range by bins of the noise, the worst up to each noise."""
    frame = pd.DataFrame({"noise": samples.noise, "loss": details[name].to_numpy()}).sort_values("noise", ignore_index=True)
    known = {form: one for form, one in samples.sources.items() if one.details is not None and name in one.details}
    forms = [
        (form, float(one.noise[row]), float(one.details[name].iloc[row]))
        for form, one in known.items() if one.details is not None
        for row in np.flatnonzero(~one.schemes.any(axis=1))
    ]  # fmt: skip
    every = pd.concat([frame, pd.DataFrame([form[1:] for form in forms], columns=["noise", "loss"])]).sort_values("noise")
    exact = float(name in TITLES)
    if name.endswith("_loss"):
        exact = samples.origin.get("float32", {}).get(name.removesuffix("_loss"), 0.0)
    sign = -1.0 if name in TITLES or name.endswith("_loss") else 1.0
    bins = frame.groupby(np.arange(len(frame)) * min(BINS, len(frame)) // len(frame))
    values = exact + sign * bins["loss"].quantile(np.array([0.05, 0.5, 0.95])).unstack()
    spread, images = details.get(f"{name} std"), samples.origin.get("images")
    up_to = every.loc[every["noise"] <= at, "loss"]
    every["loss"] = every["loss"].cummax()
    steps = pd.concat([every.drop_duplicates("loss"), every.tail(1)])
    return {
        "title": TITLES.get(name, name.removesuffix("_loss") if exact else name),
        "float32": exact,
        "sign": sign,
        "value": (exact + sign * frame["loss"]).round(5).tolist(),
        "bins": {
            "noise": bins["noise"].median().tolist(),
            "low": values.min(axis=1).tolist(),
            "median": values[0.5].tolist(),
            "high": values.max(axis=1).tolist(),
        },
        "forms": {form: [noise, exact + sign * loss] for form, noise, loss in forms},
        "worst": [steps["noise"].round(5).tolist(), (exact + sign * steps["loss"]).round(5).tolist()],
        "worst_at": float(exact + sign * up_to.max()) if len(up_to) else None,
        "standard_error": float((spread / np.sqrt(images)).median()) if spread is not None and images else None,
        "rank_correlation": float(frame["noise"].rank().corr(frame["loss"].rank())) if frame["loss"].nunique() > 1 else None,
        "above_float32_%": float(100 * (frame["loss"] < 0).mean()),
    }


def _draw(axis: Axes, noise: list[float], numbers: dict[str, Any]) -> None:
    bins = numbers["bins"]
    right = 1.08 * (noise[-1] or 1e-3)
    axis.axhline(numbers["float32"], color="0.45", linewidth=0.8, label="float32 model")
    axis.scatter(noise, numbers["value"], s=3, color=COLOURS[0], alpha=0.2, linewidths=0, rasterized=True, label="a scheme")
    axis.fill_between(bins["noise"], bins["low"], bins["high"], color="0.3", alpha=0.2, linewidth=0, label="90 % of schemes")
    axis.plot(bins["noise"], bins["median"], color=COLOURS[4], linewidth=1.4, label="median")
    up_to, worst = (np.array(values) for values in numbers["worst"])
    shown = up_to < right
    line: dict[str, Any] = {"where": "post", "color": COLOURS[1], "linewidth": 1.2, "label": "worst up to this noise"}
    axis.step([*up_to[shown], right], [*worst[shown], worst[shown][-1]], **line)
    beyond = []
    for form, (at, value) in numbers["forms"].items():
        if at >= right:  # schemes would be crowded
            beyond.append(f"{form}: {value:.4g} at {at:.2g} $\\rightarrow$")
            continue
        axis.plot(
            at, value, marker="D", markersize=3.5, linestyle="none", color=COLOURS[2], label="lossy input, no int8", zorder=3
        )
        axis.annotate(f"  {form}", (at, value), fontsize=6.5, va="center", color=COLOURS[2], zorder=3)
    axis.text(0.99, 0.01, "\n".join(beyond), transform=axis.transAxes, fontsize=6.5, ha="right", va="bottom", color=COLOURS[2])
    low, high = axis.get_ylim()
    high = min(high, 1 + 0.1 * (1 - low)) if numbers["float32"] == 1 else high  # no share is beyond
    axis.set_ylim(low - 0.1 * (high - low) * bool(beyond), high)  # room for what lies beyond
    if numbers["standard_error"] is not None:
        middle = low + 0.12 * (high - low) + numbers["standard_error"]
        bar: dict[str, Any] = {"fmt": "none", "color": "0.25", "capsize": 2.5, "elinewidth": 1.0}
        axis.errorbar([0.06 * right], [middle], yerr=numbers["standard_error"], label="± standard error over images", **bar)
    axis.set(title=numbers["title"], xlabel="noise $\\rho$", xlim=(-0.02 * right, right))


def _words(samples: NoiseSamples, shown: dict[str, dict[str, Any]], at: float) -> tuple[str, str]:
    count, images = len(samples.frame), samples.origin.get("images", "unknown")
    every = "all" if count == 2 ** len(samples.layers) else "measured"
    what = ", ".join(numbers["title"] for numbers in shown.values())
    model = Path(samples.origin.get("model", "the model")).stem
    caption = (
        f"What the noise means for the task of {model}: {what} of {every} {count} choices of "
        f"{len(samples.layers)} int8 layers against their noise, both on the same {images} images; nothing is emulated, "
        "predicted or scaled. Scales do not begin at 0. Points are schemes, the line their median, the band 90 % of them, the "
        "steps the worst up to a noise"
    )
    forms = [*dict.fromkeys(form for numbers in shown.values() for form in numbers["forms"])]
    caption += f"; {', '.join(forms)}: inputs in these forms, nothing in int8." if forms else "."
    parts = []
    for numbers in shown.values():
        text = f"{numbers['title']}: {numbers['float32']:.4g} of the float32 model"
        if numbers["worst_at"] is not None:
            text += f", {numbers['worst_at']:.4g} at worst up to a noise of {at:g}"
        up_to, worst = numbers["worst"]
        text += f", {worst[-1]:.4g} at worst up to {up_to[-1]:.3g}"
        if numbers["standard_error"] is not None:
            text += f"; standard error over images {numbers['standard_error']:.2g}"
        if numbers["rank_correlation"] is not None:
            text += f"; rank correlation of the loss with the noise {numbers['rank_correlation']:.2f}"
        if numbers["above_float32_%"]:
            text += f"; {numbers['above_float32_%']:.0f} % of the schemes score above float32"
        parts.append(text)
    return caption, ". ".join(parts) + "."
