"""Images of 8 bits inside of tensors: the scale, the offset and the layout by which a tensor holds them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dnnsplit.ground.errors import DnnSplitError, OptionError, nearest, raise_problems

LAYOUTS = ("NCHW", "NHWC", "CHW", "HWC")
CHANNELS = (1, 3, 4)
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # mean and deviation of its pixels, as RGB
ARITHMETIC = 4 * float(np.finfo(np.float32).eps)  # by how much of the largest value float32 may miss a level
CHANCE = 1e-6  # that numbers which are no pixels lie on the levels as closely
PATTERNS = 4  # of bits in which one level may be seen: another order of operations rounds otherwise


class Unfit(DnnSplitError):
    """An array cannot be written in a form: the form would not hold its values."""


class Malformed(DnnSplitError):
    """Bytes are not what a form says that they are."""


@dataclass(frozen=True)
class Pixels:
    """How a tensor holds images: value = offset + scale * k, with k in 0..255, per channel.

    Parameters
    ----------
    layout : str
        "NCHW", "NHWC", "CHW" or "HWC".
    scale, offset : tuple[float, ...]
        One per channel (1, 3 or 4 of them).
    exact : bool
        Whether every value that was seen is bit for bit one of the `levels`.
    table : tuple[tuple[float, ...], ...], default ()
        The 256 values of each channel, where the formula does not give them to the last bit.

    Raises
    ------
    OptionError
        An unknown layout, no number of channels of an image, scales of 0, tables of other lengths.
    """

    layout: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    exact: bool
    table: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.layout not in LAYOUTS:
            problems.append(f"the layout {self.layout!r} is unknown{nearest(self.layout, LAYOUTS)}")
        if len(self.scale) not in CHANNELS or len(self.offset) != len(self.scale):
            problems.append(f"{len(self.scale)} scales and {len(self.offset)} offsets: an image has 1, 3 or 4 of both")
        if not all(map(math.isfinite, (*self.scale, *self.offset))) or 0 in self.scale:
            problems.append("scales and offsets must be finite, and no scale 0")
        if self.table and [len(values) for values in self.table] != [256] * len(self.scale):
            problems.append("the table must have 256 values for each channel")
        raise_problems(OptionError, "pixels", problems)

    @cached_property
    def levels(self) -> np.ndarray:
        """The values of k = 0..255 by channel, (channels, 256), in float64: a tensor holds them rounded to its own type."""
        return np.array(self.table) if self.table else _levels(np.array(self.scale), np.array(self.offset))

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int] | None:
        """Return images, height, width and channels of an array, None where one of this shape holds no such images."""
        if len(shape) != len(self.layout) or shape[self.layout.index("C")] != len(self.scale):
            return None
        found = dict(zip(self.layout, shape, strict=True))
        return found.get("N", 1), found["H"], found["W"], found["C"]

    def images(self, array: np.ndarray, exact: bool = False) -> np.ndarray:
        """Return the images that an array holds.

        Parameters
        ----------
        array : np.ndarray
            In the layout.
        exact : bool, default False
            Every value must be bit for bit a level.

        Returns
        -------
        np.ndarray
            uint8, (images, height, width, channels).

        Raises
        ------
        Unfit
            Another shape, or values further than half a step from every level (or, with `exact`, that are none).
        """
        if self.sizes(array.shape) is None or array.dtype.kind not in "fiu":
            message = f"{array.dtype} of shape {array.shape} holds no {self.layout} images of {len(self.scale)} channels"
            raise Unfit(message)
        values = _channels_last(array, self.layout)
        working = np.float32 if array.dtype in (np.float32, np.float16, np.uint8) else np.float64
        with np.errstate(all="ignore"):  # what is no number, or too large for one, is found below
            steps = np.subtract(values, np.array(self.offset, working), dtype=working)
            steps *= np.array(1 / np.array(self.scale), working)
        np.rint(steps, out=steps)
        if array.size and not (steps.min() >= 0 and steps.max() <= 255):
            message = (
                f"values from {array.min()} to {array.max()} are not all within half a step of the 256 levels of 8-bit images"
            )
            raise Unfit(message)
        images = np.ascontiguousarray(steps, np.uint8)
        if exact and not np.array_equal(_bits(self._values(images, array.dtype)), _bits(values)):
            message = "values lie between the 256 levels of 8-bit images"
            raise Unfit(message, "a form that is not lossless rounds them")
        return images

    def array(self, images: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return the array that holds some images.

        Parameters
        ----------
        images : np.ndarray
            uint8, (images, height, width, channels).
        dtype, shape : str, tuple[int, ...]
            Of the array.

        Returns
        -------
        np.ndarray
            In the layout.

        Raises
        ------
        Malformed
            An array of this shape does not hold them.
        """
        if images.shape != self.sizes(shape):
            message = f"images of {images.shape} are not those of a {self.layout} tensor of shape {tuple(shape)}"
            raise Malformed(message)
        array = np.empty(shape, dtype)
        self._values(images, array.dtype, _channels_last(array, self.layout))
        return array

    def _values(self, images: np.ndarray, dtype: np.dtype, out: np.ndarray | None = None) -> np.ndarray:
        """Look the levels up, channels last."""
        values = np.empty(images.shape, dtype) if out is None else out
        with np.errstate(all="ignore"):  # a type that does not hold the levels
            levels = self.levels.astype(dtype)
        for channel, its in enumerate(levels):
            values[..., channel] = its[images[..., channel]]
        return values


