"""Forms on the wire are chosen exactly: every method against brute force over placements, schemes and all forms."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.coded_problems import coded_small, every_plan
from helpers.problems import random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.noise.models import Table
from dnnsplit.solving import split as split_module

METHODS = ("elimination", "milp", "slides")
ANY = ("float32", "png-1", "uint8", "jpeg-90", "jpeg-95")


def least(plans, value=lambda cost: cost.latency_s, keep=lambda cost: True):
    return min((value(cost) for cost, *_ in plans if keep(cost)), default=math.inf)


def asked(method, times):
    """Forms are named for the slides' method alone, whose default is that of the slides."""
    wire = tuple(n for n in ("float32", "zstd-1") if n == "float32" or n in times.forms.names)
    return {"method": method} | ({"source_forms": known(times), "wire_forms": wire} if method == "slides" else {})


def known(times):
    return tuple(n for n in ANY if n == "float32" or n in times.forms.names)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), limit=st.sampled_from((0.0, 0.02, 0.05, 0.1, math.inf)))
def test_every_method_finds_what_brute_force_finds(seed, limit):
    problem = coded_small(seed, missing=0.2)
    best = least(every_plan(*problem, limit))
    for method in METHODS:
        options = {"max_noise": limit, **asked(method, problem[2])}
        if math.isinf(best):
            with pytest.raises(ds.InfeasibleError):
                ds.split(*problem, **options)
            continue
        plan = ds.split(*problem, **options)
        assert plan.latency_s == pytest.approx(best, rel=1e-6)
        again = ds.evaluate(*problem[:3], plan.assignment, plan.quantized, forms=plan.forms)
        assert again == plan.cost
        assert plan.noise == problem[3].of(plan.quantized, plan.lossy_source)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), share=st.sampled_from((0.2, 0.5, 0.8)))
def test_a_limit_on_the_energy_of_the_device_chooses_among_forms_too(seed, share):
    problem = coded_small(seed, layers=2)
    plans = list(every_plan(*problem, 0.06))
    low, high = least(plans, lambda cost: cost.device_energy_j), min(plans, key=lambda one: one[0].latency_s)[0].device_energy_j
    limit = low + share * (high - low)
    best = least(plans, keep=lambda cost: cost.device_energy_j <= limit * (1 + 1e-9))
    for method in ("auto", "milp", "slides"):
        options = {"max_noise": 0.06, "max_device_energy_j": limit, **asked(method, problem[2])}
        assert ds.split(*problem, **options).latency_s == pytest.approx(best, rel=1e-6)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6), energy=st.sampled_from((0.3, 1.0)))
