"""A question asked again and again: with fewer servers, one more pin or another bandwidth, but always the same objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import InfeasibleError, OptionError, nearest, raise_problems
from dnnsplit.ground.tolerance import within
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.schemes import pack, row_of
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving import split
from dnnsplit.solving.plan import Plan
from dnnsplit.solving.question import Question, ask

HOW = ("method", "solver", "gap", "time_limit_s")  # arguments of `split` that say how to solve, not what
CHECKED = ("verify", "samples")  # those that only check an answer
ANOTHER = "the plan answers another question; pass the arguments that split was given"


@dataclass(frozen=True, eq=False)
class Inquiry:
    """The arguments of `split`, and the question they make.

    The reference of a normalised objective depends on servers, links and pins. Answers compare only if it stays as it was,
    so every question asked from here is measured by the objective of the first.

    Attributes
    ----------
    graph, network, times, noise, max_noise : as for `split`
    what : other arguments of `split` that say what is asked
    how : those that say how it is solved
    question : what they make without further restrictions
    """

    graph: LayerGraph
    network: Network
    times: LayerTimes
    noise: NoiseModel | None
    max_noise: float | None
    what: Mapping[str, Any]
    how: Mapping[str, Any]
    question: Question = field(repr=False)

    @staticmethod
    def make(
        graph: LayerGraph,
        network: Network,
        times: LayerTimes,
        noise: NoiseModel | None,
        max_noise: float | None,
        asked: Mapping[str, Any],
    ) -> Inquiry:
        """Tell what is asked from how it is to be solved, and check it once."""
        how = {name: value for name, value in asked.items() if name in HOW}
        what = {name: value for name, value in asked.items() if name not in (*HOW, *CHECKED)}
        question = ask(graph, network, times, noise, max_noise, **what)
        question = split.pose(question, **{name: value for name, value in how.items() if name != "method"})
        return Inquiry(graph, network, times, noise, max_noise, what, how, question)

    def again(self, network: Network | None = None, **more: Any) -> Question:
        """Ask with another network or other arguments."""
        question = ask(self.graph, network or self.network, self.times, self.noise, self.max_noise, **{**self.what, **more})
        return question.aimed_at(self.question.objective)

    def positions(self, plan: Plan) -> tuple[list[int], int]:
        """Return server positions and scheme of a plan, after a check that it answers this very question.

        Raises
        ------
        DnnSplitError, OptionError : it places other layers, uses other servers, is worth something else here, or breaks a limit
        """
        problem, most = self.question.problem, self.question.limits.max_noise
        plan.check(problem.graph.layer_names)
        index = {name: k for k, name in enumerate(problem.network.server_names)}
        int8 = problem.quantizable_names
        problems = [f"it uses {s!r}, which is not in the network{nearest(s, index)}" for s in plan.servers if s not in index]
        problems += [f"it has {n!r} in int8, which may not be{nearest(n, int8)}" for n in plan.quantized if n not in int8]
        raise_problems(OptionError, ANOTHER, problems)
        placement = [index[plan.assignment[name]] for name in problem.graph.layer_names]
        scheme = pack(row_of(int8, plan.quantized))
        routes: dict[str, list[tuple[str, str]]] = {}
        for t in plan.transfers:
            routes.setdefault(t.tensor, []).append((t.source, t.target))
        cost = problem.price(placement, scheme, routes=routes if problem.routing == "relay" else None)
        here = self.question.plan(placement, scheme, plan.method, cost)
        rounding = 1e-9 * max(abs(here.objective), abs(self.question.objective.constant))
        if here.objective_name != plan.objective_name or not abs(here.objective - plan.objective) <= rounding:
            what = f"{plan.objective_name} is {plan.objective:.6g}"
            problems.append(f"its {what}, but here {here.objective_name} is {here.objective:.6g}")
        if not within(here.limited_noise, most):
            problems.append(f"its noise {here.limited_noise:.6g} is above max_noise {most:g}")
        problems += self.question.limits.broken(problem, here.cost)
        names = problem.graph.layer_names
        stuck = [n for i, n in enumerate(names) if not problem.allowed[i, placement[i]]]
        problems += [f"layer {n!r} may not run on {plan.assignment[n]!r}" for n in stuck]
        apart = [(names[i], names[j]) for i, j in problem.colocated if placement[i] != placement[j]]
        problems += [f"layers {a!r} and {b!r} are not on one server" for a, b in apart]
        raise_problems(OptionError, ANOTHER, problems)
        return placement, scheme

    def answer(self, question: Question) -> Plan:
        """Solve in the way that was asked for."""
        return split.answer(question, **self.how)

    def pinned(self, layer: str, server: str) -> Question:
        """Ask with one more pin.

        Raises
        ------
        InfeasibleError : the layer is pinned elsewhere
        """
        pins = dict(self.what.get("pins") or {})
        if pins.get(layer, server) != server:
            raise InfeasibleError(f"layer {layer!r} is pinned to {pins[layer]!r}")
        return self.again(pins={**pins, layer: server})

    def only(self, layers_on: Iterable[str], links_among: Iterable[str]) -> Question:
        """Ask with layers on some servers alone, and tensors on the links between some servers alone.

        Raises
        ------
        InfeasibleError : pins leave a layer no server
        """
        off = tuple(s for s in self.network.server_names if s not in set(layers_on))
        forbid = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in (self.what.get("forbid") or {}).items()}
        forbid |= {name: (*forbid.get(name, ()), *off) for name in self.graph.layer_names}
        inside = set(links_among)
        pairs = [(link.source, link.target) for link in self.network.links if link.source != link.target]
        cut = [pair for pair in pairs if not set(pair) <= inside]
        return self.again(forbid=forbid, forbid_links=[*(self.what.get("forbid_links") or ()), *cut])
