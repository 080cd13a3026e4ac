"""Gaussian process regression of the noise: the predictor that needs the fewest measured schemes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel

from dnnsplit.noise.confidence import bound_factor
from dnnsplit.noise.models import LEAST, SIGMAS, NoiseModel
from dnnsplit.noise.schemes import check_rows, check_schemes

CHUNK = 8192  # schemes that are predicted at a time


@dataclass(frozen=True, eq=False, repr=False)
class GaussianProcess(NoiseModel):
    """A Gaussian process on eta^2.

    Attributes
    ----------
    regressor, scale : GaussianProcessRegressor, float
        Fitted to eta^2 / scale.
    factor : float
        Of a bound, how much it is above the mean.
    """

    regressor: GaussianProcessRegressor
    scale: float
    factor: float = 1.0

    kind = "gp"

    def _eta(self, q: np.ndarray, sigmas: float = 0.0) -> np.ndarray:
        """Return eta where eta^2 is that many standard deviations above its mean."""
        parts = np.array_split(q.astype(float), -(-len(q) // CHUNK) or 1)
        eta = np.concatenate([self._part(part, sigmas) if len(part) else np.zeros(0) for part in parts])
        return np.asarray(self.factor * eta)

    def _part(self, rows: np.ndarray, sigmas: float) -> np.ndarray:
        mean, std = self.regressor.predict(rows, return_std=True) if sigmas else (self.regressor.predict(rows), 0.0)
        return np.asarray(np.sqrt(np.maximum(np.maximum(mean, 0.0) + sigmas * std, 0.0) * self.scale))

    def _noise(self, q: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(self._eta(q), LEAST))

    def predict_std(self, schemes: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Return how much a standard deviation of eta^2 adds to the noise of each scheme, see `NoiseModel.predict_std`."""
        q = check_schemes(schemes, len(self.layers))
        return np.where(q.any(axis=1), self._eta(q, 1.0) - self._eta(q), 0.0)

    def _bounded(self, confidence: float) -> NoiseModel:
        if self.share is None:
            return super()._bounded(confidence)
        return replace(self, factor=bound_factor(self.share, confidence))

    def optimistic(self, q: np.ndarray) -> np.ndarray:
        """Return the noise where eta^2 is `SIGMAS` standard deviations below its mean."""
        check_rows(q, len(self.layers))
        return np.where(q.any(axis=1), self._eta(q, -SIGMAS), self.floor)

    def learn(self, schemes: np.ndarray, noise: np.ndarray) -> GaussianProcess:
        """Return the process conditioned on more samples, its lengths as they are."""
        rows = np.vstack([self.regressor.X_train_, np.asarray(schemes, float)])
        power = np.r_[self.regressor.y_train_, np.square(noise / self.factor) / self.scale]
        return replace(self, regressor=_conditioned(self.regressor.kernel_, rows, power))


def fit_gaussian(layers: tuple[str, ...], schemes: np.ndarray, noise: np.ndarray, most: int = 300) -> GaussianProcess:
    """Fit an anisotropic RBF kernel, one length per layer, to eta^2, with eta(0) = 0 as one more sample.

    The errors of two layers add up like their powers as far as they are independent, so that eta^2 is nearly linear in q
    and lengths come out long. They maximise the marginal likelihood (Rasmussen and Williams, Gaussian Processes for Machine
    Learning, 2006, section 5.4.1), from one start: the same samples give the same model.
    They are fitted to `most` samples, drawn at random where there are more; the process is conditioned on all of them.
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
    return GaussianProcess(layers, regressor, scale)


def _conditioned(kernel: Kernel, rows: np.ndarray, power: np.ndarray) -> GaussianProcessRegressor:
    return GaussianProcessRegressor(kernel, alpha=1e-9, optimizer=None).fit(rows, power)
