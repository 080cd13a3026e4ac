"""The execution graph of a plan, and its timeline: what runs side by side, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.partitions import components
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.plots.captions import described, listed, several, spelled, told
from dnnsplit.plots.style import SERVER_COLOURS, records, style
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import INT8, PLAIN
from dnnsplit.solving.cost import Transfer
from dnnsplit.solving.plan import Plan
from dnnsplit.studies.makespan import schedule, side_by_side

INPUT, OUTPUT = "input", "output"
BOX_INCH, GAP_INCH, LABEL_INCH = 0.56, 0.74, 0.33  # height of a box, width between columns, height of a label
CROSSES = "#A03E00"


@dataclass
class _Arrow:
    """The tensors that one component, or the input, hands to another one, or to the output."""

    source: str
    target: str
    tensors: list[str] = field(default_factory=list)
    size_bytes: float = 0.0
    seconds: float = 0.0
    forms: set[str] = field(default_factory=set)
    crosses: bool = False

    @property
    def label(self) -> str:
        count = [f"{len(self.tensors)} tensors"] if len(self.tensors) > 1 else []
        return "\n".join([*count, *sorted(self.forms), show(self.size_bytes, "B"), show(self.seconds, "s")])


def execution(
    graph: LayerGraph, network: Network, times: LayerTimes, plan: Plan, title: str = "", *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Draw the components of a plan as a graph, a lane per server, and below it when each of them runs.

    A component is what a server runs without waiting for another one (`dnnsplit.graph.partitions.components`); it is named by its
    server and told with its layers, those of them in int8, and its seconds. Arrows tell what crosses: tensors, bytes, and the
    seconds that it takes with its writing and reading; grey ones stay on their server. A tensor that two components of a server
    read is sent once, and told at both. The timeline has all stretches of work one after the other, which is the latency of the
    slides, and below that as servers and links do them side by side, up to the makespan.

    Parameters
    ----------
    graph, network, times, plan : LayerGraph, Network, LayerTimes, Plan
        What is drawn, on the network and with the times that the plan was made for.
    title : str, default ""
        Above the drawing.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure; default: what these tell.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.tiny()
    >>> plan = ds.split(graph, network, times, noise, pins={"conv1": "device", "conv2": "edge"})
    >>> figure, numbers = ds.plots.execution(graph, network, times, plan)
    """
    title = spelled(title)
    work = schedule(graph, network, times, plan.assignment, plan.quantized, plan.routes, plan.forms)
    parts = _parts(graph, plan, work)
    arrows = _arrows(graph, plan, parts)
    total, end = plan.latency_s, float(max(work["end_s"], default=0.0))
    pairs = [[parts["name"][i] for i in pair] for pair in side_by_side(graph, plan.assignment)]
    lanes = [s for s in plan.cost.compute_s if s in plan.servers or s == network.source]
    colours = {s: SERVER_COLOURS[i % 6] for i, s in enumerate(plan.cost.compute_s)}  # the same in every plan of a network
    gain = f", {100 * (1 - end / total):.1f} % less" if end < (1 - 1e-3) * total else ": nothing runs side by side"
    note = f"sum {show(total, 's')}, makespan {show(end, 's')}{gain}"
    place = _Places(parts, arrows, lanes, network.source)
    with style():
        rows = _rows(work, lanes)
        below = 0.27 * (len(rows) + 1) + 0.75
        size = (max(6.0, place.width + 1.1), place.height + below + 0.3)
        figure, (above, under) = plt.subplots(2, 1, figsize=size, height_ratios=[place.height, below])
        _draw_graph(above, parts, arrows, place, colours)
        above.set_title(f"{title}: {note}" if title else note)
        _draw_times(under, work, rows, parts, colours, total, end, size[0] - 1.5)
    drawn = [{k: v for k, v in vars(arrow).items() if k != "forms"} | {"forms": sorted(arrow.forms)} for arrow in arrows]
    numbers = {"title": title, "sum_s": total, "makespan_s": end, "components": records(parts), "arrows": drawn}
    numbers |= {"side_by_side": pairs, "schedule": records(work)}
    caption = "The components of a plan, a lane per server, with what crosses; below, when each runs, as predicted."
    each = (f"{one} with {several(layers, 'layer')}" for one, layers in zip(parts["name"], parts["layers"], strict=True))
    beside = f" Side by side run {listed(' and '.join(pair) for pair in pairs)}." if pairs else ""
    alt = f"Components: {listed(each)}.{beside} All in turn take {show(total, 's')}, the makespan is {show(end, 's')}."
    about, crossing = about or described(graph, times, network), sum(arrow.crosses for arrow in arrows)
    return told(figure, numbers, caption, alt, about=about, count=f"one plan, {several(crossing, 'arrow')} across links")


