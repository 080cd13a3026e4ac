"""Regressors beside the polynomial: learned link, Gaussian process; their rows in the programme, and learning curves."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.ground.errors import NoiseError
from dnnsplit.noise.design import design_schemes
from dnnsplit.noise.fit import first_order, fit_noise, learning_curve, noise_scores, polynomials
from dnnsplit.noise.models import NoiseModel, NoiseSamples, Polynomial
from dnnsplit.noise.schemes import all_schemes, pack_schemes, sample_schemes
from dnnsplit.solving.arrays import build_problem
from dnnsplit.solving.milp.formulations import FORMULATIONS

SIX = tuple("abcdef")
REGRESSORS = [{"model": "polynomial", "degree": 2}, {"model": "link", "degree": 2}, {"model": "gp"}]


@pytest.fixture(scope="module")
def shipped():
    """All schemes of the shipped model that quantize something, measured on the same images."""
    table = NoiseSamples.load(ds.examples.data_folder() / "noise" / f"{ds.examples.SHIPPED}.first.csv")
    return NoiseSamples(table.frame[table.schemes.any(axis=1)], table.origin)


def among(samples, rows):
    return NoiseSamples(samples.frame[np.isin(pack_schemes(samples.schemes), pack_schemes(rows))], samples.origin)


@pytest.fixture(scope="module")
def designed(shipped):
    """The 40 schemes of a design."""
    first = among(shipped, design_schemes(12))
    return among(shipped, np.vstack([first.schemes, design_schemes(12, 40, first)]))


def powers_add(count, power=2.0, layers=SIX, pair=0.0):
    """eta^power is linear in q, but for one pair of layers."""
    q = sample_schemes(len(layers), count).astype(float)
    value = q @ np.linspace(0.5, 2.0, len(layers)) + pair * q[:, 0] * q[:, 1]
    return NoiseSamples(pd.DataFrame(q, columns=list(layers)).assign(noise=0.1 * value ** (1 / power)))


# ---------------------------------------------------------------- what every regressor keeps


@pytest.mark.parametrize("options", REGRESSORS)
def test_nothing_quantized_has_exactly_no_noise_and_no_noise_is_negative(shipped, options):
    model = fit_noise(shipped.divide(200, seed=3)[0], **options)
    assert model.of(()) == 0.0
    assert model.predict(np.zeros((2, 12))).tolist() == [0.0, 0.0]
    assert model.every()[0] == 0.0
    assert (model.every() >= 0).all()
    assert model.predict(np.zeros((0, 12))).shape == (0,)
    assert model.kind == options["model"]


@pytest.mark.parametrize("options", REGRESSORS)
def test_the_fit_repeats_and_survives_pickling(options):
    samples = powers_add(50)
    once, again = fit_noise(samples, **options), fit_noise(samples, **options)
    assert (once.every() == again.every()).all()
    assert dict(once.scores) == dict(again.scores)
    assert (pickle.loads(pickle.dumps(once)).every() == once.every()).all()


@pytest.mark.parametrize("options", REGRESSORS)
def test_the_order_of_the_columns_is_the_layers(options):
    samples = powers_add(50)
    swapped = fit_noise(NoiseSamples(samples.frame[["f", "b", "c", "d", "e", "a", "noise"]]), **options)
    assert swapped.layers == ("f", "b", "c", "d", "e", "a")
    assert swapped.of(("a",)) == pytest.approx(fit_noise(samples, **options).of(("a",)), rel=1e-2)


@pytest.mark.parametrize("model", ["link", "gp"])
def test_too_few_samples_are_refused(model):
    with pytest.raises(NoiseError, match=f"model '{model}' over 6 layers needs 6 samples.*needs 8 samples; there are 7"):
        fit_noise(powers_add(8), model)
    with pytest.raises(NoiseError, match="0 of 49 samples have a noise above 0"):
        fit_noise(NoiseSamples(powers_add(50).frame.assign(noise=0.0)), model)


@pytest.mark.parametrize("model", ["link", "gp"])
def test_layers_without_any_noise_are_no_trouble(model):
    frame = powers_add(64).frame
    dead = NoiseSamples(frame.assign(noise=[0.1 * math.sqrt(a + 2 * b) for a, b in zip(frame["a"], frame["b"], strict=True)]))
    fitted = fit_noise(dead, model)
    assert fitted.of(("a", "b")) == pytest.approx(0.1 * math.sqrt(3), rel=0.02)
    assert fitted.of(("c", "d", "e", "f")) == pytest.approx(0.0, abs=0.02)


# ---------------------------------------------------------------- link


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_the_power_is_learned_and_the_polynomial_recovered(power):
    fitted = fit_noise(powers_add(60, power), "link", degree=2)
    assert fitted.power == fitted.scores["power"] == power
    assert fitted.scores["R2"] > 0.9999
    assert fitted.intercept == 0.0
    assert fitted.terms["a",] / 0.1**power == pytest.approx(0.5, abs=0.02)
    assert fitted.terms["f",] / 0.1**power == pytest.approx(2.0, abs=0.02)
    assert fitted.terms["a", "b"] / 0.1**power == pytest.approx(0.0, abs=0.02)


def test_a_pair_that_cancels_is_found():
    fitted = fit_noise(powers_add(60, 2.0, pair=-0.4), "link", degree=2)
    assert fitted.terms["a", "b"] / 0.01 == pytest.approx(-0.4, abs=0.05)
    assert fitted.of(("a", "b")) == pytest.approx(0.1 * math.sqrt(0.5 + 0.8 - 0.4), rel=0.02)


def test_a_link_by_hand():
    eta = NoiseModel.polynomial(("a", "b"), {"a": 9.0, "b": 16.0, ("a", "b"): -40.0}, power=2.0)
    assert eta.kind == "link"
    assert eta.every()[:3].tolist() == [0.0, 3.0, 4.0]
    assert 0 < eta.every()[3] < 1e-100  # 9 + 16 - 40 is no power, and what is in int8 has some noise
    assert NoiseModel.polynomial(("a",), {"a": 1.0}).kind == "polynomial"


@pytest.mark.parametrize("power", [0, -1.0, math.nan, math.inf, "2"])
def test_a_power_that_is_none_is_refused(power):
    with pytest.raises(NoiseError, match="power"):
        NoiseModel.polynomial(("a",), {"a": 1.0}, power=power)


# ---------------------------------------------------------------- Gaussian process


def test_a_gaussian_process_predicts_from_40_schemes(shipped, designed):
    fitted = fit_noise(designed, "gp")
    test = NoiseSamples(shipped.frame[~np.isin(pack_schemes(shipped.schemes), pack_schemes(designed.schemes))])
    scores = noise_scores(test.noise, fitted.predict(test.schemes))
    assert len(designed.noise) == 40
    assert scores["R2"] >= 0.99
    assert scores["MAPE_%"] <= 3
    assert scores["low_MAPE_%"] <= 6


def test_its_uncertainty_covers_its_errors(shipped, designed):
    fitted = fit_noise(designed, "gp")
    error = np.abs(fitted.predict(shipped.schemes) - shipped.noise) / fitted.predict_std(shipped.schemes)
    assert 0.5 < np.mean(error < 1) < 0.95
    assert np.mean(error < 3) > 0.98
    assert fitted.predict_std(np.zeros((1, 12))).tolist() == [0.0]


def test_who_cannot_tell_the_uncertainty_says_so():
    samples = powers_add(64)
    assert fit_noise(samples, "measured").predict_std([[1, 0, 0, 0, 0, 0]]).tolist() == [0.0]
    for model in ("polynomial", "link"):
        with pytest.raises(NoiseError, match=f"a {model} tells no uncertainty.*model='gp'"):
            fit_noise(samples, model).predict_std([[1, 0, 0, 0, 0, 0]])


def test_a_gaussian_process_learns_without_new_lengths(designed, shipped):
    fitted = fit_noise(designed, "gp")
    new = shipped.divide(30)[0]
    learned = fitted.learn(new.schemes, new.noise)
    assert learned.regressor.kernel_.theta.tolist() == fitted.regressor.kernel_.theta.tolist()
    before, after = (np.abs(g.predict(new.schemes) - new.noise).mean() for g in (fitted, learned))
    assert after < before / 3


def test_many_samples_are_all_used():
    layers = tuple("abcdefghi")
    fitted = fit_noise(powers_add(450, layers=layers, pair=1.0), "gp", folds=2)
    assert len(fitted.regressor.X_train_) == 450  # 449 that quantize something, and the anchor
    assert fitted.scores["R2"] > 0.999


def test_more_layers_than_can_be_listed_are_predicted_but_have_no_rows():
    layers = tuple(f"n{i}" for i in range(25))
    fitted = fit_noise(powers_add(80, layers=layers), "gp")
    assert fitted.of(layers) == pytest.approx(0.1 * math.sqrt(np.linspace(0.5, 2.0, 25).sum()), rel=0.02)
    with pytest.raises(NoiseError, match=r"\(gp\) needs all schemes listed, and those of 25 layers .*at most 18"):
        fitted.every()


# ---------------------------------------------------------------- rows of the programme


def admitted(noise, limit, formulation):
    """bool (4096,): which schemes satisfy the rows, products and "any" set to what they stand for."""
    graph, network, times, _ = ds.examples.yolo11n()
    problem = build_problem(graph, network, times, noise.layers)
    model = FORMULATIONS[formulation](problem)
    rows = list(model.noise(noise, limit))
    q = all_schemes(len(noise.layers)).astype(float)
    bit = {("q", i): q[:, j] for j, i in enumerate(problem.quantizable)}
    values = dict(bit)
    for n, names in enumerate(noise.terms if isinstance(noise, Polynomial) else ()):
        values["z", n] = np.prod([q[:, noise.layers.index(name)] for name in names], axis=0)
    values["any",] = q.max(axis=1)
    within = np.ones(len(q), bool)
    for r in rows:
        left = sum((c * values[key] for key, c in r.terms), np.zeros(len(q)))
        holds = {"<=": left - r.bound <= 1e-9, ">=": left - r.bound >= -1e-9, "==": np.abs(left - r.bound) <= 1e-9}
        within &= holds[r.sense]
    return within


@pytest.mark.parametrize("formulation", ["slides", "milp"])
@pytest.mark.parametrize("options", [*REGRESSORS, {"model": "measured"}])
def test_the_rows_admit_exactly_the_schemes_that_the_predictor_admits(shipped, options, formulation):
    samples = shipped if options["model"] == "measured" else shipped.divide(150, seed=1)[0]
    noise = fit_noise(samples, **options)
    every = noise.every()
    ordered = np.unique(every)
    for share in (0.005, 0.1, 0.5, 0.95):
        place = int(share * (len(ordered) - 1))
        limit = (ordered[place] + ordered[place + 1]) / 2  # between two values: no scheme is right on the limit
        assert (admitted(noise, limit, formulation) == (every <= limit)).all(), share


# ---------------------------------------------------------------- shares and curves


@pytest.mark.parametrize(
    ("layers", "train", "degrees", "fitted"),
    [("abcdef", 1000, (2,), 42), ("abcdefgh", 40, (), 40), ("abcdefgh", 1000, (2, 3), 170), ("ab", 1000, (), 2), ("", 5, (), 0)],
)
def test_the_slides_polynomials_are_fitted_where_there_are_samples_enough(layers, train, degrees, fitted):
    schemes = all_schemes(len(layers))
    noise = schemes @ np.arange(1.0, len(layers) + 1)
    samples = NoiseSamples(pd.DataFrame(schemes, columns=[*layers]).assign(noise=noise))
    models, train_on, held_out = polynomials(samples, train)
    assert list(models) == [f"degree {degree}" for degree in degrees]
    assert len(samples.frame) - len(held_out.frame) == fitted
    if fitted:
        together = pd.concat([train_on.frame, held_out.frame]).sort_values([*layers], ignore_index=True)
        assert together.equals(samples.frame.sort_values([*layers], ignore_index=True))
    for model in models.values():
        assert noise_scores(held_out.noise, model.predict(held_out.schemes))["R2"] == pytest.approx(1)


def test_first_order_shares_by_hand():
    # additive noise: variance of a 0/1 column is 1/4 of its coefficient squared
    eta = NoiseModel.polynomial(("a", "b"), {"a": 3.0, "b": 4.0})
    assert first_order(eta) == pytest.approx([9 / 25, 16 / 25])
    # only the pair: mean 1/4, variance 3/16; each effect is 1/4
    assert first_order(NoiseModel.polynomial(("a", "b"), {("a", "b"): 1.0})) == pytest.approx([1 / 3, 1 / 3])
    assert first_order(NoiseModel.polynomial(("a",), {"a": 0.0})).tolist() == [0.0]


def test_shares_need_every_scheme():
    with pytest.raises(NoiseError, match="32 of 64 schemes were not measured"):
        first_order(fit_noise(powers_add(32), "measured"))


def test_a_learning_curve_has_a_row_per_model_size_and_seed():
    models = {"degree 1": {"degree": 1}, "link": {"model": "link"}, "designed": {"model": "link", "design": True}}
    rows = learning_curve(powers_add(64, pair=-0.3), models, sizes=(6, 12, 24), seeds=2)
    assert list(rows.columns) == ["model", "samples", "seed", "R2", "MAPE_%", "low_MAPE_%"]
    count = rows.groupby(["model", "samples"]).size()
    assert count.to_dict() == {  # degree 1 has 7 coefficients, a design begins with 7 schemes
        ("degree 1", 12): 2, ("degree 1", 24): 2, ("link", 6): 2, ("link", 12): 2, ("link", 24): 2,
        ("designed", 12): 2, ("designed", 24): 2,
    }  # fmt: skip
    last = rows[rows["samples"] == 24].groupby("model")["R2"].median()
    assert last["link"] > last["degree 1"]
    figure, numbers = ds.plots.learning_curve(rows)
    assert [axis.get_xlabel() for axis in figure.axes] == ["measured schemes"] * 3
    assert len(numbers["rows"]["R2"]) == len(rows)


def test_the_points_of_a_learning_curve_are_scored_on_the_other_rows():
    samples = powers_add(64, pair=-0.3)
    row = learning_curve(samples, {"link": {"model": "link"}}, sizes=(20,), seeds=1).iloc[0]
    train, test = NoiseSamples(samples.frame[1:]).divide(20, seed=0)
    expected = noise_scores(test.noise, fit_noise(train, "link").predict(test.schemes))
    assert row["R2"] == pytest.approx(expected["R2"])


@pytest.mark.parametrize(
    ("models", "sizes", "says"),
    [
        ({"x": {"model": "lasso"}}, (20,), "model 'lasso' is unknown"),
        ({"x": {"folds": 3}}, (20,), "option 'folds' is unknown"),
        ({"x": {"model": "gp"}}, (63,), "leaves none"),
        ({"x": {"model": "link", "design": True}}, (63,), "leaves none to test on"),
    ],
)
def test_a_wrong_learning_curve_is_refused(models, sizes, says):
    with pytest.raises(NoiseError, match=says):
        learning_curve(powers_add(64), models, sizes)


def test_a_design_needs_all_schemes_measured():
    with pytest.raises(NoiseError, match="all schemes measured"):
        learning_curve(powers_add(40), {"x": {"model": "gp", "design": True}}, (20,))


def test_sensitivity_draws_shares_only_where_they_are_known():
    whole, part = powers_add(64), powers_add(30)
    assert ds.plots.sensitivity(whole)[1]["first_order"]["f"] > ds.plots.sensitivity(whole)[1]["first_order"]["a"]
    figure, numbers = ds.plots.sensitivity(part)
    assert numbers["first_order"] is None
    assert len(figure.axes) == 1
    assert set(ds.plots.sensitivity(part, fit_noise(part, "gp"))[1]["first_order"]) == set(SIX)


def test_a_gaussian_process_quantizes_nothing_at_a_limit_of_zero():
    samples = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / f"{ds.examples.SHIPPED}.first.csv")
    noise = ds.fit_noise(samples.divide(60, seed=1)[0], "gp")
    assert (noise.every()[1:] > 0).all()
    graph, network, times, _ = ds.examples.yolo11n()
    assert ds.split(graph, network, times, noise, max_noise=0).quantized == ()
