"""What "quantized" means: the rewriting, its scales, and the noise it makes."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers.small_models import conv_net, images
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.quantize.calibration import Calibration, calibrate
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.quantize.rewrite import quantize_layer
from dnnsplit.quantize.setting import THESIS, QuantizationSetting
from dnnsplit.runtime.sessions import session


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = conv_net(tmp_path_factory.mktemp("net") / "net.onnx")
    graph = ds.load(path)
    return graph, calibrate(graph, images(8))


def test_ranges_are_the_least_and_greatest_value_over_the_images(net):
    graph, calibration = net
    part = build_part(graph, graph.layer_names, ["c1.silu"])
    values = [session(part.SerializeToString()).run(None, {"x": image[None]})[0] for image in images(8)]
    low, high = calibration.ranges["c1.silu"]
    assert low == pytest.approx(min(v.min() for v in values), abs=1e-6)
    assert high == pytest.approx(max(v.max() for v in values), rel=1e-5)


def test_scale_and_zero_point_by_hand():
    setting = QuantizationSetting()
    calibration = Calibration({"t": (-1.0, 4.1)}, setting, "", "")
    scale, zero = calibration.parameters("t")
    assert scale == pytest.approx(5.1 / 255, rel=1e-6)
    assert zero == 50  # -1 / (5.1 / 255) = -50
    symmetric = Calibration({"t": (-1.0, 4.0)}, THESIS, "", "")
    assert symmetric.parameters("t")[1] == 0


def test_int8_weights_keep_seven_bits_per_channel(net):
    graph, calibration = net
    int8 = quantize_layer(graph, "c2", calibration)
    from onnx import numpy_helper

    stored = {w.name: numpy_helper.to_array(w) for w in int8.weights}
    weights, scale = stored["c2/weight/int8"], stored["c2/weight/scale"]
    assert weights.dtype == np.int8
    assert scale.shape == (6,)
    assert np.abs(weights).max() == 64
    real = weights * scale[:, None, None, None]
    assert np.abs(real - graph.model.weight("c2.w")).max() <= scale.max() / 2 + 1e-7


def test_an_int8_layer_is_close_to_its_float_form_and_runs_as_an_integer_kernel(net):
    graph, calibration = net
    int8 = {"c2": quantize_layer(graph, "c2", calibration)}
    edge = boundary(graph, ["c2"])
    assert edge.inputs == ("c1.silu",)
    assert edge.outputs == ("c2.silu",)
    feed = {"c1.silu": images(1, seed=3).repeat(2, axis=1)}
    parts = [build_part(graph, ["c2"], edge.outputs, swap) for swap in ({}, int8)]
    plain, quantized = (session(part.SerializeToString()).run(None, feed)[0] for part in parts)
    assert 0 < np.abs(plain - quantized).mean() < 0.05
    steps = (quantized / int8["c2"].scale) % 1  # the output is a whole number of steps
    assert np.minimum(steps, 1 - steps).max() < 1e-3


def test_the_wire_is_the_output_in_int8(net):
    graph, calibration = net
    int8 = quantize_layer(graph, "c1", calibration)
    part = build_part(graph, ["c1"], [int8.wire, int8.output], {"c1": int8})
    wire, real = session(part.SerializeToString()).run([int8.wire, int8.output], {"x": images(1)})
    assert wire.dtype == np.uint8
    assert np.allclose((wire.astype(np.float32) - int8.zero_point) * int8.scale, real, atol=1e-6)


@pytest.mark.parametrize("setting", [QuantizationSetting(), THESIS, QuantizationSetting(per_channel=False)])
def test_every_setting_runs(net, setting):
    graph, calibration = net
    other = Calibration(calibration.ranges, setting, calibration.model_sha256, "")
    swap = {n: quantize_layer(graph, n, other) for n in ("c1", "c2", "c3")}
    part = build_part(graph, graph.layer_names, graph.model.outputs, swap)
    assert [o.shape for o in session(part.SerializeToString()).run(None, {"x": images(1)})] == [(1, 4, 12, 12), (1, 6, 6, 6)]


def test_bad_requests_are_named(net):
    graph, calibration = net
    with pytest.raises(ds.NoiseError, match=r"'add' \(Add\) cannot run in int8"):
        quantize_layer(graph, "add", calibration)
    with pytest.raises(ds.NoiseError, match="made for another model"):
        quantize_layer(graph, "c1", Calibration(calibration.ranges, calibration.setting, "0" * 64, ""))
    with pytest.raises(ds.NoiseError, match=r"no range of tensor 'x'"):
        quantize_layer(graph, "c1", calibration.only(["c1.out", "c1.silu"]))
    with pytest.raises(ds.NoiseError, match=r"the model needs \(n, 3, 12, 12\)"):
        calibrate(graph, np.zeros((2, 3, 8, 8)))
    with pytest.raises(ds.NoiseError, match=r"there is no input 'y' .*there is: 'x'"):
        calibrate(graph, {"y": images(1)})
    with pytest.raises(ds.NoiseError, match=r"activation type 'uint9' is unknown"):
        QuantizationSetting("uint9")
    with pytest.raises(ds.ModelError, match="built by hand"):
        calibrate(ds.examples.tiny().graph, images(1))


def test_calibration_round_trip(net):
    _, calibration = net
    again = Calibration.from_json(calibration.to_json())
    assert again.ranges == dict(calibration.ranges)
    assert again.setting == calibration.setting
    assert json.loads(json.dumps(calibration.to_json())) == calibration.to_json() == again.to_json()  # as they are compared
    with pytest.raises(ds.NoiseError, match="no calibration can be read"):
        Calibration.from_json({"ranges": {}})


def test_a_bias_too_large_for_the_scale_of_its_weights_raises_that_scale(net):
    graph, calibration = net
    tiny = replace(calibration, ranges={name: (1e-12 * low, 1e-12 * high) for name, (low, high) in calibration.ranges.items()})
    layer = quantize_layer(graph, "c1", tiny)
    stored = next(numpy_helper.to_array(w) for w in layer.weights if w.name.endswith("/bias/int32"))
    bias = graph.model.weight(graph.model.nodes["c1"].input[2])
    scale = next(numpy_helper.to_array(w) for w in layer.weights if w.name.endswith("/bias/scale"))
    np.testing.assert_allclose(stored * scale.astype(np.float64), bias, rtol=1e-6)
    assert np.abs(stored.astype(np.int64)).max() <= 2**30 + 2**8  # the sums of products have the rest of int32


TINY_CHANNELS = (1.0, 1e-3, 1e-7, 1e-30, 0.0)


@pytest.mark.parametrize("setting", [None, "thesis"])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
@pytest.mark.parametrize("factor", TINY_CHANNELS)
def test_a_channel_of_weights_near_zero_keeps_its_bias(tmp_path, op, factor, setting):
    rng = np.random.default_rng(1)
    shape, axis = {"Conv": ((6, 4, 3, 3), 0), "ConvTranspose": ((4, 6, 3, 3), 1), "Gemm": ((4, 6), 1)}[op]
    weight = rng.normal(0, 0.3, shape).astype(np.float32)
    np.moveaxis(weight, axis, 0)[2] *= np.float32(factor)
    np.moveaxis(weight, axis, 0)[4] = 0.0
    bias = rng.normal(5, 0.3, 6).astype(np.float32)
    bias[4] = 1e-44  # no scale of float32 is so small that it fits
    inside, outside = ((1, 4), (1, 6)) if op == "Gemm" else ((1, 4, 8, 8), (1, 6, 8, 8))
    spread = {} if op == "Gemm" else {"pads": [1] * 4}
    nodes = [helper.make_node(op, ["x", "w", "b"], ["c"], name="c", **spread), helper.make_node("Relu", ["c"], ["y"], name="r")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", inside), ("y", outside))]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    pictures = rng.normal(size=(4, *inside[1:])).astype(np.float32)
    samples = ds.measure_noise(ds.load(tmp_path / "m.onnx"), pictures, setting=setting, progress=False)
    assert samples.details["relative"].max() < 0.05
