"""Scoring of detections: against true boxes by COCO's mean average precision, and against the float32 model's by their F1.

Detections and boxes are rows as in `dnnsplit.noise.detections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DnnSplitError, raise_problems
from dnnsplit.noise.detections import agreement, decode, intersection_over_union
from dnnsplit.noise.meter import NoiseMeter
from dnnsplit.noise.metrics import SHOWN
from dnnsplit.noise.samples import NoiseSamples

OVERLAPS = tuple(percent / 100 for percent in range(50, 100, 5))  # intersection over union, of COCO
PRECISIONS = ("mAP50_loss", "mAP75_loss", "mAP50-95_loss")


def true_boxes(boxes: np.ndarray, width: int, height: int | None = None) -> np.ndarray:
    """Turn label rows into corner rows in pixels.

    Parameters
    ----------
    boxes : np.ndarray
        (n, 5) rows `class, cx, cy, w, h`, the last four as fractions of the picture.
    width : int
        Picture width in pixels.
    height : int | None, optional
        Picture height in pixels; None means square.

    Returns
    -------
    (n, 5) float32 array
        Rows `class, left, top, right, bottom`.
    """
    table = np.asarray(boxes, dtype=np.float32)
    if table.ndim != 2 or table.shape[1] != 5:
        message = f"boxes must have the shape (n, 5), got {table.shape}"
        raise DnnSplitError(message)
    scale = np.array([width, height or width], dtype=np.float32)
    half = table[:, 3:] / 2
    return np.column_stack([table[:, 0], (table[:, 1:3] - half) * scale, (table[:, 1:3] + half) * scale])


class Judged(NamedTuple):
    """The detections of one picture, best first: class and score of each (n,), and whether it is a hit (n, overlaps)."""

    labels: np.ndarray
    scores: np.ndarray
    hits: np.ndarray


def judged(found: np.ndarray, truth: np.ndarray, overlaps: Sequence[float] = OVERLAPS) -> Judged:
    """Tell which detections of one picture find a true box.

    At each overlap (intersection over union) detections claim true boxes of their class, the best score first and each the free
    box that it overlaps most, provided that they overlap so far.

    Parameters
    ----------
    found : np.ndarray
        (n, 6) rows, see `dnnsplit.noise.detections.decode`.
    truth : np.ndarray
        (m, 5) rows, see `true_boxes`.
    overlaps : Sequence[float], optional
        Least overlaps that count as found; default: COCO's 0.5, 0.55, ..., 0.95.
    """
    found = found[np.argsort(-found[:, 1], kind="stable")]
    shared = intersection_over_union(found[:, 2:], truth[:, 1:])
    shared[found[:, :1] != truth[:, 0]] = -1.0
    least = np.asarray(overlaps) - 1e-9  # rounding must not lose a box that is just there
    free, hits, every = np.ones((len(least), len(truth)), bool), np.zeros((len(found), len(least)), bool), np.arange(len(least))
    for row in np.flatnonzero((shared >= least.min()).any(axis=1)):
        candidate = np.where(free, shared[row], -1.0)
        best = candidate.argmax(axis=1)
        hits[row] = candidate[every, best] >= least
        free[every[hits[row]], best[hits[row]]] = False
    return Judged(found[:, 0].astype(int), found[:, 1], hits)


def average_precisions(pictures: Sequence[Judged], boxes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return COCO's 101-point interpolated average precision of each class, at each overlap, over sets of pictures.

    Precision is first made non-increasing in recall, then averaged at the recalls 0, 0.01, ..., 1.

    Parameters
    ----------
    pictures : Sequence[Judged]
        What was found in each.
    boxes : np.ndarray
        Whole (pictures, classes): how many true boxes there are.
    times : np.ndarray
        Whole (sets, pictures): how often a set has a picture.

    Returns
    -------
    np.ndarray
        (sets, overlaps, classes) in [0, 1]; NaN for a class that does not occur.
    """
    labels, scores = (np.concatenate([getattr(one, part) for one in pictures]) for part in ("labels", "scores"))
    hits = np.concatenate([one.hits for one in pictures])
    picture = np.repeat(np.arange(len(pictures)), [len(one.labels) for one in pictures])
    order = np.argsort(-scores, kind="stable")
    totals = (times[:, :, None] * boxes).sum(axis=1)
    found = np.full((len(times), hits.shape[1], boxes.shape[1]), np.nan)
    for label in range(boxes.shape[1]):
        rows = order[labels[order] == label]
        total, often = totals[:, label, None, None], times[:, None, picture[rows]]
        if not len(rows):
            found[..., label] = np.where(total[..., 0] > 0, 0.0, np.nan)
            continue
        correct = (often * hits[rows].T).cumsum(axis=-1)
        precision = correct / np.maximum(often.cumsum(axis=-1), 1)
        precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
        # In whole numbers: k correct of n reach the recall p/100 exactly when 100 k >= p n. Recall 0 is reached at once.
        reached = 100 * correct // np.maximum(total, 1)
        area = precision[..., 0] + (np.diff(reached, prepend=0, axis=-1) * precision).sum(axis=-1)
        found[..., label] = np.where(total[..., 0] > 0, area / 101, np.nan)
    return found


