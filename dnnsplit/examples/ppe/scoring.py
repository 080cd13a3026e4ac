"""Scoring of detections against true boxes: mAP50 by COCO's 101-point interpolation, and its spread.

Detections and boxes are rows as in `dnnsplit.noise.detections`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dnnsplit.ground.errors import DnnSplitError
from dnnsplit.noise.detections import claimed


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


def interpolated_precision(scores: np.ndarray, hits: np.ndarray, truths: int) -> float:
    """Return the 101-point interpolated average precision of one class, as COCO defines it.

    Precision is first made non-increasing in recall, then averaged at the recalls 0, 0.01, ..., 1.

    Parameters
    ----------
    scores : np.ndarray
        (n,) scores of the detections.
    hits : np.ndarray
        (n,) whether each detection matched a true box.
    truths : int
        Number of true boxes, at least 1.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    correct = np.cumsum(np.asarray(hits, dtype=np.int64)[order])
    precision = correct / np.arange(1, len(order) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    # A whole-number comparison: k correct of n reach the recall p/100 exactly when 100 k >= p n.
    first = np.searchsorted(100 * correct, np.arange(101) * truths, side="left")
    return float(np.append(precision, 0.0)[np.minimum(first, len(order))].mean())


def average_precision50(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int, least: float = 0.5
) -> tuple[float, np.ndarray]:
    """Score detections against true boxes: mAP50 by COCO's 101-point interpolation.

    In each picture detections claim true boxes of their class, the best score first and each the free
    box that it overlaps most, provided that the intersection over union reaches `least`.

    Parameters
    ----------
    predictions : Sequence[np.ndarray]
        One (n, 6) array per picture, see `decode`.
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
    per_class = np.full(classes, np.nan)
    for label in range(classes):
        wanted = [truth[truth[:, 0] == label] for truth in truths]
        total = sum(len(truth) for truth in wanted)
        if not total:
            continue
        found = [rows[rows[:, 0] == label] for rows in predictions]
        found = [rows[np.argsort(-rows[:, 1], kind="stable")] for rows in found]
        hits = np.concatenate([claimed(rows, truth, least) > 0 for rows, truth in zip(found, wanted, strict=True)])
        per_class[label] = interpolated_precision(np.concatenate(found)[:, 1], hits, total)
    if np.isnan(per_class).all():
        message = "the pictures hold no true box of any class, so there is nothing to score"
        raise DnnSplitError(message)
    return float(np.nanmean(per_class)), per_class


def average_precision50_spread(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int, draws: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Return mAP50 and its standard deviation over sets of pictures drawn with replacement (the bootstrap).

    With a few pictures it is larger than what quantizing changes: see `dnnsplit.noise.metrics`.

    Parameters
    ----------
    predictions, truths, classes : Sequence[np.ndarray], Sequence[np.ndarray], int
        As for `average_precision50`.
    draws : int, default 100
        Sets of pictures; those without any true box are left out.
    seed : int, default 0
        Of the draws.
    """
    mean, _ = average_precision50(predictions, truths, classes)
    rng, values = np.random.default_rng(seed), []
    for _ in range(draws):
        chosen = rng.integers(0, len(truths), len(truths))
        if any(len(truths[i]) for i in chosen):
            values.append(average_precision50([predictions[i] for i in chosen], [truths[i] for i in chosen], classes)[0])
    return mean, float(np.std(values))
