"""Floating-point operations per node, all by hand."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from dnnsplit.graph.flops import node_flops
from dnnsplit.graph.reading import read_model

node = helper.make_node


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def flops(tmp_path, op, shapes, out, weights=(), extra=(), **attributes):
    """FLOPs of one node that reads x0, x1, ... (weights where `weights` says so, then `extra` arrays) and gives `out`."""
    names = [f"x{i}" for i in range(len(shapes))]
    values = {f"e{i}": numpy_helper.from_array(np.asarray(array), f"e{i}") for i, array in enumerate(extra)}
    values |= {f"x{i}": numpy_helper.from_array(np.ones(shapes[i], np.float32), f"x{i}") for i in weights}
    inputs = [info(name, shape) for name, shape in zip(names, shapes, strict=True) if name not in values]
    nodes = [node(op, [*names, *(f"e{i}" for i in range(len(extra)))], ["y"], name="n", **attributes)]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", out)], list(values.values()))
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString())
    model = read_model(path)
    assert model.types["y"][1] == tuple(out)
    return node_flops(model, model.nodes["n"])


def test_conv(tmp_path):
    # 4 x 6 x 6 outputs, each 3 x 3 x 3 multiply-accumulates
    assert flops(tmp_path, "Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], [1, 4, 6, 6], [1]) == 2 * (4 * 6 * 6) * 27


def test_conv_with_stride_and_padding(tmp_path):
    found = flops(tmp_path, "Conv", [[1, 3, 8, 8], [4, 3, 3, 3]], [1, 4, 4, 4], [1], strides=[2, 2], pads=[1, 1, 1, 1])
    assert found == 2 * (4 * 4 * 4) * 27


def test_the_bias_of_a_conv_is_left_out(tmp_path):
    assert flops(tmp_path, "Conv", [[1, 3, 8, 8], [4, 3, 3, 3], [4]], [1, 4, 6, 6], [1, 2]) == 2 * (4 * 6 * 6) * 27


def test_conv_with_groups(tmp_path):
    # 2 groups: every output channel sees 2 of the 4 input channels
    assert flops(tmp_path, "Conv", [[1, 4, 8, 8], [6, 2, 3, 3]], [1, 6, 6, 6], [1], group=2) == 2 * (6 * 36) * (2 * 9)


def test_depthwise_conv(tmp_path):
    assert flops(tmp_path, "Conv", [[1, 4, 8, 8], [4, 1, 3, 3]], [1, 4, 6, 6], [1], group=4) == 2 * (4 * 36) * 9


def test_a_batch_of_two_costs_twice(tmp_path):
    assert flops(tmp_path, "Conv", [[2, 3, 8, 8], [4, 3, 1, 1]], [2, 4, 8, 8], [1]) == 2 * 2 * (4 * 64) * 3


def test_conv_transpose_with_stride_and_groups(tmp_path):
    # every one of the 4 x 5 x 5 inputs is spread over 3 output channels of its group x 2 x 2
    found = flops(tmp_path, "ConvTranspose", [[1, 4, 5, 5], [4, 3, 2, 2]], [1, 6, 10, 10], [1], strides=[2, 2], group=2)
    assert found == 2 * (4 * 25) * (3 * 4)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm_whichever_side_is_transposed(tmp_path, a, b):
    left, right = ([4, 2] if a else [2, 4]), ([5, 4] if b else [4, 5])
    assert flops(tmp_path, "Gemm", [left, right, [5]], [2, 5], [1, 2], transA=a, transB=b) == 2 * 2 * 5 * 4


@pytest.mark.parametrize(
    ("left", "right", "out", "macs"),
    [
        ([2, 4], [4, 5], [2, 5], 2 * 5 * 4),
        ([7, 2, 4], [7, 4, 5], [7, 2, 5], 7 * 2 * 5 * 4),
        ([3, 1, 2, 4], [6, 4, 5], [3, 6, 2, 5], 18 * 2 * 5 * 4),  # the batch is broadcast
        ([4], [4, 5], [5], 5 * 4),
        ([2, 4], [4], [2], 2 * 4),
    ],
)
def test_matmul(tmp_path, left, right, out, macs):
    assert flops(tmp_path, "MatMul", [left, right], out) == 2 * macs


@pytest.mark.parametrize(
    ("equation", "shapes", "out", "macs"),
    [
        ("ij,jk->ik", [[2, 3], [3, 4]], [2, 4], 2 * 3 * 4),
        ("bij, bjk -> bik", [[5, 2, 3], [5, 3, 4]], [5, 2, 4], 5 * 2 * 3 * 4),
        ("bchw,bkc->bkhw", [[1, 8, 4, 4], [1, 6, 8]], [1, 6, 4, 4], 8 * 4 * 4 * 6),
        ("ij,jk", [[2, 3], [3, 4]], [2, 4], 2 * 3 * 4),
        ("...ij,...jk->...ik", [[5, 2, 3], [5, 3, 4]], [5, 2, 4], 5 * 2 * 3 * 4),
        ("...ij,jk->...ik", [[7, 5, 2, 3], [3, 4]], [7, 5, 2, 4], 7 * 5 * 2 * 3 * 4),
        ("i,i->", [[9], [9]], [], 9),
    ],
)
def test_einsum(tmp_path, equation, shapes, out, macs):
    assert flops(tmp_path, "Einsum", shapes, out, equation=equation) == 2 * macs


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_look_at_their_window_for_every_output(tmp_path, op):
    assert flops(tmp_path, op, [[1, 3, 8, 8]], [1, 3, 4, 4], kernel_shape=[2, 2], strides=[2, 2]) == (3 * 16) * 4


def test_a_global_pool_adds_every_input(tmp_path):
    assert flops(tmp_path, "GlobalAveragePool", [[1, 3, 8, 8]], [1, 3, 1, 1]) == 3 * 64


@pytest.mark.parametrize(("op", "each"), [("Add", 1), ("Mul", 1), ("Div", 1)])
def test_an_elementwise_operation_costs_one_per_output_also_when_broadcast(tmp_path, op, each):
    assert flops(tmp_path, op, [[1, 3, 8, 8], [3, 1, 1]], [1, 3, 8, 8]) == 192 * each


@pytest.mark.parametrize(("op", "each"), [("Relu", 1), ("Exp", 1), ("Sigmoid", 4), ("Tanh", 6), ("HardSwish", 4), ("Softmax", 5)])
def test_activations_have_their_count_per_element(tmp_path, op, each):
    assert flops(tmp_path, op, [[2, 5]], [2, 5]) == 10 * each


def test_a_normalization_counts_its_input(tmp_path):
    shapes = [[1, 3, 8, 8], [3], [3], [3], [3]]
    assert flops(tmp_path, "BatchNormalization", shapes, [1, 3, 8, 8], [1, 2, 3, 4]) == 192 * 2


def test_a_reduction_counts_its_input(tmp_path):
    assert flops(tmp_path, "ReduceSum", [[2, 5]], [2, 1], extra=[np.array([1])]) == 10
    assert flops(tmp_path, "ReduceMax", [[2, 5]], [2, 1], extra=[np.array([1])]) == 10


@pytest.mark.parametrize(("mode", "each"), [("nearest", 0), ("linear", 7)])
def test_resize_costs_what_it_interpolates(tmp_path, mode, each):
    extra = [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)]
    assert flops(tmp_path, "Resize", [[1, 3, 4, 4]], [1, 3, 8, 8], extra=extra, mode=mode) == 192 * each


@pytest.mark.parametrize(
    ("op", "out", "extra", "attributes"),
    [
        ("Reshape", [6, 4], [np.array([6, 4])], {}),
        ("Transpose", [4, 3, 2], [], {"perm": [2, 1, 0]}),
        ("Concat", [2, 3, 4], [], {"axis": 0}),
        ("Slice", [1, 3, 4], [np.array([0]), np.array([1])], {}),
        ("Identity", [2, 3, 4], [], {}),
        ("Unsqueeze", [1, 2, 3, 4], [np.array([0])], {}),
    ],
)
def test_data_that_only_moves_costs_nothing(tmp_path, op, out, extra, attributes):
    assert flops(tmp_path, op, [[2, 3, 4]], out, extra=extra, **attributes) == 0


def test_a_node_whose_first_output_is_left_out_is_counted_by_the_next(tmp_path):
    nodes = [node("LSTM", ["x", "w", "r"], ["", "y"], name="lstm", hidden_size=2)]
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", (1, 8, 3)), ("r", (1, 8, 2)))]
    graph = helper.make_graph(nodes, "g", [info("x", [4, 1, 3])], [info("y", [1, 1, 2])], weights)
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    model = read_model(path)
    assert node_flops(model, model.nodes["lstm"]) > 0
