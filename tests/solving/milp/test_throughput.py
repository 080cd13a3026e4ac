"""The bottleneck of a pipeline: by hand, and both programmes and elimination's bracket against every assignment."""

import itertools
import math

import numpy as np
import pytest
from helpers.problems import brute_force, by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.ground.tolerance import relative_gap
from dnnsplit.solving.arrays import build_problem, latency_weights
from dnnsplit.solving.bounds.bottleneck import bracket, without_slow
from dnnsplit.solving.milp.throughput import solve_bottleneck
from dnnsplit.solving.objective import Limits
from dnnsplit.solving.request import Effort, Request

few = settings(deadline=None, max_examples=12)


def fastest(problem, noise=None, limits=None, formulation="milp", **options):
    """Solve, and price what was found."""
    found = solve_bottleneck(problem, latency_weights(problem.network), noise, limits or Limits(), formulation, Effort(**options))
    scheme = sum(bit << j for j, bit in enumerate(found.quantized))
    return found, problem.price(found.placement, scheme, routes=found.routes)


def test_stages_of_a_split_by_hand():
    cost = ds.evaluate(*by_hand(), {"a": "device", "b": "edge", "c": "edge", "d": "device"})
    # device a, d; edge b, c; t1 there; t2 and t3 back
    assert cost.stage_s == {
        "compute on device": 4.5, "compute on edge": 0.75, "device -> edge": 4.5, "edge -> device": 1.25 + 2.25
    }  # fmt: skip
    assert cost.bottleneck_s == 4.5
    assert cost.throughput_per_s == 1 / 4.5
    assert ds.evaluate(*by_hand(), dict.fromkeys("abcd", "edge")).bottleneck_s == 10.5  # the input, 0.5 + 1000 / 100


def test_moves_inside_a_server_are_no_stage():
    graph, network, times = by_hand()
    slow = ds.Network(network.servers, [*network.links, ds.Link("device", "device", 1.0, 0.0)], "device")
    assert ds.evaluate(graph, slow, times, dict.fromkeys("abcd", "device")).bottleneck_s == 7.5
    for formulation in ("milp", "slides"):
        assert fastest(build_problem(graph, slow, times), formulation=formulation)[1].bottleneck_s == 4.5


@pytest.mark.parametrize("formulation", ["milp", "slides"])
@pytest.mark.parametrize(("quantizable", "least"), [((), 4.5), (("a",), 3.0)])
def test_the_best_pipeline_by_hand(formulation, quantizable, least):
    # a stays, as the input would take 10.5 s; its output takes 4.5 s. In int8 it is a's 3 s: t1 takes 1.5 s, and d moves away too
    found, cost = fastest(build_problem(*by_hand(), quantizable), formulation=formulation)
    assert cost.bottleneck_s == pytest.approx(least)
    assert (found.status, found.bound) == ("optimal", pytest.approx(least))


def test_a_single_server_is_the_bottleneck():
    graph, network, times, noise = random_small(4, 5, 1, 2)
    found, cost = fastest(build_problem(graph, network, times, noise.layers), noise, Limits(0.0))
    assert found.status == "optimal"
    assert found.quantized == (0, 0)
    assert cost.bottleneck_s == pytest.approx(cost.compute_latency_s)


@few
@given(
    seed=st.integers(0, 10**6),
    servers=st.integers(2, 3),
    limit=st.sampled_from([0.0, 0.06, math.inf]),
    missing=st.sampled_from([0, 0.3]),
)
def test_both_programmes_and_the_bracket_equal_brute_force(seed, servers, limit, missing):
    graph, network, times, noise = random_small(seed, 5 if servers == 2 else 4, servers, 2, missing)
    problem = build_problem(graph, network, times, noise.layers)
    best = brute_force(graph, network, times, noise, limit, value=lambda cost: cost.bottleneck_s)
    known = bracket(problem, noise, Limits(limit))
    assert known.low <= best * (1 + 1e-9)
    assert known.high >= best * (1 - 1e-12)
    for formulation in ("milp", "slides"):
        found, cost = fastest(problem, noise, Limits(limit), formulation)
        assert cost.bottleneck_s == pytest.approx(best, rel=1e-6)
        assert found.status == "optimal"
        assert best * (1 - 1e-5) <= found.bound <= best * (1 + 1e-6)


