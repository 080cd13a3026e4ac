"""What is no such data is refused with a reason, before anything large is unpacked; nothing of other libraries is heard."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from functools import cache

import numpy as np
import pytest
import zstandard
from helpers.pictures import WAYS, laid_out, levels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dnnsplit.codecs.forms import Malformed, codec, codec_of_image, decode_image
from dnnsplit.codecs.pixels import Pixels

SHAPE = (1, 3, 16, 16)
UNIT = {channels: Pixels("NCHW", (1 / 255,) * channels, (0.0,) * channels, exact=True) for channels in (1, 3, 4)}
IMAGES = ("png-1", "webp-lossless", "jpeg-95", "webp-90")
FORMS = ("zstd-1", "float16", "uint8", "images as uint8", *IMAGES)


def its_codec(form):
    return codec("uint8", UNIT[3]) if form == "images as uint8" else codec(form, UNIT[3] if form in IMAGES else None)


@cache
def sound(form):
    (element,) = its_codec(form).encode(laid_out(WAYS["k/255"](levels()), "NCHW"))
    return element


def outcome(decode, *given):
    """The array, or why there is none; nothing else may be raised, or warned of."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            found = decode(*given)
        except Malformed as error:
            found = str(error)
            assert "\n" not in found
    assert not [str(warning.message) for warning in heard]
    return found