def _parts(graph: LayerGraph, plan: Plan, work: pd.DataFrame) -> pd.DataFrame:
    """One row per component: name, server, layers, int8 (counts), seconds [s]."""
    seconds = (work["end_s"] - work["start_s"]).groupby(work["component"]).sum()
    int8, rows, seen = set(plan.quantized), list[dict[str, Any]](), dict[str, int]()
    for i, names in enumerate(components(graph, plan.assignment)):
        server = plan.assignment[names[0]]
        number = seen[server] = seen.get(server, -1) + 1
        counts = {"layers": len(names), "int8": len(int8.intersection(names))}
        rows.append({"name": f"{server} {number}", "server": server, **counts, "seconds": float(seconds[i]), "of": names})
    return pd.DataFrame(rows, columns=["name", "server", "layers", "int8", "seconds", "of"])


def _arrows(graph: LayerGraph, plan: Plan, parts: pd.DataFrame) -> list[_Arrow]:
    of = {layer: name for name, layers in zip(parts["name"], parts["of"], strict=True) for layer in layers}
    came: dict[tuple[str, str], Transfer] = {(t.tensor, t.target): t for t in plan.transfers}
    found: dict[tuple[str, str], _Arrow] = {}
    for tensor in graph.tensors:
        made = (INPUT, plan.source) if tensor.producer is None else (of[tensor.producer], plan.assignment[tensor.producer])
        ends = {of[name]: plan.assignment[name] for name in tensor.consumers}
        for name, server in (ends | ({OUTPUT: plan.source} if tensor.is_output else {})).items():
            hops, at = list[Transfer](), server
            while at != made[1] or (not hops and (tensor.name, at) in came and came[tensor.name, at].source == at):
                hop = came[tensor.name, at]
                hops.append(hop)
                at = hop.source
            if name == made[0] and not hops:
                continue
            arrow = found.setdefault((made[0], name), _Arrow(made[0], name))
            arrow.tensors.append(tensor.name)
            arrow.crosses |= server != made[1]
            arrow.seconds += sum(hop.whole_s for hop in hops)
            arrow.size_bytes += hops[0].size_bytes if hops else 0.0
            arrow.forms |= {hop.form for hop in hops} - {PLAIN, INT8}
    return list(found.values())


