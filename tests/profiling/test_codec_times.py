"""What tensors of real models take in other forms."""

import time

import numpy as np
import pytest
from helpers.small_models import conv_net, images, saved
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.codecs.forms import codec
from dnnsplit.profiling import codec_times
from dnnsplit.profiling.codec_times import FORMS, SOURCE_FORMS, measure_forms, wanted_forms
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import quantize_layer

SIZE = 32
LOSSLESS_IMAGES = {"uint8", "png-1", "webp-lossless"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """A server rests between requests; nothing here is about how long that makes it."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx", size=SIZE))


def pictures(count=3, shape=(3, SIZE, SIZE)):
    """Return smooth 8-bit images as floats in [0, 1]."""
    rows, columns = np.ogrid[: shape[-2], : shape[-1]]
    levels = [(np.array([[[1]], [[2]], [[3]]]) * rows + (5 + i) * columns) % 256 for i in range(count)]
    return np.stack([np.broadcast_to(level, shape) for level in levels]).astype(np.float32) / np.float32(255)


def values(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def test_images_of_8_bits_cross_in_every_form_of_images(net):
    given = pictures()
    forms = measure_forms(net, given, server="edge", forms=SOURCE_FORMS)
    assert forms.pixels["x"].exact
    assert set(forms.of("x")) == set(SOURCE_FORMS)
    assert {name for name, form in forms.of("x").items() if form.lossless} == LOSSLESS_IMAGES
    for name, form in forms.of("x").items():
        sizes = [sum(map(len, codec(name, forms.pixels["x"]).encode(image[None]))) for image in given]
        assert form.size_bytes == pytest.approx(np.mean(sizes))
        assert form.size_bytes_95 == pytest.approx(np.percentile(sizes, 95))
        assert min(form.encode_s["edge"], form.decode_s["edge"]) >= 0
    assert forms.of("x")["uint8"].size_bytes == given[0].size
    assert set(forms.frame["server"]) == {"edge"}


def test_values_that_are_no_images_cross_in_fewer_bits_alone(net):
    forms = measure_forms(net, images(2, SIZE))
    assert forms.pixels == {}
    assert {name: form.lossless for name, form in forms.of("x").items()} == {"float16": False, "uint8": False}


def test_tensors_between_layers_are_compressed_in_both_precisions(net):
    given = pictures()
    calibration = calibrate(net, given)
    forms = measure_forms(net, given, calibration, ("c1", "c2"))
    made = {tensor.name for tensor in net.tensors if tensor.producer is not None}
    assert set(forms.frame["tensor"]) <= {"x", *made}
    assert {name: forms.of("c1.silu")[name].lossless for name in ("float16", "uint8")} == {"float16": False, "uint8": False}
    assert forms.of("c1.silu")["float16"].size_bytes == pytest.approx(6 * SIZE * SIZE * 2, abs=16)
    lossless = forms.frame[forms.frame["form"] == "zstd-1"]
    assert lossless["lossless"].all()
    assert set(forms.frame[forms.frame["precision"] == "int8"]["tensor"]) == {"c1.silu", "c2.silu"}
    assert set(forms.of("c1.silu", "int8")) == {"zstd-1"}


def test_int8_values_are_those_that_the_layer_sends(net):
    given = pictures(1)
    calibration = calibrate(net, given)
    quantized = quantize_layer(net, "c1", calibration)
    model = build_part(net, ["c1"], [quantized.wire], {"c1": quantized})
    (sent,) = codec_times.session_of(model).run([quantized.wire], {"x": given})
    size = sum(map(len, codec("zstd-1").encode(sent)))
    forms = measure_forms(net, given, calibration, ("c1",))
    assert forms.of("c1.silu", "int8")["zstd-1"].size_bytes == pytest.approx(size, rel=0.1)  # its input is rounded, too


def test_the_same_is_found_where_memory_holds_few_tensors(net, monkeypatch):
    whole = measure_forms(net, pictures(1))
    monkeypatch.setattr(codec_times, "MOST_BYTES", 30_000)
    few = measure_forms(net, pictures(1))
    columns = ["tensor", "precision", "form", "size_bytes", "lossless"]
    assert few.frame[columns].equals(whole.frame[columns])


def test_one_of_two_inputs_holds_images(tmp_path):
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["mean"]), helper.make_node("Mul", ["mean", "weight"], ["y"])]
    ends = [values("image", [1, 3, SIZE, SIZE]), values("weight", [1, 3, 1, 1])], [values("y", [1, 3, 1, 1])]
    graph = ds.load(saved(tmp_path / "two.onnx", nodes, *ends))
    given = {"image": pictures(2), "weight": np.linspace(0.1, 0.7, 6, dtype=np.float32).reshape(2, 3, 1, 1)}
    forms = measure_forms(graph, given, forms=SOURCE_FORMS)
    assert set(forms.pixels) == {"image"}
    assert set(forms.of("image")) == set(SOURCE_FORMS)
    assert set(forms.of("weight")) <= {"float16", "uint8"}
    assert not any(form.lossless for form in forms.of("weight").values())


def test_bytes_of_an_image_are_already_as_small_as_uint8(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Relu", ["f"], ["y"])]
    shape = [1, SIZE, SIZE, 3]
    graph = ds.load(saved(tmp_path / "bytes.onnx", nodes, [values("x", shape, TensorProto.UINT8)], [values("y", shape)]))
    given = np.rint(pictures() * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    forms = measure_forms(graph, given, forms=SOURCE_FORMS)
    assert {name for name, form in forms.of("x").items() if form.lossless} == {"png-1", "webp-lossless"}
    assert not {"float16", "uint8"} & set(forms.of("x"))
    assert forms.of("x")["png-1"].size_bytes < given[0].size


def test_numbers_that_are_no_floats_keep_their_values(tmp_path):
    nodes = [helper.make_node("Add", ["ids", "ids"], ["twice"]), helper.make_node("Mul", ["twice", "ids"], ["y"])]
    ends = [values("ids", [1, 64], TensorProto.INT64)], [values("y", [1, 64], TensorProto.INT64)]
    graph = ds.load(saved(tmp_path / "ids.onnx", nodes, *ends))
    forms = measure_forms(graph, 1000 + np.arange(128).reshape(2, 64))
    assert forms.of("ids") == {}
    assert set(forms.frame["form"]) == {"zstd-1"}
    assert forms.frame["lossless"].all()


def test_constant_and_huge_tensors(tmp_path):
    shape = [1, 3, SIZE, SIZE]
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["flat"], name="flat"),
        helper.make_node("Sigmoid", ["flat"], ["half"], name="half"),
        helper.make_node("Mul", ["x", "million"], ["huge"], name="huge"),
        helper.make_node("Softmax", ["huge"], ["y"], name="y"),
    ]
    weights = {"zero": np.zeros(1, np.float32), "million": np.full(1, 1e6, np.float32)}
    ends = [values("x", shape)], [values("half", shape), values("y", shape)]
    graph = ds.load(saved(tmp_path / "odd.onnx", nodes, *ends, weights))
    forms = measure_forms(graph, pictures(2))
    assert forms.of("half")["zstd-1"].size_bytes < 200
    assert {"float16", "uint8"} < set(forms.of("half"))
    assert "float16" not in forms.of("huge")  # it ends at 65504
    assert "uint8" in forms.of("huge")


def test_a_form_that_saves_nothing_is_left_out(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Softmax", ["t"], ["y"])]
    graph = ds.load(saved(tmp_path / "one.onnx", nodes, [values("x", [1, 1])], [values("y", [1, 1])]))
    forms = measure_forms(graph, np.ones((2, 1), np.float32))
    assert "zstd-1" not in forms.names  # a frame of its own takes more than 4 bytes
    assert (forms.frame["size_bytes"] < 4).all()
    assert measure_forms(graph, np.ones((2, 1), np.float32), forms=("zstd-1", "uint8")) is None


def test_a_profile_has_the_forms_scaled_as_the_layers_are(net):
    network = ds.Network([ds.Server("device", speed_cpu=0.5), ds.Server("edge", speed_cpu=2.0)])
    effort = {"runs": 5, "splits": 0, "progress": False}
    times = ds.profile(net, network, pictures(), source_seconds=1.0, **effort)
    assert set(times.forms.names) == set(FORMS)
    for form in times.forms.of("x").values():
        for seconds in (form.encode_s, form.decode_s):
            assert seconds["device"] == pytest.approx(4 * seconds["edge"])
    assert ds.profile(net, network, pictures(), forms=(), **effort).forms is None
    assert ds.profile(net, network, pictures(), forms=False, **effort).forms is None
    assert ds.profile(net, network, pictures(), forms=["png-1", "float32"], **effort).forms.names == ("png-1",)


def test_a_profile_made_on_the_server_has_the_forms_there(net, tmp_path):
    times = ds.profile_here(net, "edge", pictures(), count=1, runs=5, splits=0, progress=False, forms=["uint8", "zstd-1"])
    assert set(times.forms.frame["server"]) == {"edge"}
    assert times.forms.names == ("uint8", "zstd-1")
    assert "int8" in set(times.forms.frame["precision"])
    times.save(tmp_path / "edge.csv")
    assert ds.LayerTimes.load(tmp_path / "edge.csv").forms.frame.equals(times.forms.frame)


def test_forms_that_are_unknown_are_named_before_anything_is_measured(net):
    assert wanted_forms(True) == FORMS
    assert wanted_forms(False) == wanted_forms(()) == wanted_forms(["float32", "int8"]) == ()
    assert wanted_forms("png-6") == ("png-6",)
    with pytest.raises(ds.OptionError, match="pgn-1"):
        ds.profile_here(net, "edge", pictures(), forms=["pgn-1"])
    with pytest.raises(ds.ProfileError, match="int8 times need a calibration"):
        measure_forms(net, pictures(), layers=("c1",))
