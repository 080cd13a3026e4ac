"""What is minimised and which limits hold: raw latency or energy, or the slides' min-max normalised sum of both."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from dnnsplit.ground.errors import InfeasibleError
from dnnsplit.ground.tolerance import within
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.solving.arrays import Problem, Weights, energy_weights, latency_weights
from dnnsplit.solving.cost import Cost
from dnnsplit.solving.elimination.sweep import eliminate

MOST_MISSING = 20  # links that a message lists


@dataclass(frozen=True)
class Reference:
    """The figures of min-max normalisation: two lexicographic payoffs, min T then E and min E then T.

    Attributes
    ----------
    latency_s : tuple[float, float]
        (least T, T of the plan with least E) [s].
    energy_j : tuple[float, float]
        (least E, E of the plan with least T) [J].
    under : str
        "limited": payoffs under the limits of the question, so that the optimum has both terms in [0, 1], as on the slides;
        "fixed": without limits, pins and prohibitions, so that objectives compare from one limit to another.
    proved : bool
        Whether both payoffs were proved optimal.
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
        seconds, joules = self.ranges
        return (latency_s - self.latency_s[0]) / seconds, (energy_j - self.energy_j[0]) / joules

    @property
    def ranges(self) -> tuple[float, float]:
        """What T - min T [s] and E - min E [J] are divided by."""
        return _range(*self.latency_s), _range(*self.energy_j)


def _range(low: float, high: float) -> float:
    return high - low if high - low > 1e-9 * high else (low or 1.0)


@dataclass(frozen=True)
class Limits:
    """Hard limits: eta_max, J_0 [J] on the energy of the source, one on all energy [J], one on the latency [s].

    Infinity and None mean none. Each is kept to `dnnsplit.ground.tolerance.TOLERANCE`, and so are the servers' memories.
    """

    max_noise: float = math.inf
    max_device_energy_j: float | None = None
    max_energy_j: float | None = None
    max_latency_s: float | None = None

    def quiet(self, noise: np.ndarray) -> np.ndarray:
        """Say which schemes keep the limit on noise, by the noise of each; bool of the same shape."""
        return np.asarray(np.isfinite(noise) & within(noise, self.max_noise))

    def sums(self, network: Network) -> list[tuple[str, str, Weights, float]]:
        """The limits on energy and latency: what each is on, in which unit, as a sum over the plan, and the limit."""
        every = (
            ("device energy", "J", energy_weights(network, network.source), self.max_device_energy_j),
            ("energy", "J", energy_weights(network), self.max_energy_j),
            ("latency", "s", latency_weights(network), self.max_latency_s),
        )
        return [(what, unit, use, most) for what, unit, use, most in every if most is not None]

    def broken(self, problem: Problem, cost: Cost) -> list[str]:
        """Say which limits on energy, latency or the servers' memory a placement breaks."""
        used = {"device energy": cost.device_energy_j, "energy": cost.energy_j, "latency": cost.latency_s}
        problems = [
            f"{what} {show(used[what], unit)} is above the limit {show(most, unit)}"
            for what, unit, _, most in self.sums(problem.network)
            if not within(used[what], most)
        ]
        for server in problem.network.servers:
            held = cost.weight_bytes[server.name]
            if server.memory_bytes is not None and not within(held, server.memory_bytes):
                problems.append(f"{show(held, 'B')} of weights on {server.name!r} exceed its {show(server.memory_bytes, 'B')}")
        return problems


def scheme_noise(problem: Problem, noise: NoiseModel | None) -> np.ndarray:
    """Return the noise of every scheme, lossless source forms first, float (schemes,); infinite where it is not known."""
    if noise is None:
        return np.zeros(1)
    return np.concatenate([noise.every(), *(noise.at(source.name).every() for source in problem.sources)])


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
    """A linear objective: weights, what decides ties, a constant, and its name; or the slowest stage of the pipeline.

    A normalised sum has the reference that it is normalised by.
    """

    weights: Weights
    ties: Weights
    constant: float
    name: str
    bottleneck: bool = False
    reference: Reference | None = None

    def of(self, cost: Cost, network: Network) -> float:
        """Return the objective of a priced placement."""
        return cost.bottleneck_s if self.bottleneck else self.weights.of(cost, network) + self.constant


def raw_objective(problem: Problem, latency_weight: float, energy_weight: float, kind: str = "latency") -> Objective:
    """Return latency, or energy if latency has no weight; for kind "throughput" the slowest stage, whatever the weights."""
    latency, energy = latency_weights(problem.network), energy_weights(problem.network)
    if kind == "throughput":
        return Objective(latency, energy, 0.0, "bottleneck_s", bottleneck=True)
    if latency_weight == 0:
        return Objective(energy, latency, 0.0, "energy_j")
    return Objective(latency, energy, 0.0, "latency_s")


def normalised_sum(network: Network, latency_weight: float, energy_weight: float, by: Reference) -> Objective:
    """Return the slides' ``latency_weight * T^norm + energy_weight * E^norm``."""
    latency, energy = latency_weights(network), energy_weights(network)
    seconds, joules = by.ranges
    a, b = latency_weight / seconds, energy_weight / joules
    constant = -a * by.latency_s[0] - b * by.energy_j[0]
    name = f"{latency_weight:g} T^norm + {energy_weight:g} E^norm"
    return Objective(a * latency + b * energy, latency, constant, name, reference=by)


def unreachable(problem: Problem) -> str:
    """Say why no placement exists at all."""
    network = problem.network
    names, there = network.server_names, {link.ends for link in network.links}
    missing = (f"{a} -> {b}" for a in names for b in names if a != b and (a, b) not in there)
    told = list(itertools.islice(missing, MOST_MISSING))
    rest = len(names) * (len(names) - 1) - sum(a != b for a, b in there) - len(told)
    told += [f"... and {rest} more"] if rest else []
    return f"no placement connects the layers under these pins and prohibitions; missing links: {', '.join(told) or 'none'}"
