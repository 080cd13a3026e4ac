"""A limit is kept to one relative tolerance, by every method and in every place that keeps one."""

import itertools

import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.ground.tolerance import TOLERANCE, relative_gap, within
from dnnsplit.noise.verification import verify

METHODS = [("elimination", "HiGHS"), ("auto", "HiGHS"), *itertools.product(("milp", "slides"), ("HiGHS", "CBC"))]


@pytest.fixture
def chain():
    """Two layers on one server, each a second faster in int8."""
    graph = ds.LayerGraph(
        [ds.Layer("a", "Conv"), ds.Layer("b", "Conv")],
        [ds.Tensor("x", None, ("a",), 1), ds.Tensor("t", "a", ("b",), 1), ds.Tensor("y", "b", (), 1, is_output=True)],
    )
    rows = [(n, "device", p, s) for n in "ab" for p, s in (("float32", 2.0), ("int8", 1.0))]
    times = ds.LayerTimes.from_frame(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    return graph, ds.Network([ds.Server("device", 1.0)]), times


@pytest.mark.parametrize("size", [1.0, 1e-9, 1e9])
@pytest.mark.parametrize(("method", "solver"), METHODS)
def test_noises_that_add_up_to_the_limit_but_for_rounding_keep_it(chain, method, solver, size):
    noise = ds.NoiseModel.polynomial(("a", "b"), {"a": 0.1 * size, "b": 0.2 * size})
    assert noise.of(("a", "b")) > 0.3 or size != 1.0  # .1 + .2
    plan = ds.split(*chain, noise, max_noise=0.3 * size, method=method, solver=solver)
    assert plan.quantized == ("a", "b")
    tight = ds.split(*chain, noise, max_noise=0.3 * size * (1 - 1e-5), method=method, solver=solver)
    assert len(tight.quantized) == 1


def test_the_front_and_verification_keep_the_same_limit(chain):
    noise = ds.NoiseModel.polynomial(("a", "b"), {"a": 0.1, "b": 0.2})
    front = ds.pareto(*chain, noise)
    assert front.at(0.3).quantized == ("a", "b")
    assert len(front.at(0.3 * (1 - 1e-5)).quantized) == 1
    plan = ds.split(*chain, noise, max_noise=0.3, verify=lambda names: 0.1 * len(names) + 0.1 * ("b" in names))
    assert (plan.quantized, plan.noise) == (("a", "b"), 0.1 * 2 + 0.1)
    found = verify(noise, lambda names: 0.3 * (1 + 0.5 * TOLERANCE), lambda model: ("a", "b"), 0.3)
    assert found.quantized == ("a", "b")


@pytest.mark.parametrize(("method", "solver"), METHODS)
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_a_fit_that_predicts_no_noise_or_less_lets_nothing_in_at_a_limit_of_0(chain, method, solver, power):
    fits = (({"a": 0.1, "b": 0.2, ("a", "b"): -0.05}, -0.12), ({"a": 0.0, "b": 0.0}, 0.0), ({"a": -1.0, "b": 0.1}, 0.0))
    for terms, intercept in fits:
        noise = ds.NoiseModel.polynomial(("a", "b"), terms, intercept=intercept if power == 1 else 0.0, power=power)
        plan = ds.split(*chain, noise, max_noise=0.0, method=method, solver=solver)
        assert (plan.quantized, plan.noise, plan.latency_s) == ((), 0.0, 4.0)
    assert ds.pareto(*chain, noise).at(0.0).quantized == ()


@pytest.mark.parametrize(("method", "solver"), METHODS[:4])
def test_a_measured_noise_of_0_keeps_a_limit_of_0(chain, method, solver):
    table = pd.DataFrame([(0, 0, 0.0), (1, 0, 0.0), (0, 1, 1e-12), (1, 1, 1e-12)], columns=["a", "b", "noise"])
    noise = ds.fit_noise(ds.NoiseSamples(table), "measured")
    assert ds.split(*chain, noise, max_noise=0.0, method=method, solver=solver).quantized == ("a",)


@pytest.mark.parametrize(("method", "solver"), METHODS[1:])
@pytest.mark.parametrize("what", ["max_energy_j", "max_device_energy_j"])
def test_an_energy_that_is_just_reachable_is_feasible(chain, method, solver, what):
    least = ds.split(*chain).energy_j
    assert ds.split(*chain, method=method, solver=solver, **{what: least}).energy_j == least
    with pytest.raises(ds.InfeasibleError, match=r"limit 3\.99996 J, best reachable 4 J"):  # and not 4 J twice
        ds.split(*chain, method=method, solver=solver, **{what: least * (1 - 1e-5)})


def test_by_hand():
    assert within(0.1 + 0.2, 0.3)
    assert not within(1e-300, 0.0)
    assert within(1.0, float("inf"))
    assert relative_gap(1.0, float("nan")) != relative_gap(1.0, float("nan"))  # unknown, and not 0
    assert relative_gap(0.0, 0.0) == 0.0
    assert relative_gap(2.0, 3.0) == 0.0
