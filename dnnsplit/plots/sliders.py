"""Sliders for the noise limit and a link's bandwidth over the drawing of the optimal plan, for JupyterLab."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import ipywidgets
import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NetworkError, nearest
from dnnsplit.ground.keywords import named
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Link, Network
from dnnsplit.noise.models import NoiseModel
from dnnsplit.plots.captions import described
from dnnsplit.plots.placement import placement
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.front import Front, pareto
from dnnsplit.solving.plan import Plan
from dnnsplit.studies.grid import at_bandwidth

GIVEN = 0.0  # stands for the bandwidths as they are in the network
STEPS = 41  # of the bandwidth, from a hundredth of the network's own to a hundred times it


@named(pareto)
def explore(
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    noise: NoiseModel,
    *,
    max_noise: float,
    link: Sequence[str] = (),
    latency_weight: float = 1.0,
    energy_weight: float = 0.0,
    **asked: Any,
) -> ipywidgets.VBox:
    """Return two sliders that redraw the optimal placement, its latency and its energy as they move.

    A front is computed once per bandwidth, in tens of milliseconds, and answers every noise limit.

    Parameters
    ----------
    graph, network, times, noise : LayerGraph, Network, LayerTimes, NoiseModel
        As for `pareto`.
    max_noise : float
        Where the first slider starts.
    link : Sequence[str], default ()
        (source, target) whose bandwidth the second slider sets; empty: all that leave the source.
    latency_weight, energy_weight, **asked : float, float, Any
        As for `pareto`.

    Raises
    ------
    NetworkError
        There is no such link.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.explore(*ds.examples.tiny(), max_noise=0.02)  # doctest: +SKIP
    """
    check_arguments(explore, locals(), least={"max_noise": 0, "latency_weight": 0, "energy_weight": 0})
    links = _links(network, link)

    @lru_cache(maxsize=STEPS)
    def front(bandwidth: float) -> Front:
        ends = [(one.source, one.target) for one in links]
        varied = network if bandwidth == GIVEN else at_bandwidth(network, bandwidth, ends)
        return pareto(graph, varied, times, noise, latency_weight=latency_weight, energy_weight=energy_weight, **asked)

    given = links[0].bandwidth_bytes_per_s if links else 0.0
    middle = given if 0 < given < np.inf else 5e6
    speeds = [float(f"{b:.2g}") for b in np.geomspace(middle / 100, middle * 100, STEPS)] if links else [GIVEN]
    options = [(show(b, "B/s"), b) for b in speeds]
    options[len(speeds) // 2] = (f"{show(given, 'B/s')} (as given)" if links else "no link", GIVEN)
    what = " to ".join(link) if link else f"from {network.source}"
    # what they stand at is beside them: inside, its length would be taken from that of the slider
    wide = {"style": {"description_width": "15em"}, "layout": ipywidgets.Layout(width="34em", margin="2px"), "readout": False}
    top = max(front(GIVEN).plans[-1].limited_noise, max_noise) or 1.0
    limit = ipywidgets.FloatSlider(max_noise, min=0.0, max=top, step=top / 200, description="noise limit", **wide)
    bandwidth = ipywidgets.SelectionSlider(options=options, value=GIVEN, description=f"bandwidth {what}", **wide)
    at, figures, drawing = [ipywidgets.Label(), ipywidgets.Label()], ipywidgets.HTML(), ipywidgets.HTML()
    drawn: list[object] = []
    about = described(graph, times, network)

    def redraw(_: Any = None) -> None:
        plan = front(bandwidth.value).at(limit.value)
        at[0].value, at[1].value = f"{limit.value:.3f}", bandwidth.label
        figures.value = _figures(plan)
        key = plan.assignment, plan.quantized, plan.cost
        if drawn != [key]:  # most steps of a slider change no plan
            drawn[:] = [key]
            drawing.value = _svg(graph, plan, network, about)

    limit.observe(redraw, "value")
    bandwidth.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([*map(ipywidgets.HBox, zip((limit, bandwidth), at, strict=True)), figures, drawing])


def _links(network: Network, link: Sequence[str]) -> list[Link]:
    if not link:
        return [one for one in network.links if one.source == network.source != one.target]
    found = [one for one in network.links if (one.source, one.target) == tuple(link)]
    if not found:
        name, known = " to ".join(link), [f"{one.source} to {one.target}" for one in network.links]
        message = f"there is no link {name!r}{nearest(name, known)}"
        raise NetworkError(message)
    return found


def _figures(plan: Plan) -> str:
    """The figures of a plan in a line of large type and a line of small."""
    large = {"latency": show(plan.latency_s, "s"), "energy": show(plan.energy_j, "J"), "noise": f"{plan.noise:.3g}"}
    large["in int8"] = f"{len(plan.quantized)} layers"
    if plan.source_form != PLAIN:
        large["input as"] = plan.source_form
    cells = "".join(
        f"<td style='padding:0 1.6em 0 0;text-align:left'><span style='font-size:1.5em'>{value}</span><br>{name}</td>"
        for name, value in large.items()
    )
    computes = [f"{server} {show(s, 's')}" for server, s in plan.cost.compute_s.items() if s > 0]
    sent = sum(t.seconds for t in plan.transfers if t.source != t.target)
    coding = [f"{server} {show(s, 's')}" for server, s in plan.cost.codec_s.items() if s > 0]
    codec = f"; writing and reading forms: {', '.join(coding)}" if coding else ""
    return f"<table><tr>{cells}</tr></table><small>computing: {', '.join(computes)}; sending: {show(sent, 's')}{codec}</small>"


def _svg(graph: LayerGraph, plan: Plan, network: Network, about: str) -> str:
    """The drawing, of the same size and lanes for all plans of a network."""
    buffer = io.StringIO()
    placement(graph, plan, network.name, lanes=network.server_names, about=about)[0].savefig(buffer, format="svg")
    return buffer.getvalue()[buffer.getvalue().index("<svg") :].replace("<svg ", "<svg style='max-width:100%;height:auto' ", 1)
