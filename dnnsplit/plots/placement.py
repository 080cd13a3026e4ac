"""The drawing of a placement: a lane per server, and what crosses between them, hop by hop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.units import show
from dnnsplit.plots.captions import described, listed, several, spelled, told
from dnnsplit.plots.style import SERVER_COLOURS, style
from dnnsplit.profiling.wire_forms import INT8, PLAIN
from dnnsplit.solving.plan import Plan

Point = tuple[float, float]
SHOWN = ("tensor", "source", "target", "form", "size_bytes", "seconds", "encode_s", "decode_s")  # of what crosses, in the numbers
CROSSES, STAYS = "#D55E00", "0.6"
COLUMN, LANE, ABOVE, BELOW = 0.27, 0.28, 0.42, 0.36  # inches: between columns, between lanes, half heights of a lane
LETTER, LINE = 0.053, 0.115  # inches of a label
SHARES = (0.5, 0.35, 0.65, 0.2, 0.8)  # of an arrow, where its label may stand


class _Places:
    """Where everything stands, in inches: a column per block of layers, whatever the plan, and a lane per server."""

    def __init__(self, graph: LayerGraph, plan: Plan, lanes: Sequence[str]) -> None:
        self.blocks = _blocks(graph)
        self.column = {name: i for i, name in enumerate(self.blocks)}
        self.block = {layer: name for name, layers in self.blocks.items() for layer in layers}
        self.names = {name: _short(name) for name in self.blocks}
        longest = max((len(name) for name in self.names.values() if len(name) > 2), default=0)
        self.left = max(1.15, 0.072 * max(map(len, lanes)) + 0.2)
        self.below = max(BELOW, 0.19 + 0.045 * longest)
        self.width = max(6.4, self.left + 1.25 + COLUMN * len(self.blocks))
        pitch = ABOVE + self.below + LANE
        self.height = pitch * len(lanes) - LANE
        self.y = {server: self.height - ABOVE - pitch * i for i, server in enumerate(lanes)}
        self.ends = {"input": (self.left + 0.3, self.y[plan.source]), "output": (self.width - 0.3, self.y[plan.source])}
        self.first = self.left + 0.75
        self.between = (self.width - 0.75 - self.first) / max(1, len(self.blocks) - 1)

    def at(self, layer: str, server: str) -> Point:
        """The point of the block of a layer on a server."""
        return self.first + self.between * self.column[self.block[layer]], self.y[server]


def placement(
    graph: LayerGraph, plan: Plan, title: str = "", *, lanes: Sequence[str] = (), about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Draw where the layers run: a lane per server, layers collapsed to the blocks their names show, what crosses and how.

    An orange arrow is a hop of a tensor over a link, which ends in a diamond where a server only passes it on; grey ones stay on
    their server. What crosses in another form than its plain one is named with it; beside a server are the seconds that it
    computes, and those that it writes and reads such forms.

    Parameters
    ----------
    graph, plan : LayerGraph, Plan
        What is drawn.
    title : str, default ""
        Above the drawing.
    lanes : Sequence[str], default ()
        Servers that have a lane, too, whatever the plan sends there: with all those of a network its plans are drawn alike.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure; default: what the graph tells.
    """
    hops = [one for one in plan.transfers if one.source != one.target]
    used = {*plan.servers, plan.source, *lanes, *(end for one in hops for end in (one.source, one.target))}
    order = [server for server in plan.cost.compute_s if server in used]
    colours = {s: SERVER_COLOURS[i % 6] for i, s in enumerate(plan.cost.compute_s)}  # the same in every plan of a network
    place, title = _Places(graph, plan, order), spelled(title)
    with style():
        figure, axis = plt.subplots(figsize=(place.width + 0.1, place.height + (0.72 if title else 0.56)))
        axis.grid(False)
        for server in order:
            _draw_lane(axis, place, plan, server, colours[server])
        taken = list(_draw_blocks(axis, place, plan, colours))
        for name, (x, y) in place.ends.items():
            axis.scatter(x, y, s=70, marker="s", color="0.35", zorder=3)
            axis.text(x, y + 0.11, name, ha="center", va="bottom", fontsize=6.5)
            taken += [(x, y, 0.14, 0.14), (x, y + 0.17, LETTER * len(name), LINE)]
        passed = _draw_tensors(axis, graph, plan, place, taken)
        ringed = several(len(plan.quantized), "layer")
        note = f"latency {show(plan.latency_s, 's')}, noise {plan.noise:.3g}, {ringed} in int8 (black ring)"
        note += ", diamonds pass on" if passed else ""
        note += f", input as {plan.source_form}" if plan.source_form != PLAIN else ""
        axis.set_title(f"{title}\n{note}" if title else note, fontsize=8, fontweight="normal")
        axis.set(xlim=(0, place.width), ylim=(0, place.height))
        axis.axis("off")
    numbers = {
        "title": title, "latency_s": plan.latency_s, "noise": plan.noise, "quantized": list(plan.quantized),
        "assignment": dict(plan.assignment), "source_form": plan.source_form, "codec_s": plan.cost.codec_s, "lanes": order,
        "crossings": [{name: getattr(one, name) for name in SHOWN} for one in hops],
    }  # fmt: skip
    on = {server: list(plan.assignment.values()).count(server) for server in order}
    caption = f"Where the layers of a plan run, a lane per server, and what crosses (times {plan.times_origin}; predicted)."
    sent = ", ".join(f"{show(one.size_bytes, 'B')} from {one.source} to {one.target}" for one in hops[:6])
    sent = f"; {sent}{' and more' if len(hops) > 6 else ''} cross" if hops else "; nothing crosses"
    spread = listed(several(many, "layer") + f" on {server}" for server, many in on.items())
    about, count = about or described(graph), several(len(graph.layers), "layer")
    return told(figure, numbers, caption, f"{spread}{sent}; {note}.", about=about, count=count)