def find_pixels(arrays: Sequence[np.ndarray]) -> Pixels | None:
    """Find how arrays hold images of 8 bits.

    The values of all arrays are compared with the usual ways of holding pixels, k/255, k/127.5 - 1, k itself and ImageNet's mean
    and deviation, in this order: 0 and 1 alone are black and white. Where none fits, any even steps are looked for, if all
    channels have many values; levels that lie below and above those seen are then as many. What chance alone may do is no image.

    Parameters
    ----------
    arrays : Sequence[np.ndarray]
        Of one tensor: of one type, and of shapes that differ in the number of images, height and width at most.

    Returns
    -------
    Pixels | None
        None where they hold no such images, or too few values to tell.

    Examples
    --------
    >>> find_pixels([np.arange(192, dtype=np.float32).reshape(1, 3, 8, 8) / 255]).scale[0] * 255
    1.0
    """
    types = {array.dtype.newbyteorder("=") for array in arrays}
    if len(types) != 1 or not all(kind.kind in "fiu" and kind.itemsize <= 8 for kind in types):
        return None
    (dtype,) = types
    for layout in LAYOUTS:
        if all(array.ndim == len(layout) for array in arrays):
            views = [_channels_last(array, layout) for array in arrays]
            counts = {view.shape[-1] for view in views}
            if len(counts) == 1 and counts <= {*CHANNELS} and (found := _found(views, dtype, layout)):
                return found
    return None


def _found(views: list[np.ndarray], dtype: np.dtype, layout: str) -> Pixels | None:
    patterns = [_patterns(views, channel) for channel in range(views[0].shape[-1])]
    seen = [bits.view(dtype).astype(np.float64) for bits in patterns]
    if not all(0 < len(values) <= 256 * PATTERNS and np.isfinite(values).all() for values in seen):
        return None
    for scale, offset in (*_usual(len(seen), dtype), *_even_steps(seen, dtype)):
        steps = [_steps(*of, dtype) for of in zip(seen, scale, offset, strict=True)]
        likely = max((2 * _tolerance(v, o, dtype) / s) ** len(v) for v, s, o in zip(seen, scale, offset, strict=True))
        if all(k is not None for k in steps) and likely <= CHANCE:
            return _pixels(layout, scale, offset, dtype, patterns, steps)
    return None


