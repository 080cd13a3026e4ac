"""Outputs of every kind: whole numbers, truth values, none at all, scalars, constants in effect, and of no fixed shape."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from helpers.small_models import conv_net, images
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.noise.meter import noise_meter
from dnnsplit.noise.metrics import errors
from dnnsplit.noise.prefix_tree import all_in_int8, both_ways, compared
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.setting import QuantizationSetting


def unfixed(graph, *outputs):
    """The same graph, whose outputs have an extent that depends on the data."""
    model = graph.model
    types = {name: (model.types[name][0], (-1, *model.types[name][1][1:])) for name in outputs}
    return replace(graph, _model=replace(model, types=model.types | types))


def test_outputs_whose_shape_depends_on_the_data_are_left_out(tmp_path):
    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    whole = ds.measure_noise(graph, images(2), 3, metric="rho:out", progress=False, workers=1)
    samples = ds.measure_noise(unfixed(graph, "side"), images(2), 3, progress=False, workers=1)
    assert samples.noise.tolist() == whole.noise.tolist()
    assert "output 'side' is not compared: its shape depends on the data" in " ".join(repr(samples).split())
    assert "notes" not in whole.origin
    meter = noise_meter(unfixed(graph, "side"), images(2), layers=3)
    assert list(meter.outputs(("c1",))) == ["out"]
    with pytest.raises(ds.NoiseError, match="metric 'rho:side' is unknown"):
        noise_meter(unfixed(graph, "side"), images(2), layers=3, metric="rho:side")


def test_a_model_with_nothing_to_compare_is_refused_with_a_way_out(tmp_path, monkeypatch):
    graph = unfixed(ds.load(conv_net(tmp_path / "net.onnx")), "side", "out")
    monkeypatch.setattr("dnnsplit.noise.meter.calibrate", None)  # before anything is measured
    with pytest.raises(ds.NoiseError, match=r"(?s)ends before them.*extract_model.*output 'out': its shape depends on the data"):
        ds.measure_noise(graph, images(2), 3, progress=False)


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.BFLOAT16])
def test_outputs_that_are_no_numbers_of_numpy_are_left_out(tmp_path, kind):
    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    model = replace(graph.model, types=graph.model.types | {"side": (kind, (1, 6, 6, 6))})
    assert compared(model) == ("out",)


def outputs_of_every_kind(path):
    rng = np.random.default_rng(0)
    values = {
        "w": rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "zero": np.float32(0),
        "none": np.array([0]),
        "one": np.array([1]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("ArgMax", ["c"], ["best"], name="best", axis=1),
        helper.make_node("Greater", ["c", "zero"], ["above"], name="above"),
        helper.make_node("ReduceMean", ["c"], ["mean"], name="mean", keepdims=0),
        helper.make_node("Slice", ["c", "none", "none", "one"], ["empty"], name="empty"),
        helper.make_node("Mul", ["c", "zero"], ["zeros"], name="zeros"),
    ]
    shape = [1, 4, 6, 6]
    outputs = {
        "c": (TensorProto.FLOAT, shape), "best": (TensorProto.INT64, [1, 1, 6, 6]), "above": (TensorProto.BOOL, shape),
        "mean": (TensorProto.FLOAT, []), "empty": (TensorProto.FLOAT, [1, 0, 6, 6]), "zeros": (TensorProto.FLOAT, shape),
    }  # fmt: skip
    made = [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph(
        nodes, "kinds", [given], made, [numpy_helper.from_array(np.asarray(v), n) for n, v in values.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_outputs_of_every_kind_have_a_noise(tmp_path):
    graph = ds.load(outputs_of_every_kind(tmp_path / "m.onnx"))
    meter = noise_meter(graph, images(3, 8))
    plain, int8 = meter.outputs(()), meter.outputs(("conv",))
    assert {name: value.shape for name, value in plain.items()} == {
        "c": (3, 4, 6, 6), "best": (3, 1, 6, 6), "above": (3, 4, 6, 6),
        "mean": (3,), "empty": (3, 0, 6, 6), "zeros": (3, 4, 6, 6),
    }  # fmt: skip
    row = meter.samples([[1]], progress=False).details.iloc[0]
    for name in ("c", "best", "above", "mean"):
        wanted = np.abs(plain[name].astype(float) - int8[name].astype(float)).mean()
        assert row[f"rho:{name}"] == pytest.approx(wanted, rel=1e-6)
        change = (plain[name].astype(float) - int8[name].astype(float)).reshape(3, -1)
        norms = {key: np.linalg.norm(change, order, axis=1).mean() for key, order in (("inf", np.inf), ("l1", 1), ("l2", 2))}
        norms["l2_mean"] = norms["l2"] / change.shape[1]
        assert {key: row[f"{key}:{name}"] for key in norms} == pytest.approx(norms, rel=1e-6)
    assert row[["rho:empty", "nsr:empty", "relative:empty", "rho:zeros", "relative:zeros"]].tolist() == [0.0] * 5
    assert row["rho"] == pytest.approx(row[[f"rho:{name}" for name in plain]].mean())


def test_an_empty_output_has_no_error():
    assert errors([np.zeros((0, 4))], [np.zeros((0, 4))]).tolist() == [0.0] * 7


def test_scalars_and_whole_numbers_go_through_the_segments(tmp_path):
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(0, 0.3, (8, 4)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"], name="product"),
        helper.make_node("ReduceMax", ["t"], ["most"], name="most", keepdims=0),
        helper.make_node("Div", ["t", "most"], ["d"], name="divide"),
        helper.make_node("Gather", ["d", "at"], ["y"], name="gather", axis=0),
        helper.make_node("Mul", ["most", "factor"], ["z"], name="scaled"),
    ]
    ends = {
        "x": (TensorProto.FLOAT, [5, 8]), "at": (TensorProto.INT64, [2]), "factor": (TensorProto.FLOAT, []),
        "y": (TensorProto.FLOAT, [2, 4]), "z": (TensorProto.FLOAT, []),
    }  # fmt: skip
    values = [helper.make_tensor_value_info(name, *about) for name, about in ends.items()]
    proto = helper.make_graph(nodes, "scalars", values[:3], values[3:], [weight])
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    graph = ds.load(tmp_path / "m.onnx")
    feed = {"x": rng.random((5, 8), dtype=np.float32), "at": np.array([3, 1]), "factor": np.float32(2)}
    calibration = Calibration({"x": (0.0, 1.0), "t": (-2.0, 2.0)}, QuantizationSetting(), graph.model.sha256, "")
    plain, int8 = both_ways(graph, ["product"], calibration, feed)
    exact = feed["x"] @ numpy_helper.to_array(weight)
    np.testing.assert_allclose(plain["y"], (exact / exact.max())[[3, 1]], rtol=1e-5, atol=1e-6)
    assert plain["z"].shape == int8["z"].shape == ()
    assert plain["z"] == pytest.approx(2 * exact.max(), rel=1e-5)
    assert 0 < abs(plain["y"] - int8["y"]).mean() < 0.1
    twice = feed | {"factor": np.float32(4)}
    for layers, wanted in (((), plain), (["product"], int8)):
        first, second = all_in_int8(graph, layers, calibration, [feed, twice])
        np.testing.assert_allclose(first[0], wanted["y"], rtol=1e-6)
        np.testing.assert_allclose([first[1], second[1]], [wanted["z"], 2 * wanted["z"]], rtol=1e-6)
