"""Min-max normalisation of latency and energy: T^norm = (T - T_min) / (T_max - T_min), and E^norm alike (the slides)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """The figures of min-max normalisation: two lexicographic payoffs, min T then E and min E then T.

    Attributes
    ----------
    latency_s : (least T, T of the plan with least E) [s]
    energy_j : (least E, E of the plan with least T) [J]
    under : "limited": payoffs under the limits of the question, so that the optimum has both terms in [0, 1], as on the
        slides; "fixed": without limits, pins and prohibitions, so that objectives compare from one limit to another
    proved : whether both payoffs were proved optimal
    """

    latency_s: tuple[float, float]
    energy_j: tuple[float, float]
    under: str = "fixed"
    proved: bool = True

    def normalise(self, latency_s: float, energy_j: float) -> tuple[float, float]:
        """Return T^norm and E^norm = (value - min) / (max - min).

        A range of zero has no scale of its own; the minimum takes its place, so that the term is 0 at the reference
        and still tells plans apart that are not at it.
        """
        return (latency_s - self.latency_s[0]) / self.latency_range_s, (energy_j - self.energy_j[0]) / self.energy_range_j

    @property
    def latency_range_s(self) -> float:
        """What T - min T is divided by [s]."""
        return _range(*self.latency_s)

    @property
    def energy_range_j(self) -> float:
        """What E - min E is divided by [J]."""
        return _range(*self.energy_j)


def _range(low: float, high: float) -> float:
    return high - low if high - low > 1e-9 * high else (low or 1.0)
