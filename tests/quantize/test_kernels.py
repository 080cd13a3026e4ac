"""Which layers run in int8 is decided by the plan alone: the noise of a scheme is one, wherever and however it is run."""

import itertools
import platform

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers.random_networks import KINDS, SIZE, random_network
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts, whole
from dnnsplit.cutting.verification import SHAKES
from dnnsplit.graph.optimizing import optimize
from dnnsplit.noise import prefix_tree
from dnnsplit.quantize.kernels import INTEGER, float32_products, stray_layers
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import quantize_layer
from dnnsplit.runtime import sessions

SERVERS = ("device", "edge", "cloud")
NETWORKS = [*itertools.product(KINDS, ("Relu", "SiLU")), ("residual", "Relu6"), ("dense", "Relu6"), ("concat", "LeakyRelu")]


def pictures(seed, count=2):
    return np.random.default_rng(seed).normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)


def noise_of(outputs, plain):
    """rho by its formula: mean over images, then over outputs, of mean |o - o_q|."""
    pairs = zip(outputs, plain, strict=True)
    return np.mean([np.mean([np.abs(o[n] - p[n]).mean(dtype=np.float64) for n in p]) for o, p in pairs])


def plan_of(graph, noise, quantized, placement):
    """The plan of one scheme and one placement: int8 is faster for exactly these layers, and every layer is pinned."""
    import pandas as pd

    rows = [
        (name, server, precision, 1.0 if precision == "float32" else 0.5 if name in quantized else 2.0)
        for name in graph.layer_names for server in SERVERS for precision in ("float32", "int8")
    ]  # fmt: skip
    links = [ds.Link(a, b, 1e9, 0.0) for a, b in itertools.permutations(SERVERS, 2)]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    plan = ds.split(graph, ds.Network([ds.Server(s) for s in SERVERS], links), times, noise, pins=placement)
    assert set(plan.quantized) == set(quantized)
    return plan


@pytest.mark.parametrize(("kind", "activation"), NETWORKS)
def test_the_table_the_whole_model_and_the_parts_have_one_noise(tmp_path, kind, activation):
    seed = NETWORKS.index((kind, activation))
    rng = np.random.default_rng(seed)
    path = random_network(tmp_path / "net.onnx", kind, activation, seed)
    graph = ds.load(path)
    calibration = ds.calibrate(graph, pictures(1, 4))
    layers = graph.quantizable(4)
    samples = ds.measure_noise(graph, pictures(2), layers, calibration=calibration, workers=1, progress=False)
    noise = ds.fit_noise(samples, "measured")
    feeds = [{"x": image[None]} for image in pictures(2)]
    plain = [whole(graph, {}, feed) for feed in feeds]
    run_at_random = rng.choice(2 ** len(layers), 4, replace=False)
    for scheme in range(1, 2 ** len(layers)):
        quantized = [name for j, name in enumerate(layers) if scheme >> j & 1]
        told = noise.of(quantized)
        int8 = {name: quantize_layer(graph, name, calibration) for name in quantized}
        outputs = [whole(graph, int8, feed) for feed in feeds]
        assert noise_of(outputs, plain) == pytest.approx(told, rel=0.01, abs=1e-7), quantized
        if scheme in run_at_random:
            placement = {name: str(rng.choice(SERVERS)) for name in graph.layer_names}
            bundle = ds.cut(path, plan_of(graph, noise, quantized, placement), tmp_path / f"{scheme}")
            assert noise_of([run_parts(bundle, feed) for feed in feeds], plain) == pytest.approx(told, rel=0.01, abs=1e-7)


@pytest.mark.parametrize("activation", ["Relu", "SiLU"])
def test_layers_in_int8_that_are_multiplied_in_float32_are_named(tmp_path, activation):
    graph = ds.load(random_network(tmp_path / "net.onnx", "dense", activation, 0))
    layers, products = graph.quantizable(12), {}
    for setting in ("default", "thesis"):
        calibration = ds.calibrate(graph, pictures(1, 4), setting)
        int8 = {name: quantize_layer(graph, name, calibration) for name in layers}
        products[setting] = float32_products(graph, int8)
        part = build_part(graph, graph.topological, graph.model.outputs, int8)
        kernels = [kernel.op_type for kernel in optimize(part).graph.node]
        assert len(layers) - sum(kernels.count(kernel) for kernel in INTEGER) == len(products[setting])
    assert products["default"] == ()
    if platform.machine() in ("x86_64", "AMD64"):
        assert products["thesis"] == (() if activation == "Relu" else layers)


