"""Shapes of open inputs, as they are given and as they are asked for; inputs and outputs that are no tensors of numbers."""

import numpy as np
import pytest
from helpers.small_models import saved
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.cutting.checks import DATATYPES
from dnnsplit.graph.signature import SENDABLE

node = helper.make_node


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def open_model(tmp_path):
    """x (?, 3, ?, ?) and z (batch, 4): a Relu of each."""
    nodes = [node("Relu", ["x"], ["y"]), node("Relu", ["z"], ["v"])]
    inputs = [tensor("x", ["?", 3, "?", "?"]), tensor("z", ["batch", 4])]
    return saved(tmp_path / "m.onnx", nodes, inputs, [tensor("y", ["?", 3, "?", "?"]), tensor("v", ["batch", 4])])


def test_shapes_settle_open_inputs_and_are_part_of_what_the_graph_is(open_model):
    graph = ds.load(open_model, shapes={"x": (1, 3, 48, 192), "z": [2, 4]})
    assert {t.name: t.shape for t in graph.tensors} == {"x": (1, 3, 48, 192), "z": (2, 4), "y": (1, 3, 48, 192), "v": (2, 4)}
    assert graph.shapes == {"x": (1, 3, 48, 192), "z": (2, 4)}
    other = ds.load(open_model, shapes={"z": (2, 4), "x": np.array([1, 3, 48, 96])})
    assert graph.model_sha256 != other.model_sha256  # what is measured of one is not of the other
    assert graph.model_sha256 == ds.load(open_model, shapes={"z": (2, 4), "x": (1, 3, 48, 192)}).model_sha256


def test_a_symbol_of_two_sizes_is_told(open_model):
    (note,) = ds.load(open_model, shapes={"x": (1, 3, 48, 192), "z": (2, 4)}).notes
    assert "symbol '?'" in note
    assert all(f"{size} (in x)" in note for size in (1, 48, 192))


def test_open_inputs_are_refused_with_a_call_that_works(open_model):
    with pytest.raises(ds.ModelError) as error:
        ds.load(open_model)
    text = str(error.value)
    assert "m.onnx has no fixed shapes" in text
    assert "'x' (?, 3, ?, ?)" in text
    assert "'z' (batch, 4)" in text
    assert "--shape x=1,3,224,224 --shape z=1,4" in text
    call = text.partition("shapes=")[2].partition("}")[0] + "}"
    assert ds.load(open_model, shapes=eval(call)).shapes == {"x": (1, 3, 224, 224), "z": (1, 4)}


def test_all_that_is_wrong_with_shapes_is_told_at_once(open_model):
    with pytest.raises(ds.ModelError) as error:
        ds.load(open_model, shapes={"x": (1, 4, 48, 192), "zz": (1,), "z": (1, 2.5)})
    text = str(error.value)
    assert "there is no input 'zz' to give a shape (did you mean 'z'?)" in text
    assert "input 'x' has the shape (?, 3, ?, ?) in the file; (1, 4, 48, 192) does not fit" in text
    assert "the shape of input 'z' is (1, 2.5)" in text


@pytest.mark.parametrize("shape", [(1, 3), "1,3,4,4", 7, (1, 3, -1, 4), (True, 3, 4, 4), None])
def test_a_shape_that_is_none_is_refused(open_model, shape):
    with pytest.raises(ds.ModelError, match="'x'"):
        ds.load(open_model, shapes={"x": shape, "z": (1, 4)})


def test_shapes_that_are_no_mapping_are_refused(open_model):
    with pytest.raises(ds.ModelError, match="by name of input"):
        ds.load(open_model, shapes=[(1, 3, 4, 4)])


def test_a_fixed_input_may_be_given_as_it_is(tmp_path):
    path = saved(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], [tensor("x", [1, 8])], [tensor("y", [1, 8])])
    told, plain = ds.load(path, shapes={"x": (1, 8)}), ds.load(path)
    assert told.tensors[0].shape == (1, 8)
    assert told.model_sha256 == plain.model_sha256  # it says nothing that the file does not
    with pytest.raises(ds.ModelError, match=r"has the shape \(1, 8\) in the file; \(1, 9\) does not fit"):
        ds.load(path, shapes={"x": (1, 9)})


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "says"),
    [
        (
            [node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a"], values_floats=[1.0])],
            [tensor("x", [1, 2], TensorProto.STRING)], [tensor("y", [1, 2])], r"input 'x' is texts.*before the model",
        ),
        (
            [node("Cast", ["x"], ["y"], to=TensorProto.STRING)],
            [tensor("x", [1, 2])], [tensor("y", [1, 2], TensorProto.STRING)], r"output 'y' is texts.*export the model without it",
        ),
        (
            [node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)],
            [tensor("x", [1, 2])], [tensor("y", [1, 2], TensorProto.BFLOAT16)], r"'y' is bfloat16.*a Cast before it",
        ),
        (
            [node("SplitToSequence", ["x"], ["y"], axis=1)],
            [tensor("x", [1, 2])], [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
            "output 'y' is a sequence",
        ),
    ],
    ids=["texts in", "texts out", "bfloat16 out", "sequence out"],
)  # fmt: skip
def test_what_is_no_tensor_of_numbers_is_refused_in_one_sentence(tmp_path, nodes, inputs, outputs, says):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)], ir_version=8
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ds.ModelError, match=says) as error:
        ds.load(tmp_path / "m.onnx")
    assert "\n" not in str(error.value)


def test_what_load_takes_as_numbers_is_what_a_bundle_can_carry():
    assert set(DATATYPES) == SENDABLE
