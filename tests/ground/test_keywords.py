"""Everything after the noise model has a name, and a name that is unknown is refused with the nearest one."""

import inspect

import pytest

import dnnsplit as ds

FUNCTIONS = {name: getattr(ds, name) for name in ds.__all__ if inspect.isfunction(getattr(ds, name))}
AFTER_NOISE = [name for name, function in FUNCTIONS.items() if "noise" in inspect.signature(function).parameters]


def test_the_functions_that_take_a_noise_model_are_found():
    known = {"split", "pareto", "energy_front", "explain", "bandwidths"}
    known |= {"adaptive_plans", "sweep_plans", "latency_tests", "explore", "single_servers", "regimes", "baselines"}
    assert set(AFTER_NOISE) == known


@pytest.mark.parametrize("name", AFTER_NOISE)
def test_all_that_comes_after_noise_is_by_keyword_alone(name):
    parameters = list(inspect.signature(getattr(ds, name)).parameters.values())
    after = parameters[[p.name for p in parameters].index("noise") + 1 :]
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in after)


@pytest.mark.parametrize("name", AFTER_NOISE)
def test_a_value_without_a_name_is_refused(name):
    function = getattr(ds, name)
    many = [None] * [*inspect.signature(function).parameters].index("noise")
    with pytest.raises(ds.OptionError, match=rf"{name}: the value 0.05 has no name, and only .*noise may come without one"):
        function(*many, None, 0.05)


@pytest.mark.parametrize("name", AFTER_NOISE)
def test_an_unknown_keyword_is_named_with_the_nearest_one(name):
    function = getattr(ds, name)
    many = [None] * [*inspect.signature(function).parameters].index("noise")
    with pytest.raises(ds.OptionError, match=rf"{name}: there is no argument 'nose' \(did you mean 'noise'\?\)"):
        function(*many, nose=0.05)


def test_all_unknown_keywords_are_told_at_once_and_those_passed_on_are_known():
    problem = ds.examples.tiny()
    with pytest.raises(ds.OptionError) as caught:
        ds.energy_front(*problem, max_nois=0.1, rooting="relay")
    assert "did you mean 'max_noise'?" in str(caught.value)
    assert "did you mean 'routing'?" in str(caught.value)
    plan = ds.split(*problem, max_noise=0.1)
    assert ds.explain(plan, *problem, max_noise=0.1, method="elimination").plan == plan
    with pytest.raises(ds.OptionError, match="pareto: there is no argument 'method'"):
        ds.adaptive_plans(*problem, bandwidths={("device", "edge"): [1e6]}, progress=False, method="milp")


def test_a_noise_limit_by_place_cannot_become_a_weight():
    with pytest.raises(ds.OptionError, match=r"write latency_weight=0\.05, or what you mean"):
        ds.pareto(*ds.examples.tiny(), 0.05)
