"""Random small networks, with what stands between quantized layers in real ones: residuals, pools, gates, attention, ..."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = ("residual", "concat", "depthwise", "pools", "gate", "softmax", "product", "dense")
SIZE, CHANNELS = 12, 8


def random_network(path: str | Path, kind: str, activation: str, seed: int, convolutions: int = 4) -> Path:
    """Write a network of a few quantizable layers; return its path.

    Parameters
    ----------
    kind : what joins its branches, one of `KINDS`
    activation : an operator without weights (Relu, Sigmoid, LeakyRelu, HardSwish, ...), "SiLU", "Relu6" or "none"
    """
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def node(op, inputs, name, **attributes):
        nodes.append(helper.make_node(op, inputs, [f"{name}.o"], name=name, **attributes))
        return f"{name}.o"

    def constant(name, value):
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def active(tensor, name):
        if activation == "none":
            return tensor
        if activation == "SiLU":
            return node("Mul", [tensor, node("Sigmoid", [tensor], f"{name}.sig")], f"{name}.act")
        if activation == "Relu6":
            ends = [constant(f"{name}.{end}", np.float32(end)) for end in (0, 6)]
            return node("Clip", [tensor, *ends], f"{name}.act")
        return node(activation, [tensor], f"{name}.act")

    def conv(tensor, name, inside=CHANNELS, outside=CHANNELS, groups=1, size=3):
        shape = (outside, inside // groups, size, size)
        scale = np.sqrt(2.0 / (shape[1] * size * size)) * rng.uniform(0.5, 1.5, (outside, 1, 1, 1))
        inputs = [tensor, constant(f"{name}.w", (rng.normal(size=shape) * scale).astype(np.float32))]
        if rng.random() < 0.8:
            inputs.append(constant(f"{name}.b", rng.normal(0, 0.1, outside).astype(np.float32)))
        return active(node("Conv", inputs, name, pads=[size // 2] * 4, group=groups), name)

    tensor = conv("x", "c0", 3)
    for i in range(1, convolutions):
        groups = CHANNELS if kind == "depthwise" and i % 2 else 1
        made = conv(tensor, f"c{i}", groups=groups, size=1 if rng.random() < 0.3 else 3)
        if kind in ("residual", "depthwise"):
            tensor = node("Add", [tensor, made] if rng.random() < 0.5 else [made, tensor], f"j{i}")
        elif kind == "gate":
            tensor = node("Mul", [tensor, node("Sigmoid", [made], f"g{i}")], f"j{i}")
        elif kind == "softmax":
            turned = node("Transpose", [made], f"t{i}", perm=[0, 1, 3, 2])
            weight = node("Softmax", [turned if rng.random() < 0.5 else made], f"g{i}", axis=int(rng.choice([1, 2, 3])))
            tensor = weight if rng.random() < 0.5 else node("Mul", [tensor, weight], f"j{i}")
        elif kind == "product":
            tensor = node("MatMul", [tensor, made], f"j{i}")
        elif kind == "concat":
            both = node("Concat", [tensor, made], f"j{i}", axis=1)
            halves = constant(f"s{i}", np.array([CHANNELS, CHANNELS], np.int64))
            nodes.append(helper.make_node("Split", [both, halves], [f"a{i}", f"b{i}"], name=f"split{i}", axis=1))
            tensor = f"a{i}" if rng.random() < 0.5 else f"b{i}"
        elif kind == "pools" and i % 2:
            op = ("MaxPool", "AveragePool")[int(rng.integers(2))]
            tensor = node(op, [made], f"j{i}", kernel_shape=[3, 3], pads=[1] * 4)
        else:
            tensor = made
    if kind == "dense":
        tensor = node("Flatten", [tensor], "flat")
        for i, (inside, outside) in enumerate(((CHANNELS * SIZE * SIZE, 10), (10, 6))):
            value = (rng.normal(size=(inside, outside)) / np.sqrt(inside)).astype(np.float32)
            tensor = active(node("Gemm", [tensor, constant(f"d{i}.w", value)], f"d{i}"), f"d{i}")
        shape = [1, 6]
    elif rng.random() < 0.5:
        tensor, shape = node("GlobalAveragePool", [tensor], "mean"), [1, CHANNELS, 1, 1]
    else:
        shape = [1, CHANNELS, SIZE, SIZE]
    nodes.append(helper.make_node("Identity", [tensor], ["y"], name="last"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, SIZE, SIZE]), ("y", shape))]
    graph = helper.make_graph(nodes, kind, ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    Path(path).write_bytes(model.SerializeToString())
    return Path(path)
