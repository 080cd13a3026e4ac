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


def telling(path, **properties):
    """Write what a model's file says of itself; return its path."""
    model = onnx.load(path)
    helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


# by name: operator, attributes of the two nodes, shape of the input, and shapes of the weights (and biases) of the two
PRODUCTS = {
    "Conv": ("Conv", {"pads": [1] * 4}, (1, 4, 8, 8), [(6, 4, 3, 3), (6,)], [(4, 6, 3, 3), (4,)]),
    "Conv of one axis": ("Conv", {"pads": [1] * 2}, (1, 4, 16), [(6, 4, 3), (6,)], [(4, 6, 3)]),
    "Conv of three axes": ("Conv", {"pads": [1] * 6}, (1, 4, 4, 4, 4), [(6, 4, 3, 3, 3), (6,)], [(4, 6, 3, 3, 3)]),
    "depthwise Conv": ("Conv", {"pads": [1] * 4, "group": 4}, (1, 4, 8, 8), [(4, 1, 3, 3), (4,)], [(4, 1, 3, 3), (4,)]),
    "ConvTranspose": ("ConvTranspose", {"strides": [2, 2]}, (1, 4, 4, 4), [(4, 6, 2, 2), (6,)], [(6, 4, 3, 3), (4,)]),
    "ConvTranspose of groups": ("ConvTranspose", {"group": 2}, (1, 4, 4, 4), [(4, 3, 2, 2), (6,)], [(6, 2, 3, 3), (4,)]),
    "MatMul": ("MatMul", {}, (2, 5, 8), [(8, 6)], [(6, 4)]),
    "MatMul of stacks": ("MatMul", {}, (2, 5, 8), [(2, 8, 6)], [(1, 6, 4)]),
    "MatMul by a vector": ("MatMul", {}, (2, 5, 8), [(8, 6)], [(6,)]),
    "Gemm": ("Gemm", {}, (5, 8), [(8, 6), (6,)], [(6, 4), (4,)]),
    "Gemm transB": ("Gemm", {"transB": 1}, (5, 8), [(6, 8), (6,)], [(4, 6), (1, 4)]),
    "Gemm transA": ("Gemm", {"transA": 1, "alpha": 0.3, "beta": 2.5}, (8, 5), [(8, 6), ()], [(5, 4), (6, 1)]),
    "Gemm of factors": ("Gemm", {"alpha": 4.0, "beta": 0.0}, (5, 8), [(8, 6), (5, 6)], [(6, 4), (5, 4)]),
}  # fmt: skip


def two_products(path, kind, opset=17, seed=0):
    """Write x -> one -> Relu -> two -> y, both of one kind of `PRODUCTS`; return its path."""
    rng = np.random.default_rng(seed)
    op_type, attributes, shape, *sizes = PRODUCTS[kind]
    nodes, weights, source = [], [], "x"
    for name, of in zip(("one", "two"), sizes, strict=True):
        weights += [numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), f"{name}.{i}") for i, s in enumerate(of)]
        made = "t" if name == "one" else "y"
        inputs = [source, *(weight.name for weight in weights[-len(of) :])]
        nodes.append(helper.make_node(op_type, inputs, [made], name=name, **attributes))
        source = "r"
    nodes.insert(1, helper.make_node("Relu", ["t"], ["r"], name="relu"))
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], []
    model = helper.make_model(
        helper.make_graph(nodes, kind, *ends, weights), opset_imports=[helper.make_opsetid("", opset)], ir_version=7
    )
    made = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.append(made["y"])
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def double(path, inputs):
    """Write a model of the sum of its inputs, shapes by name, twice; return its path."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    nodes = [helper.make_node("Sum", [*inputs], ["sum"]), helper.make_node("Add", ["sum", "sum"], ["twice"])]
    return saved(path, nodes, ends, [helper.make_tensor_value_info("twice", TensorProto.FLOAT, next(iter(inputs.values())))])


def inputs_of(graph, count=8, seed=1):
    """Return random inputs of so many inferences of a graph with one input."""
    shape = graph.model.types["x"][1]
    return np.random.default_rng(seed).random((count * shape[0], *shape[1:]), dtype=np.float32)


def pictures(count=1, size=12, seed=0):
    """Return smooth 8-bit images as inputs of `conv_net`: k / 255."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 4, 4)).astype(np.uint8).repeat(-(-size // 4), 2).repeat(-(-size // 4), 3)
    return coarse[..., :size, :size].astype(np.float32) / np.float32(255)
