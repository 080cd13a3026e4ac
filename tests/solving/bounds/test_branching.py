"""Branch and bound over q: the optimum without listing every scheme; bounds that hold."""

import numpy as np
import pytest
from helpers.problems import random_small
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.noise.schemes import all_schemes
from dnnsplit.solving.arrays import build_problem, latency_weights
from dnnsplit.solving.bounds import branching
from dnnsplit.solving.bounds.branching import branch, fix_bits, minorant
from dnnsplit.solving.elimination.sweep import eliminate
from dnnsplit.solving.question import ask
from dnnsplit.solving.request import Request

quick = settings(deadline=None, max_examples=25)


@quick
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 3), table=st.booleans(), weight=st.sampled_from([0.0, 1.0]))
@example(seed=322267, servers=1, table=False, weight=0.0)  # a multiplier between two points of almost the same noise
@example(seed=232, servers=2, table=False, weight=0.0)  # where without noisy bits the limit is overstepped still
def test_it_finds_what_elimination_over_all_schemes_finds(seed, servers, table, weight):
    graph, network, times, noise = random_small(seed, 6, servers, 5)
    if table:
        schemes = all_schemes(5)
        values = np.where(schemes.any(axis=1), np.random.default_rng(seed).uniform(0, 0.2, 32), 0.0)
        frame = ds.NoiseSamples(schemes_frame(noise.layers, schemes, values))
        noise = ds.fit_noise(frame, "measured")
    for limit in (0.0, 0.08, 0.15, None):
        question = ask(graph, network, times, noise, Request(max_noise=limit, energy_weight=weight))
        with pytest.MonkeyPatch.context() as patch:  # no node may be solved in one pass: branch down to single schemes
            patch.setattr(branching, "LEAF_ENTRIES", 0)
            found = branch(question)
        least = np.where(question.allowed, question.optima.value, np.inf).min()
        assert found.value == pytest.approx(least, rel=1e-9, abs=1e-9)
        assert found.bound <= found.value
        cost = question.price(found.placement, found.scheme)
        assert question.objective.weights.of(cost, network) == pytest.approx(least, rel=1e-9, abs=1e-9)
        assert question.scheme_noise[found.scheme] <= question.limits.max_noise


def schemes_frame(layers, schemes, values):
    import pandas as pd

    return pd.DataFrame(schemes, columns=list(layers)).assign(noise=values)


@quick
@given(seed=st.integers(0, 10**6), fixed=st.dictionaries(st.integers(0, 3), st.integers(0, 1)))
def test_the_minorant_is_below_the_noise(seed, fixed):
    rng = np.random.default_rng(seed)
    layers = ("a", "b", "c", "d")
    names = [("a",), ("b",), ("c",), ("d",), ("a", "b"), ("b", "d"), ("a", "c", "d")]
    noise = ds.NoiseModel.polynomial(layers, {n: float(rng.uniform(-0.1, 0.2)) for n in names}, float(rng.uniform(-0.05, 0.05)))
    base, slopes = minorant(noise, fixed)
    schemes = all_schemes(4)
    own = schemes[np.all([schemes[:, j] == bit for j, bit in fixed.items()], axis=0)] if fixed else schemes
    assert (base + own @ slopes <= noise.predict(own) + 1e-12).all()


def test_fixed_bits_leave_the_problem_of_the_others():
    graph, network, times, noise = random_small(4, 6, 2, 3)
    problem = build_problem(graph, network, times, noise.layers)
    every = eliminate(problem, latency_weights(network)).value.reshape(2, 2, 2)  # bits 2, 1, 0
    for bit in (0, 1):
        assert eliminate(fix_bits(problem, {1: bit}), latency_weights(network)).value == pytest.approx(every[:, bit].ravel())


def test_a_stopped_search_says_what_it_knows():
    example = ds.examples.random_problem(300, 4, quantizable=40, seed=2)
    plan = ds.split(*example, max_noise=0.5, method="elimination", time_limit_s=1.0)
    exact = ds.split(*example, max_noise=0.5, method="milp")
    assert plan.bound <= exact.latency_s * (1 + 1e-6)
    assert plan.latency_s >= exact.latency_s * (1 - 1e-6)
    assert (plan.status == "optimal") == (plan.gap <= 1e-9)
    assert plan.noise <= 0.5


def test_twenty_bits_on_ten_servers_are_more_schemes_than_are_listed():
    graph, network, times, noise = ds.examples.random_problem(40, 10, quantizable=20, seed=5)
    plan = ds.split(graph, network, times, noise, max_noise=0.3, method="elimination")
    assert plan.reason.startswith("branch and bound over q")
    few = ds.split(graph, network.only("s0", "s1", "s2"), times, noise, max_noise=0.3)
    assert plan.status == "optimal"
    assert plan.latency_s <= few.latency_s
    assert plan.latency_s == pytest.approx(ds.evaluate(graph, network, times, plan.assignment, plan.quantized).latency_s)
