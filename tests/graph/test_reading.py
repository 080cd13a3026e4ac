"""What reading does to a file: old opsets, tensors that stay on their server, and what follows from constants."""

import pickle
import re

import networkx as nx
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers.small_models import conv_net, saved, telling
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds

node = helper.make_node
X = np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32)


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def alike(path, graph, feed):
    """Check that the model as it was read gives what the file gives."""
    found, expected = (
        ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(list(graph.model.outputs), feed)
        for content in (graph.model.proto.SerializeToString(), str(path))
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_old_opsets_are_read_as_a_converted_copy_that_can_be_int8(tmp_path, opset):
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["b"], name="norm"),
        node("Slice", ["b"], ["s"], name="slice", axes=[2], starts=[1], ends=[5]),
        node("Dropout", ["s"], ["d", "mask"], name="drop"),
        node("MatMul", ["d", "v"], ["y"], name="product"),
    ]
    weights = {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "v": rng.normal(size=(6, 5)).astype(np.float32)}
    weights |= {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
    path = saved(tmp_path / "m.onnx", nodes, [tensor("x", [1, 3, 8, 8])], [tensor("y", [1, 4, 4, 5])], weights, opset)
    graph = ds.load(path)
    assert graph.quantizable() == ("conv", "product")
    assert graph.model.opset == 10
    assert any(f"opset {opset}" in note for note in graph.notes)
    alike(path, graph, {"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)})


def test_a_graph_keeps_what_its_file_says_of_the_weights(tmp_path):
    path = conv_net(tmp_path / "m.onnx")
    assert ds.load(path).weights == ""
    assert "weights</th>" not in ds.load(path)._repr_html_()
    graph = ds.load(telling(path, weights="untrained: random, <seed 0>", task="detect"))
    assert graph.weights == pickle.loads(pickle.dumps(graph)).weights == "untrained: random, <seed 0>"
    assert re.search("<th [^>]*>weights</th><td [^>]*>untrained: random, &lt;seed 0&gt;</td>", graph._repr_html_())
    assert graph.model.metadata == {"weights": graph.weights, "task": "detect"}


def test_an_old_opset_with_inputs_that_nothing_reads_is_converted_too(tmp_path):
    ends = [tensor("x", [1, 8]), tensor("queue", [1], TensorProto.INT64)], [tensor("y", [1, 2])]
    path = saved(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], *ends, {"w": np.ones((8, 2), np.float32)}, 9)
    graph = ds.load(path)
    assert graph.model.opset == 10
    assert graph.model.unread == ("queue",)


def test_an_old_opset_that_cannot_be_converted_stays_and_is_float32(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no adapter")

    monkeypatch.setattr("onnx.version_converter.convert_version", fails)
    path = saved(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], [tensor("x", [1, 8])], [tensor("y", [1, 2])],
                 {"w": np.ones((8, 2), np.float32)}, 9)  # fmt: skip
    graph = ds.load(path)
    assert graph.quantizable() == ()
    assert any("no adapter" in note and "float32" in note for note in graph.notes)


def test_a_converted_copy_that_gives_other_values_is_not_taken(tmp_path, monkeypatch):
    convert = onnx.version_converter.convert_version

    def wrong(model, version):
        copy = convert(model, version)
        copy.graph.node[-1].op_type = "Neg"
        return copy

    monkeypatch.setattr("onnx.version_converter.convert_version", wrong)
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Exp", ["m"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, [tensor("x", [1, 8])], [tensor("y", [1, 2])], {"w": np.ones((8, 2), np.float32)}, 9)
    graph = ds.load(path)
    assert any("other values" in note for note in graph.notes)
    alike(path, graph, {"x": X})


def test_what_follows_from_fixed_inputs_is_no_layer(tmp_path):
    #   x --> Shape -> Gather -> Cast -> Range --> Add --> Mul(x) --> y
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["n"]), node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        node("Range", ["zero", "f", "step"], ["r"]), node("Add", ["r", "step"], ["r1"]),
        node("Mul", ["x", "r1"], ["y"], name="mul"),
    ]  # fmt: skip
    numbers = {"one": np.array(1), "zero": np.float32(0), "step": np.float32(1)}
    path = saved(tmp_path / "m.onnx", nodes, [tensor("x", ["n", "m"])], [tensor("y", ["n", "m"])], numbers)
    graph = ds.load(path, shapes={"x": (1, 8)})
    assert graph.layer_names == ("mul",)
    assert [t.name for t in graph.tensors] == ["x", "y"]
    alike(path, graph, {"x": X})


