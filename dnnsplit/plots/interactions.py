"""Who calls whom: the roles of the system, the parts of this code that play them, and what passes between them.

`ROLES` and `CALLS` hold the parts and the callables themselves; what the figure says of them is read off their names and
signatures. A role that becomes a process of its own, or a call that another one makes, is a change of these tables alone.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dnnsplit.agents.agent import Agent
from dnnsplit.agents.deploy import Deployed, deploy
from dnnsplit.agents.deployer import Deployer
from dnnsplit.agents.following import Following
from dnnsplit.agents.hosts import Hosts
from dnnsplit.agents.jobs import Jobs
from dnnsplit.agents.monitor import Monitor
from dnnsplit.agents.placed import Placed
from dnnsplit.agents.planning import Planner
from dnnsplit.agents.pool import Pool
from dnnsplit.agents.registry import Registry
from dnnsplit.agents.stages import StageChild
from dnnsplit.cutting.cut import cut
from dnnsplit.deployment.client import Client
from dnnsplit.deployment.probing import probe
from dnnsplit.deployment.stage.changing import ChangingStage
from dnnsplit.deployment.stage.service import Stage
from dnnsplit.deployment.stage.work import Runner
from dnnsplit.noise.fit import fit_noise
from dnnsplit.noise.measure import measure_noise
from dnnsplit.plots.captions import several, told
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
        Where it runs.
    is_process : bool
        Whether it is a process of its own.
    """

    name: str
    parts: tuple[Part, ...]
    column: int
    rows: tuple[float, float]
    note: str
    is_process: bool = False


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
    asks : str
        The question to an agent, over gRPC, by which the call is made; empty for one within a process.
    """

    source: str
    target: str
    what: Part
    passes: tuple[str, ...]
    row: float
    slides: str = ""
    by: Part | None = None
    asks: str = ""

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
    Role(
        "Deployer",
        (Deployer, Planner, Placed, Following),
        0,
        (0, 11),
        "one for each deployment,\na child of the first agent",
        True,
    ),
    Role("FrontEnd", (deploy, Deployed), 0, (13, 13), "a notebook, the command line", True),
    Role("ModelProfiler", (measure_noise, fit_noise), 1, (2, 3), "a child of the fastest agent;\nthe fit in the Deployer", True),
    Role("ExecProfiler", (profile_here,), 1, (4, 4), "a child of each agent", True),
    Role("NetStatePool", (Registry,), 1, (5, 5), "in the first agent"),
    Role("Registry", (Registry,), 1, (7, 7), "in the first agent"),
    Role("Optimizer", (split,), 1, (9, 9), "in the Deployer"),
    Role("ModelDivider", (cut, Placed), 1, (10, 10), "in the Deployer"),
    Role("Inferencer", (StageChild, ChangingStage, Stage), 1, (11, 13), "a child of each agent", True),
    Role("ServerMonitor", (Agent, Monitor, probe), 2, (5, 8), "in each agent"),
    Role("ModelPool", (Pool,), 3, (0, 11), "in each agent:\nfiles by their hashes"),
)
CALLS = (
    Call("FrontEnd", "Deployer", deploy, ("model", "at", "images"), 12),
    Call("Deployer", "ModelPool", Pool.put, ("digest", "size_bytes", "offset", "piece"), 0, "put_model", Hosts, "Put"),
    Call("Deployer", "ModelPool", Pool.lay_out, ("files", "folder"), 1, "get_model", Deployer),
    Call("Deployer", "ModelProfiler", measure_noise, ("graph", "images", "layers"), 2, "profile_model", Hosts, "job"),
    Call("ModelProfiler", "ModelPool", Pool.lay_out, ("files", "folder"), 2, "get_model", Jobs),
    Call("Deployer", "ModelProfiler", fit_noise, ("samples",), 3, "get_model_profile", Planner),
    Call("Deployer", "ExecProfiler", profile_here, ("model_path", "server", "images"), 4,
         "profile_model, get_exec_profile", Hosts, "job"),
    Call("ExecProfiler", "ModelPool", Pool.lay_out, ("files", "folder"), 4, "get_layers", Jobs),
    Call("Deployer", "NetStatePool", Registry.members, (), 5, "get_network_graph", Hosts, "members"),
    Call("ServerMonitor", "NetStatePool", Registry.beat, ("certified", "told"), 5, "state_push", Agent, "beat"),
    Call("ServerMonitor", "ServerMonitor", probe, ("address",), 6, "test_bandwidth, test_latency", Monitor),
    Call("Deployer", "Registry", Registry.wait, ("version", "limit_s"), 7, "", Hosts, "members"),
    Call("ServerMonitor", "Registry", Registry.forget, ("name",), 7, "", Agent, "leave"),
    Call("Deployer", "ServerMonitor", Monitor.measure, ("target", "address"), 8, "", Deployer, "probe"),
    Call("Deployer", "Optimizer", split, ("graph", "network", "times", "noise"), 9, "optimize", Planner),
    Call("Deployer", "ModelDivider", cut, ("model", "plan", "out"), 10, "divide_model", Planner),
    Call("ModelDivider", "ModelPool", Pool.put, ("digest", "size_bytes", "offset", "piece"), 10, "put_model", Placed, "Put"),
    Call("Deployer", "Inferencer", StageChild.become, ("wanted",), 11, "start_inference", Placed, "stage"),
    Call("Inferencer", "ModelPool", Pool.lay_out, ("files", "folder"), 11, "get_model", StageChild),
    Call("Inferencer", "Inferencer", Stage.ModelInfer, ("request",), 12, "do_inference", Runner),
    Call("FrontEnd", "Inferencer", ChangingStage.ModelInfer, ("request",), 13, "do_inference", Client),
)  # fmt: skip
LEFT, BOX, ROW = (0.0, 4.0, 7.85, 10.2), 1.45, 0.54  # inches: left edges of the columns, width of a box, height of a row
WIDE = 48  # letters under an arrow, beyond which they take two lines


def interactions() -> tuple[Figure, dict[str, Any]]:
    """Draw who calls whom, and what passes: the roles of the slides, each with the parts of this code that play it.

    Above an arrow is the call with what it hands over, below it what comes back, the question to an agent by which it is made
    over gRPC, and what the slides call it. Dashed boxes are no processes of their own.
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
    calls = [
        {"source": c.source, "target": c.target, "call": c.label, "returns": c.returns, "asks": c.asks, "slides": c.slides}
        for c in CALLS
    ]
    roles = {
        role.name: {"parts": [part.__qualname__ for part in role.parts], "where": role.note, "process": role.is_process}
        for role in ROLES
    }
    caption = "Who calls whom in a deployment of agents: the roles of the slides, the code that plays them, and what passes."
    caller = [call.source for call in CALLS]
    most = max(dict.fromkeys(caller), key=caller.count)
    alt = f"{several(len(roles), 'role')} and {several(len(calls), 'call')}; the {most} makes {caller.count(most)} of them."
    count = f"{several(len(roles), 'role')}, {several(len(calls), 'call')}, read off the code"
    return told(figure, {"roles": roles, "calls": calls}, caption, alt, count=count)


