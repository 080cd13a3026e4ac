"""Twice as many layers are about twice as much work to place on some servers, and so is the price on twice as many servers."""

from dataclasses import replace

import pytest
from helpers.counting import chain, check_linear, fan, star, times_of

import dnnsplit as ds


def asked(make, servers):
    def problem(count):
        graph, network = make(count), star(servers)
        names = graph.layer_names
        pins = {**dict.fromkeys(names[: count // 3], "s0"), **dict.fromkeys(names[count // 3 : count // 2], "s1")}
        return graph, network, times_of(graph, network), pins

    return problem


@pytest.mark.parametrize("servers", [2, 3])
@pytest.mark.parametrize("make", [chain, fan])
def test_splitting(make, servers):
    check_linear(asked(make, servers), lambda given: ds.split(*given[:3], pins=given[3]), 100)


def test_a_tensor_that_more_layers_read_than_a_table_has_axes():
    graph, network, times, pins = asked(fan, 3)(2000)
    plan = ds.split(graph, network, times, pins=pins)
    assert plan.status == "optimal"
    assert plan.cost.latency_s == pytest.approx(ds.evaluate(graph, network, times, plan.assignment).latency_s)
    assert len([t for t in plan.transfers if t.tensor == "t"]) == len({*plan.assignment.values()}) - 1


def test_too_many_of_them_on_many_servers_are_refused():
    graph, network, times, _ = asked(fan, 40)(200)
    with pytest.raises(ds.SolverError, match="elimination needs more of memory"):
        ds.split(graph, network, times, method="elimination")


def test_telling_and_keeping_a_plan(tmp_path):
    def planned(count):
        graph, network, times, pins = asked(chain, 3)(count)
        plan = ds.split(graph, network, times, pins=pins)
        return graph, network, times, replace(plan, quantized=graph.layer_names[::2])

    file = tmp_path / "plan.json"
    check_linear(planned, lambda given: (repr(given[3]), given[3]._repr_html_(), given[3].frame), 100)
    check_linear(planned, lambda given: given[3].check(given[0].layer_names))
    check_linear(planned, lambda given: (given[3].save(file), ds.Plan.load(file)), 100)
    check_linear(planned, lambda given: ds.evaluate(*given[:3], given[3].assignment), 100)


def test_pricing_on_many_servers():
    def spread(count):
        graph, network = chain(count), star(count)
        times = times_of(chain(2), network)
        every = {(layer, server): 1e-3 for layer in graph.layer_names for server in network.server_names[:2]}
        times = replace(times, frame=times.frame.iloc[:0])
        times.__dict__["_seconds"] = {(*key, "float32"): seconds for key, seconds in every.items()}
        return graph, network, times, {name: f"s{i % 2}" for i, name in enumerate(graph.layer_names)}

    check_linear(spread, lambda given: ds.evaluate(*given), 100)


def test_thousands_of_servers_are_refused_before_memory_is_taken():
    graph, network = chain(10), star(10000)
    with pytest.raises(ds.SolverError, match=r"between 10000 servers needs 17\.6 GB of memory; .*network\.only"):
        ds.split(graph, network, times_of(chain(2), star(2)))


def test_thousands_of_wrong_names_are_told_as_fast(monkeypatch):
    looked = []
    monkeypatch.setattr("dnnsplit.ground.errors.nearest", lambda name, options: looked.append(name) or "")
    graph, network, times, _ = asked(chain, 3)(300)
    wrong = {f"no {name}": "no server" for name in graph.layer_names}
    for act in (lambda: ds.split(graph, network, times, pins=wrong), lambda: ds.evaluate(graph, network, times, wrong)):
        with pytest.raises(ds.ModelError, match="00 problems"):
            act()
    assert len(looked) == 40
