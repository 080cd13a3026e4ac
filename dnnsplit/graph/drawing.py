"""The layers of a graph from top to bottom as inline SVG, as one looks at a network: operators, and the tensors between them."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import networkx as nx

from dnnsplit.ground.units import show

if TYPE_CHECKING:
    from dnnsplit.graph.layers import Layer, LayerGraph, Tensor

MOST_LAYERS = 400  # more make no picture that anyone reads, and a page that no browser likes
MOST_POINTS = 8000  # where lines that skip layers pass them
WIDTH, HEIGHT, GAP, ROW = 190, 36, 24, 92  # of a box, between boxes, and from one row to the next
LANE = 14  # of a line that passes
SWEEPS = 8
COLOURS = {
    "Conv": "#cfe3f5", "ConvTranspose": "#cfe3f5", "Gemm": "#cfe3f5", "MatMul": "#cfe3f5", "MaxPool": "#d9ead3",
    "AveragePool": "#d9ead3", "GlobalAveragePool": "#d9ead3", "Concat": "#fde8c8", "Split": "#fde8c8", "Slice": "#fde8c8",
    "Reshape": "#fde8c8", "Transpose": "#fde8c8", "Resize": "#fde8c8", "Softmax": "#f5d5d5",
}  # fmt: skip
Node = str | tuple[str, str]  # a layer's name; or "input" or "output" and the name of its tensor
Place = tuple[str, str, int]  # "layer", "input" or "output" and its name; or "line", its tensor, and the row that it passes


def drawn(graph: LayerGraph) -> str:
    """Return HTML of a drawing that scrolls and folds: the longest way to a layer is its row.

    Of a graph with more than 400 layers, or one whose lines pass too many rows, the first layers are drawn, and a sentence
    says so.

    Parameters
    ----------
    graph : LayerGraph
        What is drawn.
    """
    count = min(len(graph.layers), MOST_LAYERS)
    while True:
        kept = set(graph.topological[:count])
        rows, lines = _rows(graph, kept)
        if sum(map(len, rows)) <= MOST_POINTS or count == 1:
            break
        count //= 2
    across, width = _across(rows, lines)
    svg = _svg(graph, kept, rows, lines, across, width)
    left_out = len(graph.layers) - len(kept)
    note = f": the first {len(kept)} of {len(graph.layers)} layers; the tables .frame and .tensors_frame have all"
    return (
        f"<details open><summary>drawing{note if left_out else ''}</summary>"
        f'<div style="max-height:560px;overflow:auto;resize:vertical;border:1px solid #ccc;background:#fff">{svg}</div></details>'
    )


def _rows(graph: LayerGraph, kept: set[str]) -> tuple[list[list[Place]], list[tuple[Place, Place, str]]]:
    """Return what stands in each row, and the lines from a row to the next one with the tensor that each is of."""
    below: nx.DiGraph[Node] = nx.DiGraph()
    below.add_nodes_from(kept)
    below.add_edges_from(graph.digraph.subgraph(kept).edges)
    for tensor in graph.tensors:
        if tensor.producer is None:
            for name in (name for name in tensor.consumers if name in kept):
                below.add_edge(("input", tensor.name), name)
        if tensor.is_output and tensor.producer in kept:
            below.add_edge(tensor.producer, ("output", tensor.name))
    level: dict[Node, int] = {node: i for i, nodes in enumerate(nx.topological_generations(below)) for node in nodes}
    for source in [node for node in below if isinstance(node, tuple) and node[0] == "input"]:
        level[source] = min(level[other] for other in below.successors(source)) - 1  # right above who reads it first
    rows: list[list[Place]] = [[] for _ in range(max(level.values()) + 1)]
    place = {node: _place(node, level[node]) for node in level}
    for node in sorted(level, key=lambda node: (_order(graph, node), str(node))):  # the same in every process
        rows[level[node]].append(place[node])
    lines: list[tuple[Place, Place, str]] = []
    for tensor in graph.tensors:
        start: Node = tensor.producer if tensor.producer is not None else ("input", tensor.name)
        ends: list[Node] = [end for end in (*tensor.consumers, ("output", tensor.name)) if end in level]
        if start not in level or not ends:
            continue
        # one line for all who read a tensor, which passes the rows down to the last of them
        last = max(level[end] for end in ends)
        way = [place[start], *(("line", tensor.name, row) for row in range(level[start] + 1, last))]
        for point in way[1:]:
            rows[point[2]].append(point)
        lines += [(a, b, tensor.name) for a, b in pairwise(way)]
        lines += [(way[level[end] - 1 - level[start]], place[end], tensor.name) for end in ends]
    return rows, lines


def _place(node: Node, row: int) -> Place:
    return (*node, row) if isinstance(node, tuple) else ("layer", node, row)


def _order(graph: LayerGraph, node: Node) -> int:
    return graph.topological_index[node] if isinstance(node, str) else -1


def _across(rows: list[list[Place]], lines: list[tuple[Place, Place, str]]) -> tuple[dict[Place, float], float]:
    """Return where the middle of each place is: near those it is joined with, in sweeps down and up (Sugiyama et al., 1981)."""
    above, under = defaultdict(list), defaultdict(list)
    for start, end, _ in lines:
        above[end].append(start)
        under[start].append(end)
    across: dict[Place, float] = {}
    for row in rows:
        across |= _apart(row, {place: i * (WIDTH + GAP) for i, place in enumerate(row)})
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        joined = above if down else under
        for row in rows if down else reversed(rows):
            wanted = {
                place: sum(across[one] for one in joined[place]) / len(joined[place]) if joined[place] else across[place]
                for place in row
            }
            across |= _apart(row, wanted)
    left = min(middle - _wide(place) / 2 for place, middle in across.items()) - GAP
    right = max(middle + _wide(place) / 2 for place, middle in across.items()) + GAP
    return {place: middle - left for place, middle in across.items()}, right - left


def _apart(row: list[Place], wanted: dict[Place, float]) -> dict[Place, float]:
    """Return middles in the wanted order and near what is wanted, none nearer to each other than they are wide."""
    order = sorted(row, key=lambda place: wanted[place])
    found: list[float] = []
    for i, place in enumerate(order):
        least = found[-1] + (_wide(order[i - 1]) + _wide(place)) / 2 + GAP / 2 if i else wanted[place]
        found.append(max(wanted[place], least))
    shift = sum(wanted[place] - at for place, at in zip(order, found, strict=True)) / len(order) if order else 0.0
    return {place: at + shift for place, at in zip(order, found, strict=True)}


def _wide(place: Place) -> int:
    return LANE if place[0] == "line" else WIDTH


def _svg(
    graph: LayerGraph, kept: set[str], rows: list[list[Place]], lines: list[tuple[Place, Place, str]], across: dict[Place, float],
    width: float,
) -> str:  # fmt: skip
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    height = len(rows) * ROW
    parts = [
        f'<svg width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}" role="img" font-family="sans-serif" '
        f'font-size="11" text-anchor="middle" style="display:block;margin:auto">'
        f'<title>{len(kept)} layers from top to bottom</title><g fill="none" stroke="#999">'
    ]
    for start, end, name in lines:
        a, b = across[start], across[end]
        top = start[2] * ROW + (ROW if start[0] == "line" else (ROW + HEIGHT) / 2)
        foot = end[2] * ROW + (0 if end[0] == "line" else (ROW - HEIGHT) / 2)
        top -= ROW / 2 if start[0] == "line" else 0
        foot += ROW / 2 if end[0] == "line" else 0
        bend = (top + foot) / 2
        parts.append(
            f'<path d="M{a:.0f} {top:.0f}C{a:.0f} {bend:.0f} {b:.0f} {bend:.0f} {b:.0f} {foot:.0f}">'
            f"<title>{html.escape(_tensor_text(tensors[name]))}</title></path>"
        )
    parts.append('</g><g fill="#444" font-size="10" stroke="#fff" stroke-width="3" paint-order="stroke">')
    made: dict[Place, dict[str, Tensor]] = defaultdict(dict)
    for start, _, name in lines:
        if start[0] != "line":
            made[start][name] = tensors[name]
    for start, some in made.items():
        told = _size(*some.values()) if len(some) == 1 else f"{len(some)} tensors, {_bytes(some.values())}"
        below = start[2] * ROW + (ROW + HEIGHT) / 2 + 13
        parts.append(f'<text x="{across[start]:.0f}" y="{below:.0f}">{html.escape(told)}</text>')
    parts.append('</g><g stroke="#777">')
    for place in (place for row in rows for place in row if place[0] != "line"):
        parts.append(_box(place, across[place], graph.layer(place[1]) if place[0] == "layer" else None, tensors.get(place[1])))
    return "".join(parts) + "</g></svg>"


def _box(place: Place, middle: float, layer: Layer | None, tensor: Tensor | None) -> str:
    left, top = middle - WIDTH / 2, place[2] * ROW + (ROW - HEIGHT) / 2
    if layer is not None:
        head, colour, corner = layer.op_type or "layer", COLOURS.get(layer.op_type, "#eeeeee"), 4
        work = f"{show(layer.flops, 'FLOP')}, {show(layer.weight_bytes, 'B')} of weights"
        told = f"{layer.name}: {work}" + "".join(f"\n{node}" for node in layer.nodes)
    else:
        head, colour, corner = place[0], "#ffffff", HEIGHT // 2
        told = _tensor_text(tensor) if tensor else place[1]
    name = place[1] if len(place[1]) <= 30 else f"…{place[1][-29:]}"
    return (
        f"<g><title>{html.escape(told)}</title>"
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="{corner}" fill="{colour}"/>'
        f'<text x="{middle:.0f}" y="{top + 15:.0f}" stroke="none" font-weight="bold">{html.escape(head)}</text>'
        f'<text x="{middle:.0f}" y="{top + 29:.0f}" stroke="none" font-size="10">{html.escape(name)}</text></g>'
    )


def _size(tensor: Tensor) -> str:
    shape = " x ".join(map(str, tensor.shape))
    return ", ".join(filter(None, [shape, show(tensor.size_bytes, "B")]))


def _bytes(tensors: Iterable[Tensor]) -> str:
    return show(sum(tensor.size_bytes for tensor in tensors), "B")


def _tensor_text(tensor: Tensor) -> str:
    return f"{tensor.name}: {tensor.dtype} {_size(tensor)}".replace(":  ", ": ")
