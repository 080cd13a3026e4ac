"""The slides' cost equations, each against numbers computed by hand."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from helpers.problems import brute_force, by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.solving.arrays import build_problem, energy_weights
from dnnsplit.solving.bounds.branching import fix_bits
from dnnsplit.solving.elimination.sweep import eliminate
from dnnsplit.solving.objective import reference
from dnnsplit.solving.request import Request

EDGE = {"a": "device", "b": "edge", "c": "edge", "d": "device"}


def test_everything_on_the_device_has_no_transfer():
    cost = ds.evaluate(*by_hand(), dict.fromkeys("abcd", "device"))
    assert cost.compute_s == {"device": 4 + 2 + 1 + 0.5, "edge": 0.0}  # T^c
    assert cost.transfers == ()
    assert cost.latency_s == 7.5  # T = T^c + T^x
    assert cost.energy_j == cost.device_energy_j == 2.0 * 7.5  # E = P^c T^c


def test_a_split_pays_compute_and_each_tensor_once_per_target():
    cost = ds.evaluate(*by_hand(), EDGE)
    assert cost.compute_s == {"device": 4.5, "edge": 0.75}
    moved = {(t.tensor, t.source, t.target): t.seconds for t in cost.transfers}
    assert moved == {
        ("t1", "device", "edge"): 0.5 + 400 / 100,  # b and c read it: sent once
        ("t2", "edge", "device"): 0.25 + 200 / 200,
        ("t3", "edge", "device"): 0.25 + 400 / 200,
    }
    assert cost.transfer_latency_s == 4.5 + 1.25 + 2.25  # T^x
    assert cost.latency_s == 5.25 + 8.0  # T


def test_energy_is_power_times_time_of_compute_and_of_sending():
    cost = ds.evaluate(*by_hand(), EDGE)
    assert cost.server_energy_j["device"] == 2.0 * 4.5 + 3.0 * 4.5  # E_0 = P^c T^c + P^other T^other
    assert cost.server_energy_j["edge"] == 5.0 * 0.75 + 1.0 * 3.5
    assert cost.device_energy_j == cost.server_energy_j["device"]
    assert cost.energy_j == pytest.approx(22.5 + 7.25)


def test_input_starts_at_the_source_and_output_returns_to_it():
    cost = ds.evaluate(*by_hand(), dict.fromkeys("abcd", "edge"))
    assert {(t.tensor, t.source, t.target): t.seconds for t in cost.transfers} == {
        ("input", "device", "edge"): 0.5 + 1000 / 100,
        ("out", "edge", "device"): 0.25 + 100 / 200,
    }
    assert cost.latency_s == 1.875 + 10.5 + 0.75


def test_a_quantized_layer_has_its_int8_time_and_sends_a_quarter():
    cost = ds.evaluate(*by_hand(), EDGE, quantized=("a", "b"))
    assert cost.compute_s == {"device": 3 + 0.5, "edge": 0.75 + 0.25}  # b is slower in int8, and that counts
    moved = {t.tensor: (t.size_bytes, t.seconds) for t in cost.transfers}
    assert moved == {"t1": (100, 0.5 + 1.0), "t2": (50, 0.25 + 0.25), "t3": (400, 2.25)}
    assert cost.weight_bytes == {"device": 100.0, "edge": 50.0}  # a quarter of 400 and of 200


def test_a_self_link_prices_moves_inside_a_server():
    graph, network, times = by_hand()
    servers = [dataclasses.replace(s, transmit_self_w=0.5) for s in network.servers]
    network = ds.Network(servers, [*network.links, ds.Link("device", "device", 1000.0, 0.0)], "device")
    cost = ds.evaluate(graph, network, times, dict.fromkeys("abcd", "device"))
    assert sum(t.seconds for t in cost.transfers) == pytest.approx((1000 + 400 + 200 + 400 + 100) / 1000)
    assert cost.energy_j == pytest.approx(2.0 * 7.5 + 0.5 * 2.1)  # P^self T^self


def with_rates(network, *joules_per_byte):
    """The network with powers of sending that grow with the rate."""
    pairs = zip(network.servers, joules_per_byte, strict=True)
    return dataclasses.replace(network, servers=tuple(dataclasses.replace(s, transmit_j_per_byte=j) for s, j in pairs))


def test_a_power_that_grows_with_the_rate_is_that_of_each_transfer():
    graph, network, times = by_hand()
    cost = ds.evaluate(graph, with_rates(network, 0.02, 0.01), times, EDGE)
    # t1: 400 B in 4.5 s; t2: 200 B in 1.25 s; t3: 400 B in 2.25 s
    assert cost.server_energy_j["device"] == pytest.approx(2.0 * 4.5 + (3.0 + 0.02 * 400 / 4.5) * 4.5)
    edge = (1.0 + 0.01 * 200 / 1.25) * 1.25 + (1.0 + 0.01 * 400 / 2.25) * 2.25
    assert cost.server_energy_j["edge"] == pytest.approx(5.0 * 0.75 + edge)
    assert (cost.device_energy_j, cost.energy_j) == pytest.approx((30.5, 30.5 + 13.25))
    assert cost.latency_s == ds.evaluate(graph, network, times, EDGE).latency_s
    inside = dataclasses.replace(network, links=(*network.links, ds.Link("device", "device", math.inf)))
    assert ds.evaluate(graph, with_rates(inside, 0.02, 0.01), times, EDGE).energy_j == pytest.approx(43.75)  # none inside


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10**6), method=st.sampled_from(["elimination", "milp", "slides"]), servers=st.integers(2, 3),
    latency_weight=st.sampled_from([0.0, 1.0]), limited=st.booleans(), free_link=st.booleans(),
)  # fmt: skip
def test_every_method_finds_the_optimum_of_evaluate(seed, method, servers, latency_weight, limited, free_link):
    graph, network, times, noise = random_small(seed, 4, servers, 2)
    network = with_rates(network, *np.random.default_rng(seed).uniform(0, 0.2, servers))
    if free_link:  # bytes cost energy even where they take no time
        links = (dataclasses.replace(network.links[0], bandwidth_bytes_per_s=math.inf, latency_s=0.0), *network.links[1:])
        network = dataclasses.replace(network, links=links)
    weights = {"latency_weight": latency_weight, "energy_weight": 1.0, "normalise": "fixed"}
    asked = {"max_noise": 0.08, "method": method, **weights}
    most = math.inf
    if limited and method != "elimination":
        most = 0.9 * ds.split(graph, network, times, noise=noise, **asked).device_energy_j
        asked["max_device_energy_j"] = most
    fixed = reference(build_problem(graph, network, times, noise.layers))

    def value(cost):
        return np.dot((latency_weight, 1.0), fixed.normalise(cost.latency_s, cost.energy_j))

    best = brute_force(graph, network, times, noise, 0.08, value, lambda cost: cost.device_energy_j <= most * (1 + 1e-6))
    if math.isinf(best):
        with pytest.raises(ds.InfeasibleError):
            ds.split(graph, network, times, noise=noise, **asked)
    else:
        plan = ds.split(graph, network, times, noise=noise, **asked)
        cost = ds.evaluate(graph, network, times, plan.assignment, plan.quantized)
        assert value(cost) == pytest.approx(best, rel=1e-6, abs=1e-6)
        assert plan.energy_j == pytest.approx(cost.energy_j, rel=1e-12)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), routing=st.sampled_from(["direct", "relay"]))
def test_what_elimination_adds_up_is_what_evaluate_says(seed, routing):
    graph, network, times, noise = random_small(seed, 5, 3, 2)
    network = with_rates(network, *np.random.default_rng(seed).uniform(0, 0.2, 3))
    problem = build_problem(graph, network, times, noise.layers, Request(routing=routing))
    for only in (None, "s0"):
        weights = energy_weights(network, only)
        optima = eliminate(problem, weights)
        for scheme, fixed in enumerate(({0: 0, 1: 0}, {0: 1, 1: 0}, {0: 0, 1: 1}, {0: 1, 1: 1})):
            cost = problem.price(optima.placement(scheme), scheme, weights)
            energy = cost.device_energy_j if only else cost.energy_j
            assert energy == pytest.approx(optima.value[scheme], rel=1e-12)
            assert weights.of(cost, network) == pytest.approx(energy, rel=1e-12)
            assert eliminate(fix_bits(problem, fixed), weights).value[0] == pytest.approx(energy, rel=1e-12)


def test_serialisation_counts_per_byte():
    assert ds.Link("a", "b", 100.0, 0.5, serialise_s_per_byte=0.001).transfer_s(400) == pytest.approx(0.5 + 4 + 0.4)


def test_a_missing_link_is_never_free():
    graph, network, times = by_hand()
    one_way = ds.Network(network.servers, network.links[:1], "device")
    with pytest.raises(ds.InfeasibleError, match=r"'t2' \(200 B\) would cross 'edge' -> 'device'"):
        ds.evaluate(graph, one_way, times, EDGE)


@pytest.mark.parametrize(
    ("assignment", "error", "text"),
    [
        ({"a": "device"}, ds.ModelError, "'b' has no server"),
        (EDGE | {"e": "edge"}, ds.ModelError, "there is no layer 'e'"),
        (EDGE | {"a": "egde"}, ds.NetworkError, "did you mean 'edge'"),
    ],
)
def test_a_wrong_assignment_is_named(assignment, error, text):
    with pytest.raises(error, match=text):
        ds.evaluate(*by_hand(), assignment)


def test_a_missing_time_is_named():
    graph, network, times = by_hand()
    with pytest.raises(ds.ProfileError, match="no int8 time of layer 'c' on 'edge'"):
        ds.evaluate(graph, network, times, EDGE, quantized=("c",))
    fewer = ds.LayerTimes(times.frame[times.frame["layer"] != "b"])
    with pytest.raises(ds.ProfileError, match=r"(?s)no float32 time of layer 'b' on server 'device'.*'edge'"):
        ds.split(graph, network, fewer)


def test_the_frame_sums_to_the_latency():
    cost = ds.evaluate(*by_hand(), EDGE)
    assert isinstance(cost.frame, pd.DataFrame)
    assert cost.frame["seconds"].sum() == pytest.approx(cost.latency_s)
