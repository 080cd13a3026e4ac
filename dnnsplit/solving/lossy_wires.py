"""Lossy forms of tensors between layers: chosen under a predicted noise, the power sum, beside the q bits and the source form.

What they add is not known of every combination, so it is predicted: the squares of the noise of each tensor alone are added to
that of the scheme. They are a limit on a sum over transfers then, as energy is, but one that every scheme has its own of. For a
multiplier on that sum the elimination is exact (Everett, 1963); multipliers are sought where the lower bound of the best scheme
is highest. The forms of the best placement are then chosen anew, exactly, where these are few enough to be listed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnnsplit.ground.errors import OptionError, SolverError
from dnnsplit.ground.tolerance import loosened, relative_gap, within
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.arrays import Problem, Weights
from dnnsplit.solving.cost import Cost
from dnnsplit.solving.elimination.relays import TIE
from dnnsplit.solving.elimination.sweep import eliminate
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question
from dnnsplit.solving.request import Effort

ROUNDS = 24
MEASURED = 4  # plans whose noise is measured, before the one without such forms is taken
TRIES = 8  # schemes that are priced for each multiplier
MOST_LISTED = 50_000  # combinations of forms of one placement


@dataclass(frozen=True, eq=False)
class Coded:
    """The best plan that was found: placement, scheme, cost, the sum of its powers, and a bound on the objective of all."""

    placement: tuple[int, ...]
    scheme: int
    cost: Cost
    value: float
    power: float
    bound: float


def improved(question: Question, plan: Plan, effort: Effort, factor: float = 1.0) -> Plan:
    """Return the plan that lossy forms between layers make better, or the same plan; either says what is proved.

    `plan` is the answer without them, and `factor` that of `search`.

    Raises
    ------
    OptionError
        The question is for a MILP, or about the slowest stage.
    """
    if effort.method in ("milp", "slides") or question.objective.bottleneck:
        what = "objective='throughput'" if question.objective.bottleneck else f"method={effort.method!r}"
        message = f"lossy wire_forms are chosen by elimination, for latency and energy; leave them out, or {what}"
        raise OptionError(message)
    try:
        found = search(question, factor)
    except SolverError as error:
        return replace(
            plan, status="feasible", bound=math.nan, gap=math.nan, reason=f"{plan.reason}; lossy wires: {error.reason}"
        )
    objective, name = question.objective, "the power sum of lossy wires, by a multiplier"
    value = plan.objective - objective.constant
    if found is None or not found.value < value * (1 - TIE):
        bound = min(plan.bound, plan.objective if found is None else found.bound + objective.constant)
        gap = relative_gap(plan.objective, bound, max(abs(plan.objective), abs(objective.constant)))
        return replace(plan, bound=bound, gap=gap, status=plan.status if gap <= effort.gap else "feasible")
    near = relative_gap(found.value, found.bound) <= effort.gap
    parts = found.placement, found.scheme, "elimination", found.cost
    coded = question.plan(*parts, reason=name, status="optimal" if near else "feasible", bound=found.bound)
    if not _lossy(question, found.cost):
        return coded
    noise = question.noise
    assert noise is not None  # it told the powers
    mean = noise.mean or noise
    sums = [math.fsum(model.tensors[t][form] ** 2 for t, form in _lossy(question, found.cost)) for model in (mean, noise)]
    most = math.hypot(coded.noise_upper, math.sqrt(sums[1]))
    return replace(coded, noise=math.hypot(coded.noise, math.sqrt(sums[0])), noise_upper=most, noise_kind="predicted")


def verified(question: Question, plan: Plan, effort: Effort, measure: Any) -> Plan:
    """Return the plan that lossy forms between layers make better and whose measured noise keeps the limit, or the same plan.

    Each candidate is measured on its parts, by ``measure.of_plan``. Where that is above the limit, what lossy forms are predicted
    to add is scaled by what they did add, and the next candidate is sought.
    """
    if not hasattr(measure, "of_plan"):
        message = (
            "lossy wire_forms are verified on the parts of a plan: pass verify=parts_meter(graph, images), or leave them out"
        )
        raise OptionError(message)
    factor, noise = 1.0, question.noise
    assert noise is not None  # it told the powers
    for count in range(1, MEASURED + 1):
        found = improved(question, plan, effort, factor)
        if found.forms == plan.forms and found.assignment == plan.assignment and found.quantized == plan.quantized:
            break
        mean, most = measure.of_plan(found, question.request.confidence)
        if within(most, question.limits.max_noise):
            upper = math.nan if question.request.confidence is None else most
            told = {"noise": mean, "noise_upper": upper, "noise_kind": "measured", "measurements": plan.measurements + count}
            return replace(found, **told)
        alone = noise.of(found.quantized, found.lossy_source)
        added = math.fsum(noise.tensors[t][form] ** 2 for t, form in _lossy(question, found.cost))
        factor = max(1.5 * factor, (most**2 - alone**2) / added) if added else math.inf
        if not math.isfinite(factor):
            break
    return plan


def _lossy(question: Question, cost: Cost) -> list[tuple[str, str]]:
    """Return the tensors between layers that cross in a lossy form, once for each link, and the form."""
    table, inputs = question.problem.times.forms, {t.name for t in question.problem.graph.tensors if t.producer is None}
    moves = [(t.tensor, t.form) for t in cost.transfers if t.tensor not in inputs and t.source != t.target]
    return [(t, form) for t, form in moves if table and form in table.of(t) and not table.of(t)[form].lossless]


def search(question: Question, factor: float = 1.0) -> Coded | None:
    """Return the best plan that was found with lossy forms between layers; None where no plan keeps the limits.

    Parameters
    ----------
    question : Question
        Whose problem knows such forms.
    factor : float, default 1.0
        What predicted powers are multiplied by: more than 1 where measurements were above the prediction.
    """
    lossy = question.problem.lossy
    assert lossy is not None  # whoever asks has looked
    problem = replace(question.problem, forms=replace(lossy, power=factor * lossy.power))
    objective, none = question.objective, np.zeros(len(problem.network.servers))
    use = Weights(none, np.zeros((len(none), len(none))), power=1.0)
    left = np.where(question.allowed, loosened(question.limits.max_noise) ** 2 - np.square(question.scheme_noise), -math.inf)
    best: Coded | None = None
    bounds = np.full(left.shape, -math.inf)
    seen: list[tuple[np.ndarray, np.ndarray]] = []  # objective and power, of every scheme
    price, prices = 0.0, set[float]()
    while len(prices) < ROUNDS and price not in prices:
        prices.add(price)
        optima = eliminate(problem, objective.weights + price * use, objective.weights, use)
        first, own, power = optima.values
        seen.append((own, power))
        there = np.isfinite(first) & (left >= 0)
        lift = np.where(there, first - (price * left if price else 0.0), math.inf)
        bounds = np.maximum(bounds, lift)
        kept = np.where(there & (power <= left), own, math.inf)
        for scheme in map(int, np.argsort(kept)[:TRIES]):
            if not kept[scheme] < (best.value if best else math.inf):
                break
            found = _chosen(question, problem, optima.placement(scheme), scheme, float(left[scheme]))
            if found and (best is None or found.value < best.value):
                best = found
        if not math.isfinite(bounds.min()):
            return None  # no scheme is within the limit, or there is no placement
        price = _next(seen, int(bounds.argmin()), left)
    return best and replace(best, bound=min(float(bounds.min()), best.value))


def _next(seen: list[tuple[np.ndarray, np.ndarray]], scheme: int, left: np.ndarray) -> float:
    """Return the multiplier at which the plans of a scheme that are nearest to its limit, from both sides, cost the same."""
    points = [(float(power[scheme]), float(own[scheme])) for own, power in seen]
    over = [p for p in points if p[0] > left[scheme]]
    under = [p for p in points if p[0] <= left[scheme]]
    if not over:
        return 0.0
    if not under:  # so much that no lossy form is worth it
        worst = max(points)
        return 1e6 * (abs(worst[1]) or 1.0) / worst[0]
    a, b = min(over), max(under)
    return max(0.0, (b[1] - a[1]) / (a[0] - b[0]))


def _chosen(question: Question, problem: Problem, placement: tuple[int, ...], scheme: int, left: float) -> Coded | None:
    """Choose the forms of a placement: of all combinations that keep the power the best, where they can be listed."""
    by = question.objective.weights, question.objective.ties
    plain = replace(problem, forms=problem.forms.lossless)
    cost = plain.price(placement, scheme, *by)
    table, q = problem.times.forms, problem.parted(scheme)[1]
    assert table is not None  # else there would be no form
    position = {t.name: i for i, t in enumerate(problem.graph.tensors)}
    int8 = {i for j, i in enumerate(problem.quantizable) if q >> j & 1}
    moves, options = [], []
    for move in (t for t in cost.transfers if t.source != t.target):
        t = position[move.tensor]
        k, h = (problem.network.server_index[name] for name in (move.source, move.target))
        precision = int(problem.producer[t] in int8)
        lossy = [
            (name, float(problem.forms.power[t, precision, n]))
            for n, name in enumerate(problem.forms.names[t][precision])
            if problem.forms.power[t, precision, n] > 0 and math.isfinite(problem.forms.link_s[t, k, h, precision, n])
        ]
        if lossy:
            moves.append((move.tensor, move.source, move.target))
            options.append([(cost.forms.get(moves[-1], PLAIN), 0.0), *lossy])
    if math.prod(map(len, options)) > MOST_LISTED:
        options = [own[:1] for own in options]
    best: Coded | None = None
    for picked in itertools.product(*options):
        power = math.fsum(one for _, one in picked)
        if power > left:
            continue
        forms = {**cost.forms, **{move: name for move, (name, _) in zip(moves, picked, strict=True)}}
        coded = problem.price(placement, scheme, *by, routes=cost.routes, chosen=forms)
        value = question.objective.weights.of(coded, problem.network)
        if (best is None or value < best.value) and not question.limits.broken(problem, coded):
            best = Coded(placement, scheme, coded, value, power, -math.inf)
    return best