def average_precision50(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int, least: float = 0.5
) -> tuple[float, np.ndarray]:
    """Score detections against true boxes: mAP50 by COCO's 101-point interpolation; see `judged` and `average_precisions`.

    Parameters
    ----------
    predictions : Sequence[np.ndarray]
        One (n, 6) array per picture, see `dnnsplit.noise.detections.decode`.
    truths : Sequence[np.ndarray]
        One (m, 5) array per picture, see `true_boxes`.
    classes : int
        Number of classes.
    least : float, default 0.5
        Intersection over union that counts as found; 0.5 makes this mAP50.

    Returns
    -------
    mean : float
        Mean of the per-class values, over the classes that occur in `truths`.
    per_class : (classes,) float64 array
        Average precision in [0, 1]; NaN for a class that does not occur.
    """
    if len(predictions) != len(truths) or not len(truths):
        message = f"{len(predictions)} predictions and {len(truths)} truths; give one of each per picture"
        raise DnnSplitError(message)
    pictures = [judged(found, truth, [least]) for found, truth in zip(predictions, truths, strict=True)]
    per_class = average_precisions(pictures, _boxes(truths, classes), np.ones((1, len(truths)), int))[0, 0]
    if np.isnan(per_class).all():
        message = "the pictures hold no true box of any class, so there is nothing to score"
        raise DnnSplitError(message)
    return float(np.nanmean(per_class)), per_class


def _boxes(truths: Sequence[np.ndarray], classes: int) -> np.ndarray:
    return np.array([np.bincount(truth[:, 0].astype(int), minlength=classes)[:classes] for truth in truths])


