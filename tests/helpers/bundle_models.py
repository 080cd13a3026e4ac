"""Small cut models for the tests of the bundle and of the deployment."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dnnsplit.cutting.bundle import Bundle, Output, Part, Wire
from dnnsplit.ground.files import sha256

ROWS, SIZE = 64, 256
SCALE, ZERO = 0.02, 3
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}
WEIGHTS = [np.random.default_rng(seed).normal(0, 0.08, (SIZE, SIZE)).astype("float32") for seed in range(4)]


def write_part(folder, name, server, nodes, inputs, outputs, constants):
    """Write one ONNX part; inputs and outputs are Wires."""
    shape = lambda wire: [None if extent == -1 else extent for extent in wire.shape]  # noqa: E731
    value = lambda wire: helper.make_tensor_value_info(wire.name, KINDS[wire.dtype], shape(wire))  # noqa: E731
    weights = [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()]
    graph = helper.make_graph(nodes, name, [value(w) for w in inputs], [value(w) for w in outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    (folder / f"{name}.onnx").write_bytes(content)
    names = [[w.name for w in wires] for wires in (inputs, outputs)]
    return Part(name, server, f"{name}.onnx", sha256(content), *map(tuple, names))


def mlp(folder):
    """x -> device -> edge -> cloud -> device: a skip connection over the edge, a uint8 wire, the device visited twice."""
    x, h0, h2, y = (Wire(name, "float32", (ROWS, SIZE)) for name in ("x", "h0", "h2", "y"))
    q1 = Wire("q1", "uint8", (ROWS, SIZE), SCALE, ZERO)
    node, scale = helper.make_node, {"s": np.float32(SCALE), "z": np.uint8(ZERO)}
    parts = [
        write_part(folder, "a", "device", [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["h0"])],
                   [x], [h0], {"w": WEIGHTS[0]}),
        write_part(folder, "b", "edge", [node("MatMul", ["h0", "w"], ["m"]), node("Relu", ["m"], ["r"]),
                                         node("QuantizeLinear", ["r", "s", "z"], ["q1"])],
                   [h0], [q1], {"w": WEIGHTS[1], **scale}),
        write_part(folder, "c", "cloud", [node("DequantizeLinear", ["q1", "s", "z"], ["d"]), node("MatMul", ["d", "w"], ["m"]),
                                          node("Add", ["m", "h0"], ["h2"])],
                   [q1, h0], [h2], {"w": WEIGHTS[2], **scale}),
        write_part(folder, "d", "device", [node("MatMul", ["h2", "w"], ["m"]), node("Add", ["m", "x"], ["y"])],
                   [h2, x], [y], {"w": WEIGHTS[3]}),
    ]  # fmt: skip
    outputs = (Output("y", "y"), Output("hidden", "q1"))
    servers, wires = ("device", "edge", "cloud"), (h0, q1, h2, y)
    bundle = Bundle(folder, "mlp", "0" * 64, "device", servers, (x,), outputs, wires, tuple(parts), {"objective": 1.0})
    bundle.save()
    return bundle


def mlp_numpy(x):
    """What `mlp` computes: y and hidden."""
    h0 = np.maximum(x @ WEIGHTS[0], 0)
    q1 = np.clip(np.round(np.maximum(h0 @ WEIGHTS[1], 0) / SCALE) + ZERO, 0, 255)
    hidden = (q1 - ZERO) * SCALE
    return (hidden @ WEIGHTS[2] + h0) @ WEIGHTS[3] + x, hidden


def lookup(folder):
    """index -> device -> edge: table[index]; an index above 4 fails on the edge."""
    index, same, value = Wire("index", "int64", (1,)), Wire("same", "int64", (1,)), Wire("value", "float32", (1,))
    parts = [
        write_part(folder, "copy", "device", [helper.make_node("Identity", ["index"], ["same"])], [index], [same], {}),
        write_part(folder, "gather", "edge", [helper.make_node("Gather", ["table", "same"], ["value"])], [same], [value],
                   {"table": np.arange(5, dtype="float32") * 10}),
    ]  # fmt: skip
    bundle = Bundle(folder, "lookup", "0" * 64, "device", ("device", "edge", "cloud"), (index,), (Output("value", "value"),),
                    (same, value), tuple(parts))  # fmt: skip
    bundle.save()
    return bundle


HALVES, NOTHING, BOXES, FIXED = 'ä\' "halves"', "../no/thing:0", "out put/../boxes", "a constant"


def detector(folder):
    """Boxes, scores and how many -> device -> edge: the best boxes, as many as the data say; a cloud without inputs.

    Tensors cross that are empty, scalars or float16, and have names with blanks, quotes, slashes and letters of other alphabets.
    An output is an input, one is empty, one rests on constants alone, and two inputs are read by nobody.
    """
    boxes, scores, most = Wire("boxes", "float32", (1, 6, 4)), Wire("scores", "float32", (1, 1, 6)), Wire("most", "int64", ())
    halves, nothing = Wire(HALVES, "float16", (1, 1, 6)), Wire(NOTHING, "float32", (1, 1, 0))
    best, fixed = Wire(BOXES, "int64", (-1, 3)), Wire(FIXED, "float32", (2,))
    node = helper.make_node
    limits = {"overlap": np.float32(0.5), "least": np.float32(0.1)}
    end = {"six": np.array([6]), "two": np.array([2])}
    parts = [
        write_part(folder, "a", "device", [node("Cast", ["scores"], [HALVES], to=TensorProto.FLOAT16),
                                           node("Slice", ["scores", "six", "six", "two"], [NOTHING])],
                   [scores], [halves, nothing], end),
        write_part(folder, "b", "edge", [node("Cast", [HALVES], ["s"], to=TensorProto.FLOAT),
                                         node("Concat", ["s", NOTHING], ["c"], axis=2),
                                         node("NonMaxSuppression", ["boxes", "c", "most", "overlap", "least"], [BOXES])],
                   [boxes, halves, nothing, most], [best], limits),
        write_part(folder, "c", "cloud", [node("Neg", ["k"], [FIXED])], [], [fixed], {"k": np.float32([1, 2])}),
    ]  # fmt: skip
    outputs = tuple(Output(name, name) for name in (BOXES, NOTHING, FIXED, "boxes"))
    bundle = Bundle(folder, "detector v1.0 (final) ü", "0" * 64, "device", ("device", "edge", "cloud"), (boxes, scores, most),
                    outputs, (halves, nothing, best, fixed), tuple(parts), ignored=("sr", "token type"))  # fmt: skip
    bundle.save()
    return bundle


def detector_feed(scores, most):
    """Boxes that do not overlap."""
    corners = np.arange(6, dtype=np.float32)[:, None] * 10 + np.float32([0, 0, 1, 1])
    return {"boxes": corners[None], "scores": np.float32(scores)[None, None], "most": np.array(most)}


def detector_numpy(feed):
    """What `detector` computes: (batch, class, box) of the best boxes with a score above 0.1."""
    scores = feed["scores"][0, 0]
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > 0.1][: int(feed["most"])]
    best = np.array([(0, 0, i) for i in order], np.int64).reshape(-1, 3)
    return {BOXES: best, NOTHING: np.zeros((1, 1, 0), np.float32), FIXED: np.float32([-1, -2]), "boxes": feed["boxes"]}
