"""Lossy forms between layers are verified on the parts that will run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.plans import any_network
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts
from dnnsplit.profiling.wire_forms import WireForms

SERVERS = ("device", "edge", "cloud")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A model whose first layer is on the device and whose last in the cloud; in 8 bits its tensors cross four times faster."""
    graph = ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))
    rows = [(n, s, p, 1e-3) for n in graph.layer_names for s in SERVERS for p in ("float32", "int8")]
    sizes = [(t.name, t.size_bytes / 4 + 8) for t in graph.tensors if t.producer is not None]
    forms = [(name, "float32", "uint8", s, size, size, 0.0, 0.0, False) for name, size in sizes for s in SERVERS]
    columns = ["tensor", "precision", "form", "server", "size_bytes", "size_bytes_95", "encode_s", "decode_s", "lossless"]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    times = replace(times, forms=WireForms(pd.DataFrame(forms, columns=columns)))
    pins = {graph.topological[0]: "device", graph.topological[-1]: "cloud"}
    return graph, any_network(), times, pins


def asked(line, noise, **more):
    graph, network, times, pins = line
    return ds.split(graph, network, times, noise, pins=pins, wire_forms=("float32", "uint8"), **more)


def noise_of(line, factor=1.0):
    graph = line[0]
    samples = ds.measure_noise(graph, images(3), layers=1, progress=False)
    wires = ds.measure_wire_noise(graph, images(3), forms=("uint8",), progress=False)
    wires = {name: {form: factor * value for form, value in forms.items()} for name, forms in wires.items()}
    return ds.fit_noise(samples.with_tensors(wires), "measured")


def test_a_plan_is_measured_on_its_parts(line, tmp_path):
    graph, noise = line[0], noise_of(line)
    meter = ds.parts_meter(graph, images(3), layers=noise.layers)
    plan = asked(line, noise, max_noise=1.0)
    assert "uint8" in plan.forms.values()
    bundle = ds.cut(graph, plan, tmp_path, meter.calibration, check=False)
    found = []
    for image in images(3):
        answer, exact = run_parts(bundle, {"x": image[None]}), meter.schemes.outputs(())
        exact = {name: array[len(found) : len(found) + 1] for name, array in exact.items()}
        found.append(np.mean([np.abs(answer[n].astype(float) - exact[n]).mean() for n in exact]))
    assert meter.of_plan(plan) == (pytest.approx(np.mean(found), rel=1e-5),) * 2
    assert meter.of_plan(plan, 0.95)[1] > meter.of_plan(plan)[0]
    assert meter(()) == 0


def test_what_is_returned_was_measured_and_keeps_the_limit(line):
    noise = noise_of(line)
    meter = ds.parts_meter(line[0], images(3), layers=noise.layers)
    free = asked(line, noise, max_noise=1.0, verify=meter)
    assert free.noise_kind == "measured"
    assert free.noise == pytest.approx(meter.of_plan(free)[0])
    assert free.measurements >= 1
    tight = asked(line, noise, max_noise=0.99 * free.noise, verify=meter)
    assert meter.of_plan(tight)[0] <= 0.99 * free.noise * (1 + 1e-6)


def test_noise_that_was_told_too_low_is_found_out(line):
    noise = noise_of(line, factor=1e-6)
    meter = ds.parts_meter(line[0], images(3), layers=noise.layers)
    limit = 1e-5
    promised = asked(line, noise, max_noise=limit)
    assert meter.of_plan(promised)[0] > limit > promised.noise
    plan = asked(line, noise, max_noise=limit, verify=meter)
    assert meter.of_plan(plan)[0] <= limit


def test_a_meter_of_schemes_alone_does_not_do(line):
    noise = noise_of(line)
    with pytest.raises(ds.OptionError, match="parts_meter"):
        asked(line, noise, max_noise=1.0, verify=ds.noise_meter(line[0], images(3), layers=noise.layers))
