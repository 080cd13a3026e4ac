"""Arrays written for the wire and read again: to the last bit where a form is lossless, within its step where not."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from helpers.pictures import OF_COLOURS, WAYS, laid_out, levels
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dnnsplit.codecs.forms import Unfit, codec, codec_of_image, decode_image
from dnnsplit.codecs.pixels import Pixels, find_pixels
from dnnsplit.cutting.checks import DATATYPES
from dnnsplit.ground.errors import OptionError

LOSSLESS = ("uint8", "png-1", "png-6", "webp-lossless")
LOSSY = ("jpeg-95", "jpeg-90", "webp-90")
UNIT = {channels: Pixels("NCHW", (1 / 255,) * channels, (0.0,) * channels, exact=True) for channels in (1, 3, 4)}


def round_trip(form, array, pixels=None):
    its = codec(form, pixels)
    elements = its.encode(array)
    found = its.decode([memoryview(element) for element in elements], array.dtype.name, array.shape)
    assert (found.dtype, found.shape) == (array.dtype.newbyteorder("="), array.shape)
    np.testing.assert_array_equal(found, its.decode(elements, array.dtype.name, array.shape))
    return found


def same(found, array):
    """Bit for bit."""
    return found.tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()


@pytest.mark.parametrize("dtype", DATATYPES)
def test_zstandard_keeps_every_bit_of_any_type(dtype):
    random = np.random.default_rng(0)
    array = random.integers(0, 256, (2, 5, 7, np.dtype(dtype).itemsize), np.uint8)  # NaN of any payload among them
    array = (array % 2 if dtype == "bool" else array).view(dtype)
    assert same(round_trip("zstd-1", array), array)
    turned = array.transpose(2, 1, 0, 3)
    assert same(round_trip("zstd-3", turned), turned)
    assert codec("zstd-1").lossless
    assert codec("zstd-1").name == "zstd-1"


def test_zstandard_keeps_zeros_infinities_and_nan_payloads_and_takes_less():
    payload = np.array([0x7FC00000, 0xFFC00001, 0x7F800001], np.uint32).view(np.float32)
    array = np.concatenate([payload, [np.float32(x) for x in (0.0, -0.0, np.inf, -np.inf, 1e-45)], np.zeros(992, np.float32)])
    assert same(round_trip("zstd-1", array), array)
    (element,) = codec("zstd-1").encode(array)
    assert len(element) < 100
    assert same(round_trip("zstd-1", array.astype(">f4")), array)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
@pytest.mark.parametrize("form", ["zstd-1", "float16", "uint8"])
def test_tensors_may_be_empty_or_of_no_rank(form, shape):
    array = np.full(shape, 1.5, np.float32)
    assert same(round_trip(form, array), array)


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("way", [*WAYS, *OF_COLOURS])
def test_images_are_kept_to_the_last_bit(form, way):
    for layout in ("NCHW", "NHWC", "HWC"):
        array = laid_out((WAYS | OF_COLOURS)[way](levels(count=3)), layout)
        pixels = find_pixels([array])
        assert codec(form, pixels).lossless
        assert same(round_trip(form, array, pixels), array)
        assert len(codec(form, pixels).encode(array)) == (3 if "N" in layout else 1)


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_images_and_alpha_are_kept(form, channels):
    images = levels(channels, 2, 8, 48)  # neither square nor as large as a block
    if channels == 4:
        images[0, :4, :, 3] = 0  # colours of what cannot be seen
        images[1, ..., 3] = 255  # WebP writes no alpha then
    array = laid_out(WAYS["k/255"](images), "NCHW")
    assert same(round_trip(form, array, UNIT[channels]), array)
    one = array[:, :, :1, :1]
    assert same(round_trip(form, one, UNIT[channels]), one)


@pytest.mark.parametrize("form", LOSSY)
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_images_come_close_and_take_less(form, channels):
    hill = 99 + 90 * np.outer(np.sin(np.arange(64) / 9), np.cos(np.arange(64) / 7))
    array = laid_out(WAYS["k/255"](np.stack([hill + 9 * c for c in range(channels)], axis=-1)[None].astype(np.uint8)), "NCHW")
    found = round_trip(form, array, UNIT[channels])
    assert not codec(form, UNIT[channels]).lossless
    assert 0 < np.abs(found - array).max() < 0.06
    assert same(found, UNIT[channels].array(UNIT[channels].images(found, exact=True), "float32", found.shape))  # pixels again
    (element,) = codec(form, UNIT[channels]).encode(array)
    assert len(element) < 64 * 64 * channels / 2


def test_qualities_are_those_named():
    array = laid_out(WAYS["k/255"](levels(height=64, width=64)), "NCHW")
    for family in ("jpeg", "webp"):
        sizes = [len(codec(f"{family}-{quality}", UNIT[3]).encode(array)[0]) for quality in (10, 50, 90, 100)]
        assert sizes == sorted({*sizes})
    sizes = [len(codec(form, UNIT[3]).encode(np.zeros((1, 3, 64, 64), np.float32))[0]) for form in ("png-9", "png-1", "png-0")]
    assert sizes == sorted({*sizes})


def test_pixels_that_are_not_exact_are_rounded_by_lossy_forms_alone():
    array = WAYS["k/255"](levels(height=32))
    array[0, :8] = np.nextafter(array[0, :8], np.float32(2))
    pixels = find_pixels([array])
    assert not codec("uint8", pixels).lossless
    np.testing.assert_allclose(round_trip("uint8", array, pixels), array, atol=1e-7)
    assert np.abs(round_trip("jpeg-95", array, pixels) - array).max() < 1
    for form in ("png-1", "webp-lossless"):
        with pytest.raises(Unfit, match="lossless, and this tensor holds its images not to the last bit"):
            codec(form, pixels)


@pytest.mark.parametrize("form", LOSSLESS)
def test_a_lossless_form_refuses_what_is_off_the_levels(form):
    array = laid_out(WAYS["k/255"](levels()), "NCHW")
    array[0, 0, 0, 0] = np.nextafter(np.float32(0.5), np.float32(1))
    with pytest.raises(Unfit, match="between the 256 levels"):
        codec(form, UNIT[3]).encode(array)
    with pytest.raises(Unfit, match="holds no NCHW images of 3 channels"):
        codec(form, UNIT[3]).encode(array[:, :1])


def test_what_an_image_format_cannot_hold_is_unfit():
    with pytest.raises(Unfit, match="a JPEG holds no images of 4 channels; PNG and WebP do"):
        codec("jpeg-95", UNIT[4]).encode(np.zeros((1, 4, 8, 8), np.float32))
    with pytest.raises(Unfit, match="an image of 16384 x 1 cannot be written as WebP"):
        codec("webp-lossless", UNIT[1]).encode(np.zeros((1, 1, 1, 16384), np.float32))
    for form in ("png-1", "webp-90", "jpeg-95"):
        with pytest.raises(Unfit, match="an image of 8 x 0 cannot be written"):
            codec(form, UNIT[3]).encode(np.zeros((1, 3, 0, 8), np.float32))
        assert codec(form, UNIT[3]).encode(np.zeros((0, 3, 8, 8), np.float32)) == []
        assert codec(form, UNIT[3]).decode([], "float32", (0, 3, 8, 8)).shape == (0, 3, 8, 8)


FLOATS = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=True))


@given(FLOATS)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_float16_rounds_and_keeps_what_is_no_number(array):
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if (np.isinf(half) & np.isfinite(array)).any():
        with pytest.raises(Unfit, match=r"is more than float16 holds, 65504"):
            codec("float16").encode(array)
    else:
        np.testing.assert_array_equal(round_trip("float16", array), half.astype(np.float32))


def test_float16_of_other_types():
    assert not codec("float16").lossless
    for dtype in ("float16", "float64"):
        array = np.array([0.1, -np.inf, np.nan, 65519.0, -0.0], dtype) if dtype == "float64" else np.array([0.1, 65504], dtype)
        np.testing.assert_array_equal(round_trip("float16", array), array.astype(np.float16).astype(dtype))
    with pytest.raises(Unfit, match=r"-65520.0 is more than"):
        codec("float16").encode(np.array([np.nan, -65520.0]))
    with pytest.raises(Unfit, match="form 'float16' holds no int64"):
        codec("float16").encode(np.array([1]))


@given(FLOATS)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_affine_steps_are_missed_by_half_a_step_at_most(array):
    if not np.isfinite(array).all():
        with pytest.raises(Unfit, match="no even steps"):
            codec("uint8").encode(array)
        return
    (element,) = codec("uint8").encode(array)
    assert len(element) == 8 + array.size
    step = (float(array.max()) - float(array.min())) / 255
    rounding = 2 * np.finfo(np.float32).eps * max(abs(array.astype(float)))
    apart = np.abs(round_trip("uint8", array).astype(float) - array)
    assert (apart <= 0.5001 * step + rounding + 1e-45).all()


def test_affine_steps_of_other_arrays():
    assert not codec("uint8").lossless
    for value in (0.0, -3.25, 1e-45, 3e38):
        constant = np.full((2, 3), value, np.float32)
        assert same(round_trip("uint8", constant), constant)
    wide = np.array([-3e38, 0, 3e38], np.float32)
    np.testing.assert_allclose(round_trip("uint8", wide), wide, atol=0.6 * 6e38 / 255)
    double = 1e6 + np.linspace(0.01, 0.02, 50)  # float32 has nothing between its ends
    np.testing.assert_allclose(round_trip("uint8", double), double, atol=0.1)
    half = np.linspace(-1, 1, 50).astype(np.float16)
    np.testing.assert_allclose(round_trip("uint8", half), half, atol=1 / 255 + 1e-3)
    for array, text in [
        (np.array([1e300, 0.0]), "no even steps"),
        (np.array([0.0, np.nan]), "no even steps"),
        (np.array([1, 2]), "form 'uint8' holds no int64"),
        (np.array(["a"]), "form 'uint8' holds no <U1"),
    ]:
        with pytest.raises(Unfit, match=text):
            codec("uint8").encode(array)


def test_forms_are_known_by_name():
    meant = {"png1": "png-1", "jpeg-195": "jpeg-95", "uint-8": "uint8", "zstd-0": "zstd-1", "webp-0": "webp-90",
             "png--1": "png-1", "webp-lossles": "webp-lossless", "png-+1": "png-1", "float61": "float16"}  # fmt: skip
    for form, nearest in meant.items():
        with pytest.raises(OptionError, match=re.escape(f"form {form!r} is unknown (did you mean {nearest!r}?)")):
            codec(form, UNIT[3])
    for form in ("png-1", "webp-lossless", "jpeg-95", "webp-90"):
        with pytest.raises(Unfit, match=f"form '{form}' holds images of 8 bits, which this tensor is not known to hold"):
            codec(form)
    with pytest.raises(Unfit, match="form 'zstd-1' holds no <U1"):
        codec("zstd-1").encode(np.array(["a"]))
    with pytest.raises(Unfit, match="form 'zstd-1' holds no object"):
        codec("zstd-1").encode(np.array(["a"], object))


@pytest.mark.parametrize(
    ("form", "kind"), [("png-9", "png"), ("jpeg-95", "jpeg"), ("webp-lossless", "webp"), ("webp-90", "webp")]
)
@pytest.mark.parametrize("layout", ["NCHW", "HWC"])
def test_an_image_of_a_client_is_read_whatever_kind_it_is(form, kind, layout):
    array = laid_out(OF_COLOURS["imagenet"](levels()), layout)
    pixels = find_pixels([array])
    (file,) = codec(form, pixels).encode(array)
    assert codec_of_image(memoryview(file)) == kind
    found = decode_image(memoryview(file), pixels, "float32", array.shape)
    np.testing.assert_array_equal(found, codec(form, pixels).decode([file], "float32", array.shape))


def test_codecs_serve_several_threads_at_once():
    arrays_of = [laid_out(WAYS["k/255"](levels(count=2, height=64, width=64, seed=seed)), "NCHW") for seed in range(8)]
    forms = ("zstd-1", "float16", *LOSSLESS, *LOSSY)
    codecs = {form: codec(form, UNIT[3]) for form in forms}
    expected = {(form, i): codecs[form].encode(array) for form in forms for i, array in enumerate(arrays_of)}

    def both(form, i):
        elements = codecs[form].encode(arrays_of[i])
        return elements, codecs[form].decode(elements, "float32", arrays_of[i].shape)

    with ThreadPoolExecutor(4) as threads:
        jobs = {key: threads.submit(partial(both, *key)) for key in [*expected] * 3}
        for (form, i), job in jobs.items():
            elements, found = job.result()
            assert elements == expected[form, i]
            assert not codecs[form].lossless or same(found, arrays_of[i])


def test_pillow_is_loaded_for_images_alone():
    code = "import sys, dnnsplit.codecs.forms as f; f.codec('zstd-1'); print([m for m in sys.modules if m.startswith('PIL')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
