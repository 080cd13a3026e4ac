"""Reading ONNX files: what is refused, how nodes are named, which are constants, and parts of a model."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from dnnsplit.graph.cleanup import node_inputs
from dnnsplit.graph.reading import read_model
from dnnsplit.ground.errors import ModelError

node = helper.make_node
X = [1, 3, 8, 8]


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, *shape, seed=0):
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=shape).astype(np.float32), name)


def save(path, nodes, inputs, outputs, weights=(), opset=17):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def chain(tmp_path):
    """x --> conv --> relu --> y"""
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), node("Relu", ["c"], ["y"], name="relu")]
    return save(tmp_path / "chain.onnx", nodes, [info("x", X)], [info("y", [1, 4, 6, 6])], [weight("w", 4, 3, 3, 3)])


def refused(says, path):
    with pytest.raises(ModelError) as error:
        read_model(path)
    for part in says:
        assert part in str(error.value), str(error.value)
    return str(error.value)


def run(proto, feed, outputs=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(outputs, feed)


# ---------------------------------------------------------------- the index


def test_the_index_of_a_chain(tmp_path):
    model = read_model(chain(tmp_path))
    assert list(model.nodes) == ["conv", "relu"]
    assert (model.inputs, model.outputs) == (("x",), ("y",))
    assert model.producer == {"c": "conv", "y": "relu"}
    assert model.consumers == {"x": ("conv",), "w": ("conv",), "c": ("relu",)}
    assert model.types["c"] == (TensorProto.FLOAT, (1, 4, 6, 6))
    assert model.size_bytes("x") == 1 * 3 * 8 * 8 * 4
    assert model.size_bytes("c") == 1 * 4 * 6 * 6 * 4
    assert model.dtype("c") == np.float32
    assert model.weight("w").shape == (4, 3, 3, 3)
    assert model.is_constant("w")
    assert not model.is_constant("c")
    assert not model.is_constant("x")


def test_sizes_follow_the_element_type(tmp_path):
    nodes = [node("Cast", ["x"], ["y"], to=TensorProto.INT64), node("Cast", ["x"], ["z"], to=TensorProto.UINT8)]
    outputs = [info("y", [2, 5], TensorProto.INT64), info("z", [2, 5], TensorProto.UINT8)]
    model = read_model(save(tmp_path / "m.onnx", nodes, [info("x", [2, 5], TensorProto.FLOAT16)], outputs))
    assert [model.size_bytes(t) for t in "xyz"] == [20, 80, 10]


def test_the_hash_is_of_the_file_and_a_changed_file_is_read_again(tmp_path):
    path = chain(tmp_path)
    before = read_model(path)
    assert read_model(path).sha256 == before.sha256
    save(path, [node("Relu", ["x"], ["y"], name="only")], [info("x", X)], [info("y", X)])
    after = read_model(path)
    assert list(after.nodes) == ["only"]
    assert after.sha256 != before.sha256


def test_a_weight_listed_among_the_inputs_is_no_input(tmp_path):
    nodes = [node("Conv", ["x", "w"], ["y"])]
    inputs = [info("x", X), info("w", [4, 3, 3, 3])]
    model = read_model(save(tmp_path / "m.onnx", nodes, inputs, [info("y", [1, 4, 6, 6])], [weight("w", 4, 3, 3, 3)]))
    assert model.inputs == ("x",)


def test_nodes_in_any_order_are_sorted(tmp_path):
    nodes = [node("Relu", ["c"], ["y"], name="second"), node("Exp", ["x"], ["c"], name="first")]
    model = read_model(save(tmp_path / "m.onnx", nodes, [info("x", X)], [info("y", X)]))
    assert list(model.nodes) == ["first", "second"]
    onnx.checker.check_model(model.proto)


def test_nodes_that_no_output_needs_are_dropped(tmp_path):
    nodes = [node("Relu", ["x"], ["y"], name="used"), node("Exp", ["x"], ["z"], name="idle")]
    nodes += [node("Sqrt", ["z"], ["v"], name="idle too")]
    model = read_model(save(tmp_path / "m.onnx", nodes, [info("x", X)], [info("y", X)]))
    assert list(model.nodes) == ["used"]
    assert model.consumers["x"] == ("used",)


# ---------------------------------------------------------------- names


def test_nodes_without_or_with_equal_names_get_unique_repeatable_names(tmp_path):
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Relu", ["a"], ["b"], name="same"),
        node("Relu", ["b"], ["c"], name="same"),
        node("Relu", ["c"], ["d"], name="same#2"),
        node("Relu", ["d"], ["y"], name="a"),
    ]
    names = []
    for file in ("one.onnx", "two.onnx"):
        names.append(list(read_model(save(tmp_path / file, nodes, [info("x", X)], [info("y", X)])).nodes))
    assert names[0] == names[1] == ["a", "same", "same#2", "same#2#2", "a#2"]


# ---------------------------------------------------------------- constants


@pytest.mark.parametrize(
    ("attribute", "dtype", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([2.0, 3.0], np.float32))}, np.float32, [2.0, 3.0]),
        ({"value_float": 2.5}, np.float32, 2.5),
        ({"value_floats": [1.0, 2.0]}, np.float32, [1.0, 2.0]),
        ({"value_int": 7}, np.int64, 7),
        ({"value_ints": [1, 192]}, np.int64, [1, 192]),
    ],
)
def test_constant_nodes_become_weights(tmp_path, attribute, dtype, expected):
    nodes = [
        node("Constant", [], ["k"], **attribute),
        node("CastLike", ["x", "k"], ["z"], name="like"),
        node("Identity", ["k"], ["i"]),
    ]
    nodes += [node("Add", ["z", "i"], ["y"], name="add")]
    shape = [2] if np.shape(expected) else [1]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = read_model(save(tmp_path / "m.onnx", nodes, [info("x", shape)], [info("y", shape, kind)]))
    assert list(model.nodes) == ["like", "add"]
    assert model.weight("i").tolist() == expected
    assert model.dtype("i") == dtype
    assert "Constant" not in {n.op_type for n in model.proto.graph.node}


@pytest.mark.parametrize(("size", "apart"), [(300, ["sqrt", "neg"]), (4, [])])
def test_constant_subgraphs_of_large_weights_are_kept_apart_and_others_are_folded(tmp_path, size, apart):
    #   w --> Sqrt --> Neg --> Add <-- x
    nodes = [
        node("Sqrt", ["w"], ["r"], name="sqrt"),
        node("Neg", ["r"], ["m"], name="neg"),
        node("Add", ["x", "m"], ["y"], name="add"),
    ]
    values = numpy_helper.from_array(np.arange(size, dtype=np.float32), "w")
    model = read_model(save(tmp_path / "m.onnx", nodes, [info("x", [size])], [info("y", [size])], [values]))
    assert list(model.nodes) == ["add"]
    assert list(model.constant_nodes) == apart
    assert model.is_constant("m")
    assert not model.is_constant("y")
    np.testing.assert_array_equal(model.weight("m"), -np.sqrt(np.arange(size, dtype=np.float32)))


def test_random_numbers_are_no_constants(tmp_path):
    nodes = [node("RandomNormalLike", ["w"], ["r"], name="random"), node("Add", ["x", "r"], ["y"], name="add")]
    model = read_model(save(tmp_path / "m.onnx", nodes, [info("x", [4])], [info("y", [4])], [weight("w", 4)]))
    assert list(model.nodes) == ["random", "add"]


def test_an_output_of_constants_alone_comes_from_a_node_of_its_own(tmp_path):
    nodes = [node("Relu", ["x"], ["y"]), node("Sqrt", ["w"], ["z"]), node("Add", ["y", "z"], ["v"], name="add")]
    outputs = [info(name, [4]) for name in "yzv"]
    values = numpy_helper.from_array(np.array([1, 4, 9, 16], np.float32), "w")
    model = read_model(save(tmp_path / "m.onnx", nodes, [info("x", [4])], outputs, [values]))
    assert (model.inputs, model.outputs) == (("x",), ("y", "z", "v"))
    assert model.nodes[model.producer["z"]].op_type == "Identity"
    assert model.is_constant(model.nodes["add"].input[1])  # who reads it goes on without waiting
    found = run(model.proto, {"x": np.ones(4, np.float32)}, ["z", "v"])
    assert [array.tolist() for array in found] == [[1, 2, 3, 4], [2, 3, 4, 5]]


# ---------------------------------------------------------------- parts


def test_a_part_gives_the_values_of_the_whole(tmp_path):
    #   x --> conv --> relu --> mul --> y     the cut is between relu and mul
    #   w2 --> Exp --> Neg ------/
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Relu", ["c"], ["r"], name="relu"),
        node("Exp", ["w2"], ["e"], name="exp"),
        node("Neg", ["e"], ["n"], name="neg"),
        node("Mul", ["r", "n"], ["y"], name="mul"),
    ]
    weights = [weight("w", 4, 3, 3, 3), weight("w2", 8, 4, 6, 6, seed=1)]
    model = read_model(save(tmp_path / "m.onnx", nodes, [info("x", X)], [info("y", [8, 4, 6, 6])], weights))
    first = model.assemble([model.nodes["conv"], model.nodes["relu"]], [model.value_info("x")], [model.value_info("r")])
    second = model.assemble([model.nodes["mul"]], [model.value_info("r")], [model.value_info("y")])
    onnx.checker.check_model(first, full_check=True)
    onnx.checker.check_model(second, full_check=True)
    assert [w.name for w in first.graph.initializer] == ["w"]
    assert [w.name for w in second.graph.initializer] == ["w2"]
    assert [n.name for n in second.graph.node] == ["exp", "neg", "mul"]
    x = np.random.default_rng(2).normal(size=X).astype(np.float32)
    whole = run(model.proto, {"x": x})[0]
    assert np.abs(whole).max() > 0
    np.testing.assert_array_equal(run(second, {"r": run(first, {"x": x})[0]})[0], whole)


def test_a_part_takes_weights_that_are_not_of_the_model(tmp_path):
    model = read_model(chain(tmp_path))
    zero = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    part = model.assemble([model.nodes["conv"]], [model.value_info("x")], [model.value_info("c")], [zero])
    assert not run(part, {"x": np.ones(X, np.float32)})[0].any()


def test_value_info_has_the_inferred_shape(tmp_path):
    value = read_model(chain(tmp_path)).value_info("c")
    assert value.name == "c"
    assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [1, 4, 6, 6]


def test_a_node_reads_what_its_subgraphs_take_from_outside():
    inside = helper.make_graph([node("Add", ["a", "outer"], ["b"])], "then", [], [info("b", [1])], [weight("a", 1)])
    other = helper.make_graph([node("Relu", ["outer2"], ["c"])], "else", [], [info("c", [1])])
    names = node_inputs(node("If", ["cond"], ["y"], then_branch=inside, else_branch=other))
    assert names[0] == "cond"
    assert sorted(names[1:]) == ["outer", "outer2"]


def test_optional_inputs_left_out_are_not_read():
    assert node_inputs(node("Clip", ["x", "", "max"], ["y"])) == ["x", "max"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("content", [b"hello, world\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04zip", b"{}", bytes(range(256))])
def test_a_file_that_is_no_onnx_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    refused(["m.onnx is no ONNX", "export"], tmp_path / "m.onnx")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    refused(["m.onnx is no ONNX file", "it is empty"], tmp_path / "m.onnx")


def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path):
    content = chain(tmp_path).read_bytes()
    for length in range(1, len(content) - 8, 29):
        (tmp_path / "m.onnx").write_bytes(content[:length])
        refused(["m.onnx is no"], tmp_path / "m.onnx")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    refused([str(tmp_path), "is a folder", ".onnx file"], tmp_path)
    refused(["there is no model file", "no.onnx"], str(tmp_path / "no.onnx"))


def test_weights_in_a_missing_or_cut_file_are_refused(tmp_path):
    model = onnx.load(chain(tmp_path))
    onnx.save(model, tmp_path / "whole.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert read_model(tmp_path / "whole.onnx").weight("w").shape == (4, 3, 3, 3)
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "whole.onnx").read_bytes())
    (tmp_path / "m.data").write_bytes(b"short")
    refused(["cut.onnx", "in another file", "put it beside"], tmp_path / "cut.onnx")
    (tmp_path / "alone.onnx").write_bytes((tmp_path / "whole.onnx").read_bytes())
    (tmp_path / "m.data").unlink()
    refused(["alone.onnx", "in another file", "put it beside"], tmp_path / "alone.onnx")


def test_a_cycle_is_named_without_what_hangs_behind_it(tmp_path):
    #   x --> p <--> q --> down --> y
    nodes = [
        node("Relu", ["b"], ["y"], name="down"),
        node("Add", ["x", "b"], ["a"], name="p"),
        node("Relu", ["a"], ["b"], name="q"),
    ]
    message = refused(["cycle", "'p'", "'q'", "acyclic"], save(tmp_path / "m.onnx", nodes, [info("x", X)], [info("y", X)]))
    assert "down" not in message


def test_a_tensor_that_nothing_produces_is_named(tmp_path):
    path = save(tmp_path / "m.onnx", [node("Add", ["x", "ghost"], ["y"])], [info("x", X)], [info("y", X)])
    refused(["'ghost'", "nothing produces it"], path)


def test_an_output_that_nothing_produces_is_named(tmp_path):
    path = save(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], [info("x", X)], [info("y", X), info("ghost", [1])])
    refused(["not a valid ONNX model", "(ghost)"], path)


def test_an_invalid_shape_is_told_with_the_shapes_that_were_given(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [node("MatMul", ["x", "w"], ["y"])],
        [info("x", ["a", "b"])],
        [info("y", ["a", 3])],
        [weight("w", 4, 3)],
    )
    with pytest.raises(
        ModelError, match=r"does not take m.onnx with its inputs fixed to {'x': \(2, 5\)}; give other .*Incompatible"
    ):
        read_model(path, shapes={"x": (2, 5)})


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([node("Foo", ["x"], ["y"])], ["Foo"]),
        ([node("Foo", ["x"], ["y"], domain="my.ops")], ["my.ops"]),
        ([node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["y"])], ["'y' is made by 2"]),
        ([node("Concat", ["x", "x"], ["y"])], ["axis"]),
    ],
)
def test_an_invalid_graph_is_refused(tmp_path, nodes, says):
    path = save(tmp_path / "m.onnx", nodes, [info("x", X)], [info("y", X)])
    refused(["m.onnx is not a valid ONNX model", *says], path)
