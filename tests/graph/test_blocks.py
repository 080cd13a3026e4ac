"""Layers as ONNX Runtime executes them: on small models by hand, on random ones, and on the shipped model."""

import platform

import networkx as nx
import numpy as np
import pytest
from helpers import architectures
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dnnsplit.cutting.running import whole
from dnnsplit.graph.blocks import find_blocks, load
from dnnsplit.graph.cleanup import node_inputs
from dnnsplit.graph.reading import read_model
from dnnsplit.ground.errors import ModelError
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.quantize.rewrite import quantize_layer

SHIPPED = ROOT / "data" / "models" / "yolo11n-ppe-320.onnx"
node = helper.make_node
X = [1, 3, 8, 8]


def info(name, shape=X, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, *shape, seed=0):
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=shape).astype(np.float32), name)


KERNEL = weight("w", 3, 3, 3, 3)


def save(path, nodes, outputs=("y",), weights=(KERNEL,), inputs=("x",), shape=X):
    values = [info(name, shape) for name in outputs]
    graph = helper.make_graph(nodes, "g", [info(name, shape) for name in inputs], values, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def conv(source, target, name="conv", kernel="w"):
    return node("Conv", [source, kernel], [target], name=name, pads=[1, 1, 1, 1])


def layers(tmp_path, nodes, **options):
    """(name, op_type, nodes) of every layer."""
    graph = load(save(tmp_path / "m.onnx", nodes, **options))
    return [(layer.name, layer.op_type, layer.nodes) for layer in graph.layers]


def check_partition(model, graph):
    """Every node that is no constant is in exactly one layer, and the layers form no cycle."""
    inside = [n for layer in graph.layers for n in layer.nodes]
    assert sorted(inside) == sorted(model.nodes)
    of = {n: layer.name for layer in graph.layers for n in layer.nodes}
    quotient = nx.DiGraph()
    quotient.add_nodes_from(graph.layer_names)
    for name, item in model.nodes.items():
        for tensor in node_inputs(item):
            producer = of.get(model.producer.get(tensor))
            if producer not in (None, of[name]):
                quotient.add_edge(producer, of[name])
    assert nx.is_directed_acyclic_graph(quotient)
    assert set(quotient.edges) == set(graph.digraph.edges)
    position = {name: i for i, name in enumerate(graph.layer_names)}
    assert all(position[a] < position[b] for a, b in quotient.edges)


# ---------------------------------------------------------------- small models


def test_conv_sigmoid_mul_is_one_layer(tmp_path):
    #   x --> conv --> sigmoid --> mul --> y      (SiLU)
    #             \---------------/
    nodes = [conv("x", "c"), node("Sigmoid", ["c"], ["s"], name="sig"), node("Mul", ["c", "s"], ["y"], name="mul")]
    assert layers(tmp_path, nodes) == [("conv", "Conv", ("conv", "sig", "mul"))]
    layer = load(tmp_path / "m.onnx").layers[0]
    assert layer.flops == 2 * 192 * 27 + 192 * 4 + 192
    assert layer.weight_bytes == 3 * 3 * 3 * 3 * 4
    assert layer.quantizable


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Sigmoid", "Tanh"])
def test_conv_with_its_activation_is_one_layer(tmp_path, activation):
    nodes = [conv("x", "c"), node(activation, ["c"], ["y"], name="act")]
    assert layers(tmp_path, nodes) == [("conv", "Conv", ("conv", "act"))]


def test_conv_with_batch_normalization_is_one_layer(tmp_path):
    ones = numpy_helper.from_array(np.ones(3, np.float32), "ones")
    nodes = [conv("x", "c"), node("BatchNormalization", ["c", *["ones"] * 4], ["b"], name="bn")]
    nodes += [node("Relu", ["b"], ["y"], name="relu")]
    assert layers(tmp_path, nodes, weights=[KERNEL, ones]) == [("conv", "Conv", ("conv", "bn", "relu"))]


def test_a_residual_add_is_its_own_layer(tmp_path):
    #   x --> conv --> add --> y
    #    \-------------/
    nodes = [conv("x", "c"), node("Add", ["c", "x"], ["y"], name="add")]
    assert layers(tmp_path, nodes) == [("conv", "Conv", ("conv",)), ("add", "Add", ("add",))]


def test_an_activation_after_a_residual_add_is_its_own_layer(tmp_path):
    nodes = [conv("x", "c"), node("Add", ["c", "x"], ["a"], name="add"), node("Relu", ["a"], ["y"], name="relu")]
    assert [name for name, *_ in layers(tmp_path, nodes)] == ["conv", "add", "relu"]


def test_an_activation_of_a_tensor_that_another_node_reads_is_its_own_layer(tmp_path):
    #   x --> conv --> relu --> add --> y
    #             \-------------/
    nodes = [conv("x", "c"), node("Relu", ["c"], ["r"], name="relu"), node("Add", ["r", "c"], ["y"], name="add")]
    assert [name for name, *_ in layers(tmp_path, nodes)] == ["conv", "relu", "add"]


def test_a_conv_whose_value_is_an_output_keeps_its_activation_apart(tmp_path):
    nodes = [conv("x", "c"), node("Relu", ["c"], ["y"], name="relu")]
    graph = load(save(tmp_path / "m.onnx", nodes, outputs=("y", "c")))
    assert graph.layer_names == ("conv", "relu")
    assert {t.name for t in graph.tensors if t.is_output} == {"y", "c"}


def test_tensors_between_layers_have_sizes_and_all_their_readers(tmp_path):
    #   x --> conv --> t --> add --> y
    #                   \--> exp --/
    nodes = [conv("x", "t"), node("Exp", ["t"], ["e"], name="exp"), node("Add", ["t", "e"], ["y"], name="add")]
    graph = load(save(tmp_path / "m.onnx", nodes))
    tensors = {t.name: t for t in graph.tensors}
    assert {name: (t.producer, t.consumers) for name, t in tensors.items()} == {
        "x": (None, ("conv",)), "t": ("conv", ("exp", "add")), "e": ("exp", ("add",)), "y": ("add", ()),
    }  # fmt: skip
    assert tensors["t"].size_bytes == 192 * 4
    assert tensors["t"].shape == (1, 3, 8, 8)
    assert tensors["t"].dtype == "float32"
    assert [t.name for t in graph.tensors if t.is_output] == ["y"]
    assert graph.model_path == tmp_path / "m.onnx"


def test_constants_are_in_no_layer(tmp_path):
    nodes = [node("Exp", ["w"], ["k"], name="constant"), conv("x", "y", kernel="k")]
    path = save(tmp_path / "m.onnx", nodes)
    assert [layer.nodes for layer in load(path).layers] == [("conv",)]
    check_partition(read_model(path), load(path))


def test_a_constant_node_is_no_layer_and_gives_none_its_name(tmp_path):
    nodes = [node("Constant", [], ["shape"], value_ints=[1, 3, 8, 8], name="constant")]
    nodes += [node("Reshape", ["x", "shape"], ["y"], name="r")]
    assert layers(tmp_path, nodes) == [("r", "Reshape", ("r",))]


@pytest.mark.parametrize(
    ("nodes", "quantizable"),
    [
        ([node("MatMul", ["x", "m"], ["y"], name="n")], True),
        ([node("Gemm", ["x", "m"], ["y"], name="n", transB=1)], True),
        ([node("MatMul", ["m", "x"], ["y"], name="n")], False),  # the weights come first
        ([node("MatMul", ["x", "x"], ["y"], name="n")], False),  # nothing is constant
        ([node("Add", ["x", "m"], ["y"], name="n")], False),
    ],
)
def test_only_products_with_constant_weights_can_be_quantized(tmp_path, nodes, quantizable):
    graph = load(save(tmp_path / "m.onnx", nodes, weights=[weight("m", 4, 4)], shape=[4, 4]))
    assert graph.quantizable() == (("n",) if quantizable else ())


def test_a_layer_with_two_tensors_going_out_cannot_be_quantized(tmp_path):
    #   x --> conv --> identity --> sqrt --> add --> y      ONNX Runtime removes the identity,
    #             \            \--> exp ---/                   so that its readers read the convolution
    #              \---> out
    nodes = [conv("x", "c"), node("Identity", ["c"], ["i"], name="identity"), node("Sqrt", ["i"], ["s"], name="sqrt")]
    nodes += [node("Exp", ["i"], ["e"], name="exp"), node("Add", ["s", "e"], ["y"], name="add")]
    graph = load(save(tmp_path / "m.onnx", nodes, outputs=("y", "c")))
    assert graph.layer("conv").nodes == ("conv", "identity")
    assert len(graph.outputs_of["conv"]) == 2
    assert graph.quantizable() == ()


def test_a_block_that_would_close_a_cycle_is_split(tmp_path):
    #   x --> identity --> exp --> sqrt --> add --> y      identity, exp and add would be one block
    #                \----------------------/              before and after sqrt
    nodes = [
        node("Identity", ["x"], ["a"], name="identity"),
        node("Exp", ["a"], ["e"], name="exp"),
        node("Sqrt", ["e"], ["s"], name="sqrt"),
        node("Add", ["a", "s"], ["y"], name="add"),
    ]
    assert [name for name, *_ in layers(tmp_path, nodes)] == ["identity", "exp", "sqrt", "add"]
    check_partition(read_model(tmp_path / "m.onnx"), load(tmp_path / "m.onnx"))


def test_a_model_that_onnx_runtime_cannot_load_is_refused(tmp_path):
    graph = helper.make_graph([node("Relu", ["x"], ["y"])], "g", [info("x")], [info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 99)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="cannot load the model"):
        load(tmp_path / "m.onnx")


def test_bad_files_are_refused_as_the_reader_does(tmp_path):
    with pytest.raises(ModelError, match=r"there is no model file .*no\.onnx"):
        load(tmp_path / "no.onnx")


# ---------------------------------------------------------------- architectures

X86 = platform.machine().lower() in ("x86_64", "amd64")  # where ONNX Runtime has blocked layouts


@pytest.mark.parametrize("name", architectures.ALL)
def test_every_architecture_is_partitioned(name, tmp_path):
    path = architectures.ALL[name](tmp_path / f"{name}.onnx")
    check_partition(read_model(path), load(path))


@pytest.mark.skipif(not X86, reason="the convolution adds the residual only in blocked layouts")
def test_a_residual_that_the_convolution_adds_is_in_its_layer(tmp_path):
    graph = load(architectures.res_net(tmp_path / "m.onnx"))
    assert graph.layer("b0").nodes == ("b0", "add0", "relu0")
    assert graph.layer("b1").nodes == ("b1", "add1", "relu1")
    assert graph.layer("side1").nodes == ("side1",)
    assert {"b0", "b1", "side1", "classes"} <= set(graph.quantizable(99))
    mobile = load(architectures.mobile_net(tmp_path / "mobile.onnx"))
    assert [layer.nodes for layer in mobile.layers if "Add" in str(layer.nodes) or "add0" in layer.nodes] == [("down0", "add0")]


def test_gelu_bias_and_normalisation_of_a_transformer_are_fused(tmp_path):
    graph = load(architectures.transformer(tmp_path / "m.onnx"))
    nodes = {layer.name: layer.nodes for layer in graph.layers}
    assert nodes["wide"] == ("wide", "wide/bias", "gelu/div", "gelu/erf", "gelu/add", "gelu/mul", "gelu/half")
    assert nodes["norm1"] == ("skip1", "norm1")
    assert nodes["scores"] == ("scores", "scale")
    assert {"query", "key", "value", "project", "wide", "narrow"} == set(graph.quantizable(99))


def test_heads_for_masks_boxes_and_classes_keep_their_layers(tmp_path):
    graph = load(architectures.yolo_heads(tmp_path / "m.onnx"))
    assert {"proto", "box", "classes", "neck"} <= set(graph.quantizable(99))
    assert {t.name for t in graph.tensors if t.is_output} == {"proto2/mul.out", "corners.out", "scores.out"}


@pytest.mark.parametrize("name", architectures.ALL)
def test_any_layer_of_any_architecture_runs_in_int8_close_to_float32(name, tmp_path):
    path = architectures.ALL[name](tmp_path / f"{name}.onnx")
    graph, model = load(path), read_model(path)
    feed = {"x": np.random.default_rng(0).normal(size=model.types["x"][1]).astype(np.float32)}
    int8 = {n: quantize_layer(graph, n, calibrate(graph, feed["x"])) for n in graph.quantizable(99)}
    plain, found = whole(graph, {}, feed), whole(graph, int8, feed)
    for output in model.outputs:
        assert np.abs(found[output] - plain[output]).mean() <= 0.15 * np.abs(plain[output]).max()


# ---------------------------------------------------------------- random models

UNARY = ["Relu", "Sigmoid", "Exp", "Identity", "Neg", "Conv", "Scale"]


@st.composite
def random_nodes(draw):
    """Nodes of one shape that read any tensors made before them, so that fusions overlap with branches."""
    made, nodes = ["x"], []
    for i in range(draw(st.integers(1, 12))):
        recent = st.sampled_from(made[-3:])
        op, target = draw(st.sampled_from([*UNARY, "Add", "Mul"])), f"t{i}"
        if op == "Conv":
            nodes.append(conv(draw(recent), target, f"n{i}"))
        elif op == "Scale":
            nodes.append(node("Mul", [draw(recent), "k"], [target], name=f"n{i}"))
        else:
            inputs = [draw(recent) for _ in range(1 + (op in ("Add", "Mul")))]
            nodes.append(node(op, inputs, [target], name=f"n{i}"))
        made.append(target)
    return nodes


@settings(deadline=None, max_examples=30)
@given(random_nodes())
def test_blocks_of_a_random_model_hold_every_node_once_and_form_no_cycle(tmp_path_factory, nodes):
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    save(path, nodes, outputs=(f"t{len(nodes) - 1}",), weights=[KERNEL, weight("k", 1)])
    check_partition(read_model(path), load(path))


# ---------------------------------------------------------------- the shipped model


@pytest.fixture(scope="module")
def shipped_graph():
    return load(SHIPPED)


def test_the_shipped_model_has_about_160_layers(shipped_graph):
    assert 155 <= len(shipped_graph.layers) <= 170
    check_partition(read_model(SHIPPED), shipped_graph)


def test_the_shipped_model_reads_one_image_of_320_pixels(shipped_graph):
    inputs = [t for t in shipped_graph.tensors if t.producer is None]
    assert [(t.shape, t.size_bytes, t.dtype) for t in inputs] == [((1, 3, 320, 320), 1228800, "float32")]
    assert sum(t.is_output for t in shipped_graph.tensors) == 1


def test_the_twelve_quantizable_layers_of_the_shipped_model_are_convolutions(shipped_graph):
    chosen = shipped_graph.quantizable(12)
    assert len(chosen) == 12
    assert {shipped_graph.layer(name).op_type for name in chosen} == {"Conv"}
    assert all(len(shipped_graph.outputs_of[name]) == 1 for name in chosen)


def test_the_shipped_model_costs_about_1_6_gigaflop(shipped_graph):
    assert sum(layer.flops for layer in shipped_graph.layers) == pytest.approx(1.6e9, rel=0.03)


def test_every_convolution_of_the_shipped_model_has_its_activation(shipped_graph):
    model = read_model(SHIPPED)
    ops = {layer.name: [model.nodes[n].op_type for n in layer.nodes] for layer in shipped_graph.layers}
    assert sum("Conv" in kinds for kinds in ops.values()) == sum(n.op_type == "Conv" for n in model.nodes.values())
    assert sum(kinds == ["Conv", "Sigmoid", "Mul"] for kinds in ops.values()) > 60


def test_the_blocks_are_the_same_every_time():
    model = read_model(SHIPPED)
    assert find_blocks(model) == find_blocks(model)