@pytest.fixture
def leaking(tmp_path, monkeypatch):
    """A chain whose middle convolution ONNX Runtime's optimizer would put into int8, and what is needed to plan it."""
    path = random_network(tmp_path / "net.onnx", "dense", "Relu", 0)
    graph = ds.load(path)
    assert {"c0", "c1", "c2"} <= set(graph.layer_names)
    calibration = ds.calibrate(graph, pictures(1, 4))
    samples = ds.measure_noise(graph, pictures(2), ["c0", "c2"], calibration=calibration, progress=False)
    plan = plan_of(graph, ds.fit_noise(samples, "measured"), ["c0", "c2"], dict.fromkeys(graph.layer_names, "device"))
    return graph, plan


@pytest.mark.parametrize("op", ["Softmax", "MatMul"])
def test_a_plan_is_not_refused_for_what_stands_between_int8_layers(tmp_path, op):
    # a Softmax would run in integers and round otherwise; a product of two int8 tensors does so too, and rounds the same
    path = two_layers_around(tmp_path / "net.onnx", op)
    graph = ds.load(path)
    calibration = ds.calibrate(graph, pictures(1, 4))
    layers = ["c1", "c2"]
    samples = ds.measure_noise(graph, pictures(2), layers, "all", calibration=calibration, progress=False)
    noise = ds.fit_noise(samples, "measured")
    bundle = ds.cut(path, plan_of(graph, noise, layers, dict.fromkeys(graph.layer_names, "device")), tmp_path / "build")
    feeds = [{"x": image[None]} for image in pictures(2)]
    plain = [whole(graph, {}, feed) for feed in feeds]
    assert noise_of([run_parts(bundle, feed) for feed in feeds], plain) == pytest.approx(noise.of(layers), rel=1e-4)
    kernels = [node.op_type for node in optimize(bundle.folder / bundle.parts[0].file).graph.node]
    assert kernels.count("QLinearConv") == 2
    # if ONNX Runtime takes the copy in front of a Softmax out some day, or gets another kernel for it, this tells
    assert {"Softmax": "Softmax", "MatMul": "QLinearMatMul"}[op] in kernels


