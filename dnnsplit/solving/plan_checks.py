"""What can be wrong with a plan that was read from a file: amounts that are none, and names that do not go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dnnsplit.codecs.pixels import Pixels
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import DnnSplitError, nearest, shortened
from dnnsplit.ground.forms import formed
from dnnsplit.ground.gate import name_problem
from dnnsplit.ground.units import is_number
from dnnsplit.network.servers import Network
from dnnsplit.solving.objective import Reference

if TYPE_CHECKING:
    from dnnsplit.solving.plan import Plan


STATUSES = ("optimal", "feasible")
NOISE_KINDS = ("none", "measured", "predicted")


def plan_problems(plan: Plan, graph: LayerGraph | None, network: Network | None) -> Iterable[str]:
    """Yield a sentence for everything that is wrong with a plan, by itself and with the graph and the network that are given."""
    yield from _amount_problems(plan)
    yield from _form_problems(plan)
    servers = list(plan.cost.compute_s)
    yield from (f"a server {wrong}: {shortened(name)}" for name in servers if (wrong := name_problem(name) or _empty(name)))
    if plan.source not in servers:
        yield f"its source is {shortened(plan.source)}, of which it has no cost{nearest(plan.source, servers)}"
    for name in dict.fromkeys(plan.assignment.values()):
        if name not in servers:
            yield f"it places layers on {shortened(name)}, of which it has no cost{nearest(name, servers)}"
    for name in dict.fromkeys(end for sent in plan.transfers for end in (sent.source, sent.target)):
        if name not in servers:
            yield f"it sends over {shortened(name)}, of which it has no cost{nearest(name, servers)}"
    for name in plan.quantized:
        if name not in plan.assignment:
            yield f"it quantizes {shortened(name)}, which it does not place{nearest(name, plan.assignment)}"
    if len({*plan.quantized}) < len(plan.quantized):
        yield "it quantizes a layer twice"
    if graph is not None:
        yield from _graph_problems(plan, graph)
    if network is not None:
        yield from (f"{shortened(n)} is no server of the network{nearest(n, network.server_names)}"
                    for n in servers if n not in network.server_names)  # fmt: skip
        if plan.source != network.source:
            yield f"its source is {shortened(plan.source)}, and that of the network is {network.source!r}"


def _graph_problems(plan: Plan, graph: LayerGraph) -> Iterable[str]:
    for name in graph.layer_names:
        if name not in plan.assignment:
            yield f"layer {name!r} has no server"
    for name in plan.assignment:
        if name not in graph.layer_index:
            yield f"layer {shortened(name)} is not in the model{nearest(name, graph.layer_names)}"
    for name in plan.quantized:
        if name in graph.layer_index and not graph.layer(name).quantizable:
            yield f"layer {name!r} ({graph.layer(name).op_type}) cannot run in int8"
    tensors = {tensor.name for tensor in graph.tensors}
    for name in dict.fromkeys(sent.tensor for sent in plan.transfers if sent.tensor not in tensors):
        yield f"it sends the tensor {shortened(name)}, which is not in the model{nearest(name, tensors)}"


def _amount_problems(plan: Plan) -> Iterable[str]:
    cost = plan.cost
    single = {"latency_s": cost.latency_s, "energy_j": cost.energy_j, "device_energy_j": cost.device_energy_j,
              "solve_s": plan.solve_s, "measurements": plan.measurements}  # fmt: skip
    yield from (f"{name} is {value!r}; it must be a number, 0 or more" for name, value in single.items() if not _is_amount(value))
    unknown = {"gap": plan.gap, "error_s": plan.error_s}  # NaN where nobody knows
    yield from (
        f"{name} is {value!r}; it must be a number, 0 or more"
        for name, value in unknown.items()
        if not value >= 0 and value == value
    )
    for name, known in {"status": STATUSES, "noise_kind": NOISE_KINDS}.items():
        if getattr(plan, name) not in known:
            yield f"{name} is {shortened(getattr(plan, name))}{nearest(getattr(plan, name), known)}"
    if not math.isfinite(plan.noise):
        yield f"noise is {plan.noise!r}; it must be a number"
    if not _is_amount(plan.limits.get("confidence") or 0):
        yield f"the confidence among its limits is {shortened(plan.limits['confidence'])}; it must be a number"
    if not math.isnan(plan.noise_upper) and not plan.limits.get("confidence"):
        yield f"noise_upper is {plan.noise_upper!r}, and its limits tell no confidence"
    tables: Mapping[str, Mapping[str, float]] = {
        "compute_s": cost.compute_s, "server_energy_j": cost.server_energy_j, "weight_bytes": cost.weight_bytes,
    }  # fmt: skip
    for what, amounts in tables.items():
        for name, value in amounts.items():
            if not _is_amount(value):
                yield f"{what} of {shortened(name)} is {value!r}; it must be a number, 0 or more"
    for sent in cost.transfers:
        for what in ("size_bytes", "seconds", "encode_s", "decode_s"):
            if not _is_amount(getattr(sent, what)):
                yield f"{what} of {shortened(sent.tensor)} is {getattr(sent, what)!r}; it must be a number, 0 or more"


def _form_problems(plan: Plan) -> Iterable[str]:
    """Yield what is wrong with the parts that are kept as JSON values until they are used."""
    parts: list[tuple[str, Any, type[Any]]] = [(f"pixels of {shortened(n)}", told, Pixels) for n, told in plan.pixels.items()]
    if plan.reference:
        parts.append(("the reference", plan.reference, Reference))
    for what, value, form in parts:
        try:
            formed(value, form, DnnSplitError, what)
        except DnnSplitError as error:
            yield str(error)


def _empty(name: str) -> str:
    return "" if name else "has no name"


def _is_amount(value: object) -> bool:
    return is_number(value) and 0 <= value < math.inf
