"""Fitting eta(q) to measured schemes, and scoring a prediction honestly."""

from __future__ import annotations

import math
from numbers import Integral

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import PolynomialFeatures

from dnnsplit.errors import NoiseError, nearest
from dnnsplit.noise import NoiseModel, NoiseSamples


def fit_noise(samples: NoiseSamples, model: str = "polynomial", degree: int = 2, folds: int = 5) -> NoiseModel:
    """Fit eta(q) to measured schemes.

    Parameters
    ----------
    samples : measured noise
    model : "polynomial" (the slides: least squares over all products of up to `degree` layers; q_i^2 = q_i) or
        "measured" (no fit: the table itself)
    degree : of the polynomial, 1 or more
    folds : of the cross-validation that the scores come from

    Returns
    -------
    NoiseModel : with ``scores``: degree, samples, terms; R2, MAPE_% and low_MAPE_% (of the lowest tenth) by
        cross-validation, and R2_fit on the rows it was fitted to

    Raises
    ------
    NoiseError : unknown model, or fewer samples than the polynomial has terms
    """
    if model == "measured":
        return NoiseModel.measured(samples)
    if model != "polynomial":
        raise NoiseError(f"noise model {model!r} is unknown{nearest(model, ('polynomial', 'measured'))}")
    for what, value, least in (("degree", degree, 1), ("folds", folds, 2)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise NoiseError(f"{what} {value!r} must be a whole number, {least} or more")
    some = samples.schemes.any(axis=1)
    schemes, noise = samples.schemes[some].astype(float), samples.noise[some]
    size = len(samples.layers)
    needed = sum(math.comb(size, k) for k in range(min(degree, size) + 1))
    enough = max(folds, -(-needed * folds // (folds - 1)))
    if len(noise) < enough:
        raise NoiseError(
            f"degree {degree} over {size} layers has {needed} coefficients and {folds}-fold cross-validation "
            f"needs {enough} samples; there are {len(noise)}. Measure more, or lower the degree"
        )
    features = PolynomialFeatures(degree=min(int(degree), size), interaction_only=True, include_bias=False)
    design = features.fit_transform(schemes)
    regression = LinearRegression()
    cross = cross_val_predict(regression, design, noise, cv=KFold(folds, shuffle=True, random_state=0))
    regression.fit(design, noise)
    names = [tuple(samples.layers[i] for i in np.flatnonzero(row)) for row in features.powers_]
    fitted = NoiseModel.polynomial(
        samples.layers, dict(zip(names, regression.coef_.tolist(), strict=True)), float(regression.intercept_), samples.origin
    )
    scores = {"degree": int(degree), "samples": len(noise), "terms": needed} | noise_scores(noise, np.maximum(cross, 0.0))
    scores["R2_fit"] = float(r2_score(noise, regression.predict(design)))
    return NoiseModel(fitted.layers, "polynomial", fitted.terms, fitted.intercept, scores=scores, origin=samples.origin)


def noise_scores(measured: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return R2, MAPE_% and low_MAPE_% (over the tenth with the least measured noise) of a prediction.

    Parameters
    ----------
    measured, predicted : float (n,); rows whose measured noise is 0 are left out
    """
    keep = measured > 0
    if np.count_nonzero(keep) < 2:
        above = np.count_nonzero(keep)
        raise NoiseError(f"{above} of {len(keep)} samples have a noise above 0; two or more are needed to score a model")
    measured, predicted = measured[keep], predicted[keep]
    error = 100.0 * np.abs(predicted - measured) / measured
    lowest = error[np.argsort(measured, kind="stable")[: max(1, len(error) // 10)]]
    return {
        "R2": float(r2_score(measured, predicted)),
        "MAPE_%": float(error.mean()),
        "low_MAPE_%": float(lowest.mean()),
    }
