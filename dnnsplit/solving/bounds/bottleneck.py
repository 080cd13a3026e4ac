"""The stages of a pipeline: what bounds the slowest of them, and what a plan with no slow stage cannot contain.

With many requests in flight, every server's compute and every link between two servers is a stage, and the slowest one, the
bottleneck, sets the throughput. For any shares of the stages that sum to 1, no plan's bottleneck is below the least
share-weighted sum of stages, which elimination computes exactly (a Lagrangian bound, Everett, 1963). Good shares are found by
multiplicative weights (Freund and Schapire, 1999): those of the stages that came out slow grow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dnnsplit.ground.tolerance import relative_gap
from dnnsplit.noise.models import NoiseModel
from dnnsplit.solving.arrays import Problem, Weights
from dnnsplit.solving.cost import Cost, WireChoice
from dnnsplit.solving.elimination.sweep import eliminate
from dnnsplit.solving.objective import Limits, scheme_noise

ROUNDS = (30, 8, 8, 8, 8)  # eliminations in search of a plan, and in each step of bisection
TIE = 1e-9


@dataclass(frozen=True)
class Bracket:
    """What is known of the least bottleneck.

    Attributes
    ----------
    low : float
        No plan has a lower bottleneck [s].
    high : float
        Bottleneck of the best plan found [s], infinite if none was.
    plan : tuple[tuple[int, ...], int] | None
        Its placement and scheme.
    routes : dict[str, tuple[tuple[str, str], ...]] | None
        With relays, its links by tensor.
    forms : WireChoice | None
        Form by (tensor, source, target), of what does not cross plainly.
    """

    low: float = 0.0
    high: float = math.inf
    plan: tuple[tuple[int, ...], int] | None = None
    routes: dict[str, tuple[tuple[str, str], ...]] | None = None
    forms: WireChoice | None = None

    @property
    def gap(self) -> float:
        """Relative distance between the two."""
        return relative_gap(self.high, self.low) if self.plan else math.inf


def bracket(
    problem: Problem, noise: NoiseModel | None, limits: Limits, gap: float = TIE, time_limit_s: float | None = None
) -> Bracket:
    """Bound the least bottleneck from both sides, by at most some 60 eliminations.

    A plan below a target has no layer and no transfer that alone takes as long. So the problem without those bounds all plans
    from below, up to the target; bisection finds targets for which that helps. Plans outside the limits do not count; limits on
    energy and memory do not lift `low`. It stops at a relative gap, or at a limit of time.
    """
    started, count = time.monotonic(), len(problem.network.servers)
    stage = np.vstack([np.ones((1, count)), ~np.eye(count, dtype=bool)])  # compute, and links by sender
    best, share, allowed = Bracket(), stage / stage.sum(), None
    top = math.inf  # up to here bisection did not lift `low`
    for step, rounds in enumerate(ROUNDS):
        target = math.inf if step == 0 else (best.low + min(top, best.high)) / 2
        for n in range(rounds):
            target = min(target, best.high)
            late = time_limit_s is not None and time.monotonic() - started > time_limit_s
            if late or best.low >= target * (1 - gap):
                break
            weights = Weights(share[0], share[1:])
            optima = eliminate(without_slow(problem, target), weights)
            if allowed is None:  # after elimination, which refuses what has too many schemes to list
                allowed = limits.quiet(scheme_noise(problem, noise))
            value = np.where(allowed, optima.value, np.inf)
            scheme = int(value.argmin())
            best = replace(best, low=max(best.low, min(float(value[scheme]), target)))
            if math.isinf(value[scheme]):
                break
            placement = optima.placement(scheme)
            slow = _stages(problem, problem.price(placement, scheme, weights))
            for own in (descend(problem, placement, scheme), placement):
                cost = problem.price(own, scheme, weights)
                if cost.bottleneck_s < best.high and not limits.broken(problem, cost):
                    routes = problem.routes(own, scheme, weights) if problem.routing == "relay" else None
                    best = Bracket(best.low, cost.bottleneck_s, (own, scheme), routes, cost.forms)
            share = share * np.exp(slow / (min(best.high, slow.max()) or 1.0) / math.sqrt(n + 1)) * stage
            share /= share.sum()
        top = target if best.low < target * (1 - gap) else math.inf
        if best.gap <= gap:
            break
    return replace(best, low=min(best.low, best.high))


def without_slow(problem: Problem, most: float) -> Problem:
    """Return the problem without the layers on servers, and tensors on links, that alone take longer than `most` seconds."""
    quantizable = list(problem.quantizable)
    layer = problem.layer_s[..., 0].copy()
    layer[quantizable] = problem.layer_s[quantizable].min(axis=-1)
    int8 = np.isin(problem.producer, quantizable)[:, None, None]
    # the slowest of writing, sending and reading it, in the form in which that is least; moves inside a server are no stage
    forms, inside = problem.forms, np.eye(len(layer[0]), dtype=bool)
    each = np.maximum(np.maximum(forms.link_s, forms.encode_s), forms.decode_s)
    least = each.min(axis=-1)
    move = np.where(int8, least.min(axis=-1), least[..., 0])
    slow = (move > most * (1 - TIE)) & ~inside
    return replace(
        problem,
        allowed=problem.allowed & (layer <= most * (1 - TIE)),
        forms=forms.without(np.broadcast_to(slow[..., None, None], each.shape)),
    )


def descend(problem: Problem, placement: Sequence[int], scheme: int) -> tuple[int, ...]:
    """Move one layer at a time to another server for as long as that lowers the bottleneck; return the placement.

    Layers that must share a server stay, and with relays, where one move changes whole routes, all do.
    """
    where, servers = list(placement), range(len(problem.network.servers))
    if problem.routing == "relay":
        return tuple(where)
    together = {i for pair in problem.colocated for i in pair}
    quantized = {i for j, i in enumerate(problem.quantizable) if scheme >> j & 1}
    compute = [problem.layer_s[i, :, int(i in quantized)].tolist() for i in range(len(where))]
    problem, scheme = problem.under(problem.parted(scheme)[0]), problem.parted(scheme)[1]
    forms = problem.forms
    best = (forms.encode_s + forms.link_s + forms.decode_s).argmin(axis=-1)[..., None]
    whole = [np.take_along_axis(one, best, axis=-1)[..., 0] for one in (forms.link_s, forms.encode_s, forms.decode_s)]
    moves, writes, reads = ([one[t, :, :, int(p in quantized)].tolist() for t, p in enumerate(problem.producer)] for one in whole)
    ends: list[list[int]] = [[] for _ in where]
    for t, (p, receivers) in enumerate(zip(problem.producer, problem.receivers, strict=True)):
        for i in {p, *receivers} - {-1}:
            ends[i].append(t)

    def add(loads: dict[tuple[int, ...], float], tensors: Iterable[int], sign: float) -> None:
        for t in tensors:
            k, *targets = [problem.source if i < 0 else where[i] for i in (problem.producer[t], *problem.receivers[t])]
            for h in set(targets) - {k}:
                loads[k, h] = loads.get((k, h), 0.0) + sign * moves[t][k][h]
                loads[k,] += sign * writes[t][k][h]
                loads[h,] += sign * reads[t][k][h]

    loads: dict[tuple[int, ...], float] = {(k,): sum(compute[i][k] for i, at in enumerate(where) if at == k) for k in servers}
    add(loads, range(len(moves)), 1.0)
    better = True
    while better:
        better = False
        for i, k in ((i, int(k)) for i, k in np.argwhere(problem.allowed) if i not in together):
            if k != (old := where[i]):
                new = dict(loads)
                add(new, ends[i], -1.0)
                where[i] = k
                new[old,] -= compute[i][old]
                new[k,] += compute[i][k]
                add(new, ends[i], 1.0)
                if max(new.values()) < max(loads.values()) * (1 - TIE):
                    loads, better = new, True
                else:
                    where[i] = old
    return tuple(where)


def _stages(problem: Problem, cost: Cost) -> np.ndarray:
    """Seconds of the stages: compute by server, then links by sender and receiver."""
    index = problem.network.server_index
    seconds = np.zeros((1 + len(index), len(index)))
    seconds[0] = [cost.compute_s[name] + codec_s for name, codec_s in cost.codec_s.items()]
    for t in cost.transfers:
        if t.source != t.target:
            seconds[1 + index[t.source], index[t.target]] += t.seconds
    return seconds
