"""Elimination, the slides' MILP and brute force agree; limits hold; bad requests are told what is wrong."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from helpers.problems import brute_force, by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.noise.schemes import cuts
from dnnsplit.solving.arrays import build_problem, energy_weights, latency_weights
from dnnsplit.solving.elimination import factors
from dnnsplit.solving.elimination.order import Sizes, find_ordering
from dnnsplit.solving.elimination.sweep import eliminate, marginals
from dnnsplit.solving.milp.solvers import available_solvers
from dnnsplit.solving.objective import Reference, reference
from dnnsplit.solving.request import Request

quick = settings(deadline=None, max_examples=25)


@quick
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 3), missing=st.sampled_from([0.0, 0.3]))
def test_elimination_equals_brute_force_over_all_assignments_and_schemes(seed, servers, missing):
    graph, network, times, noise = random_small(seed, 5, servers, 2, missing)
    for max_noise in (0.0, 0.06, None):
        best = brute_force(graph, network, times, noise, math.inf if max_noise is None else max_noise)
        if math.isinf(best):
            with pytest.raises(ds.InfeasibleError, match="missing links"):
                ds.split(graph, network, times, noise, max_noise=max_noise)
        else:
            plan = ds.split(graph, network, times, noise, max_noise=max_noise, method="elimination")
            assert plan.latency_s == pytest.approx(best, rel=1e-12)
            assert plan.noise <= (math.inf if max_noise is None else max_noise)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 3))
def test_both_milps_equal_elimination(seed, servers):
    graph, network, times, noise = random_small(seed, 5, servers, 3)
    for max_noise, energy_weight in ((0.0, 0.0), (0.07, 0.0), (None, 1.0)):
        options = {"max_noise": max_noise, "energy_weight": energy_weight}
        exact = ds.split(graph, network, times, noise, method="elimination", **options)
        for method in ("slides", "milp"):
            milp = ds.split(graph, network, times, noise, method=method, **options)
            assert milp.status == "optimal"
            assert milp.method == method
            assert milp.objective == pytest.approx(exact.objective, rel=1e-6, abs=1e-7)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_the_milps_keep_the_device_energy_limit_as_brute_force_does(seed):
    graph, network, times, noise = random_small(seed, 4, 2, 2)
    free = ds.split(graph, network, times, noise)
    limit = 0.8 * free.device_energy_j
    best = brute_force(graph, network, times, noise, keep=lambda cost: cost.device_energy_j <= limit)
    if math.isinf(best):
        with pytest.raises(ds.InfeasibleError, match=r"device energy: limit .* best reachable"):
            ds.split(graph, network, times, noise, max_device_energy_j=limit)
    else:
        for method in ("auto", "slides"):
            plan = ds.split(graph, network, times, noise, max_device_energy_j=limit, method=method)
            assert plan.latency_s == pytest.approx(best, rel=1e-6)
            assert plan.device_energy_j <= limit * (1 + 1e-6)


def test_memory_counts_a_quarter_for_int8_layers():
    graph, network, times = by_hand()
    noise = ds.NoiseModel.polynomial(("a", "b"), {"a": 0.1, "b": 0.1})
    small = [ds.Server("device", 2.0, 3.0, memory_bytes=150.0), ds.Server("edge", 5.0, 1.0, memory_bytes=0.0)]
    network = ds.Network(small, network.links, "device")
    plan = ds.split(graph, network, times, noise)
    assert set(plan.quantized) == {"a", "b"}  # 400 + 200 bytes fit 150 only as int8
    assert plan.status == "optimal"
    with pytest.raises(ds.InfeasibleError, match=r"memory of 'device': limit 150 B; the model's weights are 600 B"):
        ds.split(graph, network, times, noise, max_noise=0.15)


@pytest.mark.parametrize("solver", ["HiGHS", "CBC"])
def test_both_bundled_solvers_prove_the_optimum(solver):
    graph, network, times, noise = random_small(3, 6, 3, 3)
    plan = ds.split(graph, network, times, noise, max_noise=0.08, method="slides", solver=solver)
    exact = ds.split(graph, network, times, noise, max_noise=0.08, method="elimination")
    assert plan.latency_s == pytest.approx(exact.latency_s, rel=1e-7)
    assert plan.status == "optimal"
    assert plan.bound == pytest.approx(plan.objective, rel=1e-6)
    assert plan.gap <= 1e-6


def test_a_time_limit_never_calls_an_incumbent_optimal():
    example = ds.examples.random_problem(120, 3, quantizable=6, seed=1)
    try:
        plan = ds.split(*example, max_noise=0.1, method="slides", time_limit_s=0.3)
    except ds.SolverError:
        return  # nothing found in time is an honest answer too
    exact = ds.split(*example, max_noise=0.1)
    assert plan.latency_s >= exact.latency_s * (1 - 1e-9)
    if plan.status == "optimal":
        assert plan.latency_s == pytest.approx(exact.latency_s, rel=1e-6)
    else:
        assert plan.bound <= exact.latency_s * (1 + 1e-6)


def test_negative_gain_is_not_ignored():
    graph, network, times = by_hand()  # b is slower in int8 on both servers, and its tensor is small
    noise = ds.NoiseModel.polynomial(("b",), {"b": 0.0})
    for method in ("elimination", "milp", "slides"):
        assert ds.split(graph, network.only("device"), times, noise, method=method).quantized == ()


def test_pins_and_prohibitions_hold_and_match_brute_force():
    graph, network, times, noise = random_small(11, 5, 3, 2)
    for method in ("elimination", "milp", "slides"):
        plan = ds.split(graph, network, times, noise, pins={"n1": "s2"}, forbid={"n3": ("s0", "s1")}, method=method)
        assert (plan.assignment["n1"], plan.assignment["n3"]) == ("s2", "s2")
        best = brute_force(
            graph,
            network,
            times,
            noise,
            allowed=lambda n, s: not (n == "n1" and s != "s2") and not (n == "n3" and s in ("s0", "s1")),
        )
        assert plan.latency_s == pytest.approx(best, rel=1e-7)


@quick
@given(seed=st.integers(0, 10**6))
def test_colocation_and_forbidden_links_match_brute_force(seed):
    graph, network, times, noise = random_small(seed, 5, 3, 1)
    groups, links = [("n0", "n3"), ("n1", "n4", "n2")], [("s0", "s2")]
    best = brute_force(
        graph, network.without(*links), times, noise,
        together=groups,
    )  # fmt: skip
    for method in ("elimination", "milp", "slides"):
        plan = ds.split(graph, network, times, noise, colocate=groups, forbid_links=links, method=method)
        assert plan.latency_s == pytest.approx(best, rel=1e-7)
        assert all(len({plan.assignment[n] for n in group}) == 1 for group in groups)
        assert not [t for t in plan.transfers if (t.source, t.target) in links]


def test_a_plan_says_why_it_was_found_as_it_was():
    example = ds.examples.tiny()
    assert ds.split(*example).reason == "exact, and the fastest where it applies"
    assert ds.split(*example, method="slides").reason == "asked for"
    graph, network, times, noise = example
    small = ds.Network([network.servers[0], ds.Server("edge", memory_bytes=10.0)], network.links, "device")
    plan = ds.split(graph, small, times, noise)
    assert plan.method == "milp"
    assert "exceed its 10 B" in plan.reason


def test_without_a_noise_model_nothing_is_quantized():
    plan = ds.split(*by_hand())
    assert plan.quantized == ()
    assert (plan.noise, plan.noise_kind) == (0.0, "none")
    assert plan.latency_s == brute_force(*by_hand())


def test_noise_limit_zero_is_the_float_model():
    example = ds.examples.tiny()
    plan = ds.split(*example, max_noise=0)
    assert plan.quantized == ()
    assert plan.noise == 0.0


class TestNormalisation:
    def test_references_are_lexicographic_payoffs_by_brute_force(self):
        graph, network, times, noise = random_small(5, 4, 2, 2)
        found = reference(build_problem(graph, network, times, noise.layers))
        least_t = brute_force(graph, network, times, noise)
        least_e = brute_force(graph, network, times, noise, value=lambda c: c.energy_j)
        e_at_t = brute_force(
            graph, network, times, noise, value=lambda c: c.energy_j, keep=lambda c: c.latency_s <= least_t + 1e-9
        )
        t_at_e = brute_force(graph, network, times, noise, keep=lambda c: c.energy_j <= least_e + 1e-9)
        assert found.latency_s == pytest.approx((least_t, t_at_e))
        assert found.energy_j == pytest.approx((least_e, e_at_t))

    def test_by_hand(self):
        assert Reference((2.0, 4.0), (10.0, 30.0)).normalise(3.0, 15.0) == (0.5, 0.25)

    def test_a_range_of_zero_makes_the_term_zero_at_the_reference(self):
        assert Reference((2.0, 2.0), (5.0, 5.0)).normalise(2.0, 5.0) == (0.0, 0.0)

    def test_weighted_sum_is_least_among_all_placements(self):
        graph, network, times, noise = random_small(9, 4, 2, 2)
        fixed = reference(build_problem(graph, network, times, noise.layers))
        asked = {"latency_weight": 0.4, "energy_weight": 0.6, "normalise": "fixed"}
        for method in ("elimination", "slides"):
            plan = ds.split(graph, network, times, noise, method=method, **asked)
            weigh = lambda c: float(np.dot((0.4, 0.6), fixed.normalise(c.latency_s, c.energy_j)))  # noqa: E731
            assert plan.objective == pytest.approx(brute_force(graph, network, times, noise, value=weigh), abs=1e-7)
            assert plan.objective_name == "0.4 T^norm + 0.6 E^norm"

    def test_by_hand_under_a_limit(self):
        # one layer, three servers that are reached for nothing: (T, E) = (1, 9), (2, 4), (6, 1), and (10, 0) with a limit below
        servers = [ds.Server(n, w) for n, w in (("a", 9.0), ("b", 2.0), ("c", 1 / 6), ("d", 0.0))]
        free = [ds.Link(x, y, math.inf, 0.0) for x in "abcd" for y in "abcd" if x != y]
        graph = ds.LayerGraph([ds.Layer("l")], [ds.Tensor("x", None, ("l",), 8), ds.Tensor("y", "l", (), 8, is_output=True)])
        rows = [("l", s, "float32", t) for s, t in zip("abcd", (1.0, 2.0, 6.0, 10.0), strict=True)]
        times = ds.LayerTimes.from_frame(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
        problem = (graph, ds.Network(servers, free, "a"), times)
        both = {"latency_weight": 0.5, "energy_weight": 0.5, "forbid": {"l": ("d",)}}
        for method in ("elimination", "milp", "slides"):
            plan = ds.split(*problem, method=method, **both)
            assert plan.assignment == {"l": "b"}
            assert plan.reference == {"latency_s": (1.0, 6.0), "energy_j": (1.0, 9.0), "under": "limited", "proved": True}
            assert (plan.latency_norm, plan.energy_norm) == pytest.approx((0.2, 0.375))  # (2 - 1) / 5, (4 - 1) / 8
            assert plan.objective == pytest.approx(0.2875)
            fixed = ds.split(*problem, method=method, normalise="fixed", **both)
            assert fixed.reference["latency_s"] == (1.0, 10.0)  # with d, which is forbidden
            assert (fixed.latency_norm, fixed.energy_norm) == pytest.approx((1 / 9, 4 / 9))
            tight = ds.split(*problem, method=method, max_energy_j=4.0, **both)
            assert tight.reference["latency_s"] == (2.0, 6.0)
            assert tight.reference["energy_j"] == (1.0, 4.0)
            assert (tight.latency_norm, tight.energy_norm) in ((0.0, 1.0), (1.0, 0.0))  # the two ends weigh the same

    def test_payoffs_that_a_limit_binds_are_lexicographic(self):
        # a and b take as long and differ in energy; c is slower; the device's energy limit forbids the fastest, d
        powers, seconds = {"a": 3.0, "b": 2.0, "c": 0.5, "d": 8.0}, {"a": 2.0, "b": 2.0, "c": 5.0, "d": 1.0}
        free = [ds.Link(x, y, math.inf, 0.0) for x in "abcd" for y in "abcd" if x != y]
        graph = ds.LayerGraph([ds.Layer("l")], [ds.Tensor("x", None, ("l",), 8), ds.Tensor("y", "l", (), 8, is_output=True)])
        rows = [("l", s, "float32", t) for s, t in seconds.items()]
        times = ds.LayerTimes.from_frame(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
        network = ds.Network([ds.Server(n, w) for n, w in powers.items()], free, "d")
        plan = ds.split(graph, network, times, latency_weight=1, energy_weight=1, max_device_energy_j=7.0)
        assert plan.reference["latency_s"] == pytest.approx((2.0, 5.0))
        assert plan.reference["energy_j"] == pytest.approx((2.5, 4.0))  # c, and b: of a and b the one with less energy

    def test_a_plan_keeps_its_reference_in_a_file(self, tmp_path):
        plan = ds.split(*ds.examples.tiny(), max_noise=0.05, latency_weight=0.5, energy_weight=0.5)
        plan.save(tmp_path / "plan.json")
        again = ds.Plan.load(tmp_path / "plan.json")
        assert (again.latency_norm, again.energy_norm) == (plan.latency_norm, plan.energy_norm)
        assert math.isnan(ds.split(*ds.examples.tiny()).latency_norm)

    def test_an_unknown_normalisation_is_refused(self):
        with pytest.raises(ds.OptionError, match=r"normalise 'limitd' is unknown \(did you mean 'limited'"):
            ds.split(*ds.examples.tiny(), normalise="limitd")

    def test_energy_alone_minimises_raw_joules(self):
        graph, network, times, noise = random_small(2, 4, 2, 1)
        plan = ds.split(graph, network, times, noise, latency_weight=0, energy_weight=1)
        assert plan.energy_j == pytest.approx(brute_force(graph, network, times, noise, value=lambda c: c.energy_j))


def test_elimination_gives_the_optimum_of_every_scheme_and_a_placement_that_attains_it():
    graph, network, times, noise = random_small(21, 5, 2, 3)
    problem = build_problem(graph, network, times, noise.layers)
    for weights in (latency_weights(network), energy_weights(network)):
        optima = eliminate(problem, weights)
        for scheme in range(8):
            cost = problem.price(optima.placement(scheme), scheme)
            assert weights.of(cost, network) == pytest.approx(optima.value[scheme], rel=1e-12)


@quick
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 3), missing=st.sampled_from([0.0, 0.3]))
def test_marginals_are_the_optima_with_one_layer_pinned(seed, servers, missing):
    graph, network, times, noise = random_small(seed, 5, servers, 2, missing)
    problem = build_problem(graph, network, times, noise.layers)
    allowed = noise.every() <= 0.06
    least = marginals(problem, latency_weights(network), allowed)
    for layer, row in zip(graph.layer_names, least, strict=True):
        for server, value in zip(network.server_names, row, strict=True):
            try:
                pinned = ds.split(graph, network, times, noise, max_noise=0.06, pins={layer: server}, method="elimination")
            except ds.InfeasibleError:
                assert math.isinf(value)
            else:
                assert value == pytest.approx(pinned.latency_s, rel=1e-12)


@quick
@given(
    seed=st.integers(0, 10**6), servers=st.integers(2, 3), missing=st.sampled_from([0.0, 0.3]),
    routing=st.sampled_from(["direct", "relay"]),
)  # fmt: skip
def test_sets_of_servers_give_what_one_table_gives(seed, servers, missing, routing):
    graph, network, times, noise = random_small(seed, 6, servers, 2, missing)
    problem = build_problem(graph, network, times, noise.layers, Request(routing=routing))
    latency, energy = latency_weights(network), energy_weights(network)
    allowed = noise.every() <= 0.06
    several = any(len(set(receivers) - {-1}) > 1 for receivers in problem.receivers)
    found = []
    for factors_tried in ((), (0,)):  # a set of servers for no tensor, and for every one with two receivers
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(factors, "FACTORS", factors_tried)
            patch.setattr(factors, "ENOUGH", -math.inf)
            patch.setattr(factors, "work", lambda scopes, sizes, first: -len(scopes))
            assert bool(factors.best_form(problem).starred) == bool(factors_tried and several)
            found.append((eliminate(problem, latency, energy), marginals(problem, latency, allowed)))
    (whole, least), (parts, other) = found
    assert parts.values == pytest.approx(whole.values, rel=1e-12)
    assert other == pytest.approx(least, rel=1e-12)
    for scheme in range(4):
        if math.isfinite(whole.value[scheme]):
            cost = problem.price(parts.placement(scheme), scheme, latency, energy)
            assert latency.of(cost, network) == pytest.approx(whole.value[scheme], rel=1e-12)


def test_a_mask_that_every_block_reads_leaves_the_front_exact():
    graph, network, times, noise = ds.examples.random_problem(120, 3, quantizable=6, seed=7)
    mask = ds.Tensor("mask", None, graph.layer_names[::6], 4e3)
    graph = ds.LayerGraph(graph.layers, (*graph.tensors, mask))
    front = ds.pareto(graph, network, times, noise)
    for plan in (front.plans[0], front.plans[-1]):
        tight = ds.split(graph, network, times, noise, max_noise=plan.noise, method="milp")
        assert tight.latency_s == pytest.approx(plan.latency_s, rel=1e-7)


def test_memory_is_estimated_before_tables_are_made():
    chain = tuple((i, i + 1) for i in range(9))
    ordering = find_ordering(chain, Sizes(servers=4, layers=10), first=0, objectives=1)
    assert len(ordering.steps) == 10
    assert ordering.entries == 9 * 16 + 4  # every layer of a chain is eliminated with one neighbour, the last one alone
    assert 9 * 16 * 8 <= ordering.peak_bytes <= 2 * 9 * 16 * 8
    everything = (tuple(range(20)),)
    with pytest.raises(ds.SolverError, match=r"needs 8.796 TB or more of memory \(limit 4.295 GB\): .* 20 layers on 4"):
        find_ordering(everything, Sizes(servers=4, layers=20), first=0)


def test_one_reference_whatever_is_pinned():
    graph, network, times, noise = random_small(9, 4, 2, 2)
    free = ds.split(graph, network, times, noise, latency_weight=0.5, energy_weight=0.5)
    pinned = ds.split(graph, network, times, noise, latency_weight=0.5, energy_weight=0.5, pins=dict(free.assignment))
    assert pinned.objective == free.objective


@quick
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 3))
def test_free_bits_give_the_best_of_all_schemes(seed, servers):
    graph, network, times, noise = random_small(seed, 6, servers, 4)
    problem = build_problem(graph, network, times, noise.layers)
    for weights in (latency_weights(network), energy_weights(network)):
        every, free = eliminate(problem, weights), eliminate(problem, weights, free_bits=True)
        assert free.value.shape == (1,)
        assert free.value[0] == pytest.approx(every.value.min(), rel=1e-12)
        assert weights.of(problem.price(*free.best()), network) == pytest.approx(every.value.min(), rel=1e-12)


def test_ties_go_to_the_plan_with_less_energy():
    graph, network, times = by_hand()
    same = times.frame.assign(seconds=1.0)
    free = [ds.Link(a, b, 1e12, 0.0) for a, b in (("device", "edge"), ("edge", "device"))]
    network = ds.Network(network.servers, free, "device")
    plan = ds.split(graph, network, ds.LayerTimes(same))
    assert set(plan.assignment.values()) == {"device"}  # 2 W against 5 W for the same seconds


@pytest.mark.parametrize("bad", ["0.1", float("nan"), True, [0.1]])
def test_a_noise_limit_that_is_no_number_is_refused(bad):
    with pytest.raises(ds.NoiseError, match=r"max_noise is .*not a number"):
        ds.split(*ds.examples.tiny(), max_noise=bad)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_noise": -0.1}, ds.NoiseError, "it must be 0 or more"),
        ({"method": "eliminatoin"}, ds.OptionError, "did you mean 'elimination'"),
        ({"routing": "relais"}, ds.OptionError, "did you mean 'relay'"),
        ({"objective": "thoughput"}, ds.OptionError, "did you mean 'throughput'"),
        ({"latency_weight": -1}, ds.OptionError, "latency_weight is -1"),
        ({"latency_weight": 0}, ds.OptionError, "nothing to minimise"),
        ({"max_device_energy_j": "x"}, ds.OptionError, "max_device_energy_j is 'x'"),
        ({"pins": {"conv9": "edge"}}, ds.ModelError, "there is no layer 'conv9'"),
        ({"pins": {"conv1": "egde"}}, ds.NetworkError, "did you mean 'edge'"),
        ({"colocate": [("conv1", "conv9")]}, ds.ModelError, "there is no layer 'conv9'"),
        ({"forbid_links": [("device", "cloud")]}, ds.NetworkError, "there is no link 'device -> cloud'"),
        ({"forbid": {"conv1": ("device", "edge")}}, ds.InfeasibleError, "may run on no server"),
        ({"method": "slides", "solver": "higs"}, ds.SolverError, "did you mean 'HiGHS'"),
    ],
)
def test_bad_requests_name_the_value_and_the_way_out(options, error, text):
    with pytest.raises(error, match=text):
        ds.split(*ds.examples.tiny(), **options)


def test_a_limit_without_a_noise_model_is_refused():
    with pytest.raises(ds.NoiseError, match="max_noise needs a noise model"):
        ds.split(*by_hand(), max_noise=0.1)


def test_a_solver_that_is_not_installed_is_named():
    missing = next(s for s in ("GUROBI", "CPLEX", "SCIP") if s not in available_solvers())
    with pytest.raises(ds.SolverError, match=f"'{missing}' is not installed here; there are .*CBC"):
        ds.split(*ds.examples.tiny(), method="slides", solver=missing)


@quick
@given(seed=st.integers(0, 10**6), missing=st.booleans())
def test_a_measured_table_of_any_shape_decides_in_every_method(seed, missing):
    graph, network, times, noise = random_small(seed, 4, 2, 3)
    rng = np.random.default_rng(seed)
    schemes = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    values = np.where(schemes.any(axis=1), rng.uniform(0, 0.1, 8), 0.0)  # neither monotone nor complete
    keep = rng.random(8) < 0.8 if missing else np.ones(8, bool)
    keep[0] = True
    frame = pd.DataFrame(schemes, columns=list(noise.layers)).assign(noise=values)[keep]
    table = ds.fit_noise(ds.NoiseSamples(frame), "measured")
    for limit in (0.0, 0.05, None):
        exact = ds.split(graph, network, times, table, max_noise=limit, method="elimination")
        for method in ("milp", "slides"):
            plan = ds.split(graph, network, times, table, max_noise=limit, method=method)
            assert plan.latency_s == pytest.approx(exact.latency_s, rel=1e-7)
            assert plan.noise <= (1.0 if limit is None else limit)


def test_cuts_keep_exactly_what_is_not_excluded():
    rng = np.random.default_rng(0)
    for bits in (1, 3, 5):
        for share in (0.1, 0.5, 0.9):
            excluded = rng.random(2**bits) < share
            covers, single = cuts(excluded, bits)
            for scheme in range(2**bits):
                cut_off = any(scheme & c == c for c in covers) or scheme in single
                assert cut_off == excluded[scheme]
    above = np.array([q.bit_count() >= 2 for q in range(16)])
    assert cuts(above, 4) == ([0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100], [])  # a monotone limit needs covers alone


def test_thirty_quantizable_layers_go_to_the_milp_at_once():
    example = ds.examples.random_problem(40, 2, quantizable=30, seed=2)
    plan = ds.split(*example, max_noise=0.1)
    assert plan.method == "milp"
    assert "30 quantizable layers are too many" in plan.reason
    assert plan.status == "optimal"
    assert plan.noise <= 0.1 * (1 + 1e-6)
    branched = ds.split(*example, max_noise=0.1, method="elimination")
    assert branched.latency_s == pytest.approx(plan.latency_s, rel=1e-7)
    assert branched.reason.startswith("branch and bound over q")
    with pytest.raises(ds.SolverError, match="use method='milp'"):
        ds.pareto(*example)
    both = ds.split(*example, max_noise=0.1, energy_weight=1.0)  # the normalisation needs no list of schemes
    assert (both.method, both.status) == ("milp", "optimal")
    with pytest.raises(ds.InfeasibleError, match="too many schemes to say"):
        ds.split(*example, max_noise=0.1, max_energy_j=1e-6)


def test_plan_round_trip(tmp_path):
    plan = ds.split(*ds.examples.tiny(), max_noise=0.02)
    plan.save(tmp_path / "plan.json")
    again = ds.Plan.load(tmp_path / "plan.json")
    assert again.to_json() == plan.to_json()
    assert again.latency_s == plan.latency_s
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ds.DnnSplitError, match="no plan of schema 1"):
        ds.Plan.load(tmp_path / "bad.json")


def test_all_that_is_wrong_with_the_form_of_a_plan_is_told_at_once(tmp_path):
    ds.split(*ds.examples.tiny(), max_noise=0.02).save(path := tmp_path / "plan.json")
    document = json.loads(path.read_text())
    document["quantised"] = document.pop("quantized")
    document["assignment"] = "device"
    document["cost"]["transfers"][0]["seconds"] = "soon"
    path.write_text(json.dumps(document))
    with pytest.raises(ds.DnnSplitError, match=r"plan\.json is not readable as a plan: 4 problems") as error:
        ds.Plan.load(path)
    text = "\n".join(error.value.details)
    assert "the key 'quantized' is missing" in text
    assert "the key 'quantised' is unknown (did you mean 'quantized'?)" in text
    assert "assignment is 'device'" in text
    assert "cost.transfers[0].seconds is 'soon'" in text
    for content in ("[]", "null", "{", '"plan"'):
        path.write_text(content)
        with pytest.raises(ds.DnnSplitError, match="plan"):
            ds.Plan.load(path)


def test_a_real_instance_reaches_the_known_optima(instance):
    graph, network, times, noise = ds.Instance.load(instance)
    for known in pd.read_csv(instance / "optima.csv").itertuples():
        plan = ds.split(graph, network.only(*known.servers.split("+")), times, noise, max_noise=known.max_noise)
        assert plan.latency_s == pytest.approx(known.optimum, rel=1e-9)


def test_two_quantization_settings_are_refused():
    graph, network, times, noise = ds.examples.tiny()
    one, two = {"activation": "uint8", "per_channel": True}, {"activation": "int8", "per_channel": False}
    made = dataclasses.replace(times, made={"device": {"setting": one}})
    noise = dataclasses.replace(noise, origin={"setting": two})
    told = r"mixed, QuantizationSetting\(activation='int8', .* in the noise, 'default' in the times of device; measure all"
    for find in (ds.split, ds.pareto):
        with pytest.raises(ds.NoiseError, match=told):
            find(graph, network, made, noise)
    assert ds.split(graph, network, made, dataclasses.replace(noise, origin={"setting": one}))


def test_a_measurer_of_another_noise_is_refused():
    graph, network, times, noise = ds.examples.tiny()
    noise = dataclasses.replace(noise, origin={"metric": "rho", "model_sha256": "a"})

    class Meter:
        origin = {"metric": "relative", "model_sha256": "a"}  # noqa: RUF012

        def __call__(self, names):
            return 0.0

    with pytest.raises(ds.NoiseError, match="metric is rho in the noise model, relative in verify"):
        ds.split(graph, network, times, noise, max_noise=0.02, verify=Meter())
    Meter.origin, noise = {"setting": "thesis"}, dataclasses.replace(noise, origin={"setting": "default"})
    with pytest.raises(ds.NoiseError, match="mixed, 'default' in the noise model, 'thesis' in the measure"):
        ds.split(graph, network, times, noise, max_noise=0.02, verify=Meter())
