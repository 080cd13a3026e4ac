"""Ranges of tensors: those that ONNX Runtime's own calibrator finds, of all that have one."""

import warnings
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from helpers.small_models import conv_net, images
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, create_calibrator

import dnnsplit as ds
from dnnsplit.graph import external_data
from dnnsplit.quantize.calibration import measured_ranges


def reference(path, folder, feeds):
    """What ONNX Runtime's calibrator finds."""
    augmented = str(folder / "augmented.onnx")
    calibrator = create_calibrator(path, augmented_model_path=augmented, calibrate_method=CalibrationMethod.MinMax)
    left = iter(feeds)
    calibrator.collect_data(SimpleNamespace(get_next=lambda: next(left, None)))
    found = calibrator.compute_data().items()
    return {name: tuple(float(np.asarray(value).item()) for value in data.range_value) for name, data in found}


def test_ranges_are_those_of_onnx_runtime_to_the_last_bit(tmp_path):
    path, pictures = conv_net(tmp_path / "net.onnx", size=32), images(4, 32)
    found = ds.calibrate(ds.load(path), pictures).ranges
    assert found == reference(path, tmp_path, [{"x": picture[None]} for picture in pictures])
    assert list(found) == sorted(found)


def test_the_weights_of_large_models_stay_in_a_file(tmp_path, monkeypatch):
    graph, pictures = ds.load(conv_net(tmp_path / "net.onnx", size=32)), images(2, 32)
    found = ds.calibrate(graph, pictures).ranges
    monkeypatch.setattr(external_data, "LARGE", 1)
    assert ds.calibrate(graph, pictures).ranges == found


def test_only_what_has_a_range_is_measured(tmp_path):
    #   x -> Log -> y (NaN of what is negative), x -> Cast to int64 -> Cast back -> z; s is a scalar, e is empty
    nodes = [
        helper.make_node("Log", ["x"], ["y"]), helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["z"], to=TensorProto.FLOAT), helper.make_node("Add", ["z", "s"], ["sum"]),
        helper.make_node("Concat", ["sum", "e"], ["joined"], axis=0), helper.make_node("Neg", ["e"], ["e2"]),
        helper.make_node("Concat", ["joined", "e2"], ["out"], axis=0),
    ]  # fmt: skip
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [4]), ("s", []))]
    inputs.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [0]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("y", "out")]
    graph = helper.make_graph(nodes, "odd", inputs, outputs, [numpy_helper.from_array(np.ones(2, np.float32), "unread")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    one = ds.load(tmp_path / "m.onnx").model
    feed = {"x": np.array([-1, 1, 2, 3], np.float32), "s": np.array(5, np.float32), "e": np.zeros(0, np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured_ranges(one, [feed])
    assert found["x"] == (-1, 3)
    assert found["s"] == (5, 5)
    assert found["sum"] == found["joined"] == found["out"] == (4, 8)
    assert found.keys() == {"x", "s", "y", "z", "sum", "joined", "out"}  # no integers, nothing that is empty, no weights


@pytest.mark.parametrize("name", ["least and greatest", "least and greatest ReduceMin 0"])
def test_a_tensor_may_have_any_name(tmp_path, name):
    nodes = [helper.make_node("Relu", ["x"], [name]), helper.make_node("Neg", [name], ["y"])]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [2]) for end in "xy"]
    graph = helper.make_graph(nodes, "named", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    found = ds.calibrate(ds.load(tmp_path / "m.onnx"), {"x": np.array([-2, 3, 1, 0], np.float32)}).ranges
    assert found == {"x": (-2, 3), name: (0, 3), "y": (-3, 0)}
