"""What others would do with the same problem: the placements of earlier papers, priced as plans are, beside the optimum."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import (
    DnnSplitError,
    InfeasibleError,
    OptionError,
    ProfileError,
    SolverError,
    nearest,
    raise_problems,
)
from dnnsplit.ground.keywords import named
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.cost import WireChoice
from dnnsplit.solving.lossy_wires import improved
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question
from dnnsplit.solving.request import OWN_CHECKS, Effort
from dnnsplit.solving.split import answer
from dnnsplit.studies.cuts import Blocks, Placement, Terms, minimum_cut, moves_inside
from dnnsplit.studies.inquiry import inquire

OURS = "dnnsplit"
FIGURES = ("latency_s", "energy_j", "device_energy_j", "objective", "noise")
COLUMNS = (
    "method", "assumption", "source", "servers", "source_form", *FIGURES, "int8", "proven", "equals_optimum", "gap", "solve_s",
    "slower_%", "reason",
)  # fmt: skip
EQUAL = 1e-9  # of the objective: up to here a baseline is as good as the optimum


@dataclass(frozen=True)
class Found:
    """A float32 placement that a method found.

    Attributes
    ----------
    placement : Placement
        Server position of each layer.
    proved : bool, default True
        Whether nothing that the method's assumption admits is better.
    limited : bool, default True
        Whether it breaks limits only where all that the method's assumption admits does.
    forms : WireChoice | None, optional
        The forms of its tensors; None takes those that are best.
    """

    placement: Placement
    proved: bool = True
    limited: bool = True
    forms: WireChoice | None = None


Search = Callable[[Question], Iterable[Found]]  # of a question in float32 with one source form


@dataclass(frozen=True)
class Method:
    """A way to place layers: its name, what it takes for granted, the paper that it is from, and what returns its plan."""

    name: str
    assumption: str
    source: str
    solve: Callable[[], Plan]


@named()
def baselines(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel | None = None,
    *,
    max_noise: float | None = None,
    latency_weight: float = 1.0,
    energy_weight: float = 0.0,
    max_device_energy_j: float | None = None,
    max_energy_j: float | None = None,
    normalise: str = "limited",
    confidence: float | None = None,
    source_forms: str | Sequence[str] | None = None,
    wire_forms: str | Sequence[str] | None = None,
    solver: str = "HiGHS",
    time_limit_s: float | None = 60.0,
    methods: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return what the methods of earlier papers make of a problem, beside the optimum.

    All minimise the same objective under the same limits, and all are priced as plans are: a tensor is paid once per server that
    reads it, and outputs return to the source. What the papers say of precision and of the input's form is kept too: they know no
    int8 and send float32. So "dnnsplit, float32" parts what the placement gains from what int8 does.

    - "<server> only": the whole model there.
    - "best single cut" [1]_: one place in the topological order; what is before it runs on the source, the rest on one server.
    - "articulation points" [1]_: the same where no more than one tensor crosses, as where a graph is taken for a chain of blocks.
    - "two-server min cut" [2]_ [3]_: any cut between the source and one server from which nothing but outputs comes back, as a
      minimum s-t cut with a vertex per tensor. It is exact whatever the links are, but for moves that take time inside a server.
    - "contiguous tiers" [4]_: the topological order in up to three consecutive blocks, the first of them on the source, in every
      order of the other servers.
    - "greedy": layer by layer in topological order, each on the server where its own work and the transfers of those of its
      inputs that are not there yet cost least; what comes after it does not count.
    - "slides" [5]_: the slides' MILP, with int8, until it is solved or `time_limit_s` is over.
    - "dnnsplit, float32" and "dnnsplit" [6]_: the optimum over all placements, without int8 and with it.

    Parameters
    ----------
    graph, network, times, noise : LayerGraph, Network, LayerTimes, NoiseModel | None
        As for `split`.
    max_noise, latency_weight, energy_weight, max_device_energy_j, max_energy_j, normalise, confidence : optional
        As for `split`. A normalised sum is normalised by the payoffs of "dnnsplit" in every row.
    source_forms : str | Sequence[str] | None, optional
        Forms in which the source may send graph inputs, for all methods; by default the lossless ones for those of dnnsplit, and
        the plain one for the others.
    wire_forms : str | Sequence[str] | None, optional
        As for `split`, for all methods.
    solver : str, default "HiGHS"
        Of the slides' MILP.
    time_limit_s : float | None, default 60.0
        Wall time after which the slides' MILP must stop [s]; None: no limit.
    methods : Sequence[str] | None, optional
        Names of the rows, in any order; by default all.

    Returns
    -------
    pd.DataFrame
        One row per method: method, assumption, source (the paper), servers, source_form, latency_s [s], energy_j [J],
        device_energy_j [J], objective, noise, int8 (how many layers), proven ("optimal": the best that its assumption admits;
        "feasible"; empty without a plan), equals_optimum (whether its objective is that of "dnnsplit", and that proved), gap (to
        the bound of its own search, relative; NaN where there is none), solve_s (CPU seconds of the search, without building the
        problem) [s], slower_% (than "dnnsplit", by the latency) and reason (why there is no plan). Without one, figures are NaN.

    Raises
    ------
    OptionError
        There is no such method, or an option is not usable.
    InfeasibleError
        Nothing keeps the limits, and a sum has nothing to be normalised by.
    NoiseError, ModelError, NetworkError, ProfileError
        As for `split`.

    References
    ----------
    .. [1] Y. Kang et al., "Neurosurgeon: Collaborative Intelligence Between the Cloud and Mobile Edge", ASPLOS 2017.
    .. [2] C. Hu, W. Bao, D. Wang, F. Liu, "Dynamic Adaptive DNN Surgery for Inference Acceleration on the Edge", INFOCOM 2019.
    .. [3] S. Zhang et al., "Towards Real-time Cooperative Deep Inference over the Cloud and Edge End Devices", Proc. ACM IMWUT
       4(2), 2020.
    .. [4] L. Lockhart et al., "Scission: Performance-driven and Context-aware Cloud-Edge Distribution of Deep Neural Networks",
       UCC 2020.
    .. [5] S. Nicosanti, slides of 2025-08-11.
    .. [6] U. Bertele and F. Brioschi, "Nonserial Dynamic Programming", 1972.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> names = ["device only", "best single cut", "dnnsplit, float32", "dnnsplit"]
    >>> table = ds.baselines(*ds.examples.tiny(), max_noise=0.03, methods=names)
    >>> table[["method", "latency_s", "int8", "proven"]].round(4)
                  method  latency_s  int8   proven
    0        device only     0.4700     0  optimal
    1    best single cut     0.3382     0  optimal
    2  dnnsplit, float32     0.3382     0  optimal
    3           dnnsplit     0.2582     1  optimal
    """
    check_arguments(baselines, locals(), least={"time_limit_s": 0}, but=OWN_CHECKS)
    asked: dict[str, Any] = {
        "max_noise": max_noise, "latency_weight": latency_weight, "energy_weight": energy_weight, "normalise": normalise,
        "max_device_energy_j": max_device_energy_j, "max_energy_j": max_energy_j, "confidence": confidence,
        "source_forms": source_forms, "wire_forms": wire_forms, "solver": solver,
    }  # fmt: skip
    slides = Effort("slides", solver, time_limit_s=time_limit_s)
    lossless = noise if noise is None or source_forms is not None else replace(noise, sources={})
    question, effort = inquire(graph, network, times, lossless, asked)
    theirs = question if source_forms is not None else question.again(source_forms=(PLAIN,), wire_forms=wire_forms)
    every = [*_theirs(theirs, slides), *_ours(question, effort)]
    names = [method.name for method in every]
    lost = [f"there is no method {name!r}{nearest(name, names)}" for name in methods or () if name not in names]
    raise_problems(OptionError, "methods", lost)
    wanted = names if methods is None else methods
    rows = [_row(method) for method in every if method.name in (*wanted, OURS)]
    best, equal = rows[-1], EQUAL * max(abs(rows[-1]["objective"]), abs(question.objective.constant))
    for row in rows:
        row["equals_optimum"] = best["proven"] == "optimal" and abs(row["objective"] - best["objective"]) <= equal
        row["slower_%"] = 100 * (row["latency_s"] / best["latency_s"] - 1) if best["latency_s"] else math.nan
    frame = pd.DataFrame([row for row in rows if row["method"] in wanted], columns=COLUMNS).astype({"int8": "Int64"})
    frame.attrs["units"] = {"latency_s": "s", "energy_j": "J", "device_energy_j": "J", "solve_s": "s"}
    frame.attrs["objective"] = question.objective.name
    return frame


