"""Small networks in which ONNX Runtime renames the tensors between kernels that it keeps: channels last, and 8-bit files."""

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from helpers.architectures import Builder


def channels_last(path, count, act="Relu", residual=False, depthwise=False, pool=False, norm=False):
    """Convolutions that stand between two Transposes each, as TensorFlow and JAX export them."""
    net, last, inside, side = Builder(), "x", 3, 8

    def there_and_back(name, make, source):
        out = make(net.node("Transpose", f"{name}/in", source, perm=[0, 3, 1, 2]))
        return net.node("Transpose", f"{name}/out", out, perm=[0, 2, 3, 1])

    for i in range(count):
        before, group = last, inside if depthwise and i % 2 else 1
        last = there_and_back(f"t{i}", lambda t, i=i, g=group, n=inside: net.conv(f"conv{i}", t, n, 8, group=g), last)
        if norm:
            last = net.node("Mul", f"scale{i}", last, net.weight(f"scale{i}.w", 8))
            last = net.node("Add", f"shift{i}", last, net.weight(f"shift{i}.b", 8))
        if act == "SiLU":
            last = net.node("Mul", f"act{i}/mul", last, net.node("Sigmoid", f"act{i}/sigmoid", last))
        elif act:
            last = net.node(act, f"act{i}", last)
        if residual and i:
            last = net.node("Add", f"add{i}", last, before)
        if pool and i == 1:
            last = there_and_back("p", lambda t: net.node("MaxPool", "pool", t, kernel_shape=[2, 2], strides=[2, 2]), last)
            side = 4
        inside = 8
    return net.save(path, {"x": [1, 8, 8, 3]}, {last: [1, side, side, 8]})


def removed(path):
    """Identities and Dropouts that ONNX Runtime takes out, each before or after several readers."""
    net, last, inside = Builder(), "x", 3
    for i in range(3):
        start = net.node("Identity", f"identity{i}", last)
        sides = [net.conv(f"{name}{i}", start, inside, 8, act="Relu") for name in ("left", "right")]
        last, inside = net.node("Dropout", f"dropout{i}", net.node("Concat", f"concat{i}", *sides, axis=1)), 16
    return net.save(path, {"x": [1, 3, 8, 8]}, {last: [1, 16, 8, 8]})


def repeated(path):
    """The same convolution twice, each with readers of its own: ONNX Runtime computes one of them."""
    net = Builder()
    kernel, other = net.weight("w", 3, 3, 3, 3), net.weight("v", 3, 3, 3, 3)
    first, again = (net.node("Conv", name, "x", kernel, pads=[1] * 4) for name in ("first", "again"))
    left = net.node("Conv", "left", first, other, pads=[1] * 4)
    right = net.node("Exp", "exp", net.node("Conv", "right", again, other, pads=[1] * 4))
    return net.save(path, {"x": [1, 3, 8, 8]}, {net.node("Add", "add", left, right): [1, 3, 8, 8]})


class Images(CalibrationDataReader):
    """Four random images."""

    def __init__(self, shape):
        self.images = iter(np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32))

    def get_next(self):
        return next(({"x": image} for image in self.images), None)


def stored_in_8_bits(path, act, residual, **setting):
    """Convolutions and a classifier, quantized by ONNX Runtime's own tool, with its defaults unless a setting is given."""
    net, last, inside = Builder(), "x", 3
    for i in range(3):
        before, last = last, net.conv(f"conv{i}", last, inside, 8, act=act)
        if residual and i:
            last = net.node("Add", f"add{i}", last, before)
        inside = 8
    flat = net.node("Flatten", "flat", net.node("GlobalAveragePool", "pool", last))
    net.node("Gemm", "classes", flat, net.weight("classes.w", 8, 5), net.weight("classes.b", 5))
    plain = net.save(path.with_name("plain.onnx"), {"x": [1, 3, 8, 8]}, {"classes.out": [1, 5]})
    quantize_static(plain, path, Images([1, 3, 8, 8]), **setting)
    return path
