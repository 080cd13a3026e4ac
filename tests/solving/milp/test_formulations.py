"""The equations as rows of the programme, one family at a time, against numbers by hand."""

import pulp
import pytest
from helpers.problems import by_hand, random_small

import dnnsplit as ds
from dnnsplit.solving.arrays import build_problem, energy_weights, latency_weights
from dnnsplit.solving.milp.formulations import FORMULATIONS
from dnnsplit.solving.milp.rows import row
from dnnsplit.solving.milp.solvers import build, solve_milp
from dnnsplit.solving.objective import Limits
from dnnsplit.solving.request import Request

SPLIT = {"a": "device", "b": "edge", "c": "edge", "d": "device"}


def solved(pins, formulation="slides", noise=None, bits=None):
    """Solve with every layer pinned (and q fixed by a noise limit of its own); return the problem, formulation, values."""
    graph, network, times = by_hand()
    problem = build_problem(graph, network, times, ("a", "b"), Request(pins=pins))
    model = FORMULATIONS[formulation](problem)
    fixed = [row(f"fix_{n}", [(("q", graph.layer_index[n]), 1.0)], "==", bit) for n, bit in (bits or {}).items()]
    model.memory = lambda: fixed  # a family of rows of our own
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMULATIONS, "test", lambda *_: model)
        answer = solve_milp(problem, latency_weights(network), noise, formulation="test")
    return problem, model, {key: round(value, 6) for key, value in answer.values.items()}


def test_assignment_and_coherence_y_is_one_exactly_for_what_crosses():
    problem, _, values = solved(SPLIT)
    names, servers = problem.graph.layer_names, problem.network.server_names
    assert {(names[key[1]], servers[key[2]]) for key, v in values.items() if key[0] == "x" and v} == set(SPLIT.items())
    tensors = [t.name for t in problem.graph.tensors]
    sent = {(tensors[key[1]], *key[2:]) for key, v in values.items() if key[0] == "y" and v}
    # t1 has two readers on the edge and is sent once
    assert {s for s in sent if s[1] != s[2]} == {("t1", 0, 1), ("t2", 1, 0), ("t3", 1, 0)}
    assert {s[:2] for s in sent if s[1] == s[2]} == {("input", 0), ("out", 0)}  # producer and reader on one server


def test_the_coherence_row_of_the_slides_is_to_the_letter():
    graph, network, times = by_hand()
    problem = build_problem(graph, network, times)
    rows = {r.name: r for r in FORMULATIONS["slides"](problem).coherence()}
    a, b, c = (graph.layer_index[n] for n in "abc")
    t = next(t for t, tensor in enumerate(graph.tensors) if len(tensor.consumers) == 2)
    assert set(problem.receivers[t]) == {b, c}
    # y >= x_a0 + (x_b1 + x_c1) / 2 - 1, times 2, and nothing tighter
    row_ = rows[f"coherence_{t}_0_1"]
    assert dict(row_.terms) == {("y", t, 0, 1): 2.0, ("x", a, 0): -2.0, ("x", b, 1): -1.0, ("x", c, 1): -1.0}
    assert (row_.sense, row_.bound) == (">=", -2.0)
    assert [name for name in rows if name.startswith(f"coherence_{t}_0_1")] == [row_.name]
    assert all(FORMULATIONS["slides"](problem).variables.values())  # y is an integer, without which the row is too weak


def test_products_are_the_products():
    problem, _, values = solved(SPLIT, bits={"a": 1, "b": 0})
    for key, value in values.items():
        if key[0] == "xq":
            assert value == values["x", *key[1:]] * values["q", key[1]]
        if key[0] == "yq":
            assert value == values["y", *key[1:]] * values["q", problem.producer[key[1]]]


@pytest.mark.parametrize("bits", [{"a": 0, "b": 0}, {"a": 1, "b": 0}, {"a": 1, "b": 1}])
@pytest.mark.parametrize("formulation", ["slides", "milp"])
def test_latency_and_energy_expressions_equal_evaluate(bits, formulation):
    problem, model, values = solved(SPLIT, formulation, bits=bits)
    cost = ds.evaluate(*by_hand(), SPLIT, [name for name, bit in bits.items() if bit])
    network = problem.network
    for weights, expected in (
        (latency_weights(network), cost.latency_s),
        (energy_weights(network), cost.energy_j),
        (energy_weights(network, "device"), cost.device_energy_j),
    ):
        assert sum(c * values[key] for key, c in model.total(weights)) == pytest.approx(expected)


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
    for formulation in FORMULATIONS:
        answer = solve_milp(problem, latency_weights(problem.network), noise, Limits(max_noise + 1e-9), formulation)
        assert answer.quantized == expected
        assert answer.status == "optimal"


@pytest.mark.parametrize("method", ["slides", "milp"])
def test_without_a_link_the_pair_is_forbidden(method):
    graph, network, times = by_hand()
    one_way = ds.Network(network.servers, network.links[:1], "device")
    fast_edge = times.frame.assign(seconds=times.frame["seconds"].where(times.frame["server"] == "device", 1e-6))
    plan = ds.split(graph, one_way, ds.LayerTimes(fast_edge), method=method)
    assert set(plan.assignment.values()) == {"device"}  # nothing could come back


@pytest.mark.parametrize("formulation", ["slides", "milp"])
def test_two_builds_write_the_same_programme(tmp_path, formulation):
    texts = []
    for run in ("one", "two"):
        graph, network, times = by_hand()
        problem = build_problem(graph, network, times, ("a",))
        programme, _, _ = build(FORMULATIONS[formulation](problem), latency_weights(network), None, Limits())
        programme.writeLP(str(tmp_path / run))
        texts.append((tmp_path / run).read_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("seed", range(6))
def test_the_tight_relaxation_is_never_weaker_and_needs_no_branching_at_fixed_q(seed):
    graph, network, times, _ = random_small(seed, 8, 3, 0)
    problem = build_problem(graph, network, times)
    bounds = {}
    for formulation in FORMULATIONS:
        model = FORMULATIONS[formulation](problem)
        model.variables = dict.fromkeys(model.variables, False)
        programme, _, unit = build(model, latency_weights(network), None, Limits())
        for variable in programme.variables():
            variable.cat = pulp.LpContinuous
        programme.solve(pulp.HiGHS(msg=False))
        bounds[formulation] = pulp.value(programme.objective) * unit
    exact = ds.split(graph, network, times).latency_s
    assert bounds["slides"] <= bounds["milp"] + 1e-7
    assert bounds["milp"] == pytest.approx(exact, rel=2e-2)
    assert bounds["milp"] <= exact * (1 + 1e-7)