def _theirs(question: Question, slides: Effort) -> Iterator[Method]:
    """Yield the methods of others, in float32 but for the slides'."""
    home, servers = question.problem.source, question.network.server_names
    others = [k for k in range(len(servers)) if k != home]
    for k in (home, *others):
        yield Method(f"{servers[k]} only", f"every layer runs on {servers[k]}", "", partial(_float32, question, _all_on(k)))
    pairs = [(home, k, k) for k in others or [home]]
    tiers = [(home, *pair) for pair in itertools.permutations(others, 2)]

    def blocks(pipelines: Sequence[Sequence[int]], least: int, single: bool = False) -> Callable[[], Plan]:
        def search(part: Question) -> Iterator[Found]:
            cuts = Blocks(part, least)
            yield Found(cuts.best(pipelines, cuts.articulation if single else None))

        return partial(_float32, question, search)

    layers = len(question.problem.graph.layers)
    kang, hu = "Kang et al., Neurosurgeon, ASPLOS 2017", "Hu et al., DADS, INFOCOM 2019; Zhang et al., QDMP, IMWUT 2020"
    lockhart, nicosanti = "Lockhart et al., Scission, UCC 2020", "S. Nicosanti, slides of 2025-08-11"
    text = "one place in the topological order: before it the source, after it one server"
    yield Method("best single cut", text, kang, blocks(pairs, layers))
    text = "the same, where no more than one tensor crosses: the graph as a chain of blocks"
    yield Method("articulation points", text, f"{kang}, of a chain of blocks", blocks(pairs, layers, single=True))
    text = "two servers, from the second of which nothing but outputs comes back; moves inside a server are free"
    yield Method("two-server min cut", text, hu, partial(_float32, question, _minimum_cuts))
    text = "consecutive blocks of the topological order, at most three, in any order of the other servers"
    yield Method("contiguous tiers", text, lockhart, blocks(tiers, 0) if tiers else blocks(pairs, layers))
    text = "layer by layer, each where its work and the transfers of its inputs cost least; what comes after does not count"
    yield Method("greedy", text, "a common heuristic", partial(_float32, question, _greedy))
    text = "any placement, layers in int8 too; a MILP that is stopped by its limit of time"
    yield Method("slides", text, nicosanti, lambda: answer(question, slides))