def _draw_lane(axis: Axes, place: _Places, plan: Plan, server: str, colour: str) -> None:
    y, codec_s = place.y[server], plan.cost.codec_s[server]
    low, high = y - place.below, y + ABOVE
    axis.fill_between([place.left, place.width], low, high, color=colour, alpha=0.09, linewidth=0)
    lines = [server, show(plan.cost.compute_s[server], "s"), *([f"codec {show(codec_s, 's')}"] if codec_s else [])]
    axis.text(place.left - 0.1, (low + high) / 2, "\n".join(lines), ha="right", va="center", fontsize=8)


def _draw_blocks(
    axis: Axes, place: _Places, plan: Plan, colours: Mapping[str, str]
) -> Iterator[tuple[float, float, float, float]]:
    """Draw a dot per block and server; yield what it covers: middle, width and height."""
    int8 = set(plan.quantized)
    for name, layers in place.blocks.items():
        text = place.names[name]
        for server in dict.fromkeys(plan.assignment[layer] for layer in layers):
            x, y = place.at(layers[0], server)
            ringed = any(layer in int8 and plan.assignment[layer] == server for layer in layers)
            edge, width = ("black", 1.4) if ringed else (colours[server], 0.5)
            axis.scatter(x, y, s=95, color=colours[server], edgecolors=edge, linewidths=width, zorder=3)
            yield x, y, 0.16, 0.16
            if len(text) <= 2:
                axis.text(x, y, text, ha="center", va="center", fontsize=5.8, color="white", zorder=4)
            else:
                below: dict[str, Any] = {"fontsize": 5.8, "rotation": 90, "color": "0.25", "zorder": 4}
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.75}
                axis.text(x, y - 0.12, text, ha="center", va="top", bbox=box, **below)
                yield x, y - 0.12 - 0.0225 * len(text), 0.1, 0.045 * len(text)


