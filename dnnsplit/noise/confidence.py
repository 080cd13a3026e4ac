"""Upper confidence bounds of a noise: what its mean over all images is below, judged by those that it was measured on.

A plan is chosen because its noise was low on some images; on others it is higher, on average too (the winner's curse). The
one-sided bound of Student (Biometrika 6, 1908) for the mean of n images, mean + t_{n-1} std / sqrt(n), is above the mean over all
images in a share `confidence` of cases, if the images neither chose the plan nor calibrated its ranges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from dnnsplit.ground.errors import NoiseError, OptionError
from dnnsplit.noise.models import NoiseModel, Predictor
from dnnsplit.noise.samples import NoiseSamples


def upper_bound(mean: ArrayLike, std: ArrayLike, images: ArrayLike, confidence: float) -> np.ndarray:
    """Return the one-sided upper confidence bound of means over images.

    Parameters
    ----------
    mean, std, images : of each; std is the sample standard deviation (of n - 1 degrees of freedom), images 2 or more
    confidence : from one half up to, but not, 1

    Examples
    --------
    >>> upper_bound(0.05, 0.01, 64, 0.95).round(5).item()
    0.05209
    """
    if isinstance(confidence, bool) or not isinstance(confidence, Real) or not 0.5 <= confidence < 1:
        raise OptionError(f"confidence is {confidence!r}; give a number from 0.5 up to 1, such as 0.95, or None for the mean")
    return np.asarray(mean) + t.ppf(confidence, np.asarray(images) - 1) * std / np.sqrt(images)


def bounded(noise: NoiseModel, confidence: float) -> NoiseModel:
    """Return the model of the upper bounds of a noise model's means; its ``mean`` is that model.

    What is predicted has the relative spread that the samples behind it have on average; what was measured on one image has no
    bound, and is left out. The bound is about images alone, not about how well a fit predicts: see `dnnsplit.noise.verification`.

    Raises
    ------
    NoiseError : the spread over images is not known
    OptionError : no confidence
    """
    if not (noise.spread or not any(noise.table) if noise.kind == "table" else noise.share):
        raise NoiseError(
            f"the noise has no spread over images, which confidence={confidence!r} needs: measure it on two images or more "
            "(measure_noise keeps their spread), or take confidence=None, the plain mean"
        )
    if noise.kind == "table":
        keys = [k for k in noise.table if k in noise.spread and k]
        spread = np.array([noise.spread[k] for k in keys]).reshape(-1, 2)
        bounds = upper_bound(np.array([noise.table[k] for k in keys]), spread[:, 0], spread[:, 1], confidence)
        return replace(noise, table={0: 0.0} | dict(zip(keys, bounds.tolist(), strict=True)), mean=noise)
    factor = float(upper_bound(1.0, *noise.share, confidence))
    if noise.predictor is not None:
        return replace(noise, predictor=Scaled(noise.predictor, factor), mean=noise)
    by = factor**noise.power
    terms = {names: by * value for names, value in noise.terms.items()}
    return replace(noise, terms=terms, intercept=by * noise.intercept, mean=noise)


def shared_spread(samples: NoiseSamples) -> tuple[float, int] | None:
    """Return the spread over images that predictions have: the root mean square share of samples, and their fewest images."""
    some = samples.noise > 0
    some = some if samples.spread is None else some & (samples.spread[:, 1] > 1)
    if samples.spread is None or not some.any():
        return None
    std, images = samples.spread[some].T
    return math.sqrt(float(np.square(std / samples.noise[some]).mean())), int(images.min())


@dataclass(frozen=True, eq=False)
class Scaled:
    """A predictor times a factor."""

    predictor: Predictor
    factor: float

    def predict(self, schemes: np.ndarray, sigmas: float = 0.0) -> np.ndarray:
        """Return the noise, or a bound that many standard deviations above it; float (n,)."""
        return self.factor * self.predictor.predict(schemes, sigmas)
