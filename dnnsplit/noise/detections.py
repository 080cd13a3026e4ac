"""Decoding and comparing of YOLO11 detections: NumPy on arrays; no model runs here.

Detections are (n, 6) float32 rows `class, score, left, top, right, bottom` and boxes (m, 5) rows
`class, left, top, right, bottom`; coordinates are pixels of the network input.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

import numpy as np

from dnnsplit.ground.errors import DnnSplitError

MOST_DETECTIONS = 300  # kept per picture, the best scores first
OVERLAP = 0.6  # intersection over union above which two detections of a class are of one thing


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the (n, m) intersection over union of n and m boxes `left, top, right, bottom`."""
    a, b = np.asarray(first, dtype=np.float64)[:, None, :], np.asarray(second, dtype=np.float64)[None, :, :]
    shared = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1)
    return np.asarray(shared / np.maximum(areas - shared, 1e-12))


def non_maximum_suppression(detections: np.ndarray) -> np.ndarray:
    """Drop every detection that overlaps a better one of its class by more than `OVERLAP`.

    Parameters
    ----------
    detections : np.ndarray
        (n, 6) rows, in any order.

    Returns
    -------
    (k, 6) array
        The kept rows, best score first, at most `MOST_DETECTIONS`.
    """
    rows = np.asarray(detections)
    if rows.ndim != 2 or rows.shape[1] != 6:
        message = f"detections must have the shape (n, 6), got {rows.shape}"
        raise DnnSplitError(message)
    return np.asarray(rows[survivors(rows)])


def survivors(rows: np.ndarray) -> np.ndarray:
    """Return which detections `non_maximum_suppression` keeps, in its order."""
    order = np.argsort(-rows[:, 1], kind="stable")
    rows, kept = rows[order], list[int]()
    # The best of all classes comes next, so that work ends with the last that is kept, however many a broken output holds.
    waiting = [np.flatnonzero(rows[:, 0] == label) for label in np.unique(rows[:, 0])]
    heads = [(int(group[0]), group[1:]) for group in waiting]
    heapify(heads)
    while heads and len(kept) < MOST_DETECTIONS:
        best, rest = heappop(heads)
        kept.append(best)
        rest = rest[intersection_over_union(rows[[best], 2:], rows[rest, 2:])[0] <= OVERLAP]
        if len(rest):
            heappush(heads, (int(rest[0]), rest[1:]))
    return order[np.array(kept, np.intp)]


def decode(output: np.ndarray, threshold: float = 0.01) -> np.ndarray:
    """Turn the output of a YOLO11 detector for one picture into detections.

    Parameters
    ----------
    output : np.ndarray
        (1, 4 + classes, anchors) or (4 + classes, anchors): cx, cy, w, h in pixels, then the class scores in [0, 1].
    threshold : float, default 0.01
        Lowest score that counts; low for scoring (a curve needs the tail), 0.25 or so for showing.

    Returns
    -------
    (n, 6) float32 array
        Best score first; one anchor may stand for several classes.
    """
    table = np.asarray(output, dtype=np.float32)
    if table.ndim == 3 and len(table) == 1:
        table = table[0]
    if table.ndim != 2 or len(table) < 5:
        message = f"a detector output has the shape (1, 4 + classes, anchors), got {np.shape(output)}"
        raise DnnSplitError(message)
    rows, _ = candidates(table, threshold)
    return non_maximum_suppression(rows)


def candidates(table: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the detections in (4 + classes, anchors) before any is suppressed, and the anchor of each."""
    if not 0 <= threshold <= 1:
        message = f"threshold must lie between 0 and 1, got {threshold!r}"
        raise DnnSplitError(message)
    labels, anchors = np.nonzero(table[4:] >= threshold)
    centres, half = table[:2, anchors].T, table[2:4, anchors].T / 2
    rows = np.column_stack([labels, table[4 + labels, anchors], centres - half, centres + half]).astype(np.float32)
    return rows, anchors


def taken_by(overlaps: np.ndarray, least: float) -> np.ndarray:
    """Return how far each detection (best first) overlaps the true one that it takes and no better one has taken; else 0."""
    taken, free = np.zeros(len(overlaps)), np.ones(overlaps.shape[1], dtype=bool)
    for row, overlap in enumerate(overlaps):
        candidate = np.where(free, overlap, -1.0)
        if len(candidate) and candidate.max() >= least:
            free[candidate.argmax()], taken[row] = False, candidate.max()
    return taken


def agreement(detections: np.ndarray, reference: np.ndarray) -> float:
    """Return how far two sets of detections of one picture agree: F1, averaged over COCO's overlaps 0.5, 0.55, ..., 0.95.

    The reference's detections are taken as true boxes. A pair of the same class counts at every overlap (intersection over
    union) that it reaches: a shifted box agrees in part. No labels are needed, and equal sets give exactly 1, also empty ones.

    Parameters
    ----------
    detections, reference : np.ndarray
        (n, 6) and (m, 6) rows, see `decode`.
    """
    return matched(detections, reference, lambda a, b: intersection_over_union(detections[a, 2:], reference[b, 2:]))


def matched(detections: np.ndarray, reference: np.ndarray, overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """Return `agreement`, by the overlaps that a function gives of detections with those of the reference, by their rows."""
    total = len(detections) + len(reference)
    if not total:
        return 1.0
    pairs = 0
    for label in np.unique(reference[:, 0]):
        found, truth = (np.flatnonzero(rows[:, 0] == label) for rows in (detections, reference))
        found = found[np.argsort(-detections[found, 1], kind="stable")]
        # Rounding must not move a box that is just there to the next overlap.
        pairs += (taken_by(overlaps(found, truth), 0.5)[:, None] >= np.arange(50, 100, 5) / 100 - 1e-9).sum()
    return float(2 * pairs / (10 * total))
