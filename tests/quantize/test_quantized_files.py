"""Files that ONNX Runtime quantized before: what is int8 in them stays as it is, and float32 layers beside it may become so."""

import logging
import warnings
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from helpers.plans import plan_for
from helpers.small_models import conv_net, images, inputs_of, two_products
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts
from dnnsplit.quantize.kernels import stray_layers
from dnnsplit.quantize.reasons import why_none
from dnnsplit.quantize.rewrite import quantize_layer

FEEDS = [{"x": image[None]} for image in images(4)]
TYPES = {"U8S8": (QuantType.QUInt8, QuantType.QInt8), "S8S8": (QuantType.QInt8, QuantType.QInt8)}


def quantized(source, path, feeds, form, types, layers=None):
    """Write what ONNX Runtime's own quantizer makes of a file; return its path."""
    left = iter(feeds)
    reader = SimpleNamespace(get_next=lambda: next(left, None), set_range=None)
    activation, weight = TYPES[types]
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_static(
                source, path, reader, quant_format=QuantFormat[form], activation_type=activation, weight_type=weight,
                per_channel=True, reduce_range=True, nodes_to_quantize=layers,
            )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    return path


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_only_the_layers_that_are_float32_are_quantized(tmp_path, form, types):
    path = quantized(conv_net(tmp_path / "float.onnx"), tmp_path / "net.onnx", FEEDS, form, types, ["c1", "c3"])
    graph = ds.load(path)
    assert graph.quantizable() == ("c2",)
    named = {name: layer for layer in graph.layers for name in layer.nodes}
    first, third = ("c1", "c3") if form == "QDQ" else ("c1_quant", "c3_quant")
    assert len({named[name].name for name in (first, "c2", third)}) == 3
    samples = ds.measure_noise(graph, images(3), progress=False, workers=1)
    assert samples.layers == ("c2",)
    assert 0 < samples.details["relative"].max() < 0.1
    for servers in (("device",), ("device", "cloud")):
        assignment = {name: servers[i % len(servers)] for i, name in enumerate(graph.topological)}
        for names in ((), ("c2",)):
            bundle = ds.cut(graph, plan_for(graph, assignment, names, samples.origin), tmp_path / "build")
            found = [layer for part in bundle.parts for layer in stray_layers(bundle.folder / part.file, graph, names)]
            assert found == []  # what the file has in int8 is not held against the plan
        plain = plan_for(graph, assignment)
        feed = {"x": images(1, seed=5)}
        parts = run_parts(ds.cut(graph, plain, tmp_path / "build"), feed)
        whole = dict(zip(("out", "side"), ort.InferenceSession(path).run(["out", "side"], feed), strict=True))
        for name, value in whole.items():
            np.testing.assert_allclose(parts[name], value, atol=np.abs(value).max() / 100)


@pytest.mark.parametrize("types", TYPES)
def test_nothing_is_quantized_twice(tmp_path, types):
    path = quantized(conv_net(tmp_path / "float.onnx"), tmp_path / "net.onnx", FEEDS, "QDQ", types)
    graph = ds.load(path)
    assert graph.quantizable() == ()
    assert why_none(graph.model) == "no layer can run in int8: its weights are int8 already"
    samples = ds.measure_noise(graph, images(2), progress=False)
    assert " ".join(repr(samples).split()).endswith("noise 0 to 0; no layer can run in int8: its weights are int8 already)")
    bundle = ds.cut(graph, plan_for(graph, dict.fromkeys(graph.layer_names, "device")), tmp_path / "build")
    assert [stray_layers(bundle.folder / part.file, graph, ()) for part in bundle.parts] == [{}]


def test_integer_products_are_told_for_what_they_are(tmp_path):
    source = two_products(tmp_path / "float.onnx", "MatMul")
    feeds = [{"x": stack} for stack in inputs_of(ds.load(source)).reshape(8, 2, 5, 8)]
    graph = ds.load(quantized(source, tmp_path / "net.onnx", feeds, "QOperator", "U8S8"))
    assert graph.quantizable() == ()
    assert why_none(graph.model) == "no layer can run in int8: its products are of integers already"


def test_a_layer_whose_output_the_file_has_in_int8_is_refused(tmp_path):
    path = quantized(conv_net(tmp_path / "float.onnx"), tmp_path / "net.onnx", FEEDS, "QDQ", "U8S8", ["c2"])
    graph = ds.load(path)
    calibration = ds.calibrate(graph, images(2))
    for name in ("c1", "c2"):
        with pytest.raises(ds.NoiseError, match="cannot run in int8"):
            quantize_layer(graph, name, calibration)
