"""The makespan: by hand, and between the longest path and the slides' sum."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import COLUMNS, coded_small
from helpers.problems import by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.profiling.wire_forms import WireForms
from dnnsplit.studies.makespan import schedule, side_by_side


def test_branches_on_two_servers_run_side_by_side():
    graph, network, times = by_hand()
    # device: a 0..4, c 4..5; t1 leaves at 4, arrives at 8.5; edge: b 8.5..9; t2 takes 1.25: 10.25; device: d ..10.75
    found = ds.makespan(graph, network, times, {"a": "device", "b": "edge", "c": "device", "d": "device"})
    assert found == pytest.approx(10.75)
    assert ds.evaluate(graph, network, times, {"a": "device", "b": "edge", "c": "device", "d": "device"}).latency_s == 11.75


def test_one_link_sends_one_tensor_at_a_time():
    graph, network, times = by_hand()
    # edge: b 8.5..9, c 9..9.25; t2 9..10.25, t3 waits for the link: 10.25..12.5; d ..13
    found = ds.makespan(graph, network, times, {"a": "device", "b": "edge", "c": "edge", "d": "device"})
    assert found == pytest.approx(13.0)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 3))
def test_it_is_between_the_longest_path_and_the_sum(seed, servers):
    graph, network, times, noise = random_small(seed, 7, servers, 2)
    rng = np.random.default_rng(seed)
    assignment = {name: str(rng.choice(network.server_names)) for name in graph.layer_names}
    cost = ds.evaluate(graph, network, times, assignment, noise.layers)
    found = ds.makespan(graph, network, times, assignment, noise.layers)
    seconds = {n: times.seconds(n, assignment[n], "int8" if n in noise.layers else "float32") for n in graph.layer_names}
    longest = max(sum(seconds[n] for n in path) for path in _paths(graph.digraph))
    assert longest <= found + 1e-9
    assert max(cost.compute_s.values()) <= found + 1e-9
    assert found <= cost.latency_s + 1e-9


def _paths(graph):
    starts = [n for n, d in graph.in_degree if d == 0]
    ends = [n for n, d in graph.out_degree if d == 0]
    for start in starts:
        for end in ends:
            yield from [[start]] if start == end else nx.all_simple_paths(graph, start, end)


@pytest.mark.parametrize("topology", ds.examples.TOPOLOGIES)
def test_the_shipped_plans_have_no_branches_across_servers(topology):
    graph, network, times, noise = ds.examples.yolo11n(topology)
    plan = ds.split(graph, network, times, noise, max_noise=0.05)
    found = ds.makespan(graph, network, times, plan.assignment, plan.quantized, forms=plan.forms)
    assert found == pytest.approx(plan.latency_s, rel=1e-9)


def coded_by_hand():
    """The problem `by_hand`, t1 and t3 with zstd-1, and the input with jpeg-90."""
    graph, network, times = by_hand()
    coded = (("t1", "zstd-1", 200, True), ("t3", "zstd-1", 200, True), ("input", "jpeg-90", 100, False))
    rows = [
        (tensor, "float32", form, server, size, size, encode_s, decode_s, lossless)
        for tensor, form, size, lossless in coded
        for server, encode_s, decode_s in (("device", 0.5, 0.25), ("edge", 0.125, 0.0625))
    ]  # fmt: skip
    return graph, network, replace(times, forms=WireForms(pd.DataFrame(rows, columns=COLUMNS)))


def test_writing_and_reading_take_turns_with_layers():
    graph, network, times = coded_by_hand()
    assignment = {"a": "device", "b": "edge", "c": "device", "d": "device"}
    forms = {("t1", "device", "edge"): "zstd-1"}
    # device: a 0..4, writes t1 ..4.5, c ..5.5; t1 travels 2.5 s to 7; edge reads it ..7.0625, b ..7.5625; t2 home 8.8125; d
    found = ds.makespan(graph, network, times, assignment, forms=forms)
    assert found == pytest.approx(9.3125)
    # what the writing of t1 puts off is c, which is not on the longest way; the sum has it
    assert ds.evaluate(graph, network, times, assignment, forms=forms).latency_s == pytest.approx(9.3125 + 1)


def test_the_link_is_free_while_a_server_reads():
    graph, network, times = coded_by_hand()
    assignment = {"a": "device", "b": "edge", "c": "edge", "d": "device"}
    forms = {("t3", "edge", "device"): "zstd-1"}
    # edge: b 8.5..9, c ..9.25, writes t3 ..9.375; t2 on the link 9..10.25, t3 ..11.5; device reads it ..11.75, d ..12.25
    assert ds.makespan(graph, network, times, assignment, forms=forms) == pytest.approx(12.25)


def test_the_source_reads_a_lossy_input_back_before_it_starts():
    graph, network, times = coded_by_hand()
    everything = dict.fromkeys(graph.layer_names, "device")
    forms = {("input", "device", "device"): "jpeg-90"}
    assert ds.makespan(graph, network, times, everything, forms=forms) == pytest.approx(7.5 + 0.75)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), routing=st.sampled_from(("direct", "relay")))
def test_with_forms_it_is_between_the_longest_path_and_the_sum(seed, routing):
    graph, network, times, noise = coded_small(seed, 5, 3, 2, missing=0.3)
    try:
        pins = dict(zip(graph.layer_names, np.random.default_rng(seed).choice(network.server_names, 5).tolist(), strict=True))
        plan = ds.split(graph, network, times, noise, routing=routing, pins=pins)
    except ds.InfeasibleError:
        return
    found = ds.makespan(graph, network, times, plan.assignment, plan.quantized, plan.routes, plan.forms)
    assert found <= plan.latency_s + 1e-9
    assert all(seconds <= found + 1e-9 for seconds in plan.cost.stage_s.values())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_chain_takes_the_sum_in_any_form(seed):
    names = ("a", "b", "c")
    tensors = [ds.Tensor("in", None, ("a",), 100.0), ds.Tensor("t", "a", ("b",), 50.0), ds.Tensor("u", "b", ("c",), 80.0)]
    graph = ds.LayerGraph([ds.Layer(n, "Conv") for n in names], [*tensors, ds.Tensor("out", "c", (), 10.0, is_output=True)])
    network = coded_small(seed, servers=3)[1]
    rng = np.random.default_rng(seed)
    rows = [(n, s, "float32", float(rng.uniform(0.1, 1))) for n in names for s in network.server_names]
    coded = [
        (t.name, "float32", "zstd-1" if t.producer else "png-1", s, 5.0, 5.0, *rng.uniform(0.1, 1, 2).tolist(), True)
        for t in tensors
        for s in network.server_names
    ]
    frame = pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"])
    times = ds.LayerTimes(frame, forms=WireForms(pd.DataFrame(coded, columns=COLUMNS)))
    pins = dict(zip(names, rng.choice(network.server_names, 3).tolist(), strict=True))
    plan = ds.split(graph, network, times, pins=pins)
    found = ds.makespan(graph, network, times, plan.assignment, routes=plan.routes, forms=plan.forms)
    assert found == pytest.approx(plan.latency_s, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), routing=st.sampled_from(("direct", "relay")))
def test_the_schedule_is_the_sum_in_pieces_and_ends_at_the_makespan(seed, routing):
    graph, network, times, noise = coded_small(seed, 5, 3, 2, missing=0.3)
    try:
        pins = dict(zip(graph.layer_names, np.random.default_rng(seed).choice(network.server_names, 5).tolist(), strict=True))
        plan = ds.split(graph, network, times, noise, routing=routing, pins=pins)
    except ds.InfeasibleError:
        return
    asked = (graph, network, times, plan.assignment, plan.quantized, plan.routes, plan.forms)
    work = schedule(*asked)
    assert work["end_s"].max() == ds.makespan(*asked)
    assert (work["end_s"] - work["start_s"]).sum() == pytest.approx(plan.latency_s, rel=1e-12)
    assert work["layers"].sum() == len(graph.layers)
    assert work["start_s"].is_monotonic_increasing
    on_servers = work[work["kind"] != "transfer"]
    for busy in (*(part for _, part in on_servers.groupby("source")), *(part for _, part in _links(work))):
        assert (busy["start_s"].to_numpy()[1:] >= busy["end_s"].to_numpy()[:-1]).all()  # one thing at a time
    seconds = (work["end_s"] - work["start_s"]).where(work["kind"] == "compute", 0.0).groupby(work["source"]).sum()
    assert seconds.to_dict() == pytest.approx({s: t for s, t in plan.cost.compute_s.items() if s in seconds.index})
    moved = [(t.tensor, t.source, t.target, t.form, t.size_bytes) for t in plan.transfers]
    columns = ["tensor", "source", "target", "form", "size_bytes"]
    assert sorted(work.loc[work["kind"] == "transfer", columns].itertuples(index=False, name=None)) == sorted(moved)


def _links(work):
    moved = work[(work["kind"] == "transfer") & (work["source"] != work["target"])]
    return moved.groupby(["source", "target"])


def test_the_schedule_by_hand():
    graph, network, times = by_hand()
    assignment = {"a": "device", "b": "edge", "c": "device", "d": "device"}
    work = schedule(graph, network, times, assignment)
    told = work[["kind", "component", "layers", "source", "target", "start_s", "end_s"]].itertuples(index=False, name=None)
    assert list(told) == [
        ("compute", 0, 2, "device", "device", 0.0, 5.0),  # a and c without a break
        ("transfer", -1, 0, "device", "edge", 4.0, 8.5),
        ("compute", 1, 1, "edge", "edge", 8.5, 9.0),
        ("transfer", -1, 0, "edge", "device", 9.0, 10.25),
        ("compute", 2, 1, "device", "device", 10.25, 10.75),
    ]


def test_components_that_can_run_side_by_side():
    graph, *_ = by_hand()
    both = {"a": "device", "b": "edge", "c": "device", "d": "device"}
    assert side_by_side(graph, both) == []  # c runs with a, and all of it is before b
    apart = {"a": "device", "b": "edge", "c": "cloud", "d": "device"}
    assert side_by_side(graph, apart) == [(1, 2)]
    assert side_by_side(graph, dict.fromkeys(graph.layer_names, "device")) == []
