"""Small ONNX networks for tests that run ONNX Runtime."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def conv_net(path, size=12, channels=6, seed=0):
    """Write a small network with SiLU convolutions, a branch that joins again, and two outputs; return its path.

    x -> c1 -> c2 -> add -> c3 -> out
          \\-----------/ \\-> pool -> side
    """
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def conv(name, source, inside, outside):
        weights.append(numpy_helper.from_array(rng.normal(0, 0.4, (outside, inside, 3, 3)).astype(np.float32), f"{name}.w"))
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, outside).astype(np.float32), f"{name}.b"))
        nodes.append(helper.make_node("Conv", [source, f"{name}.w", f"{name}.b"], [f"{name}.out"], name=name, pads=[1] * 4))
        nodes.append(helper.make_node("Sigmoid", [f"{name}.out"], [f"{name}.sig"], name=f"{name}/sig"))
        nodes.append(helper.make_node("Mul", [f"{name}.out", f"{name}.sig"], [f"{name}.silu"], name=f"{name}/mul"))
        return f"{name}.silu"

    first = conv("c1", "x", 3, channels)
    second = conv("c2", first, channels, channels)
    nodes.append(helper.make_node("Add", [first, second], ["sum"], name="add"))
    third = conv("c3", "sum", channels, 4)
    nodes.append(helper.make_node("Identity", [third], ["out"], name="last"))
    nodes.append(helper.make_node("MaxPool", ["sum"], ["side"], name="pool", kernel_shape=[2, 2], strides=[2, 2]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 4, size, size]),
            helper.make_tensor_value_info("side", TensorProto.FLOAT, [1, channels, size // 2, size // 2]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def images(count, size=12, seed=0):
    """Return random inputs for `conv_net`."""
    return np.random.default_rng(seed).random((count, 3, size, size)).astype(np.float32)


def saved(path, nodes, inputs, outputs, weights=None, opset=17):
    """Write a model of some nodes, with weights by name; return its path."""
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def double(path, inputs):
    """Write a model of the sum of its inputs, shapes by name, twice; return its path."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    nodes = [helper.make_node("Sum", [*inputs], ["sum"]), helper.make_node("Add", ["sum", "sum"], ["twice"])]
    return saved(path, nodes, ends, [helper.make_tensor_value_info("twice", TensorProto.FLOAT, next(iter(inputs.values())))])
