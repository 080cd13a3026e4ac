"""The one tolerance of limits, and distances that are relative whatever the unit: nothing here is absolute."""

from __future__ import annotations

import math
from typing import Any

# A limit on noise, energy, latency or memory is kept to this share of it, by every method. Solvers of MILPs promise no less
# than 1e-6; a limit of 0 is kept exactly.
TOLERANCE = 1e-6


def within(used: Any, most: Any) -> Any:
    """Whether what is used keeps a limit: used <= most, to `TOLERANCE` of the limit; arrays give an array.

    Examples
    --------
    >>> within(0.1 + 0.2, 0.3), within(0.30001, 0.3), within(1e-300, 0.0)
    (True, False, False)
    """
    return used <= loosened(most)


def loosened(most: Any, share: float = 1.0) -> Any:
    """Return the most that keeps a limit, or what is above it by a share of the tolerance."""
    return most * (1.0 + share * TOLERANCE)


def relative_gap(value: float, bound: float, size: float | None = None) -> float:
    """Return (value - bound) / |value|, or of another size, at least 0; NaN where there is no bound.

    Examples
    --------
    >>> relative_gap(2e-9, 1e-9), relative_gap(0.0, 0.0), relative_gap(1.0, math.nan)
    (0.5, 0.0, nan)
    """
    if math.isnan(bound):
        return math.nan
    apart, size = value - bound, abs(value) if size is None else size
    return 0.0 if apart <= 0 else apart / size if size else math.inf
