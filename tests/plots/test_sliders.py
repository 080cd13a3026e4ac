"""The sliders over the optimal plan."""

import re

import pytest
from helpers.coded_problems import coded_small

import dnnsplit as ds
from dnnsplit.ground.units import show
from dnnsplit.plots.sliders import explore


def parts(box):
    """Each slider with what is written beside it, the figures and the drawing."""
    limit, bandwidth, figures, drawing = box.children
    return limit.children, bandwidth.children, figures, drawing


def test_moving_a_slider_shows_the_optimum_there():
    graph, network, times, noise = ds.examples.tiny()
    (limit, said), (bandwidth, at), figures, drawing = parts(explore(graph, network, times, noise, max_noise=0.0))
    given = show(network.link("device", "edge").bandwidth_bytes_per_s, "B/s")
    assert (said.value, at.value) == ("0.000", f"{given} (as given)")
    first = drawing.value
    assert first.startswith("<svg")
    assert bandwidth.description == "bandwidth from device"
    plan = ds.split(graph, network, times, noise, max_noise=0.0)
    assert show(plan.latency_s, "s") in figures.value

    limit.value = 0.02
    assert said.value == "0.020"
    assert drawing.value != first
    plan = ds.split(graph, network, times, noise, max_noise=0.02)
    assert show(plan.latency_s, "s") in figures.value
    assert show(plan.energy_j, "J") in figures.value

    fast = max(value for _, value in bandwidth.options)
    bandwidth.value = fast
    assert at.value == show(fast, "B/s")
    faster = ds.Network(
        network.servers, [ds.Link("device", "edge", fast, 0.005), ds.Link("edge", "device", 20e6, 0.005)], "device"
    )  # fmt: skip
    plan = ds.split(graph, faster, times, noise, max_noise=0.02)
    assert show(plan.latency_s, "s") in figures.value


def test_the_form_of_the_input_and_its_seconds_are_shown():
    graph, network, times, noise = coded_small(0, layers=2)
    network = network.with_bandwidths({("s0", "s1"): 2.0})
    pins = dict.fromkeys(graph.layer_names, "s1")
    _, _, figures, drawing = explore(graph, network, times, noise, max_noise=0.0, pins=pins).children
    plan = ds.split(graph, network, times, noise, max_noise=0.0, pins=pins)
    assert f"{plan.source_form}</span><br>input as" in figures.value
    codec = ", ".join(f"{server} {show(seconds, 's')}" for server, seconds in plan.cost.codec_s.items())
    assert f"writing and reading forms: {codec}" in figures.value
    assert f"input as {plan.source_form}" in drawing.value
    plain = explore(graph, network, times, noise, max_noise=0.0, pins=pins, source_forms=["float32"], wire_forms=["float32"])
    assert "forms" not in plain.children[2].value


def test_one_link_may_be_named_and_must_exist():
    problem = ds.examples.tiny()
    box = explore(*problem, max_noise=0.01, link=["edge", "device"])
    assert box.children[1].children[0].description == "bandwidth edge to device"
    with pytest.raises(ds.NetworkError, match=r"there is no link 'edge to devic' \(did you mean 'edge to device'"):
        explore(*problem, max_noise=0.01, link=["edge", "devic"])


def test_one_server_has_no_bandwidth():
    graph, network, times, noise = ds.examples.tiny()
    box = explore(graph, network.only("device"), times, noise, max_noise=0.01)
    assert [label for label, _ in box.children[1].children[0].options] == ["no link"]


def test_the_drawing_keeps_its_size_and_its_lanes_while_the_sliders_move():
    graph, network, times, noise = ds.examples.tiny()
    (limit, _), (bandwidth, _), _, drawing = parts(explore(graph, network, times, noise, max_noise=0.0))
    seen, sizes = set(), set()
    for value in [value for _, value in bandwidth.options][::8]:
        bandwidth.value = value
        for loose in (0.0, limit.max):
            limit.value = loose
            seen.add(drawing.value)
            sizes.add(re.search(r'width="[^"]+" height="[^"]+" viewBox="[^"]+"|viewBox="[^"]+"', drawing.value)[0])
            texts = re.findall(r"<!-- (.*?) -->", drawing.value)  # glyphs are drawn, and told beside
            assert {"device", "edge", "input", "output"} <= {*texts}
    assert len(seen) > 2
    assert len(sizes) == 1