@few
@given(seed=st.integers(0, 10**6))
def test_limits_on_device_energy_and_noise_hold(seed):
    graph, network, times, noise = random_small(seed, 4, 2, 2)
    problem = build_problem(graph, network, times, noise.layers)
    limit = 0.8 * fastest(problem, noise)[1].device_energy_j
    keep = lambda cost: cost.device_energy_j <= limit  # noqa: E731
    best = brute_force(graph, network, times, noise, 0.06, value=lambda cost: cost.bottleneck_s, keep=keep)
    for formulation in ("milp", "slides"):
        if math.isinf(best):
            with pytest.raises(ds.InfeasibleError):
                fastest(problem, noise, Limits(0.06, limit), formulation)
        else:
            found, cost = fastest(problem, noise, Limits(0.06, limit), formulation)
            assert cost.bottleneck_s == pytest.approx(best, rel=1e-6)
            assert cost.device_energy_j <= limit * (1 + 1e-6)
            assert noise.of(problem.names(found.placement, sum(b << j for j, b in enumerate(found.quantized)))[1]) <= 0.06 + 1e-6


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_a_relay_may_be_the_better_pipeline(seed):
    graph, network, times, _ = random_small(seed, 3, 3, 0, 0.3)
    relay = build_problem(graph, network, times, request=Request(routing="relay"))
    best, every = math.inf, list(itertools.permutations(range(3), 2))
    for places in itertools.product(range(3), repeat=3):
        best = min(best, _spread(relay, places, every))
    for formulation in ("milp", "slides"):
        if math.isinf(best):
            with pytest.raises(ds.InfeasibleError):
                fastest(relay, formulation=formulation)
        else:
            assert fastest(relay, formulation=formulation)[1].bottleneck_s == pytest.approx(best, rel=1e-6)


def _spread(problem, places, links):
    """The least bottleneck of one placement over every route of every tensor."""
    sums = {(0.0,) * len(links)}
    for t, (p, receivers) in enumerate(zip(problem.producer, problem.receivers, strict=True)):
        start, *targets = [problem.source if v < 0 else places[v] for v in (p, *receivers)]
        own = []
        for chosen in (c for size in range(3) for c in itertools.combinations(links, size)):
            there = {start}
            for _ in chosen:
                there |= {h for k, h in chosen if k in there}
            if set(targets) <= there and all(math.isfinite(problem.transfer_s[t, k, h, 0]) for k, h in chosen):
                own.append([problem.transfer_s[t, k, h, 0] if (k, h) in chosen else 0.0 for k, h in links])
        sums = {tuple(np.add(total, step)) for total in sums for step in own}
        sums = {a for a in sums if not any(b != a and all(np.less_equal(b, a)) for b in sums)}
    compute = max(sum(problem.layer_s[i, k, 0] for i, k in enumerate(places) if k == server) for server in range(3))
    return min((max(compute, *total) for total in sums), default=math.inf)


def test_parts_that_are_slow_alone_are_left_out():
    graph, network, times = by_hand()
    problem = build_problem(graph, network, times, ("a",))
    rest = without_slow(problem, 3.5)
    assert rest.allowed[0].tolist() == [True, True]  # a takes 4 s on the device, but 3 s in int8
    assert without_slow(problem, 3.0).allowed[0].tolist() == [False, True]
    names = [t.name for t in graph.tensors]
    gone = {(names[t], int(k), int(h)) for t, k, h in np.argwhere(np.isinf(rest.transfer_s[..., 0]))}
    assert gone == {("input", 0, 1), ("input", 1, 0), ("t3", 0, 1)}  # 10.5 s, 5.25 s, 4.5 s; t1 takes 1.5 s in int8


def test_the_time_limit_gives_a_plan_with_an_honest_bound():
    example = ds.examples.random_problem(150, 3, quantizable=8, seed=3)
    graph, network, times, noise = example
    problem = build_problem(graph, network, times, noise.layers)
    found, cost = fastest(problem, noise, Limits(0.1), time_limit_s=1.0)
    assert found.bound <= cost.bottleneck_s
    assert (found.status == "optimal") <= (relative_gap(cost.bottleneck_s, found.bound) <= 1e-6)


def test_more_schemes_than_elimination_lists_go_to_the_milp_alone():
    graph, network, times, noise = ds.examples.random_problem(24, 2, quantizable=20, seed=2)
    problem = build_problem(graph, network, times, noise.layers)
    with pytest.raises(ds.SolverError):
        bracket(problem, noise, Limits(0.1))
    found, cost = fastest(problem, noise, Limits(0.1), gap=0.05, time_limit_s=20)
    assert relative_gap(cost.bottleneck_s, found.bound) <= 0.05 + 1e-9
    assert found.bound <= cost.bottleneck_s
