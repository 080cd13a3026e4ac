"""Networks of well-known shapes: small ONNX files with random weights, which ONNX Runtime fuses differently, and large graphs."""

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.solving.arrays import build_problem


class Builder:
    """Nodes and weights of a network while it is written down; every method returns the tensor it makes."""

    def __init__(self, seed=0):
        self.rng, self.nodes, self.weights = np.random.default_rng(seed), [], []

    def weight(self, name, *shape, scale=0.2):
        self.weights.append(numpy_helper.from_array(self.rng.normal(0, scale, shape).astype(np.float32), name))
        return name

    def constant(self, name, value):
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op, name, *inputs, **attributes):
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def conv(self, name, source, inside, outside, size=3, stride=1, group=1, act=""):
        weights = [self.weight(f"{name}.w", outside, inside // group, size, size), self.weight(f"{name}.b", outside)]
        out = self.node("Conv", name, source, *weights, pads=[size // 2] * 4, strides=[stride] * 2, group=group)
        if act == "SiLU":
            return self.node("Mul", f"{name}/mul", out, self.node("Sigmoid", f"{name}/sigmoid", out))
        if act == "Clip":
            limits = [self.constant(f"{name}.{k}", np.float32(v)) for k, v in (("low", 0), ("high", 6))]
            return self.node("Clip", f"{name}/clip", out, *limits)
        return self.node(act, f"{name}/act", out) if act else out

    def linear(self, name, source, inside, outside):
        out = self.node("MatMul", name, source, self.weight(f"{name}.w", inside, outside))
        return self.node("Add", f"{name}/bias", out, self.weight(f"{name}.b", outside))

    def norm(self, name, source, size):
        scale = self.constant(f"{name}.scale", np.ones(size, np.float32))
        return self.node("LayerNormalization", name, source, scale, self.weight(f"{name}.shift", size), axis=-1)

    def save(self, path, inputs, outputs):
        """Write the model; inputs and outputs are shapes by tensor."""
        values = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in v.items()] for v in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, path.stem, *values, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def mobile_net(path):
    """Inverted residuals: 1x1 up, depthwise, 1x1 down, with Clip (ReLU6); a classifier."""
    net = Builder()
    last = net.conv("stem", "x", 3, 8, stride=2, act="Clip")
    for i, stride in enumerate((1, 2)):
        up = net.conv(f"up{i}", last, 8, 24, 1, act="Clip")
        deep = net.conv(f"deep{i}", up, 24, 24, stride=stride, group=24, act="Clip")
        down = net.conv(f"down{i}", deep, 24, 8, 1)
        last = net.node("Add", f"add{i}", last, down) if stride == 1 else down
    pooled = net.node("Flatten", "flat", net.node("GlobalAveragePool", "pool", last))
    net.node("Gemm", "classes", pooled, net.weight("classes.w", 8, 5), net.weight("classes.b", 5))
    return net.save(path, {"x": [1, 3, 16, 16]}, {"classes.out": [1, 5]})


def res_net(path):
    """Two residual blocks with ReLU after the addition, the second with a projection; a classifier."""
    net = Builder()
    last = net.conv("stem", "x", 3, 8, act="Relu")
    for i, (size, stride) in enumerate(((8, 1), (16, 2))):
        first = net.conv(f"a{i}", last, 8, size, stride=stride, act="Relu")
        second = net.conv(f"b{i}", first, size, size)
        side = last if stride == 1 else net.conv(f"side{i}", last, 8, size, 1, stride)
        last = net.node("Relu", f"relu{i}", net.node("Add", f"add{i}", second, side))
    pooled = net.node("Flatten", "flat", net.node("GlobalAveragePool", "pool", last))
    net.node("Gemm", "classes", pooled, net.weight("classes.w", 16, 5), net.weight("classes.b", 5))
    return net.save(path, {"x": [1, 3, 16, 16]}, {"classes.out": [1, 5]})


def transformer(path, size=16, heads=2, tokens=6):
    """One encoder layer: multi-head attention, layer norms, and an MLP with GELU written out in Erf."""
    net = Builder()
    shape = net.constant("split", np.array([1, tokens, heads, size // heads], np.int64))
    q, k, v = (net.linear(n, "x", size, size) for n in ("query", "key", "value"))
    swap = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
    parted = [net.node("Reshape", f"{n}/reshape", t, shape) for n, t in zip("qkv", (q, k, v), strict=True)]
    q, k, v = (net.node("Transpose", f"{n}/swap", t, perm=swap[n]) for n, t in zip("qkv", parted, strict=True))
    scores = net.node(
        "Div", "scale", net.node("MatMul", "scores", q, k), net.constant("root", np.float32((size // heads) ** 0.5))
    )
    mixed = net.node("MatMul", "mix", net.node("Softmax", "softmax", scores, axis=-1), v)
    joined = net.node("Transpose", "join", mixed, perm=[0, 2, 1, 3])
    flat = net.node("Reshape", "flat", joined, net.constant("joined", np.array([1, tokens, size], np.int64)))
    seen = net.norm("norm1", net.node("Add", "skip1", "x", net.linear("project", flat, size, size)), size)
    wide = net.linear("wide", seen, size, 4 * size)
    erf = net.node("Erf", "gelu/erf", net.node("Div", "gelu/div", wide, net.constant("root2", np.float32(2**0.5))))
    one = net.node("Add", "gelu/add", erf, net.constant("one", np.float32(1)))
    gelu = net.node("Mul", "gelu/half", net.node("Mul", "gelu/mul", wide, one), net.constant("half", np.float32(0.5)))
    net.norm("norm2", net.node("Add", "skip2", seen, net.linear("narrow", gelu, 4 * size, size)), size)
    return net.save(path, {"x": [1, tokens, size]}, {"norm2.out": [1, tokens, size]})


def yolo_heads(path):
    """Heads as in YOLO11-seg and -cls: upsampling, masks by ConvTranspose, coefficients, boxes by Split, a classifier."""
    net = Builder()
    deep = net.conv("c2", net.conv("c1", "x", 3, 8, stride=2, act="SiLU"), 8, 8, stride=2, act="SiLU")
    scales = net.constant("scales", np.array([1, 1, 2, 2], np.float32))
    up = net.node("Resize", "up", deep, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")
    joined = net.node("Concat", "concat", up, "c1/mul.out", axis=1)
    neck = net.conv("neck", joined, 16, 8, act="SiLU")
    mask = net.node("ConvTranspose", "proto", neck, net.weight("proto.w", 8, 4, 2, 2), net.weight("proto.b", 4), strides=[2, 2])
    net.conv("proto2", mask, 4, 4, act="SiLU")
    boxes = net.node("Reshape", "boxes", net.conv("box", neck, 8, 8, 1), net.constant("anchors", np.array([1, 8, -1], np.int64)))
    net.nodes.append(helper.make_node("Split", [boxes, net.constant("halves", np.array([4, 4], np.int64))], ["l", "r"],
                                      name="halve", axis=1))  # fmt: skip
    net.node("Concat", "corners", net.node("Sub", "from", "r", "l"), net.node("Add", "to", "l", "r"), axis=1)
    pooled = net.node("Flatten", "flat", net.node("GlobalAveragePool", "pool", deep))
    logits = net.node("Gemm", "classes", pooled, net.weight("classes.w", 8, 5), net.weight("classes.b", 5))
    net.node("Softmax", "scores", logits, axis=1)
    outputs = {"proto2/mul.out": [1, 4, 16, 16], "corners.out": [1, 8, 64], "scores.out": [1, 5]}
    return net.save(path, {"x": [1, 3, 16, 16]}, outputs)


ALL = {"mobile_net": mobile_net, "res_net": res_net, "transformer": transformer, "yolo_heads": yolo_heads}


class Layers:
    """A graph of layers while it is written down: each has one tensor, which those that name it read."""

    def __init__(self):
        self.readers = {}

    def add(self, *sources):
        name = f"layer{len(self.readers)}"
        self.readers[name] = []
        for source in sources:
            self.readers[source].append(name)
        return name

    def chain(self, source, count):
        for _ in range(count):
            source = self.add(source)
        return source

    def residual(self, source):
        return self.add(source, self.chain(source, 2))

    def c3k2(self, source):
        """Two modules of two paths each, and a join that reads what the modules read and make."""
        made = [self.add(source)]
        for _ in range(2):
            path = self.residual(self.residual(self.add(made[-1])))
            made.append(self.add(self.add(path, self.add(made[-1]))))
        return self.add(self.add(*made))

    def attention(self, source):
        both = self.add(source)
        weights = self.add(self.add(both, both_value := self.add(both)))
        mixed = self.add(self.add(weights, self.add(both, both_value)))
        seen = self.add(source, mixed)
        return self.add(seen, self.chain(seen, 2))


def seg_layers():
    """Layers shaped like YOLO11x-seg: tensors that 4 and 5 layers read (pooling, the neck's levels), and three heads."""
    net = Layers()
    last = net.chain(net.add(), 1)
    levels = []
    for _ in range(4):
        last = net.c3k2(net.add(last))
        levels.append(last)
    pooled = [net.add(last)]
    for _ in range(3):
        pooled.append(net.add(pooled[-1]))
    half = net.add(net.add(*pooled))
    last = net.add(half, net.attention(net.attention(net.add(half))))
    up4 = net.c3k2(net.add(net.add(last), levels[2]))
    level3 = net.c3k2(net.add(net.add(up4), levels[1]))
    level4 = net.c3k2(net.add(net.add(level3), up4))
    level5 = net.c3k2(net.add(net.add(level4), last))
    heads = [[net.chain(level, count) for level in (level3, level4, level5)] for count in (3, 5, 3)]
    boxes, classes, masks = (net.add(*head) for head in heads)
    net.add(net.add(net.chain(boxes, 4), net.add(classes)), masks)
    net.chain(level3, 4)
    return net.readers


def seg_problem(servers):
    """A placement problem on `seg_layers`, 12 of whose layers may run in int8; the outputs are the tensors that none reads."""
    readers = seg_layers()
    names, hosts = list(readers), [f"s{k}" for k in range(servers)]
    tensors = [ds.Tensor("in", None, (names[0],), 5e6)]
    sizes = [1e5 * (1 + i % 7) for i in range(len(names))]
    tensors += [ds.Tensor(f"{n} out", n, tuple(readers[n]), size, not readers[n]) for n, size in zip(names, sizes, strict=True)]
    chosen = names[8 :: len(names) // 12][:12]
    rows = [
        (name, host, precision, 1e-3 * (1 + i % 5) / (1 + k) * (0.7 if precision == "int8" else 1.0))
        for i, name in enumerate(names) for k, host in enumerate(hosts)
        for precision in ("float32", *(["int8"] if name in chosen else []))
    ]  # fmt: skip
    links = [ds.Link(a, b, 5e6 * (1 + k), 0.01) for k, a in enumerate(hosts) for b in hosts if a != b]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    graph = ds.LayerGraph([ds.Layer(name) for name in names], tensors)
    return build_problem(graph, ds.Network([ds.Server(h) for h in hosts], links, "s0"), times, chosen)
