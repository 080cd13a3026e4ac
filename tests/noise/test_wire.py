"""Tensors between layers in lossy forms, one at a time: by hand in ONNX Runtime, on chains, branches and joins."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers.small_models import conv_net, images, saved
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.noise.models import NoiseModel


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))


def half(array):
    return array.astype(np.float16).astype(np.float32)


def steps(array):
    """255 even steps from the least value to the greatest."""
    low, high = array.min(), array.max()
    return (low + np.rint((array - low) / (high - low) * 255) * (high - low) / 255).astype(np.float32)


def by_hand(path, tensor, change, pictures):
    """Cut a model at a tensor by renaming what its readers read, and compare the outputs."""
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.input[:] = [f"{tensor}/arrived" if name == tensor else name for name in node.input]
    proto.graph.input.append(helper.make_tensor_value_info(f"{tensor}/arrived", TensorProto.FLOAT, None))
    outputs = [o.name for o in proto.graph.output]
    whole = onnx.load(path)
    if tensor not in outputs:
        whole.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    names = [*outputs, tensor]
    plain, cut = (ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in (whole, proto))
    noise = []
    for picture in pictures:
        *wanted, value = plain.run(names, {"x": picture[None]})
        found = cut.run(outputs, {"x": picture[None], f"{tensor}/arrived": change(value)})
        noise.append(np.mean([np.abs(a - b).mean() for a, b in zip(wanted, found, strict=True)]))
    return np.mean(noise)


def test_each_tensor_alone_equals_the_model_cut_by_hand(net):
    found = ds.measure_wire_noise(net, images(3), progress=False)
    assert {"c1.silu", "c2.silu", "sum"} <= set(found) == {t.name for t in net.tensors if t.producer and t.consumers}
    for name, forms in found.items():
        assert forms["float16"] == pytest.approx(by_hand(net.model_path, name, half, images(3)), rel=0.02)
        assert forms["uint8"] == pytest.approx(by_hand(net.model_path, name, steps, images(3)), rel=0.02)
        assert 0 < forms["float16"] < forms["uint8"]


def test_some_tensors_some_forms_and_another_metric(net):
    every = ds.measure_wire_noise(net, images(2), progress=False, metric="relative:side")
    some = ds.measure_wire_noise(net, images(2), ["uint8"], ["sum", "c1.silu"], "relative:side", workers=1, progress=False)
    assert some == {name: {"uint8": every[name]["uint8"]} for name in ("sum", "c1.silu")}


def test_an_output_that_is_read_too_is_told_as_it_was_made(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "x"], ["t"], name="one"), helper.make_node("Exp", ["t"], ["y"], name="two")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5]) for name in "xty"]
    path = saved(tmp_path / "net.onnx", nodes, ends[:1], ends[1:])
    values = np.random.default_rng(0).random((2, 5), dtype=np.float32)
    found = ds.measure_wire_noise(ds.load(path), values, progress=False)
    by = np.mean([np.abs(np.exp(half(v**2)) - np.exp(v**2)).mean() for v in values]) / 2  # over two outputs
    assert found["t"]["float16"] == pytest.approx(by, rel=1e-2)
    assert found["t"]["float16"] == pytest.approx(by_hand(path, "t", half, values), rel=1e-2)


def test_a_form_that_does_not_hold_a_tensor_is_left_out(tmp_path):
    weights = {"k": np.float32(1e6)}
    nodes = [helper.make_node("Mul", ["x", "k"], ["t"], name="one"), helper.make_node("Div", ["t", "k"], ["y"], name="two")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5]) for name in "xy"]
    graph = ds.load(saved(tmp_path / "net.onnx", nodes, ends[:1], ends[1:], weights))
    small, large = np.full((1, 5), 0.01, np.float32), np.ones((1, 5), np.float32)
    small[0, 0] = 0.02
    assert set(ds.measure_wire_noise(graph, small, progress=False)["t"]) == {"float16", "uint8"}
    assert set(ds.measure_wire_noise(graph, np.vstack([small, large]), progress=False)["t"]) == {"uint8"}


def test_integers_between_layers_are_not_touched(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], name="one", to=TensorProto.INT64),
        helper.make_node("Cast", ["i"], ["f"], name="two", to=TensorProto.FLOAT),
        helper.make_node("Exp", ["f"], ["y"], name="three"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 5]) for name in "xy"]
    graph = ds.load(saved(tmp_path / "net.onnx", nodes, ends[:1], ends[1:]))
    assert set(ds.measure_wire_noise(graph, np.arange(5, dtype=np.float32)[None], progress=False)) == {"f"}
    with pytest.raises(ds.NoiseError, match="'i' is int64; lossy forms are of float32"):
        ds.measure_wire_noise(graph, np.arange(5, dtype=np.float32)[None], tensors=["i"])


def test_samples_and_models_keep_it(net, tmp_path):
    samples = ds.measure_noise(net, images(2), 3, progress=False)
    found = ds.measure_wire_noise(net, images(2), tensors=["sum"], progress=False)
    samples.with_tensors(found).save(tmp_path / "noise.csv")
    again = ds.NoiseSamples.load(tmp_path / "noise.csv")
    assert again.tensors == found
    assert NoiseModel.measured(again).tensors == found
    assert "tensors" not in again.origin


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"tensors": ["summ"]}, ds.NoiseError, "'summ' lies between no two layers .did you mean 'sum'"),
        ({"tensors": ["x"]}, ds.NoiseError, "'x' lies between no two layers"),
        ({"forms": ["zstd-1"]}, ds.NoiseError, "'zstd-1' is lossless"),
        ({"forms": ["jpeg-95", "zstd-1"]}, ds.NoiseError, "2 problems"),
        ({"forms": ["float61"]}, ds.OptionError, "did you mean 'float16'"),
        ({"metric": "rhoo"}, ds.NoiseError, "did you mean 'rho'"),
        ({"workers": 0}, ds.OptionError, "workers is 0; give a whole number, 1 or more"),
    ],
)
def test_bad_requests_are_named(net, options, error, says):
    with pytest.raises(error, match=says):
        ds.measure_wire_noise(net, images(1), progress=False, **options)
