"""The slides' equations as rows of the programme, one family at a time, against numbers by hand."""

import pulp
import pytest
from conftest import by_hand

import dnnsplit as ds
from dnnsplit.costs import build_problem, energy_weights, latency_weights
from dnnsplit.milp import _run, _Slides, solve_slides
from dnnsplit.objective import Limits

SPLIT = {"a": "device", "b": "edge", "c": "edge", "d": "device"}


def solved(pins, quantizable=("a", "b"), noise=None, max_noise=float("inf"), bits=None):
    """Solve with every layer pinned (and q fixed); return the problem and the variables."""
    graph, network, times = by_hand()
    problem = build_problem(graph, network, times, quantizable, pins)
    programme = pulp.LpProblem("test", pulp.LpMinimize)
    model = _Slides(problem, programme)
    programme += model.total(latency_weights(network)), "objective"
    for group in (model.assignment(), model.coherence(), model.products(), model.noise(noise, max_noise)):
        for name, row in group:
            programme.addConstraint(row, name)
    for i, value in (bits or {}).items():
        programme.addConstraint(model.q[graph.layer_index[i]] == value, f"fix_{i}")
    _run(programme, model, "HiGHS", 1e-9, None)
    return problem, model


def on(variables):
    return {key for key, variable in variables.items() if round(variable.value())}


def test_assignment_and_coherence_y_is_one_exactly_for_what_crosses():
    problem, model = solved(SPLIT)
    names = problem.graph.layer_names
    assert {(names[i], problem.network.server_names[k]) for i, k in on(model.x)} == set(SPLIT.items())
    tensors = [t.name for t in problem.graph.tensors]
    crossing = {(tensors[t], k, h) for t, k, h in on(model.y) if k != h}
    assert crossing == {("t1", 0, 1), ("t2", 1, 0), ("t3", 1, 0)}  # t1 has two readers there and is sent once
    kept = {(tensors[t], k) for t, k, h in on(model.y) if k == h}
    assert kept == {("input", 0), ("out", 0)}  # producer and reader on the same server


def test_products_are_the_products():
    problem, model = solved(SPLIT, bits={"a": 1, "b": 0})
    assert {key: round(v.value()) for key, v in model.xq.items()} == {
        (i, k): round(model.x[i, k].value()) * round(model.q[i].value()) for i, k in model.xq
    }
    for (t, k, h), product in model.yq.items():
        assert round(product.value()) == round(model.y[t, k, h].value()) * round(model.q[problem.producer[t]].value())


@pytest.mark.parametrize("bits", [{"a": 0, "b": 0}, {"a": 1, "b": 0}, {"a": 1, "b": 1}])
def test_latency_and_energy_expressions_equal_evaluate(bits):
    problem, model = solved(SPLIT, bits=bits)
    cost = ds.evaluate(*by_hand(), SPLIT, [name for name, bit in bits.items() if bit])
    network = problem.network
    assert pulp.value(model.total(latency_weights(network))) == pytest.approx(cost.latency_s)
    assert pulp.value(model.total(energy_weights(network))) == pytest.approx(cost.energy_j)
    assert pulp.value(model.total(energy_weights(network, "device"))) == pytest.approx(cost.device_energy_j)


@pytest.mark.parametrize(
    ("max_noise", "expected"),
    # eta: none 0, b .01 + .04 = .05, a .01 + .10 = .11, both .01 + .10 + .04 - .02 = .13; a saves 1 s, b 0.4 s
    [(0.0, (0, 0)), (0.049, (0, 0)), (0.05, (0, 1)), (0.11, (1, 0)), (0.129, (1, 0)), (0.13, (1, 1))],
)
def test_the_noise_polynomial_with_its_intercept(max_noise, expected):
    graph, network, times = by_hand()
    frame = times.frame.copy()
    frame.loc[(frame["layer"] == "b") & (frame["precision"] == "int8"), "seconds"] = 1.6  # now b pays too
    noise = ds.NoiseModel.polynomial(("a", "b"), {"a": 0.10, "b": 0.04, ("a", "b"): -0.02}, intercept=0.01)
    problem = build_problem(graph, network.only("device"), ds.LayerTimes(frame), ("a", "b"))
    answer = solve_slides(problem, latency_weights(problem.network), noise, Limits(max_noise + 1e-9))
    assert answer.quantized == expected
    assert answer.status == "optimal"


def test_without_a_link_the_pair_is_forbidden():
    graph, network, times = by_hand()
    one_way = ds.Network(network.servers, network.links[:1], "device")
    fast_edge = times.frame.assign(seconds=times.frame["seconds"].where(times.frame["server"] == "device", 1e-6))
    plan = ds.split(graph, one_way, ds.LayerTimes(fast_edge), method="slides")
    assert set(plan.assignment.values()) == {"device"}  # nothing could come back


def test_two_builds_write_the_same_programme(tmp_path):
    texts = []
    for run in ("one", "two"):
        graph, network, times = by_hand()
        programme = pulp.LpProblem("test", pulp.LpMinimize)
        model = _Slides(build_problem(graph, network, times, ("a",)), programme)
        programme += model.total(latency_weights(network)), "objective"
        for name, row in (*model.assignment(), *model.coherence(), *model.products()):
            programme.addConstraint(row, name)
        programme.writeLP(str(tmp_path / run))
        texts.append((tmp_path / run).read_text())
    assert texts[0] == texts[1]
