"""Why a plan and not another: what fewer servers cost, the next-best cut, precision and form, and the price of every pin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import InfeasibleError, SolverError
from dnnsplit.ground.keywords import named
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.elimination.sweep import marginals
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question
from dnnsplit.solving.request import Effort
from dnnsplit.solving.split import answer, split
from dnnsplit.studies.inquiry import inquire, only, pinned, positions

# what is worse, better and equal in objectives whose zero means something
WORDS = {
    "latency_s": ("slower", "faster", "is as fast"),
    "energy_j": ("costlier in energy", "cheaper in energy", "takes the same energy"),
    "bottleneck_s": ("slower in its slowest stage", "faster in its slowest stage", "is as fast in its slowest stage"),
}
MOST_SERVERS = 5  # above this many, not every subset of the servers is compared
MOST_SOLVES = 6  # to prove the next-best cut where limits couple layers


@dataclass(frozen=True)
class Alternative:
    """The best plan on some servers alone, or the reason why there is none.

    Attributes
    ----------
    servers : tuple[str, ...]
        The ones that may run layers.
    plan, reason : Plan | None, str
        One of the two.
    """

    servers: tuple[str, ...]
    plan: Plan | None
    reason: str = ""

    @property
    def name(self) -> str:
        """What it is, in words."""
        return f"everything on {self.servers[0]!r}" if len(self.servers) == 1 else " + ".join(self.servers)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a plan is better than, and by how much.

    Attributes
    ----------
    plan : Plan
        What is explained.
    alternatives : tuple[Alternative, ...]
        The best plans on fewer servers; everything on one server among them.
    next_cut : Plan | None
        The best plan that places at least one layer elsewhere, whatever its precision; None where no such plan is known.
    next_precision : Plan | None
        The best plan that quantizes other layers, wherever they run; None where no such plan is known.
    next_form : Plan | None
        The best plan that does not send the input in the form of this one, but in another or not at all; None where this one does
        not send it, or no other plan is known.
    pin_prices : pd.DataFrame
        float, layers x servers: rise of the objective if the layer is pinned to the server, all else chosen anew; 0 on the plan's
        server, infinite where no plan exists. A lower bound where limits couple layers: `note` says so.
    note : str
        What is not proved, and why.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> instance = ds.examples.tiny()
    >>> plan = ds.split(*instance, max_noise=0.02)
    >>> explanation = ds.explain(plan, *instance, max_noise=0.02)
    >>> explanation
    Split over device + edge: everything on 'device' is 74 % slower, everything on
        'edge' is 67 % slower.
      next-best cut is 13 % slower (fc: edge -> device)
      next-best precision is 31 % slower (conv1: int8 -> float32)
    >>> round(explanation.price_of_pin("fc", "edge"), 4)
    0.0
    """

    plan: Plan
    alternatives: tuple[Alternative, ...]
    next_cut: Plan | None
    next_precision: Plan | None
    next_form: Plan | None
    pin_prices: pd.DataFrame = field(repr=False)
    note: str
    _question: Question = field(repr=False)
    _effort: Effort = field(repr=False)

    @property
    def next_best(self) -> Plan | None:
        """The best plan that differs from this one in a server, in a precision, or in the form of the input."""
        return min(
            (p for p in (self.next_cut, self.next_precision, self.next_form) if p), key=lambda p: p.objective, default=None
        )

    @property
    def verdict(self) -> str:
        """One sentence: split or not, and what it gains over putting everything on one server."""
        plan, used = self.plan, self.plan.servers
        alone = [a for a in self.alternatives if len(a.servers) == 1 and a.servers != used]
        rest = [f"{a.name}{_aside(a.plan)} {_compare(a.plan, plan)}" if a.plan else f"{a.name} is not possible" for a in alone]
        unit = "" if plan.objective_name in WORDS else f" (in {plan.objective_name})"
        if len(used) > 1:
            return f"Split over {' + '.join(used)}{_sent(plan)}: {', '.join(rest)}{unit}."
        other = "uses another server" if used[0] == plan.source else "splits"
        if self.next_cut is None:
            rest.append(f"no plan that {other} {'is known' if self.note else 'exists'}")
        elif used[0] == plan.source or len(self.next_cut.servers) > 1:
            rest.append(f"the best plan that {other}{_aside(self.next_cut)} {_compare(self.next_cut, plan)}")
        else:
            rest.append(f"no plan that {other} is better than these")
        if used[0] == plan.source:
            return f"Do not split: everything on {used[0]!r} is the optimum; {rest[-1]}{unit}."
        return f"Do not split, send everything to {used[0]!r}{_sent(plan)}: {', '.join(rest)}{unit}."

    @property
    def frame(self) -> pd.DataFrame:
        """One row per alternative: its plan, how much worse it is (difference in the objective's unit, ratio), or why none."""
        columns = ["alternative", "latency_s", "energy_j", "noise", "int8", "servers", "source_form", "status"]
        columns += ["difference", "ratio", "reason"]
        nothing = (math.nan, math.nan, math.nan, None, "", "", "none", math.nan, math.nan)

        def told(plan: Plan) -> tuple[object, ...]:
            figures = (plan.latency_s, plan.energy_j, plan.noise, len(plan.quantized), "+".join(plan.servers))
            return *figures, plan.source_form, plan.status, plan.objective - self.plan.objective, _ratio(plan, self.plan)

        rows = [(a.name, *(told(a.plan) if a.plan else nothing), a.reason) for a in self.alternatives]
        frame = pd.DataFrame([("this plan", *told(self.plan), ""), *rows], columns=columns).astype({"int8": "Int64"})
        frame.attrs["units"] = {"latency_s": "s", "energy_j": "J", "difference": self.plan.objective_name}
        return frame

    def moves(self, other: Plan) -> pd.DataFrame:
        """Return the layers that another plan runs elsewhere or in another precision, and how they run here and there."""
        check_arguments(Explanation.moves, locals())
        frame = self.plan.frame.merge(other.frame, on="layer", suffixes=("", "_there"), sort=False)
        same = (frame["server"] == frame["server_there"]) & (frame["precision"] == frame["precision_there"])
        return frame[~same].reset_index(drop=True)

    def price_of_pin(self, layer: str, server: str) -> float:
        """Return the exact rise of the objective if `layer` must run on `server`, under all limits; infinite if none keeps them.

        Raises
        ------
        ModelError, NetworkError
            No such layer or server.
        """
        check_arguments(Explanation.price_of_pin, locals())
        try:
            return answer(pinned(self._question, layer, server), self._effort).objective - self.plan.objective
        except InfeasibleError:
            return math.inf

    def __str__(self) -> str:
        lines = [self.verdict]
        for name, plan in (("cut", self.next_cut), ("precision", self.next_precision), ("form", self.next_form)):
            if plan is not None:
                here, there = (_input_forms(self._question, one) for one in (self.plan, plan))
                other = [f"the input as {plan.source_form!r}" if there else "the input stays"] if here != there else []
                moved = [_moved(moves)] if len(moves := self.moves(plan)) else []
                unsure = self.plan.measurements and plan.objective < self.plan.objective
                if_so = ", if the noise is as predicted," if unsure else ""
                lines.append(f"  next-best {name}{if_so} {_compare(plan, self.plan)} ({'; '.join(other + moved)})")
        return folded("\n".join(lines + [f"  {line}" for line in self.note.splitlines()]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return shown(self, readable(self.frame))


@named(split)
def explain(
    plan: Plan,
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None = None,
    *,
    max_noise: float | None = None,
    **asked: Any,
) -> Explanation:
    """Say what a plan is better than: fewer servers, the next-best cut, precision and form of the input, and every pin.

    All prices of pins come from one pass up and one pass down the tables of the elimination, which give the least objective
    with each layer on each server; the least of them that the plan does not attain is the next-best cut.

    Parameters
    ----------
    plan : Plan
        From `split`.
    graph, network, times, noise, max_noise : LayerGraph, Network, LayerTimes, NoiseModel | None, float | None
        As for that `split`.
    **asked : Any
        The other arguments of that `split`: latency_weight, energy_weight, pins, max_device_energy_j, solver, ...; with `verify`,
        alternatives are by the noise model alone.

    Returns
    -------
    Explanation
        With the servers' subsets that contain the source compared (above five servers: the source alone, the source with one
        other, and all).

    Raises
    ------
    OptionError
        The plan was made for another question.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> instance = ds.examples.tiny()
    >>> plan = ds.split(*instance, max_noise=0.02)
    >>> ds.explain(plan, *instance, max_noise=0.02).verdict
    "Split over device + edge: everything on 'device' is 74 % slower, everything on 'edge' is 67 % slower."
    """
    check_arguments(explain, locals())
    question, effort = inquire(graph, network, times, noise, {"max_noise": max_noise, **asked})
    placement, scheme = positions(question, plan)
    alternatives = tuple(_alternative(question, effort, *servers) for servers in _restrictions(network))
    notes = ["the noise of the plan was measured, that of others is by the noise model"] if plan.measurements else []
    notes += [] if plan.status == "optimal" else ["the plan itself is not proved optimal: a difference below 0 is an improvement"]
    least = np.full(question.problem.allowed.shape, math.nan)
    next_cut = next_precision = next_form = None
    try:
        next_form = _next_form(question, effort, plan)
        next_precision, unknown = _next_precision(question, question.optima.value, scheme)
        least = marginals(question.problem, question.objective.weights, question.allowed) + question.objective.constant
        next_cut, unproved = _next_cut(question, effort, np.maximum(least, plan.objective), placement)
        notes += unproved + unknown
    except SolverError as error:
        notes.append(f"what is next best is not known: {error}")
    prices = least - plan.objective
    prices[np.abs(prices) <= 1e-12 * abs(plan.objective)] = 0.0
    if plan.measurements:  # by the noise model it may not be allowed to be where it is
        prices[np.arange(len(placement)), placement] = 0.0
    if _coupled(question):
        notes.append("pin_prices leave aside the limits on energy and memory, so they are lower bounds; price_of_pin is exact")
        prices = np.maximum(prices, 0.0) if plan.status == "optimal" else prices
    table = pd.DataFrame(prices, index=pd.Index(graph.layer_names, name="layer"), columns=list(network.server_names))
    return Explanation(plan, alternatives, next_cut, next_precision, next_form, table, "\n".join(notes), question, effort)


def _restrictions(network: Network) -> Iterable[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield the servers that run layers, and those between which tensors move."""
    names, source = network.server_names, network.source
    others = [name for name in names if name != source]
    sizes = range(1, len(others) + 1) if len(names) <= MOST_SERVERS else (1, len(others))
    yield (source,), (source,)
    for other in others:
        yield (other,), names
    for group in itertools.chain.from_iterable(itertools.combinations(others, size) for size in sizes):
        yield (source, *group), (source, *group)


def _alternative(question: Question, effort: Effort, layers_on: tuple[str, ...], links_among: tuple[str, ...]) -> Alternative:
    try:
        return Alternative(layers_on, answer(only(question, layers_on, links_among), effort))
    except (InfeasibleError, SolverError) as error:
        return Alternative(layers_on, None, "; ".join([error.reason, *error.details][:3]))


def _coupled(question: Question) -> bool:
    """Whether a limit on energy, or on memory that the weights exceed, couples layers."""
    held = sum(layer.weight_bytes for layer in question.problem.graph.layers)
    memory = [s.memory_bytes for s in question.problem.network.servers if s.memory_bytes is not None]
    return bool(question.limits.sums(question.network)) or any(held > m for m in memory)


def _next_cut(question: Question, effort: Effort, least: np.ndarray, placement: Sequence[int]) -> tuple[Plan | None, list[str]]:
    """Solve with one layer moved, the most promising first, until no other move can be better.

    Without limits that couple layers the first answer attains its bound, and is the best.
    """
    names, servers = question.problem.graph.layer_names, question.network.server_names
    bounds = least.copy()
    bounds[np.arange(len(placement)), placement] = math.inf
    best: Plan | None = None
    for solved, n in enumerate(np.argsort(bounds, axis=None, kind="stable")):
        i, k = np.unravel_index(n, bounds.shape)
        if not math.isfinite(bounds[i, k]) or (best and bounds[i, k] >= best.objective - 1e-12 * abs(best.objective)):
            return best, []
        if solved == MOST_SOLVES:
            return best, [f"the next-best cut is not proved: a better one may reach an objective of {bounds[i, k]:.6g}"]
        try:
            found = answer(pinned(question, names[i], servers[k]), effort)
        except InfeasibleError:
            continue
        best = found if best is None or found.objective < best.objective else best
    return best, []


def _next_precision(question: Question, value: np.ndarray, scheme: int) -> tuple[Plan | None, list[str]]:
    q = np.arange(len(value)) % (1 << len(question.problem.quantizable))  # the same layers in int8, whatever the source form
    other = np.where(question.allowed & (q != question.problem.parted(scheme)[1]), value, math.inf)
    second = int(other.argmin())
    if not math.isfinite(other[second]):
        return None, []
    positions = question.optima.placement(second), second
    found = question.plan(*positions, "elimination", question.price(*positions), reason="the best of the other schemes")
    if question.limits.broken(question.problem, found.cost):
        return None, ["the next-best precision is not known: the limits on energy or memory exclude the first candidate"]
    return found, []


def _next_form(question: Question, effort: Effort, plan: Plan) -> Plan | None:
    """Solve without the forms in which a plan sends the graph inputs."""
    problem = question.problem
    lossless = [names[0] for t, names in zip(problem.graph.tensors, problem.forms.names, strict=True) if t.producer is None]
    known = dict.fromkeys((*itertools.chain.from_iterable(lossless), *(source.name for source in problem.sources)))
    taken = _input_forms(question, plan)
    others = [form for form in known if form not in taken]
    if not taken or not others:
        return None
    try:
        return answer(question.again(source_forms=others), effort)
    except InfeasibleError:
        return None


def _input_forms(question: Question, plan: Plan) -> set[str]:
    """Return the forms in which a plan sends graph inputs; none where they stay."""
    inputs = {t.name for t in question.problem.graph.tensors if t.producer is None}
    return {t.form for t in plan.transfers if t.tensor in inputs and t.source != t.target}


def _sent(plan: Plan) -> str:
    return f", the input as {plan.source_form!r}" if plan.source_form != PLAIN else ""


def _aside(plan: Plan) -> str:
    return f"{_sent(plan)}," if _sent(plan) else ""


def _ratio(other: Plan, plan: Plan) -> float:
    """Return objective / objective; NaN for a normalised sum, whose zero is arbitrary."""
    return other.objective / plan.objective if plan.objective > 0 and plan.objective_name in WORDS else math.nan


def _compare(other: Plan, plan: Plan) -> str:
    """Say how another plan compares, as the end of a sentence."""
    ratio = _ratio(other, plan)
    if math.isnan(ratio):
        return f"is worse by {other.objective - plan.objective:.3g}"
    worse, better, same = WORDS[plan.objective_name]
    if abs(ratio - 1) < 1e-9:
        return same
    return f"is {ratio:.1f} x {worse}" if ratio >= 2 else f"is {100 * abs(ratio - 1):.2g} % {worse if ratio > 1 else better}"


def _moved(moves: pd.DataFrame) -> str:
    """Say which layers move, grouped by where from and where to."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for row in moves.to_dict("records"):
        ends = row["server"], row["precision"], row["server_there"], row["precision_there"]
        groups.setdefault(ends, []).append(row["layer"])
    parts = []
    for (server, precision, there, other), layers in groups.items():
        names = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
        parts.append(f"{names}: " + ", ".join(f"{a} -> {b}" for a, b in ((server, there), (precision, other)) if a != b))
    return "; ".join(parts)
