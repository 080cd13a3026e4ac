"""The figure of regimes: at which bandwidth and noise limit one server is best, and where a split pays."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dnnsplit.ground.units import show
from dnnsplit.plots.captions import several, spelled, told
from dnnsplit.plots.noise import LIMIT
from dnnsplit.plots.style import COLOURS, SERVER_COLOURS, records, style

Cell = Mapping[Hashable, Any]  # a row of the table
SPLIT_COLOUR = COLOURS[1]
LETTER = 0.062  # width of a letter of a region's name [inch]
CELL = 0.34, 0.36  # least width, and height, of a cell [inch]
ALONE = 0.42  # opacity of what one server does best
ASIDE = 0.22  # by which share of a cell a name and a number make room for each other


def regimes(
    table: pd.DataFrame, servers: Sequence[str] = (), title: str = "", *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Draw what is best at each bandwidth and noise limit, and where a split pays, by how much.

    A cell has the colour of the server that does best alone, or of a split; there a number says by how many percent the split is
    faster than the best server alone in float32. Lines part cells whose input is sent in other forms. Every region of one server
    is named by it, with the form unless the input stays at the source; splits are named by that form alone.

    Parameters
    ----------
    table : pd.DataFrame
        From `dnnsplit.studies.regime.regimes`, or read from its CSV.
    servers : Sequence[str], default ()
        Order of the servers, so that colours are those of the drawings of placements; default: as they appear in the table.
    title : str, default ""
        Above the drawing.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure.
    """
    title = spelled(title)
    speeds, limits = sorted(table["bandwidth_bytes_per_s"].unique()), sorted(table["max_noise"].unique())
    order = list(dict.fromkeys((*servers, *(name for joined in table["servers"] for name in joined.split("+")))))
    colours = {name: SERVER_COLOURS[i % 5] for i, name in enumerate(order)}
    cells: dict[tuple[int, int], Cell] = {
        (limits.index(row["max_noise"]), speeds.index(row["bandwidth_bytes_per_s"])): row for row in table.to_dict("records")
    }
    gains = {at: row["gain"] for at, row in cells.items() if row["best"] not in colours}
    most = np.nanmax([*gains.values(), 1e-9])
    image = np.zeros((len(limits), len(speeds), 4))
    for at, row in cells.items():
        # where no server alone keeps the limits, there is nothing to be faster than
        shade = 0.3 + 0.5 * np.nan_to_num(gains[at], nan=most) / most if at in gains else ALONE
        image[at] = to_rgba(SPLIT_COLOUR if at in gains else colours[row["best"]], shade)
    with style():
        cell = CELL[0] * max(1.0, 14 / len(speeds)), CELL[1]
        figure, axis = plt.subplots(figsize=(cell[0] * len(speeds) + 0.9, cell[1] * len(limits) + 1.3))
        axis.grid(False)
        axis.imshow(image, origin="lower", aspect="auto", interpolation="nearest")
        covered: dict[tuple[int, int], tuple[float, float]] = {}
        for region in _regions(cells):
            best, form = (cells[region[0]][name] for name in ("best", "source_form"))
            if text := ": ".join(filter(None, (best if best in colours else "", form))):
                covered |= _name(axis, text, region, cell, ASIDE if region[0] in gains else 0.0)
        for (y, x), gain in gains.items():
            down, right = covered.get((y, x), (0.0, 0.0))
            text = "" if np.isnan(gain) else f"{100 * gain:.0f}"
            axis.text(x + right, y - down, text, ha="center", va="center", fontsize=6.5)
        _part(axis, cells)
        every = max(1, round(len(speeds) / 8))
        axis.set_xticks(range(0, len(speeds), every), [show(speed, "B/s") for speed in speeds[::every]])
        axis.set_yticks(range(len(limits)), [f"{limit:g}" for limit in limits])
        axis.tick_params(length=0)
        axis.set(title=title, xlabel="bandwidth of the links from the source", ylabel=LIMIT)
        best = {row["best"] for row in cells.values()}
        handles = [Patch(color=to_rgba(colours[name], ALONE), label=f"{name} alone") for name in order if name in best]
        if gains:
            label = "a split; number: faster than the best server alone by [%]"
            handles.append(Patch(color=to_rgba(SPLIT_COLOUR, 0.55), label=label))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    shares = (100 * table["best"].value_counts(normalize=True)).round().astype(int)
    caption = f"What is best{f' on {title}' if title else ''}, as planned: one server alone, or a split, which gains so many %."
    alt = ", ".join(
        f"{'a split' if best == 'split' else f'{best} alone'} is best at {share} % of the points"
        for best, share in shares.items()
    )
    finite = [gain for gain in gains.values() if not np.isnan(gain)]
    alt += f"; a split is {100 * max(finite):.0f} % faster at most" if finite else ""
    numbers = {"title": title, "rows": records(table)}
    return told(figure, numbers, caption, f"{alt[0].upper()}{alt[1:]}.", about=about, count=several(len(table), "point"))


def _same(one: Cell, other: Cell) -> bool:
    return all(one[name] == other[name] for name in ("best", "source_form"))


def _regions(cells: dict[tuple[int, int], Cell]) -> Iterator[list[tuple[int, int]]]:
    """Yield cells that are connected and alike."""
    left = set(cells)
    while left:
        region = [min(left)]
        left.remove(region[0])
        for y, x in region:  # it grows while it is walked through
            near = [at for at in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)) if at in left and _same(cells[at], cells[y, x])]
            left.difference_update(near)
            region.extend(near)
        yield region


def _name(
    axis: Axes, text: str, region: Sequence[tuple[int, int]], cell: tuple[float, float], aside: float
) -> dict[tuple[int, int], tuple[float, float]]:
    """Write the name of a region along its longest run of cells; return how far to move numbers, down and right, by cell."""
    across, up = _longest([(y, x) for y, x in region]), _longest([(x, y) for y, x in region])
    length = LETTER * len(text)
    upright = length > cell[0] * across[2] and cell[1] * up[2] > cell[0] * across[2]
    line, first, count = up if upright else across
    middle = first + (count - 1) / 2
    at = (line - aside, middle) if upright else (middle, line + aside)
    fits = min(1.0, cell[upright] * count / length)
    axis.text(*at, text, ha="center", va="center", rotation=90 if upright else 0, fontsize=7 * fits, fontweight="bold")
    half = 0.5 * length * fits / cell[upright]
    under = [k for k in range(first, first + count) if abs(k - middle) < half + 0.4]
    return {(k, line) if upright else (line, k): (0.0, aside) if upright else (aside, 0.0) for k in under}


def _longest(cells: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Return the longest run of cells on one line, nearest to the middle line: the line, where it starts, and its length."""
    there, middle = set(cells), float(np.mean([line for line, _ in cells]))
    runs = []
    for line, first in (cell for cell in cells if (cell[0], cell[1] - 1) not in there):
        count = next(n for n in range(1, len(cells) + 2) if (line, first + n) not in there)
        runs.append((count, -abs(line - middle), line, first))
    count, _, line, first = max(runs)
    return line, first, count


def _part(axis: Axes, cells: dict[tuple[int, int], Cell]) -> None:
    """Draw lines between cells that are not alike."""
    for (y, x), row in cells.items():
        for ends, other in ((([x + 0.5] * 2, [y - 0.5, y + 0.5]), (y, x + 1)), (([x - 0.5, x + 0.5], [y + 0.5] * 2), (y + 1, x))):
            if other in cells and not _same(row, cells[other]):
                axis.plot(*ends, color="white", linewidth=1.3, solid_capstyle="butt")
