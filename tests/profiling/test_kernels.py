"""Profiles of this machine: complete, positive, and scaled as they say."""

import time
from dataclasses import replace

import numpy as np
import onnx
import pandas as pd
import pytest
from helpers.architectures import ALL
from helpers.small_models import conv_net, images
from tqdm.auto import tqdm

import dnnsplit as ds
from dnnsplit.graph.feeds import feeds_of
from dnnsplit.profiling import kernels
from dnnsplit.profiling.kernels import profile_host, slowdown
from dnnsplit.profiling.splits import int8_layers
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.runtime.sessions import find_provider, session
from dnnsplit.runtime.timing import cpu_seconds


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """A server rests between requests; nothing here is about how long that makes it."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx", size=64, channels=16))


def network(**speeds):
    return ds.Network([ds.Server(name, speed_cpu=speed) for name, speed in speeds.items()], source=next(iter(speeds)))


def test_every_layer_has_a_positive_time_in_both_precisions(net):
    pictures = images(1, 64)
    frame = profile_host(net, pictures, calibrate(net, pictures), ("c1", "c2"), runs=10, progress=False)
    float32 = frame[frame["precision"] == "float32"]
    assert set(float32["layer"]) == set(net.layer_names)
    assert (float32["seconds"] >= 0).all()
    assert float32.set_index("layer")["seconds"][["c1", "c2", "c3"]].min() > 0
    int8 = frame[frame["precision"] == "int8"]
    assert set(int8["layer"]) == {"c1", "c2"}
    assert (int8["seconds"] > 0).all()


@pytest.mark.parametrize("cheap_s", [0.0, np.inf])
def test_what_int8_changes_is_measured_alone_and_beside_all_where_it_happens(net, monkeypatch, cheap_s):
    """By a machine whose times are known: int8 saves a millisecond, and half of one more where the layer before is int8 too."""
    ran = []

    def known(graph, layers, int8, feed, *asked):
        ran.append(layers)
        assert {name for part in graph.tensors for name in [part.name] if part.producer is None} <= feed.keys()
        before = {name: [p for p in graph.digraph.predecessors(name) if p in int8] for name in layers}
        return {name: 0.01 - 0.001 * (name in int8) * (1 + 0.5 * len(before[name])) for name in layers}

    monkeypatch.setattr(kernels, "layer_seconds", known)
    monkeypatch.setattr(kernels, "CHEAP_S", cheap_s)
    monkeypatch.setattr(kernels, "WINDOW", 1)
    pictures = images(1, 64)
    int8 = int8_layers(net, ("c1", "c2", "c3"), calibrate(net, pictures))
    bar = tqdm(disable=True)
    float32, change = kernels._changes(net, int8, feeds_of(net.model, pictures)[0], 5, find_provider("cpu"), bar)
    assert set(float32) == set(net.layer_names)
    assert change == pytest.approx(expected(net, int8))
    assert (len({len(layers) for layers in ran}) > 1) == (cheap_s == 0)


def expected(net, int8):
    """A millisecond for each, and a half of what it saves with the layers before and after it: alone none of that is saved."""
    pairs = {(a, b) for a, b in net.digraph.edges if a in int8 and b in int8}
    return {name: -0.001 - 0.5 * 0.0005 * sum(name in pair for pair in pairs) for name in int8}


def test_the_layers_sum_to_the_whole_model(net):
    pictures = images(1, 64)
    frame = profile_host(net, pictures, runs=10, progress=False)
    whole = np.median(cpu_seconds(session(net.model_path), {"x": pictures}, 10, pause_s=0.1))
    assert frame["seconds"].sum() == pytest.approx(whole, rel=0.5)  # the machine is noisy; the shares are what is exact


def test_times_are_scaled_by_what_they_say(net):
    times = ds.profile(
        net, network(device=0.5, edge=1.0, cloud=20.0), images(1, 64), cpu_slowdown=4.0, runs=5, progress=False, splits=0
    )
    assert times.slowdown == {"device": 8.0, "edge": 4.0, "cloud": 0.2}
    assert set(times.frame["origin"]) == {"scaled"}
    assert times.seconds("c1", "device") == pytest.approx(2 * times.seconds("c1", "edge"))
    assert times.frame["note"].str.startswith("from one core of ").all()
    here = ds.profile(net, network(here=1.0), images(1, 64), runs=5, progress=False, splits=0)
    assert set(here.frame["origin"]) == {"measured"}


def test_source_seconds_fixes_the_whole_model_on_the_source(net):
    times = ds.profile(net, network(device=0.5, edge=1.0), images(1, 64), source_seconds=1.5, runs=5, progress=False, splits=0)
    assert times.seconds_of("device") == pytest.approx(1.5)
    assert times.seconds_of("edge") == pytest.approx(0.75)


def test_parts_are_measured_and_scaled_as_the_layers_are(net):
    pictures = images(1, 64)
    calibration = calibrate(net, pictures)
    times = ds.profile(net, network(device=0.5, edge=1.0), pictures, calibration, ("c1", "c2"), runs=8, progress=False, splits=4)
    device, edge = times.overhead["device"], times.overhead["edge"]
    assert device == edge.scaled(2.0)
    assert edge.splits == 4
    assert 0 <= edge.error <= edge.worst
    assert times.error_s({"edge": 1.0}) == edge.worst
    scaled, here = (times.frame.query("server == @server and precision == 'int8'")["note"] for server in ("device", "edge"))
    assert scaled.str.endswith("; int8 as float32: by one factor").all()
    assert not here.str.contains("one factor").any()  # nothing was scaled


@pytest.mark.parametrize("name", ALL)
def test_no_profile_of_any_architecture_has_a_negative_or_missing_time(name, tmp_path):
    graph = ds.load(ALL[name](tmp_path / f"{name}.onnx"))
    shape = next(t.shape for t in graph.tensors if t.producer is None)
    pictures = np.random.default_rng(0).normal(size=(2, *shape[1:])).astype(np.float32)
    layers = graph.quantizable(3)
    here = network(here=1.0)
    times = ds.profile(graph, here, pictures, calibrate(graph, pictures), layers, runs=4, progress=False, splits=3)
    array = times.array(graph, here, layers)
    assert (array[:, :, 0] >= 0).all()
    assert (array[[graph.layer_index[n] for n in layers], :, 1] > 0).all()
    assert not times.frame["note"].str.contains("no kernel of its own").any()


@pytest.mark.parametrize("kind", ["Identity", "Relu"])
def test_models_of_one_or_two_layers_with_or_without_kernels_have_a_profile(tmp_path, kind):
    nodes = [onnx.helper.make_node(kind, ["x"], ["y"]), onnx.helper.make_node(kind, ["y"], ["z"])]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xyz"]
    graph = onnx.helper.make_graph(nodes, "tiny", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    times = ds.profile(
        ds.load(tmp_path / "m.onnx"), network(here=1.0), np.ones((1,), np.float32), runs=5, progress=False, splits=3
    )
    assert (times.frame["seconds"] > 0).any()
    assert (times.frame["seconds"] >= 0).all()
    assert times.made["here"]["runs"] == 5
    assert times.made["here"]["half_width"] >= 0


@pytest.mark.parametrize("asked", [True, False])
def test_a_profile_says_how_much_was_measured(net, monkeypatch, asked):
    monkeypatch.setenv("GLIBC_TUNABLES", f"glibc.malloc.hugetlb={int(asked)}")
    told = replace(net, weights="untrained: random")
    times = ds.profile(told, network(here=1.0), images(1, 64), runs=6, progress=False, splits=3)
    assert times.made["here"]["weights"] == "untrained: random"
    assert 5 <= times.made["here"]["runs"] <= 6
    assert times.made["here"]["splits"] == times.overhead["here"].splits == 3
    assert times.made["here"]["reference_s"] == times.reference_s > 0
    assert times.made["here"]["huge_pages"] is times.huge_pages is asked


def test_bad_requests_are_named(net):
    with pytest.raises(ds.ProfileError, match=r"server 'device' has no speed .* 'speed: 0.5 CPU'"):
        ds.profile(net, network(device=None), images(1, 64))
    with pytest.raises(ds.OptionError, match="cpu_slowdown is 0"):
        slowdown(network(device=1.0), 0)
    with pytest.raises(ds.ProfileError, match="int8 times need a calibration"):
        profile_host(net, images(1, 64), layers=("c1",))


@pytest.mark.parametrize(
    ("change", "measured", "settled"),
    [
        # together a and b gain 1.5 of the 3 that each alone promises; c pays what then is missing of the total
        ({"a": -2.0, "b": -1.0, "c": 1.0}, {(): 10.0, ("a", "b", "c"): 9.7, ("a", "b"): 8.5}, {"a": -1.0, "b": -0.5, "c": 1.2}),
        ({"a": -2.0, "b": -1.0}, {(): 10.0, ("a", "b"): 8.5}, {"a": -1.0, "b": -0.5}),
        ({"a": 2.0, "b": 1.0}, {(): 10.0, ("a", "b"): 14.0}, {"a": 2.5, "b": 1.5}),
        ({"a": -1.0, "b": 1.0}, {(): 10.0, ("a", "b"): 12.0, ("a",): 10.5}, {"a": 0.0, "b": 2.0}),
    ],
)
def test_layers_that_gain_in_int8_gain_together_what_is_measured(monkeypatch, change, measured, settled):
    def measure(graph, splits, *args, **more):
        return pd.DataFrame({"seconds": [measured[split.quantized] for split in splits]})

    monkeypatch.setattr(kernels, "measure_parts", measure)
    graph = ds.LayerGraph([ds.Layer(name) for name in "abc"], [])
    assert kernels._settled(graph, change, None, None, 40, None) == pytest.approx(settled)
