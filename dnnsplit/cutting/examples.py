"""What the parts of a bundle are warmed up with: values like those that were seen when the parts were checked.

A part that is run on any made-up values may fail, for whole numbers often say a shape or a place. So those are kept as they
were, where they are few; of other values the least and the greatest are kept, and as many are drawn between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dnnsplit.codecs.pixels import Pixels

if TYPE_CHECKING:
    from dnnsplit.cutting.bundle import Wire

WHOLE = "iub"  # kinds of numpy's types
FEW = 256  # whole numbers that are kept


@dataclass(frozen=True)
class Example:
    """What was seen of a tensor: all its values if they are few whole numbers or truth values, else their range."""

    wire: str
    least: float = 0.0
    greatest: float = 1.0
    values: tuple[int, ...] = ()  # in row-major order


def example_of(wire: str, array: np.ndarray) -> Example:
    """Return what is kept of an array; of floats, three digits of the least and the greatest that are finite."""
    if array.dtype.kind in WHOLE and array.size <= FEW:
        return Example(wire, values=tuple(int(value) for value in array.ravel()))
    finite = array[np.isfinite(array)]
    if not finite.size:
        return Example(wire)
    least, greatest = float(finite.min()), float(finite.max())
    if array.dtype.kind not in WHOLE:  # other kernels round the last digits otherwise
        least, greatest = float(f"{least:.3g}"), float(f"{greatest:.3g}")
    return Example(wire, least, greatest)


def some_images(pixels: Pixels, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return images of all values, always the same, as a tensor holds them."""
    return pixels.array(np.random.default_rng(0).integers(0, 256, pixels.sizes(shape), np.uint8), dtype, shape)


def drawn(wire: Wire, examples: Mapping[str, Example], pixels: Pixels | None = None) -> np.ndarray:
    """Return values for a wire of fixed shape, always the same: those that were seen, or some of their range, or images.

    Of a wire that was never seen they are between 0 and 1, whole numbers are 1.
    """
    if pixels is not None:
        return some_images(pixels, wire.dtype, wire.shape)
    example, dtype = examples.get(wire.name), np.dtype(wire.dtype)
    if example is not None and example.values and len(example.values) == math.prod(wire.shape):
        return np.array(example.values).astype(dtype).reshape(wire.shape)
    if dtype.kind in WHOLE and example is None:
        return np.ones(wire.shape, dtype)
    example, share = example or Example(wire.name), np.random.default_rng(0).random(wire.shape)
    values = np.asarray(example.least * (1 - share) + example.greatest * share)
    return (values.round() if dtype.kind in WHOLE else values).astype(dtype)