def _draw_role(axis: Axes, role: Role) -> None:
    top, bottom = ((row + side) * ROW for row, side in zip(role.rows, (-0.42, 0.42), strict=True))
    looks: dict[str, Any] = {"edgecolor": COLOURS[0], "facecolor": "#eef5fa", "linestyle": "-"}
    if not role.is_process:
        looks |= {"edgecolor": "0.35", "facecolor": "white", "linestyle": (0, (4, 2))}
    axis.add_patch(FancyBboxPatch((LEFT[role.column], top), BOX, bottom - top, boxstyle="round,pad=0,rounding_size=0.06",
                                  linewidth=1.2, zorder=3, **looks))  # fmt: skip
    x, y = LEFT[role.column] + BOX / 2, (top + bottom) / 2
    own = textwrap.wrap(", ".join(part.__qualname__ for part in role.parts), 24)
    lines = [(role.name, 8.0, "bold", "black"), *((line, 6.8, "normal", COLOURS[0]) for line in own)]
    lines += [(line, 5.8, "normal", "0.3") for line in role.note.splitlines()]
    for i, (text, size, weight, colour) in enumerate(lines):
        at = y + (i - (len(lines) - 1) / 2) * 0.125
        axis.text(x, at, text, fontsize=size, fontweight=weight, color=colour, ha="center", va="center", zorder=4)


def _draw_call(axis: Axes, call: Call, source: Role, target: Role) -> None:
    y = call.row * ROW
    middle = LEFT[source.column] + BOX / 2
    if source is target:  # to another one of its kind, drawn to the left
        ends, label_x = ((LEFT[source.column], y - 0.13), (LEFT[source.column], y + 0.13)), LEFT[source.column] - 0.36
        bend, align = "arc,angleA=180,angleB=180,armA=22,armB=22,rad=6", "right"
    elif source.column == target.column:  # up
        ends, label_x = ((middle, (source.rows[0] - 0.42) * ROW), (middle, (target.rows[1] + 0.42) * ROW)), middle + 0.1
        bend, align = "arc3,rad=0", "left"
    else:
        ahead = target.column > source.column
        ends = ((LEFT[source.column] + BOX * ahead, y), (LEFT[target.column] + BOX * (not ahead), y))
        label_x, bend, align = (ends[0][0] + ends[1][0]) / 2, "arc3,rad=0", "center"
    axis.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, shrinkA=0, shrinkB=0, connectionstyle=bend,
                                   color="0.2", linewidth=1.0, zorder=2))  # fmt: skip
    back = f"→ {call.returns}" if call.returns else ""
    slides = f"slides: {call.slides}" if call.slides else ""
    axis.text(label_x, y - 0.04, call.label, fontsize=6.8, ha=align, va="bottom", zorder=5)
    asks = f'asks "{call.asks}"' if call.asks else ""
    below = "   ".join(text for text in (back, asks, slides) if text)
    if len(below) > WIDE:
        below = f"{'   '.join(text for text in (back, asks) if text)}\n{slides}"
    axis.text(label_x, y + 0.05, below, fontsize=5.8, color="0.3", ha=align, va="top", zorder=5)
