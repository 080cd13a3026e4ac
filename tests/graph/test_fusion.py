"""Layers where ONNX Runtime renames what is between the kernels that it keeps; the whole line on them."""

import itertools
from collections import Counter

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
from helpers import renamed
from onnxruntime.quantization import QuantType

import dnnsplit as ds
from dnnsplit.graph.blocks import load, optimize
from dnnsplit.graph.reading import read_model
from dnnsplit.profiling.kernels import profile_host
from dnnsplit.quantize.parts import build_part

PRODUCTS = ("Conv", "Gemm", "MatMul")
KINDS = {
    "plain": {"act": ""}, "relu": {}, "sigmoid": {"act": "Sigmoid"}, "silu": {"act": "SiLU"}, "tanh": {"act": "Tanh"},
    "hard-swish": {"act": "HardSwish"},
    "norm": {"norm": True}, "residual": {"residual": True}, "residual-silu": {"residual": True, "act": "SiLU"},
    "depthwise": {"depthwise": True}, "pool": {"pool": True},
    "all": {"act": "Tanh", "residual": True, "depthwise": True, "pool": True, "norm": True},
}  # fmt: skip
STORED = list(
    itertools.product(("Relu", "SiLU"), (False, True), ({}, {"activation_type": QuantType.QUInt8}, {"per_channel": True}))
)
INTEGER = {"QLinearConv", "QGemm", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearGlobalAveragePool"}


def products(path):
    """Return the products that each layer holds, without the layers that hold none."""
    model = read_model(path)
    held = [[n for n in layer.nodes if model.nodes[n].op_type in PRODUCTS] for layer in load(path).layers]
    return sorted(names for names in held if names)


def thirds(path, out, noise=None):
    """Cut a model in three, in int8 where there is a noise model; the cut compares the parts with the whole and the noise."""
    graph = load(path)
    servers = [ds.Server(name, compute_w=1.0, transmit_w=1.0) for name in "abc"]
    links = [ds.Link(a, b, 1e6, 1e-3) for a, b in itertools.permutations("abc", 2)]
    network = ds.Network(servers, links, source="a")
    int8 = graph.quantizable(99)
    seconds = {"float32": 1e-3, "int8": 5e-4}
    rows = [(n, s, p, seconds[p]) for n in graph.layer_names for s in "abc" for p in seconds if p == "float32" or n in int8]
    times = ds.LayerTimes.from_frame(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    names = graph.topological
    pins = {n: "abc"[3 * i // len(names)] for i, n in enumerate(names)}
    plan = ds.split(graph, network, times, noise=noise, max_noise=noise and 1e9, pins=pins)
    assert set(plan.quantized) == set(noise.layers if noise else ())
    return ds.cut(path, plan, out=out)


def integer_kernels(model):
    return Counter(kernel.op_type for kernel in optimize(model).graph.node if kernel.op_type in INTEGER)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 5])
def test_each_convolution_of_a_channels_last_network_is_a_layer_for_int8(tmp_path, kind, count):
    path = renamed.channels_last(tmp_path / "m.onnx", count, **KINDS[kind])
    assert products(path) == [[f"conv{i}"] for i in range(count)]
    assert len(load(path).quantizable(99)) == count


def test_the_activation_is_with_the_convolution_whatever_transposes_are_between(tmp_path):
    graph = load(renamed.channels_last(tmp_path / "m.onnx", 3, act="SiLU"))
    assert graph.layer("conv0").nodes == ("conv0", "t0/out", "act0/sigmoid", "act0/mul", "t1/in")
    graph = load(renamed.channels_last(tmp_path / "n.onnx", 3, residual=True))
    assert graph.layer("conv1").nodes == ("t1/in", "conv1", "t1/out", "act1")  # with t2/in, two tensors would go out


@pytest.mark.parametrize("kind", ["plain", "relu", "residual-silu", "hard-swish", "all"])
def test_a_channels_last_network_is_measured_and_cut_like_any_other(tmp_path, kind):
    path = renamed.channels_last(tmp_path / "m.onnx", 4, **KINDS[kind])
    graph, images = load(path), np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32)
    assert thirds(path, tmp_path / "parts").parts
    assert set(profile_host(graph, images, runs=2, progress=False)["layer"]) == set(graph.layer_names)
    samples = ds.measure_noise(graph, images, layers=3, progress=False)
    assert (samples.noise[samples.schemes.any(axis=1)] > 0).all()
    assert thirds(path, tmp_path / "int8", ds.NoiseModel.measured(samples)).parts


@pytest.mark.parametrize("make", [renamed.removed, renamed.repeated])
def test_nodes_that_are_taken_out_join_no_products(tmp_path, make):
    path = make(tmp_path / "m.onnx")
    found = products(path)
    assert found == sorted([[n] for n, node in read_model(path).nodes.items() if node.op_type == "Conv"])
    assert thirds(path, tmp_path / "parts").parts


@pytest.mark.parametrize(("act", "residual", "setting"), STORED)
def test_a_file_in_8_bits_has_its_layers_and_keeps_its_kernels_when_it_is_cut(tmp_path, act, residual, setting):
    path = renamed.stored_in_8_bits(tmp_path / "m.onnx", act, residual, **setting)
    assert products(path) == [["classes"], ["conv0"], ["conv1"], ["conv2"]]
    graph, model = load(path), read_model(path)
    assert graph.quantizable(99) == ()  # nothing is quantized twice
    assert "conv0" in graph.layer("conv0").nodes
    assert all(t.dtype == "uint8" for t in graph.tensors if t.producer is not None and not t.is_output)
    kernels = integer_kernels(build_part(graph, graph.layer_names, model.outputs))
    assert kernels["QLinearConv"] == 3
    bundle = thirds(path, tmp_path / "parts")
    assert sum((integer_kernels(bundle.folder / part.file) for part in bundle.parts), Counter()) == kernels


@pytest.mark.parametrize("residual", [False, True])
def test_a_file_in_8_bits_gives_what_the_file_gives(tmp_path, residual):
    path = renamed.stored_in_8_bits(tmp_path / "m.onnx", "Relu", residual)
    graph, model = load(path), read_model(path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feed = {"x": np.random.default_rng(1).random((1, 3, 8, 8), dtype=np.float32)}
    ours = build_part(graph, graph.layer_names, model.outputs).SerializeToString()
    found, expected = (ort.InferenceSession(m, options).run(None, feed)[0] for m in (ours, path.read_bytes()))
    np.testing.assert_array_equal(found, expected)


def test_a_profile_of_a_file_in_8_bits_knows_each_kernel(tmp_path):
    graph = load(renamed.stored_in_8_bits(tmp_path / "m.onnx", "SiLU", True))
    images = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    frame = profile_host(graph, images, runs=2, progress=False).set_index("layer")
    assert (frame.loc[["conv0", "conv1", "conv2", "classes"], "seconds"] > 0).all()
