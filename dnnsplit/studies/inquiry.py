"""A question asked again and again: with fewer servers, one more pin or another bandwidth, but always the same objective.

The reference of a normalised objective depends on servers, links and pins. Answers compare only if it stays as it was, so
every question that is made from another (`Question.again`) is measured by the objective of the first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import InfeasibleError, NetworkError, OptionError, nearest, raise_problems
from dnnsplit.ground.tolerance import within
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.schemes import pack, row_of
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.cost import Transfer
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question, ask
from dnnsplit.solving.request import Effort, Request, picked
from dnnsplit.solving.split import pose

Ends = tuple[str, str]  # (source, target) of a link

ANOTHER = "the plan answers another question; pass the arguments that split was given"


def inquire(
    graph: LayerGraph, network: Network, times: LayerTimes, noise: NoiseModel | None, asked: Mapping[str, Any]
) -> tuple[Question, Effort]:
    """Tell what is asked from how it is to be solved, among keywords of `split`, and check both; `verify` only checks answers."""
    effort = picked(Effort, asked)
    return pose(ask(graph, network, times, noise, picked(Request, asked)), effort), effort


def check_links(network: Network, links: Iterable[Ends]) -> tuple[Ends, ...]:
    """Return the links, each once; refuse what is not in the network."""
    links = tuple(dict.fromkeys(links))
    known, names = [f"{n.source} -> {n.target}" for n in network.links], [" -> ".join(map(str, ends)) for ends in links]
    lost = [f"there is no link {name!r}{nearest(name, known)}" for name in names if name not in known]
    raise_problems(NetworkError, "bandwidths", lost)
    return links


def crossing_bytes(plan: Plan, links: Collection[Ends]) -> float:
    """Bytes that a plan sends over some links [B]."""
    return math.fsum(t.size_bytes for t in plan.transfers if (t.source, t.target) in links)


def positions(question: Question, plan: Plan) -> tuple[list[int], int]:
    """Return server positions and scheme of a plan, after a check that it answers this very question."""
    problem, most = question.problem, question.limits.max_noise
    plan.check(problem.graph.layer_names)
    index = problem.network.server_index
    int8 = problem.quantizable_names
    problems = [f"it uses {s!r}, which is not in the network{nearest(s, index)}" for s in plan.servers if s not in index]
    problems += [f"it has {n!r} in int8, which may not be{nearest(n, int8)}" for n in plan.quantized if n not in int8]
    raise_problems(OptionError, ANOTHER, problems)
    sources = ["", *(source.name for source in problem.sources)]
    if plan.lossy_source not in sources:
        problems = [f"it sends the input as {plan.lossy_source!r}, which may not be{nearest(plan.lossy_source, sources)}"]
        raise_problems(OptionError, ANOTHER, problems)
    placement = [index[plan.assignment[name]] for name in problem.graph.layer_names]
    scheme = pack(row_of(int8, plan.quantized)) | sources.index(plan.lossy_source) << len(int8)
    routes = plan.routes if problem.routing == "relay" else None
    cost = problem.price(placement, scheme, routes=routes, chosen=plan.forms)
    here = question.plan(placement, scheme, plan.method, cost)
    rounding = 1e-9 * max(abs(here.objective), abs(question.objective.constant))
    if here.objective_name != plan.objective_name or not abs(here.objective - plan.objective) <= rounding:
        what = f"{plan.objective_name} is {plan.objective:.6g}"
        problems.append(f"its {what}, but here {here.objective_name} is {here.objective:.6g}")
    verified = plan.measurements > 0 and within(plan.limited_noise, most)  # the noise model may think more of it
    if not verified and not within(here.limited_noise, most):
        problems.append(f"its noise {here.limited_noise:.6g} is above max_noise {most:g}")
    problems += _strange_forms(question, plan, here.cost.transfers) + question.limits.broken(problem, here.cost)
    names = problem.graph.layer_names
    stuck = [n for i, n in enumerate(names) if not problem.allowed[i, placement[i]]]
    problems += [f"layer {n!r} may not run on {plan.assignment[n]!r}" for n in stuck]
    apart = [(names[i], names[j]) for i, j in problem.colocated if placement[i] != placement[j]]
    problems += [f"layers {a!r} and {b!r} are not on one server" for a, b in apart]
    raise_problems(OptionError, ANOTHER, problems)
    return placement, scheme


def _strange_forms(question: Question, plan: Plan, transfers: Iterable[Transfer]) -> list[str]:
    """Say which tensors cross in forms that the question does not allow."""
    problem = question.problem
    own = {t.name: (t.producer, names) for t, names in zip(problem.graph.tensors, problem.forms.names, strict=True)}
    found = []
    for move in (t for t in transfers if t.source != t.target and t.form != plan.lossy_source):
        producer, names = own[move.tensor]
        allowed = names[producer in plan.quantized]
        if move.form not in allowed:
            found.append(f"it sends {move.tensor!r} as {move.form!r}, which may not be{nearest(move.form, allowed)}")
    return found


def pinned(question: Question, layer: str, server: str) -> Question:
    """Ask with one more pin."""
    pins = question.request.pins
    if pins.get(layer, server) != server:
        message = f"layer {layer!r} is pinned to {pins[layer]!r}"
        raise InfeasibleError(message)
    return question.again(pins={**pins, layer: server})


def only(question: Question, layers_on: Iterable[str], links_among: Iterable[str]) -> Question:
    """Ask with layers on some servers alone, and tensors on the links between some servers alone."""
    network, request = question.network, question.request
    off = tuple(s for s in network.server_names if s not in set(layers_on))
    forbid = {name: (*request.forbid.get(name, ()), *off) for name in question.problem.graph.layer_names}
    pairs = [(link.source, link.target) for link in network.links if link.source != link.target]
    cut = [pair for pair in pairs if not set(pair) <= set(links_among)]
    return question.again(forbid={**request.forbid, **forbid}, forbid_links=[*request.forbid_links, *cut])