def test_an_if_on_a_constant_is_its_branch(tmp_path):
    yes = helper.make_graph([node("Squeeze", ["a", "axis"], ["t"], name="squeeze")], "yes", [], [tensor("t", [8])])
    no = helper.make_graph([node("Identity", ["a"], ["e"])], "no", [], [tensor("e", [1, 8])])
    nodes = [
        node("Exp", ["x"], ["a"]),
        node("If", ["true"], ["i"], name="if", then_branch=yes, else_branch=no),
        node("Neg", ["i"], ["y"]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in (("true", np.array(True)), ("axis", np.array([0])))]
    graph = helper.make_graph(nodes, "g", [tensor("x", [1, 8])], [tensor("y", [8])], weights)
    (tmp_path / "m.onnx").write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    found = ds.load(tmp_path / "m.onnx")
    assert "If" not in {node.op_type for node in found.model.nodes.values()}
    alike(tmp_path / "m.onnx", found, {"x": X})


def whole(path, nodes, outputs, numbers=None):
    graph = ds.load(saved(path, nodes, [tensor("x", [1, 8])], outputs, numbers))
    assert nx.is_directed_acyclic_graph(graph.digraph)
    for t in graph.tensors:
        assert -1 not in t.shape or t.is_output
    alike(path, graph, {"x": X})
    return graph


def test_nodes_around_a_shape_that_depends_on_data_are_one_layer(tmp_path):
    #   x --> Relu --> NonZero --> Cast --> ReduceSum --> y       Relu --> Exp --> z
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"), node("NonZero", ["a"], ["nz"], name="find"),
        node("Cast", ["nz"], ["c"], name="cast", to=TensorProto.FLOAT), node("ReduceSum", ["c"], ["y"], name="sum", keepdims=0),
        node("Exp", ["a"], ["z"], name="exp"),
    ]  # fmt: skip
    graph = whole(tmp_path / "m.onnx", nodes, [tensor("y", []), tensor("z", [1, 8])])
    assert sorted(map(sorted, (layer.nodes for layer in graph.layers))) == [["cast", "find", "sum"], ["exp"], ["relu"]]
    (note,) = graph.notes
    assert "keeps 3 nodes on one server" in note
    assert "'nz', whose shape depends on data (NonZero 'find')" in note


def test_what_lies_between_two_such_nodes_goes_with_them(tmp_path):
    """The nodes that make and read the open tensor would form a cycle with what is between them: x -> (find) -> a -> (pick)."""
    nodes = [
        node("NonZero", ["x"], ["nz"], name="find"), node("Exp", ["x"], ["e"], name="exp"),
        node("Shape", ["nz"], ["count"], name="count"), node("ReduceSum", ["count"], ["n"], name="n", keepdims=0),
        node("Add", ["n", "n"], ["m"], name="between"), node("Reshape", ["m", "flat"], ["m1"], name="flatten"),
        node("Expand", ["nz", "m1"], ["w"], name="pick"), node("ReduceMax", ["w"], ["y"], name="max", keepdims=0),
    ]  # fmt: skip
    nodes[6] = node("Add", ["nz", "m"], ["w"], name="pick")
    graph = whole(tmp_path / "m.onnx", nodes, [tensor("y", [], TensorProto.INT64), tensor("e", [1, 8])], {"flat": np.array([1])})
    together = next(layer.nodes for layer in graph.layers if "find" in layer.nodes)
    assert {"find", "count", "n", "between", "pick", "max"} <= set(together)
    assert ("exp",) in [layer.nodes for layer in graph.layers]


