"""Fitting eta(q) to measured schemes, and scoring a prediction honestly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import PolynomialFeatures

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, nearest
from dnnsplit.noise.confidence import shared_spread
from dnnsplit.noise.design import design_schemes
from dnnsplit.noise.gaussian import fit_gaussian
from dnnsplit.noise.models import NoiseModel, Polynomial, with_forms
from dnnsplit.noise.power_polynomial import fit_link
from dnnsplit.noise.samples import SOURCE, NoiseSamples
from dnnsplit.noise.schemes import all_schemes, names_of, pack_schemes

MODELS = ("polynomial", "link", "gp", "measured")
SCORES = ("R2", "MAPE_%", "low_MAPE_%")


def fit_noise(samples: NoiseSamples, model: str = "polynomial", degree: int = 2, folds: int = 5) -> NoiseModel:
    """Fit eta(q) to measured schemes.

    Parameters
    ----------
    samples : NoiseSamples
        Measured noise.
    model : str, default "polynomial"
        "polynomial" (the slides: least squares over all products of up to `degree` layers; q_i^2 = q_i), "link" (eta^p is such a
        polynomial, p learned, with a prior that lets it do with fewer samples than terms: see `link`), "gp" (a Gaussian process
        on eta^2, the best with few samples: see `gaussian`) or "measured" (no fit: the table itself).
    degree : int, default 2
        Of the polynomial or the link, 1 or more.
    folds : int, default 5
        Of the cross-validation that the scores come from.

    Returns
    -------
    NoiseModel
        With ``scores``: samples; R2, MAPE_% and low_MAPE_% (of the lowest tenth) by cross-validation; and, where the model has
        them, degree, terms, power and R2_fit on the rows it was fitted to. Designed samples are the hardest to leave out, so that
        their cross-validation errs on the safe side. Its ``sources``, of inputs in lossy forms, are this model and the form's
        noise alone added (`dnnsplit.noise.models.PowerSum`); tables for "measured", where all was measured.

    Raises
    ------
    NoiseError
        Unknown model, or too few samples for it.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> samples = ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / "yolo11n-ppe-320.csv")
    >>> ds.fit_noise(samples, degree=2).scores["R2"] > 0.9
    True
    """
    check_arguments(fit_noise, locals(), NoiseError, least={"degree": 1, "folds": 2})
    if model not in MODELS:
        message = f"noise model {model!r} is unknown{nearest(model, MODELS)}"
        raise NoiseError(message)
    if model == "measured" or not samples.layers:
        return NoiseModel.measured(samples)
    if SOURCE in samples.origin:
        message = (
            f"the samples are of inputs as {samples.origin[SOURCE]!r}: model {model!r} is fitted to those of inputs as they are, "
            "whose sources they are; or take model='measured'"
        )
        raise NoiseError(message)
    _check(samples, model, degree, folds)
    some = samples.quantizing
    cross = np.empty(len(some.noise))
    for rest, fold in KFold(folds, shuffle=True, random_state=0).split(cross):
        cross[fold] = _fit(some.only(rest), model, degree).predict(some.schemes[fold])
    fitted = _fit(some, model, degree)
    scores: dict[str, float] = {"samples": len(cross)}
    if isinstance(fitted, Polynomial):
        scores = {"degree": int(degree), **scores, "terms": len(fitted.terms) + (model == "polynomial")}
        scores |= {"power": fitted.power} if model == "link" else {}
    scores |= noise_scores(some.noise, cross)
    scores["R2_fit"] = float(r2_score(some.noise, fitted.predict(some.schemes)))
    return with_forms(replace(fitted, share=shared_spread(some), scores=scores, origin=samples.origin), samples)


def polynomials(
    samples: NoiseSamples, train: int = 1000, seed: int = 0
) -> tuple[dict[str, NoiseModel], NoiseSamples, NoiseSamples]:
    """Fit the slides' regressors, of degree 2 and 3, and keep samples to test them on.

    Parameters
    ----------
    samples : NoiseSamples
        Measured noise.
    train : int, default 1000
        How many of them are fitted to, but two thirds of them at most.
    seed : int, default 0
        Of the choice.

    Returns
    -------
    tuple[dict[str, NoiseModel], NoiseSamples, NoiseSamples]
        By "degree 2" and "degree 3", those that there are samples enough for; the samples that they were fitted to; and those
        that none was fitted to. One sample alone is both.
    """
    if len(samples.frame) < 2:
        return {}, samples, samples
    fitted, held_out = samples.divide(min(train, 2 * len(samples.frame) // 3), seed)
    enough = [degree for degree in (2, 3) if len(fitted.quantizing.frame) >= _enough("polynomial", degree, samples)]
    return {f"degree {degree}": fit_noise(fitted, degree=degree) for degree in enough}, fitted, held_out


def _check(samples: NoiseSamples, model: str, degree: int, folds: int) -> None:
    some = samples.schemes.any(axis=1)
    count, size, needed = np.count_nonzero(some), len(samples.layers), _least(model, degree, samples)
    what, way_out = f"model {model!r} over {size} layers needs {size} samples", "Measure more"
    if model == "polynomial":
        what = f"degree {degree} over {size} layers has {needed} coefficients"
        way_out += ", lower the degree, or fit model='gp' or 'link', which need fewer"
    enough = _enough(model, degree, samples, folds)
    if count < enough:
        message = f"{what} and {folds}-fold cross-validation needs {enough} samples; there are {count}. {way_out}"
        raise NoiseError(message)
    noise_scores(samples.noise[some], samples.noise[some])  # refuses noise that is 0 nearly everywhere


def _enough(model: str, degree: int, samples: NoiseSamples, folds: int = 5) -> int:
    """Return how many samples a model can be fitted to when one fold is left out."""
    return max(folds, -(-_least(model, degree, samples) * folds // (folds - 1)))


def _least(model: str, degree: int, samples: NoiseSamples) -> int:
    """Return how many samples a model is fitted to at least: a polynomial one for each of its coefficients."""
    size = len(samples.layers)
    return sum(math.comb(size, k) for k in range(min(degree, size) + 1)) if model == "polynomial" else size


def _fit(samples: NoiseSamples, model: str, degree: int = 2) -> NoiseModel:
    """Fit to samples that all quantize something, without scores."""
    layers, schemes, noise = samples.layers, samples.schemes.astype(float), samples.noise
    if model == "gp":
        return fit_gaussian(layers, schemes, noise)
    if model == "link":
        terms, power = fit_link(schemes, noise, int(degree))
        return Polynomial(layers, {tuple(layers[i] for i in c): value for c, value in terms.items()}, power=power)
    features = PolynomialFeatures(degree=min(int(degree), len(layers)), interaction_only=True, include_bias=False)
    regression = LinearRegression().fit(features.fit_transform(schemes), noise)
    named = {names_of(layers, row): value for row, value in zip(features.powers_, regression.coef_.tolist(), strict=True)}
    return Polynomial(layers, named, float(regression.intercept_))


def noise_scores(measured: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return R2, MAPE_% and low_MAPE_% (over the tenth with the least measured noise) where the measured noise is above 0."""
    keep = measured > 0
    if (above := np.count_nonzero(keep)) < 2:
        message = f"{above} of {len(keep)} samples have a noise above 0; two or more are needed to score a model"
        raise NoiseError(message)
    measured, predicted = measured[keep], predicted[keep]
    error = 100.0 * np.abs(predicted - measured) / measured
    lowest = error[np.argsort(measured, kind="stable")[: max(1, len(error) // 10)]]
    return dict(zip(SCORES, map(float, (r2_score(measured, predicted), error.mean(), lowest.mean())), strict=True))


def first_order(noise: NoiseModel) -> np.ndarray:
    """Return the share of each layer alone in the variance of eta over all schemes (Sobol's first-order index), float (layers,).

    What they lack to 1 is due to interactions. Raises NoiseError where not every scheme's noise is known.
    """
    values = noise.every()
    if not np.isfinite(values).all():
        message = f"{np.isinf(values).sum()} of {len(values)} schemes were not measured; measure all, or fit a model"
        raise NoiseError(message)
    spread = values.var()
    effects: np.ndarray = (2.0 * all_schemes(len(noise.layers)) - 1.0).T @ values / len(values)
    return effects**2 / spread if spread > 0 else 0.0 * effects


def learning_curve(
    samples: NoiseSamples, models: Mapping[str, Mapping[str, Any]], sizes: Sequence[int], seeds: int = 3
) -> pd.DataFrame:
    """Score models that were fitted to a few of the samples on all the others.

    Parameters
    ----------
    samples : NoiseSamples
        Measured noise; all schemes for a design.
    models : Mapping[str, Mapping[str, Any]]
        By title, the options ``model`` and ``degree`` of `fit_noise`, ``design``: True for the schemes that `design_schemes`
        chooses, else random ones, and ``most``: no more samples than that. See `regressors`.
    sizes : Sequence[int]
        How many samples to fit to.
    seeds : int, default 3
        How often each is repeated.

    Returns
    -------
    pd.DataFrame
        model, samples, seed, R2, MAPE_%, low_MAPE_% on the rows left out; a size that is too small for a model (fewer samples
        than coefficients, or than the first stage of a design) has no row.

    Raises
    ------
    NoiseError
        Unknown model or option, a size that leaves nothing to test on, a designed scheme that was not measured.
    """
    some = samples.quantizing
    for title, options in models.items():
        unknown = sorted({*options} - {"model", "degree", "design", "most"})
        if unknown or options.get("model", "polynomial") not in MODELS[:-1]:
            what = f"option {unknown[0]!r}" if unknown else f"model {options['model']!r}"
            message = f"learning curve of {title!r}: {what} is unknown; there are model, degree, design and most"
            raise NoiseError(message)
    rows = []
    for size in sizes:
        for seed in range(seeds):
            for title, options in models.items():
                model, degree = options.get("model", "polynomial"), options.get("degree", 2)
                least = max(_least(model, degree, some), (len(some.layers) + 1) * bool(options.get("design")))
                if not least <= size <= options.get("most", size):
                    continue
                train, test = _designed(some, size, seed) if options.get("design") else some.divide(size, seed)
                scores = noise_scores(test.noise, _fit(train, model, degree).predict(test.schemes))
                rows.append({"model": title, "samples": int(size), "seed": seed, **scores})
    return pd.DataFrame(rows, columns=["model", "samples", "seed", *SCORES])


def regressors(samples: NoiseSamples) -> dict[str, dict[str, Any]]:
    """Return the models that a learning curve compares; designed schemes can be looked up only where all were measured."""
    models: dict[str, dict[str, Any]] = {f"degree {degree}, random": {"degree": degree} for degree in (2, 3)}
    models |= {"link, random": {"model": "link"}, "Gaussian process, random": {"model": "gp"}}
    if len(samples.frame) == 2 ** len(samples.layers):
        models["Gaussian process, designed"] = {"model": "gp", "design": True, "most": 80}
    return models


def _designed(samples: NoiseSamples, size: int, seed: int) -> tuple[NoiseSamples, NoiseSamples]:
    """Divide exhaustive samples into the designed ones and the others."""
    keys = pack_schemes(samples.schemes)
    chosen = np.zeros(len(keys), bool)
    for _ in range(2):  # the two stages of a design
        known = samples.only(chosen) if chosen.any() else None
        wanted = pack_schemes(design_schemes(len(samples.layers), size, known, seed))
        if not np.isin(wanted, keys).all():
            message = "a designed scheme is not among the samples; a design needs all schemes measured"
            raise NoiseError(message)
        chosen |= np.isin(keys, wanted)
    if chosen.all():
        message = f"{size} of {len(keys)} samples leaves none to test on"
        raise NoiseError(message)
    return samples.only(chosen), samples.only(~chosen)
