"""Weights that a layer holds, wherever an ONNX file writes them down."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node as node

from dnnsplit.graph.blocks import load
from dnnsplit.graph.constants import held_weights
from dnnsplit.graph.reading import read_model

WIDE = 17  # weights of more than 256 values, which are not folded
SIZE = WIDE * WIDE * 4


def info(name, shape=(1, WIDE), kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def square(name, seed=0):
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=(WIDE, WIDE)).astype(np.float32), name)


def save(path, nodes, weights=(), functions=()):
    graph = helper.make_graph(nodes, "g", [info("x")], [info("y")], list(weights))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def total(path):
    return sum(layer.weight_bytes for layer in load(path).layers)


def branch(name, nodes, weights=()):
    return helper.make_graph(nodes, name, [], [info(nodes[-1].output[0])], list(weights))


def constant(name, seed=1):
    return node("Constant", [], [name], value=square(name, seed))


def test_initializers_and_constant_nodes_in_the_branches_of_an_if_count(tmp_path):
    #   if yes: matmul(x, w1)     else: if yes: matmul(x, constant)  else: matmul(x, outer)
    zero = numpy_helper.from_array(np.float32(0), "zero")
    inner_then = branch("c", [constant("k"), node("MatMul", ["x", "k"], ["c.y"])])
    inner_else = branch("d", [node("MatMul", ["x", "outer"], ["d.y"])])
    then = branch("a", [node("MatMul", ["x", "w1"], ["a.y"])], [square("w1")])
    other = branch("b", [node("If", ["yes"], ["b.y"], then_branch=inner_then, else_branch=inner_else)])
    nodes = [node("ReduceSum", ["x"], ["sum"], keepdims=0), node("Greater", ["sum", "zero"], ["yes"])]
    nodes += [node("If", ["yes"], ["y"], name="if", then_branch=then, else_branch=other)]
    model = read_model(save(tmp_path / "m.onnx", nodes, [square("outer"), zero]))
    held = held_weights(model, model.nodes["if"])
    assert sorted(held.values()) == [SIZE, SIZE, SIZE]
    assert held["outer"] == SIZE  # under its own name, so that it is the same weight for another layer


def test_the_body_of_a_loop_holds_its_weights(tmp_path):
    scalar = {name: numpy_helper.from_array(np.array(value), name) for name, value in (("count", 3), ("go", True))}
    inputs = [info("i", (), TensorProto.INT64), info("c", (), TensorProto.BOOL), info("s")]
    body_nodes = [node("Identity", ["c"], ["c.out"]), node("MatMul", ["s", "w"], ["s.out"])]
    outputs = [info("c.out", (), TensorProto.BOOL), info("s.out")]
    body = helper.make_graph(body_nodes, "body", inputs, outputs, [square("w")])
    path = save(tmp_path / "m.onnx", [node("Loop", ["count", "go", "x"], ["y"], name="loop", body=body)], scalar.values())
    assert total(path) == SIZE + 8 + 1


def test_local_functions_are_written_out_with_the_weights_of_each_call(tmp_path):
    opset = [helper.make_opsetid("", 17)]
    dense = helper.make_function("local", "Dense", ["a"], ["o"], [constant("k"), node("MatMul", ["a", "k"], ["o"])], opset)
    twice = helper.make_function("local", "Twice", ["a"], ["o"],
                                 [node("Dense", ["a"], ["h"], domain="local"), node("Dense", ["h"], ["o"], domain="local")],
                                 [*opset, helper.make_opsetid("local", 1)])  # fmt: skip
    nodes = [node("Twice", ["x"], ["h"], name="n", domain="local"), node("Dense", ["h"], ["y"], name="m", domain="local")]
    path = save(tmp_path / "m.onnx", nodes, functions=[dense, twice])
    graph = load(path)
    assert [layer.op_type for layer in graph.layers] == ["MatMul"] * 3
    assert [layer.weight_bytes for layer in graph.layers] == [SIZE] * 3
    assert not graph.model.proto.functions


@pytest.mark.parametrize("first", [square("w"), None], ids=["initializer", "Constant"])
def test_weights_behind_constant_nodes_count_once_in_a_layer(tmp_path, first):
    #   w --> transpose --> matmul --> add(also of w's first row)
    nodes = [*([] if first else [constant("w")]), node("Transpose", ["w"], ["t"], name="t", perm=[1, 0])]
    nodes += [node("MatMul", ["x", "t"], ["h"], name="m"), node("MatMul", ["h", "w"], ["y"], name="o")]
    model = read_model(save(tmp_path / "m.onnx", nodes, [first] if first else []))
    assert held_weights(model, model.nodes["m"]) == held_weights(model, model.nodes["o"]) == {"w": SIZE}


def test_a_sparse_constant_counts_as_it_is_held(tmp_path):
    values, places = np.array([1.0, 2.0], np.float32), np.array([3, 70], np.int64)
    names = numpy_helper.from_array(values, "v"), numpy_helper.from_array(places, "i")
    nodes = [node("Constant", [], ["w"], name="k", sparse_value=helper.make_sparse_tensor(*names, [WIDE, WIDE]))]
    assert total(save(tmp_path / "m.onnx", [*nodes, node("MatMul", ["x", "w"], ["y"], name="n")])) == SIZE
