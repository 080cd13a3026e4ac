"""What a limit on the noise means for the task: the noise up to which another metric stays within what is asked of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, OptionError, nearest
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.ground.units import is_whole
from dnnsplit.noise.confidence import share_bound, upper_bound
from dnnsplit.noise.samples import SOURCE, NoiseSamples

TOP1 = "top1"  # and that of one output alone begins so
SHARES = (TOP1, "disagreement")  # metrics between 0 and 1
CONFIDENCE = 0.95  # with which a share is told to be too small for so few images


@dataclass(frozen=True, eq=False)
class NoiseLimit:
    """A limit on the noise that keeps another metric; made by `noise_for`.

    Attributes
    ----------
    limit : float
        The noise: what `split` takes as ``max_noise``.
    metric : str
        What it keeps.
    at_most : float
        How far.
    share : float
        Of the schemes up to the limit that keep it, at least.
    confidence : float | None
        Of the upper bound over images that is kept; None: the mean over images is.
    images : int | None
        How many images the means are over; None where that is not known.
    complete : bool
        All schemes of the layers were measured.
    correlation : float
        Of the ranks of noise and metric over the rows of `frame`; NaN where either is the same for all. The nearer to 0, the
        less does the noise tell which scheme is better, and the more of those that a limit refuses would keep the metric.
    frame : pd.DataFrame
        What makes noise, by ascending noise: the schemes that quantize something, and lossy forms of the inputs where the metric
        is known of them. Columns noise, value (of the metric, mean over images), upper (its bound, NaN without a confidence),
        source (the form; "": as they are), keeps.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> limit = ds.noise_for(ds.examples.yolo11n_task(), "disagreement", at_most=0.01)
    >>> 0.01 < limit.limit < 0.1
    True
    """

    limit: float
    metric: str
    at_most: float
    share: float
    confidence: float | None
    images: int | None
    complete: bool
    correlation: float
    frame: pd.DataFrame = field(repr=False)

    @property
    def within(self) -> pd.DataFrame:
        """The rows of `frame` up to the limit."""
        return self.frame[self.frame["noise"] <= self.limit]

    @property
    def worst(self) -> float:
        """The worst value of the metric up to the limit; its bound, with a confidence."""
        return float(self.within["value" if self.confidence is None else "upper"].max())

    @property
    def unmeasured(self) -> float:
        """Upper bound, of 95 % confidence, of the share of all schemes up to the limit that break it: 0 where all were measured.

        It is that of Clopper and Pearson (Biometrika 26, 1934), and holds if the schemes were chosen at random.
        """
        broken = int((~self.within["keeps"]).sum())
        return broken / len(self.within) if self.complete else float(share_bound(broken, len(self.within), 0.95))

    def __repr__(self) -> str:
        count, kept = len(self.within), int(self.within["keeps"].sum())
        over = "an unknown number of images" if self.images is None else f"{self.images} images"
        what = f"the mean over {over}"
        if self.confidence is not None:
            what = f"the upper bound ({self.confidence:g} confidence, each scheme alone) of the mean over all images, from {over}"
        known = "all there are" if self.complete else f"if chosen at random, {self.unmeasured:.2g} of all break it at most (0.95)"
        after, forms = self.frame[self.frame["noise"] > self.limit], int((self.frame["source"] != "").sum())
        measured = f"{len(self.frame)} measured{f' ({forms} with inputs in lossy forms)' if forms else ''}"
        beyond = f"{int(after['keeps'].sum())} of the {len(after)} noisier ones keep it too"
        if after.empty:
            beyond = "every measured scheme is within: the limit may lie higher, and none is needed for these layers"
        return folded(
            f"NoiseLimit: up to a noise of {self.limit:.4g}, {self.metric} <= {self.at_most:g}, by {what}\n"
            f"  {kept} of {count} schemes up to it keep that (worst {self.worst:.4g}), of {measured}, {known}\n"
            f"  {beyond}"
            + ("" if np.isnan(self.correlation) else f"; rank correlation with the noise {self.correlation:.2f}")
            + self._unsure()
        )

    def _unsure(self) -> str:
        """Say where a share is less than so few images can tell, in a line of its own."""
        least = (self.images or 0) * self.at_most
        if not self.metric.startswith(TOP1) or self.confidence is not None or not 0 < least < 1:
            return ""
        return (
            f"\n  {TOP1} is the share of images whose class changes, and {self.images} cannot tell {self.at_most:g}: with "
            f"{CONFIDENCE:g} confidence that takes {_images_for(self.at_most, CONFIDENCE)} where none of them changes"
        )

    def _repr_html_(self) -> str:
        return shown(self, readable(self.frame.head(8)))


def noise_for(
    samples: NoiseSamples,
    metric: str = "disagreement",
    at_most: float = 0.05,
    share: float = 1.0,
    confidence: float | None = None,
) -> NoiseLimit:
    """Propose a limit on the noise: the largest up to which the measured schemes keep another metric within `at_most`.

    Parameters
    ----------
    samples : NoiseSamples
        With the metric among their details: as `measure_noise` returns them, or read from a file that was saved with it.
    metric : str, default "disagreement"
        Any of the details that is 0 without quantization and more where it is worse: those of `dnnsplit.noise.metrics`
        (``measure_noise(..., detections=True)`` tells the disagreement of detections; of classifiers ``top1`` is told, the share
        of images whose class changes), and losses of precision (`dnnsplit.examples.scoring.task_scores`).
    at_most : float, default 0.05
        How much of it is allowed, in its own unit: 0.02 of ``top1`` where 98 % of the images are to keep their class. A loss of
        precision may be bounded by 0.
    share : float, default 1.0
        Of the schemes up to the limit that must keep it.
    confidence : float | None, optional
        Keep the upper bound of each scheme's mean over all images (0.95, say) rather than the mean of those measured: that of
        Student, as `dnnsplit.noise.confidence` has it, and of Clopper and Pearson for ``top1``, which counts.

    Returns
    -------
    NoiseLimit
        Its ``limit`` is what `split` takes as ``max_noise``.

    Raises
    ------
    NoiseError
        The metric was not measured, or is better where it is more, or is no number for a scheme; no spread over images where a
        confidence is asked for; no scheme that quantizes anything keeps it; some break it and the metric does not grow with the
        noise (a rank correlation of 0 or less), so that no limit on the noise is one on it.
    OptionError
        A share that is none, a confidence below 0.5, or 1 or more of a metric that is a share.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> frame = pd.DataFrame({"conv1": [0, 1, 0, 1], "conv2": [0, 0, 1, 1], "noise": [0, 0.02, 0.04, 0.05]})
    >>> samples = ds.NoiseSamples(frame, details=pd.DataFrame({"disagreement": [0, 0.01, 0.03, 0.08]}))
    >>> ds.noise_for(samples, "disagreement", at_most=0.05)
    NoiseLimit: up to a noise of 0.04, disagreement <= 0.05, by the mean over an
        unknown number of images
      2 of 2 schemes up to it keep that (worst 0.03), of 3 measured, all there are
      0 of the 1 noisier ones keep it too; rank correlation with the noise 1.00
    """
    check_arguments(noise_for, locals(), above={"share": 0}, most={"share": 1}, finite=("at_most",))
    if metric.startswith(SHARES) and not at_most < 1:
        message = f"at_most is {at_most:g}, but {metric} is a share of what changes: any noise keeps it below that"
        raise OptionError(message, "where 98 % are to stay as they are, give 0.02")
    parts = {"": samples} | {form: one for form, one in samples.sources.items() if metric in _metrics(one)}
    frame = pd.concat([_measured(one, metric).assign(source=form) for form, one in parts.items()], ignore_index=True)
    images = samples.origin.get("images") if is_whole(samples.origin.get("images"), 1) else None
    if confidence is not None:
        if frame["std"].isna().any() or not images or images < 2:
            message = f"{metric} has no spread over images, which its upper bound needs; measure on two images or more"
            raise NoiseError(message, "leave the confidence out")
        frame["upper"] = upper_bound(frame["value"], frame["std"], images, confidence)
        if metric.startswith(TOP1):
            frame["upper"] = share_bound(np.ceil(frame["value"] * images - 1e-9), images, confidence)
    frame["keeps"] = frame["value" if confidence is None else "upper"] <= at_most
    frame = frame[frame["makes"]].sort_values("noise", kind="stable", ignore_index=True).drop(columns=["std", "makes"])
    if frame.empty:
        message = "no sample quantizes anything, so there is nothing to limit"
        raise NoiseError(message, "measure schemes='alone' at least")
    correlation = (
        float(frame["noise"].rank().corr(frame["value"].rank())) if frame[["noise", "value"]].nunique().min() > 1 else np.nan
    )
    if correlation <= 0 and not frame["keeps"].all():
        message = (
            f"{metric} does not grow with the noise: the rank correlation over {len(frame)} schemes is {correlation:.2f}, so "
            "that a limit on the noise would keep it by chance"
        )
        raise NoiseError(message, "choose a metric that grows with it, or measure on more images")
    last = frame["noise"].to_numpy() != frame["noise"].shift(-1).to_numpy()  # schemes of one noise are allowed together
    enough = last & (frame["keeps"].cumsum() / np.arange(1, len(frame) + 1) >= share).to_numpy()
    if not enough.any():
        first = frame.iloc[0]
        told = f"{first['value']:.4g}" + (
            "" if confidence is None else f", at most {first['upper']:.4g} with {confidence:g} confidence"
        )
        message = f"no limit on the noise keeps {metric} <= {at_most:g}: at the least noise, {first['noise']:.4g}, it is {told}"
        more = "measure on more images, "
        if confidence is not None and metric.startswith(TOP1) and at_most > 0 and images:
            needed = _images_for(at_most, confidence)
            more = f"measure on {needed} images, the fewest that can show it, or on more, " if needed > images else more
        raise NoiseError(message, f"{more}allow more of it, quantize other layers, or none: max_noise=0")
    limit = float(frame["noise"].to_numpy()[enough].max())
    return NoiseLimit(limit, metric, at_most, share, confidence, images, samples.complete, correlation, frame)


def _images_for(share: float, confidence: float) -> int:
    """Return how many images bound a share with a confidence where none of them is of it (Clopper and Pearson)."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-share))


