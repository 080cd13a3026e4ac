"""Draw the rooms of the package and who imports whom, and write their table: ``python docs/architecture.py``.

Rooms and their layers are those of the import contract in ``pyproject.toml``, arrows are counted in the code, and the table
is made of the rooms' docstrings. `edges` and `rooms_table` are what ``tests/test_docs.py`` compares with what is committed.
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
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
DRAWING, PAGE = ROOT / "docs" / "architecture.svg", ROOT / "docs" / "architecture.md"
TABLE = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- end -->)", re.DOTALL)
WIDTH, HEIGHT, STEP = 1.5, 0.5, 1.0
# Where the rooms stand side by side: the way of the data in the middle, what it stands on at its sides.
PLACE = {"cli": 4.2, "plots": 2.4, "sweep": 7.1, "studies": 3.6, "deployment": 0.9, "examples": 5.6, "cutting": 1.6, "solving": 3.6,
         "profiling": 1.9, "noise": 5.3, "quantize": 3.6, "graph": 4.6, "network": 0.5, "runtime": 3.2, "ground": 3.8}  # fmt: skip


def layers() -> list[list[str]]:
    """Return the rooms of each layer, the highest first, as the contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    return [layer.split(" | ") for layer in next(one for one in contracts if one["type"] == "layers")["layers"]]


def edges() -> dict[str, int]:
    """Return how many modules of one room import how many of another, as ``from -> to``: imports of modules by modules."""
    graph = grimp.build_graph("dnnsplit")
    rooms = [(source.split(".")[1], target.split(".")[1]) for source in graph.modules if source.count(".")
             for target in graph.find_modules_directly_imported_by(source) if target.count(".")]  # fmt: skip
    known = {room for layer in layers() for room in layer}
    counts = Counter(pair for pair in rooms if pair[0] != pair[1] and known.issuperset(pair))
    return {f"{source} -> {target}": count for (source, target), count in sorted(counts.items())}


def drawn() -> dict[str, int]:
    """Return the edges that the committed drawing was made of; it holds them as its description."""
    text = re.search(r"<dc:description>(.*?)</dc:description>", DRAWING.read_text(encoding="utf-8"), re.DOTALL)[1]
    return json.loads(text.replace("&gt;", ">"))


def rooms_table() -> str:
    """Return the table of the rooms, in the order of the layers from the ground up."""
    rows = ["| Room | What it is | In | Out | May import |", "| --- | --- | --- | --- | --- |"]
    for room in (room for layer in reversed(layers()) for room in layer):
        text = ast.get_docstring(ast.parse((ROOT / "dnnsplit" / room / "__init__.py").read_text(encoding="utf-8")))
        what, given, made, imports = re.match(r"(.*?)\n\nIn: (.*?)\. Out: (.*?)\.\s+May import (.*)\.$", text, re.DOTALL).groups()
        cells = [" ".join(cell.split()) for cell in (f"[{room}](../dnnsplit/{room})", what.rstrip("."), given, made, imports)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def draw() -> plt.Figure:
    """Draw the rooms, each layer on a line; arrows that follow from others are faint, those to the ground are left to the eye."""
    lines = layers()
    at = {room: np.array([PLACE[room], STEP * (len(lines) - 1 - y)]) for y, line in enumerate(lines) for room in line}
    counts = {tuple(pair.split(" -> ")): count for pair, count in edges().items()}
    strong = nx.transitive_reduction(nx.DiGraph(list(counts))).edges
    ground = lines[-1][0]
    figure, axis = plt.subplots(figsize=(8.2, 9.2), layout="constrained")
    for (source, target), count in sorted(counts.items(), key=lambda item: item[0] in strong):
        if target == ground and (source, target) not in strong:
            continue
        main = (source, target) in strong
        lean = np.clip(0.2 * (at[target] - at[source])[0], -0.55, 0.55) if target != ground else 0
        start, end = at[source] + [lean, -HEIGHT / 2], at[target] + [-lean, HEIGHT / 2]
        if target == ground:
            end[0] = start[0]
        arrow = FancyArrowPatch(
            start, end, connectionstyle=f"arc3,rad={_bend(start, end, [p for room, p in at.items() if room not in (source, target)])}",
            arrowstyle="-|>", mutation_scale=7 + count / 4, linewidth=0.6 + 0.14 * count, color="0.25" if main else "0.82",
            shrinkA=0, shrinkB=0, zorder=2 if main else 1,
        )  # fmt: skip
        axis.add_patch(arrow)
    for room, (x, y) in at.items():
        width = {ground: 8, lines[0][0]: 2.2}.get(room, WIDTH)
        box = FancyBboxPatch((x - width / 2, y - HEIGHT / 2), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.09",
                             facecolor="#e8eef7", edgecolor="#34557f", linewidth=1, zorder=3)  # fmt: skip
        axis.add_patch(box)
        notes = {ground: "imported by every room", "cli": "every room, by the public names"}
        axis.text(x, y + 0.07 * (room in notes), room, ha="center", va="center", fontsize=10.5, zorder=4)
        axis.text(x, y - 0.14, notes.get(room, ""), ha="center", va="center", fontsize=7, color="0.35", zorder=4)
    axis.set(xlim=(-0.3, 7.9), ylim=(-0.4, STEP * (len(lines) - 1) + 0.4))
    axis.set_axis_off()
    return figure


def _bend(start: np.ndarray, end: np.ndarray, boxes: list[np.ndarray]) -> float:
    """Return the least curvature with which an arrow passes through no box, or through as little of them as can be."""
    t = np.linspace(0, 1, 60)[:, None]

    def hidden(rad: float) -> tuple[int, float]:
        (x, y), (dx, dy) = (start + end) / 2, end - start
        control = np.array([x + rad * dy, y - rad * dx])  # as matplotlib's arc3
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        inside = [np.all(abs(points - box) < [WIDTH / 2 + 0.06, HEIGHT / 2 + 0.04], axis=1) for box in boxes]
        return int(np.sum(inside)), abs(rad)

    return min((sign * rad / 20 for rad in range(11) for sign in (1, -1)), key=hidden)


def main() -> None:
    """Write the drawing and the table."""
    with mpl.rc_context({"svg.hashsalt": "dnnsplit", "svg.fonttype": "none", "font.family": "sans-serif"}):
        draw().savefig(DRAWING, metadata={"Description": json.dumps(edges()), "Date": None})
    PAGE.write_text(TABLE.sub(lambda _: rooms_table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
