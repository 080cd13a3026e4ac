"""What deployments return beside the whole model: it runs once for a scheme, and noise that is not the plan's is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.cutting.running import whole
from dnnsplit.graph.feeds import feeds_of
from dnnsplit.noise import prefix_tree
from dnnsplit.quantize.rewrite import quantize_layer
from dnnsplit.studies import latency_outputs
from dnnsplit.studies.latency_outputs import WholeModel, compare_outputs

PLAIN = SimpleNamespace(lossy_wires=(), lossy_inputs={})  # of a bundle, where forms lose nothing


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    graph = ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx", size=32, channels=8))
    pictures = images(3, 32)
    samples = ds.measure_noise(graph, pictures, ["c1", "c2"], calibration=ds.calibrate(graph, pictures), progress=False)
    rows = [(name, "device", precision, 1.0) for name in graph.layer_names for precision in ("float32", "int8")]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    network = ds.Network([ds.Server("device")], [], "device")
    plan = ds.split(graph, network, times, ds.fit_noise(samples, "measured"), max_noise=0.0)
    return WholeModel(graph, feeds_of(graph.model, pictures)), plan


def answers_of(model, plan):
    calibration = ds.Calibration.from_json(plan.origin["calibration"])
    int8 = {name: quantize_layer(model.graph, name, calibration) for name in plan.quantized}
    return [whole(model.graph, int8, feed) for feed in model.feeds]


def quantized(setup, *layers):
    model, plan = setup
    noise = 0.0 if not layers else np.nan
    plan = replace(plan, quantized=layers, noise=noise, noise_kind="predicted")
    return model, plan


def test_outputs_have_the_noise_of_their_scheme(setup):
    for layers in ((), ("c1",), ("c1", "c2")):
        model, plan = quantized(setup, *layers)
        rho, worst = compare_outputs(model, plan, PLAIN, answers_of(model, plan))
        assert rho == pytest.approx(0.0, abs=1e-7) if not layers else rho > 1e-4
        assert worst < 1e-3
    model, plan = quantized(setup, "c1")
    with pytest.raises(ds.DeployError, match=r"the noise of what the deployment returned is \S+: its scheme has on these images"):
        compare_outputs(model, plan, PLAIN, answers_of(*quantized(setup, "c1", "c2")))
    with pytest.raises(ds.DeployError, match=r"it was planned with 0\.5"):
        compare_outputs(model, replace(plan, noise=0.5, noise_kind="measured"), PLAIN, answers_of(model, plan))
    for other in ({"images_sha256": "of others"}, {"metric": "nsr"}):  # noise of other images, or in another metric
        told = replace(plan, noise=0.5, noise_kind="measured", origin=plan.origin | other)
        compare_outputs(model, told, PLAIN, answers_of(model, plan))


def test_the_whole_model_runs_once_for_a_scheme(setup, monkeypatch):
    ran = []

    def counted(graph, layers, *arguments):
        ran.append(tuple(layers))
        return prefix_tree.all_in_int8(graph, layers, *arguments)

    monkeypatch.setattr(latency_outputs, "all_in_int8", counted)
    monkeypatch.setattr(latency_outputs, "KEPT", 1)
    model = WholeModel(setup[0].graph, setup[0].feeds)
    for layers in ((), ("c1",), (), ("c1",), ("c2",), ("c2",), (), ("c1",)):
        model.like(quantized(setup, *layers)[1], PLAIN)
    assert ran == [(), ("c1",), ("c2",), ("c1",)]  # one scheme is kept beside float32
