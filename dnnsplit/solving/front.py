"""Whole exact fronts: an objective against noise, and latency against energy; every breakpoint, not a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.curve import SHARES, steps
from dnnsplit.ground.errors import InfeasibleError, OptionError, SolverError, raise_problems
from dnnsplit.ground.keywords import named
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.ground.tolerance import TOLERANCE, within
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.schemes import names_of, pack_schemes, row_of
from dnnsplit.noise.verification import certain, informed
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.elimination.relays import TIE
from dnnsplit.solving.objective import unreachable
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question, ask
from dnnsplit.solving.request import OWN_CHECKS, Effort, Request
from dnnsplit.solving.split import answer, split
from dnnsplit.solving.verifier import Measure, measurer

OWN = ("latency_weight", "energy_weight", "max_energy_j", "objective")  # arguments of `split` that an energy front sets itself
NAMES = {"noise": "noise", "noise_upper": "noise (upper bound)", "energy_j": "energy", "latency_s": "latency"}
ROWS = 10  # of a front in a shell
ALL_AT_ONCE = "the front needs the optimum of every scheme, which elimination gives in one pass"


@dataclass(frozen=True)
class Front:
    """Plans from the tightest limit to the loosest: each is the optimum for every limit up to the next one's.

    Attributes
    ----------
    plans : tuple[Plan, ...]
        Ascending in what is limited, strictly descending in the objective.
    limited : str
        What that is: "noise", "noise_upper" (with a confidence) or "energy_j".

    Examples
    --------
    >>> import dnnsplit as ds
    >>> front = ds.pareto(*ds.examples.tiny(), progress=False)
    >>> front
    Front(3 plans: 338.2 ms at noise 0 to 218.2 ms at noise 0.037)
       noise  latency   energy     servers  int8   input
           0 338.2 ms  1.458 J device+edge     0 float32
       0.012 258.2 ms   1.19 J device+edge     1 float32
       0.037 218.2 ms 957.9 mJ device+edge     2 float32
    >>> front.at(0.02).quantized
    ('conv1',)
    """

    plans: tuple[Plan, ...] = field(repr=False)
    limited: str = "noise"

    def at(self, limit: float) -> Plan:
        """Return the optimal plan for a limit on the noise, on its upper bound, or on the energy [J]."""
        check_arguments(Front.at, locals())
        if not limit >= 0:
            message = f"the limit is {limit!r}; it must be a number, 0 or more"
            raise OptionError(message)
        found = next((plan for plan in reversed(self.plans) if within(getattr(plan, self.limited), limit)), None)
        if found is None:
            least = getattr(self.plans[0], self.limited)
            message = f"no plan keeps {self.limited} <= {limit:g}; the least is {least:g}"
            raise InfeasibleError(message)
        return found

    @property
    def frame(self) -> pd.DataFrame:
        """One row per plan: noise, latency_s [s], energy_j [J], device_energy_j [J], objective, servers, quantized, source_form.

        With a confidence there is ``noise_upper`` too.
        """
        columns = ["noise", "latency_s", "energy_j", "device_energy_j", "objective"]
        columns[1:1] = ["noise_upper"] * (self.limited == "noise_upper")
        frame = pd.DataFrame([[getattr(plan, c) for c in columns] for plan in self.plans], columns=columns)
        frame["servers"] = ["+".join(plan.servers) for plan in self.plans]
        frame["quantized"] = [" ".join(plan.quantized) for plan in self.plans]
        frame["source_form"] = [plan.source_form for plan in self.plans]
        frame.attrs["units"] = {"latency_s": "s", "energy_j": "J", "device_energy_j": "J"}
        return frame

    def __repr__(self) -> str:
        columns = [self.limited, "latency_s", "energy_j", "servers", "int8", "input"]
        frame = readable(self._table[[*dict.fromkeys(columns)]])
        lines = frame.to_string(index=False, max_rows=ROWS, float_format="{:.4g}".format).splitlines()
        return "\n".join([self._title, *(f"  {line}" for line in lines)])

    def _repr_html_(self) -> str:
        objective, limits = self.plans[0].objective_name, [getattr(plan, self.limited) for plan in self.plans]
        values = [plan.objective for plan in self.plans]
        names = NAMES.get(self.limited, self.limited), NAMES.get(objective, objective)
        words = _ticks(limits, self.limited), _ticks(values, objective)
        curve = f"<div>{steps(limits, values, names, words)}</div>" if len(self.plans) > 1 else ""
        return shown(self._title) + curve + shown("", readable(self._table))

    @property
    def _title(self) -> str:
        """The first and the last plan, in a line."""
        ends = self.plans[:: max(1, len(self.plans) - 1)]
        told = [
            f"{show(p.latency_s, 's')} at {NAMES[self.limited]} {_word(getattr(p, self.limited), self.limited)}" for p in ends
        ]
        return folded(f"Front({len(self.plans)} plan{'s' * (len(self.plans) > 1)}: {' to '.join(told)})")

    @property
    def _table(self) -> pd.DataFrame:
        """The frame with how many layers are in int8, and no objective that is another column."""
        frame = self.frame.assign(quantized=[len(plan.quantized) for plan in self.plans])
        twice = ["objective"] if self.plans[0].objective_name in frame else []
        return frame.drop(columns=twice).rename(columns={"quantized": "int8", "source_form": "input"})


def _word(value: float, name: str) -> str:
    return show(value, "s" if name.endswith("_s") else "J") if name.endswith(("_s", "_j")) else f"{value:.4g}"


def _ticks(values: Sequence[float], name: str) -> list[str]:
    return [_word(min(values) + share * (max(values) - min(values)), name) for share in SHARES]


@named()
def pareto(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel,
    *,
    latency_weight: float = 1.0,
    energy_weight: float = 0.0,
    pins: Mapping[str, str] | None = None,
    forbid: Mapping[str, str | Sequence[str]] | None = None,
    colocate: Sequence[Sequence[str]] = (),
    forbid_links: Sequence[tuple[str, str]] = (),
    confidence: float | None = None,
    verify: Measure | None = None,
    progress: bool = True,
    source_forms: str | Sequence[str] | None = None,
    wire_forms: str | Sequence[str] | None = None,
) -> Front:
    """Return the exact front of the objective against noise, from one elimination pass over all schemes.

    Where a server's memory limit cuts that front, plan by plan, as `split` finds them, which takes longer.

    Parameters
    ----------
    graph, network, times, noise : LayerGraph, Network, LayerTimes, NoiseModel
        As for `split`.
    latency_weight, energy_weight : float, optional
        As for `split` with ``normalise="fixed"``: along a front objectives have to compare.
    pins : Mapping[str, str] | None, optional
        As for `split`.
    forbid : Mapping[str, str | Sequence[str]] | None, optional
        As for `split`.
    colocate : Sequence[Sequence[str]], default ()
        As for `split`.
    forbid_links : Sequence[tuple[str, str]], default ()
        As for `split`.
    confidence : float | None, optional
        As for `split`; the front is then against the upper confidence bound of the noise.
    verify : Measure | None, optional
        As for `split`: the schemes of the front are measured, all together, those that turn out noisier leave it, and so on until
        every scheme of the front was measured.
    progress : bool, default True
        Show a progress bar for each of these rounds, and of plans that are sought one by one.
    source_forms : str | Sequence[str] | None, optional
        As for `split`: the front is over placements, schemes and source forms.
    wire_forms : str | Sequence[str] | None, optional
        As for `split`.

    Returns
    -------
    Front
        Every breakpoint.

    Raises
    ------
    InfeasibleError
        No placement exists.
    NoiseError
        No noise model; see `split` for what confidence and verify need.
    SolverError
        Too many quantizable layers or servers for one pass.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> front = ds.pareto(*ds.examples.tiny(), progress=False)
    >>> [plan.noise for plan in front.plans]
    [0.0, 0.012, 0.037]
    """
    check_arguments(pareto, locals(), but=OWN_CHECKS)
    request = Request(
        latency_weight=latency_weight, energy_weight=energy_weight, pins=pins or {}, forbid=forbid or {}, colocate=colocate,
        forbid_links=forbid_links, normalise="fixed", confidence=confidence,
        source_forms=source_forms, wire_forms=wire_forms,
    )  # fmt: skip
    limited = "noise" if confidence is None else "noise_upper"
    if verify is None:
        return Front(_plans(ask(graph, network, times, noise, request), limited, progress), limited)
    # what verifies tells bounds itself
    question = replace(ask(graph, network, times, noise, replace(request, confidence=None)), request=request)
    measure = measurer(noise, verify, confidence, lossy=bool(question.problem.sources))
    known, count = certain(noise, None, measure.fresh), 0
    while True:
        plans = _plans(question.with_noise(informed(noise, known)), "noise", progress)
        new: dict[str, np.ndarray] = {}
        for form in dict.fromkeys(plan.lossy_source for plan in plans):
            rows = np.array([row_of(noise.layers, plan.quantized) for plan in plans if plan.lossy_source == form])
            rows = rows[[key not in known[form] for key in pack_schemes(rows).tolist()]]
            new |= {form: rows} if len(rows) else {}
        if not new:
            return Front(tuple(measure.told(plan, count) for plan in plans), limited)
        measure.measure_forms(new, progress)
        for form, rows in new.items():
            bounds = [measure.bound(names_of(noise.layers, row), form) for row in rows]
            known[form] |= dict(zip(pack_schemes(rows).tolist(), bounds, strict=True))
            count += len(rows)


def _plans(question: Question, limited: str, progress: bool) -> tuple[Plan, ...]:
    """Return the plans of a front: the best at each noise at which it changes."""
    value, known = question.optima.value, question.scheme_noise  # in this order: the first refuses too many schemes
    order = np.lexsort((value, known))
    order = order[np.isfinite(known[order]) & np.isfinite(value[order])]
    if not len(order):
        raise InfeasibleError(unreachable(question.problem))
    best = np.minimum.accumulate(value[order])
    new = np.r_[True, best[1:] < best[:-1] * (1 - TIE)]
    placements = [(question.optima.placement(int(s)), int(s)) for s in order[new]]
    plans = tuple(question.plan(*p, "elimination", question.price(*p), reason=ALL_AT_ONCE) for p in placements)
    if any(question.limits.broken(question.problem, plan.cost) for plan in plans):
        return _plans_one_by_one(question, limited, progress)
    return plans


def _plans_one_by_one(question: Question, limited: str, progress: bool) -> tuple[Plan, ...]:
    """Return the same where a limit couples layers, which one pass cannot keep: the best plan below the noise of the last one."""
    plans, most = list[Plan](), math.inf
    with tqdm(desc="plans", unit="plan", disable=not progress) as bar:
        while True:
            try:
                plan = answer(question.limited_to(most), Effort())
            except InfeasibleError:
                if not plans:
                    raise
                break
            if plans and plan.objective <= plans[-1].objective * (1 + TIE):
                plans.pop()  # as good, and noisier
            plans.append(plan)
            bar.update()
            noise = getattr(plan, limited)
            if not 0 < noise < most:
                break
            most = noise * (1 - 2 * TOLERANCE)  # below it, as limits are kept
    return tuple(reversed(plans))


@named(split)
def energy_front(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None = None,
    *,
    max_noise: float | None = None,
    resolution: float = 1e-5,
    progress: bool = True,
    **asked: Any,
) -> Front:
    """Return the exact front of latency against energy at a noise limit, points that no weighted sum reaches among them.

    Starting from the fastest plan, the energy is limited to just below the last plan's and the fastest plan sought again,
    by elimination where it answers and by the tight MILP where it does not, until the most frugal plan is reached.

    Parameters
    ----------
    graph, network, times, noise, max_noise : LayerGraph, Network, LayerTimes, NoiseModel | None, float | None
        As for `split`.
    resolution : float, default 1e-5
        Points nearer to each other than this share of the range of energies, or than the tolerance of limits (two parts in a
        million), may be merged.
    progress : bool, default True
        Show a progress bar.
    **asked : Any
        Other arguments of `split`: pins, forbid, colocate, forbid_links, max_device_energy_j, solver, ...

    Returns
    -------
    Front
        Limited "energy_j"; ascending in energy, strictly descending in latency.

    Raises
    ------
    SolverError
        A point could not be proved optimal, for example within time_limit_s.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.energy_front(*ds.examples.tiny(), max_noise=0.05, progress=False)
    Front(1 plan: 218.2 ms at energy 957.9 mJ)
        energy  latency     servers  int8   input
      957.9 mJ 218.2 ms device+edge     2 float32
    """
    check_arguments(energy_front, locals(), above={"resolution": 0})
    own = [f"{name} is not yours to set: the front minimises latency under limits on energy" for name in OWN if name in asked]
    raise_problems(OptionError, "energy_front", own)
    problem, asked = (graph, network, times, noise), {"max_noise": max_noise, **asked}
    fast = split(*problem, **asked)
    frugal = split(*problem, latency_weight=0.0, energy_weight=1.0, **asked)
    # a smaller step would ask for the last plan again, which keeps the new limit within its tolerance
    step = max(resolution * (fast.energy_j - frugal.energy_j), 2 * TOLERANCE * fast.energy_j)
    found, limit = [fast], fast.energy_j - step
    with tqdm(desc="energy front", unit="plan", disable=not progress) as bar:
        while limit > frugal.energy_j:
            plan = split(*problem, max_energy_j=limit, **asked)
            if plan.status != "optimal":
                message = f"the plan for {limit:.6g} J was not proved optimal (gap {plan.gap:.2%}); give it more time"
                raise SolverError(message)
            found.append(plan)
            limit = min(plan.energy_j, limit) - step
            bar.update()
    found.append(frugal)
    plans: list[Plan] = []
    for plan in sorted(found, key=lambda p: (p.energy_j, p.latency_s)):
        if not plans or plan.latency_s < plans[-1].latency_s * (1 - 1e-9):
            plans.append(plan)
    return Front(tuple(plans), "energy_j")
