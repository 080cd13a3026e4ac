"""Names of what quantizing adds: none of the model's, whatever those are, and always the same."""

import numpy as np
import onnx
import pytest
from helpers.plans import plan_for
from helpers.small_models import conv_net, images
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import quantize_layer


def names_of(int8):
    made = [name for node in int8.nodes for name in node.output] + [weight.name for weight in int8.weights]
    return {*made, *(node.name for node in int8.nodes)}


def test_names_are_those_of_the_layer_and_its_output_where_nothing_has_them(tmp_path):
    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    int8 = quantize_layer(graph, "c2", calibrate(graph, images(2)))
    assert int8.wire == "c2.silu/int8"
    own = {name for n in graph.layer("c2").nodes for name in (n, *graph.model.nodes[n].output)}
    assert all(name.startswith(("c2/", "c2.silu/")) for name in names_of(int8) - own)


# a name of the model -> one that quantizing would make
CLASHES = [
    {"c1.out": "c1/input/int8"}, {"c1.out": "c1/product"}, {"c1.sig": "c1/output"}, {"c1.silu": "c1/output"},
    {"c1.silu": "c1/output/int8"}, {"c1.w": "c1/weight/int8"}, {"c1.b": "c1/bias/scale"}, {"sum": "c1.silu/int8"},
    {"sum": "c1.silu/float32"}, {"sum": "c1.silu/int8/received"}, {"c2.w": "c1.silu/int8/received/scale"},
    {"c1.silu": "c1"}, {"c2.silu": "c1"}, {"c2": "c1/output"}, {"c2": "c1/weight", "c2.silu": "c1/weight"},
    {"add": "c1/input/QuantizeLinear"}, {"c3": "c2/#2/input", "c1.out": "c2/output"}, {"x": "c1/input/scale"},
    {"side": "c2.silu/scale", "out": "c2.silu/zero_point"},
]  # fmt: skip


@pytest.mark.parametrize("setting", ["default", "thesis"])
@pytest.mark.parametrize("renamed", CLASHES, ids=lambda renamed: ", ".join(renamed.values()))
def test_whatever_the_names_of_the_model_int8_is_the_same(tmp_path, renamed, setting):
    noise = []
    for mapping in ({}, renamed):
        graph = ds.load(with_names(conv_net(tmp_path / "net.onnx"), mapping))
        pictures = {graph.model.inputs[0]: images(2)}
        samples = ds.measure_noise(graph, pictures, 3, setting=setting, progress=False, workers=1)
        noise.append(samples.noise.tolist())
        calibration = calibrate(graph, pictures, setting)
        int8 = {name: quantize_layer(graph, name, calibration) for name in samples.layers}
        whole = build_part(graph, graph.layer_names, graph.model.outputs, int8)
        made = [name for node in whole.graph.node for name in node.output] + [w.name for w in whole.graph.initializer]
        assert len(made) == len({*made, *(i.name for i in whole.graph.input)} - {*graph.model.inputs})
        plan = plan_for(graph, placement(graph), samples.layers, samples.origin)
        first, second = (ds.cut(graph, plan, tmp_path / folder) for folder in ("first", "second"))
        assert [part.sha256 for part in first.parts] == [part.sha256 for part in second.parts]
        alone = quantize_layer(ds.load(graph.model_path), samples.layers[-1], calibration)
        assert names_of(alone) == names_of(int8[samples.layers[-1]])  # whichever layers are quantized
    assert noise[0] == noise[1]


def placement(graph):
    return {name: ("device", "cloud")[i % 2] for i, name in enumerate(graph.topological)}


def with_names(path, mapping):
    """Rename nodes and tensors of a file, in place."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = mapping.get(node.name, node.name)
        node.input[:] = [mapping.get(name, name) for name in node.input]
        node.output[:] = [mapping.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = mapping.get(value.name, value.name)
    onnx.save(model, path)
    return path


def test_names_inside_of_bodies_are_names_of_the_model(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Relu", ["t"], ["conv/product"])], "body", [],
        [helper.make_tensor_value_info("conv/product", TensorProto.FLOAT, [1, 4, 6, 6])],
    )  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["t"], name="conv"),
        helper.make_node("ReduceMax", ["t"], ["most"], name="most", keepdims=0),
        helper.make_node("Cast", ["most"], ["some"], name="some", to=TensorProto.BOOL),
        helper.make_node("If", ["some"], ["y"], name="if", then_branch=body, else_branch=body),
    ]
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 4, 6, 6]))]
    proto = helper.make_graph(nodes, "bodies", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    graph = ds.load(tmp_path / "m.onnx")
    samples = ds.measure_noise(graph, images(2, 8), progress=False, workers=1)
    assert samples.layers == ("conv",)
    assert 0 < samples.details["relative"].max() < 0.05
    assert not any(
        name.startswith("conv/product") for name in names_of(quantize_layer(graph, "conv", calibrate(graph, images(2, 8))))
    )


# names of ONNX Runtime's own calibrator, and of ours
CALIBRATED = (
    {"c1.silu": "c1.out_ReduceMin"},
    {"c1": "c1.out_ReduceMax"},
    {"c2.b": "calibration/least/0"},
    {"x": "calibration/greatest/3"},
)


@pytest.mark.parametrize("renamed", CALIBRATED, ids=lambda renamed: ", ".join(renamed.values()))
def test_whatever_the_names_of_the_model_its_ranges_are_the_same(tmp_path, renamed):
    plain = calibrate(ds.load(conv_net(tmp_path / "net.onnx")), images(2)).ranges
    graph = ds.load(with_names(conv_net(tmp_path / "net.onnx"), renamed))
    assert calibrate(graph, images(2)).ranges == {renamed.get(tensor, tensor): span for tensor, span in plain.items()}