def _usual(channels: int, dtype: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield scales and offsets by which networks commonly want pixels."""
    ways = [(1.0, 0.0), (1.0, -128.0)]
    for scale, offset in ways if dtype.kind in "iu" else [(1 / 255, 0.0), (1 / 127.5, -1.0), *ways]:
        yield np.full(channels, scale), np.full(channels, offset)
    if channels == 3 and dtype.kind == "f":
        mean, deviation = IMAGENET
        yield 1 / 255 / deviation, -mean / deviation
        yield (1 / 255 / deviation)[::-1], (-mean / deviation)[::-1]


def _even_steps(seen: list[np.ndarray], dtype: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the widest steps that all values are apart."""
    if dtype.kind != "f" or min(map(len, seen)) < 16:
        return
    scales, offsets = [], []
    for values in seen:
        span = values[-1] - values[0]
        for count in range(len(values) // PATTERNS, 256):
            if (k := _steps(values, span / count, values[0], dtype)) is not None:
                scale, least = np.polyfit(k, values, 1)
                scales.append(scale)
                offsets.append(least - (255 - count) // 2 * scale)
                break
        else:
            return
    yield np.array(scales), np.array(offsets)


def _steps(values: np.ndarray, scale: float, offset: float, dtype: np.dtype) -> np.ndarray | None:
    """Return the level of each value, None where one is off all levels."""
    k = np.rint((values - offset) / scale)
    apart = np.abs(values - (offset + scale * k))
    return k.astype(int) if (k >= 0).all() and (k <= 255).all() and (apart <= _tolerance(values, offset, dtype)).all() else None


def _tolerance(values: np.ndarray, offset: float, dtype: np.dtype) -> float:
    """Return by how much a value may miss its level: float32's arithmetic, and then the rounding to the type; 0 of integers."""
    if dtype.kind != "f":
        return 0.0
    return (ARITHMETIC + float(np.finfo(dtype).eps) / 2) * max(abs(offset), float(np.abs(values).max()))


def _pixels(
    layout: str,
    scale: np.ndarray,
    offset: np.ndarray,
    dtype: np.dtype,
    patterns: list[np.ndarray],
    steps: list[np.ndarray | None],
) -> Pixels:
    with np.errstate(all="ignore"):
        levels = _levels(scale, offset).astype(dtype)
    formula, exact = _bits(levels), True
    table = formula.copy()
    for channel, (bits, k) in enumerate(zip(patterns, steps, strict=True)):
        table[channel, k] = bits
        exact = exact and len(np.unique(k)) == len(bits)
    values = () if np.array_equal(table, formula) else tuple(map(tuple, table.view(dtype).astype(np.float64).tolist()))
    return Pixels(layout, tuple(scale.tolist()), tuple(offset.tolist()), exact, values)


def _patterns(views: list[np.ndarray], channel: int) -> np.ndarray:
    """Return the bits of the distinct values of a channel, in the order of the values; of the first arrays, once too many."""
    bits = np.array([], _bits(views[0]).dtype)
    for view in views:
        bits = np.union1d(bits, _bits(view[..., channel]))
        if len(bits) > 256 * PATTERNS:
            break
    dtype = views[0].dtype.newbyteorder("=")
    return bits[np.argsort(bits.view(dtype), kind="stable")]


def _levels(scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    levels: np.ndarray = offset[:, None] + scale[:, None] * np.arange(256)
    return levels


def _bits(values: np.ndarray) -> np.ndarray:
    """Return the bits of numbers as whole numbers: 0.0 and -0.0 are two."""
    plain = values.astype(values.dtype.newbyteorder("="), copy=False)
    return plain.view(f"u{plain.dtype.itemsize}")


def _channels_last(array: np.ndarray, layout: str) -> np.ndarray:
    """Return a view: images, height, width, channels."""
    batch = array if "N" in layout else array[None]
    return np.moveaxis(batch, 1, 3) if layout.endswith("CHW") else batch
