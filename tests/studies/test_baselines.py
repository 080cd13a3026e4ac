"""Baselines: each is the best of its own kind by brute force, none is better than the optimum, and limits hold."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import coded_small, every_plan
from helpers.problems import by_hand, random_small
from helpers.random_questions import Recipe, random_question
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.ground.tolerance import within
from dnnsplit.profiling.wire_forms import WireForms
from dnnsplit.solving.milp.solvers import OutOfTime
from dnnsplit.studies import baselines as module

SEARCHED = ("best single cut", "articulation points", "two-server min cut", "contiguous tiers", "greedy")
QUICK = ("device only", *SEARCHED, "dnnsplit, float32", "dnnsplit")


def table(problem, *methods, **asked):
    return ds.baselines(*problem, methods=methods or None, **asked).set_index("method")


def prefixes(graph, network, single=False):
    """Yield what is before each place of the topological order on the source, and the rest on one other server."""
    names = graph.topological
    for place in range(len(names) + 1):
        before = {None, *names[:place]}
        crossing = [t for t in graph.tensors if t.producer in before and not {*t.consumers} <= before]
        if single and len(crossing) > 1 and 0 < place < len(names):
            continue
        for other in network.server_names:
            yield {name: network.source if name in before else other for name in names}


def tiers(graph, network):
    names = graph.topological
    others = [s for s in network.server_names if s != network.source]
    for servers in itertools.permutations(others, min(2, len(others))):
        for cuts in itertools.combinations_with_replacement(range(len(names) + 1), len(servers)):
            yield {name: (network.source, *servers)[sum(cut <= i for cut in cuts)] for i, name in enumerate(names)}


def closed(graph, network):
    """Yield every placement on the source and one other server from which nothing but outputs comes back."""
    for other in network.server_names:
        for choice in itertools.product((network.source, other), repeat=len(graph.layers)):
            placed = dict(zip(graph.layer_names, choice, strict=True))
            back = [t for t in graph.tensors for c in t.consumers if t.producer and placed[t.producer] == other != placed[c]]
            if not back or other == network.source:
                yield placed


def least(problem, placements, value=lambda cost: cost.latency_s, keep=lambda cost: True):
    graph, network, times = problem[:3]
    best = math.inf
    for placed in placements:
        try:
            cost = ds.evaluate(graph, network, times, placed)
        except ds.InfeasibleError:
            continue
        best = min(best, value(cost) if keep(cost) else math.inf)
    return best


def check(found, expected):
    """Compare with what brute force found; infinite where there is nothing."""
    if math.isinf(expected):
        assert math.isnan(found.objective)
        assert found.reason
    else:
        assert found.objective == pytest.approx(expected, rel=1e-9)
        assert found.proven == "optimal"


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 4), missing=st.sampled_from([0.0, 0.3]), energy=st.booleans())
def test_cuts_are_the_best_of_their_kind(seed, servers, missing, energy):
    problem = graph, network, *_ = random_small(seed, 5, servers, 1, missing)
    weights = {"latency_weight": 0.0, "energy_weight": 1.0} if energy else {}
    value = (lambda cost: cost.energy_j) if energy else (lambda cost: cost.latency_s)
    found = table(problem, *SEARCHED, **weights)
    check(found.loc["best single cut"], least(problem, prefixes(graph, network), value))
    check(found.loc["articulation points"], least(problem, prefixes(graph, network, single=True), value))
    check(found.loc["contiguous tiers"], least(problem, tiers(graph, network), value))
    best, cut = least(problem, closed(graph, network), value), found.loc["two-server min cut"]
    if network.link("s0", "s0") is None:
        check(cut, best)
    else:
        assert cut["proven"] == "feasible"  # moves inside a server, which the cut does not see
        assert cut["objective"] >= best * (1 - 1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([None, 0.4, 0.8]), missing=st.booleans())
def test_cuts_keep_memory_and_energy_as_brute_force_does(seed, share, missing):
    recipe = Recipe(5, 3, 0, seed, True, True, missing, False, False, False, False, False, False, False, True, "latency", "none",
                    None, None, shared_weights=True)  # fmt: skip
    asked, _ = random_question(recipe)
    problem = graph, network, *_ = tuple(asked[name] for name in ("graph", "network", "times"))
    alone = [least(problem, [dict.fromkeys(graph.layer_names, s)], lambda cost: cost.energy_j) for s in network.server_names]
    limit = None if share is None or not math.isfinite(max(alone)) else min(alone) + share * (max(alone) - min(alone))
    room = {s.name: math.inf if s.memory_bytes is None else s.memory_bytes for s in network.servers}

    def keep(cost):
        fits = all(within(held, room[server]) for server, held in cost.weight_bytes.items())
        return fits and (limit is None or within(cost.energy_j, limit))

    found = table(problem, *SEARCHED, max_energy_j=limit)
    check(found.loc["best single cut"], least(problem, prefixes(graph, network), keep=keep))
    check(found.loc["articulation points"], least(problem, prefixes(graph, network, single=True), keep=keep))
    check(found.loc["contiguous tiers"], least(problem, tiers(graph, network), keep=keep))
    cut = found.loc["two-server min cut"]
    if cut["proven"] == "optimal":
        check(cut, least(problem, closed(graph, network), keep=keep))
    for row in found.itertuples():
        assert row.proven or "limits" in row.reason or "no link" in row.reason


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), weight=st.sampled_from([0.0, 0.4, 1.0]), limit=st.sampled_from([None, 0.0, 0.06]))
def test_nothing_is_better_than_the_optimum(seed, weight, limit):
    problem = graph, network, times, _ = random_small(seed, 6, 3, 2, 0.15)
    asked = {"latency_weight": weight, "energy_weight": 1 - weight, "max_noise": limit}
    names = tuple(f"{server} only" for server in network.server_names)
    found = table(problem, *names, *QUICK[1:], **asked)
    objective = found["objective"].fillna(math.inf)
    assert found.loc["dnnsplit", "objective"] == pytest.approx(ds.split(*problem, **asked).objective, rel=1e-9, abs=1e-9)
    above = objective + 1e-9 * (1 + objective.abs())
    assert (objective["dnnsplit"] <= above).all()
    assert (objective["dnnsplit, float32"] <= above.drop("dnnsplit")).all()
    assert (found["int8"].drop("dnnsplit").dropna() == 0).all()
    assert (objective["best single cut"] <= above[[*names, "articulation points"]]).all()
    assert objective["contiguous tiers"] <= above["best single cut"]
    if found.loc["two-server min cut", "proven"] == "optimal":
        assert objective["two-server min cut"] <= above["best single cut"]
    if weight == 1:
        two = min(ds.split(graph, network.only("s0", other), times).latency_s for other in ("s1", "s2"))
        assert two <= objective["two-server min cut"] * (1 + 1e-9)
    equal = found.index[found["equals_optimum"]]
    assert "dnnsplit" in equal
    assert objective[equal].to_numpy() == pytest.approx(objective["dnnsplit"], rel=1e-8, abs=1e-8)


def test_the_greedy_choice_by_hand():
    graph, network, _ = by_hand()
    device, edge = {"a": 1.0, "b": 10.0, "c": 2.0, "d": 1.0}, {"a": 1.0, "b": 1.0, "c": 0.5, "d": 0.9}
    rows = [(n, s, "float32", v) for s, own in (("device", device), ("edge", edge)) for n, v in own.items()]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    row = table((graph, network, times), "greedy").loc["greedy"]
    # a: 1 here, 1 + 10.5 there; b: 10 here, 1 + 4.5 there; c: 2 here, 0.5 there, where its input is; d: 1 + 3.5 here, 0.9 there
    assert row["servers"] == "device+edge"
    assert row["latency_s"] == pytest.approx(1 + 4.5 + 1 + 0.5 + 0.9 + 0.75)
    assert row["proven"] == "feasible"


def test_every_method_has_a_row_of_its_own_kind():
    problem = ds.examples.tiny()
    found = ds.baselines(*problem, max_noise=0.03)
    assert list(found["method"]) == ["device only", "edge only", *SEARCHED, "slides", "dnnsplit, float32", "dnnsplit"]
    assert found["assumption"].all()
    rows = found.set_index("method")
    for name, options in (("slides", {"method": "slides"}), ("dnnsplit", {})):
        plan = ds.split(*problem, max_noise=0.03, **options)
        for column in ("latency_s", "energy_j", "device_energy_j", "noise"):
            assert rows.loc[name, column] == pytest.approx(getattr(plan, column), rel=1e-6)
        assert rows.loc[name, "int8"] == len(plan.quantized) == 1
    assert rows.loc["dnnsplit, float32", "latency_s"] == pytest.approx(ds.split(*problem[:3]).latency_s)
    assert rows.loc["dnnsplit", "slower_%"] == 0
    assert rows.loc["device only", "slower_%"] == pytest.approx(100 * (0.47 / rows.loc["dnnsplit", "latency_s"] - 1))
    assert list(ds.baselines(*problem, methods=["greedy"])["method"]) == ["greedy"]
    alone = table((problem.graph, problem.network.only("device"), problem.times), *QUICK)
    assert alone["latency_s"].to_numpy() == pytest.approx(0.47)


def test_what_is_in_the_way_is_told(monkeypatch):
    graph, network, times, noise = ds.examples.tiny()
    small = replace(network, servers=(replace(network.servers[0], memory_bytes=1e5), network.servers[1]))
    found = table((graph, small, times), "device only", "edge only", "best single cut", "greedy")
    assert "exceed its 100 kB" in found.loc["device only", "reason"]
    assert found.loc["device only", ["servers", "proven"]].tolist() == ["", ""]
    assert found.loc["edge only", "reason"] == ""
    apart = replace(network, links=network.links[:1])
    found = table((graph, apart, times), "edge only", "two-server min cut", "dnnsplit")
    assert "no link" in found.loc["edge only", "reason"]
    assert found.loc["two-server min cut", "servers"] == "device"

    def slow(question, effort):
        if effort.method == "slides":
            message = "HiGHS found nothing"
            raise OutOfTime(message)
        return original(question, effort)

    original = module.answer
    monkeypatch.setattr(module, "answer", slow)
    found = table((graph, network, times, noise), "slides", "dnnsplit", max_noise=0.03)
    assert found.loc["slides", "reason"] == "HiGHS found nothing"
    assert found.loc["dnnsplit", "equals_optimum"]
    with pytest.raises(ds.OptionError, match=r"no method 'greed' \(did you mean 'greedy'\?\)"):
        ds.baselines(graph, network, times, methods=["greed"])


@pytest.mark.parametrize("seed", [0, 5, 6])
def test_forms_are_those_of_the_papers_unless_they_are_given(seed):
    graph, network, times, noise = coded_small(seed, layers=3)
    problem = graph, network.with_bandwidths({("s0", "s1"): 2.0}), times, noise
    default = table(problem, "s0 only", "s1 only", *QUICK[1:])
    theirs = default[:-2]
    assert {*theirs["source_form"]} == {"float32"}
    assert {*default["source_form"]} <= {"float32", "png-1", "uint8"}  # none that is lossy
    assert theirs.loc["s1 only", "latency_s"] == pytest.approx(
        ds.evaluate(*problem[:3], dict.fromkeys(graph.layer_names, "s1")).latency_s
    )
    forms = list({"float32", *(name for (tensor, _), own in times.forms.coded.items() if tensor == "in" for name in own)})
    for limit in (0.0, *(model.floor for model in noise.sources.values()), 1.0):
        given = table(problem, "s1 only", *QUICK[1:], source_forms=forms, max_noise=limit)
        alone = ds.single_servers(*problem, source_forms=forms, max_noise=limit).set_index("server").loc[["s1"]].iloc[-1]
        assert given.loc["s1 only", "latency_s"] == pytest.approx(alone["latency_s"], rel=1e-9)
        assert given.loc["s1 only", "source_form"] == alone["source_form"]
        assert given.loc["s1 only", "noise"] == pytest.approx(alone["noise"])
        plans = every_plan(*problem, max_noise=limit)
        assert given.loc["dnnsplit", "latency_s"] == pytest.approx(min(cost.latency_s for cost, *_ in plans), rel=1e-9)
        assert (given.loc["dnnsplit, float32", "latency_s"] <= given["latency_s"][:-1] * (1 + 1e-9)).all()
        assert (given["noise"] <= limit * (1 + 1e-6)).all()
        cut = given.loc["two-server min cut"]
        assert cut["proven"] == ("optimal" if network.link("s0", "s0") is None else "feasible")
        if cut["proven"] == "optimal":
            assert cut["latency_s"] <= given.loc["best single cut", "latency_s"] * (1 + 1e-9)
    assert np.isfinite(given["latency_s"]).all()


def test_a_form_that_the_source_cannot_write_is_no_way_out():
    graph, network, times, noise = coded_small(0, layers=3)
    rows = times.forms.frame
    there = replace(times, forms=WireForms(rows[(rows["form"] != "jpeg-90") | (rows["server"] != "s0")]))
    plain, both = (
        table((graph, network, there, noise), "s0 only", "s1 only", *QUICK[1:], source_forms=forms, wire_forms=["float32"])
        for forms in (["float32"], ["float32", "jpeg-90"])
    )
    pd.testing.assert_series_equal(both["objective"], plain["objective"])
    assert {*both["source_form"]} == {"float32"}
