"""Times of servers that are not here."""

import json
import math
import time

import pandas as pd
import pytest
from helpers.small_models import conv_net, images, telling

import dnnsplit as ds
from dnnsplit.ground.files import sha256
from dnnsplit.profiling.elsewhere import flops_times, joined, profile_here, scaled_times
from dnnsplit.profiling.overhead import Overhead

GRAPH = ds.LayerGraph(
    [ds.Layer("a", "Conv", 100.0, 40.0), ds.Layer("b", "Relu", 0.0, 0.0)],
    [ds.Tensor("x", None, ("a",), 10.0), ds.Tensor("t", "a", ("b",), 20.0), ds.Tensor("y", "b", (), 20.0, is_output=True)],
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """A server rests between requests; nothing here is about how long that makes it."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def times_of(graph, server="edge", overhead=None, made=None, **int8):
    rows = [(name, server, "float32", 1.0 + i) for i, name in enumerate(graph.layer_names)]
    rows += [(name, server, "int8", seconds) for name, seconds in int8.items()]
    frame = pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"])
    return ds.LayerTimes(frame, overhead or {}, made or {})


def test_a_profile_made_on_the_server_says_with_what(tmp_path):
    path = telling(conv_net(tmp_path / "net.onnx", size=32), weights="pretrained: elsewhere")
    times = profile_here(path, "edge", images(2, 32), count=2, runs=5, splits=3, progress=False)
    times.save(tmp_path / "edge.csv")
    back = ds.LayerTimes.load(tmp_path / "edge.csv")
    assert back.overhead == times.overhead
    assert set(back.frame["server"]) == {"edge"}
    assert set(back.frame["origin"]) == {"measured"}
    assert back.slowdown == {}  # the server itself, which no test-bed has to slow down to
    assert (back.frame["precision"] == "int8").sum() == 2
    made = back.made["edge"]
    assert made["model_sha256"] == sha256(path)
    assert made["weights"] == "pretrained: elsewhere"
    assert {"cpu", "packages", "providers", "options", "images_sha256", "setting", "date"} <= set(made)
    assert json.dumps(made)
    assert made["setting"] == vars(ds.QuantizationSetting.of("default"))


def test_a_profile_is_of_the_setting_that_is_asked_for(tmp_path):
    path = conv_net(tmp_path / "net.onnx")
    asked = {"runs": 3, "splits": 0, "progress": False, "forms": False}
    times = profile_here(path, "edge", images(2), 2, setting="thesis", **asked)
    assert times.made["edge"]["setting"] == vars(ds.QuantizationSetting.of("thesis"))
    assert scaled_times(times, "edge", "far", 2.0).made == {"far": {"setting": times.made["edge"]["setting"]}}
    times.check_setting("thesis")
    times.check_setting(None)
    with pytest.raises(ds.NoiseError, match="mixed, 'default' in the noise, 'thesis' in the times of edge; measure all with one"):
        times.check_setting("default")
    other = profile_here(path, "cloud", images(2), 0, **asked)
    assert joined(times, other).made["cloud"]["setting"] is None  # nothing in int8: it goes with any
    other = times_of(GRAPH, "cloud", made={"cloud": {"setting": "default"}})
    with pytest.raises(ds.ProfileError, match="mixed, 'thesis' in the times of edge, 'default' in the times of cloud"):
        joined(times, other)
    with pytest.raises(ds.NoiseError, match="did you mean 'thesis'"):
        profile_here(path, "edge", images(2), 0, setting="theses", **asked)


def test_profiles_of_several_servers_are_joined():
    overhead = Overhead(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 3)
    one = times_of(GRAPH, "edge", {"edge": overhead}, {"edge": {"model_sha256": "1"}})
    both = joined(one, times_of(GRAPH, "cloud", made={"cloud": {"model_sha256": "1"}}))
    assert both.seconds("b", "edge") == both.seconds("b", "cloud") == 2.0
    assert (set(both.overhead), set(both.made)) == ({"edge"}, {"edge", "cloud"})
    with pytest.raises(ds.ProfileError, match="server 'edge' has times in two tables"):
        joined(one, one)
    with pytest.raises(ds.ProfileError, match="different models"):
        joined(one, times_of(GRAPH, "cloud", made={"cloud": {"model_sha256": "2"}}))


def test_a_server_is_scaled_from_another():
    overhead = Overhead(1e-9, 2e-9, 3e-3, 2.0, 0.01, 0.02, 12)
    times = scaled_times(times_of(GRAPH, "edge", {"edge": overhead}, a=0.5), "edge", "far", 3.0, "a benchmark")
    assert times.seconds("b", "far") == 6.0
    assert times.seconds("a", "far", "int8") == 1.5
    assert times.overhead == {"far": overhead.scaled(3.0)}
    assert set(times.frame["origin"]) == {"scaled"}
    assert set(times.frame["note"]) == {"3 x edge, a benchmark", "3 x edge, a benchmark; int8 as float32: by one factor"}
    with pytest.raises(ds.ProfileError, match="did you mean 'edge'"):
        scaled_times(times_of(GRAPH), "egde", "far", 2.0)
    with pytest.raises(ds.OptionError, match="factor is 0"):
        scaled_times(times_of(GRAPH), "edge", "far", 0)


def test_the_roofline_by_hand():
    times = flops_times(GRAPH, "far", flops_per_s=50.0, bytes_per_s=10.0, layers=("a",))
    # a: 100 FLOP in 2 s, but 40 + 10 + 20 B in 7 s; b: 20 + 20 B in 4 s
    assert (times.seconds("a", "far"), times.seconds("a", "far", "int8"), times.seconds("b", "far")) == (7.0, 7.0, 4.0)
    assert flops_times(GRAPH, "far", 10.0, 10.0).seconds("a", "far") == 10.0
    assert set(times.frame["origin"]) == {"flops"}
    assert math.isnan(times.error_s({"far": 1.0}))
    with pytest.raises(ds.OptionError, match="bytes_per_s is 0"):
        flops_times(GRAPH, "far", 1.0, 0)
    with pytest.raises(ds.ProfileError, match="'c' is no layer"):
        flops_times(GRAPH, "far", 1.0, 1.0, ("c",))