def test_energy_and_normalised_sums(seed, energy):
    problem = coded_small(seed, layers=2)
    options = {"max_noise": 0.06, "energy_weight": energy, "latency_weight": 1 - energy}
    first = ds.split(*problem, **options, method="elimination")
    if energy == 1.0:
        assert first.energy_j == pytest.approx(least(every_plan(*problem, 0.06), lambda cost: cost.energy_j), rel=1e-9)
    for method in ("milp", "slides"):
        other = ds.split(*problem, **options, **asked(method, problem[2]))
        assert other.objective == pytest.approx(first.objective, rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_the_slowest_stage(seed):
    problem = coded_small(seed, layers=2)
    best = least(every_plan(*problem, 0.06), lambda cost: cost.bottleneck_s)
    for method in ("milp", "slides"):
        options = {"max_noise": 0.06, "objective": "throughput", **asked(method, problem[2])}
        assert ds.split(*problem, **options).cost.bottleneck_s == pytest.approx(best, rel=1e-6)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_the_front_is_that_of_all_plans(seed):
    problem = coded_small(seed)
    front = ds.pareto(*problem, progress=False)
    plans = list(every_plan(*problem))
    for limit in sorted({eta for _, eta, _ in plans}):
        best = min(cost.latency_s for cost, eta, _ in plans if eta <= limit)
        assert front.at(limit).latency_s == pytest.approx(best, rel=1e-9)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_relays_pass_on_what_was_written_once(seed):
    problem = coded_small(seed, servers=3, missing=0.4)
    found = {}
    for method in METHODS:
        try:
            plan = ds.split(*problem, max_noise=0.06, routing="relay", **asked(method, problem[2]))
        except ds.InfeasibleError:
            found[method] = math.inf
            continue
        found[method] = plan.latency_s
        again = ds.evaluate(*problem[:3], plan.assignment, plan.quantized, plan.routes, plan.forms)
        assert again.latency_s == pytest.approx(plan.latency_s, rel=1e-12)
        later = [t for t in plan.transfers if t.form == plan.lossy_source and t.source != plan.source]
        assert all(t.encode_s == 0 for t in later)
    assert found["milp"] == pytest.approx(found["elimination"], rel=1e-6)
    assert found["slides"] == pytest.approx(found["elimination"], rel=1e-6)
    assert found["elimination"] <= least(every_plan(*problem, 0.06)) * (1 + 1e-9)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_more_schemes_than_are_listed_are_searched_for_each_source_form(seed):
    problem = coded_small(seed, layers=4, quantizable=2)
    wanted = ds.split(*problem, max_noise=0.06).latency_s
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dnnsplit.solving.elimination.sweep.MAX_BITS", 1)
        patch.setattr("dnnsplit.solving.bounds.branching.MAX_BITS", 1)
        patch.setattr("dnnsplit.solving.bounds.branching.LEAF_BITS", 1)
        assert ds.split(*problem, max_noise=0.06, method="elimination").latency_s == pytest.approx(wanted, rel=1e-9)


def test_with_the_plain_form_alone_nothing_is_coded():
    graph, network, times, noise = coded_small(7)
    bare = graph, network, replace(times, forms=None), replace(noise, sources={})
    for method in METHODS:
        coded = ds.split(graph, network, times, noise, max_noise=0.06, method=method, source_forms=("float32",))
        wanted = ds.split(*bare, max_noise=0.06, method=method)
        assert (coded.cost, coded.assignment, coded.quantized) == (wanted.cost, wanted.assignment, wanted.quantized)
    assert ds.split(graph, network, times, noise, max_noise=0.06, method="slides").forms == {}


def test_an_input_that_may_only_be_sent_with_loss_stays_at_the_source_where_none_is_allowed():
    graph, network, times, noise = coded_small(7)
    assert "jpeg-90" in times.forms.of("in")
    plan = ds.split(graph, network, times, noise, max_noise=0.0, source_forms=["jpeg-90"])
    assert all(t.tensor != "in" for t in plan.transfers if t.source != t.target)
    assert plan.source_form == "float32"


def test_forms_that_are_not_known_are_refused():
    graph, network, times, noise = coded_small(7)
    with pytest.raises(ds.OptionError, match=r"the times have no form 'jpg-90'.*did you mean 'jpeg-90'"):
        ds.split(graph, network, times, noise, source_forms=("jpg-90",))
    with pytest.raises(ds.OptionError, match="profile"):
        ds.split(*random_small(3), source_forms=("png-1",))
    with pytest.raises(ds.NoiseError, match="the noise of inputs as 'jpeg-90' is not known"):
        ds.split(graph, network, times, replace(noise, sources={}), max_noise=0.1, source_forms=("float32", "jpeg-90"))


def test_a_transfer_in_a_form_is_priced_by_hand():
    graph, network, times, _ = coded_small(7, lossy=0)
    server = {s.name: s for s in network.servers}
    home, away = network.source, next(s for s in network.server_names if s != network.source)
    assignment = dict.fromkeys(graph.layer_names, away)
    one = times.forms.of("in")["png-1"]
    plain = ds.evaluate(graph, network, times, assignment)
    coded = ds.evaluate(graph, network, times, assignment, forms={("in", home, away): "png-1"})
    moved = next(t for t in coded.transfers if t.tensor == "in")
    link = network.link(home, away)
    assert moved.size_bytes == one.size_bytes
    assert moved.seconds == pytest.approx(link.latency_s + one.size_bytes / link.bandwidth_bytes_per_s)
    assert (moved.encode_s, moved.decode_s) == (one.encode_s[home], one.decode_s[away])
    before = next(t for t in plain.transfers if t.tensor == "in")
    assert coded.latency_s == pytest.approx(plain.latency_s - before.seconds + moved.whole_s)
    joules = server[home].compute_w * moved.encode_s + server[away].compute_w * moved.decode_s
    saved = server[home].sending_j(before.seconds, before.size_bytes) - server[home].sending_j(moved.seconds, moved.size_bytes)
    assert coded.energy_j == pytest.approx(plain.energy_j + joules - saved)
    assert coded.stage_s[f"compute on {away}"] == pytest.approx(plain.stage_s[f"compute on {away}"] + moved.decode_s)


def lossy_wires(seed, layers=3):
    """A problem whose tensors between layers have a lossy form each, which is fast, and a noise alone that is known."""
    graph, network, times, noise = coded_small(seed, layers, lossy=1, lossy_wire=("uint8",))
    rng = np.random.default_rng(seed)
    made = [t.name for t in graph.tensors if t.producer is not None]
    return graph, network, times, replace(noise, tensors={name: {"uint8": float(rng.uniform(0.005, 0.05))} for name in made})


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), limit=st.sampled_from((0.02, 0.05, 0.1, math.inf)))
def test_lossy_wires_keep_the_power_sum_and_are_never_worse(seed, limit):
    problem = lossy_wires(seed)
    tensors = problem[3].tensors
    without = ds.split(*problem, max_noise=limit)
    plan = ds.split(*problem, max_noise=limit, wire_forms=("float32", "zstd-1", "uint8"))
    assert plan.objective <= without.objective
    assert ds.evaluate(*problem[:3], plan.assignment, plan.quantized, forms=plan.forms) == plan.cost
    added = sum(tensors[t.tensor]["uint8"] ** 2 for t in plan.transfers if t.tensor in tensors and t.form == "uint8")
    assert plan.noise == pytest.approx(math.hypot(problem[3].of(plan.quantized, plan.lossy_source), math.sqrt(added)))
    assert plan.noise <= limit * (1 + 1e-6)
    assert plan.noise_kind == ("none" if plan.noise == 0 else "predicted" if added else plan.noise_kind)
    # no plan of all that there are is better than the bound that is told
    best = without.objective
    for cost, eta, _ in every_plan(*problem, limit):
        best = min(best, _least_lossy(problem, cost, eta, limit))
    assert plan.bound <= best * (1 + 1e-9) <= plan.objective * (1 + 2e-9)


