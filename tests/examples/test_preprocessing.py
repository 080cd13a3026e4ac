"""What is done to pictures: the words of it, and the numbers that come out."""

import numpy as np
import pytest
from PIL import Image

import dnnsplit as ds
from dnnsplit.codecs.pixels import find_pixels
from dnnsplit.examples.preprocessing import as_input, fitted

F4 = np.dtype(np.float32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("letterbox,BGR,scale=1/127.5,mean=1", {"resize": "letterbox", "channels": "BGR", "scale": 1 / 127.5, "mean": (1.0,)}),
        ("yolo", {"resize": "letterbox"}),
        ("Imagenet, bgr", {"resize": "crop", "crop_pct": 0.875, "channels": "BGR", "mean": MEAN, "std": STD}),
        ("crop=0.9,NHWC", {"resize": "crop", "crop_pct": 0.9, "layout": "NHWC"}),
        ("mean=0.5:0.4:0.3,std=2", {"mean": (0.5, 0.4, 0.3), "std": (2.0,)}),
        ("scale=1/11271127.5", {"scale": 1 / 11271127.5}),
        ("mean=0.12345678901234567,std=1e-300", {"mean": (0.12345678901234567,), "std": (1e-300,)}),
        ("crop=0.8750000000001,scale=-5e-324", {"resize": "crop", "crop_pct": 0.8750000000001, "scale": -5e-324}),
    ],
)
def test_a_text_tells_the_fields_and_is_written_again(text, fields):
    found = ds.Preprocessing.of(text)
    assert found == ds.Preprocessing(**fields)
    assert ds.Preprocessing.of(str(found)) == found


def test_what_a_text_leaves_open_is_that_of_the_base():
    base = ds.Preprocessing.of("letterbox,scale=1")
    assert ds.Preprocessing.of("BGR", base) == ds.Preprocessing("letterbox", "BGR", 1.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("letterbx", "'letterbx' is no word or number of it (did you mean 'letterbox'?)"),
        ("scale=1/0,foo=2", "2 problems"),
        ("scale=0", "scale is 0: all pixels would be alike"),
        ("mean=1:2", "mean is (1.0, 2.0); give one finite number, or one for each channel"),
        ("crop=2", "crop_pct is 2; it is the share that is kept"),
        ("std=-1", "std is (-1.0,); a deviation is above 0"),
        ("scale=1_0", "'scale=1_0' is no word or number of it"),
        ("mean=٣", "'mean=٣' is no word or number of it"),
        ("BGR,RGB", "'RGB' contradicts a word before it"),
        ("letterbox,crop=0.5", "'crop=0.5' contradicts a word before it"),
        ("BGR,imagenet", "'imagenet' would undo words before it; put it first"),
        ("mean=inf", "mean is (inf,); give one finite number"),
    ],
)
def test_wrong_words_are_told(text, told):
    with pytest.raises(ds.OptionError) as error:
        ds.Preprocessing.of(text)
    assert told in str(error.value)


def test_a_letterbox_keeps_the_sides_and_borders_with_114():
    red = Image.new("RGB", (100, 50), (255, 0, 0))
    found = as_input(ds.Preprocessing.of("letterbox,scale=1"), [red], F4, (1, 3, 64, 64))  # 64 x 32 in the middle
    assert found.shape == (1, 3, 64, 64)
    assert np.unique(found[0, :, :16]).tolist() == np.unique(found[0, :, 48:]).tolist() == [114]
    assert (found[0, 0, 16:48] == 255).all()
    assert (found[0, 1:, 16:48] == 0).all()


def test_a_crop_keeps_the_middle():
    picture = Image.new("RGB", (120, 40), (10, 20, 30))
    picture.paste((200, 100, 50), (40, 0, 80, 40))
    found = as_input(ds.Preprocessing.of("crop,scale=1"), [picture], F4, (40, 40, 3))
    assert found.shape == (1, 40, 40, 3)
    assert np.unique(found.reshape(-1, 3), axis=0).tolist() == [[200, 100, 50]]
    half = as_input(ds.Preprocessing.of("crop=0.5,scale=1"), [picture], F4, (20, 20, 3))
    assert np.unique(half.reshape(-1, 3), axis=0).tolist() == [[200, 100, 50]]


def test_a_crop_of_what_would_be_huge_is_refused():
    for how, size in (("crop", (1, 100_000)), ("crop=1e-9", (10, 10)), ("crop=5e-324", (10, 10))):
        with pytest.raises(ds.OptionError, match=rf"^of {size[0]} x {size[1]} pixels, .*; take letterbox or stretch"):
            as_input(ds.Preprocessing.of(how), [Image.new("RGB", size)], F4, (1, 3, 64, 64))
    found = as_input(ds.Preprocessing.of("letterbox"), [Image.new("RGB", (1, 100_000))], F4, (1, 3, 64, 64))
    assert found.shape == (1, 3, 64, 64)


def test_channels_layout_and_numbers():
    picture = Image.new("RGB", (8, 8), (51, 102, 255))
    wanted = (np.array([0.2, 0.4, 1.0]) - MEAN) / STD
    found = as_input(ds.Preprocessing.of("imagenet,stretch"), [picture], F4, (1, 3, 8, 8))
    assert found[0, :, 0, 0] == pytest.approx(wanted)
    swapped = as_input(ds.Preprocessing.of("BGR,scale=1"), [picture], F4, (1, 8, 8, 3))
    assert swapped[0, 0, 0].tolist() == [255, 102, 51]
    assert as_input(ds.Preprocessing(), [picture], np.dtype(np.float16), (3, 8, 8)).dtype == np.float16


@pytest.mark.parametrize("text", ["yolo", "imagenet", "imagenet,BGR", "scale=1/127.5,mean=1", "scale=1", "mean=0.1:0.2:0.3"])
def test_tensors_hold_their_pictures_to_the_last_bit_whatever_mean_and_std_are(text):
    """So that they can be sent as images."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = as_input(ds.Preprocessing.of(text), [Image.fromarray(noise)], F4, (1, 3, 64, 64))
    pixels = find_pixels([found])
    assert pixels.layout == "NCHW"
    assert pixels.exact
    if text == "yolo":
        assert (found == noise.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)).all()


def test_inputs_that_take_no_such_pictures_are_refused():
    for how, dtype, shape, told in (
        ("", F4, (1, 16), "takes no pictures of 1, 3 or 4 channels"),
        ("NHWC", F4, (1, 3, 8, 8), "takes no NHWC pictures"),
        ("BGR", F4, (1, 1, 8, 8), "has 1 channel; stretch,BGR,scale=1/255 has others"),
        ("imagenet", F4, (1, 4, 8, 8), "has 4 channels"),
        ("", np.dtype(np.uint8), (1, 3, 8, 8), "scale=1, without mean and std, keeps them as they are"),
        ("", np.dtype(np.int64), (1, 3, 8, 8), "an input of int64 takes no pictures"),
        ("scale=1e37", F4, (1, 3, 8, 8), "makes values of pixels that float32 cannot hold"),
        ("scale=300", np.dtype(np.float16), (1, 3, 8, 8), "makes values of pixels that float16 cannot hold"),
    ):
        with pytest.raises(ds.OptionError) as error:
            fitted(ds.Preprocessing.of(how), dtype, shape)
        assert told in str(error.value)
