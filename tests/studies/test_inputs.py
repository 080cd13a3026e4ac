"""What the experiments start from, of a model and of an instance."""

from dataclasses import asdict, replace

import pandas as pd
import pytest
from helpers.coded_problems import coded_small
from helpers.paths import ROOT
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.quantize.setting import THESIS
from dnnsplit.studies.inputs import present, read_problem, with_ranges

NETWORKS = ROOT / "data" / "networks"


@pytest.fixture
def folder(tmp_path):
    """Of an instance of three servers, the second of which is the source."""
    graph, network, times, noise = ds.examples.random_problem(12, 3, 2, seed=1)
    first, source, last = network.server_names
    moved = ds.Network(network.servers, [ds.Link(a, b, 1e6) for a in network.server_names for b in network.server_names], source)
    ds.Instance(graph, moved, times, noise).save(tmp_path / "slides")
    return tmp_path / "slides", source, first, last


def test_an_instance_has_topologies_of_its_own(folder):
    path, source, first, last = folder
    found = read_problem("no.onnx", networks=["no.yaml"], instance=path, confidence=0.95)
    assert list(found.topologies) == [source, f"{source}-{first}", f"{source}-{first}-{last}"]
    assert [network.source for network in found.topologies.values()] == [source] * 3
    assert [network.name for network in found.topologies.values()] == list(found.topologies)
    assert found.topologies[source].links == (ds.Link(source, source, 1e6),)
    assert (found.name, found.confidence) == ("slides", None)
    exact = ds.Instance.load(path)
    plans = [ds.split(found.graph, network, found.times, found.noise, max_noise=0.1) for network in found.topologies.values()]
    assert plans[-1].latency_s == pytest.approx(ds.split(*exact, max_noise=0.1).latency_s)
    assert plans[0].latency_s >= plans[1].latency_s >= plans[2].latency_s


def test_what_an_instance_has_not_is_said(folder, tmp_path):
    path, *_ = folder
    said = [
        "a recorded instance, without its model",
        "limits are on its mean",
        "No forms",
        "What servers do at a cut was not timed",
    ]
    notes = read_problem("no.onnx", instance=path, confidence=0.95).notes
    assert len(notes) == len(said)
    assert all(text in note for text, note in zip(said, notes, strict=True))
    (path / "noise.csv").unlink()
    found = read_problem("no.onnx", instance=path)
    assert "slides has no noise.csv: no layer runs in int8." in found.notes
    assert ds.split(found.graph, found.topologies.popitem()[1], found.times, found.noise, max_noise=0.0).quantized == ()
    graph, network, times, noise = coded_small(0)
    ds.Instance(graph, network, times, replace(noise, sources={})).save(tmp_path / "coded")
    assert not [note for note in read_problem("no.onnx", instance=tmp_path / "coded").notes if "forms" in note]


def test_a_model_comes_with_what_was_measured_of_it(shipped_path):
    found = read_problem(shipped_path, data=ROOT / "data", networks=[NETWORKS / "device-edge.yaml"], confidence=0.9)
    assert found.topologies == {"device-edge": ds.Network.load(NETWORKS / "device-edge.yaml")}
    assert (found.name, found.confidence, found.notes) == ("yolo11n-ppe-320", 0.9, ())
    assert found.noise.kind == "table"
    assert with_ranges(found.noise, found.graph, found.times, images(1)) is found.noise  # it was measured with ranges


def test_a_model_can_have_the_noise_of_an_instance(tmp_path):
    graph = ds.load(conv_net(tmp_path / "small.onnx"))
    rows = [(name, server, p, 1.0) for name in graph.layer_names for server in ("device", "edge") for p in ("float32", "int8")]
    frame = pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"])
    ds.LayerTimes(frame, made={"edge": {"setting": asdict(THESIS)}}).save(tmp_path / "profiles" / "small.csv")
    ds.examples.tiny().save(tmp_path / "slides")
    (tmp_path / "slides" / "noise.csv").write_text("layers,coefficient\n,0.01\nc1,0.02\n")
    given = {"networks": [NETWORKS / "device-edge.yaml"], "noise": tmp_path / "slides", "confidence": 0.95}
    found = read_problem(tmp_path / "small.onnx", data=tmp_path, **given)  # there are no samples of its own
    assert (found.noise.layers, found.confidence) == (("c1",), None)
    assert found.notes[0] == "The noise is that of the polynomial of slides: predicted, not measured on this model."
    ready = with_ranges(found.noise, graph, found.times, images(2))
    assert ready.origin["setting"] == asdict(THESIS)  # that of the times
    chief = graph.model.nodes["c1"]
    assert {chief.input[0], chief.output[0]} <= set(ready.origin["calibration"]["ranges"]) < set(graph.model.types)
    assert ready.of(["c1"]) == pytest.approx(0.03)


def test_files_that_are_missing_are_named(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).touch()
    assert present(tmp_path, "a", "b", what="a figure") == [tmp_path / "a", tmp_path / "b"]
    assert capsys.readouterr().out == ""
    assert present(tmp_path, "a", "c", "d", what="a figure") == []
    assert capsys.readouterr().out == "Left out: a figure, for want of c and d.\n"
