"""Draw the rooms of the package and who imports whom, and write their table: ``python docs/architecture.py``.

Rooms and their layers are those of the import contract in ``pyproject.toml``, arrows are counted in the code, and the table
is made of the rooms' docstrings. ``tests/test_docs.py`` compares what is committed with what this finds.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import grimp
import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
DRAWING, PAGE = ROOT / "docs" / "architecture.svg", ROOT / "docs" / "architecture.md"
TABLE = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- end -->)", re.DOTALL)
STORED = re.compile(r"(?<=<dc:description>).*?(?=</dc:description>)", re.DOTALL)
ROOM = re.compile(r"(.*?)\.?\n\nIn: (.*?)\. Out: (.*?)\.\s+May import (.*)\.$", re.DOTALL)
WIDTH, HEIGHT = 1.5, 0.5
# Where the rooms stand side by side, chosen so that few arrows cross; their heights are their layers.
PLACE = {
    "cli": 4.2, "plots": 2.4, "sweep": 7.1, "agents": 4.9, "studies": 3.6, "deployment": 0.9, "examples": 5.6, "cutting": 1.6,
    "solving": 3.6, "profiling": 1.9, "noise": 5.3, "quantize": 3.6, "graph": 4.6, "network": 0.5, "runtime": 3.2, "codecs": 6.2,
    "ground": 3.8,
}  # fmt: skip


def layers() -> list[list[str]]:
    """Return the rooms of each layer, the highest first, as the contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    return [layer.split(" | ") for layer in next(one for one in contracts if one["type"] == "layers")["layers"]]


def edges() -> dict[tuple[str, str], int]:
    """Return how many imports of modules of one room by modules of another there are, by (importer, imported)."""
    graph, known = grimp.build_graph("dnnsplit"), {room for layer in layers() for room in layer}
    rooms = {module: module.split(".")[1] for module in graph.modules if "." in module}
    pairs = [(rooms[m], rooms[n]) for m in rooms for n in graph.find_modules_directly_imported_by(m) if n in rooms]
    return dict(sorted(Counter((a, b) for a, b in pairs if a != b and {a, b} <= known).items()))


def drawn() -> dict[tuple[str, str], int]:
    """Return the edges that the committed drawing was made of; it holds them as its description."""
    [text] = STORED.findall(DRAWING.read_text(encoding="utf-8"))
    return {(source, target): count for source, target, count in json.loads(text)}


def rooms_table() -> str:
    """Return the table of the rooms, from the ground up."""
    rows = ["| Room | What it is | In | Out | May import |", "| --- | --- | --- | --- | --- |"]
    for room in (room for layer in reversed(layers()) for room in layer):
        source = (ROOT / "dnnsplit" / room / "__init__.py").read_text(encoding="utf-8")
        found = ROOM.match(ast.get_docstring(ast.parse(source)) or "")
        if found is None:
            message = f"the docstring of {room} is not 'What it is. / In: ... Out: ... / May import ...'"
            raise SystemExit(message)
        rows.append(f"| {' | '.join([f'[{room}](../dnnsplit/{room})', *(' '.join(cell.split()) for cell in found.groups())])} |")
    return "\n".join(rows) + "\n"


def draw(counts: dict[tuple[str, str], int]) -> Figure:
    """Draw the rooms, each layer on a line; arrows that follow from others are faint, and left out if they go to the ground."""
    lines = layers()
    at = {room: np.array([PLACE[room], float(len(lines) - 1 - y)]) for y, line in enumerate(lines) for room in line}
    top, ground = lines[0][0], lines[-1][0]
    strong = set(nx.transitive_reduction(nx.DiGraph(counts.keys())).edges)
    figure, axis = plt.subplots(figsize=(8.2, 9.2), layout="constrained")
    for (source, target), count in counts.items():
        main = (source, target) in strong
        if target == ground and not main:
            continue
        lean = np.clip((at[target] - at[source])[0] / 5, -0.55, 0.55)  # arrows leave and arrive on the side of the other room
        start, end = at[source] + [lean, -HEIGHT / 2], at[target] + [-lean, HEIGHT / 2]
        if target == ground:
            start = at[source] - [0, HEIGHT / 2]
            end = np.array([start[0], end[1]])
        bend = _bend(start, end, [place for room, place in at.items() if room not in (source, target)])
        arrow = FancyArrowPatch(
            start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>", mutation_scale=7 + count / 4, shrinkA=0, shrinkB=0,
            linewidth=0.6 + 0.14 * count, color="0.25" if main else "0.82", zorder=1 + main,
        )  # fmt: skip
        axis.add_patch(arrow)
    notes = {ground: "imported by every room", top: "every room, by the public names"}
    for room, (x, y) in at.items():
        width = {ground: 8, top: 2.2}.get(room, WIDTH)
        box = FancyBboxPatch((x - width / 2, y - HEIGHT / 2), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.09",
                             facecolor="#e8eef7", edgecolor="#34557f", linewidth=1, zorder=3)  # fmt: skip
        axis.add_patch(box)
        axis.text(x, y + 0.07 * (room in notes), room, ha="center", va="center", fontsize=10.5, zorder=4)
        axis.text(x, y - 0.14, notes.get(room, ""), ha="center", va="center", fontsize=7, color="0.35", zorder=4)
    axis.set(xlim=(-0.3, 7.9), ylim=(-0.4, len(lines) - 0.6))
    axis.set_axis_off()
    return figure


def _bend(start: np.ndarray, end: np.ndarray, boxes: list[np.ndarray]) -> float:
    """Return the least curvature with which an arrow passes through no box, or through as little of them as can be."""
    t = np.linspace(0, 1, 60)[:, None]

    def hidden(rad: float) -> tuple[int, float]:
        (x, y), (dx, dy) = (start + end) / 2, end - start
        control = np.array([x + rad * dy, y - rad * dx])  # as matplotlib's arc3
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        return sum(int(np.all(abs(points - box) < [WIDTH / 2, HEIGHT / 2], axis=1).sum()) for box in boxes), abs(rad)

    return min((sign * rad / 20 for rad in range(11) for sign in (1, -1)), key=hidden)


def main() -> None:
    """Write the drawing and the table."""
    counts = edges()
    with mpl.rc_context({"svg.hashsalt": "dnnsplit", "svg.fonttype": "none", "font.family": "sans-serif"}):
        about = {"Title": "The rooms of dnnsplit", "Description": json.dumps([[*pair, count] for pair, count in counts.items()])}
        draw(counts).savefig(DRAWING, metadata=about | {"Date": None})
    PAGE.write_text(TABLE.sub(lambda _: rooms_table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
