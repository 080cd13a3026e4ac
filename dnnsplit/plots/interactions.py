"""Who calls whom: the roles of the system, the parts of this code that play them, and what passes between them.

`ROLES` and `CALLS` hold the parts and the callables themselves; what the figure says of them is read off their names and
signatures. A role that becomes a process of its own, or a call that another one makes, is a change of these tables alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.cut import cut
from dnnsplit.cutting.plan_set import load_cut
from dnnsplit.deployment.client import Client
from dnnsplit.deployment.hosts import read_hosts
from dnnsplit.deployment.probing import Probe, answer_probes, probe
from dnnsplit.deployment.serving import serve
from dnnsplit.deployment.stage.service import Stage
from dnnsplit.deployment.stage.work import Runner
from dnnsplit.graph.blocks import load
from dnnsplit.network.servers import Network
from dnnsplit.noise.fit import fit_noise
from dnnsplit.noise.measure import measure_noise
from dnnsplit.plots.style import COLOURS, style
from dnnsplit.profiling.elsewhere import profile_here
from dnnsplit.solving.split import split

Part = Callable[..., Any]


@dataclass(frozen=True)
class Role:
    """A role of the system, as the slides name it.

    Attributes
    ----------
    name : str
        On the slides.
    parts : tuple[Part, ...]
        What plays it here: functions and classes.
    column : int
        Where it is drawn, from the left.
    rows : tuple[float, float]
        Its first and its last row, from the top.
    note : str
        What plays it where no process does; empty where one does.
    """

    name: str
    parts: tuple[Part, ...]
    column: int
    rows: tuple[float, float]
    note: str = ""


@dataclass(frozen=True)
class Call:
    """A call from one role to another.

    Attributes
    ----------
    source, target : str
        Roles.
    what : Part
        What is called.
    passes : tuple[str, ...]
        Which of its arguments are handed over.
    row : float
        Where it is drawn, from the top.
    slides : str
        What the slides call it; empty where they have no such call.
    by : Part | None
        The part whose module makes the call; None: whoever runs a notebook or the command line.
    """

    source: str
    target: str
    what: Part
    passes: tuple[str, ...]
    row: float
    slides: str = ""
    by: Part | None = None

    @property
    def label(self) -> str:
        """The call as it is written."""
        return f"{self.what.__qualname__}({', '.join(self.passes)})"

    @property
    def returns(self) -> str:
        """The type of what comes back; empty where nothing does."""
        told = str(inspect.signature(self.what).return_annotation)
        return "" if told == "None" else told


ROLES = (
    Role("Deployer", (), 0, (0, 9), "a person with a notebook\nor the command line"),
    Role("FrontEnd", (Client,), 0, (11, 11)),
    Role("ModelProfiler", (measure_noise, fit_noise), 1, (1, 2), "inside the Deployer"),
    Role("ExecProfiler", (profile_here,), 1, (3, 3), "a command on each server"),
    Role("NetStatePool", (Network,), 1, (4, 4), "a YAML file"),
    Role("Optimizer", (split,), 1, (6, 6), "inside the Deployer"),
    Role("ModelDivider", (cut,), 1, (7, 8), "inside the Deployer"),
    Role("Inferencer", (serve, Stage), 1, (9, 11)),
    Role("ServerMonitor", (probe, answer_probes), 2, (4, 5), "a command on each server"),
    Role("Registry", (read_hosts,), 2, (10, 10), "a file on each server"),
    Role("ModelPool", (load, Bundle), 3, (0, 9), "a folder: ONNX files are put\nthere by hand, bundles by cut"),
)
CALLS = (
    Call("Deployer", "ModelPool", load, ("path", "shapes"), 0),
    Call("Deployer", "ModelProfiler", measure_noise, ("graph", "images", "layers"), 1, "profile_model"),
    Call("Deployer", "ModelProfiler", fit_noise, ("samples",), 2, "get_model_profile"),
    Call("Deployer", "ExecProfiler", profile_here, ("model_path", "server", "images"), 3, "profile_model, get_exec_profile"),
    Call("ExecProfiler", "ModelPool", load, ("path",), 3, "get_layers", profile_here),
    Call("Deployer", "NetStatePool", Network.load, ("path",), 4, "get_network_graph"),
    Call("ServerMonitor", "NetStatePool", Probe.write, ("path", "source", "target"), 4, "state_push"),
    Call("ServerMonitor", "ServerMonitor", probe, ("address",), 5, "test_bandwidth, test_latency"),
    Call("Deployer", "Optimizer", split, ("graph", "network", "times", "noise"), 6, "optimize"),
    Call("Deployer", "ModelDivider", cut, ("model", "plan", "out"), 7, "divide_model"),
    Call("ModelDivider", "ModelPool", load, ("path",), 7, "get_model", cut),
    Call("ModelDivider", "ModelPool", Bundle.save, (), 8, "put_model", cut),
    Call("Deployer", "Inferencer", serve, ("bundle", "server", "hosts"), 9, "start_inference"),
    Call("Inferencer", "ModelPool", load_cut, ("folder",), 9, "get_model", serve),
    Call("Inferencer", "Inferencer", Stage.ModelInfer, ("request",), 10, "do_inference", Runner),
    Call("Inferencer", "Registry", read_hosts, ("hosts",), 10, "", serve),
    Call("FrontEnd", "Inferencer", Stage.ModelInfer, ("request",), 11, "do_inference", Client),
)
LEFT, BOX, ROW = (0.0, 4.0, 7.85, 10.2), 1.45, 0.54  # inches: left edges of the columns, width of a box, height of a row


def interactions() -> tuple[Figure, dict[str, Any]]:
    """Draw who calls whom, and what passes: the roles of the slides, each with the part of this code that plays it.

    Above an arrow is the call with what it hands over, below it what comes back, and what the slides call it. Dashed boxes are
    no processes: files, or functions in the process of whoever deploys.
    """
    last = max(role.rows[1] for role in ROLES)
    places = {role.name: role for role in ROLES}
    with style():
        figure, axis = plt.subplots(figsize=(LEFT[-1] + BOX + 0.2, (last + 1.2) * ROW + 0.3))
        axis.grid(False)
        axis.axis("off")
        axis.set(
            xlim=(-0.1, LEFT[-1] + BOX + 0.1),
            ylim=((last + 0.6) * ROW, -0.6 * ROW),
            title="Who calls whom (dashed: no process of its own)",
        )
        for role in ROLES:
            _draw_role(axis, role)
        for call in CALLS:
            _draw_call(axis, call, places[call.source], places[call.target])
    told = [{"source": c.source, "target": c.target, "call": c.label, "returns": c.returns, "slides": c.slides} for c in CALLS]
    roles = {role.name: {"parts": [part.__qualname__ for part in role.parts], "note": role.note} for role in ROLES}
    return figure, {"roles": roles, "calls": told}


def _draw_role(axis: Axes, role: Role) -> None:
    top, bottom = ((row + side) * ROW for row, side in zip(role.rows, (-0.42, 0.42), strict=True))
    looks: dict[str, Any] = {"edgecolor": COLOURS[0], "facecolor": "#eef5fa", "linestyle": "-"}
    if role.note:
        looks |= {"edgecolor": "0.35", "facecolor": "white", "linestyle": (0, (4, 2))}
    axis.add_patch(FancyBboxPatch((LEFT[role.column], top), BOX, bottom - top, boxstyle="round,pad=0,rounding_size=0.06",
                                  linewidth=1.2, zorder=3, **looks))  # fmt: skip
    x, y = LEFT[role.column] + BOX / 2, (top + bottom) / 2
    own = ", ".join(part.__qualname__ for part in role.parts)
    lines = [(role.name, 8.0, "bold", "black"), (own, 6.8, "normal", COLOURS[0])]
    lines += [(line, 5.8, "normal", "0.3") for line in role.note.splitlines()]
    lines = [line for line in lines if line[0]]
    for i, (text, size, weight, colour) in enumerate(lines):
        at = y + (i - (len(lines) - 1) / 2) * 0.125
        axis.text(x, at, text, fontsize=size, fontweight=weight, color=colour, ha="center", va="center", zorder=4)


def _draw_call(axis: Axes, call: Call, source: Role, target: Role) -> None:
    y = call.row * ROW
    if source is target:  # to another one of its kind, drawn to the left
        ends, label_x = ((LEFT[source.column], y - 0.13), (LEFT[source.column], y + 0.13)), LEFT[source.column] - 0.36
        bend, align = "arc,angleA=180,angleB=180,armA=22,armB=22,rad=6", "right"
    else:
        ahead = target.column > source.column
        ends = ((LEFT[source.column] + BOX * ahead, y), (LEFT[target.column] + BOX * (not ahead), y))
        label_x, bend, align = (ends[0][0] + ends[1][0]) / 2, "arc3,rad=0", "center"
    axis.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0, connectionstyle=bend,
                                   color="0.2", linewidth=1.0, zorder=2))  # fmt: skip
    back = f"→ {call.returns}" if call.returns else ""
    slides = f"slides: {call.slides}" if call.slides else ""
    axis.text(label_x, y - 0.04, call.label, fontsize=6.8, ha=align, va="bottom", zorder=5)
    below = "   ".join(text for text in (back, slides) if text)
    axis.text(label_x, y + 0.05, below, fontsize=5.8, color="0.3", ha=align, va="top", zorder=5)
