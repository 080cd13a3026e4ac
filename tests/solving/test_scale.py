"""The unit of a problem decides nothing: every time, byte and power times 10^k gives the same plan, by every method."""

import itertools

import pytest
from helpers.problems import random_small
from helpers.random_questions import scaled

import dnnsplit as ds

METHODS = [("elimination", "HiGHS"), ("auto", "HiGHS"), *itertools.product(("milp", "slides"), ("HiGHS", "CBC"))]
SCALES = [(-9, 0, 0), (9, 0, 0), (0, -9, 0), (0, 9, 0), (0, 0, -9), (0, 0, 9), (-6, 3, -3), (-9, -9, -9), (9, 9, 9), (-7, 6, 0)]


def problem_of(seed, layers=9, bits=3):
    return dict(zip(("graph", "network", "times", "noise"), ds.examples.random_problem(layers, 3, bits, seed), strict=True))


def plans(problem, method, solver, **asked):
    return ds.split(**problem, method=method, solver=solver, **asked)


@pytest.mark.parametrize(("seed", "scale"), list(enumerate(SCALES)))
def test_every_method_gives_the_same_plan_at_every_scale(seed, scale):
    problem, factors = problem_of(seed), [10.0**k for k in scale]
    other, seconds = scaled(problem, *factors), factors[0]
    for asked in ({"max_noise": 0.05}, {"max_noise": 0.05, "latency_weight": 0.3, "energy_weight": 0.7}):
        wanted = ds.split(**problem, method="elimination", **asked)
        for method, solver in METHODS:
            for one in (problem, other):
                plan = plans(one, method, solver, **asked)
                assert (plan.assignment, plan.quantized) == (wanted.assignment, wanted.quantized), (method, solver)
                assert plan.status == "optimal"
            assert plan.latency_s == pytest.approx(wanted.latency_s * seconds, rel=1e-12)


@pytest.mark.parametrize(("seed", "scale"), list(enumerate(SCALES[:4] + SCALES[6:9])))
def test_limits_on_energy_and_memory_bind_alike_at_every_scale(seed, scale):
    problem, factors = problem_of(seed, 8, 2), [10.0**k for k in scale]
    fast = ds.split(**problem)
    frugal = ds.split(**problem, latency_weight=0, energy_weight=1)
    most = (fast.device_energy_j + frugal.device_energy_j) / 2
    weights = sum(layer.weight_bytes for layer in problem["graph"].layers) or 1.0
    servers = [ds.Server(s.name, s.compute_w, s.transmit_w, s.transmit_self_w, memory_bytes=0.7 * weights if i else None)
               for i, s in enumerate(problem["network"].servers)]  # fmt: skip
    problem["network"] = ds.Network(servers, problem["network"].links, problem["network"].source)
    found = set()
    for (method, solver), factor in itertools.product(METHODS[1:4], ((1.0, 1.0, 1.0), factors)):
        joules = factor[0] * factor[2]
        plan = plans(scaled(problem, *factor), method, solver, max_device_energy_j=most * joules)
        assert plan.device_energy_j <= most * joules * (1 + 1e-6)
        assert plan.status == "optimal"
        found.add((tuple(plan.assignment.items()), plan.quantized))
    assert len(found) == 1


@pytest.mark.parametrize("scale", [(-9, 0, 0), (9, 0, 0), (-6, 6, 3)])
def test_pipelines_and_relays_too(scale):
    problem, factors = problem_of(3, 7, 2), [10.0**k for k in scale]
    for asked in ({"objective": "throughput"}, {"routing": "relay"}):
        wanted = ds.split(**problem, **asked)
        for method in ("auto", "milp"):
            plan = ds.split(**scaled(problem, *factors), method=method, **asked)
            assert plan.objective == pytest.approx(wanted.objective * factors[0], rel=1e-9)
            assert plan.status == "optimal"


def test_a_front_of_energies_has_as_many_points_at_every_scale():
    problem = dict(zip(("graph", "network", "times", "noise"), random_small(7, 5, 3, 2), strict=True))
    counts = [len(ds.energy_front(**scaled(problem, *factors), progress=False).plans) for factors in ((1, 1, 1), (1e-9, 1, 1e-6))]
    assert counts[0] == counts[1] > 1
