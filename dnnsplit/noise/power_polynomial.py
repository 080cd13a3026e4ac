"""Polynomials behind a learned link: eta^p is a polynomial, which stays linear in products of q whatever p is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from sklearn.linear_model import LinearRegression

POWERS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0, 5.0)
SHARES = (0.03, 0.1, 0.3, 1.0, 3.0)
RESIDUALS = np.logspace(-7, -1, 13)


def fit_link(schemes: np.ndarray, noise: np.ndarray, degree: int = 2) -> tuple[dict[tuple[int, ...], float], float]:
    """Fit eta^p = sum of coefficient * product of q_i, without intercept, by ridge regression with a heredity prior.

    Products are taken of s_i = 2 q_i - 1, each less its value at q = 0, so that eta(0) = 0 exactly. A product's prior
    variance is the product of its layers' weights: a pair can matter as far as both its layers do (Chipman, Canadian
    Journal of Statistics 24, 1996). Weights are the non-negative main effects on eta^2. The power p, the share of the
    products and the variance of the residual maximise the marginal likelihood on a grid.

    Returns
    -------
    tuple[dict[tuple[int, ...], float], float]
        (terms, power): coefficient by columns of `schemes`, and p.
    """
    count = schemes.shape[1]
    relative = noise / noise.max()
    logs = np.log(relative[relative > 0]).sum()
    main = LinearRegression(fit_intercept=False, positive=True).fit(schemes, relative**2).coef_
    weight = np.sqrt(main + 1e-3 * main.mean())
    weight /= weight.sum()
    products = [c for size in range(1, min(degree, count) + 1) for c in combinations(range(count), size)]
    signs = 2.0 * schemes - 1.0
    design = np.stack([signs[:, c].prod(axis=1) - (-1.0) ** len(c) for c in map(list, products)], axis=1)
    best = (np.inf, 1.0, np.zeros(len(products)))
    for share in SHARES:
        deviation = np.sqrt([weight[list(c)].prod() * share ** (len(c) - 1) for c in products])
        left, singular, right = np.linalg.svd(design * deviation, full_matrices=False)
        for power in POWERS:
            target = relative**power
            inside = left.T @ target
            for residual in RESIDUALS:
                shrunk = singular**2 + residual
                # minus the log evidence, the prior's own scale maximised out; the last two are the Jacobian of eta -> eta^p
                outside = max(target @ target - inside @ inside, 0.0)
                fit = 0.5 * len(target) * np.log((inside**2 / shrunk).sum() + outside / residual)
                size = 0.5 * (np.log(shrunk).sum() + (len(target) - len(singular)) * np.log(residual))
                value = fit + size - len(target) * np.log(power) - (power - 1) * logs
                if value < best[0]:
                    best = (value, power, deviation * (right.T @ (singular / shrunk * inside)))
    _, power, coefficients = best
    return _plain(dict(zip(products, coefficients * noise.max() ** power, strict=True))), power


def _plain(coefficients: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
    """Expand products of 2 q_i - 1 into products of q_i; what is left without a layer cancels."""
    terms: dict[tuple[int, ...], float] = dict.fromkeys(coefficients, 0.0)
    for product, value in coefficients.items():
        for size in range(1, len(product) + 1):
            for part in combinations(product, size):
                terms[part] += value * 2.0**size * (-1.0) ** (len(product) - size)
    return terms