def two_layers_around(path, op):
    rng = np.random.default_rng(0)
    weights, nodes, tensor = [], [], "x"
    for name, inside in (("c0", 3), ("c1", 8), ("c2", 8), ("c3", 8)):
        if name == "c2":
            nodes.append(helper.make_node(op, [tensor] if op == "Softmax" else [tensor, tensor], ["mid"], name="mid"))
            tensor = "mid"
        value = (rng.normal(size=(8, inside, 3, 3)) * np.sqrt(2 / (9 * inside))).astype(np.float32)
        weights += [numpy_helper.from_array(value, f"{name}.w"), numpy_helper.from_array(np.zeros(8, np.float32), f"{name}.b")]
        nodes.append(helper.make_node("Conv", [tensor, f"{name}.w", f"{name}.b"], [f"{name}.o"], name=name, pads=[1] * 4))
        tensor = f"{name}.r" if name != "c3" else "y"
        nodes.append(helper.make_node("Relu", [f"{name}.o"], [tensor], name=f"{name}.relu"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, SIZE, SIZE]) for n, c in (("x", 3), ("y", 8))]
    graph = helper.make_graph(nodes, op, ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_no_session_of_ours_puts_a_float32_layer_into_int8(leaking, tmp_path):
    graph, plan = leaking
    bundle = ds.cut(graph, plan, tmp_path / "build")
    (part,) = bundle.parts
    assert stray_layers(bundle.folder / part.file, graph, plan.quantized) == {}
    # the kernels of the layers that the plan does have in int8 are found
    assert stray_layers(bundle.folder / part.file, graph, ()) == {"c0": "QLinearConv", "c2": "QLinearConv"}


def test_cut_finds_a_float32_layer_that_would_run_in_int8(leaking, tmp_path, monkeypatch):
    graph, plan = leaking
    monkeypatch.setattr(sessions, "DISABLED", ())
    with pytest.raises(ds.DeployError, match=r"that the plan has in float32 run in int8: 'c1' runs as QLinearConv in part00"):
        ds.cut(graph, plan, tmp_path / "build")
    # and where the kernels could not be told apart, the parts have not the noise that the table has
    monkeypatch.setattr("dnnsplit.cutting.verification.stray_layers", lambda *_: {})
    monkeypatch.setattr("dnnsplit.cutting.verification.TOLERANCE", 1.0)
    with pytest.raises(ds.DeployError, match="of the noise of their int8 layers away"):
        ds.cut(graph, plan, tmp_path / "build")


@pytest.mark.parametrize(("apart", "passes"), [(1e-6, True), (1e-4, False)])
def test_float32_sums_in_another_order_are_no_other_noise(leaking, tmp_path, monkeypatch, apart, passes):
    graph, plan = leaking

    def without_noise(*arguments):
        _, int8 = prefix_tree.both_ways(*arguments)
        near = {name: value * np.float32(1 + apart) for name, value in int8.items()}
        return near, near

    monkeypatch.setattr("dnnsplit.cutting.verification.both_ways", without_noise)
    monkeypatch.setattr("dnnsplit.cutting.verification.SHAKES", 0)
    if passes:
        ds.cut(graph, plan, tmp_path / "build")
    else:
        with pytest.raises(ds.DeployError, match="of the noise of their int8 layers away"):
            ds.cut(graph, plan, tmp_path / "build")


@pytest.mark.parametrize(("moved", "passes"), [(1.5, True), (0.5, False)])
def test_parts_may_differ_by_what_rounding_alone_changes(leaking, tmp_path, monkeypatch, moved, passes):
    """A value at the border of two int8 steps falls either way, and in a deep model with few outputs that is more than 1 %."""
    graph, plan = leaking
    runs = []

    def sensitive(*arguments):
        plain, int8 = prefix_tree.both_ways(graph, arguments[1], arguments[2], runs[0] if runs else arguments[3])
        runs.append(arguments[3])
        noise = np.abs(int8["y"] - plain["y"]).mean()
        # of the first run the parts are 5 % of the noise away, the others as many times that from the first
        return plain, {"y": int8["y"] + np.float32(0.05 * noise * (1 + (moved if len(runs) > 1 else 0)))}

    monkeypatch.setattr("dnnsplit.cutting.verification.both_ways", sensitive)
    if passes:
        ds.cut(graph, plan, tmp_path / "build")
    else:
        with pytest.raises(ds.DeployError, match=r"the parts are 5\.0% of the noise .* or what rounding alone changes\)"):
            ds.cut(graph, plan, tmp_path / "build")
    assert len(runs) == 1 + SHAKES
    assert all(0 < np.abs(one["x"] / runs[0]["x"] - 1).max() < 1e-5 for one in runs[1:])


def test_the_optimizer_that_is_disabled_is_one_of_this_onnx_runtime(leaking, tmp_path):
    # if ONNX Runtime renames it, disabling does nothing: without it the same file must give another network
    graph, plan = leaking
    bundle = ds.cut(graph, plan, tmp_path / "build")
    file = str(bundle.folder / bundle.parts[0].file)
    kernels = {}
    for disabled in ((), sessions.DISABLED):
        options = sessions.session_options()
        options.optimized_model_filepath = str(tmp_path / f"{len(disabled)}.onnx")
        ort.InferenceSession(file, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
        nodes = onnx.load(options.optimized_model_filepath).graph.node
        kernels[disabled] = sum(node.op_type == "QLinearConv" for node in nodes)
    assert kernels == {(): 3, sessions.DISABLED: 2}
