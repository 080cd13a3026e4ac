"""Folders of pictures as inputs of models."""

import numpy as np
import pytest
from helpers.small_models import conv_net, double, saved, telling
from onnx import TensorProto, helper
from PIL import Image

import dnnsplit as ds
from dnnsplit.examples.pictures import read
from dnnsplit.examples.shipped import count_images

UINT8, FLOAT = TensorProto.UINT8, TensorProto.FLOAT
F4 = np.dtype(np.float32)
AS_THEY_ARE = ds.Preprocessing.of("scale=1")


def colour(path, *values, size=(12, 12), mode="RGB", **options):
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, values if len(values) > 1 else values[0]).save(path, **options)


def one(path, shape=(1, 3, 12, 12)):
    """The colour of the middle of a picture."""
    found = read([path], AS_THEY_ARE, F4, shape)
    assert found.shape == shape
    return found[0, :, 6, 6].tolist()


@pytest.fixture
def graph(tmp_path):
    return ds.load(conv_net(tmp_path / "net.onnx"))  # 1 x 3 x 12 x 12


def test_a_folder_is_taken_by_name_and_told(tmp_path, graph):
    for number, name in enumerate(("b.png", "a.jpg", "c.webp", "d.bmp")):
        colour(tmp_path / "photos" / name, 0, number * 51, 255, size=(30, 20))
    (tmp_path / "photos" / "labels.txt").write_text("none")
    (tmp_path / "photos" / ".hidden.png").write_text("none")
    told = []
    found = ds.examples.load_images(tmp_path / "photos", 3, graph=graph, told=told.append)
    assert found.shape == (3, 3, 12, 12)
    assert found.dtype == np.float32
    assert found[:, 1, 6, 6] == pytest.approx([0.2, 0.0, 0.4], abs=0.01)
    assert len(told) == 1
    assert "3 of 4 pictures in" in told[0]
    assert "from a.jpg on: stretch,RGB,NCHW,scale=1/255 to 12 x 12 (nothing in the file says what it wants" in told[0]
    assert told[0].endswith("; no pictures: 1 .txt")
    (last,) = ds.examples.load_images(tmp_path / "photos", 1, start=3, graph=graph, preprocess="scale=1", told=told.append)
    assert last[:, 6, 6].tolist() == [0, 153, 255]
    assert "(as told;" in told[1]
    assert count_images(tmp_path / "photos", graph) == 4
    with pytest.raises(ds.OptionError, match="holds 4 images; 2 are wanted after the first 3"):
        ds.examples.load_images(tmp_path / "photos", 2, start=3, graph=graph)
    with pytest.raises(ds.OptionError, match=r"which are resized to the input of a model; tell it by graph="):
        ds.examples.load_images(tmp_path / "photos")


def test_one_picture_is_enough(tmp_path, graph):
    colour(tmp_path / "photos" / "a.PNG", 255, 0, 0)
    told = []
    found = ds.examples.load_images(tmp_path / "photos" / "a.PNG", 1, graph=graph, told=told.append)
    assert found[0, :, 0, 0].tolist() == [1, 0, 0]
    assert told[0].startswith(f"{tmp_path / 'photos' / 'a.PNG'}: stretch,")


def test_pictures_are_turned_as_exif_says(tmp_path):
    upright = Image.new("RGB", (24, 12), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 12, 12))  # red left, blue right
    exif = Image.Exif()
    exif[0x0112] = 6  # it was taken with the camera turned: rotate by 90 degrees to the right
    upright.rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    found = read([tmp_path / "a.png"], AS_THEY_ARE, F4, (1, 3, 12, 24))
    assert found[0, :, 6, 2].tolist() == [255, 0, 0]
    assert found[0, :, 6, 22].tolist() == [0, 0, 255]


def test_grey_alpha_palettes_and_16_bits(tmp_path):
    colour(tmp_path / "grey.png", 77, mode="L")
    assert one(tmp_path / "grey.png") == [77, 77, 77]
    colour(tmp_path / "alpha.png", 10, 20, 30, 0, mode="RGBA")
    assert one(tmp_path / "alpha.png") == [10, 20, 30]
    assert one(tmp_path / "alpha.png", (1, 4, 12, 12)) == [10, 20, 30, 0]
    colour(tmp_path / "colours.gif", 0, 128, 255)
    assert one(tmp_path / "colours.gif") == [0, 128, 255]
    clear = Image.new("P", (12, 12), 1)
    clear.putpalette([0, 0, 0, 9, 8, 7])
    clear.save(tmp_path / "clear.png", transparency=b"\x00\x10")
    assert one(tmp_path / "clear.png") == [9, 8, 7]
    Image.fromarray(np.full((12, 12), 0x8040, np.uint16)).save(tmp_path / "deep.png")
    assert one(tmp_path / "deep.png") == [0x80] * 3
    Image.fromarray(np.full((12, 12), 0x4080, np.int32)).save(tmp_path / "deeper.tiff")
    assert one(tmp_path / "deeper.tiff") == [0x40] * 3
    colour(tmp_path / "print.jpg", 0, 0, 0, 0, mode="CMYK")
    assert one(tmp_path / "print.jpg") == [255, 255, 255]
    colour(tmp_path / "black.png", 1, mode="1")
    assert one(tmp_path / "black.png") == [255, 255, 255]
    assert one(tmp_path / "alpha.png", (1, 1, 12, 12)) == [18]  # luma of ITU-R BT.601: .299 R + .587 G + .114 B