def test_an_output_whose_shape_depends_on_data_is_delivered_as_it_comes(tmp_path):
    nodes = [node("Relu", ["x"], ["a"], name="relu"), node("NonZero", ["a"], ["y"], name="find")]
    graph = whole(tmp_path / "m.onnx", nodes, [tensor("y", [2, "n"], TensorProto.INT64)])
    assert graph.layer_names == ("relu", "find")
    (out,) = [t for t in graph.tensors if t.is_output]
    assert out.shape == (2, -1)
    assert out.size_bytes > 0  # as in one run
    assert any("the model delivers 'y', whose shape depends on data (NonZero 'find')" in note for note in graph.notes)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ([node("Cast", ["a"], ["s"], to=TensorProto.STRING), node("Cast", ["s"], ["b"], to=TensorProto.FLOAT)], "texts"),
        ([node("Cast", ["a"], ["s"], to=TensorProto.BFLOAT16), node("Cast", ["s"], ["b"], to=TensorProto.FLOAT)], "bfloat16"),
        ([node("SplitToSequence", ["a"], ["s"], axis=1), node("ConcatFromSequence", ["s"], ["b"], axis=1)], "a sequence"),
    ],
    ids=["texts", "bfloat16", "sequence"],
)
def test_what_is_no_tensor_of_numbers_stays_inside_of_a_layer(tmp_path, inside, reason):
    nodes = [node("Relu", ["x"], ["a"], name="relu"), *inside, node("Neg", ["b"], ["y"], name="neg")]
    graph = whole(tmp_path / "m.onnx", nodes, [tensor("y", [1, 8])])
    assert {t.dtype for t in graph.tensors} == {"float32"}
    assert len(graph.layers) >= 2
    assert any(f"'s', which is {reason}" in note for note in graph.notes)


def test_unread_inputs_are_left_out_and_told(tmp_path):
    path = saved(
        tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], [tensor("x", [1, 8]), tensor("u", [3])], [tensor("y", [1, 8])]
    )
    graph = ds.load(path)
    assert (graph.model.inputs, graph.model.unread) == (("x",), ("u",))
    assert [t.name for t in graph.tensors] == ["x", "y"]
    assert any("'u'" in note for note in graph.notes)


def test_scalars_are_not_open(tmp_path):
    nodes = [node("Cast", ["rate"], ["f"], to=TensorProto.FLOAT), node("Mul", ["x", "f"], ["y"])]
    inputs = [tensor("x", [1, "n"]), tensor("rate", [], TensorProto.INT64)]
    graph = ds.load(saved(tmp_path / "m.onnx", nodes, inputs, [tensor("y", [1, "n"])]), shapes={"x": (1, 8)})
    assert {t.name: t.shape for t in graph.tensors}["rate"] == ()
    assert graph.shapes == {"x": (1, 8)}


def test_operators_of_onnx_runtime_have_shapes(tmp_path):
    nodes = [
        node("FusedMatMul", ["x", "w"], ["a"], domain="com.microsoft", alpha=0.5),
        node("BiasGelu", ["a", "b"], ["g"], domain="com.microsoft"), node("Neg", ["g"], ["y"]),
    ]  # fmt: skip
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", (8, 3)), ("b", 3))]
    graph = helper.make_graph(nodes, "g", [tensor("x", [1, 8])], [tensor("y", None)], weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    found = ds.load(tmp_path / "m.onnx")
    assert {t.name: t.shape for t in found.tensors}["g"] == (1, 3)
    alike(tmp_path / "m.onnx", found, {"x": X})


def test_half_precision_stays_as_the_file_has_it(tmp_path):
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"),
        node("MatMul", ["a", "w"], ["b"], name="product"),
        node("Neg", ["b"], ["y"], name="neg"),
    ]
    half = TensorProto.FLOAT16
    path = saved(
        tmp_path / "m.onnx", nodes, [tensor("x", [1, 8], half)], [tensor("y", [1, 3], half)], {"w": np.ones((8, 3), np.float16)}
    )
    graph = ds.load(path)
    assert set(graph.model.nodes) == {"relu", "product", "neg"}
    assert {t.dtype for t in graph.tensors} == {"float16"}


def test_names_of_operators_that_onnx_runtime_writes_out_stay(tmp_path):
    nodes = [node("HardSwish", ["x"], ["a"], name="swish"), node("Neg", ["a"], ["y"], name="neg")]
    graph = whole(tmp_path / "m.onnx", nodes, [tensor("y", [1, 8])])
    assert graph.layer_names == ("swish", "neg")
