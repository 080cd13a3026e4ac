"""Pixels found in tensors: scale, offset, layout and levels to the last bit; and what is none."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from helpers.pictures import DEVIATION, MEAN, OF_COLOURS, WAYS, laid_out, levels, normalized

from dnnsplit.codecs.pixels import Malformed, Pixels, Unfit, find_pixels
from dnnsplit.ground.errors import OptionError
from dnnsplit.ground.forms import formed


@pytest.mark.parametrize("way", [*WAYS, *OF_COLOURS])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "CHW", "HWC"])
def test_images_are_found_and_come_back_to_the_last_bit(way, layout):
    images = levels(count=2 if "N" in layout else 1)
    tensor = laid_out((WAYS | OF_COLOURS)[way](images), layout)
    pixels = find_pixels([tensor])
    assert (pixels.layout, pixels.exact) == (layout, True)
    np.testing.assert_array_equal(pixels.images(tensor, exact=True), images)
    again = pixels.array(images, tensor.dtype.name, tensor.shape)
    assert again.dtype == tensor.dtype.newbyteorder("=")
    np.testing.assert_array_equal(again, tensor)
    np.testing.assert_array_equal(
        pixels.levels.astype(tensor.dtype)[0], np.unique(again[(slice(None),) * layout.index("C") + (0,)])
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_may_be_grey_or_have_alpha(channels):
    tensor = laid_out(WAYS["k/255"](levels(channels)), "NCHW")
    assert find_pixels([tensor]) == Pixels("NCHW", (1 / 255,) * channels, (0.0,) * channels, exact=True)


@pytest.mark.parametrize(("way", "scale", "offset"), [("k/255", 1 / 255, 0), ("k/127.5-1", 1 / 127.5, -1), ("k", 1, 0)])
def test_the_usual_ways_need_few_levels(way, scale, offset):
    for seen in ([3, 5], [0, 255], [7, 200, 201]):
        pixels = find_pixels([laid_out(WAYS[way](np.array(seen, np.uint8)[levels() % len(seen)]), "NCHW")])
        assert pixels.scale == (scale,) * 3
        assert pixels.offset == (offset,) * 3


def test_zeros_and_ones_are_black_and_white():
    mask = (levels(1) > 100).astype(np.float32)
    pixels = find_pixels([mask])
    assert pixels.scale == (1 / 255,)
    np.testing.assert_array_equal(pixels.images(mask, exact=True), (levels(1) > 100) * 255)


def test_a_channel_of_few_values_follows_the_others():
    images = levels()
    images[..., 1] %= 2  # k is 0 or 1, which k/255 would take for black and white
    images[..., 2] = 9
    pixels = find_pixels([WAYS["k"](images)])
    assert pixels.scale == (1.0, 1.0, 1.0)
    pixels = find_pixels([normalized(images)])
    np.testing.assert_allclose(pixels.offset, -MEAN / DEVIATION, rtol=1e-6)


def test_levels_that_were_not_seen_are_those_that_the_same_arithmetic_makes():
    for way in [*WAYS, "imagenet", "imagenet in float64", "imagenet as BGR"]:
        if way != "odd":  # which is known from the data alone
            images = levels()
            make = (WAYS | OF_COLOURS)[way]
            pixels = find_pixels([make(np.where(images % 7 == 3, 2, images))])
            np.testing.assert_array_equal(pixels.images(make(images), exact=True), images)


def test_steps_of_any_width_are_found_where_the_images_have_many():
    images = np.minimum(levels(), 200)  # there is room for 55 more levels: as many below as above
    pixels = find_pixels([WAYS["odd"](images)])
    np.testing.assert_allclose(pixels.scale, 1 / 255 / 0.317, rtol=1e-6)
    np.testing.assert_array_equal(pixels.images(WAYS["odd"](images), exact=True), images + np.uint8(27))
    assert find_pixels([WAYS["odd"](images // 25)]) is None  # 9 values may lie on any steps


def test_images_in_several_arrays_are_seen_together():
    dark, bright = (WAYS["odd"](part) for part in (levels() // 2, levels() // 2 + np.uint8(128)))
    pixels = find_pixels([dark, bright[:, :8]])
    np.testing.assert_allclose(pixels.offset, -0.4321 / 0.317, rtol=1e-6)
    np.testing.assert_array_equal(pixels.images(bright, exact=True), levels() // 2 + np.uint8(128))


def test_levels_seen_in_two_roundings_are_not_exact():
    tensor = WAYS["k/255"](levels(height=32))
    tensor[0, :8] = np.nextafter(tensor[0, :8], np.float32(2))
    pixels = find_pixels([tensor])
    assert not pixels.exact
    np.testing.assert_array_equal(pixels.images(tensor), levels(height=32))
    with pytest.raises(Unfit, match="between the 256 levels"):
        pixels.images(tensor, exact=True)


def test_zeros_keep_their_sign():
    tensor = -WAYS["k/255"](levels())[..., :1]
    tensor = np.where(tensor == 0, np.float32(-0.0), -tensor)
    pixels = find_pixels([tensor])
    assert pixels.exact
    assert pixels.array(pixels.images(tensor, True), "float32", tensor.shape).tobytes() == tensor.tobytes()
    mixed = np.concatenate([tensor, abs(tensor)])
    assert not find_pixels([mixed]).exact


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "tensor",
    [
        RANDOM.random((1, 3, 16, 16), np.float32),
        RANDOM.random((1, 3, 4, 4)).astype(np.float16),
        RANDOM.random((2, 1, 64, 64)).astype(np.float16),
        RANDOM.standard_normal((1, 16, 16, 4)),
        RANDOM.random((1, 3, 1, 1), np.float32),
        RANDOM.integers(0, 65536, (1, 3, 16, 16)).astype(np.float32) / 65535,
        RANDOM.integers(0, 30000, (1, 3, 16)),
        RANDOM.integers(0, 256, (16, 128)),
        RANDOM.integers(0, 256, (1, 16, 16, 2), np.uint8),
        RANDOM.integers(0, 256, (1, 1, 3, 16, 16), np.uint8),
        np.array([[["a", "b"]]]),
        np.array([[["a", "b"]]], object),
        np.ones((1, 3, 4, 4), bool),
        np.ones((1, 3, 4, 4), np.complex64),
        np.zeros((1, 3, 16, 16), np.float32),  # one value tells no steps
        np.full((1, 3, 16, 16), 0.3, np.float32),
        np.full((1, 3, 16, 16), np.nan, np.float32),
        np.where(RANDOM.random((1, 3, 16, 16)) < 0.1, np.inf, 1).astype(np.float32),
        RANDOM.random((1, 3, 16, 16)) * 1e308,
        np.where(RANDOM.random((1, 3, 16, 16)) < 0.1, -1.7e308, 1.7e308),
        RANDOM.integers(0, 200, (1, 3, 16, 16)) * 5e-324,
        RANDOM.integers(0, 20, (1, 3, 16, 16)).astype(np.float16) * np.float16(3270),
        np.zeros((0, 3, 16, 16), np.float32),
        np.zeros((1, 3, 0, 16), np.uint8),
        np.zeros((0, 0, 0), np.float32),
        np.float32(3),
        np.array([], np.float32),
    ],
    ids=lambda tensor: f"{tensor.dtype}{tensor.shape}",
)
def test_all_else_is_no_image(tensor):
    assert find_pixels([np.asarray(tensor)]) is None


def test_arrays_of_several_types_or_layouts_are_no_images():
    images = levels()
    assert find_pixels([]) is None
    assert find_pixels([images, WAYS["k"](images)]) is None
    assert find_pixels([laid_out(images, "NCHW"), images]) is None
    assert find_pixels([images, images[0]]) is None


def test_values_off_the_levels_do_not_fit():
    pixels = Pixels("HWC", (1 / 255,), (0.0,), exact=True)
    near = (np.arange(256, dtype=np.float32) + np.float32(0.49)) / np.float32(255)
    np.testing.assert_array_equal(pixels.images(near.reshape(16, 16, 1)).ravel(), range(256))
    for value in (-0.6 / 255, 255.6 / 255, np.nan, np.inf, -np.inf, 3e38):
        for exact in (False, True):
            with pytest.raises(Unfit, match="not all within half a step"):
                pixels.images(np.array([[[0], [value]]], np.float32), exact)
    with pytest.raises(Unfit, match="between the 256 levels"):
        pixels.images(near.reshape(16, 16, 1), exact=True)
    for other in (near, near.reshape(1, 16, 16, 1), near.reshape(16, 4, 4), np.full((2, 2, 1), "a")):
        with pytest.raises(Unfit, match="holds no HWC images of 1 channels"):
            pixels.images(other)
    with pytest.raises(Malformed, match=r"images of \(1, 4, 4, 1\) are not those of a HWC tensor of shape \(5, 4, 1\)"):
        pixels.array(np.zeros((1, 4, 4, 1), np.uint8), "float32", (5, 4, 1))


@pytest.mark.parametrize("way", ["k/255", "imagenet"])
def test_pixels_are_kept_as_json(way):
    pixels = find_pixels([(WAYS | OF_COLOURS)[way](levels())])
    assert bool(pixels.table) == (way == "imagenet")
    assert formed(json.loads(json.dumps(asdict(pixels))), Pixels, OptionError, "pixels") == pixels


@pytest.mark.parametrize("scale", [1e60, 1.7e308])
def test_levels_that_a_type_does_not_hold_do_not_fit(scale):
    pixels = Pixels("HWC", (scale,), (0.0,), exact=True)
    with pytest.raises(Unfit, match="not all within half a step"):
        pixels.images(pixels.array(levels(1), "float32", (16, 16, 1)), exact=True)


@pytest.mark.parametrize("scale", [1e-320, 1e-60])
def test_levels_that_are_one_in_a_type_are_that_one(scale):
    pixels, zeros = Pixels("HWC", (scale,), (0.0,), exact=True), np.zeros((4, 4, 1), np.float32)
    np.testing.assert_array_equal(pixels.array(pixels.images(zeros, exact=True), "float32", zeros.shape), zeros)


def test_pixels_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="4 problems") as caught:
        Pixels("NHCW", (1.0, 0.0), (0.0,), exact=True, table=((1.0,),))
    with pytest.raises(OptionError, match="256 finite values"):
        Pixels("HWC", (1.0,), (0.0,), exact=True, table=((np.inf,) * 256,))
    for text in ("'NHCW' is unknown (did you mean", "2 scales and 1 offsets", "no scale 0", "256 finite values for each"):
        assert text in str(caught.value)