def test_all_that_cannot_be_read_is_named_at_once(tmp_path):
    colour(tmp_path / "good.png", 0, 1, 2)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((12, 12), 0.5, np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(np.full((12, 12), 10**6, np.int32)).save(tmp_path / "large.tiff")
    names = ["cut.jpg", "text.jpg", "good.png", "empty.png", "float.tiff", "large.tiff", "none.png"]
    with pytest.raises(ds.OptionError) as error:
        read([tmp_path / name for name in names], AS_THEY_ARE, F4, (1, 3, 12, 12))
    told = str(error.value).splitlines()
    assert told[0] == "pictures: 6 problems"
    assert "good.png" not in str(error.value)
    for line, (name, why) in zip(
        told[1:],
        [("cut.jpg", "it is damaged ("), ("text.jpg", "it is none of JPEG, PNG,"), ("empty.png", "it is empty"),
         ("float.tiff", "its pixels are floats"), ("large.tiff", "its pixels go from 1000000 to 1000000"),
         ("none.png", "there is no such file")],
        strict=True,
    ):  # fmt: skip
        assert f"{name} is not readable as a picture: " in line
        assert why in line


def test_a_folder_without_pictures_says_what_is_there(tmp_path, graph):
    colour(tmp_path / "photos" / "a.png", 0, 1, 2)
    (tmp_path / "a.heic").write_text("x")
    with pytest.raises(ds.OptionError) as error:
        ds.examples.load_images(tmp_path, 1, graph=graph)
    assert "has no picture (JPEG, PNG, WebP," in str(error.value)
    assert "it has 1 .heic, 1 .onnx, and the folders photos: give one" in str(error.value)


def test_a_model_tells_what_it_wants_where_it_can(tmp_path):
    colour(tmp_path / "photos" / "a.png", 255, 255, 255, size=(24, 12))
    told = []

    def loaded(graph, **options):
        return ds.examples.load_images(tmp_path / "photos", 1, graph=graph, told=told.append, **options)

    detector = ds.load(telling(conv_net(tmp_path / "net.onnx"), stride="32", task="detect"))
    assert loaded(detector)[0, 0, 0, 0] == pytest.approx(114 / 255)  # the border of a letterbox
    assert "letterbox,RGB,NCHW,scale=1/255 to 12 x 12 (the file's metadata say that it is an Ultralytics model" in told[-1]
    assert loaded(detector, preprocess="BGR,scale=1")[0, 0, 0, 0] == 114  # the rest is still as the model tells
    loaded(ds.load(telling(conv_net(tmp_path / "net.onnx"), stride="32", task="classify")))
    assert ": crop,RGB,NCHW,scale=1/255 to" in told[-1]

    ends = [[helper.make_tensor_value_info(name, kind, [1, 12, 12, 3])] for name, kind in (("x", UINT8), ("y", FLOAT))]
    nodes = [helper.make_node("Cast", ["x"], ["c"], to=FLOAT), helper.make_node("Relu", ["c"], ["y"])]
    assert loaded(ds.load(saved(tmp_path / "bytes.onnx", nodes, *ends))).dtype == np.uint8
    assert ": stretch,RGB,NHWC,scale=1 to 12 x 12 (its input is uint8" in told[-1]
    two = ds.load(double(tmp_path / "two.onnx", {"x": [1, 3, 8, 8], "y": [1, 3, 8, 8]}))
    with pytest.raises(ds.OptionError, match=r"two.onnx reads 'x', 'y', and pictures are for one input"):
        loaded(two)


def test_a_classifier_of_imagenet_gets_its_mean_and_deviation(tmp_path):
    weights = {"w": np.random.default_rng(0).random((1000, 3, 1, 1), np.float32)}
    chain = (("Conv", ["x", "w"], "c"), ("GlobalAveragePool", ["c"], "p"), ("Flatten", ["p"], "y"))
    nodes = [helper.make_node(kind, read, [made]) for kind, read, made in chain]
    shapes = {"x": [1, 3, 16, 16], "y": [1, 1000]}
    ends = [[helper.make_tensor_value_info(name, FLOAT, shape)] for name, shape in shapes.items()]
    saved(tmp_path / "classes.onnx", nodes, *ends, weights)
    colour(tmp_path / "photos" / "a.png", 255, 255, 255)
    told = []
    graph = ds.load(tmp_path / "classes.onnx")
    found = ds.examples.load_images(tmp_path / "photos", 1, graph=graph, told=told.append)
    assert found[0, :, 8, 8] == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert "it has 1000 outputs, as ImageNet's classifiers" in told[0]


def test_a_batch_takes_as_many_pictures(tmp_path):
    for number in range(5):
        colour(tmp_path / "photos" / f"{number}.png", number, number, number)
    graph = ds.load(double(tmp_path / "batch.onnx", {"x": [2, 3, 8, 8]}))
    found = ds.examples.load_images(tmp_path / "photos", 1, start=1, graph=graph, preprocess="scale=1", told=lambda line: None)
    assert found[:, 0, 0, 0].tolist() == [2, 3]
    assert count_images(tmp_path / "photos", graph) == 2
