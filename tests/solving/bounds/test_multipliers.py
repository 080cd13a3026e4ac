"""Limits that couple layers: bounds that hold, plans that keep the limits, and reductions that keep every optimum."""

import dataclasses
import math

import pytest
from helpers.problems import brute_force, by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.solving.bounds.multipliers import coupling, relax
from dnnsplit.solving.question import ask
from dnnsplit.solving.request import Request

quick = settings(deadline=None, max_examples=25)


@quick
@given(
    seed=st.integers(0, 10**6), servers=st.integers(2, 3), device=st.sampled_from([0.6, 0.8, None]),
    total=st.sampled_from([0.7, 0.9, None]), memory=st.booleans(),
)  # fmt: skip
def test_bounds_plans_and_reductions_against_brute_force(seed, servers, device, total, memory):
    graph, network, times, noise = random_small(seed, 5, servers, 2)
    free = ds.split(graph, network, times, noise, max_noise=0.08)
    if memory:
        held = sum(layer.weight_bytes for layer in graph.layers)
        network = dataclasses.replace(
            network, servers=tuple(dataclasses.replace(s, memory_bytes=0.5 * held) for s in network.servers)
        )
    limits = {
        "max_device_energy_j": device and device * free.device_energy_j,
        "max_energy_j": total and total * free.energy_j,
    }
    question = ask(graph, network, times, noise, Request(max_noise=0.08, **limits))
    keep = lambda cost: not question.limits.broken(question.problem, cost)  # noqa: E731
    best = brute_force(graph, network, times, noise, 0.08, keep=keep)
    if not coupling(question):
        return
    relaxed = relax(question)
    assert relaxed.bound <= best * (1 + 1e-6)
    assert relaxed.value >= best * (1 - 1e-6)
    if relaxed.plan:
        _, scheme, cost = relaxed.plan
        assert keep(cost)
        assert question.scheme_noise[scheme] <= 0.08
        assert cost.latency_s == pytest.approx(relaxed.value)
        allowed = lambda n, s: relaxed.problem.allowed[graph.layer_index[n], network.server_names.index(s)]  # noqa: E731
        assert brute_force(graph, network, times, noise, 0.08, keep=keep, allowed=allowed) == best
    plan_or_none = None
    try:
        plan_or_none = ds.split(graph, network, times, noise, max_noise=0.08, **limits)
    except ds.InfeasibleError:
        assert math.isinf(best)
    else:
        assert plan_or_none.latency_s == pytest.approx(best, rel=1e-6)
        assert plan_or_none.status == "optimal"


def test_by_hand_multipliers_find_the_line_between_two_plans():
    graph, network, times = by_hand()
    servers = (ds.Server("device", 9.0, 1.0), ds.Server("edge", 1.0, 1.0))
    network = ds.Network(servers, [ds.Link(k.source, k.target, 1000.0, 1.0) for k in network.links], "device")
    fast, frugal = ((4.0 + 2 + 1 + 0.5), (1.0 + 0.5 + 0.25 + 0.125) + 2.0 + 1.1)  # seconds: all on the device, all on the edge
    plan = ds.split(graph, network, times)
    assert plan.latency_s == pytest.approx(frugal)  # 4.975 s against 7.5 s
    slow = ds.split(graph, network, times, pins={"a": "device", "d": "device"})
    assert slow.latency_s == pytest.approx(fast)
    # with the edge too small for all weights, the line through the two plans bounds what is in between
    small = ds.Network([servers[0], ds.Server("edge", 1.0, 1.0, memory_bytes=300.0)], network.links, "device")
    relaxed = relax(ask(graph, small, times, None))
    assert frugal < relaxed.bound <= frugal + (fast - frugal) * (600 - 300) / 600 + 1e-9
    assert relaxed.value <= fast


def test_a_solver_without_time_leaves_the_plan_of_the_multipliers():
    graph, network, times, noise = ds.examples.random_problem(150, 3, quantizable=6, seed=4)
    fast = ds.split(graph, network, times, noise, max_noise=0.2)
    limit = 0.9 * fast.device_energy_j
    exact = ds.split(graph, network, times, noise, max_noise=0.2, max_device_energy_j=limit)
    stopped = ds.split(graph, network, times, noise, max_noise=0.2, max_device_energy_j=limit, time_limit_s=0.01)
    assert stopped.device_energy_j <= limit * (1 + 1e-6)
    assert stopped.bound <= exact.latency_s * (1 + 1e-9) <= stopped.latency_s * (1 + 2e-9)
    if stopped.status == "feasible":
        assert stopped.gap == pytest.approx((stopped.objective - stopped.bound) / stopped.objective)


def test_an_energy_front_whose_range_is_below_the_tolerance_ends():
    graph, network, times = by_hand()
    rows = times.frame.assign(seconds=1.0)
    servers = [ds.Server("device", 1.0, 1.0), ds.Server("edge", 1.0 - 1e-9, 1.0)]
    front = ds.energy_front(graph, ds.Network(servers, network.links, "device"), ds.LayerTimes(rows), progress=False)
    assert 1 <= len(front.plans) <= 2
