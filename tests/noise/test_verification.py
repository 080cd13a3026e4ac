"""Verify and cut: what is returned was measured and holds, and it is the best of what was within reach."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.ground.errors import NoiseError, OptionError
from dnnsplit.noise.fit import fit_noise
from dnnsplit.noise.models import NoiseModel, NoiseSamples
from dnnsplit.noise.schemes import all_schemes, sample_schemes
from dnnsplit.noise.verification import verify

LAYERS = tuple("abcde")
Q = all_schemes(5)


def truth(seed=0):
    """A noise of all 32 schemes that no small model follows exactly."""
    rng = np.random.default_rng(seed)
    value = np.sqrt(Q @ rng.uniform(0.1, 1, 5)) * rng.uniform(0.9, 1.1, len(Q))
    return NoiseModel.measured(
        NoiseSamples(pd.DataFrame(Q, columns=list(LAYERS)).assign(noise=np.where(Q.any(axis=1), value, 0)))
    )


def fitted(real, count=20, model="gp", seed=0):
    q = sample_schemes(5, count, seed)
    samples = NoiseSamples(pd.DataFrame(q, columns=list(LAYERS)).assign(noise=real.predict(q)))
    return fit_noise(samples, model), samples


def chooser(gains, limit):
    def choose(noise):
        best = int(np.where(noise.every() <= limit, Q @ gains, -1.0).argmax())
        return tuple(name for name, bit in zip(LAYERS, Q[best], strict=True) if bit)

    return choose


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 50), st.lists(st.floats(0.1, 5), min_size=5, max_size=5), st.floats(0.0, 2.5),
    st.sampled_from(["gp", "link", "polynomial"]),
)  # fmt: skip
def test_what_is_returned_was_measured_and_holds(seed, gains, limit, model):
    real = truth(seed)
    noise, samples = fitted(real, 24, model)
    found = verify(noise, real.of, chooser(np.array(gains), limit), limit, samples)
    assert found.noise == real.of(found.quantized) <= limit
    known = {tuple(np.flatnonzero(q)) for q in samples.schemes}
    for (_, names), value in found.measured.items():  # nothing is measured twice
        assert value == real.of(names)
        assert tuple(LAYERS.index(n) for n in names) not in known


def test_with_enough_margin_it_is_the_optimum(monkeypatch):
    monkeypatch.setattr("dnnsplit.noise.gaussian.SIGMAS", 100.0)
    real, limit = truth(3), 1.0
    noise, samples = fitted(real)
    gains = np.array([1.0, 2.0, 1.5, 0.7, 1.1])
    found = verify(noise, real.of, chooser(gains, limit), limit, samples)
    best = (Q @ gains)[real.every() <= limit].max()
    assert sum(gains[LAYERS.index(n)] for n in found.quantized) == pytest.approx(best)


def test_an_underestimated_scheme_is_cut_off_and_the_next_taken(monkeypatch):
    monkeypatch.setattr("dnnsplit.noise.models.MARGIN", 0.01)
    eta = NoiseModel.polynomial(LAYERS, dict.fromkeys(LAYERS, 0.1))
    asked = []

    def measure(names):
        asked.append(names)
        return 0.35 if set("ab") <= set(names) else 0.1 * len(names)

    found = verify(eta, measure, chooser(np.array([5.0, 4.0, 3.0, 2.0, 0.5]), 0.31), 0.31)
    assert asked == [("a", "b", "c"), ("a", "b", "d"), ("a", "c", "d")]  # gains 12, 11, 10
    assert found.quantized == ("a", "c", "d")
    assert found.noise == pytest.approx(0.3)
    assert list(found.measured.values()) == pytest.approx([0.35, 0.35, 0.3])


@pytest.mark.parametrize(("margin", "layers"), [(0.0, 3), (0.06, 4)])
def test_the_margin_finds_schemes_that_were_overestimated(monkeypatch, margin, layers):
    monkeypatch.setattr("dnnsplit.noise.models.MARGIN", margin)
    eta = NoiseModel.polynomial(LAYERS, dict.fromkeys(LAYERS, 0.1))
    found = verify(eta, lambda names: 0.095 * len(names), chooser(np.ones(5), 0.38), 0.38)
    assert len(found.quantized) == layers


def test_a_model_that_is_always_wrong_ends_with_what_was_measured(monkeypatch):
    monkeypatch.setattr("dnnsplit.noise.verification.MOST", 4)
    eta = NoiseModel.polynomial(LAYERS, dict.fromkeys(LAYERS, 0.1))
    choose = chooser(np.array([5.0, 4.0, 3.0, 2.0, 1.0]), 0.5)
    found = verify(eta, lambda names: 1.0, choose, 0.5)
    assert (found.quantized, found.noise, len(found.measured)) == ((), 0.0, 4)
    one = NoiseSamples(pd.DataFrame([[0, 1, 0, 0, 0, 0.4]], columns=[*LAYERS, "noise"]))
    assert verify(eta, lambda names: 1.0, choose, 0.5, one).quantized == ("b",)


def test_a_table_needs_no_measurement():
    real = truth(1)
    found = verify(real, lambda names: math.nan, chooser(np.ones(5), 1.2), 1.2)
    assert found.measured == {}
    assert len(found.quantized) == Q.sum(axis=1)[real.every() <= 1.2].max()


def test_a_limit_of_zero_quantizes_nothing(monkeypatch):
    monkeypatch.setattr("dnnsplit.noise.gaussian.SIGMAS", 0.0)
    real = truth(1)
    noise, samples = fitted(real)
    found = verify(noise, real.of, chooser(np.ones(5), 0.0), 0.0, samples)
    assert (found.quantized, found.noise) == ((), 0.0)


class Choice:
    """Layers to quantize, and the form of the inputs."""

    def __init__(self, quantized, lossy_source=""):
        self.quantized, self.lossy_source = quantized, lossy_source


def of_forms(gains, saved, limit):
    """A choice over schemes and forms: a form gains what it saves."""

    def choose(noise):
        at = {form: noise.at(form).every() for form in saved}
        value = {form: np.where(at[form] <= limit, Q @ gains + more, -np.inf) for form, more in saved.items()}
        form = max(value, key=lambda f: value[f].max())
        return Choice(tuple(n for n, bit in zip(LAYERS, Q[value[form].argmax()], strict=True) if bit), form)

    return choose


def with_forms(real, floors):
    """Samples of a noise, and of forms alone."""
    frame = pd.DataFrame(Q, columns=list(LAYERS)).assign(noise=real.every())
    sources = {form: NoiseSamples(frame[:1].assign(noise=floor), {"source": form}) for form, floor in floors.items()}
    return NoiseSamples(frame, sources=sources)


def test_a_form_that_the_model_underestimates_is_cut_off_scheme_by_scheme():
    real, gains, limit = truth(2), np.array([1.0, 2.0, 1.5, 0.7, 1.1]), 1.0
    samples = with_forms(real, {"jpeg-95": 0.3, "webp-90": 0.5})
    noise, saved, asked = NoiseModel.measured(samples), {"": 0.0, "jpeg-95": 2.0, "webp-90": 3.0}, []

    def measure(names, source):  # a form adds more than its power, which contradicts the model
        asked.append((source, names))
        return 0.3 * (source == "jpeg-95") + 0.5 * (source == "webp-90") + real.of(names)

    found = verify(noise, measure, of_forms(gains, saved, limit), limit, samples)
    assert list(found.measured) == asked
    assert len(asked) == len(set(asked)) > 1
    assert all(source for source, _ in asked)  # the schemes alone are a table
    assert (found.source, found.quantized) == (found.choice.lossy_source, found.choice.quantized)
    assert found.noise == pytest.approx(measure(found.quantized, found.source))
    true = {"": real.every(), "jpeg-95": 0.3 + real.every(), "webp-90": 0.5 + real.every()}
    best = max((Q @ gains)[true[form] <= limit].max() + more for form, more in saved.items())
    assert gains @ [name in found.quantized for name in LAYERS] + saved[found.source] == pytest.approx(best)


def test_fresh_images_have_a_noise_of_each_form_alone_to_be_measured():
    real, choose = truth(2), of_forms(np.ones(5), {"": 0.0, "jpeg-95": 9.0}, 0.35)
    noise = NoiseModel.measured(with_forms(real, {"jpeg-95": 0.3}))
    asked = []

    def measure(names, *source):
        asked.append((source, names))
        return 0.4 if source else 0.0

    assert verify(noise, lambda names: math.nan, choose, 0.35).noise == 0.3  # of the same images it is known
    found = verify(noise, measure, choose, 0.35, fresh=True)
    assert asked[0] == (("jpeg-95",), ())
    assert found.source == ""


def test_measurements_of_a_form_teach_its_model_alone():
    real = truth(3)
    q = sample_schemes(5, 20)
    few = with_forms(real, {"jpeg-95": 0.3}).only(np.isin(Q @ (1 << np.arange(5)), q @ (1 << np.arange(5))))
    noise, limit = fit_noise(few, "gp"), 1.0
    seen = []
    choose = of_forms(np.array([1.0, 2.0, 1.5, 0.7, 1.1]), {"": 0.0, "jpeg-95": 9.0}, limit)

    def watched(model):
        seen.append(model)
        return choose(model)

    verify(noise, lambda names, source: 1.5 * real.of(names) + 0.3, watched, limit, few)
    assert len(seen) > 2
    assert all(model.model.regressor is noise.regressor for model in seen)
    told = [len(model.at("jpeg-95").model.base.regressor.X_train_) for model in seen]
    assert told == list(range(told[0], told[0] + len(seen)))


def test_after_too_many_measurements_a_form_that_was_measured_is_chosen(monkeypatch):
    monkeypatch.setattr("dnnsplit.noise.verification.MOST", 2)
    noise = NoiseModel.measured(with_forms(truth(1), {"jpeg-95": 0.2}))
    choose = of_forms(np.ones(5), {"": 0.0, "jpeg-95": 9.0}, 0.9)
    found = verify(noise, lambda names, source: 1.0, choose, 0.9)
    assert (found.source, found.quantized, found.noise, len(found.measured)) == ("jpeg-95", (), 0.2, 2)


def test_a_form_that_the_model_does_not_know_is_refused():
    noise = NoiseModel.measured(with_forms(truth(1), {"jpeg-95": 0.2}))
    with pytest.raises(NoiseError, match=r"inputs as 'jpeg-96'.*did you mean 'jpeg-95'"):
        verify(noise, noise.of, lambda model: Choice((), "jpeg-96"), 0.5)
    with pytest.raises(NoiseError, match=r"\('a',\) with inputs as 'jpeg-95' is -1.0"):
        verify(noise, lambda *_: -1.0, lambda model: Choice(("a",), "jpeg-95"), 0.5)


def test_a_choice_may_be_a_plan():
    class Plan:
        quantized = ("b",)

    eta = NoiseModel.polynomial(LAYERS, {"b": 0.1})
    found = verify(eta, lambda names: 0.1, lambda noise: Plan(), 0.2)
    assert found.quantized == ("b",)
    assert isinstance(found.choice, Plan)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_measurement_that_is_no_noise_is_refused(value):
    eta = NoiseModel.polynomial(LAYERS, {"b": 0.1})
    with pytest.raises(NoiseError, match="measured noise of"):
        verify(eta, lambda names: value, lambda noise: ("b",), 0.2)


@pytest.mark.parametrize(
    ("choice", "says"), [(("a",), r"\('a',\) is not within max_noise 0.2"), (("z",), "'z' is not a quantizable layer")]
)
def test_a_choice_that_breaks_the_rules_is_refused(choice, says):
    eta = NoiseModel.polynomial(LAYERS, dict.fromkeys(LAYERS, 0.1))
    with pytest.raises(NoiseError, match=says):
        verify(eta, lambda names: 0.9, lambda noise: choice, 0.2)


@pytest.mark.parametrize("limit", [-1, math.nan])
def test_a_wrong_limit_is_refused(limit):
    eta = NoiseModel.polynomial(LAYERS, {"b": 0.1})
    with pytest.raises(OptionError, match="max_noise"):
        verify(eta, lambda names: 0.1, lambda noise: (), limit)


def test_samples_of_other_layers_are_refused():
    samples = NoiseSamples(pd.DataFrame({"a": [1], "noise": [0.1]}))
    with pytest.raises(NoiseError, match="samples are of the layers"):
        verify(NoiseModel.polynomial(LAYERS, {"b": 0.1}), lambda names: 0.1, lambda noise: (), 0.2, samples)


@pytest.mark.parametrize("model", ["gp", "link", "polynomial"])
def test_no_plan_of_split_breaks_its_limit(model):
    graph, network, times, table = ds.examples.yolo11n()
    every = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / f"{ds.examples.SHIPPED}.csv")
    few, _ = every.divide(100, seed=3)
    noise = ds.fit_noise(few, model, **({"degree": 2} if model == "link" else {"degree": 1} if model == "polynomial" else {}))
    for limit in (0.02, 0.05, 0.07):
        best = ds.split(graph, network, times, table, max_noise=limit)
        plan = ds.split(graph, network, times, noise, max_noise=limit, verify=table.of, samples=few)
        assert plan.noise == table.of(plan.quantized) <= limit
        assert plan.noise_kind == ("measured" if plan.quantized else "none")
        assert plan.measurements <= 35
        assert plan.latency_s >= best.latency_s * (1 - 1e-9)
        if model == "gp":
            assert plan.latency_s == pytest.approx(best.latency_s, rel=0.02)


def test_verify_through_the_milp_and_with_a_limit_on_energy():
    graph, network, times, table = ds.examples.tiny()
    wrong = ds.NoiseModel.polynomial(table.layers, {(n,): 0.001 for n in table.layers})  # far too hopeful
    for method in ("elimination", "milp", "slides"):
        plan = ds.split(graph, network, times, wrong, max_noise=0.02, method=method, verify=table.of)
        assert plan.quantized == ("conv1",)
        assert plan.measurements == 2  # both layers first, which is too noisy
    with pytest.raises(ds.NoiseError, match="verify needs a limit"):
        ds.split(graph, network, times, wrong, verify=table.of)