class _Places:
    """Where components stand, in inches: columns by what they wait for, a lane per server, from the top."""

    def __init__(self, parts: pd.DataFrame, arrows: Sequence[_Arrow], lanes: Sequence[str], source: str) -> None:
        order: nx.DiGraph[str] = nx.DiGraph()
        order.add_nodes_from(parts["name"])
        order.add_edges_from((a.source, a.target) for a in arrows if a.source != a.target)
        order.add_edges_from((INPUT, name) for name in parts["name"])
        order.add_edges_from((name, OUTPUT) for name in parts["name"])
        self.column = {name: i for i, names in enumerate(nx.topological_generations(order)) for name in names}
        self.server = dict(zip(parts["name"], parts["server"], strict=True)) | {INPUT: source, OUTPUT: source}
        self.box = max(0.78, 0.068 * max(map(len, self.server)))
        self.pitch = self.box + GAP_INCH
        self.lanes, self.arrows = list(lanes), list(arrows)
        stacks: dict[tuple[str, int], list[str]] = {}
        for name in self.server:
            stacks.setdefault((self.server[name], self.column[name]), []).append(name)
        self.long = [i for i, a in enumerate(arrows) if self.column[a.target] - self.column[a.source] > 1]
        gaps = [self.column[a.source] for a in arrows if a.crosses]
        room = LABEL_INCH * max(map(gaps.count, gaps), default=0) / len(lanes)
        most = {lane: max((len(s) for (server, _), s in stacks.items() if server == lane), default=1) for lane in lanes}
        tracks = {lane: sum(self._lane_of(i) == lane for i in self.long) for lane in lanes}
        self.top, self.y, self.track, at = dict[str, float](), dict[str, float](), dict[int, float](), 0.0
        for lane in lanes:
            self.top[lane] = at
            high = max(room, most[lane] * (BOX_INCH + 0.14) + 0.1)
            for (server, _), names in stacks.items():
                for n, name in enumerate(names if server == lane else ()):
                    self.y[name] = at + high * (n + 0.5) / len(names)
            at += high
            for n, i in enumerate(i for i in self.long if self._lane_of(i) == lane):
                self.track[i] = at + 0.1 + 0.13 * n
            at += 0.13 * tracks[lane] + (0.12 if tracks[lane] else 0.06)
        self.height, self.width = at, self.pitch * (self.column[OUTPUT] + 1) - GAP_INCH

    def _lane_of(self, arrow: int) -> str:
        """The lane below which a long arrow passes the columns between."""
        lanes = [self.lanes.index(self.server[end]) for end in (self.arrows[arrow].source, self.arrows[arrow].target)]
        return self.lanes[min(lanes)]

    def x(self, name: str) -> float:
        """Left edge of a box."""
        return self.pitch * self.column[name]

    def labels(self) -> dict[int, float]:
        """Heights of the labels of what crosses, right after the column of its source, none over another."""
        found: dict[int, float] = {}
        for gap in {self.column[a.source] for a in self.arrows}:
            there = [i for i, a in enumerate(self.arrows) if a.crosses and self.column[a.source] == gap]
            wish = {i: (self.y[self.arrows[i].source] + self.track.get(i, self.y[self.arrows[i].target])) / 2 for i in there}
            inches = {i: 0.11 * (1 + self.arrows[i].label.count("\n")) + 0.03 for i in there}
            at = 0.0
            for i in sorted(there, key=lambda i: (wish[i], self.arrows[i].target)):
                found[i] = max(wish[i], at + inches[i] / 2)
                at = found[i] + inches[i] / 2
            over = at - self.height
            for i in sorted(there, key=lambda i: -found[i]) if over > 0 else ():  # pushed up again from below
                found[i] = min(found[i], at - over - inches[i] / 2)
                over, at = 0.0, found[i] - inches[i] / 2
        return found


def _draw_graph(axis: Axes, parts: pd.DataFrame, arrows: Sequence[_Arrow], place: _Places, colours: Mapping[str, str]) -> None:
    axis.grid(False)
    bottoms = [*list(place.top.values())[1:], place.height]
    for (lane, top), bottom in zip(place.top.items(), bottoms, strict=True):
        axis.axhspan(top + 0.02, bottom - 0.02, color=colours[lane], alpha=0.09, linewidth=0)
        axis.text(-0.12, (top + bottom) / 2, lane, ha="right", va="center", fontweight="bold")
    labels = place.labels()
    for i, arrow in enumerate(arrows):
        start, stop = place.x(arrow.source) + place.box, place.x(arrow.target)
        points = [(start, place.y[arrow.source])]
        if arrow.crosses:
            points.append((start + 0.47 * GAP_INCH, labels[i]))
        if i in place.track:
            ends = [start + 0.95 * GAP_INCH, stop - 0.9 * GAP_INCH]
            points += [(x, place.track[i]) for x in (ends if ends[1] > ends[0] else ends[:1])]
        points.append((stop, place.y[arrow.target]))
        colour, width = (CROSSES, 1.1) if arrow.crosses else ("0.55", 0.9)
        axis.add_patch(FancyArrowPatch(path=_smooth(points), arrowstyle="-|>", mutation_scale=8, color=colour, linewidth=width,
                                       fill=False, zorder=2))  # fmt: skip
        if arrow.crosses:
            axis.text(points[1][0], labels[i], arrow.label, fontsize=6.3, color=CROSSES, ha="center", va="center", zorder=5,
                      linespacing=1.05, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.9})  # fmt: skip
    for row in parts.to_dict("records"):
        lines = [f"{row['layers']} layer{'s' * (row['layers'] != 1)}", *([f"{row['int8']} in int8"] if row["int8"] else [])]
        lines.append(show(row["seconds"], "s"))
        _draw_box(axis, place, row["name"], colours[row["server"]], lines)
    for name in (INPUT, OUTPUT):
        _draw_box(axis, place, name, "0.35", [])
    axis.set(xlim=(-0.1, place.width + 0.1), ylim=(place.height, 0))
    axis.axis("off")