def _blocks(graph: LayerGraph) -> dict[str, list[str]]:
    """Layers by the first part of their name, or in equal chunks, in the order of their mean depth."""
    plain = len({_prefix(n) for n in graph.layer_names}) > 60
    chunk = max(1, len(graph.layers) // 40)
    places: dict[str, list[int]] = {}
    for i, name in enumerate(graph.topological):
        places.setdefault(str(i // chunk) if plain else _prefix(name), []).append(i)
    in_order = sorted(places.items(), key=lambda entry: float(np.mean(entry[1])))
    return {name: [graph.topological[i] for i in place] for name, place in in_order}


def _prefix(name: str) -> str:
    return name.strip("/").split("/")[0]


def _short(name: str) -> str:
    name = re.sub(r"^model\.(?=.)", "", name)
    return name if len(name) <= 10 else f"{name[:4]}…{name[-5:]}"


def _draw_tensors(
    axis: Axes, graph: LayerGraph, plan: Plan, place: _Places, taken: list[tuple[float, float, float, float]]
) -> dict[tuple[Point, str], Point]:
    """Draw what moves; return the points at which a server only passes on, by where their tensors start and server."""
    passed: dict[tuple[Point, str], Point] = {}
    grey: dict[tuple[Point, Point], None] = {}
    orange: dict[tuple[Point, Point], dict[str, float]] = {}
    hops: dict[str, list[Any]] = {}
    for one in plan.transfers:
        hops.setdefault(one.tensor, []).extend([one] if one.source != one.target else [])
    for tensor in graph.tensors:
        home = plan.source if tensor.producer is None else plan.assignment[tensor.producer]
        start = place.ends["input"] if tensor.producer is None else place.at(tensor.producer, home)
        ends: dict[str, list[Point]] = {}
        for layer in tensor.consumers:
            ends.setdefault(plan.assignment[layer], []).append(place.at(layer, plan.assignment[layer]))
        for points in ends.values():
            points.sort()
        if tensor.is_output:
            ends.setdefault(plan.source, []).append(place.ends["output"])
        spot = {home: start} | {server: points[0] for server, points in ends.items() if server != home}
        for one in hops.get(tensor.name, ()):
            for server in (one.source, one.target):
                if server not in spot:
                    spot[server] = passed.setdefault((start, server), _free(place, start, server, passed))
            sizes = orange.setdefault((spot[one.source], spot[one.target]), {})
            form = f"{one.form}, " if one.form not in (PLAIN, INT8) else ""
            sizes[form] = sizes.get(form, 0.0) + one.size_bytes
        grey |= {(spot[server], point): None for server, points in ends.items() for point in points if point != spot[server]}
    for x, y in passed.values():
        axis.scatter(x, y, s=34, marker="D", color=CROSSES, zorder=3)
        taken.append((x, y, 0.12, 0.12))
    for a, b in grey:
        far = abs(b[0] - a[0])
        _arrow(axis, a, b, -min(0.18, 0.6 / far) if far > 1.5 * place.between else 0.0, STAYS)
    for a, b in orange:
        _arrow(axis, a, b, 0.15 if a[0] == b[0] else 0.0, CROSSES)
    for (a, b), sizes in sorted(orange.items()):
        lines = [form + show(size, "B") for form, size in sizes.items()]
        size = LETTER * max(map(len, lines)) + 0.02, LINE * len(lines)
        x, y = _room(a, b, size, taken, place)
        taken.append((x, y, *size))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85}
        axis.text(x, y, "\n".join(lines), fontsize=6.5, color="#A03E00", ha="center", va="center", bbox=box, zorder=5)
    return passed


def _arrow(axis: Axes, a: Point, b: Point, bend: float, colour: str) -> None:
    looks: dict[str, Any] = {"color": colour, "linewidth": 1.2, "zorder": 2} if colour == CROSSES else {"color": colour}
    looks = {"linewidth": 0.6, "zorder": 1} | looks
    style_ = f"arc3,rad={bend}"
    axis.add_patch(
        FancyArrowPatch(a, b, arrowstyle="-|>", mutation_scale=6, shrinkA=5, shrinkB=5, connectionstyle=style_, **looks)
    )


def _free(place: _Places, start: Point, server: str, passed: Mapping[tuple[Point, str], Point]) -> Point:
    """A point in a lane beside the column of a start, where there is no block and nothing else is passed on."""
    x = start[0] + place.between / 2
    while (x, place.y[server]) in passed.values():
        x += place.between
    return x, place.y[server]


def _room(a: Point, b: Point, size: Point, taken: Sequence[tuple[float, float, float, float]], place: _Places) -> Point:
    """Where the label of an arrow covers least of what is there: on it, or a little beside."""
    wide, high = size

    def covered(point: Point) -> float:
        there = 0.0
        for x, y, width, height in taken:
            across = min(point[0] + wide / 2, x + width / 2) - max(point[0] - wide / 2, x - width / 2)
            up = min(point[1] + high / 2, y + height / 2) - max(point[1] - high / 2, y - height / 2)
            there += max(0.0, across) * max(0.0, up)
        return there

    points = [
        (a[0] + share * (b[0] - a[0]) + aside * wide, a[1] + share * (b[1] - a[1]))
        for aside in (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5)
        for share in SHARES
    ]
    least, most = place.left + wide / 2, place.width - wide / 2
    return min(((min(max(x, least), most), y) for x, y in points), key=covered)
