"""PNG, JPEG and WebP: written and read by Pillow, which gets to see nothing but the pixels of images of the size expected.

Imported where an image is to be coded alone: Pillow takes longer to import than a small stage to start.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dnnsplit.codecs.pixels import Malformed, Unfit

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}
# segments before the first scan of a JPEG: those that tell of the pixels, JFIF and Adobe's among them; and what may be left out
OF_PIXELS = {*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xEE} - {0xC8}
OF_APPLICATIONS = {*range(0xE1, 0xF0), 0xFE} - {0xEE}
SCANS = 100  # of a progressive JPEG: more take long for few bytes


def write(image: np.ndarray, kind: str, **options: Any) -> bytes:
    """Return an image as a file of some kind; options are Pillow's."""
    height, width, channels = image.shape
    if kind == "jpeg" and channels == 4:
        message = "a JPEG holds no images of 4 channels"
        raise Unfit(message, "PNG and WebP do")
    file = BytesIO()
    try:
        Image.fromarray(image[..., 0] if channels == 1 else image).save(file, kind, **options)
    except Exception as error:  # Pillow raises what its encoders happen to raise
        message = f"an image of {width} x {height} cannot be written as {KINDS[kind]}: {error}"
        raise Unfit(message) from None
    return file.getvalue()


def kind_of(data: bytes, kinds: Collection[str] = tuple(KINDS)) -> str:
    """Return which of some kinds a file says that it is."""
    begins = {"png": data[:8] == b"\x89PNG\r\n\x1a\n", "jpeg": data[:3] == b"\xff\xd8\xff"}
    begins["webp"] = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    found = next((kind for kind in kinds if begins[kind]), None)
    if found is None:
        message = f"{len(data)} B are no {' or '.join(KINDS[kind] for kind in kinds)}; they begin with {data[:8]!r}"
        raise Malformed(message)
    return found


def read(data: bytes, sizes: tuple[int, int, int], kinds: Collection[str] = tuple(KINDS)) -> np.ndarray:
    """Return the image in a file as (height, width, channels); size, mode and frames are checked before anything is unpacked."""
    height, width, channels = sizes
    kind = kind_of(data, kinds)
    try:
        if kind == "webp":  # Pillow asks for its memory at once
            _check(kind, _webp_size(data), (width, height))
            image: Image.Image = WebPImageFile(BytesIO(data))
        elif kind == "png":
            image = PngImageFile(BytesIO(_bare_png(data)))
        else:
            image = JpegImageFile(BytesIO(_bare_jpeg(data)))
        _check(kind, image.size, (width, height))
        if getattr(image, "n_frames", 1) > 1:
            message = f"a {KINDS[kind]} of {image.n_frames} frames; one is expected"  # type: ignore[attr-defined]
            raise Malformed(message)
        mode = MODES[channels]
        if image.mode != mode and (kind, image.mode) != ("webp", "RGB"):  # WebP knows no grey, and leaves out alpha that is full
            message = f"a {KINDS[kind]} of mode {image.mode}; {mode} is expected"
            raise Malformed(message)
        image.load()
        return np.asarray(image if image.mode == mode else image.convert(mode)).reshape(sizes)
    except Malformed:
        raise
    except Exception as error:  # Pillow raises what its decoders happen to raise
        message = f"{len(data)} B are no sound {KINDS[kind]}: {error or type(error).__name__}"
        raise Malformed(message) from None


def _check(kind: str, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        message = f"a {KINDS[kind]} of {found[0]} x {found[1]} pixels; {wanted[0]} x {wanted[1]} are expected"
        raise Malformed(message)


def _bare_png(data: bytes) -> bytes:
    """Leave out what Pillow would read besides the pixels: texts, profiles, frames."""
    kept, at, kind = [data[:8]], 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            message = f"a PNG that ends in its chunk {kind.decode('latin-1')!r}"
            raise Malformed(message)
        if zlib.crc32(memoryview(chunk)[4:-4]) != int.from_bytes(chunk[-4:]):
            message = f"a PNG whose chunk {kind.decode('latin-1')!r} is damaged: its checksum differs"
            raise Malformed(message)
        if kind == b"acTL" and chunk[8:12] != b"\0\0\0\1":
            message = f"a PNG of {int.from_bytes(chunk[8:12])} frames; one is expected"
            raise Malformed(message)
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            kept.append(chunk)
        at += 12 + length
    return b"".join(kept)


def _bare_jpeg(data: bytes) -> bytes:
    """Leave out what Pillow would read besides the pixels: comments, and what applications add."""
    if (scans := data.count(b"\xff\xda")) > SCANS:
        message = f"a JPEG of {scans} scans; {SCANS} are allowed"
        raise Malformed(message)
    kept, at = [data[:2]], 2
    while data[at : at + 2] != b"\xff\xda":
        if data[at : at + 2] == b"\xff\xff":  # markers may be filled up
            at += 1
            continue
        sign, marker, length = struct.unpack_from(">BBH", data, at)
        if sign != 0xFF or marker not in OF_PIXELS | OF_APPLICATIONS or length < 2:
            message = f"a JPEG with {data[at : at + 4].hex(' ')} where a segment begins"
            raise Malformed(message)
        if marker in OF_PIXELS:
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join([*kept, data[at:]])


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height as the header of a WebP says them."""
    kind, head = data[12:16], data[20:30]
    if kind == b"VP8X" and len(head) == 10:
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a" and len(head) == 10:
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if kind == b"VP8L" and head[:1] == b"\x2f":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    message = f"a WebP whose first chunk is {kind!r}, which tells no size"
    raise Malformed(message)
