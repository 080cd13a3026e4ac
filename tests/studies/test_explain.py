"""Explanations: every alternative, every price of a pin and the next-best plans are what enumeration finds."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import COLUMNS, coded_small, every_choice
from helpers.problems import by_hand, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.profiling.wire_forms import WireForms
from dnnsplit.solving.objective import Reference
from dnnsplit.studies.explain import explain


def every_plan(graph, network, times, noise=None, max_noise=math.inf):
    """All placements and schemes within the noise limit: (cost, assignment, quantized), priced by `evaluate` alone."""
    layers = noise.layers if noise else ()
    for bits in itertools.product((0, 1), repeat=len(layers)):
        quantized = tuple(n for n, bit in zip(layers, bits, strict=True) if bit)
        if noise and noise.of(quantized) > max_noise:
            continue
        for servers in itertools.product(network.server_names, repeat=len(graph.layers)):
            assignment = dict(zip(graph.layer_names, servers, strict=True))
            try:
                yield ds.evaluate(graph, network, times, assignment, quantized), assignment, quantized
            except ds.InfeasibleError:
                continue


def least(plans, value, keep=lambda assignment, quantized: True):
    return min((value(cost) for cost, assignment, quantized in plans if keep(assignment, quantized)), default=math.inf)


def objective_of(plan):
    return math.inf if plan is None else plan.objective


WEIGHTS = [(1.0, 0.0), (0.0, 1.0), (1.0, 0.5)]


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 10**6), servers=st.integers(1, 3), weights=st.sampled_from(WEIGHTS), missing=st.sampled_from([0.0, 0.4]),
    max_noise=st.sampled_from([None, 0.04]),
)  # fmt: skip
def test_everything_said_is_what_enumeration_finds(seed, servers, weights, missing, max_noise):
    graph, network, times, noise = random_small(seed, 4, servers, 2, missing)
    asked = {"latency_weight": weights[0], "energy_weight": weights[1]}
    plan = ds.split(graph, network, times, noise, max_noise=max_noise, **asked)
    explanation = explain(plan, graph, network, times, noise, max_noise=max_noise, **asked)
    by = Reference(**plan.reference) if plan.reference else None

    def value(cost):
        if by is None:
            return weights[0] * cost.latency_s + weights[1] * cost.energy_j
        return float(np.dot(weights, by.normalise(cost.latency_s, cost.energy_j)))

    plans = list(every_plan(graph, network, times, noise, math.inf if max_noise is None else max_noise))
    if by is not None:
        assert by.latency_s[0] == pytest.approx(least(plans, lambda c: c.latency_s))
        assert by.energy_j[0] == pytest.approx(least(plans, lambda c: c.energy_j))
    close = {"rel": 1e-9, "abs": 1e-9}
    assert plan.objective == pytest.approx(least(plans, value), **close)
    here, bits = dict(plan.assignment), set(plan.quantized)
    expected = least(plans, value, lambda a, q: a != here)
    assert objective_of(explanation.next_cut) == pytest.approx(expected, **close)
    expected = least(plans, value, lambda a, q: set(q) != bits)
    assert objective_of(explanation.next_precision) == pytest.approx(expected, **close)
    expected = least(plans, value, lambda a, q: a != here or set(q) != bits)
    assert objective_of(explanation.next_best) == pytest.approx(expected, **close)
    for layer, server in itertools.product(graph.layer_names, network.server_names):
        expected = least(plans, value, lambda a, q, layer=layer, server=server: a[layer] == server) - plan.objective
        assert explanation.pin_prices.loc[layer, server] == pytest.approx(expected, **close)
    assert explanation.price_of_pin("n1", "s0") == pytest.approx(explanation.pin_prices.loc["n1", "s0"], **close)
    for alternative in explanation.alternatives:
        expected = least(plans, value, lambda a, q, only=alternative.servers: set(a.values()) <= {*only})
        assert objective_of(alternative.plan) == pytest.approx(expected, **close)
        assert bool(alternative.reason) == (alternative.plan is None)
    assert not explanation.note


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), max_noise=st.sampled_from([0.0, 0.04, 0.1]), slow=st.booleans())
def test_with_forms_everything_said_is_what_enumeration_finds(seed, max_noise, slow):
    graph, network, times, noise = coded_small(seed, layers=2)
    if slow:
        network = network.with_bandwidths({("s0", "s1"): 5.0})
    plan = ds.split(graph, network, times, noise, max_noise=max_noise)
    explanation = explain(plan, graph, network, times, noise, max_noise=max_noise)
    plans = list(every_choice(graph, network, times, noise, max_noise))

    def best(keep):
        return pytest.approx(min((c.latency_s for c, _, _, a, q in plans if keep(c, a, q)), default=math.inf), rel=1e-9)

    def sent(cost):
        return {t.form for t in cost.transfers if t.tensor == "in" and t.source != t.target}

    here, bits, taken = dict(plan.assignment), set(plan.quantized), sent(plan.cost)
    assert objective_of(explanation.next_cut) == best(lambda c, a, q: a != here)
    assert objective_of(explanation.next_precision) == best(lambda c, a, q: set(q) != bits)
    assert (explanation.next_precision is None) or set(explanation.next_precision.quantized) != bits
    if not taken:
        assert explanation.next_form is None
    elif times.forms.of("in"):
        assert objective_of(explanation.next_form) == best(lambda c, a, q: not sent(c) & taken)
    for alternative in explanation.alternatives:
        only = {*alternative.servers}
        assert objective_of(alternative.plan) == best(lambda c, a, q, only=only: {*a.values()} <= only)
    for layer, server in itertools.product(graph.layer_names, network.server_names):
        price = best(lambda c, a, q, layer=layer, server=server: a[layer] == server)
        assert plan.objective + explanation.pin_prices.loc[layer, server] == price


def coded_by_hand():
    """Everything on the edge: 3.125 s beside the input, 1000 B at 1000 B/s plainly, 400 B as png-1, 500 B as uint8."""
    graph, network, times = by_hand()
    coded = {"png-1": (400.0, 0.1), "uint8": (500.0, 0.2)}
    rows = [
        ("input", "float32", f, s, size, size, half, half, True) for f, (size, half) in coded.items() for s in ("device", "edge")
    ]
    times = replace(times, forms=WireForms(pd.DataFrame(rows, columns=COLUMNS)))
    return graph, network.with_bandwidths({("device", "edge"): 1000.0}), times


def test_the_verdict_tells_the_form_of_the_input():
    problem = coded_by_hand()
    found = explain(ds.split(*problem), *problem)
    # 3.125 + 0.4 + 0.2 = 3.725 as png-1, 4.025 as uint8; the device 7.5; b, c, d on the edge 6.525
    assert found.verdict == (
        "Do not split, send everything to 'edge', the input as 'png-1': everything on 'device' is 2.0 x slower, "
        "the best plan that splits is 75 % slower."
    )
    assert found.next_form.source_form == "uint8"
    assert found.next_form.latency_s == pytest.approx(4.025)
    assert found.next_best is found.next_form
    assert found.next_precision is None
    assert "next-best form is 8.1 % slower (the input as 'uint8')" in str(found)
    assert "next-best cut is 75 % slower (the input stays; a: edge -> device)" in str(found)
    assert list(found.frame["source_form"]) == ["png-1", "float32", "png-1", "png-1"]
    slides = explain(ds.split(*problem, source_forms="float32"), *problem, source_forms="float32")
    assert slides.verdict.startswith("Do not split, send everything to 'edge': everything on 'device' is 82 % slower")
    assert slides.next_form is None


def test_a_split_is_compared_with_servers_that_get_the_input_in_its_best_form():
    graph, network, times = coded_by_hand()
    pins = {"d": "device"}
    found = explain(ds.split(graph, network, times, pins=pins), graph, network, times, pins=pins)
    assert found.verdict.startswith("Split over edge + device, the input as 'png-1': everything on 'device' is")


def test_a_plan_in_forms_that_may_not_be_is_refused():
    problem = coded_by_hand()
    with pytest.raises(ds.OptionError, match=r"it sends 'input' as 'png-1', which may not be .*uint8"):
        explain(ds.split(*problem), *problem, source_forms=["uint8"])
    plain = ds.split(*problem, source_forms="float32")
    with pytest.raises(ds.OptionError, match="it sends 'input' as 'float32', which may not be"):
        explain(plain, *problem, source_forms=["uint8", "png-1"])


def test_do_not_split_by_hand():
    graph, network, times = by_hand()
    explanation = explain(ds.split(graph, network, times), graph, network, times)
    # device 4 + 2 + 1 + 0.5 = 7.5; b, c, d on edge: 4 + (0.5 + 400 / 100) + 0.5 + 0.25 + 0.125 + (0.25 + 100 / 200) = 10.125;
    # edge (0.5 + 1000 / 100) + 1.875 + 0.75 = 13.125
    assert explanation.verdict == (
        "Do not split: everything on 'device' is the optimum; the best plan that uses another server is 35 % slower."
    )
    assert dict(explanation.next_cut.assignment) == {"a": "device", "b": "edge", "c": "edge", "d": "edge"}
    assert explanation.next_best is explanation.next_cut
    assert explanation.next_precision is None
    assert explanation.pin_prices["device"].tolist() == [0, 0, 0, 0]
    assert explanation.pin_prices["edge"].tolist() == pytest.approx([5.625, 2.625, 2.625, 2.625])
    assert explanation.price_of_pin("a", "edge") == pytest.approx(5.625)
    frame = explanation.frame.set_index("alternative")
    assert frame.loc["everything on 'edge'", "latency_s"] == pytest.approx(13.125)
    assert frame.loc["everything on 'edge'", "ratio"] == pytest.approx(1.75)
    assert frame.loc["device + edge", "difference"] == 0
    assert list(explanation.moves(explanation.next_cut)["layer"]) == ["b", "c", "d"]
    assert "next-best cut is 35 % slower (b, c, d: device -> edge)" in str(explanation)


def test_do_not_split_where_there_is_no_other_server():
    graph, network, times = by_hand()
    alone = network.only("device")
    explanation = explain(ds.split(graph, alone, times), graph, alone, times)
    assert explanation.next_best is None
    assert explanation.verdict.endswith("no plan that uses another server exists.")


def test_everything_sent_to_the_edge_is_no_split_either():
    graph, network, times = by_hand()
    fast = replace(network, links=tuple(replace(link, bandwidth_bytes_per_s=1e6) for link in network.links))
    verdict = explain(ds.split(graph, fast, times), graph, fast, times).verdict
    assert verdict.startswith("Do not split, send everything to 'edge': everything on 'device' is 2.9 x slower, the best plan")


def test_a_split_is_compared_with_every_server_alone():
    graph, network, times, noise = ds.examples.tiny()
    plan = ds.split(graph, network, times, noise, pins={"conv1": "device", "conv2": "edge"})
    explanation = explain(plan, graph, network, times, noise, pins={"conv1": "device", "conv2": "edge"})
    assert (
        explanation.verdict
        == "Split over device + edge: everything on 'device' is not possible, everything on 'edge' is not possible."
    )
    alone = explanation.alternatives[0]
    assert alone.plan is None
    assert "layer 'conv2' may run on no server" in alone.reason
    assert explanation.price_of_pin("conv1", "edge") == math.inf
    assert explanation.pin_prices.loc["conv1", "edge"] == math.inf
    assert "everything on" in explanation._repr_html_()


@pytest.mark.parametrize("limited", ["memory", "max_device_energy_j", "max_energy_j"])
@pytest.mark.parametrize("seed", [1, 7])
def test_limits_that_couple_layers(limited, seed):
    graph, network, times, noise = random_small(seed, 4, 2, 1)
    free = ds.split(graph, network, times, noise)
    asked = {}
    if limited == "memory":
        held = sum(layer.weight_bytes for layer in graph.layers)
        network = replace(network, servers=tuple(replace(s, memory_bytes=0.7 * held) for s in network.servers))
    else:
        frugal = ds.split(graph, network, times, noise, **{limited: 1e9}, latency_weight=0.0, energy_weight=1.0)
        what = limited.removeprefix("max_")
        asked = {limited: 0.5 * (getattr(free, what) + min(getattr(free, what), getattr(frugal, what)))}

    def keeps(cost):
        memory = all(s.memory_bytes is None or cost.weight_bytes[s.name] <= s.memory_bytes for s in network.servers)
        return memory and all(getattr(cost, name.removeprefix("max_")) <= most for name, most in asked.items())

    plans = [entry for entry in every_plan(graph, network, times, noise) if keeps(entry[0])]
    plan = ds.split(graph, network, times, noise, **asked)
    explanation = explain(plan, graph, network, times, noise, **asked)
    assert "price_of_pin is exact" in explanation.note
    for layer, server in itertools.product(graph.layer_names, network.server_names):
        exact = least(plans, lambda c: c.latency_s, lambda a, q, layer=layer, server=server: a[layer] == server) - plan.objective
        assert explanation.price_of_pin(layer, server) == pytest.approx(exact, abs=1e-6)
        assert -1e-12 <= explanation.pin_prices.loc[layer, server] <= exact + 1e-6
    best = least(plans, lambda c: c.latency_s, lambda a, q: a != dict(plan.assignment))
    if "next-best cut" not in explanation.note:
        assert objective_of(explanation.next_cut) == pytest.approx(best, rel=1e-6)
    if explanation.next_precision is not None:
        other = least(plans, lambda c: c.latency_s, lambda a, q: set(q) != set(plan.quantized))
        assert explanation.next_precision.objective == pytest.approx(other, rel=1e-6)


def test_what_elimination_cannot_answer_is_said():
    graph, network, times, noise = ds.examples.random_problem(25, 2, 20, seed=1)
    plan = ds.split(graph, network, times, noise, max_noise=0.0)
    explanation = explain(plan, graph, network, times, noise, max_noise=0.0)
    assert "20 quantizable layers are too many" in explanation.note
    assert explanation.next_cut is None
    assert explanation.pin_prices.isna().all(axis=None)
    assert explanation.alternatives[0].plan.servers == ("s0",)
    assert explanation.price_of_pin("layer3", plan.assignment["layer3"]) == pytest.approx(0, abs=1e-9)


def test_many_servers_are_not_compared_in_every_combination():
    graph, network, times, _ = ds.examples.random_problem(6, 7, seed=2)
    explanation = explain(ds.split(graph, network, times), graph, network, times)
    sizes = [len(alternative.servers) for alternative in explanation.alternatives]
    assert [sizes.count(n) for n in (1, 2, 7)] == [7, 6, 1]
    assert len(sizes) == 14


def test_a_plan_of_another_question_is_refused():
    graph, network, times, noise = ds.examples.tiny()
    plan = ds.split(graph, network, times, noise)
    assert plan.quantized
    for problem, arguments in {
        "in int8, which may not be": {"network": network, "times": times},
        "is above max_noise 0": {"network": network, "times": times, "noise": noise, "max_noise": 0.0},
        "'edge', which is not in the network": {"network": network.only("device"), "times": times, "noise": noise},
    }.items():
        other = plan if "edge" not in problem else ds.split(graph, network, times, noise, pins={"fc": "edge"})
        with pytest.raises(ds.OptionError, match=problem):
            explain(other, graph, **arguments)
    with pytest.raises(ds.OptionError, match="but here energy_j is"):
        explain(plan, graph, network, times, noise, latency_weight=0.0, energy_weight=1.0)
    with pytest.raises(ds.OptionError, match="may not run on"):
        explain(plan, graph, network, times, noise, forbid={"conv1": plan.assignment["conv1"]})
    apart = ds.split(graph, network, times, noise, pins={"conv1": "device", "conv2": "edge"})
    with pytest.raises(ds.OptionError, match="'conv1' and 'conv2' are not on one server"):
        explain(apart, graph, network, times, noise, colocate=[("conv1", "conv2")])
    with pytest.raises(ds.DnnSplitError, match="does not fit the model"):
        explain(plan, by_hand()[0], *by_hand()[1:])


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_relays_through_servers_that_run_nothing(seed):
    graph, network, times, noise = random_small(seed, 4, 3, 1, 0.4)
    plan = ds.split(graph, network, times, noise, routing="relay")
    explanation = explain(plan, graph, network, times, noise, routing="relay")
    for alternative in explanation.alternatives:
        if network.source in alternative.servers:  # on fewer servers, there are fewer to pass through
            own = ds.split(graph, network.only(*alternative.servers), times, noise, routing="relay")
            assert alternative.plan.objective == pytest.approx(own.objective, rel=1e-9)
    for layer, server in itertools.product(graph.layer_names, network.server_names):
        price = explanation.price_of_pin(layer, server)
        assert explanation.pin_prices.loc[layer, server] == pytest.approx(price, abs=1e-9)


def test_throughput_has_alternatives_but_no_prices():
    graph, network, times, noise = ds.examples.tiny()
    plan = ds.split(graph, network, times, noise, max_noise=0.01, objective="throughput")
    explanation = explain(plan, graph, network, times, noise, max_noise=0.01, objective="throughput")
    assert "the slowest stage is no sum over layers" in explanation.note
    stages = [cost.bottleneck_s for cost, a, _ in every_plan(graph, network, times, noise, 0.01) if {*a.values()} == {"device"}]
    assert explanation.alternatives[0].plan.objective == pytest.approx(min(stages))
    assert explanation.price_of_pin("fc", plan.assignment["fc"]) == pytest.approx(0.0, abs=1e-6)
    assert explanation.pin_prices.isna().all(axis=None)
    assert "slower in its slowest stage" in explanation.verdict


def test_self_links_and_verified_plans_are_explained():
    graph, network, times, noise = ds.examples.tiny()
    inside = [ds.Link(name, name, 1e9) for name in network.server_names]
    network = ds.Network(network.servers, [*network.links, *inside], "device")
    asked = {"max_noise": 0.02, "verify": noise.of}
    plan = ds.split(graph, network, times, noise, **asked)
    found = ds.explain(plan, graph, network, times, noise, **asked)
    assert {a.name for a in found.alternatives} >= {"everything on 'device'", "everything on 'edge'"}
    assert all(a.plan for a in found.alternatives)


def test_a_plan_that_was_measured_to_hold_is_explained_where_the_noise_model_thinks_otherwise():
    """As on further images, on which a scheme may make less noise than on those that the model was fitted to."""
    graph, network, times, noise = ds.examples.tiny()
    found = ds.split(graph, network, times, noise, max_noise=0.05)
    assert found.noise == pytest.approx(0.037)  # by the model
    plan = replace(found, noise=0.018, noise_kind="measured", measurements=1)
    told = ds.explain(plan, graph, network, times, noise, max_noise=0.02)
    assert "the noise of the plan was measured, that of others is by the noise model" in told.note
    assert [told.pin_prices.loc[layer, server] for layer, server in plan.assignment.items()] == [0.0] * len(graph.layers)
    assert [one.plan.noise for one in told.alternatives] == [0.012, 0.012, 0.012]  # they keep the limit by the model
    with pytest.raises(ds.OptionError, match=r"its noise 0\.037 is above max_noise 0\.02"):
        ds.explain(found, graph, network, times, noise, max_noise=0.02)
    with pytest.raises(ds.OptionError, match=r"its noise 0\.037 is above max_noise 0\.01"):
        ds.explain(plan, graph, network, times, noise, max_noise=0.01)
