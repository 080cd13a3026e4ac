"""The whole exact front of an objective against noise: every breakpoint, not a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dnnsplit.errors import InfeasibleError, NoiseError, OptionError
from dnnsplit.graph import LayerGraph
from dnnsplit.network import Network
from dnnsplit.noise import NoiseModel
from dnnsplit.objective import unreachable
from dnnsplit.plan import Plan
from dnnsplit.question import ask
from dnnsplit.times import LayerTimes

ALL_AT_ONCE = "the front needs the optimum of every scheme, which elimination gives in one pass"


@dataclass(frozen=True)
class Front:
    """Plans from no noise to the best objective: each is the optimum for every limit up to the next one's noise.

    Attributes
    ----------
    plans : ascending in noise, strictly descending in the objective
    """

    plans: tuple[Plan, ...] = field(repr=False)

    def at(self, max_noise: float) -> Plan:
        """Return the optimal plan for a noise limit."""
        if not max_noise >= 0:
            raise NoiseError(f"max_noise is {max_noise!r}; it must be a number, 0 or more")
        return next(plan for plan in reversed(self.plans) if plan.noise <= max_noise)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per plan: noise, latency_s [s], energy_j [J], device_energy_j [J], objective, servers, quantized."""
        columns = ["noise", "latency_s", "energy_j", "device_energy_j", "objective"]
        frame = pd.DataFrame([[getattr(plan, c) for c in columns] for plan in self.plans], columns=columns)
        frame["servers"] = ["+".join(plan.servers) for plan in self.plans]
        frame["quantized"] = [" ".join(plan.quantized) for plan in self.plans]
        frame.attrs["units"] = {"latency_s": "s", "energy_j": "J", "device_energy_j": "J"}
        return frame

    def __repr__(self) -> str:
        first, last = self.plans[0], self.plans[-1]
        return (
            f"Front({len(self.plans)} plans: {first.latency_s * 1e3:.4g} ms at noise {first.noise:.4g}"
            f" to {last.latency_s * 1e3:.4g} ms at noise {last.noise:.4g})"
        )

    def _repr_html_(self) -> str:
        frame = self.frame.assign(quantized=[len(plan.quantized) for plan in self.plans])
        return f"<b>{self!r}</b>" + frame.to_html(index=False, float_format="{:.4g}".format)


def pareto(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel,
    latency_weight: float = 1.0,
    energy_weight: float = 0.0,
    pins: Mapping[str, str] | None = None,
    forbid: Mapping[str, Sequence[str]] | None = None,
    colocate: Sequence[Sequence[str]] = (),
    forbid_links: Sequence[tuple[str, str]] = (),
) -> Front:
    """Return the exact front of the objective against noise, from one elimination pass over all schemes.

    Parameters
    ----------
    graph, network, times, noise, latency_weight, energy_weight, pins, forbid, colocate, forbid_links : as for `split`

    Returns
    -------
    Front : every breakpoint

    Raises
    ------
    OptionError : a server's memory limit cuts the front; ask `split` point by point then
    InfeasibleError : no placement exists
    SolverError : too many quantizable layers or servers for one pass
    """
    if noise is None:
        raise NoiseError("a front against noise needs a noise model: pass noise=fit_noise(samples)")
    question = ask(graph, network, times, noise, None, latency_weight, energy_weight, None, pins, forbid, colocate, forbid_links)
    value, known = question.optima.value, question.scheme_noise
    order = np.lexsort((value, known))
    order = order[np.isfinite(known[order]) & np.isfinite(value[order])]
    if not len(order):
        raise InfeasibleError(unreachable(question.problem))
    best = np.minimum.accumulate(value[order])
    new = np.r_[True, best[1:] < best[:-1] - 1e-12 * np.abs(best[:-1])]
    plans = tuple(question.plan(question.optima.placement(int(s)), int(s), "elimination", reason=ALL_AT_ONCE) for s in order[new])
    broken = [b for plan in plans for b in question.limits.broken(question.problem, plan.cost)]
    if broken:
        raise OptionError(f"the front would break a limit: {broken[0]}; call split for each noise limit instead")
    return Front(plans)
