"""The makespan: by hand, and between the longest path and the slides' sum."""

import networkx as nx
import numpy as np
import pytest
from helpers.problems import by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds


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
    assert ds.makespan(graph, network, times, plan.assignment, plan.quantized) <= plan.latency_s * (1 + 1e-9)
