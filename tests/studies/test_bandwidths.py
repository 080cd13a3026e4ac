"""The optimal plan at every bandwidth: the same as `split` gives at each, with exact breakpoints."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import COLUMNS, coded_small, every_plan
from helpers.problems import by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.profiling.wire_forms import WireForms
from dnnsplit.solving.arrays import build_problem
from dnnsplit.solving.objective import reference
from dnnsplit.studies.bandwidths import bandwidths, sweep_bandwidths

FORTH = ("s0", "s1")


def with_bandwidth(network, bandwidth, *links):
    changed = [replace(n, bandwidth_bytes_per_s=bandwidth) if (n.source, n.target) in links else n for n in network.links]
    return replace(network, links=tuple(changed))


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10**6), servers=st.integers(2, 3), both_ways=st.booleans(), energy=st.booleans(),
    serialise=st.sampled_from([0.0, 1e-3]), routing=st.sampled_from(["direct", "relay"]), per_byte=st.sampled_from([0.0, 0.05]),
)  # fmt: skip
def test_split_finds_nothing_better_at_any_bandwidth(seed, servers, both_ways, energy, serialise, routing, per_byte):
    graph, network, times, noise = random_small(seed, 5, servers, 2)
    network = replace(network, links=tuple(replace(n, serialise_s_per_byte=serialise) for n in network.links))
    network = replace(network, servers=tuple(replace(s, transmit_j_per_byte=per_byte) for s in network.servers))
    asked = {"max_noise": 0.08, "latency_weight": 1.0 - energy, "energy_weight": float(energy), "routing": routing}
    what = "energy_j" if energy else "latency_s"
    found = bandwidths(graph, network, times, noise, link=FORTH, low=1.0, high=1e5, both_ways=both_ways, **asked)
    links = [FORTH, FORTH[::-1]] if both_ways else [FORTH]
    assert found.links == tuple(links)
    assert found.breakpoints[0] == 1.0
    assert found.breakpoints[-1] == 1e5
    assert (np.diff(found.breakpoints) > 0).all()
    for bandwidth in [1.0, 1e5, *np.geomspace(1.0, 1e5, 9) * np.random.default_rng(seed).uniform(1, 3, 9), *found.breakpoints]:
        bandwidth = min(bandwidth, 1e5)
        here = with_bandwidth(network, bandwidth, *links)
        least = getattr(ds.split(graph, here, times, noise, **asked), what)
        plan, line = found.at(bandwidth), found.line(bandwidth)
        routes = {t.tensor: [(u.source, u.target) for u in plan.transfers if u.tensor == t.tensor] for t in plan.transfers}
        cost = ds.evaluate(graph, here, times, plan.assignment, plan.quantized, routes)
        assert getattr(cost, what) == pytest.approx(least, rel=1e-9)
        assert line.of("latency_s", bandwidth) == pytest.approx(cost.latency_s, rel=1e-12)
        assert line.of("energy_j", bandwidth) == pytest.approx(cost.energy_j, rel=1e-12)
    for (before, after), point in zip(itertools.pairwise(found.lines), found.breakpoints[1:-1], strict=True):
        assert before.of(what, point) == pytest.approx(after.of(what, point), rel=1e-9)
        assert before.plan.transfers != after.plan.transfers
        assert after.objective[1] > before.objective[1]  # with more bandwidth, more is sent


def test_a_normalised_sum_keeps_the_reference_of_the_network_as_given():
    graph, network, times, noise = ds.examples.tiny()
    link = ("device", "edge")
    found = bandwidths(graph, network, times, noise, link=link, energy_weight=0.5)
    fixed = reference(build_problem(graph, network, times, noise.layers))
    for bandwidth in (1e5, 7e5, 5e6, 1e8):
        here = with_bandwidth(network, bandwidth, link)
        value = {}
        for servers in itertools.product(network.server_names, repeat=4):
            for quantized in ((), ("conv1",), ("conv2",), ("conv1", "conv2")):
                cost = ds.evaluate(graph, here, times, dict(zip(graph.layer_names, servers, strict=True)), quantized)
                value[servers, quantized] = np.dot((1, 0.5), fixed.normalise(cost.latency_s, cost.energy_j))
        plan = found.at(bandwidth)
        assert value[tuple(plan.assignment.values()), plan.quantized] == pytest.approx(min(value.values()), abs=1e-9)
    assert len(found.plans) > 1


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), limit=st.sampled_from((0.0, 0.05, 1.0)), energy=st.booleans())
def test_with_forms_no_plan_in_any_form_is_better_at_any_bandwidth(seed, limit, energy):
    graph, network, times, noise = coded_small(seed, layers=2)
    what, weights = ("energy_j", (0.0, 1.0)) if energy else ("latency_s", (1.0, 0.0))
    asked = {"max_noise": limit, "latency_weight": weights[0], "energy_weight": weights[1]}
    found = bandwidths(graph, network, times, noise, link=FORTH, low=1.0, high=1e4, **asked)
    for bandwidth in [*np.geomspace(1.0, 1e4, 6) * np.random.default_rng(seed).uniform(1, 3, 6), *found.breakpoints]:
        bandwidth = min(bandwidth, 1e4)
        here = with_bandwidth(network, bandwidth, FORTH)
        least = min(getattr(cost, what) for cost, *_ in every_plan(graph, here, times, noise, limit))
        line = found.line(bandwidth)
        cost = ds.evaluate(graph, here, times, line.plan.assignment, line.plan.quantized, forms=line.plan.forms)
        assert getattr(cost, what) == pytest.approx(least, rel=1e-9)
        assert line.of("latency_s", bandwidth) == pytest.approx(cost.latency_s, rel=1e-12)
        assert line.of("energy_j", bandwidth) == pytest.approx(cost.energy_j, rel=1e-12)
    assert list(found.frame["source_form"]) == [plan.source_form for plan in found.plans]


def test_lossless_forms_change_from_interval_to_interval():
    graph, network, times = by_hand()
    coded = {"png-1": (400.0, 0.75, 0.25), "webp-lossless": (300.0, 2.0, 1.0)}
    rows = [("input", "float32", name, s, one[0], *one, True) for name, one in coded.items() for s in network.server_names]
    times = replace(times, forms=WireForms(pd.DataFrame(rows, columns=COLUMNS)))
    everything = {"pins": dict.fromkeys(graph.layer_names, "edge"), "low": 10.0, "high": "10 kB/s"}
    found = bandwidths(graph, network, times, **everything)
    # 1000 / b plainly, 1 + 400 / b as png-1, 3 + 300 / b as webp-lossless
    assert found.breakpoints == pytest.approx((10.0, 100 / 2, 600 / 1, 1e4))
    assert list(found.frame["source_form"]) == ["webp-lossless", "png-1", "float32"]
    assert list(found.frame["crossing_bytes"]) == [300, 400, 1000]
    assert "50 B/s to 600 B/s: edge, 0 in int8, sends 400 B, the input as png-1; latency" in str(found)
    slides = bandwidths(graph, network, times, source_forms=("float32",), **everything)
    assert list(slides.frame["source_form"]) == ["float32"]


def test_by_hand():
    graph, network, times = by_hand()
    found = bandwidths(graph, network, times, link=("device", "edge"), low=10.0, high="1 kB/s")
    # all on device 7.5 s; all on edge 3.125 + 1000 / b; b, c, d on edge 6.125 + 400 / b, which is never the least
    assert found.breakpoints == pytest.approx((10.0, 1000 / 4.375, 1000.0))
    frame = found.frame
    assert list(frame["servers"]) == ["device", "edge"]
    assert list(frame["crossing_bytes"]) == [0, 1000]
    assert list(frame["from_latency_s"]) == pytest.approx([7.5, 7.5])
    assert list(frame["to_latency_s"]) == pytest.approx([7.5, 4.125])
    assert frame.attrs["units"] == {
        "from_bytes_per_s": "B/s", "to_bytes_per_s": "B/s", "from_latency_s": "s", "to_latency_s": "s", "from_energy_j": "J",
        "to_energy_j": "J", "crossing_bytes": "B",
    }  # fmt: skip
    assert found.at("0.2 kB/s").servers == ("device",)
    assert found.at(300).servers == ("edge",)
    assert str(found).splitlines()[1] == "  10 B/s to 228.6 B/s: device, 0 in int8, sends 0 B; latency 7.5 s to 7.5 s"
    assert "2 optimal plans" in found._repr_html_()


def test_links_that_no_plan_uses_and_links_without_end():
    graph, network, times = by_hand()
    assert len(bandwidths(graph, network, times, low=1.0, high=2.0).plans) == 1
    found = bandwidths(graph, network, times, low=1.0, high="inf B/s", both_ways=True)
    assert found.at(math.inf).servers == ("edge",)
    assert found.frame["to_latency_s"].iloc[-1] == pytest.approx(0.5 + 1.875 + 0.25)
    assert len(bandwidths(graph, network, times, low=1.0, high=1e9, forbid_links=[("device", "edge")]).plans) == 1


def test_self_links_and_links_that_share_a_bandwidth():
    graph, network, times = by_hand()
    inside = replace(network, links=(*network.links, ds.Link("device", "device", 100.0)))
    found = bandwidths(graph, inside, times, link=[("device", "device"), ("device", "edge")], low=1.0, high=1e4)
    for bandwidth in np.geomspace(1.0, 1e4, 7):
        here = with_bandwidth(inside, bandwidth, ("device", "device"), ("device", "edge"))
        least = ds.split(graph, here, times).latency_s
        assert found.line(bandwidth).of("latency_s", bandwidth) == pytest.approx(least, rel=1e-9)


def test_memory_limits_hold_at_every_bandwidth():
    graph, network, times, noise = ds.examples.tiny()
    small = replace(network, servers=(network.servers[0], replace(network.servers[1], memory_bytes=1.1e5)))
    found = bandwidths(graph, small, times, noise, low="100 kB/s", high="1 GB/s")
    assert all(plan.cost.weight_bytes["edge"] <= 1.1e5 for plan in found.plans)
    for bandwidth in (2e5, 5e6, 5e8):
        least = ds.split(graph, with_bandwidth(small, bandwidth, ("device", "edge")), times, noise).latency_s
        assert found.line(bandwidth).of("latency_s", bandwidth) == pytest.approx(least, rel=1e-6)


def test_bad_requests():
    graph, network, times = by_hand()
    for link in ("device", ("device",), [("device", "edge"), "edge"]):
        with pytest.raises(ds.OptionError, match=r"link.* is .*; give \(a text, a text\)"):
            bandwidths(graph, network, times, link=link)
    with pytest.raises(ds.NetworkError, match="is not a link"):
        bandwidths(graph, network, times, link=[])
    with pytest.raises(ds.NetworkError, match="there is no link 'device -> egde' \\(did you mean 'device -> edge'"):
        bandwidths(graph, network, times, link=("device", "egde"))
    for low, high in ((0, 5), (5, 5), ("5 MB/s", "5 kB/s")):
        with pytest.raises(ds.OptionError, match="give low above 0 and below high"):
            bandwidths(graph, network, times, low=low, high=high)
    with pytest.raises(ds.OptionError, match="unknown unit"):
        bandwidths(graph, network, times, low="5 MHz")
    with pytest.raises(ds.OptionError, match="max_energy_j other plans are allowed at each bandwidth"):
        bandwidths(graph, network, times, max_energy_j=1.0)
    with pytest.raises(ds.OptionError, match="the slowest stage is not linear"):
        bandwidths(graph, network, times, objective="throughput")
    with pytest.raises(ds.OptionError, match="is outside 1 kB/s to 1 MB/s"):
        bandwidths(graph, network, times, low=1e3, high=1e6).at(5)


def test_the_figure_marks_every_breakpoint():
    graph, network, times = by_hand()
    found = bandwidths(graph, network, times, low=10.0, high="inf B/s")
    figure, numbers = ds.plots.bandwidth(found, mark=100.0)
    axis = figure.axes[0]
    assert {text.get_text() for text in axis.texts} == {"228.6 B/s", "given: 100 B/s"}
    assert axis.get_xlim()[1] == pytest.approx(10 * 1000 / 4.375)
    assert numbers["breakpoints_bytes_per_s"] == pytest.approx([1000 / 4.375])
    assert [entry["latency_s"][0] for entry in numbers["plans"]] == pytest.approx([7.5, 7.5])


def test_a_sweep_has_the_intervals_of_every_topology_and_limit():
    graph, network, times, noise = ds.examples.tiny()
    topologies = {"alone": network.only("device"), "both": network}
    asked = {"max_noise": [0.0, 0.02], "ends": ["100 MB/s", "1 kB/s", 5e6]}
    found = sweep_bandwidths(graph, topologies, times, noise, **asked)
    for limit in asked["max_noise"]:
        rows = found[(found["topology"] == "both") & (found["max_noise"] == limit)].drop(columns=["topology", "max_noise"])
        whole = bandwidths(graph, network, times, noise, max_noise=limit, low="1 kB/s", high="100 MB/s").frame
        pd.testing.assert_frame_equal(rows.reset_index(drop=True), whole, check_dtype=False)
        flat = found[(found["topology"] == "alone") & (found["max_noise"] == limit)].iloc[0]
        assert (flat["from_bytes_per_s"], flat["to_bytes_per_s"], flat["crossing_bytes"]) == (1e3, 1e8, 0)
        least = ds.split(graph, topologies["alone"], times, noise, max_noise=limit).latency_s
        assert flat["from_latency_s"] == flat["to_latency_s"] == pytest.approx(least)


def test_a_sweep_leaves_out_what_no_plan_keeps_and_a_range_that_is_none():
    graph, network, times, noise = ds.examples.tiny()
    tight = replace(network, servers=tuple(replace(server, memory_bytes=1.0) for server in network.servers))
    assert not len(sweep_bandwidths(graph, {"x": tight}, times, noise, max_noise=[0.0], ends=[1e3, 1e6]))
    assert not len(sweep_bandwidths(graph, {"x": network}, times, noise, max_noise=[0.0], ends=["1 MB/s", 1e6]))
