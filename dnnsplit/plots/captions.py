"""What is told beside every drawing: the line above it, its caption, and its finding for those who do not see it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.profiling.times import LayerTimes

EMULATED = "on servers and links emulated on one machine"
TIERS = ("device", "edge", "cloud")
LETTERS = 19.5  # of the line above a figure, on an inch
_ORIGINS = {"scaled": "times scaled from one machine", "flops": "times estimated from FLOPs"}


def described(graph: LayerGraph, times: LayerTimes | None = None, network: Network | None = None, name: str = "") -> str:
    """Return what the line above a figure says of its model and its test-bed, for the argument `about` of the figures.

    Parameters
    ----------
    graph : LayerGraph
        The model: its inputs are told, and the name of its file.
    times : LayerTimes | None, optional
        Where its seconds come from is told, and what the file says of its weights.
    network : Network | None, optional
        Its servers are told.
    name : str, default ""
        Of the model, where that of its file is not meant, or there is none.

    Returns
    -------
    str

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, _ = ds.examples.tiny()
    >>> ds.plots.described(graph, times, network, "tiny")
    'tiny, image 1.2 MB; device + edge, times given'
    """
    inputs = [tensor for tensor in graph.tensors if tensor.producer is None]
    sizes = (f"{t.name} {' x '.join(map(str, t.shape)) or show(t.size_bytes, 'B')}" for t in inputs)
    called = name or (Path(graph.model_path).stem if graph.model_path else "")
    made = {str(one["weights"]) for one in (times.made.values() if times else ()) if one.get("weights")}
    model = ", ".join([*([called] if called else []), *sizes, *(f"weights {text}" for text in sorted(made))])
    servers = " + ".join(network.server_names) if network else ""
    origins = sorted({*times.frame["origin"]}) if times else []
    told = [servers, *(_ORIGINS.get(origin, f"times {origin}") for origin in origins)]
    return "; ".join(filter(None, (model, ", ".join(filter(None, told)))))


def told(
    figure: Figure, numbers: Mapping[str, Any], caption: str, alt: str, *, about: str = "", count: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Write a line above a figure, and put its caption and its finding among its numbers.

    Parameters
    ----------
    figure : Figure
        Drawn, in constrained layout.
    numbers : Mapping[str, Any]
        What it draws.
    caption, alt : str, str
        Sentences: what is shown, and what that says in numbers.
    about, count : str, str
        The model and its test-bed, and of how much it is drawn; either may be empty.
    """
    line = "; ".join(filter(None, (about, count)))
    if line:
        kept = re.sub(r"(?<=[0-9x]) ", "\N{NO-BREAK SPACE}", line)  # a number and what it counts stay together
        text = "\n".join(textwrap.wrap(kept, int(LETTERS * figure.get_figwidth())))
        figure.suptitle(text, x=0.01, ha="left", fontsize=6.5, fontweight="normal", color="0.35")
    return figure, {**numbers, "caption": f"{caption} Shown: {line}." if line else caption, "alt": alt}


def spelled(topology: str) -> str:
    """Return the name of a topology as it is written everywhere, "device + edge + cloud"; other names stay as they are."""
    parts = topology.split("-")
    return " + ".join(parts) if {*parts} <= {*TIERS} else topology


def several(count: int, what: str) -> str:
    """Return a count with its noun, such as "1 plan" or "24 plans"."""
    return f"{count} {what}{'s' * (count != 1)}"


def listed(texts: Iterable[str]) -> str:
    """Return texts as a sentence lists them."""
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def bias(error: pd.Series) -> str:
    """Return errors of predictions against what was measured [%] as a text, with their signs."""
    return f"{signed(error.mean())} % on average, {signed(error.min())} to {signed(error.max())} %"


def signed(value: float) -> str:
    """Return a number of percent with its sign, which 0 has not."""
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def between(values: Iterable[float], unit: str = "") -> str:
    """Return the ends of some values as a text, one where they are equal."""
    finite = [value for value in map(float, values) if np.isfinite(value)]
    if not finite:
        return "no value"
    texts = [show(end, unit) if unit else f"{end:g}" for end in (min(finite), max(finite))]
    return " to ".join(dict.fromkeys(texts))


def requests(measured: pd.DataFrame) -> str:
    """Return how many plans were run, on what, and how often, where the table says so."""
    runs = f", {between(measured['repeats'])} requests each" if "repeats" in measured else ""
    return f"{several(len(measured), 'plan')} run on emulated servers and links{runs}"
