"""Values that are no numbers differ from all but themselves; no check takes them for equal to a number."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.cutting.verification import verify
from dnnsplit.graph.feeds import made_up
from dnnsplit.ground.differences import absolute, magnitude
from dnnsplit.noise.metrics import errors


def test_by_hand():
    one, other = np.array([1, np.nan, np.inf, -np.inf, np.nan, 2, np.inf]), np.array([1.5, np.nan, np.inf, np.inf, 0, np.nan, 3])
    assert absolute(one, other).tolist() == [0.5, 0, 0, np.inf, np.inf, np.inf, np.inf]
    assert magnitude(one).tolist() == [1, 0, 0, 0, 0, 2, 0]
    assert absolute(np.uint8([1, 250]), np.uint8([250, 1])).tolist() == [249, 249]
    assert absolute(np.array([True]), np.array([False])).tolist() == [1]


def save(path, nodes, outputs, weights=()):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", *outputs)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(v, n) for n, v in weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def cut_in_two(path, folder):
    graph = ds.load(path)
    network = ds.Network([ds.Server("a"), ds.Server("b")], [ds.Link("a", "b", 1e9, 0.0), ds.Link("b", "a", 1e9, 0.0)])
    rows = {"layer": graph.layer_names, "seconds": 1.0}
    import pandas as pd

    times = pd.concat([pd.DataFrame(rows).assign(server=s, precision="float32") for s in "ab"])
    pins = {name: "ab"[i > 0] for i, name in enumerate(graph.topological)}
    return graph, ds.cut(path, ds.split(graph, network, ds.LayerTimes(times), pins=pins), folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parts_that_give_no_numbers_do_not_pass(tmp_path, value):
    nodes = [helper.make_node("Neg", ["x"], ["a"], name="n"), helper.make_node("Exp", ["a"], ["y"], name="e")]
    graph, bundle = cut_in_two(save(tmp_path / "m.onnx", nodes, ["y"]), tmp_path / "build")
    last = bundle.parts[-1]
    bad = [helper.make_node("Mul", ["a", "zero"], ["z"]), helper.make_node("Add", ["z", "bad"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("a", "y")]
    constants = [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0.0), ("bad", value))]
    graph_of_it = helper.make_graph(bad, "g", ends[:1], ends[1:], constants)
    proto = helper.make_model(graph_of_it, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, bundle.folder / last.file)
    with pytest.raises(ds.DeployError, match=r"the parts differ from the whole model .*output 'y' is off by inf"):
        verify(bundle, graph, {}, {}, ds.Calibration({}, ds.QuantizationSetting(), "", ""), made_up(graph.model))


def test_a_model_that_itself_gives_infinities_and_nan_can_be_cut(tmp_path):
    nodes = [helper.make_node("Sub", ["x", "two"], ["a"], name="s"), helper.make_node("Log", ["a"], ["y"], name="l")]  # of < 0
    nodes.append(helper.make_node("Div", ["a", "zero"], ["z"], name="d"))
    constants = [("two", np.float32(2)), ("zero", np.float32(0))]
    _, bundle = cut_in_two(save(tmp_path / "m.onnx", nodes, ["y", "z"], constants), tmp_path / "build")
    assert len(bundle.parts) >= 2


def test_the_noise_of_outputs_that_are_no_numbers_is_infinite_unless_they_are_the_same():
    plain = [np.array([[1.0, np.inf, np.nan]])]
    assert errors(plain, [np.array([[2.0, np.inf, np.nan]])])[0] == pytest.approx(1 / 3)
    assert np.isinf(errors(plain, [np.array([[1.0, 5.0, np.nan]])])[0])
    assert np.isinf(errors(plain, [np.array([[np.nan, np.inf, np.nan]])])[0])
