"""Int8 of every product at every opset: close to float32, in integer kernels, and deployed with the noise that was measured."""

import numpy as np
import onnx
import pytest
from helpers.plans import plan_for
from helpers.small_models import PRODUCTS, inputs_of, two_products
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.graph.blocks import optimize
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.quantize.kernels import INTEGER
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import quantize_layer

WITHOUT_KERNEL = "ConvTranspose"  # ONNX Runtime has no integer kernel of it on CPUs


def kernels(proto):
    return [node.op_type for node in optimize(proto).graph.node]


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 21])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_every_product_runs_in_int8_with_little_noise(tmp_path, kind, opset):
    graph = ds.load(two_products(tmp_path / "net.onnx", kind, opset))
    assert graph.quantizable() == ("one", "two")
    pictures = inputs_of(graph)
    calibration = calibrate(graph, pictures)
    samples = ds.measure_noise(graph, pictures, calibration=calibration, progress=False, workers=1)
    assert (samples.noise[1:] > 0).all()
    assert samples.details["relative"].max() < 0.05
    int8 = {name: quantize_layer(graph, name, calibration) for name in graph.quantizable()}
    found = kernels(build_part(graph, graph.layer_names, graph.model.outputs, int8))
    assert sum(kernel in INTEGER for kernel in found) == (0 if WITHOUT_KERNEL in kind else 2)
    for servers in (("device", "device"), ("device", "cloud")):
        plan = plan_for(graph, dict(zip(("one", "two"), servers, strict=True)), ("one", "two"), samples.origin)
        ds.cut(graph, plan, tmp_path / servers[1])  # its own check compares the parts with the noise that was measured


@pytest.mark.parametrize("setting", ["default", "thesis"])
@pytest.mark.parametrize("kind", ["Conv", "MatMul", "Gemm", "Gemm transA"])
def test_the_noise_is_the_same_at_every_opset(tmp_path, kind, setting):
    noise = []
    for opset in (10, 11, 12, 13):
        graph = ds.load(two_products(tmp_path / f"{opset}.onnx", kind, opset))
        noise.append(ds.measure_noise(graph, inputs_of(graph), setting=setting, progress=False, workers=1).noise.tolist())
    assert noise[0] == noise[1] == noise[2] == noise[3]
    assert noise[0][-1] > 0


def test_operators_of_onnx_runtime_are_used_only_where_those_of_onnx_know_no_axis(tmp_path):
    for opset, domain in ((10, "com.microsoft"), (12, "com.microsoft"), (13, "")):
        graph = ds.load(two_products(tmp_path / f"{opset}.onnx", "Conv", opset))
        calibration = calibrate(graph, inputs_of(graph))
        int8 = {"one": quantize_layer(graph, "one", calibration)}
        for names in (["one"], ["two"]):  # made here, and received
            part = build_part(graph, names, ["r"] if names == ["one"] else ["y"], int8)
            assert {node.domain for node in part.graph.node if node.op_type.endswith("quantizeLinear")} <= {domain}
            assert {node.domain for node in part.graph.node if node.op_type == "DequantizeLinear"} == {domain}
            assert sorted(entry.domain for entry in part.opset_import) == sorted({"", domain})


@pytest.mark.parametrize("factors", [{}, {"alpha": 0.5, "beta": 3.0}, {"beta": 0.0}, {"alpha": -2.0}])
@pytest.mark.parametrize("shape", [None, (), (1,), (4,), (1, 1), (1, 4), (8, 1), (8, 4)])
def test_a_gemm_adds_any_c_that_onnx_broadcasts(tmp_path, shape, factors):
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, (16, 4)).astype(np.float32), "w")]
    if shape is not None:
        weights.append(numpy_helper.from_array(np.asarray(rng.normal(3, 1, shape), np.float32), "c"))
    nodes = [helper.make_node("Gemm", ["x", *(w.name for w in weights)], ["y"], name="fc", **factors)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (8, 16)), ("y", (8, 4)))]
    proto = helper.make_graph(nodes, "gemm", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    graph = ds.load(tmp_path / "m.onnx")
    pictures = rng.normal(size=(16, 16)).astype(np.float32)
    samples = ds.measure_noise(graph, pictures, progress=False, workers=1)
    assert 0 < samples.details["relative"].max() < 0.03
    int8 = {"fc": quantize_layer(graph, "fc", calibrate(graph, pictures))}
    assert "QGemm" in kernels(build_part(graph, ["fc"], ["y"], int8))
