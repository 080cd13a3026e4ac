"""The figure of the forms of the model's inputs: what they save on the wire, and what writing and reading them takes."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.plots.captions import described, listed, several, told
from dnnsplit.plots.style import COLOURS, DASHES, MARKS, records, style
from dnnsplit.profiling.times import LayerTimes

COLUMNS = ["tensor", "form", "size_bytes", "size_bytes_95", "lossless", "encode_s", "server", "decode_s"]


def source_forms(
    graph: LayerGraph, times: LayerTimes, network: Network, title: str = "", *, about: str = ""
) -> tuple[Figure, dict[str, Any]]:
    """Bytes of the graph inputs in each form against the seconds of its writing at the source and its reading, by server.

    A dashed line per bandwidth of the links that leave the source tells what smaller inputs save there: what lies below it takes
    less time to write and read than it saves of sending the input plainly.

    Parameters
    ----------
    graph : LayerGraph
        Whose inputs are meant.
    times : LayerTimes
        A profile with forms; without any of the inputs there is only the plain one.
    network : Network
        The source writes; those that it has a link to read.
    title : str, default ""
        Above the drawing.
    about : str, default ""
        The model and its test-bed, from `described`, for the line above the figure; default: what these tell.
    """
    plain = {tensor.name: tensor.size_bytes for tensor in graph.tensors if tensor.producer is None}
    links = [link for link in network.links if link.source == network.source != link.target]
    rows = [
        {
            "tensor": tensor, "form": form, "size_bytes": one.size_bytes, "size_bytes_95": one.size_bytes_95,
            "lossless": one.lossless, "encode_s": one.encode_s[network.source], "server": link.target,
            "decode_s": one.decode_s[link.target],
        }
        for link in links for tensor in plain for form, one in (times.forms.of(tensor) if times.forms else {}).items()
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS)
    seconds = table["encode_s"] + table["decode_s"]
    speeds: dict[float, list[str]] = {}
    for link in links:
        speeds.setdefault(link.bandwidth_bytes_per_s, []).append(link.target)
    most = max([*plain.values(), 1.0])
    with style():
        figure, axis = plt.subplots(figsize=(5.4, 3.8))
        axis.axvline(most, color="0.45", linewidth=0.8)
        axis.annotate("float32 ", (most, 1.0), xycoords=("data", "axes fraction"), ha="right", va="top", fontsize=7, color="0.35")
        sizes = np.geomspace(max(1.0, min([*table["size_bytes"], most]) / 2), most * (1 - 1e-4), 200)
        for i, link in enumerate(links):
            part = table[table["server"] == link.target]
            for kept in (True, False):
                some = part[part["lossless"] == kept].index
                face = COLOURS[i % 7] if kept else "none"
                axis.scatter(table["size_bytes"][some], seconds[some], s=22, marker=MARKS[i % 7], facecolors=face,
                             edgecolors=COLOURS[i % 7], label=f"to {link.target}" if kept else None, zorder=3)  # fmt: skip
        for i, (speed, targets) in enumerate(speeds.items()):
            label = f"saved at {show(speed, 'B/s')}, to {listed(targets)}"
            axis.plot(sizes, (most - sizes) / speed, color="0.35", linewidth=1.0, linestyle=DASHES[1 + i % 6], label=label)
        for row in table.assign(seconds=seconds).sort_values("seconds").groupby(["tensor", "form"]).tail(1).to_dict("records"):
            at = row["size_bytes"], row["seconds"]
            axis.annotate(row["form"], at, (2, 4), textcoords="offset points", rotation=30, fontsize=6.5)
        axis.set(xscale="log", yscale="log", title=title, xlabel="size of the input", ylabel="writing and reading [s]")
        axis.xaxis.set_major_formatter(lambda value, _: show(value, "B"))
        axis.xaxis.set_minor_formatter(lambda *_: "")
        if len(table):
            axis.set_ylim(seconds.min() / 5, 4 * seconds.max())
        if links:
            handles = axis.get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower center", fontsize=7, title="hollow: lossy", title_fontsize=7, ncols=2)
    numbers = {"title": title, "plain_bytes": plain, "rows": records(table)}
    caption = "Seconds of writing and reading the input in each form against its size; below a dashed line a form pays."
    saved = (table["tensor"].map(plain) - table["size_bytes"]) / table["server"].map(
        {one.target: one.bandwidth_bytes_per_s for one in links}
    )
    pays = table.loc[saved > seconds].groupby("server", sort=False)["form"].agg(listed)
    alt = "; ".join(f"to {server} it pays to send the input as {forms}" for server, forms in pays.items()) or "no other form pays"
    alt = f"The input has {show(most, 'B')} in its plain form; {alt}."
    count = several(table["form"].nunique(), "form")
    about = about or described(graph, times, network)
    return told(figure, numbers, caption, alt, about=about, count=count)
