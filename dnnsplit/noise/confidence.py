"""Upper confidence bounds of a noise: what its mean over all images is below, judged by those that it was measured on.

A plan is chosen because its noise was low on some images; on others it is higher, on average too (the winner's curse). The
one-sided bound of Student (Biometrika 6, 1908) for the mean of n images, mean + t_{n-1} std / sqrt(n), is above the mean over all
images in a share `confidence` of cases, if the images neither chose the plan nor calibrated its ranges.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, t

from dnnsplit.ground.errors import OptionError
from dnnsplit.ground.units import is_number
from dnnsplit.noise.samples import NoiseSamples


def upper_bound(mean: ArrayLike, std: ArrayLike, images: ArrayLike, confidence: float) -> np.ndarray:
    """Return the one-sided upper confidence bound of means over 2 images or more, by their sample standard deviations.

    Examples
    --------
    >>> upper_bound(0.05, 0.01, 64, 0.95).round(5).item()
    0.05209
    """
    if not is_number(confidence) or not 0.5 <= confidence < 1:
        message = f"confidence is {confidence!r}; give a number from 0.5 up to 1, such as 0.95, or None for the mean"
        raise OptionError(message)
    return np.asarray(np.asarray(mean) + t.ppf(confidence, np.asarray(images) - 1) * std / np.sqrt(images))


def share_bound(count: ArrayLike, of: int, confidence: float) -> np.ndarray:
    """Return the upper confidence bound of a share, `count` of so many seen (Clopper and Pearson, Biometrika 26, 1934).

    Examples
    --------
    >>> share_bound(0, 8, 0.95).round(4).item()
    0.3123
    """
    return np.where(
        np.asarray(count) >= of, 1.0, beta.ppf(confidence, np.asarray(count) + 1.0, np.maximum(of - np.asarray(count), 1e-9))
    )


def bound_factor(share: tuple[float, int], confidence: float) -> float:
    """Return what a predicted noise is multiplied by for its bound, from the share of it that `shared_spread` tells."""
    return float(upper_bound(1.0, *share, confidence))


def shared_spread(samples: NoiseSamples) -> tuple[float, int] | None:
    """Return the spread over images that predictions have: the root mean square share of samples, and their fewest images."""
    some = samples.noise > 0
    some = some if samples.spread is None else some & (samples.spread[:, 1] > 1)
    if samples.spread is None or not some.any():
        return None
    std, images = samples.spread[some].T
    return math.sqrt(float(np.square(std / samples.noise[some]).mean())), int(images.min())