def picture(kind, size=(16, 16), mode="RGB", **options):
    """A file of Pillow's."""
    file = io.BytesIO()
    Image.new(mode, size, 7).save(file, kind, **options)
    return file.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks, width=16, height=16, pixels=b"\0" * 49 * 16):
    """A PNG with chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", FORMS)
def test_what_ends_early_is_refused(form):
    data, its = sound(form), its_codec(form)
    assert isinstance(outcome(its.decode, [data], "float32", SHAPE), np.ndarray)
    for end in range(len(data)):
        assert isinstance(outcome(its.decode, [memoryview(data)[:end]], "float32", SHAPE), str), end


@pytest.mark.parametrize("form", FORMS)
@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=150)
def test_what_is_garbled_is_refused_or_read(form, data):
    garbled = bytearray(sound(form))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, min(60, len(garbled) - 1)), st.integers(0, len(garbled) - 1)))
        if data.draw(st.booleans()):
            garbled[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xD9, 0xDA, 0xFF, garbled[at] ^ 1]))
        else:
            garbled[at:at] = data.draw(st.binary(max_size=9))
    found = outcome(its_codec(form).decode, [bytes(garbled)], "float32", SHAPE)
    assert isinstance(found, str) or (found.dtype, found.shape) == (np.float32, SHAPE)


HEADS = (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 ", b"\x28\xb5\x2f\xfd")


@given(st.sampled_from(FORMS), st.sampled_from(HEADS), st.binary(max_size=200))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_bytes_at_random_are_refused(form, head, rest):
    assert isinstance(outcome(its_codec(form).decode, [head + rest], "float32", SHAPE), str)
    assert isinstance(outcome(decode_image, head + rest, UNIT[3], "float32", SHAPE), str)


def test_every_bit_of_a_png_counts():
    data = sound("png-1")
    for at in range(len(data)):
        garbled = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        assert isinstance(outcome(codec("png-1", UNIT[3]).decode, [garbled], "float32", SHAPE), str), at


@pytest.mark.parametrize("form", FORMS)
def test_another_size_than_the_tensor_has_is_refused(form):
    data, its = sound(form), its_codec(form)
    for shape in [
        (1, 3, 16, 17),
        (1, 3, 8, 32),
        (1, 1, 16, 16),
        (2, 3, 16, 16),
        (1, 3, 16, -16),
        (-1, 3, -16, 16),
        (0, 3, 16, 16),
        (),
    ]:
        if form in ("zstd-1", "float16", "uint8", "images as uint8") and np.prod(shape) == 768 and min(shape) > 0:
            continue  # as many values
        assert isinstance(outcome(its.decode, [data], "float32", shape), str), shape
    for elements in ([], [data, data]):
        assert isinstance(outcome(its.decode, elements, "float32", SHAPE), str)


EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\x01\x0f\0\2\xff\xff\xff\xff\xff\xff\xff\xff" * 20  # tags of 4 GB each


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (picture("png", (17, 16)), "a PNG of 17 x 16 pixels; 16 x 16 are expected"),
        (picture("jpeg", (16, 9)), "a JPEG of 16 x 9 pixels; 16 x 16 are expected"),
        (picture("webp", (9, 16)), "a WebP of 9 x 16 pixels; 16 x 16 are expected"),
        (picture("webp", (9, 16), lossless=True), "a WebP of 9 x 16 pixels; 16 x 16 are expected"),
        (picture("webp", (9, 16), "RGBA", lossless=True, exif=b"x"), "a WebP of 9 x 16 pixels; 16 x 16 are expected"),
        (picture("png", mode="P"), "a PNG of mode P; RGB is expected"),
        (picture("png", mode="L"), "a PNG of mode L; RGB is expected"),
        (picture("png", mode="I;16"), "a PNG of mode I;16; RGB is expected"),
        (picture("png", mode="RGBA"), "a PNG of mode RGBA; RGB is expected"),
        (picture("jpeg", mode="CMYK"), "a JPEG of mode CMYK; RGB is expected"),
        (picture("webp", mode="RGBA"), "a WebP of mode RGBA; RGB is expected"),
        (picture("png", save_all=True, append_images=[Image.new("RGB", (16, 16))]), "a PNG of 2 frames; one is expected"),
        (picture("webp", save_all=True, append_images=[Image.new("RGB", (16, 16))]), "a WebP of 2 frames; one is expected"),
        (picture("gif"), "are no PNG or JPEG or WebP; they begin with b'GIF87a"),
        (b"", "0 B are no PNG or JPEG or WebP; they begin with b''"),
        (png(pixels=b""), "are no sound PNG: image file is truncated"),
        (b"RIFF\0\0\0\0WEBPjunk" + bytes(30), "a WebP whose first chunk is b'junk', which tells no size"),
        (picture("jpeg")[:2] + b"\xff\xda\0\2" * 200 + picture("jpeg")[2:], "a JPEG of 201 scans; 100 are allowed"),
        (picture("jpeg")[:20] + b"\0\xda" + picture("jpeg", exif=EXIF)[20:], "a JPEG with 00 da ff e1 where a segment begins"),
        (b"\xff\xd8\xff\xe0\0\0" + picture("jpeg", exif=EXIF)[2:], "a JPEG with ff e0 00 00 where a segment begins"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_images_are_refused_with_the_reason(data, reason):
    assert reason in outcome(decode_image, data, UNIT[3], "float32", SHAPE)


def test_a_form_reads_its_own_files_alone():
    assert outcome(codec("jpeg-95", UNIT[3]).decode, [sound("png-1")], "float32", SHAPE).endswith(
        "are no JPEG; they begin with b'\\x89PNG\\r\\n\\x1a\\n'"
    )
    assert "are no PNG or JPEG or WebP" in outcome(codec_of_image, b"hello")


def test_what_else_is_in_a_file_is_not_read():
    bomb = zlib.compress(bytes(10**7))
    files = [
        png(chunk(b"zTXt", b"a\0\0" + bomb), chunk(b"iCCP", b"a\0\0" + bomb), chunk(b"eXIf", EXIF[6:])),
        png(chunk(b"acTL", struct.pack(">II", 1, 0)), chunk(b"acTL", struct.pack(">II", 1, 0))),
        png(chunk(b"gAMA", b"\0"), chunk(b"pHYs", b""), chunk(b"tRNS", b"\0" * 6), chunk(b"puNK", b"?")) + b"more",
        picture("jpeg", exif=EXIF, comment=b"hello"),
        picture("jpeg")[:2] + b"\xff\xe2\0\x0fMPF\0garbledMP" + picture("jpeg")[2:] + b"more",
        picture("jpeg")[:2] + b"\xff" * 9 + picture("jpeg")[2:],
        picture("webp", exif=EXIF),
        picture("webp") + b"more",
    ]
    for file in files:
        assert isinstance(outcome(decode_image, file, UNIT[3], "float32", SHAPE), np.ndarray)


def bombs():
    """Small files of large images, and the end of what is said of them."""
    huge = "50000 x 50000 pixels; 16 x 16 are expected"
    yield "png", png(width=50000, height=50000), huge
    yield "png", png(pixels=bytes(10**8)), "read"  # as many rows are read as there are
    jpeg = bytearray(picture("jpeg"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 50000, 50000)
    yield "jpeg", bytes(jpeg), huge
    widest = "16383 x 16383 pixels; 16 x 16 are expected"
    webp = bytearray(picture("webp"))
    webp[26:30] = struct.pack("<HH", 16383, 16383)
    yield "webp", bytes(webp), widest
    webp = bytearray(picture("webp", lossless=True))
    webp[21:25] = struct.pack("<I", 16382 | 16382 << 14)
    yield "webp", bytes(webp), widest
    webp = bytearray(picture("webp", mode="RGBA", exif=b"x"))
    webp[24:30] = (16382).to_bytes(3, "little") * 2
    yield "webp", bytes(webp), widest
    stream = zstandard.ZstdCompressor().compressobj()  # says no size
    yield (
        "zstd",
        b"".join(stream.compress(bytes(2**24)) for _ in range(64)) + stream.flush(),
        "an untold number of B; float32 of shape (1, 3, 16, 16) takes 3072 B",
    )
    yield (
        "zstd",
        b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**42) + b"\1\0\0",
        f"zstd-1 of {2**42} B; float32 of shape (1, 3, 16, 16) takes 3072 B",
    )
    block = (1 | 1 << 1 | 2**21 - 1 << 3).to_bytes(3, "little") + b"\0"  # a byte, 2 MB of times
    yield "zstd", b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 3072) + block * 1000, "B are no sound zstd-1"


READER = """
import resource, sys, warnings
from pathlib import Path
from dnnsplit.codecs.forms import Malformed, codec, decode_image
from dnnsplit.codecs.pixels import Pixels
import dnnsplit.codecs.images
warnings.simplefilter("error")
pixels = Pixels("NCHW", (1 / 255,) * 3, (0.0,) * 3, exact=True)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**25,) * 2)
data = sys.stdin.buffer.read()
try:
    if sys.argv[1] == "zstd":
        codec("zstd-1").decode([data], "float32", (1, 3, 16, 16))
    else:
        decode_image(data, pixels, "float32", (1, 3, 16, 16))
    print("read")
except Malformed as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told as Linux does")
def test_bombs_take_no_memory():
    for kind, data, said in bombs():
        assert len(data) < 200_000
        done = subprocess.run([sys.executable, "-c", READER, kind], input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert said in done.stdout.decode()
        assert "emory" not in done.stdout.decode()


@pytest.mark.parametrize("form", ["zstd-1", "float16", "uint8", "images as uint8"])
def test_what_goes_on_is_refused(form):
    assert isinstance(outcome(its_codec(form).decode, [bytes(sound(form)) + b"more"], "float32", SHAPE), str)


def test_a_range_that_is_none_is_refused():
    for low, high in [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf)]:
        assert "values go from" in outcome(codec("uint8").decode, [struct.pack("<ff", low, high) + bytes(4)], "float32", (4,))
    assert outcome(codec("uint8").decode, [b"1234"], "float32", (4,)) == "uint8 of 4 B; a tensor of shape (4,) takes 12 B"
