"""A model of which no layer can run in int8: one scheme without noise, which says why, and all goes on in float32."""

from dataclasses import replace

import numpy as np
import onnx
import pandas as pd
import pytest
from helpers.plans import any_network, plan_for
from helpers.small_models import conv_net, images, saved, two_products
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.noise.fit import first_order
from dnnsplit.noise.meter import noise_meter
from dnnsplit.noise.metrics import fragile
from dnnsplit.quantize.reasons import why_none

KINDS = {
    "half precision": ("its weights are float16", np.float16),
    "no product": ("the model has no Conv, ConvTranspose, Gemm, MatMul", np.float32),
    "attention": ("its weights are no constants", np.float32),
    "whole numbers": ("the model has no Conv, ConvTranspose, Gemm, MatMul", np.int64),
}


def write(path, kind):
    dtype = KINDS[kind][1]
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(0, 0.3, (3, 3, 3, 3)).astype(dtype), "w")
    op_type, inputs, attributes = {
        "half precision": ("Conv", ["x", "w"], {"pads": [1] * 4}),
        "no product": ("Relu", ["x"], {}),
        "attention": ("MatMul", ["x", "x"], {}),
        "whole numbers": ("Mul", ["x", "x"], {}),
    }[kind]
    nodes = [
        helper.make_node(op_type, inputs, ["t"], name="first", **attributes),
        helper.make_node("Add", ["t", "x"], ["y"], name="last"),
    ]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    ends = [helper.make_tensor_value_info(name, element, [1, 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "none", ends[:1], ends[1:], [weight] if "w" in inputs else [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_scheme_is_measured_kept_fitted_split_and_cut(tmp_path, kind):
    graph = ds.load(write(tmp_path / "net.onnx", kind))
    pictures = (9 * images(2, 8)).astype(KINDS[kind][1])
    resume = tmp_path / "noise.npz"
    options = (
        {},
        {"schemes": "alone"},
        {"schemes": 4},
        {"budget": 40},
        {"resume": resume},
        {"resume": resume},
        {"setting": "thesis"},
    )
    for given in options:
        samples = ds.measure_noise(graph, pictures, progress=False, workers=1, **given)
        assert samples.layers == ()
        assert samples.schemes.shape == (1, 0)
        assert samples.noise.tolist() == [0.0]
    assert samples.origin["setting"]["activation"] == "int8"
    assert f"no layer can run in int8: {KINDS[kind][0]}" in " ".join(repr(samples).split())
    samples.save(tmp_path / "noise.csv")
    again = ds.NoiseSamples.load(tmp_path / "noise.csv")
    assert repr(again) == repr(samples)
    assert again.updated(samples).noise.tolist() == [0.0]
    assert fragile(samples) == {}
    meter = noise_meter(graph, pictures, setting="thesis")
    assert meter(()) == 0.0
    assert meter.by_image([[]]).tolist() == [[0.0, 0.0]]
    network, plans = any_network(), []
    times = ds.LayerTimes(plan_times(graph, network))
    for model in ("polynomial", "link", "gp", "measured"):
        noise = ds.fit_noise(samples, model)
        assert noise.of(()) == 0.0
        assert first_order(noise).tolist() == []
        plans += [ds.split(graph, network, times, noise, max_noise=0.0, confidence=confidence) for confidence in (None, 0.95)]
        plans.append(ds.split(graph, network, times, noise, max_noise=0.1, verify=meter, samples=samples))
        plans += [*ds.pareto(graph, network, times, noise).plans]
    assert {plan.noise for plan in plans} == {0.0}
    pinned = plan_for(graph, dict(zip(graph.layer_names, ("device", "cloud"), strict=False)))
    for plan in (plans[0], pinned):
        ds.cut(graph, plan, tmp_path / "build")


def plan_times(graph, network):
    rows = [(layer, server, "float32", 1e-3) for layer in graph.layer_names for server in network.server_names]
    return pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"])


def test_a_misspelt_model_of_no_layers_is_still_refused(tmp_path):
    samples = ds.measure_noise(ds.load(write(tmp_path / "net.onnx", "no product")), images(1, 8), progress=False)
    with pytest.raises(ds.NoiseError, match="did you mean 'link'"):
        ds.fit_noise(samples, "link1")
    with pytest.raises(ds.NoiseError, match="folds"):
        ds.fit_noise(samples, folds=1)


def test_layers_that_nobody_asked_for_are_no_fault_of_the_model(tmp_path):
    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    samples = ds.measure_noise(graph, images(1), layers=[], progress=False)
    assert repr(samples) == "NoiseSamples(1 scheme of 0 layers, noise 0 to 0; no layer was asked for)"


def test_times_are_measured_in_float32(tmp_path):
    graph = ds.load(write(tmp_path / "net.onnx", "half precision"))
    network = ds.Network([ds.Server("device", 1.0, 1.0, speed_cpu=1.0)], [], "device")
    times = ds.profile(graph, network, images(1, 8), layers=graph.quantizable(), runs=2, splits=0, progress=False)
    assert set(times.frame["precision"]) == {"float32"}


def test_a_table_without_layers_has_one_row_without_noise():
    for frame in (pd.DataFrame({"noise": [0.0, 0.0]}), pd.DataFrame({"noise": [0.1]}), pd.DataFrame({"noise": []})):
        with pytest.raises(ds.NoiseError, match="one column per layer"):
            ds.NoiseSamples(frame)


def test_an_opset_without_integer_products_is_told(tmp_path):
    model = ds.load(two_products(tmp_path / "net.onnx", "Conv", 12)).model
    old = onnx.ModelProto(graph=model.proto.graph, opset_import=[helper.make_opsetid("", 9)])
    assert why_none(replace(model, proto=old)) == "no layer can run in int8: the model has opset 9, and int8 needs 10 or later"


def logarithm(path):
    """x --> one (MatMul, Clip) --> Log --> two (MatMul) --> y: what one rounds to 0 has no logarithm."""
    weights = {"w": np.full((4, 3), 1e-4, np.float32), "v": np.ones((3, 2), np.float32), "least": np.float32(1e-9)}
    weights["w"][:, 0] = 1.0
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"), helper.make_node("Clip", ["a", "least"], ["b"], name="clip"),
        helper.make_node("Log", ["b"], ["c"], name="log"), helper.make_node("MatMul", ["c", "v"], ["y"], name="two"),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2, 4]), ("y", [2, 2]))]
    return saved(path, nodes, ends[:1], ends[1:], weights)


def test_layers_that_spoil_the_outputs_are_left_out_of_a_count_and_refused_by_name(tmp_path):
    graph = ds.load(logarithm(tmp_path / "m.onnx"))
    assert graph.quantizable() == ("one", "two")
    images = np.random.default_rng(0).random((4, 4), dtype=np.float32) + 0.5
    samples = ds.measure_noise(graph, images, 12, progress=False)
    assert samples.layers == ("two",)
    assert any("'one' is left out" in note for note in samples.origin["notes"])
    with pytest.raises(ds.NoiseError, match=r"not all numbers with .*in int8; measure other layers"):
        ds.measure_noise(graph, images, ["one", "two"], progress=False)