def task_scores(
    samples: NoiseSamples,
    meter: NoiseMeter,
    truths: Sequence[np.ndarray],
    classes: int,
    workers: int = 2,
    progress: bool = True,
) -> NoiseSamples:
    """Tell what each scheme, and each lossy form of the inputs, does to the detector's task, on the images of the meter.

    ``disagreement`` is 1 - F1 of the detections with the float32 model's (`dnnsplit.noise.detections.agreement`), the mean over
    the images, which needs no labels. ``mAP50_loss``, ``mAP75_loss`` and ``mAP50-95_loss`` are how far the mean average precision
    of COCO, by labels and over all images together, is below the float32 model's: negative where it is above. Each has its
    sample standard deviation over images as ``... std`` beside it; that of a loss is of the jackknife's pseudo-values (Tukey
    1958), so that divided by the root of the number of images it is the standard error, as that of a mean is.

    Parameters
    ----------
    samples : NoiseSamples
        Measured on the images of the meter, with its layers: whose noise, and which schemes.
    meter : NoiseMeter
        Of a YOLO detector without masks.
    truths : Sequence[np.ndarray]
        True boxes of each image, see `true_boxes`.
    classes : int
        How many classes there are.
    workers : int, default 2
        Images scored side by side.
    progress : bool, default True
        Show a progress bar with the time left.

    Returns
    -------
    NoiseSamples
        The samples, and those of lossy forms, with these scores as their details; ``origin["float32"]`` has the precisions of the
        float32 model.

    Raises
    ------
    DnnSplitError
        Samples of other layers or images than the meter's, not one set of boxes per image, or no box at all.
    """
    check_arguments(task_scores, locals(), DnnSplitError, least={"classes": 1, "workers": 1}, most={"workers": 1024})
    apart = [key for key in ("model_sha256", "images_sha256") if samples.origin.get(key) != meter.origin[key]]
    problems = [f"samples and meter are apart: {key} differs" for key in apart]
    problems += ["samples and meter have other layers"] if samples.layers != meter.layers else []
    if len(truths) != meter.origin["images"]:
        problems.append(f"there are {len(truths)} sets of boxes and {meter.origin['images']} images; give one of each")
    raise_problems(DnnSplitError, "scores of a task", problems)
    if not sum(map(len, truths)):
        message = "the pictures hold no true box of any class, so there is nothing to score"
        raise DnnSplitError(message)
    parts = {"": samples, **samples.sources}
    orders = {form: np.lexsort(part.schemes.T[::-1]) for form, part in parts.items()}  # neighbours share most of their work
    bar = tqdm(total=len(truths) * sum(map(len, orders.values())), desc="task", unit="run", disable=not progress)

    def score(image: int) -> tuple[list[float], list[Judged]]:
        apart, found, reference = list[float](), list[Judged](), np.empty(0)
        for form, part in parts.items():
            for place, outputs in enumerate(meter.walk(image, part.schemes[orders[form]], form)):
                if form and not place:
                    continue  # of the float32 model, which a form is compared with where it reads the image as it is
                rows = decode(outputs[0])
                found.append(judged(rows, truths[image]))
                rows = rows[rows[:, 1] >= SHOWN]  # what is below suppressed none of them
                if not place:
                    reference = rows
                    continue
                apart.append(1 - agreement(rows, reference))
                bar.update()
        return apart, found

    with bar, ThreadPoolExecutor(workers) as pool:
        agreed, found = zip(*pool.map(score, range(len(truths))), strict=True)
    boxes, count = _boxes(truths, classes), len(truths)
    times = np.vstack([np.ones((1, count), int), 1 - np.eye(count, dtype=int)])  # all, then all but one
    precision = np.array([_means(average_precisions(pictures, boxes, times)) for pictures in zip(*found, strict=True)])
    loss = precision[0] - precision[1:]
    values = {"disagreement": np.array(agreed).T} | dict(zip(PRECISIONS, np.moveaxis(_pseudo(loss), -1, 0), strict=True))
    told = {name: value.mean(axis=1) for name, value in values.items()}
    told |= dict(zip(PRECISIONS, loss[:, 0].T, strict=True))
    table = pd.DataFrame({name: column for key in values for name, column in _with_spread(key, told[key], values[key]).items()})
    ends = np.cumsum([len(order) for order in orders.values()])[:-1]
    details = {
        form: table.iloc[rows[np.argsort(orders[form])]].reset_index(drop=True)
        for form, rows in zip(parts, np.split(np.arange(len(table)), ends), strict=True)
    }
    exact = {name.removesuffix("_loss"): float(value) for name, value in zip(PRECISIONS, precision[0, 0], strict=True)}
    sources = {form: replace(part, details=details[form]) for form, part in samples.sources.items()}
    return replace(samples, details=details[""], sources=sources, origin={**samples.origin, "float32": exact})


def _means(precisions: np.ndarray) -> np.ndarray:
    """Return what `PRECISIONS` are made of (sets, 3), from precisions (sets, overlaps, classes)."""
    by_overlap = np.nanmean(precisions, axis=-1)
    return np.column_stack([by_overlap[:, 0], by_overlap[:, OVERLAPS.index(0.75)], by_overlap.mean(axis=1)])


def _pseudo(values: np.ndarray) -> np.ndarray:
    """Return the jackknife's pseudo-values (schemes, n, k), from those of all n images and of all but one (schemes, 1 + n, k)."""
    count = values.shape[1] - 1
    return np.asarray(count * values[:, :1] - (count - 1) * values[:, 1:])


def _with_spread(name: str, mean: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
    spread = values.std(axis=1, ddof=1) if values.shape[1] > 1 else np.full(len(values), np.nan)
    return {name: mean, f"{name} std": spread}
