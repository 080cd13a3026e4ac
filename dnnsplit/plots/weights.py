"""The weights of a table of plans: which there are, how they are called, and the rows of one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from dnnsplit.ground.errors import OptionError, raise_problems

WEIGHTS = ["latency_weight", "energy_weight"]


def weight_columns(planned: pd.DataFrame) -> list[tuple[float, float]]:
    """Return the pairs (latency_weight, energy_weight) of a table, the latency's ascending."""
    return sorted({*planned[WEIGHTS].itertuples(index=False, name=None)}, key=lambda pair: (pair[0], -pair[1]))


def weight_title(pair: Sequence[float]) -> str:
    """Return the name of a pair of weights."""
    latency, energy = pair
    return f"latency weight {latency:g}" if math.isclose(latency + energy, 1.0) else f"weights {latency:g} and {energy:g}"


def weighted(table: pd.DataFrame | None, pair: Sequence[float], what: str) -> pd.DataFrame:
    """Return the rows of one pair of weights by noise limit, one for each, or raise OptionError."""
    if table is None or table.empty:
        return pd.DataFrame()
    rows = table[(table[WEIGHTS] == list(pair)).all(axis=1)].sort_values("max_noise")
    twice = rows.loc[rows["max_noise"].duplicated(), "max_noise"].unique()
    problems = [
        f"several rows have {weight_title(pair)} and the noise limit {limit:g}; give those of one topology, one bandwidth and "
        "one limit on the device's energy"
        for limit in twice
    ]
    raise_problems(OptionError, f"figure of {what or 'weights'}", problems)
    return rows
