"""Linear rows over named variables, as any solver interface can take them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Key = tuple[Any, ...]  # a kind of variable, and its position: ("y", t, k, h)
Term = tuple[Key | float, float]  # a variable, or a constant, and its coefficient


@dataclass(frozen=True)
class Row:
    """A linear constraint: sum of coefficient * variable, then "<=", ">=" or "==", then the bound."""

    name: str
    terms: tuple[tuple[Key, float], ...]
    sense: str
    bound: float


def row(name: str, terms: Iterable[Term], sense: str, bound: float = 0.0) -> Row:
    """Return a row; constants among the terms move to the bound, equal variables are added up."""
    coefficients: dict[Key, float] = {}
    for term, coefficient in terms:
        if isinstance(term, tuple):
            coefficients[term] = coefficients.get(term, 0.0) + coefficient
        else:
            bound -= term * coefficient
    return Row(name, tuple(coefficients.items()), sense, float(bound))


def scaled(r: Row) -> Row:
    """Return the same row in a unit of its own: its bound is 1, or else its greatest coefficient is.

    Rows whose coefficients are all 1 or -1 count things, and stay. No coefficient becomes greater than a thousand million,
    which is what solvers still tell from 1.
    """
    size = max((abs(value) for _, value in r.terms), default=0.0)
    if not size or all(abs(value) == 1.0 for _, value in r.terms):
        return r
    unit = max(abs(r.bound), 1e-9 * size) if r.bound else size
    return Row(r.name, tuple((key, value / unit) for key, value in r.terms), r.sense, r.bound / unit)


def holds(r: Row) -> bool:
    """Whether a row without variables is true."""
    return {"<=": r.bound >= 0, ">=": r.bound <= 0, "==": r.bound == 0}[r.sense]
