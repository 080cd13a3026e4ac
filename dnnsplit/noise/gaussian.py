"""Gaussian process regression of the noise: the predictor that needs the fewest measured schemes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel

CHUNK = 8192  # schemes that are predicted at a time


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian process on eta^2.

    Attributes
    ----------
    regressor : fitted to eta^2 / scale
    scale : unit of what it is fitted to
    """

    regressor: GaussianProcessRegressor
    scale: float

    def predict(self, schemes: np.ndarray, sigmas: float = 0.0) -> np.ndarray:
        """Return eta of 0/1 rows (n, layers) where eta^2 is that many standard deviations above its mean: float (n,)."""
        parts = np.array_split(np.asarray(schemes, float), -(-len(schemes) // CHUNK) or 1)
        return np.concatenate([self._part(part, sigmas) if len(part) else np.zeros(0) for part in parts])

    def _part(self, rows: np.ndarray, sigmas: float) -> np.ndarray:
        if not sigmas:
            return np.sqrt(np.maximum(self.regressor.predict(rows), 0.0) * self.scale)
        mean, std = self.regressor.predict(rows, return_std=True)
        return np.sqrt(np.maximum(np.maximum(mean, 0.0) + sigmas * std, 0.0) * self.scale)

    def learn(self, schemes: np.ndarray, noise: np.ndarray) -> Gaussian:
        """Return the process conditioned on more samples, its lengths as they are."""
        rows = np.vstack([self.regressor.X_train_, np.asarray(schemes, float)])
        power = np.r_[self.regressor.y_train_, np.square(noise) / self.scale]
        return Gaussian(_conditioned(self.regressor.kernel_, rows, power), self.scale)


def fit_gaussian(schemes: np.ndarray, noise: np.ndarray, most: int = 300) -> Gaussian:
    """Fit an anisotropic RBF kernel, one length per layer, to eta^2, with eta(0) = 0 as one more sample.

    The errors of two layers add up like their powers as far as they are independent, so that eta^2 is nearly linear in q
    and lengths come out long. They maximise the marginal likelihood (Rasmussen and Williams, Gaussian Processes for Machine
    Learning, 2006, section 5.4.1), from one start: the same samples give the same model.

    Parameters
    ----------
    schemes : 0/1 (n, layers)
    noise : float (n,), not 0 everywhere
    most : samples that the lengths are fitted to, drawn at random where there are more; the process is conditioned on all
    """
    rows = np.vstack([np.zeros(schemes.shape[1]), schemes])
    power = np.r_[0.0, np.square(noise, dtype=float)]
    scale = float(power.std())
    kernel = ConstantKernel(10.0, (1e-2, 1e4)) * RBF(np.full(schemes.shape[1], 4.0), (0.3, 30.0))
    kernel += WhiteKernel(1e-4, (1e-8, 0.1))
    regressor = GaussianProcessRegressor(kernel, alpha=1e-9)
    with warnings.catch_warnings():
        # A length at its bound is a layer that hardly matters; how well all this predicts is left to cross-validation.
        warnings.simplefilter("ignore", ConvergenceWarning)
        some = np.r_[0, 1 + np.sort(np.random.default_rng(0).permutation(len(noise))[:most])]
        regressor.fit(rows[some], power[some] / scale)
    if len(some) < len(rows):
        regressor = _conditioned(regressor.kernel_, rows, power / scale)
    return Gaussian(regressor, scale)


def _conditioned(kernel: Kernel, rows: np.ndarray, power: np.ndarray) -> GaussianProcessRegressor:
    return GaussianProcessRegressor(kernel, alpha=1e-9, optimizer=None).fit(rows, power)