def _ours(question: Question, effort: Effort) -> Iterator[Method]:
    def optimum() -> Plan:
        plan = answer(question, effort)
        return improved(question, plan, effort) if question.problem.lossy else plan

    def search(part: Question) -> Iterator[Found]:
        plan, index = answer(part, effort), part.network.server_index
        placement = tuple(index[plan.assignment[name]] for name in part.problem.graph.layer_names)
        yield Found(placement, plan.status == "optimal", forms=plan.forms)

    source = "Bertele and Brioschi, Nonserial Dynamic Programming, 1972"
    yield Method(f"{OURS}, float32", "any placement", source, partial(_float32, question, search))
    yield Method(OURS, "any placement, layers in int8 too", source, optimum)


def _float32(question: Question, search: Search) -> Plan:
    """Return the best of the placements that a search finds with each source form that the limit on noise admits."""
    problem, plans, refused, proved = question.problem, list[Plan](), list[DnnSplitError](), True
    for source in question.sources:
        part = question.under(source)
        free = replace(part.limits, max_noise=math.inf)
        part = replace(part, problem=replace(part.problem, quantizable=()), noise=None, limits=free)
        try:
            every = list(search(part))
        except InfeasibleError as error:
            refused.append(error)
            continue
        for found in every:
            proved = proved and found.proved
            try:
                plans.append(_priced(question, found, source << len(problem.quantizable)))
            except (InfeasibleError, ProfileError) as error:
                refused.append(error)
                proved = proved and found.limited
    if not plans:
        raise InfeasibleError(refused[0].reason, details=refused[0].details)
    best = min(plans, key=lambda plan: plan.objective)
    return best if proved else replace(best, status="feasible", bound=math.nan, gap=math.nan)


def _priced(question: Question, found: Found, scheme: int) -> Plan:
    """Return a placement as a plan, if it keeps the limits; ProfileError where a server cannot read a form that it would get."""
    problem, objective = question.problem, question.objective
    cost = problem.price(found.placement, scheme, objective.weights, objective.ties, chosen=found.forms)
    raise_problems(InfeasibleError, "the placement breaks limits", question.limits.broken(problem, cost))
    return question.plan(found.placement, scheme, "", cost)


def _all_on(server: int) -> Search:
    return lambda part: [Found((server,) * len(part.problem.graph.layers))]


def _minimum_cuts(part: Question) -> Iterator[Found]:
    home, exact = part.problem.source, not moves_inside(part)
    for k in [k for k in range(len(part.network.servers)) if k != home] or [home]:
        yield Found(minimum_cut(part, k), exact, limited=False)


def _greedy(part: Question) -> Iterator[Found]:
    problem, terms = part.problem, Terms.of(part)
    inputs: dict[int, list[int]] = {i: [] for i in range(len(problem.graph.layers))}
    for t, receivers in enumerate(problem.receivers):
        for i in (r for r in receivers if r >= 0):
            inputs[i].append(t)
    placement = np.zeros(len(inputs), int)
    arrived = np.zeros((len(problem.producer), len(problem.network.servers)), bool)
    for i in (problem.graph.layer_index[name] for name in problem.graph.topological):
        price = terms.layers[0][i].copy()
        for t in inputs[i]:
            made = problem.source if problem.producer[t] < 0 else placement[problem.producer[t]]
            price += np.where(arrived[t], 0.0, terms.tensors[0][t, made])
        placement[i] = price.argmin()
        arrived[inputs[i], placement[i]] = True
    yield Found(tuple(placement.tolist()), proved=False)


def _row(method: Method) -> dict[str, Any]:
    """Solve, and tell the plan or why there is none."""
    row: dict[str, Any] = {"method": method.name, "assumption": method.assumption, "source": method.source, "reason": ""}
    started, plan = time.process_time(), None
    try:
        plan = method.solve()
    except (InfeasibleError, SolverError) as error:
        row["reason"] = "; ".join([error.reason, *error.details][:3])
    row["solve_s"] = time.process_time() - started
    if plan is None:
        return row | dict.fromkeys((*FIGURES, "gap"), math.nan) | {"servers": "", "source_form": "", "proven": "", "int8": None}
    told = {
        "servers": "+".join(plan.servers),
        "source_form": plan.source_form,
        "int8": len(plan.quantized),
        "proven": plan.status,
    }
    return row | {name: getattr(plan, name) for name in (*FIGURES, "gap")} | told
