"""How far two arrays are apart, where some of their values may be no numbers."""

from __future__ import annotations

import numpy as np

TINY = float(np.finfo(np.float32).tiny)  # the least number that float32 holds exactly: nothing is divided by less
ROUNDING = 1e-5  # of the outputs: float32 sums in another order, which may show as noise where no layer is in int8


def absolute(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return |found - wanted| in float64; 0 where both hold the same value, NaN too, and infinite where one alone is no number.

    Examples
    --------
    >>> absolute(np.array([1.0, np.nan, np.inf, np.nan, 3.0]), np.array([1.5, np.nan, np.inf, 0.0, np.inf])).tolist()
    [0.5, 0.0, 0.0, inf, inf]
    """
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        apart = np.abs(found - wanted)
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def magnitude(values: np.ndarray) -> np.ndarray:
    """Return |values| in float64, 0 where they are no finite numbers: what a difference is relative to."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), np.abs(values), 0.0)