def _metrics(samples: NoiseSamples) -> list[str]:
    """Return the metrics that samples know and that are more where they are worse."""
    names = [] if samples.details is None else [str(column) for column in samples.details]
    return [name for name in names if not name.endswith(" std") and not name.startswith("snr")]


def _measured(samples: NoiseSamples, metric: str) -> pd.DataFrame:
    """Return noise, value and spread of a metric by sample, and whether anything makes noise in it."""
    known = _metrics(samples)
    if metric not in known or samples.details is None:
        message = f"metric {metric!r} was not measured with these samples{nearest(metric, known)}"
        if metric.startswith("snr"):
            message = f"{metric} is less where it is worse, so it has no upper limit; take {metric.replace('snr_db', 'nsr')}"
        way_out = (
            "take one that was (--metric), or measure it: `measure_noise` tells top1 of classifiers, and the disagreement of "
            "detections with detections=True; save(path, details=[...]) keeps it, as does `dnnsplit noise --metric`"
        )
        raise NoiseError(message, way_out)
    value = samples.details[metric].to_numpy(float)
    if np.isnan(value).any():
        message = f"{metric} is no number for {int(np.isnan(value).sum())} schemes"
        raise NoiseError(message, "measure it for all, or leave these out: samples.only(rows)")
    std = samples.details.get(f"{metric} std", pd.Series(np.nan, samples.details.index)).to_numpy(float)
    makes = samples.schemes.any(axis=1) | (SOURCE in samples.origin)
    return pd.DataFrame({"noise": samples.noise, "value": value, "std": std, "upper": np.nan, "makes": makes})
