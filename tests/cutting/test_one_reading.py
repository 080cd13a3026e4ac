"""A model file is read and asked for its layers once; everything after that is of what was read."""

import copy
import pickle
from dataclasses import replace

import pytest
from helpers.plans import plan_for
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts
from dnnsplit.graph import blocks, reading


@pytest.fixture
def path(tmp_path):
    return conv_net(tmp_path / "net.onnx")


def test_all_that_follows_is_of_what_was_read_even_when_the_file_is_gone(path, tmp_path, monkeypatch):
    calls = []

    def counted(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **more: (calls.append(name), original(*args, **more))[1])

    for module, name in ((blocks, "read_model"), (reading, "read_model"), (blocks, "find_blocks")):
        counted(module, name)
    graph = ds.load(path)
    assert calls == ["read_model", "find_blocks"]
    path.unlink()
    pictures = images(2)
    calibration = ds.calibrate(graph, pictures)
    network = ds.Network([ds.Server("edge", speed_cpu=1.0)])
    ds.profile(graph, network, pictures, calibration, ("c1",), runs=2, splits=3, progress=False)
    assert ds.noise_meter(graph, pictures, calibration, ["c1"])(["c1"]) > 0
    plan = plan_for(graph, dict(zip(graph.topological, ["device", "edge", "edge", "cloud", "cloud"], strict=True)), ("c1",))
    bundle = ds.cut(graph, plan, tmp_path / "parts", calibration)
    assert calls == ["read_model", "find_blocks"]
    assert bundle.model_sha256 == graph.model_sha256 == calibration.model_sha256
    assert set(run_parts(bundle, {"x": pictures[:1]})) == {"out", "side"}


def test_a_graph_and_its_file_are_cut_alike(path, tmp_path):
    graph = ds.load(path)
    plan = plan_for(graph, dict.fromkeys(graph.layer_names, "edge"))
    one, other = ds.cut(graph, plan, tmp_path / "graph"), ds.cut(path, plan, tmp_path / "file")
    assert replace(other, folder=one.folder) == one


def test_a_graph_remembers_its_model_its_hash_and_its_providers(path):
    graph = ds.load(path)
    assert (graph.model.path, graph.model.sha256) == (graph.model_path, graph.model_sha256)
    assert graph.providers == ("cpu",)
    assert graph == ds.LayerGraph(graph.layers, graph.tensors)
    for same in (copy.copy(graph), copy.deepcopy(graph), replace(graph, layers=graph.layers[::-1])):
        assert same.model is graph.model


def test_a_pickled_graph_reads_its_file_again_when_it_is_asked_for_the_model(path):
    graph = ds.load(path)
    pickled = pickle.dumps(graph)
    assert len(pickled) < path.stat().st_size  # the weights stay behind
    again = pickle.loads(pickled)
    assert again == graph
    assert again.providers == graph.providers
    assert again.model.sha256 == graph.model_sha256
    assert again.model is again.model
    conv_net(path, seed=1)
    assert pickle.loads(pickled).quantizable(1) == graph.quantizable(1)  # plans need no file
    with pytest.raises(ds.ModelError, match="has changed since a graph was read from it; load it again"):
        _ = pickle.loads(pickled).model
    path.unlink()
    with pytest.raises(ds.ModelError, match="there is no model file"):
        _ = pickle.loads(pickled).model
    assert again.model.nodes.keys() == graph.model.nodes.keys()


def test_a_graph_without_a_model_says_where_to_get_one(tmp_path):
    graph = ds.examples.tiny().graph
    with pytest.raises(ds.ModelError, match=r"built by hand.* dnnsplit.load"):
        _ = graph.model
    with pytest.raises(ds.ModelError, match="built by hand"):
        ds.cut(graph, ds.split(*ds.examples.tiny()), tmp_path)
