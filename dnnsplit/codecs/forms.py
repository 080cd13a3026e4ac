"""Forms of tensors on the wire by name: each writes an array as bytes and reads it again."""

from __future__ import annotations

import math
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from dnnsplit.codecs.pixels import Malformed, Pixels, Unfit
from dnnsplit.ground.errors import OptionError, nearest

Element = bytes | memoryview
EXAMPLES = ("float16", "uint8", "zstd-1", "png-1", "webp-lossless", "jpeg-95", "jpeg-90", "webp-90")
RANGES = {"zstd": range(1, 20), "png": range(10), "jpeg": range(1, 101), "webp": range(1, 101)}  # levels and qualities
AFFINE = struct.Struct("<ff")  # the least and the greatest value
OVER_FLOAT16 = 65520  # the least number that rounds to infinity


@dataclass(frozen=True)
class Codec(ABC):
    """A form: how an array is written, and read again.

    Attributes
    ----------
    name : str
        Of the form.
    lossless : bool
        Whether each array that can be written is read as it was, to the last bit.
    """

    name: str
    lossless: bool

    @abstractmethod
    def encode(self, array: np.ndarray) -> list[Element]:
        """Write an array.

        Parameters
        ----------
        array : np.ndarray
            Of numbers.

        Returns
        -------
        list[Element]
            One element per image of a form of images, one of all else; they may be views of the array.

        Raises
        ------
        Unfit
            The form does not hold this array.
        """

    @abstractmethod
    def decode(self, elements: Sequence[Element], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read an array.

        Parameters
        ----------
        elements : Sequence[Element]
            As they were written.
        dtype, shape : str, tuple[int, ...]
            Of the array.

        Returns
        -------
        np.ndarray
            Of this type and shape.

        Raises
        ------
        Malformed
            The elements are of another form, damaged, or of other sizes; found out before anything large is unpacked.
        """


def codec(form: str, pixels: Pixels | None = None) -> Codec:
    """Return the codec of a form.

    Parameters
    ----------
    form : str
        "float16"; "uint8" (the images themselves where the tensor holds some, else its least value, its greatest, and steps
        between); "zstd-1" to "zstd-19"; and of images "png-0" to "png-9", "webp-lossless", "jpeg-1" to "jpeg-100", "webp-1" to
        "webp-100".
    pixels : Pixels, optional
        How the tensor holds images.

    Returns
    -------
    Codec
        May be used by several threads at once.

    Raises
    ------
    OptionError
        The form is unknown.
    Unfit
        A form of images for a tensor that holds none, or none to the last bit where the form is lossless.

    Examples
    --------
    >>> half = codec("float16")
    >>> half.decode(half.encode(np.array([0.1, 2.0], np.float32)), "float32", (2,)).tolist()
    [0.0999755859375, 2.0]
    """
    if form == "float16":
        return Float16(form, False)
    if form == "uint8":
        return Affine(form, False) if pixels is None else Bytes(form, pixels.exact, pixels)
    family, _, number = form.partition("-")
    lossless = form == "webp-lossless"
    if not lossless and not (re.fullmatch(r"\d{1,3}", number) and int(number) in RANGES.get(family, ())):
        message = f"form {form!r} is unknown{nearest(form, EXAMPLES)}"
        raise OptionError(message)
    if family == "zstd":
        return Zstandard(form, True, int(number))
    if pixels is None:
        message = f"form {form!r} holds images of 8 bits, which this tensor is not known to hold"
        raise Unfit(message)
    lossless = lossless or family == "png"
    if lossless and not pixels.exact:
        message = f"form {form!r} is lossless, and this tensor holds its images not to the last bit"
        raise Unfit(message)
    return File(form, lossless, pixels, family, -1 if form == "webp-lossless" else int(number))


def codec_of_image(data: Element) -> str:
    """Return the kind of an image file, "png", "jpeg" or "webp"; `Malformed` where it is none.

    Parameters
    ----------
    data : Element
        The file.

    Returns
    -------
    str
        What it says that it is; the level or quality is not known from it.
    """
    from dnnsplit.codecs import images

    return images.kind_of(bytes(data))


def decode_image(data: Element, pixels: Pixels, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array that holds the image in a PNG, JPEG or WebP file, whoever wrote it.

    Parameters
    ----------
    data : Element
        The file.
    pixels : Pixels
        How the array holds it.
    dtype, shape : str, tuple[int, ...]
        Of the array, which holds one image.

    Returns
    -------
    np.ndarray
        Of this type and shape.

    Raises
    ------
    Malformed
        It is no such file, damaged, or of another size or mode than the array; found out before anything is unpacked.
    """
    return _read([data], pixels, dtype, shape, ("png", "jpeg", "webp"))


@dataclass(frozen=True)
class Zstandard(Codec):
    """Any numbers, compressed."""

    level: int

    def encode(self, array: np.ndarray) -> list[Element]:
        """See `Codec`."""
        plain = _plain(array, self.name, "biuf")
        return [zstandard.ZstdCompressor(level=self.level).compress(plain.view(np.uint8).data)]

    def decode(self, elements: Sequence[Element], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Codec`."""
        data, wanted = _only(elements, self.name), np.dtype(dtype).itemsize * _count(shape)
        try:
            if (size := zstandard.frame_content_size(data)) == wanted:
                plain = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            message = f"{len(data)} B are no sound {self.name}: {error}"
            raise Malformed(message) from None
        if size != wanted:
            message = f"{self.name} of {'an untold number of' if size < 0 else size} B; {dtype} of shape {shape} takes {wanted} B"
            raise Malformed(message)
        return _array(plain, dtype, shape, self.name)


@dataclass(frozen=True)
class Float16(Codec):
    """Floats in 16 bits."""

    def encode(self, array: np.ndarray) -> list[Element]:
        """See `Codec`."""
        plain = _plain(array, self.name, "f")
        if not -OVER_FLOAT16 < float(plain.min(initial=0)) <= float(plain.max(initial=0)) < OVER_FLOAT16:  # or there is NaN
            over = plain[np.isfinite(plain) & (np.abs(plain) >= OVER_FLOAT16)]
            if over.size:
                message = f"{over[0]} is more than float16 holds, 65504"
                raise Unfit(message)
        with np.errstate(under="ignore"):
            return [plain.astype("<f2").tobytes()]

    def decode(self, elements: Sequence[Element], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Codec`."""
        return _array(_only(elements, self.name), "float16", shape, self.name).astype(dtype)


@dataclass(frozen=True)
class Affine(Codec):
    """Floats in 8 bits: 255 even steps from the least value to the greatest."""

    def encode(self, array: np.ndarray) -> list[Element]:
        """See `Codec`."""
        plain = _plain(array, self.name, "f")
        least, greatest = (float(plain.min()), float(plain.max())) if plain.size else (0.0, 0.0)
        if not math.isfinite(greatest - least) or max(abs(least), abs(greatest)) > float(np.finfo(np.float32).max):
            message = f"values from {least} to {greatest} have no even steps in float32"
            raise Unfit(message)
        low, high = np.float32(least), np.float32(greatest)  # the nearest, which may lie inside
        low = low if low <= least else np.nextafter(low, np.float32(-np.inf))
        high = high if high >= greatest else np.nextafter(high, np.float32(np.inf))
        step, working = _step(float(low), float(high), plain.dtype)
        steps = np.subtract(plain, low, dtype=working)
        steps /= working(step or 1)
        np.rint(steps, out=steps)
        return [AFFINE.pack(low, high) + steps.astype(np.uint8).tobytes()]

    def decode(self, elements: Sequence[Element], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Codec`."""
        data = _only(elements, self.name)
        steps = _array(data, "uint8", shape, self.name, AFFINE.size)
        low, high = AFFINE.unpack_from(data)
        if not (low <= high and math.isfinite(low) and math.isfinite(high)):
            message = f"{self.name} says that its values go from {low} to {high}"
            raise Malformed(message)
        step, working = _step(low, high, np.dtype(dtype))
        values: np.ndarray = np.multiply(steps, working(step), dtype=working)
        values += working(low)
        return values.astype(dtype, copy=False)


def _step(low: float, high: float, dtype: np.dtype) -> tuple[float, type[np.floating]]:
    """Return the 255th part of a range, and the type to reckon in: float32, which takes half the time, where it can."""
    step = (high - low) / 255
    tiny, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    return step, np.float32 if dtype.itemsize <= 4 and tiny < step and high - low <= most else np.float64


@dataclass(frozen=True)
class Bytes(Codec):
    """Images of 8 bits, the channels where the tensor has them."""

    pixels: Pixels

    def encode(self, array: np.ndarray) -> list[Element]:
        """See `Codec`."""
        steps = self.pixels.steps(array, self.lossless)
        if not steps.flags.c_contiguous:
            steps = np.ascontiguousarray(steps)
        if len(self.pixels.layout) == 3 or len(steps) == 1:
            return [steps.reshape(-1).data]
        return [image.reshape(-1).data for image in steps]

    def decode(self, elements: Sequence[Element], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Codec`."""
        count, *_ = _sizes(self.pixels, elements, shape)
        one = shape[1:] if "N" in self.pixels.layout else shape
        images = [_array(element, "uint8", one, self.name) for element in elements]
        steps = images[0] if count == 1 else np.stack(images) if images else np.empty(shape, np.uint8)
        return self.pixels.values(steps.reshape(shape), np.dtype(dtype))


@dataclass(frozen=True)
class File(Codec):
    """Images of 8 bits as PNG, JPEG (all colours kept, 4:4:4) or WebP, of a level or quality; -1 is lossless WebP."""

    pixels: Pixels
    kind: str
    number: int

    def encode(self, array: np.ndarray) -> list[Element]:
        """See `Codec`."""
        from dnnsplit.codecs import images

        options = {
            "png": {"compress_level": self.number},
            "jpeg": {"quality": self.number, "subsampling": 0},  # half the colours lose more than the quality does
            "webp": {"lossless": True, "exact": True, "method": 0} if self.number < 0 else {"quality": self.number, "method": 0},
        }
        return [images.write(image, self.kind, **options[self.kind]) for image in self.pixels.images(array, self.lossless)]

    def decode(self, elements: Sequence[Element], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """See `Codec`."""
        return _read(elements, self.pixels, dtype, shape, (self.kind,))


def _read(elements: Sequence[Element], pixels: Pixels, dtype: str, shape: tuple[int, ...], kinds: tuple[str, ...]) -> np.ndarray:
    from dnnsplit.codecs import images

    count, height, width, channels = _sizes(pixels, elements, shape)
    read = np.empty((count, height, width, channels), np.uint8)
    for place, element in zip(read, elements, strict=True):
        place[:] = images.read(bytes(element), (height, width, channels), kinds)
    return pixels.array(read, dtype, shape)


def _sizes(pixels: Pixels, elements: Sequence[Element], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    sizes = pixels.sizes(shape)
    if sizes is None or min(sizes) < 0:
        message = f"a tensor of shape {shape} holds no {pixels.layout} images of {len(pixels.scale)} channels"
        raise Malformed(message)
    if len(elements) != sizes[0]:
        message = f"{len(elements)} images for a tensor of shape {shape}, which holds {sizes[0]}"
        raise Malformed(message)
    return sizes


def _plain(array: np.ndarray, name: str, kinds: str) -> np.ndarray:
    """Return the values of an array as they lie on the wire."""
    if array.dtype.kind not in kinds:
        message = f"form {name!r} holds no {array.dtype}"
        raise Unfit(message)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)


def _only(elements: Sequence[Element], name: str) -> Element:
    if len(elements) != 1:
        message = f"{len(elements)} elements; {name} is one"
        raise Malformed(message)
    return elements[0]


def _count(shape: tuple[int, ...]) -> int:
    if min(shape, default=0) < 0:
        message = f"no tensor has the shape {shape}"
        raise Malformed(message)
    return math.prod(shape)


def _array(data: Element, dtype: str, shape: tuple[int, ...], name: str, header: int = 0) -> np.ndarray:
    """Return bytes as an array that is not theirs to write to."""
    wanted = header + np.dtype(dtype).itemsize * _count(shape)
    if len(data) != wanted:
        message = f"{name} of {len(data)} B; a tensor of shape {shape} takes {wanted} B"
        raise Malformed(message)
    return np.frombuffer(memoryview(data)[header:], np.dtype(dtype).newbyteorder("<")).reshape(shape)