def _draw_box(axis: Axes, place: _Places, name: str, colour: str, lines: Sequence[str]) -> None:
    x, y, high = place.x(name), place.y[name], BOX_INCH if lines else 0.24
    axis.add_patch(FancyBboxPatch((x + 0.03, y - high / 2), place.box - 0.06, high, boxstyle="round,pad=0.03,rounding_size=0.05",
                                  facecolor="white", edgecolor=colour, linewidth=1.6, zorder=3))  # fmt: skip
    text = "\n".join([f"$\\bf{{{_bold(name)}}}$", *lines])
    axis.text(x + place.box / 2, y, text, ha="center", va="center", fontsize=6.8, linespacing=1.12, zorder=4)


def _bold(name: str) -> str:
    """A name as mathematical text, whose blanks and signs stay as they are."""
    return "".join(rf"\{c}" if c in "_%$#&{} " else r"\backslash" if c == "\\" else f"{{{c}}}" if c == "-" else c for c in name)


def _smooth(points: Sequence[tuple[float, float]]) -> Path:
    """A line through points that leaves and reaches each of them level."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for (ax, ay), (bx, by) in pairwise(points):
        vertices += [((ax + bx) / 2, ay), ((ax + bx) / 2, by), (bx, by)]
        codes += [Path.CURVE4] * 3
    return Path(vertices, codes)


def _rows(work: pd.DataFrame, lanes: Sequence[str]) -> dict[tuple[str, str], str]:
    """The rows of the timeline: servers, and links that take time, by (source, target)."""
    moved = work[(work["kind"] == "transfer") & (work["end_s"] > work["start_s"])]
    links = dict.fromkeys(zip(moved["source"], moved["target"], strict=True))
    return {(s, ""): s for s in lanes} | {(a, b): f"{a} → {b}" if a != b else f"within {a}" for a, b in links}


def _draw_times(
    axis: Axes, work: pd.DataFrame, rows: Mapping[tuple[str, str], str], parts: pd.DataFrame, colours: Mapping[str, str],
    total: float, end: float, inches: float,
) -> None:  # fmt: skip
    heights = {key: i + 1.35 for i, key in enumerate(rows)}
    last = max(total, end) or 1.0
    at = 0.0
    for row in work[work["end_s"] > work["start_s"]].to_dict("records"):
        seconds, moves = row["end_s"] - row["start_s"], row["kind"] == "transfer"
        text = parts["name"][row["component"]] if row["component"] >= 0 else row["tensor"] if moves else row["kind"]
        colour, width = "0.9" if moves else colours[row["source"]], seconds / last * inches
        coded = row["kind"] in ("write", "read")
        edge = "0.45" if moves else "white" if coded or width > 0.05 else colour
        looks: dict[str, Any] = {"facecolor": colour, "edgecolor": edge, "linewidth": 0.4}
        looks |= {"hatch": "////"} if coded else {}
        key = (row["source"], row["target"] if moves else "")
        for left, height in ((row["start_s"], heights[key]), (at, 0.0)):
            axis.barh(height, seconds, left=left, height=0.74, **looks)
            fits = width > 0.06 * len(text) + 0.06
            axis.text(left + seconds / 2, height, text if fits else "", ha="center", va="center", fontsize=6.3, clip_on=True,
                      color="black" if sum(to_rgb(colour)) > 1.5 else "white")  # fmt: skip
        at += seconds
    for x, dashes in ((end, "-"), (total, "--")):
        axis.axvline(x, color="black", linewidth=0.9, linestyle=dashes, zorder=4)
    axis.axhline(0.68, color="0.6", linewidth=0.6)
    axis.set_yticks([0.0, *heights.values()], ["one after the other", *rows.values()])
    told = f"time [s]: makespan {show(end, 's')} (line), sum {show(total, 's')} (dashed)"
    axis.set(xlim=(0, 1.02 * last), ylim=(len(rows) + 0.9, -0.6), xlabel=told)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
