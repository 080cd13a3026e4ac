"""The drawing of a placement: a lane per server, and what crosses between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.units import show
from dnnsplit.plots.style import SERVER_COLOURS, style
from dnnsplit.profiling.wire_forms import INT8, PLAIN
from dnnsplit.solving.plan import Plan

SHOWN = ("tensor", "source", "target", "form", "size_bytes", "seconds", "encode_s", "decode_s")  # of what crosses, in the numbers


def placement(graph: LayerGraph, plan: Plan, title: str = "") -> tuple[Figure, dict[str, Any]]:
    """Draw where the layers run: a lane per server, layers collapsed to the blocks their names show, what crosses and how.

    What crosses in another form than its plain one is named with it; beside a server are the seconds that it computes, and those
    that it writes and reads such forms.

    Parameters
    ----------
    graph, plan : LayerGraph, Plan
        What is drawn.
    title : str, default ""
        Above the drawing.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> instance = ds.examples.tiny()
    >>> figure, numbers = ds.plots.placement(instance.graph, ds.split(*instance), "device + edge")
    """
    lanes = [s for s in plan.cost.compute_s if s in plan.servers or s == plan.source]
    colours = {s: SERVER_COLOURS[i % 6] for i, s in enumerate(plan.cost.compute_s)}  # the same in every plan of a network
    groups = _groups(graph, plan)
    of = {layer: key for key, layers in groups.items() for layer in layers}
    x = {key: i for i, key in enumerate(groups)}
    y = {server: float(len(lanes) - 1 - i) for i, server in enumerate(lanes)}
    codec_s = plan.cost.codec_s
    ends = {"input": -1.2, "output": len(groups) + 0.2}
    with style():
        figure, axis = plt.subplots(figsize=(max(6.0, 0.27 * len(groups) + 1.6), 0.75 + 0.95 * len(lanes)))
        axis.grid(False)
        for server in lanes:
            axis.axhspan(y[server] - 0.42, y[server] + 0.42, color=colours[server], alpha=0.09, linewidth=0)
            seconds = [
                show(plan.cost.compute_s[server], "s"),
                *([f"codec {show(codec_s[server], 's')}"] if codec_s[server] else []),
            ]
            axis.text(-2.0, y[server], "\n".join([server, *seconds]), ha="right", va="center", fontsize=8)
        crossings = _draw_tensors(axis, graph, plan, of, x, y, ends)
        for i, ((prefix, server), layers) in enumerate(groups.items()):
            edge, width = (colours[server], 0.5) if set(layers).isdisjoint(plan.quantized) else ("black", 1.4)
            axis.scatter(i, y[server], s=95, color=colours[server], edgecolors=edge, linewidths=width, zorder=3)
            name = re.sub(r"^model\.", "", prefix)[-4:]
            axis.text(i, y[server], name, ha="center", va="center", fontsize=5.8, color="white", zorder=4)
        for name, at in ends.items():
            axis.scatter(at, y[plan.source], s=70, marker="s", color="0.35", zorder=3)
            axis.text(at, y[plan.source] + 0.16, name, ha="center", va="bottom", fontsize=6.5)
        note = f"latency {show(plan.latency_s, 's')}, noise {plan.noise:.3g}, {len(plan.quantized)} layers in int8 (black ring)"
        note += f", input as {plan.source_form}" if plan.source_form != PLAIN else ""
        axis.set_title(f"{title}: {note}" if title else note, fontsize=8.5)
        axis.set(xlim=(-2.0, len(groups) + 1.0), ylim=(-0.62, len(lanes) - 0.38))
        axis.axis("off")
    numbers = {
        "title": title, "latency_s": plan.latency_s, "noise": plan.noise, "quantized": list(plan.quantized),
        "assignment": dict(plan.assignment), "source_form": plan.source_form, "codec_s": codec_s, "crossings": crossings,
    }  # fmt: skip
    return figure, numbers


def _groups(graph: LayerGraph, plan: Plan) -> dict[tuple[str, str], list[str]]:
    """Layers by (first part of their name, server), in the order of their mean depth."""
    plain = len({_prefix(n) for n in graph.layer_names}) > 60
    chunk = max(1, len(graph.layers) // 40)
    places: dict[tuple[str, str], list[int]] = {}
    for i, name in enumerate(graph.topological):
        places.setdefault((str(i // chunk) if plain else _prefix(name), plan.assignment[name]), []).append(i)
    in_order = sorted(places.items(), key=lambda entry: float(np.mean(entry[1])))
    return {key: [graph.topological[i] for i in place] for key, place in in_order}


def _prefix(name: str) -> str:
    return name.strip("/").split("/")[0]


def _draw_tensors(
    axis: Axes, graph: LayerGraph, plan: Plan, of: Mapping[str, tuple[str, str]], x: Mapping[tuple[str, str], int],
    y: Mapping[str, float], ends: Mapping[str, float],
) -> list[dict[str, Any]]:  # fmt: skip
    def at(stop: tuple[str, str]) -> tuple[float, float]:
        return ends.get(stop[0], x.get(stop, 0)), y[stop[1]]

    tensors = {tensor.name: tensor for tensor in graph.tensors}
    starts = {name: of[t.producer] if t.producer is not None else ("input", plan.source) for name, t in tensors.items()}
    ways: dict[tuple[tuple[str, str], tuple[str, str]], None] = {}
    for name, tensor in tensors.items():
        stops = [of[c] for c in tensor.consumers] + [("output", plan.source)] * tensor.is_output
        ways |= dict.fromkeys((starts[name], stop) for stop in stops if stop != starts[name])
    for start, stop in ways:
        a, b, crosses = at(start), at(stop), start[1] != stop[1]
        bend = 0.0 if crosses or abs(b[0] - a[0]) <= 1 else -0.18
        axis.add_patch(FancyArrowPatch(
            a, b, arrowstyle="-|>", mutation_scale=6, shrinkA=5, shrinkB=5, zorder=2 if crosses else 1,
            connectionstyle=f"arc3,rad={bend}", color="#D55E00" if crosses else "0.6", linewidth=1.2 if crosses else 0.6,
        ))  # fmt: skip
    labels: dict[tuple[float, float, float, float], dict[str, float]] = {}
    crossings = []
    for transfer in (one for one in plan.transfers if one.source != one.target):
        stops = [of[c] for c in tensors[transfer.tensor].consumers if plan.assignment[c] == transfer.target]
        way = (*at(starts[transfer.tensor]), *at(min(stops, key=x.__getitem__, default=("output", plan.source))))
        form = f"{transfer.form}, " if transfer.form not in (PLAIN, INT8) else ""
        sizes = labels.setdefault(way, {})
        sizes[form] = sizes.get(form, 0.0) + transfer.size_bytes
        crossings.append({k: getattr(transfer, k) for k in SHOWN})
    for i, ((ax, ay, bx, by), sizes) in enumerate(sorted(labels.items())):
        label = "\n".join(form + show(size, "B") for form, size in sizes.items())
        share = 0.5 + 0.16 * ((i % 3) - 1)  # labels of neighbouring arrows do not hide each other
        axis.text(
            ax + share * (bx - ax), ay + share * (by - ay), label, fontsize=6.5, color="#A03E00", ha="center",
            va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}, zorder=5,
        )  # fmt: skip
    return crossings
