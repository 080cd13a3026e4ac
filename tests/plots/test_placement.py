"""The drawing of a placement: lanes, hops, labels that hide nothing, and a size that no plan changes."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import coded_small
from matplotlib.patches import FancyArrowPatch

import dnnsplit as ds
from dnnsplit.ground.units import show

CHAIN = [("a", "b"), ("b", "c")]


def chain():
    """Three layers on three servers in a row: a reaches c through b alone."""
    servers = [ds.Server(name, 1.0, 1.0) for name in "abc"]
    links = [ds.Link(x, y, 1e6, 0.001) for one in CHAIN for x, y in (one, one[::-1])]
    layers = [ds.Layer(name, "Conv", 1e6, 10) for name in ("one", "two", "three")]
    tensors = [
        ds.Tensor("x", None, ("one",), 3000), ds.Tensor("t1", "one", ("two",), 1000), ds.Tensor("t2", "two", ("three",), 2000),
        ds.Tensor("y", "three", (), 500, is_output=True),
    ]  # fmt: skip
    graph, network = ds.LayerGraph(layers, tensors), ds.Network(servers, links, "a")
    rows = [(layer.name, server.name, "float32", 0.1) for layer, server in itertools.product(layers, servers)]
    return graph, network, ds.LayerTimes.from_frame(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))


def arrows_of(axis):
    """Ends of the orange arrows, in the data of the axis."""
    found = [patch for patch in axis.patches if isinstance(patch, FancyArrowPatch) and patch.get_linewidth() > 1]
    return [tuple(map(tuple, patch._posA_posB)) for patch in found]


def lane_of(axis, lanes, y):
    """Which of the lanes, from the top, a height lies in."""
    boxes = [area.get_paths()[0].get_extents() for area in axis.collections if len(area.get_paths()[0].vertices) == 7]
    return next(lane for lane, box in zip(lanes, boxes, strict=False) if box.y0 <= y <= box.y1)


def test_a_relayed_tensor_has_an_arrow_per_hop_and_a_stop_in_the_lane_between():
    graph, network, times = chain()
    plan = ds.split(graph, network, times, pins={"one": "a", "two": "c", "three": "c"}, routing="relay")
    figure, numbers = ds.plots.placement(graph, plan)
    assert numbers["lanes"] == ["a", "b", "c"]
    axis = figure.axes[0]
    hops = [tuple(lane_of(axis, "abc", y) for _, y in ends) for ends in arrows_of(axis)]
    assert sorted(hops) == [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
    assert {(c["source"], c["target"], c["tensor"]) for c in numbers["crossings"]} == {
        ("a", "b", "t1"), ("b", "c", "t1"), ("c", "b", "y"), ("b", "a", "y")
    }  # fmt: skip
    ends = dict(zip(hops, arrows_of(axis), strict=True))
    assert ends["a", "b"][1] == ends["b", "c"][0]  # one stop, where what arrives goes on
    assert ends["c", "b"][1] == ends["b", "a"][0] != ends["a", "b"][1]
    stops = {tuple(at) for marks in axis.collections for at in np.asarray(marks.get_offsets()) if len(marks.get_offsets()) == 1}
    assert {ends["a", "b"][1], ends["c", "b"][1]} <= stops
    texts = [text.get_text() for text in axis.texts]
    assert texts.count(show(1000, "B")) == texts.count(show(500, "B")) == 2
    assert "diamonds pass on" in axis.get_title(loc="left")
    direct, _ = ds.plots.placement(graph, ds.split(graph, network, times, pins={"one": "b", "two": "b", "three": "b"}))
    assert "diamonds" not in direct.axes[0].get_title(loc="left")


def test_a_server_without_layers_has_an_empty_lane_where_that_is_asked():
    graph, network, times = chain()
    plan = ds.split(graph, network, times, pins=dict.fromkeys(graph.layer_names, "a"))
    assert ds.plots.placement(graph, plan)[1]["lanes"] == ["a"]
    figure, numbers = ds.plots.placement(graph, plan, lanes=network.server_names)
    assert numbers["lanes"] == ["a", "b", "c"]
    assert {"b\n0 s", "c\n0 s"} <= {text.get_text() for text in figure.axes[0].texts}


def test_all_plans_of_a_network_are_drawn_in_one_size():
    graph, network, times = chain()
    sizes, lanes = set(), set()
    for places in itertools.product("abc", repeat=3):
        plan = ds.split(graph, network, times, pins=dict(zip(graph.layer_names, places, strict=True)), routing="relay")
        figure, _ = ds.plots.placement(graph, plan, "abc", lanes=network.server_names)
        figure.draw_without_rendering()
        boxes = [area.get_window_extent().bounds for area in figure.axes[0].collections[:3]]
        sizes.add(tuple(figure.get_size_inches()))
        lanes.add(tuple(np.round(boxes, 3).ravel()))
    assert len(sizes) == len(lanes) == 1


def overlapping(figure):
    """Pairs of texts of which one covers the other by more than a seventh of the smaller one."""
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    found = []
    for (one, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > 0 and up > 0 and across * up > min(a.width * a.height, b.width * b.height) / 7:
            found.append((one.get_text(), other.get_text()))
    return found


@pytest.mark.parametrize("places", list(itertools.product("abc", repeat=3)), ids="".join)
def test_labels_hide_neither_each_other_nor_names(places):
    graph, network, times = chain()
    plan = ds.split(graph, network, times, pins=dict(zip(graph.layer_names, places, strict=True)), routing="relay")
    assert not overlapping(ds.plots.placement(graph, plan, "abc")[0])


@pytest.mark.parametrize("relay", [False, True])
def test_labels_of_the_shipped_model_are_read_too(relay):
    graph, network, times, noise = ds.examples.yolo11n()
    ends = {("device", "cloud"): 2e5} if relay else {("device", "edge"): 3e5, ("device", "cloud"): 3e5}
    heads = {name: "edge" for name in graph.layer_names if name.startswith("/model.23/cv3")}
    for pins in ({}, heads):
        plan = ds.split(graph, network.with_bandwidths(ends), times, noise, max_noise=0.05, pins=pins,
                        routing="relay" if relay else "direct")  # fmt: skip
        assert not overlapping(ds.plots.placement(graph, plan, network.name, lanes=network.server_names)[0])


def test_names_are_inside_the_dots_or_below_them_and_never_cut_without_a_sign():
    graph, network, times = chain()
    long = replace(graph.layers[0], name="a-very-long-name")
    renamed = ds.LayerGraph([long, *graph.layers[1:]], [
        replace(t, producer=long.name if t.producer == "one" else t.producer,
                consumers=tuple(long.name if c == "one" else c for c in t.consumers)) for t in graph.tensors])  # fmt: skip
    frame = times.frame.assign(layer=times.frame["layer"].replace("one", long.name))
    plan = ds.split(renamed, network, ds.LayerTimes.from_frame(frame[["layer", "server", "precision", "seconds"]]))
    texts = {text.get_text() for text in ds.plots.placement(renamed, plan)[0].axes[0].texts}
    assert {"a-ve…-name", "two", "three"} <= texts


def test_a_tensor_that_stays_for_a_second_reader_is_sent_once():
    graph, network, times, noise = coded_small(0, layers=2)
    plan = ds.split(graph, network, times, noise, pins=dict.fromkeys(graph.layer_names, "s1"))
    figure, numbers = ds.plots.placement(graph, plan)
    ways = {(c["source"], c["target"]) for c in numbers["crossings"]}
    assert len(arrows_of(figure.axes[0])) <= len(numbers["crossings"])
    assert {*ways} == {("s0", "s1"), ("s1", "s0")}
