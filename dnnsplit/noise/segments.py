"""Decoding and comparing of YOLO11's segmentations: detections with a mask each; NumPy on arrays, no model runs here.

Masks are those of the prototypes' resolution, a quarter of the input's, and packed: 3 kB each at 640 x 640 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dnnsplit.ground.errors import DnnSplitError, NoiseError
from dnnsplit.noise.detections import candidates, matched, survivors

PIXELS = 4  # of the input, along a side, in a cell of the prototypes


@dataclass(frozen=True, eq=False)
class Segments:
    """The detections of one picture with their masks.

    Parameters
    ----------
    rows : np.ndarray
        (n, 6) float32, as `dnnsplit.noise.detections.decode` gives them, best score first.
    packed : np.ndarray
        (n, bytes) uint8: the cells of each mask, row by row, eight in a byte.
    shape : tuple[int, int]
        Height and width of a mask [cells], each of 4 x 4 pixels of the input.
    """

    rows: np.ndarray
    packed: np.ndarray
    shape: tuple[int, int]

    @property
    def masks(self) -> np.ndarray:
        """Bool (n, height, width)."""
        cells = np.unpackbits(self.packed, axis=1, count=self.shape[0] * self.shape[1])
        return cells.reshape(-1, *self.shape).astype(bool)


def decode_segments(output: np.ndarray, prototypes: np.ndarray, threshold: float = 0.01) -> Segments:
    """Turn the two outputs of YOLO11-seg for one picture into detections with masks.

    A mask is where the sum of the prototypes, each by its coefficient, is above 0 inside of the box. A detection of which the
    mask is empty is none.

    Parameters
    ----------
    output : np.ndarray
        (1, 4 + classes + coefficients, anchors): cx, cy, w, h in pixels, the class scores in [0, 1], the coefficients of masks.
    prototypes : np.ndarray
        (1, coefficients, height, width), a cell for 4 x 4 pixels of the input.
    threshold : float, default 0.01
        Lowest score that counts.

    Returns
    -------
    Segments
        At most 300; boxes suppress each other as in `dnnsplit.noise.detections.decode`.

    Raises
    ------
    DnnSplitError
        Outputs of other shapes, or a threshold that is no score.
    """
    if not are_segments([np.shape(output), np.shape(prototypes)]):
        message = (
            "a segmentation's outputs have the shapes (1, 4 + classes + coefficients, anchors) and "
            f"(1, coefficients, height, width), got {np.shape(output)} and {np.shape(prototypes)}"
        )
        raise DnnSplitError(message)
    table, maps = (np.asarray(one, dtype=np.float32)[0] for one in (output, prototypes))
    rows, anchors = candidates(table[: -len(maps)], threshold)
    kept = survivors(rows)
    rows, coefficients = rows[kept], table[-len(maps) :, anchors[kept]].T
    packed = [np.packbits(_mask(row[2:], factors, maps)) for row, factors in zip(rows, coefficients, strict=True)]
    height, width = maps.shape[1:]
    found = np.array(packed, np.uint8).reshape(len(rows), -(-height * width // 8))
    there = found.any(axis=1)
    return Segments(rows[there], found[there], (height, width))


def _mask(box: np.ndarray, coefficients: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Return the cells of one mask: those whose upper left corner is in the box, where the prototypes sum up to more than 0."""
    cells = np.zeros(maps.shape[1:], bool)
    left, top, right, bottom = np.nan_to_num(np.clip(np.ceil(box / PIXELS), 0, max(cells.shape))).astype(int)
    inside = slice(top, bottom), slice(left, right)
    # not by @, which would start BLAS's threads; inside of the box alone, which bounds work and memory
    cells[inside] = np.einsum("c,cyx->yx", coefficients, maps[:, *inside]) > 0
    return cells


def segments_agreement(found: Segments, reference: Segments) -> float:
    """Return `dnnsplit.noise.detections.agreement` with the intersection over union of masks in place of boxes."""

    def overlaps(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        masks = reference.packed[others]
        return np.array([_overlap(found.packed[row], masks) for row in rows]).reshape(len(rows), len(others))

    return matched(found.rows, reference.rows, overlaps)


def _overlap(mask: np.ndarray, masks: np.ndarray) -> np.ndarray:
    shared, all_ = (np.bitwise_count(cells).sum(axis=1, dtype=np.int64) for cells in (mask & masks, mask | masks))
    return np.asarray(shared / all_)


def are_segments(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether the first two outputs of these shapes are those of YOLO11-seg for one picture."""
    if len(shapes) < 2 or [len(shape) for shape in shapes[:2]] != [3, 4]:
        return False
    table, maps = shapes[:2]
    return table[0] == maps[0] == 1 and maps[1] > 0 and table[1] >= 5 + maps[1]


def check_detector(shapes: Sequence[tuple[int, ...]], metadata: Mapping[str, str]) -> None:
    """Raise NoiseError unless outputs of these shapes hold the detections of one picture, with masks or without.

    What the shapes tell is what counts; metadata that name another task, as Ultralytics writes it, are told before anything is
    measured.
    """
    seen = "segment" if are_segments(shapes) else "detect" if _is_table(shapes[0]) else ""
    task = metadata.get("task", seen)
    if seen and task == seen:
        return
    told = f" of a model whose metadata name the task {task!r}" if task else ""
    message = (
        f"there are no detections to compare in outputs of the shapes {', '.join(map(str, shapes))}{told}: YOLO11 has "
        "(1, 4 + classes, anchors), and with masks (1, 4 + classes + n, anchors) and (1, n, height, width) first"
    )
    raise NoiseError(message, "compare the outputs themselves, by rho, relative or nsr")


def _is_table(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] == 1 and shape[1] >= 5
