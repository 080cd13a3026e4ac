"""Where a split pays: known by hand, and never worse than a server alone."""

from dataclasses import replace

import pandas as pd
import pytest
from helpers.coded_problems import COLUMNS, coded_small, every_plan
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.noise.models import Table
from dnnsplit.profiling.wire_forms import WireForms

FREE = ("float32",)


def funnel():
    """Layer a makes 10 B of 1000 B, and is twice as slow on the device; b is ten times as slow there.

    Everything on the device: 6 s. On the edge: 1.5 s and the input, 1000 B plainly, 400 B as png-1 (+ 0.5 s), 100 B as jpeg-90
    (+ 0.25 s, noise 0.05). Split after a: 2.5 s and 10 B.
    """
    graph = ds.LayerGraph(
        [ds.Layer("a", "Conv"), ds.Layer("b", "Conv")],
        [
            ds.Tensor("in", None, ("a",), 1000.0),
            ds.Tensor("t", "a", ("b",), 10.0),
            ds.Tensor("out", "b", (), 0.0, is_output=True),
        ],
    )
    links = [ds.Link("device", "edge", 100.0), ds.Link("edge", "device", 1e6)]
    network = ds.Network([ds.Server("device", 1.0, 1.0), ds.Server("edge", 1.0, 1.0)], links, "device")
    seconds = {("a", "device"): 2.0, ("b", "device"): 4.0, ("a", "edge"): 1.0, ("b", "edge"): 0.5}
    rows = [(layer, server, "float32", s) for (layer, server), s in seconds.items()]
    coded = [
        ("in", "float32", form, server, size, size, half, half, lossless)
        for form, size, half, lossless in (("png-1", 400.0, 0.25, True), ("jpeg-90", 100.0, 0.125, False))
        for server in network.server_names
    ]
    times = ds.LayerTimes(
        pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]),
        forms=WireForms(pd.DataFrame(coded, columns=COLUMNS)),
    )
    return graph, network, times, Table((), {0: 0.0}, sources={"jpeg-90": Table((), {0: 0.05})})


def test_by_hand():
    # 2 B/s: the device 6 s, split 7.5; 10: split 3.5; 1000: edge + png-1 2.4, + jpeg-90 1.85, split 2.51; 1e5: edge plainly 1.51
    found = ds.regimes(*funnel(), max_noise=[0.0, 0.05], bandwidths=["2 B/s", 10, 1e3, 1e5], progress=False)
    assert list(zip(found["bandwidth_bytes_per_s"], found["max_noise"], strict=True)) == [
        (2.0, 0.0), (2.0, 0.05), (10.0, 0.0), (10.0, 0.05), (1e3, 0.0), (1e3, 0.05), (1e5, 0.0), (1e5, 0.05),
    ]  # fmt: skip
    assert list(found["best"]) == ["device", "device", "split", "split", "edge", "edge", "edge", "edge"]
    assert list(found["source_form"]) == [""] * 4 + ["png-1", "jpeg-90", "float32", "float32"]
    assert list(found["latency_s"]) == pytest.approx([6.0, 6.0, 3.5, 3.5, 2.4, 1.85, 1.51, 1.51])
    assert list(found["alone"]) == ["device"] * 4 + ["edge"] * 4
    assert list(found["alone_form"]) == list(found["source_form"])
    assert list(found["gain"]) == pytest.approx([0, 0, 1 - 3.5 / 6, 1 - 3.5 / 6, 0, 0, 0, 0])
    assert found.attrs["units"]["alone_s"] == "s"


def test_against_a_float32_input_a_split_seems_to_pay_where_it_does_not():
    bandwidth = {"bandwidths": [300.0], "max_noise": [0.0], "progress": False}
    assert list(ds.regimes(*funnel(), source_forms=FREE, **bandwidth)["best"]) == ["split"]
    found = ds.regimes(*funnel(), **bandwidth)
    assert list(found["best"]) == ["split"]  # 2.533 against 3.333: here it pays
    assert list(found["gain"]) == pytest.approx([1 - (2.5 + 10 / 300) / (2.0 + 400 / 300)])
    bandwidth["bandwidths"] = [900.0]  # edge + png-1: 2.444; split 2.511; edge plainly 2.611
    assert list(ds.regimes(*funnel(), source_forms=FREE, **bandwidth)["best"]) == ["split"]
    assert list(ds.regimes(*funnel(), **bandwidth)["best"]) == ["edge"]


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_no_server_alone_is_ever_better_and_none_was_missed(seed):
    graph, network, times, noise = coded_small(seed, layers=2, quantizable=1)
    limits = [0.0, 0.03, 0.1]
    found = ds.regimes(graph, network, times, noise, max_noise=limits, bandwidths=[2.0, 50.0, 2000.0], progress=False)
    assert (found["gain"] >= -1e-12).all()
    float32 = Table((), {0: 0.0}, sources={form: Table((), {0: model.floor}) for form, model in noise.sources.items()})
    for row in found.itertuples():
        links = {(n.source, n.target): row.bandwidth_bytes_per_s for n in network.links if n.source == "s0" != n.target}
        plans = every_plan(graph, network.with_bandwidths(links), times, float32, row.max_noise)
        alone = [cost.latency_s for cost, *_ in plans if sum(seconds > 0 for seconds in cost.compute_s.values()) == 1]
        assert row.alone_s == pytest.approx(min(alone), rel=1e-9)


def test_where_no_server_alone_keeps_the_limits_there_is_no_gain():
    graph, network, times, noise = funnel()
    graph = replace(graph, layers=tuple(replace(layer, weight_bytes=100.0) for layer in graph.layers))
    tight = replace(network, servers=tuple(replace(server, memory_bytes=150.0) for server in network.servers))
    found = ds.regimes(graph, tight, times, noise, max_noise=[0.0], bandwidths=[100.0], progress=False)
    assert list(found["best"]) == ["split"]
    assert list(found["alone"]) == [""]
    assert found["gain"].isna().all()


def test_wrong_axes_are_refused():
    with pytest.raises(ds.OptionError, match="max_noise is empty"):
        ds.regimes(*funnel(), max_noise=[], progress=False)
    with pytest.raises(ds.NetworkError, match="there is no link 'device -> cloud'"):
        ds.regimes(*funnel(), max_noise=[0.1], links=[("device", "cloud")], progress=False)
