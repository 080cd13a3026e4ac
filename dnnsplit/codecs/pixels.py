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
        if self.table and ([*map(len, self.table)] != [256] * len(self.scale) or not np.isfinite(self.table).all()):
            problems.append("the table must have 256 finite values for each channel")
        raise_problems(OptionError, "pixels", problems)

    @cached_property
    def levels(self) -> np.ndarray:
        """The values of k = 0..255 by channel, (channels, 256), in float64: a tensor holds them rounded to its own type."""
        with np.errstate(all="ignore"):  # scales that no tensor has
            return np.array(self.table, np.float64) if self.table else next(_levels(np.array(self.scale), np.array(self.offset)))

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int, int] | None:
        """Return images, height, width and channels of an array, None where one of this shape holds no such images."""
        if len(shape) != len(self.layout) or shape[self.layout.index("C")] != len(self.scale):
            return None
        found = dict(zip(self.layout, shape, strict=True))
        return found.get("N", 1), found["H"], found["W"], found["C"]

    def steps(self, array: np.ndarray, exact: bool = False) -> np.ndarray:
        """Return k of every value, as uint8, in the layout of the array; parameters and errors are those of `images`.

        An array of uint8 holds k already, as a camera gives it: no tensor of that type has other levels.
        """
        # by hand, for what comes as uint8 is ready in no time
        fits = len(array.shape) == len(self.layout) and array.shape[self._axis] == len(self.scale)
        if fits and array.dtype == np.uint8:
            return array
        if not fits or array.dtype.kind not in "fiu":
            message = f"{array.dtype} of shape {array.shape} holds no {self.layout} images of {len(self.scale)} channels"
            raise Unfit(message)
        working = np.float32 if array.dtype in (np.float32, np.float16) else np.float64
        with np.errstate(all="ignore"):  # what is no number, or too large for one, is found below
            near: np.ndarray = np.multiply(array, self._along((1 / np.array(self.scale)).astype(working)), dtype=working)
            near += self._along((0.5 - np.array(self.offset) / self.scale).astype(working))
            steps: np.ndarray = near.astype(np.uint8)
        if exact and np.array_equal(_bits(self.values(steps, array.dtype)), _bits(array)):
            return steps
        if array.size and not (near.min() >= 0 and near.max() < 256):
            message = f"values from {array.min()} to {array.max()} are not all within half a step of the levels of 8-bit images"
            raise Unfit(message)
        if exact:
            message = "values lie between the 256 levels of 8-bit images"
            raise Unfit(message, "a form that is not lossless rounds them")
        return steps

    def values(self, steps: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return the values of every k, uint8 in the layout of the array."""
        if self._formula and dtype == np.float32:
            operation, number, offset = self._formula
            values: np.ndarray = operation(steps, number, dtype=np.float32)
            return np.add(values, offset, out=values) if offset else values
        values = np.empty(steps.shape, dtype)
        with np.errstate(all="ignore"):  # a type that does not hold the levels
            levels = self.levels.astype(dtype)
        read, written = np.moveaxis(steps, self._axis, 0), np.moveaxis(values, self._axis, 0)
        for channel, its in enumerate(levels):
            written[channel] = its.take(read[channel])
        return values

    def images(self, array: np.ndarray, exact: bool = False) -> np.ndarray:
        """Return the images that an array holds.

        Parameters
        ----------
        array : np.ndarray
            In the layout; of uint8 also the k themselves.
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
        last = _channels_last(self.steps(array, exact), self.layout)
        images = np.empty(last.shape, np.uint8)
        for channel in range(len(self.scale)):  # three times faster than to copy pixel by pixel
            images[..., channel] = last[..., channel]
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
        steps = np.empty(shape, np.uint8)
        last = _channels_last(steps, self.layout)
        for channel in range(len(self.scale)):
            last[..., channel] = images[..., channel]
        return self.values(steps, np.dtype(dtype))

    @cached_property
    def _axis(self) -> int:
        return self.layout.index("C")

    def _along(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers of the channels to be broadcast over an array; one where all are alike, which takes less time."""
        if (numbers == numbers[0]).all():
            return np.asarray(numbers[0])
        return numbers.reshape([-1 if axis == "C" else 1 for axis in self.layout])

    @cached_property
    def _formula(self) -> tuple[np.ufunc, np.float32, np.float32] | None:
        """An operation and two numbers that give the levels of all channels in float32, faster than a table does."""
        with np.errstate(all="ignore"):  # scales that float32 does not hold
            levels, scale, offset = self.levels.astype(np.float32), np.float64(self.scale[0]), np.float32(self.offset[0])
            for operation, number in ((np.divide, np.float32(1 / scale)), (np.multiply, np.float32(scale))):
                values = operation(np.arange(256, dtype=np.uint8), number, dtype=np.float32) + offset
                if all(np.array_equal(_bits(its), _bits(values)) for its in levels):
                    return operation, number, offset
        return None


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
            if len(counts) == 1 and counts <= {*CHANNELS}:
                with np.errstate(all="ignore"):  # what overflows is on no level
                    found = _found(views, dtype, layout)
                if found:
                    return found
    return None


def _found(views: list[np.ndarray], dtype: np.dtype, layout: str) -> Pixels | None:
    patterns = [_patterns(views, channel) for channel in range(views[0].shape[-1])]
    seen = [bits.view(dtype).astype(np.float64) for bits in patterns]
    if not all(0 < len(values) <= 256 * PATTERNS and np.isfinite(values).all() for values in seen):
        return None
    for scale, offset in (*_usual(len(seen), dtype), *_even_steps(seen, dtype)):
        ways = list(zip(seen, scale, offset, strict=True))
        steps = [k for way in ways if (k := _steps(*way, dtype)) is not None]
        if len(steps) == len(seen):
            counts = [len(np.unique(k)) for k in steps]
            chances = [(2 * _tolerance(v, o, dtype) / s) ** count for (v, s, o), count in zip(ways, counts, strict=True)]
            if min(chances) <= CHANCE and (max(counts) > 1 or dtype.kind != "f"):
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
    layout: str, scale: np.ndarray, offset: np.ndarray, dtype: np.dtype, patterns: list[np.ndarray], steps: list[np.ndarray]
) -> Pixels | None:
    def missed(levels: np.ndarray) -> int:
        return sum(int(np.count_nonzero(its[k] != bits)) for its, bits, k in zip(levels, patterns, steps, strict=True))

    ways = [_bits(levels.astype(dtype)) for levels in _levels(scale, offset, np.float64 if dtype.itemsize > 4 else np.float32)]
    table = min(ways, key=missed).copy()  # of levels that were not seen, the likeliest
    for its, bits, k in zip(table, patterns, steps, strict=True):
        its[k] = bits
    if not np.isfinite(table.view(dtype)).all():  # the type has no 256 such levels
        return None
    by_formula = np.array_equal(table, ways[0])
    values = () if by_formula else tuple(map(tuple, table.view(dtype).astype(np.float64).tolist()))
    return Pixels(layout, tuple(scale.tolist()), tuple(offset.tolist()), missed(table) == 0, values)


def _levels(scale: np.ndarray, offset: np.ndarray, own: type[np.floating] = np.float64) -> Iterator[np.ndarray]:
    """Yield the levels by channel: by the formula in float64, and as other orders of operations give them in a type."""
    s, o = scale[:, None], offset[:, None]
    yield o + s * np.arange(256)
    deviation = 1 / 255 / s
    mean = -o * deviation
    k, s, o, inverse, mean, deviation = (numbers.astype(own) for numbers in (np.arange(256), s, o, 1 / s, mean, deviation))
    yield k / inverse + o
    yield k * s + o
    for unit in (k / own(255), k * own(1 / 255)):
        yield (unit - mean) / deviation


def _patterns(views: list[np.ndarray], channel: int) -> np.ndarray:
    """Return the bits of the distinct values of a channel, in the order of the values; of the first arrays, once too many."""
    bits = np.array([], _bits(views[0]).dtype)
    for view in views:
        bits = np.union1d(bits, _bits(view[..., channel]))
        if len(bits) > 256 * PATTERNS:
            break
    dtype = views[0].dtype.newbyteorder("=")
    return bits[np.argsort(bits.view(dtype), kind="stable")]


def _bits(values: np.ndarray) -> np.ndarray:
    """Return the bits of numbers as whole numbers: 0.0 and -0.0 are two."""
    plain = values.astype(values.dtype.newbyteorder("="), copy=False)
    return plain.view(f"u{plain.dtype.itemsize}")


def _channels_last(array: np.ndarray, layout: str) -> np.ndarray:
    """Return a view: images, height, width, channels."""
    batch = array if "N" in layout else array[None]
    return np.moveaxis(batch, 1, 3) if layout.endswith("CHW") else batch
