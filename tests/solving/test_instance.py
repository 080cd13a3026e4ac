"""An instance survives its files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds


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
