"""How long a request takes on an emulated test-bed, by its plan and its links, and the deadline that goes with it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.plan_set import PlanSet
from dnnsplit.deployment.testbed.pacing import paces
from dnnsplit.ground.errors import DeployError
from dnnsplit.network.servers import Network

DEADLINE_S = 60.0  # unless a request is known to take a good part of that
SPARE = 10  # requests in flight wait for each other's turns, and the machine has other things to do


def deadline(
    cut: Bundle | PlanSet, network: Network, scaled: bool, dilation: float, asked_s: float | None,
    too_fast: Mapping[str, float] | None = None,
) -> float:  # fmt: skip
    """Return the deadline that was asked for, or one that fits [s]; a `DeployError` if no request can keep the one asked for.

    `scaled` says that slowdowns are given, so that servers take what the plan says; else the links alone are known. `too_fast`
    has the slowdown of servers for which the watch stands: what they compute comes on top, in seconds of this machine.
    """
    found = [_seconds(bundle, network, scaled) for bundle in cut.bundles]
    stood = [_stood_s(bundle, too_fast or {}) for bundle in cut.bundles] if scaled else [0.0]
    about_s = dilation * max(about for _, about in found) + max(stood)
    if asked_s is None:
        return max(DEADLINE_S, _rounded_up(SPARE * about_s))
    if asked_s < dilation * min(least for least, _ in found):
        message = (
            f"a request takes about {about_s:.3g} s of wall time (dilation {dilation:.3g}), which is more than "
            f"deadline_s={asked_s:g}; give deadline_s={_rounded_up(2 * about_s):g}, or leave it out"
        )
        raise DeployError(message)
    return asked_s


def _seconds(bundle: Bundle, network: Network, scaled: bool) -> tuple[float, float]:
    """Emulated seconds that a request takes at least, and about [s].

    Of tensors in forms, about is as they are made: one that its form cannot hold crosses so.
    """
    cost = bundle.plan.get("cost", {}) if scaled else {}
    compute = cost.get("compute_s", {})
    codecs = [t.get("encode_s", 0.0) + t.get("decode_s", 0.0) for t in cost.get("transfers", ())]
    inside = [
        latency_s + size_bytes * s_per_byte
        for server, moves in bundle.inside.items()
        for latency_s, s_per_byte in [paces(bundle, network, server).get(server, (0.0, 0.0))]
        for _, size_bytes in moves
    ]
    least, most = (_sends_s(bundle, network, plain) for plain in (False, True))
    return max(least, *compute.values(), 0.0), most + math.fsum([*compute.values(), *codecs, *inside])


def _stood_s(bundle: Bundle, too_fast: Mapping[str, float]) -> float:
    """Seconds of this machine that some servers compute by the plan [s]."""
    compute = bundle.plan.get("cost", {}).get("compute_s", {})
    return math.fsum(compute.get(server, 0.0) / slowdown for server, slowdown in too_fast.items())


def _sends_s(bundle: Bundle, network: Network, plain: bool) -> float:
    """Emulated seconds of the longest way from the inputs to an output, over links alone [s].

    What crosses in a form takes what it would without, or, if not `plain`, nothing but the latency: it may be small.
    """
    wires, there = bundle.wire_by_name, {(wire.name, bundle.source): 0.0 for wire in bundle.inputs}
    links = {server: paces(bundle, network, server) for server in bundle.stages}

    def send(name: str) -> None:
        for (wire, source), targets in bundle.routes.items():
            for target in targets if wire == name else ():
                unknown = wires[name].is_open or (not plain and (name, source, target) in bundle.forms)
                size_bytes = 0 if unknown else wires[name].size_bytes
                latency_s, s_per_byte = links[source][target]
                there[name, target] = there[name, source] + latency_s + size_bytes * s_per_byte

    for wire in bundle.inputs:
        send(wire.name)
    for part in bundle.parts:
        ready = max((there[name, part.server] for name in part.inputs), default=0.0)
        for name in part.outputs:
            there[name, part.server] = ready
            send(name)
    return max(there[output.wire, bundle.source] for output in bundle.outputs)


def _rounded_up(seconds: float) -> float:
    """Two digits of a number of seconds, no less than that."""
    step = 10.0 ** (math.floor(math.log10(seconds)) - 1) if seconds > 0 else 1.0
    return math.ceil(seconds / step) * step
