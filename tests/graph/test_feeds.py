"""What is given for the inputs of a model, read for each inference; and inputs that are made up."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.small_models import conv_net, images, saved
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.graph.feeds import feeds_of, made_up

KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8,
         "bool": TensorProto.BOOL}  # fmt: skip


def model_of(path, inputs, nodes=None, output=(1,)):
    """The model with some inputs, name -> (dtype, shape), that makes z; without nodes of the sum of all."""
    if nodes is None:
        nodes = [helper.make_node("Cast", [name], [f"{name}/f"], to=TensorProto.FLOAT) for name in inputs]
        nodes += [helper.make_node("ReduceSum", [f"{name}/f"], [f"{name}/s"], keepdims=0) for name in inputs]
        nodes.append(helper.make_node("Sum", [f"{name}/s" for name in inputs], ["z"]))
        output = ()
    infos = [helper.make_tensor_value_info(name, KINDS[dtype], shape) for name, (dtype, shape) in inputs.items()]
    return ds.load(saved(path, nodes, infos, [helper.make_tensor_value_info("z", TensorProto.FLOAT, output)])).model


def divided_by(name):
    """Nodes that make z, n divided by some integers, none of which may be 0."""
    return [helper.make_node("Div", ["n", name], ["q"]), helper.make_node("Cast", ["q"], ["z"], to=TensorProto.FLOAT)]


@pytest.fixture
def scalar(tmp_path):
    return model_of(tmp_path / "scalar.onnx", {"x": ("float32", (1, 4)), "sr": ("int64", ())})


@pytest.mark.parametrize(
    ("given", "each"),
    [
        ([8000, 16000], [8000, 16000]),
        (np.array([[8000], [16000]]), [8000, 16000]),
        (np.array(16000), [16000, 16000]),
        (16000, [16000, 16000]),
        (np.array([1.0, 2.0], np.float32), [1, 2]),
    ],
)
def test_a_scalar_is_one_number_per_inference_or_one_for_all(scalar, given, each):
    feeds = feeds_of(scalar, {"x": np.ones((2, 4)), "sr": given})
    assert [feed["sr"].tolist() for feed in feeds] == each
    assert {(feed["sr"].shape, feed["sr"].dtype.name) for feed in feeds} == {((), "int64")}
    assert {(feed["x"].shape, feed["x"].dtype.name) for feed in feeds} == {((1, 4), "float32")}


@pytest.mark.parametrize("given", [np.ones((1, 2)), np.ones((2, 1, 1)), np.ones(0), np.ones((2, 2))])
def test_a_scalar_in_another_shape_is_refused_with_the_right_one(scalar, given):
    with pytest.raises(ds.NoiseError, match=r"values for 'sr' have the shape .*; the model needs \(n,\), or one number for all"):
        feeds_of(scalar, {"x": np.ones((2, 4)), "sr": given})


@pytest.mark.parametrize(
    ("shape", "given", "count"),
    [
        ((2, 3), (2, 3), 1),  # what the model takes is one inference
        ((2, 3), (6, 3), 3),
        ((2, 3), (5, 2, 3), 5),  # an axis of their own
        ((4,), (4,), 1),
        ((4,), (8,), 2),
        ((1,), (3,), 3),
        ((1,), (3, 1), 3),
    ],
)
def test_the_first_axis_holds_inferences(tmp_path, shape, given, count):
    model = model_of(tmp_path / "m.onnx", {"x": ("float32", shape)})
    values = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    feeds = feeds_of(model, values)
    assert [feed["x"].shape for feed in feeds] == [shape] * count
    assert np.concatenate([feed["x"].ravel() for feed in feeds]).tolist() == values.ravel().tolist()


@pytest.mark.parametrize(
    ("shape", "given", "needed"),
    [
        ((2, 3), (5, 3), r"\(n, 3\) with n a multiple of 2"),
        ((1, 3), (0, 3), r"\(n, 3\)"),
        ((1, 3), (3,), r"\(n, 3\)"),
        ((1, 3), (2, 4), r"\(n, 3\)"),
        ((1,), (), r"\(n,\)"),
    ],
)
def test_another_shape_is_refused_with_the_right_one(tmp_path, shape, given, needed):
    model = model_of(tmp_path / "m.onnx", {"x": ("float32", shape)})
    with pytest.raises(ds.NoiseError, match=rf"values for 'x' have the shape .*; the model needs {needed}"):
        feeds_of(model, np.ones(given, np.float32))


@pytest.mark.parametrize(
    ("dtype", "given", "found"),
    [
        ("int64", [1.0, 2.0], [1, 2]),
        ("int64", [True, False], [1, 0]),
        ("uint8", [255, 0], [255, 0]),
        ("bool", [1, 0], [True, False]),
        ("float16", [0.5, 65504.0], [0.5, 65504.0]),
        ("float32", np.array([1, 255], np.uint8), [1.0, 255.0]),
        ("float32", [0.1, np.inf], [np.float32(0.1), np.inf]),  # floats are rounded
    ],
)
def test_values_take_on_the_type_of_the_model(tmp_path, dtype, given, found):
    model = model_of(tmp_path / "m.onnx", {"x": (dtype, (1,))})
    feeds = feeds_of(model, np.asarray(given))
    assert {feed["x"].dtype.name for feed in feeds} == {dtype}
    assert [feed["x"].item() for feed in feeds] == found


@pytest.mark.parametrize(
    ("dtype", "given", "told"),
    [
        ("int64", [1.0, 2.5], "hold 2.5, which int64 cannot"),
        ("int64", [np.nan], "hold nan"),
        ("uint8", [3, 300], "hold 300"),
        ("uint8", [-1], "hold -1"),
        ("bool", [2], "hold 2"),
        ("float16", [70000.0], "hold 70000.0, which float16 cannot"),
        ("float32", [1e300], r"hold 1e\+300"),
        ("float32", ["a"], "are of the type <U1, which is no real number"),
        ("float32", [None], "are of the type object"),
        ("float32", [1j], "are of the type complex128"),
        ("int64", [2**70], "are of the type object"),
        ("float32", [[1], [1, 2]], "are no array of numbers"),
    ],
)
def test_values_that_would_be_lost_are_refused(tmp_path, dtype, given, told):
    model = model_of(tmp_path / "m.onnx", {"x": (dtype, (1,))})
    with pytest.raises(ds.NoiseError, match=told):
        feeds_of(model, {"x": given})


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    model = model_of(tmp_path / "m.onnx", {name: ("float32", (1, 4)) for name in ("left", "right", "below")})
    with pytest.raises(ds.NoiseError) as caught:
        feeds_of(model, {"left": np.ones((2, 3)), "rihgt": np.ones((2, 4)), "below": np.ones((2, 4))})
    text = str(caught.value)
    assert "there is no input 'rihgt' (did you mean 'right'?)" in text
    assert "values for 'right' are missing; the model needs (n, 4)" in text
    assert "values for 'left' have the shape (2, 3); the model needs (n, 4)" in text
    with pytest.raises(ds.NoiseError, match=r"different numbers of inferences \('left' for 2, 'right' for 3, 'below' for 2\)"):
        feeds_of(model, {"left": np.ones((2, 4)), "right": np.ones((3, 4)), "below": np.ones((2, 4))})
    with pytest.raises(ds.NoiseError, match="one array is given, and the model reads 3 inputs; give arrays by name"):
        feeds_of(model, np.ones((2, 4)))


def test_inputs_that_nothing_reads_are_left_out(tmp_path):
    inputs = {"x": ("float32", (1, 4)), "token_type_ids": ("int64", (1, 4))}
    model = model_of(tmp_path / "m.onnx", inputs, [helper.make_node("Exp", ["x"], ["z"])], (1, 4))
    values = np.arange(8.0).reshape(2, 4)
    for given in (values, {"x": values}, {"x": values, "token_type_ids": "whatever"}):
        feeds = feeds_of(model, given)
        assert [feed.keys() for feed in feeds] == [{"x"}, {"x"}]
    assert made_up(model).keys() == {"x"}
    with pytest.raises(ds.NoiseError, match=r"there is no input 'token_type_id' \(did you mean 'token_type_ids'\?\)"):
        feeds_of(model, {"x": values, "token_type_id": values})


def test_a_model_that_reads_nothing_has_one_inference(tmp_path):
    model = replace(model_of(tmp_path / "m.onnx", {"x": ("float32", (1, 4))}), inputs=())
    assert feeds_of(model, {}) == [{}]
    with pytest.raises(ds.NoiseError, match="one array is given, and the model reads 0 inputs"):
        feeds_of(model, np.ones((1, 4)))


def test_four_axes_are_called_images(tmp_path):
    model = ds.load(conv_net(tmp_path / "net.onnx")).model
    with pytest.raises(ds.NoiseError, match=r"images for 'x' have the shape \(2, 3, 8, 8\); the model needs \(n, 3, 12, 12\)"):
        feeds_of(model, images(2, size=8))


def test_made_up_inputs_are_the_same_each_time(tmp_path):
    inputs = {
        "x": ("float32", (1, 4)),
        "h": ("float16", (1, 2)),
        "u": ("uint8", (1, 9)),
        "k": ("int64", ()),
        "b": ("bool", (1, 2)),
    }
    model = model_of(tmp_path / "m.onnx", inputs)
    one, two = made_up(model), made_up(model)
    assert {name: (value.dtype.name, value.shape) for name, value in one.items()} == inputs
    for name, value in one.items():
        assert value.any()
        np.testing.assert_array_equal(value, two[name])
    assert feeds_of(model, one)[0].keys() == one.keys()


def test_inputs_are_made_up_until_the_model_takes_them(tmp_path, capfd):
    """A divisor must not be 0, an index not beyond its axis, a length be the extent, a logarithm of a logarithm finite."""
    found = made_up(model_of(tmp_path / "divided.onnx", {"n": ("int64", (1,)), "k": ("int64", (9,))}, divided_by("k"), (9,)))
    assert (found["k"] != 0).all()
    length = [helper.make_node("Gather", ["x", "k"], ["z"], axis=1)]
    found = made_up(model_of(tmp_path / "gather.onnx", {"x": ("float32", (1, 2)), "k": ("int64", (4,))}, length, (1, 4)))
    assert (found["k"] < 2).all()
    tall = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Div", ["n", "s"], ["t"]), *divided_by("t")]
    found = made_up(model_of(tmp_path / "length.onnx", {"x": ("float32", (11,)), "n": ("int64", (1,))}, tall, (1,)))
    assert found["n"].tolist() == [11]
    logs = [
        helper.make_node("Log", ["x"], ["y"]),
        helper.make_node("Log", ["y"], ["w"]),
        helper.make_node("Cast", ["k"], ["c"], to=1),
    ]
    logs.append(helper.make_node("Add", ["w", "c"], ["z"]))
    found = made_up(model_of(tmp_path / "log.onnx", {"x": ("float32", (5,)), "k": ("int64", (1,))}, logs, (5,)))
    assert (found["x"] > 1).all()
    assert capfd.readouterr().err == ""  # what did not fit is nobody's business


def test_a_model_that_takes_nothing_made_up_says_why(tmp_path, capfd):
    nodes = [helper.make_node("Sub", ["n", "n"], ["none"]), *divided_by("none")]
    model = model_of(tmp_path / "m.onnx", {"n": ("int64", (1,))}, nodes, (1,))
    with pytest.raises(ds.ModelError, match=r"m.onnx runs on none of \d+ inputs that were made up for it .*by zero.*; give"):
        made_up(model)
    assert capfd.readouterr().err == ""


def test_what_memory_cannot_hold_is_not_made_up(tmp_path, monkeypatch):
    model = model_of(tmp_path / "m.onnx", {"x": ("float32", (10, 10)), "y": ("uint8", (50,))})
    monkeypatch.setattr("dnnsplit.graph.feeds.memory_bytes", lambda: 100 * (4 + 8) + 50 * (1 + 8))
    assert made_up(model)["x"].shape == (10, 10)
    monkeypatch.setattr("dnnsplit.graph.feeds.memory_bytes", lambda: 100 * (4 + 8) + 50 * (1 + 8) - 1)
    with pytest.raises(ds.ModelError, match=r"its inputs takes 1.65 kB of memory, and this machine has 1.649 kB"):
        made_up(model)