def _least_lossy(problem, cost, eta, limit):
    """The least latency of one placement over all lossy forms of tensors that are float32, within the limit."""
    graph, network, times, noise = problem
    table, made = times.forms, {t.name: t.producer for t in graph.tensors}
    own = []
    for t in cost.transfers:
        one = table.of(t.tensor).get("uint8")
        float32 = t.form in ("float32", "zstd-1") and t.source != t.target and made[t.tensor] is not None
        if one and float32 and not one.lossless and t.source in one.encode_s and t.target in one.decode_s:
            link = network.link(t.source, t.target)
            own.append((one.encode_s[t.source] + link.transfer_s(one.size_bytes) + one.decode_s[t.target] - t.whole_s,
                        noise.tensors[t.tensor]["uint8"] ** 2, t))  # fmt: skip
    best = math.inf
    int8 = {t.tensor for t in cost.transfers if t.form == "int8"}
    for chosen in itertools.product((0, 1), repeat=len(own)):
        picked = [o for o, bit in zip(own, chosen, strict=True) if bit]
        if math.hypot(eta, math.sqrt(sum(p for _, p, _ in picked))) <= limit and not any(t.tensor in int8 for *_, t in picked):
            best = min(best, cost.latency_s + sum(d for d, *_ in picked))
    return best


def test_a_measure_must_hear_of_the_form():
    problem = coded_small(7)
    truth = problem[3]
    with pytest.raises(ds.OptionError, match=r"verify takes names of layers alone.*source_forms without a loss"):
        ds.split(*problem, max_noise=0.06, verify=lambda names: truth.of(names))
    lossless = ("float32", "png-1", "uint8")
    plain = ds.split(*problem, max_noise=0.06, verify=lambda names: truth.of(names), source_forms=lossless)
    assert plain.lossy_source == ""
    told = ds.split(*problem, max_noise=0.06, verify=lambda names, source="": truth.of(names, source))
    assert told.latency_s == pytest.approx(ds.split(*problem, max_noise=0.06).latency_s)
    front = ds.pareto(*problem, verify=lambda names, source="": truth.of(names, source), progress=False)
    assert [plan.noise for plan in front.plans] == [truth.of(plan.quantized, plan.lossy_source) for plan in front.plans]


def test_a_bound_that_one_programme_lacks_is_not_made_up():
    problem = coded_small(7, lossy=2)
    real = split_module.solve_milp
    for lossy in (0, 2):  # one programme, and one for each source form
        asked = (*problem[:3], replace(problem[3], sources=problem[3].sources if lossy else {}))
        with pytest.MonkeyPatch.context() as patch:
            told = lambda *given: replace(real(*given), bound=math.nan, status="feasible")  # noqa: E731
            patch.setattr(split_module, "solve_milp", told)
            plan = ds.split(*asked, max_noise=0.06, method="milp")
        assert math.isnan(plan.bound)
        assert math.isnan(plan.gap)
        assert plan.status == "feasible"


def test_a_source_form_of_unknown_noise_is_not_taken():
    graph, network, times, noise = coded_small(7)
    unknown = replace(noise, sources={form: Table(noise.layers, {}) for form in noise.sources})
    for method in ("elimination", "milp"):
        plan = ds.split(graph, network, times, unknown, max_noise=0.06, method=method)
        wanted = ds.split(graph, network, times, replace(noise, sources={}), max_noise=0.06, method=method)
        assert (plan.cost, plan.lossy_source) == (wanted.cost, "")
