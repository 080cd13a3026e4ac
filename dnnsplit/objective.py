"""What is minimised and which limits hold: raw latency or energy, or the slides' min-max normalised sum of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnnsplit.costs import Cost
from dnnsplit.elimination import eliminate
from dnnsplit.errors import InfeasibleError
from dnnsplit.network import Network
from dnnsplit.problem import Problem, Weights, energy_weights, latency_weights
from dnnsplit.units import show


@dataclass(frozen=True)
class Limits:
    """Hard limits: eta_max, J_0 [J] on the energy of the source, and one on all energy [J]; infinity and None mean none.

    Energy and memory are kept to one part in a million, which is what solvers of MILPs promise.
    """

    max_noise: float = math.inf
    max_device_energy_j: float | None = None
    max_energy_j: float | None = None

    def broken(self, problem: Problem, cost: Cost) -> list[str]:
        """Say which limits on device energy or on the servers' memory a placement breaks."""
        problems = []
        for what, used, most in (
            ("device energy", cost.device_energy_j, self.max_device_energy_j),
            ("energy", cost.energy_j, self.max_energy_j),
        ):
            if most is not None and used > most * (1 + 1e-6):
                problems.append(f"{what} {show(used, 'J')} is above the limit {show(most, 'J')}")
        for server in problem.network.servers:
            held = cost.weight_bytes[server.name]
            if server.memory_bytes is not None and held > server.memory_bytes * (1 + 1e-6):
                problems.append(f"{show(held, 'B')} of weights on {server.name!r} exceed its {show(server.memory_bytes, 'B')}")
        return problems


@dataclass(frozen=True)
class Reference:
    """The fixed figures of min-max normalisation: lexicographic payoffs without limits on noise, energy or memory.

    Attributes
    ----------
    latency_s : (least T, T of the plan with least E) [s]
    energy_j : (least E, E of the plan with least T) [J]
    """

    latency_s: tuple[float, float]
    energy_j: tuple[float, float]

    def normalise(self, latency_s: float, energy_j: float) -> tuple[float, float]:
        """Return T^norm and E^norm = (value - min) / (max - min).

        A range of zero has no scale of its own; the minimum takes its place, so that the term is 0 at the reference
        and still tells plans apart that a limit keeps away from it.
        """
        (t_low, t_high), (e_low, e_high) = self.latency_s, self.energy_j
        return (latency_s - t_low) / _range(t_low, t_high), (energy_j - e_low) / _range(e_low, e_high)


def _range(low: float, high: float) -> float:
    wide = high - low > 1e-9 * max(abs(high), 1e-30)
    return high - low if wide else (low or 1.0)


def reference(problem: Problem) -> Reference:
    """Return the payoffs of a problem: min T then E, and min E then T, over all placements and schemes."""
    latency, energy = latency_weights(problem.network), energy_weights(problem.network)
    fast = _lexicographic(problem, latency, energy)
    frugal = _lexicographic(problem, energy, latency)
    return Reference((fast.latency_s, frugal.latency_s), (frugal.energy_j, fast.energy_j))


def _lexicographic(problem: Problem, first: Weights, second: Weights) -> Cost:
    optima = eliminate(problem, first, second, free_bits=True)
    if not math.isfinite(optima.value[0]):
        raise InfeasibleError(unreachable(problem))
    return problem.price(*optima.best(), first, second)


@dataclass(frozen=True, eq=False)
class Objective:
    """A linear objective: weights, what decides ties, a constant, and its name; or the slowest stage of the pipeline."""

    weights: Weights
    ties: Weights
    constant: float
    name: str
    bottleneck: bool = False

    def of(self, cost: Cost, network: Network) -> float:
        """Return the objective of a priced placement."""
        return cost.bottleneck_s if self.bottleneck else self.weights.of(cost, network) + self.constant


def make_objective(problem: Problem, latency_weight: float, energy_weight: float, kind: str = "latency") -> Objective:
    """Return raw latency, raw energy, or ``latency_weight * T^norm + energy_weight * E^norm`` if both weigh.

    For kind "throughput" the seconds of the slowest stage, whatever the weights.
    """
    latency, energy = latency_weights(problem.network), energy_weights(problem.network)
    if kind == "throughput":
        return Objective(latency, energy, 0.0, "bottleneck_s", bottleneck=True)
    if energy_weight == 0:
        return Objective(latency, energy, 0.0, "latency_s")
    if latency_weight == 0:
        return Objective(energy, latency, 0.0, "energy_j")
    fixed = reference(problem)
    a = latency_weight / _range(*fixed.latency_s)
    b = energy_weight / _range(*fixed.energy_j)
    constant = -a * fixed.latency_s[0] - b * fixed.energy_j[0]
    return Objective(a * latency + b * energy, latency, constant, f"{latency_weight:g} T^norm + {energy_weight:g} E^norm")


def unreachable(problem: Problem) -> str:
    """Say why no placement exists at all."""
    names = problem.network.server_names
    missing = [f"{a} -> {b}" for a in names for b in names if a != b and problem.network.link(a, b) is None]
    return f"no placement connects the layers under these pins and prohibitions; missing links: {', '.join(missing) or 'none'}"
