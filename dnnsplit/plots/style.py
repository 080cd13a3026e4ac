"""The one style of all figures, and `save`, which writes a figure with the numbers it draws."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Hashable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.ground.files import replacing, write_json

# Okabe and Ito's colours, told apart by colour-blind readers too; named here, because a notebook draws outside `style`.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SERVER_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
# So that what is drawn is told apart without colours, too.
MARKS = "osD^vP*"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2.5)))
_STYLE = Path(__file__).with_name("dnnsplit.mplstyle")


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the project's style inside the ``with`` block; figures made there are the caller's, not pyplot's.

    A notebook shows every figure that pyplot still holds at the end of a cell, and would show ours a second time.
    """
    before = set(plt.get_fignums())
    try:
        with plt.style.context(_STYLE):
            yield
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def records(frame: pd.DataFrame) -> dict[Hashable, list[Any]]:
    """Return the columns of a table by name, None where a value is missing."""
    return frame.astype(object).where(frame.notna(), None).to_dict("list")


def save(figure: Figure, folder: str | Path, name: str, numbers: Mapping[str, Any], footer: str = "") -> dict[str, Path]:
    """Write a figure as SVG and PNG, and the numbers it draws as JSON with the version that made it.

    Parameters
    ----------
    figure : Figure
        From one of the functions of this module.
    folder : str | Path
        Made if missing.
    name : str
        Of the files, without ending.
    numbers : Mapping[str, Any]
        What is drawn, JSON values.
    footer : str, default ""
        Written small below the figure and into the JSON, such as what the model's weights are.

    Returns
    -------
    dict[str, Path]
        Path by ending.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> figure, numbers = ds.plots.tensor_sizes(ds.examples.tiny().graph)
    >>> files = ds.plots.save(figure, "figures", "sizes", numbers)
    >>> sorted(files)
    ['json', 'png', 'svg']
    """
    paths = {ending: Path(folder) / f"{name}.{ending}" for ending in ("svg", "png", "json")}
    with style():
        _write_below(figure, footer)
        for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            with replacing(paths[ending]) as file:
                figure.savefig(file, format=ending, metadata=metadata)
    told = {"figure": name, "dnnsplit": version("dnnsplit")} | ({"footer": footer} if footer else {})
    write_json(paths["json"], {**told, **numbers})
    return paths


def _write_below(figure: Figure, footer: str) -> None:
    """Write a footer in place of an earlier one; nothing else moves."""
    for old in [text for text in figure.texts if text.get_gid() == "footer"]:
        old.remove()
    if footer:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for legend in figure.legends:  # cropping would move one outside the panels to the edge, where the footer is
            legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
        below = -0.03 / figure.get_figheight()
        figure.text(0, below, footer, va="top", fontsize=6, color="0.5", gid="footer", wrap=True)


def save_and_show(drawings: Mapping[str, tuple[Figure, Mapping[str, Any]]], folder: str | Path, footer: str = "") -> None:
    """Save some figures and show them below the notebook cell, each with its caption and its text for who does not see it.

    Parameters
    ----------
    drawings : Mapping[str, tuple[Figure, Mapping[str, Any]]]
        Figure and numbers, as the functions of `dnnsplit.plots` return them, by the name of their files. The numbers'
        ``caption`` is shown below the figure, and their ``alt`` is the picture's text; a figure without them is shown without.
    folder, footer : str | Path, str, default ""
        See `save`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> drawn = ds.plots.tensor_sizes(ds.examples.tiny().graph)
    >>> ds.plots.save_and_show({"sizes": drawn}, "figures")  # doctest: +ELLIPSIS
    Figure(...)
    {...}
    """
    from IPython.display import display

    for name, (figure, numbers) in drawings.items():
        save(figure, folder, name, numbers, footer)
        display(figure, metadata={"image/png": {"alt": numbers["alt"]}} if numbers.get("alt") else None)
        if caption := numbers.get("caption"):
            display({"text/html": f"<figcaption>{html.escape(caption)}</figcaption>", "text/plain": caption}, raw=True)
