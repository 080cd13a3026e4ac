"""An instance survives its files."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import coded_small
from helpers.small_models import conv_net, images
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts, whole
from dnnsplit.graph.optimizing import optimize
from dnnsplit.noise.models import PowerSum, Table
from dnnsplit.solving.instance import lent_noise


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), servers=st.integers(1, 4), quantizable=st.integers(0, 4))
def test_round_trip(tmp_path_factory, seed, servers, quantizable):
    folder = tmp_path_factory.mktemp("instance")
    example = ds.examples.random_problem(20, servers, quantizable, seed)
    example.save(folder)
    again = ds.Instance.load(folder)
    assert again.graph.layer_names == example.graph.layer_names
    assert again.graph.tensors == example.graph.tensors
    assert again.network == example.network
    assert again.noise.terms == dict(example.noise.terms)
    assert ds.split(*again, max_noise=0.1).latency_s == ds.split(*example, max_noise=0.1).latency_s


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_forms_and_their_noise_survive(tmp_path, seed):
    graph, network, times, noise = coded_small(seed, lossy_wire=("float16",))
    sources = {
        form: PowerSum(noise.layers, replace(noise, sources={}), floor=model.floor) for form, model in noise.sources.items()
    }
    noise = replace(noise, sources=sources, tensors={"t0": {"float16": 0.001}})
    example = ds.Instance(graph, network, times, noise)
    example.save(tmp_path)
    again = ds.Instance.load(tmp_path)
    pd.testing.assert_frame_equal(again.times.forms.frame, times.forms.frame)
    assert again.noise.tensors == noise.tensors
    assert {form: model.floor for form, model in again.noise.sources.items()} == {f: m.floor for f, m in sources.items()}
    for limit in (0.0, 0.03, 0.1):
        assert ds.split(*again, max_noise=limit).cost == ds.split(*example, max_noise=limit).cost
    ds.Instance(graph, network, replace(times, forms=None)).save(tmp_path)  # nothing of the first is left
    again = ds.Instance.load(tmp_path)
    assert (again.times.forms, again.noise) == (None, None)


def test_noise_that_the_files_cannot_hold_is_refused(tmp_path):
    graph, network, times, noise = coded_small(0)
    other = ds.NoiseModel.polynomial(noise.layers, {})
    sources = {"jpeg-90": Table(noise.layers, {0: 0.1}), "jpeg-95": PowerSum(noise.layers, other, floor=0.1)}
    with pytest.raises(ds.NoiseError, match=r"inputs as 'jpeg-90' is a table, not .*\n.*inputs as 'jpeg-95' is a power sum, not"):
        ds.Instance(graph, network, times, replace(noise, sources=sources)).save(tmp_path)
    ds.Instance(graph, network, times, replace(noise, sources={})).save(tmp_path)
    for text, wrong in (
        ("form,noise\na,1\n", "needs the columns tensor, form, noise"),
        ("tensor,form,noise\n,a,-1\n", "'a' is -1"),
    ):
        (tmp_path / "lossy.csv").write_text(text)
        with pytest.raises(ds.NoiseError, match=wrong):
            ds.Instance.load(tmp_path)


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(ds.DnnSplitError, match="is no instance"):
        ds.Instance.load(tmp_path)
    ds.examples.tiny().save(tmp_path)
    (tmp_path / "noise.csv").write_text("layer,value\na,1\n")
    with pytest.raises(ds.NoiseError, match="needs the columns layers and coefficient"):
        ds.Instance.load(tmp_path)
    (tmp_path / "noise.csv").unlink()
    assert ds.Instance.load(tmp_path).noise is None
    with pytest.raises(ds.NoiseError, match="holds a noise polynomial"):
        ds.examples.yolo11n().save(tmp_path)


def lender(folder, *rows):
    """An instance that lends its noise polynomial: a row of layers and a coefficient each."""
    ds.examples.tiny().save(folder)
    (folder / "noise.csv").write_text("layers,coefficient\n" + "".join(f"{row}\n" for row in rows))
    return folder


@pytest.fixture
def net(tmp_path):
    return ds.load(conv_net(tmp_path / "net.onnx"))


def times_of(graph, servers=("device", "edge"), int8=("c1", "c2", "c3")):
    rows = [(name, server, "float32", 1.0) for name in graph.layer_names for server in servers]
    rows += [(name, server, "int8", 0.25) for name in int8 for server in servers]
    return ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))


def test_a_polynomial_of_another_model_goes_by_the_names_of_layers_and_of_nodes_in_them(net, tmp_path):
    node = next(node for node in net.layer("c1").nodes if node != "c1")
    folder = lender(tmp_path / "slides", ",0.01", f"{node},0.02", "c3,0.03", f"c3 {node},-0.005")
    noise = lent_noise(folder, net, times_of(net))
    assert noise.layers == ("c1", "c3")
    assert dict(noise.terms) == {("c1",): 0.02, ("c3",): 0.03, ("c1", "c3"): -0.005}
    assert noise.of(["c1", "c3"]) == pytest.approx(0.055)
    assert noise.origin == {"polynomial_of": "slides"}
    assert "that of 'slides': predicted, not measured here" in " ".join(repr(noise).split())


def test_its_plan_is_cut_and_run_in_int8(net, tmp_path):
    noise = lent_noise(lender(tmp_path / "slides", ",0.01", "c1,0.02", "c3,0.03"), net, times_of(net))
    network = ds.Network(
        [ds.Server("device"), ds.Server("edge")], [ds.Link("device", "edge", 1e6), ds.Link("edge", "device", 1e6)]
    )
    asked = {"max_noise": 0.06, "pins": {"c1": "edge", "c3": "device"}}
    plan = ds.split(net, network, times_of(net), noise, **asked)
    assert (plan.quantized, plan.noise_kind, plan.noise) == (("c1", "c3"), "predicted", pytest.approx(0.06))
    with pytest.raises(ds.DeployError, match="its noise model has no calibration"):
        ds.cut(net, plan, tmp_path / "parts")
    ready = noise.calibrated(ds.calibrate(net, images(4)))
    plan = ds.split(net, network, times_of(net), ready, **asked)
    assert (plan.noise_kind, plan.origin["polynomial_of"]) == ("predicted", "slides")
    bundle = ds.cut(net, plan, tmp_path / "parts")
    kernels = [node.op_type for part in bundle.parts for node in optimize(bundle.folder / part.file).graph.node]
    assert kernels.count("QLinearConv") == 2  # and no other layer runs in int8, which `cut` has checked
    feed = {"x": images(1, seed=7)}
    found, exact = run_parts(bundle, feed), whole(net, {}, feed)
    off = [np.abs(found[name] - exact[name]).max() / np.abs(exact[name]).max() for name in net.model.outputs]
    assert all(0 < one < 0.1 for one in off)
    with pytest.raises(ds.NoiseError, match="was measured with ranges of its own"):
        ready.calibrated(ds.calibrate(net, images(2)))


def test_all_that_does_not_fit_the_model_is_named(net, tmp_path):
    node = next(node for node in net.layer("c1").nodes if node != "c1")
    folder = lender(tmp_path / "slides", "c1,0.1", f"{node},0.1", "cX,0.1", "pool,0.1", "c2,0.1")
    wrong = [
        "'slides' does not fit the model: 4 problems",
        "'cX' is in no layer (did you mean 'c",
        f"'c1' and '{node}' are one layer here, 'c1'",
        "layer 'pool' (MaxPool) cannot run in int8",
        "layer 'c2' has no int8 time on 'device', 'edge'; profile it",
    ]
    with pytest.raises(ds.NoiseError) as refused:
        lent_noise(folder, net, times_of(net, int8=("c1",)))
    assert not [text for text in wrong if text not in str(refused.value)], str(refused.value)
    (folder / "noise.csv").unlink()
    with pytest.raises(ds.NoiseError, match=r"has no noise.csv; take"):
        lent_noise(folder, net, times_of(net))
