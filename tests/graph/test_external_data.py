"""Weights beside a model: the same model, which stays as it was."""

import numpy as np
import onnx
import pytest
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.graph import external_data
from dnnsplit.graph.external_data import save, session_of
from dnnsplit.runtime.sessions import session


@pytest.fixture
def proto(tmp_path):
    return ds.load(conv_net(tmp_path / "net.onnx")).model.proto


def test_a_saved_model_has_its_weights_beside_it_and_stays_as_it_was(proto, tmp_path, monkeypatch):
    monkeypatch.setattr(external_data, "SMALL", 5)
    before = proto.SerializeToString()
    path = save(proto, tmp_path, apart=True)
    assert proto.SerializeToString() == before
    light = onnx.load(path, load_external_data=False)
    outside = [weight.name for weight in light.graph.initializer if weight.external_data]
    assert sorted(outside) == ["c1.b", "c1.w", "c2.b", "c2.w", "c3.w"]  # c3.b has four values
    whole = onnx.load(path)
    for weight in whole.graph.initializer:
        weight.ClearField("data_location")
    assert whole == proto
    assert save(proto, tmp_path).read_bytes() == before


def test_large_models_are_saved_apart_unasked(proto, tmp_path, monkeypatch):
    monkeypatch.setattr(external_data, "LARGE", 1)
    save(proto, tmp_path)
    assert (tmp_path / "model.data").is_file()


def test_a_session_is_that_of_the_model(proto, tmp_path):
    feed = {"x": images(1)}
    for found, expected in zip(
        session_of(proto).run(None, feed), session(proto.SerializeToString()).run(None, feed), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def apart(tmp_path, location="net.data"):
    """A model whose weights are in a file beside it."""
    conv_net(tmp_path / "whole.onnx")
    proto = onnx.load(tmp_path / "whole.onnx")
    onnx.save_model(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    light = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    for weight in light.graph.initializer:
        next(entry for entry in weight.external_data if entry.key == "location").value = location
    (tmp_path / "net.onnx").write_bytes(light.SerializeToString())
    return tmp_path / "net.onnx", tmp_path / "net.data", ds.load(tmp_path / "whole.onnx").model.proto


def test_weights_beside_a_model_may_have_other_names_too(tmp_path):
    path, weights, whole = apart(tmp_path)
    (tmp_path / "again").hardlink_to(weights)
    assert ds.load(path).model.proto == whole
    weights.rename(tmp_path / "kept")
    weights.symlink_to("kept")
    assert ds.load(path).model.proto == whole


def test_weights_outside_of_the_folder_of_a_model_are_not_read(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    for location in ("../net.data", str(tmp_path / "net.data"), "link"):
        path, weights, _ = apart(folder, location)
        weights.replace(tmp_path / "net.data")
        (folder / "link").unlink(missing_ok=True)
        (folder / "link").symlink_to(tmp_path / "net.data")
        with pytest.raises(ds.ModelError, match="is outside the folder of the model"):
            ds.load(path)
