"""An instance survives its files."""

from dataclasses import replace

import pandas as pd
import pytest
from helpers.coded_problems import coded_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.noise.models import PowerSum, Table


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
