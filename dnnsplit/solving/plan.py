"""The plan: which layer runs where and in which precision, what it costs, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DnnSplitError, raise_problems
from dnnsplit.ground.files import write_json
from dnnsplit.ground.forms import formed
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.json_file import read_json
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.profiling.wire_forms import PLAIN
from dnnsplit.solving.cost import Cost, Transfer
from dnnsplit.solving.objective import Reference
from dnnsplit.solving.plan_checks import plan_problems

SCHEMA = 1
_KIND = Kind("is not readable as a plan", DnnSplitError, 2**26, "the plan")


@dataclass(frozen=True)
class Plan:
    """A placement and its price.

    Attributes
    ----------
    assignment : Mapping[str, str]
        Server by layer, x.
    quantized : tuple[str, ...]
        Layers that run in int8, q, in topological order.
    cost : Cost
        Latency, energy and transfers, re-priced by `evaluate`.
    noise : float
        eta(q), the mean over images; its kind says whether it was "measured", "predicted" or "none" (nothing is quantized).
    noise_upper : float
        Where a confidence was asked for, the upper bound of the mean over all images, which keeps the limit; else NaN.
    objective : float
        Value of what was minimised; `objective_name` says what that is.
    reference : Mapping[str, Any]
        Of a normalised sum, what it is normalised by (`dnnsplit.solving.objective.Reference`): latency_s and energy_j (least,
        most), under which limits, and whether that was proved; else empty.
    status : str
        "optimal" (proved) or "feasible" (a limit of time or gap stopped the proof).
    bound, gap : float
        Lower bound on the objective, and (objective - bound) / |objective|; NaN where the solver tells none.
    method, solver, solve_s : str, str, float
        How it was found, and the CPU seconds that took [s].
    reason : str
        Why by this method.
    limits : Mapping[str, Any]
        The limits it was asked to keep.
    source : str
        The server where inputs start and outputs end.
    times_origin : str
        Where the layer times came from: "measured", "scaled", ...
    origin : Mapping[str, Any]
        What the noise behind it depends on (model, images, quantization setting).
    measurements : int
        Schemes that were measured to verify this plan.
    source_form : str
        The form in which graph inputs leave the source; "float32" where none leaves it, or none in another form.
    lossy_source : str
        The same if it changes their values; else empty.
    pixels : Mapping[str, Any]
        How graph inputs that cross as images hold them (`dnnsplit.codecs.pixels.Pixels`, as JSON), by name.
    error_s : float
        How far the compute time may be off, by splits that were measured [s]; NaN where none were.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> plan = ds.split(*ds.examples.tiny(), max_noise=0.02)
    >>> plan
    Plan: 1 layer on device, 3 layers on edge; 1 in int8
      2 tensors cross (104 kB)
      latency 258.2 ms, energy 1.19 J (device 319.5 mJ)
      noise 0.012 (predicted)
      optimal, by elimination; times given
    >>> plan.assignment["fc"], plan.quantized
    ('edge', ('conv1',))
    >>> plan.save("plan.json")
    >>> ds.Plan.load("plan.json") == plan
    True
    """

    assignment: Mapping[str, str]
    quantized: tuple[str, ...]
    cost: Cost
    noise: float
    noise_kind: str
    objective: float
    objective_name: str
    status: str
    bound: float
    gap: float
    method: str
    solver: str
    solve_s: float
    reason: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    times_origin: str = "given"
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    measurements: int = 0
    error_s: float = math.nan
    reference: Mapping[str, Any] = field(default_factory=dict)
    noise_upper: float = math.nan
    source_form: str = PLAIN
    lossy_source: str = ""
    pixels: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def latency_s(self) -> float:
        """T [s]."""
        return self.cost.latency_s

    @property
    def latency_interval_s(self) -> tuple[float, float]:
        """Where the latency will be by what measured splits were off [s]; NaN where none were measured."""
        return self.latency_s - self.error_s, self.latency_s + self.error_s

    @property
    def limited_noise(self) -> float:
        """What is held against the limit on the noise: its upper bound where a confidence was asked for, else the noise."""
        return self.noise if math.isnan(self.noise_upper) else self.noise_upper

    @property
    def latency_norm(self) -> float:
        """T^norm of a normalised sum; NaN where nothing is normalised."""
        return self._normalised[0]

    @property
    def energy_norm(self) -> float:
        """E^norm of a normalised sum; NaN where nothing is normalised."""
        return self._normalised[1]

    @property
    def _normalised(self) -> tuple[float, float]:
        if not self.reference:
            return math.nan, math.nan
        return Reference(**self.reference).normalise(self.latency_s, self.energy_j)

    @property
    def energy_j(self) -> float:
        """E [J]."""
        return self.cost.energy_j

    @property
    def device_energy_j(self) -> float:
        """E_0 [J]."""
        return self.cost.device_energy_j

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """Every tensor that crosses a link, y_tn = 1."""
        return self.cost.transfers

    @property
    def routes(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """The links between servers that each tensor takes, by its name; `evaluate` and `makespan` take them as `routes`."""
        return self.cost.routes

    @property
    def forms(self) -> dict[tuple[str, str, str], str]:
        """Form by (tensor, source, target) of what does not cross plainly; `evaluate` takes them as `forms`."""
        return self.cost.forms

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that run at least one layer."""
        return tuple(dict.fromkeys(self.assignment.values()))

    @property
    def frame(self) -> pd.DataFrame:
        """One row per layer: layer, server, precision."""
        quantized = set(self.quantized)
        precision = ["int8" if name in quantized else "float32" for name in self.assignment]
        return pd.DataFrame({"layer": list(self.assignment), "server": list(self.assignment.values()), "precision": precision})

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values (schema 1); figures that are not finite become null."""
        return {"schema": SCHEMA, **_without_nan(asdict(self))}

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, atomically."""
        check_arguments(Plan.save, locals())
        write_json(path, self.to_json())

    @staticmethod
    def load(path: str | Path, graph: LayerGraph | None = None, network: Network | None = None) -> Plan:
        """Read the JSON that `save` writes.

        Parameters
        ----------
        path : str | Path
            Of the file.
        graph : LayerGraph | None, optional
            That the plan must fit: it places exactly these layers. `dnnsplit.cut` asks for the same.
        network : Network | None, optional
            That the plan must fit: it names none but these servers, and the same source.

        Returns
        -------
        Plan
            Whose servers, layers, transfers and amounts go together.

        Raises
        ------
        DnnSplitError
            It is no plan: missing, no JSON, of another schema, or of another form; or it contradicts itself, or does not fit. All
            that is wrong is told at once.
        """
        check_arguments(Plan.load, locals())
        document = read_json(path, _KIND)
        if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
            message = f"{path} is no plan of schema {SCHEMA}"
            raise DnnSplitError(message)
        unknown = {key: math.nan for key in ("bound", "gap", "error_s", "noise_upper") if document.get(key) is None}
        heading = f"{path} {_KIND.unfit}"
        plan = formed(document | unknown, Plan, DnnSplitError, heading)
        raise_problems(DnnSplitError, heading, list(plan_problems(plan, graph, network)))
        return plan

    def check(self, names: tuple[str, ...]) -> None:
        """Raise unless the plan places exactly the layers `names`."""
        check_arguments(Plan.check, locals())
        known = set(names)
        problems = [f"layer {n!r} has no server" for n in names if n not in self.assignment]
        problems += [f"layer {n!r} is not in the model" for n in self.assignment if n not in known]
        raise_problems(DnnSplitError, "the plan does not fit the model", problems, most=5)

    def __str__(self) -> str:
        counts = pd.Series(list(self.assignment.values())).value_counts()
        where = ", ".join(f"{counts[s]} layer{'s' if counts[s] > 1 else ''} on {s}" for s in self.servers)
        crossing = [t for t in self.transfers if t.source != t.target]
        size = show(sum(t.size_bytes for t in crossing), "B")
        many = "1 tensor crosses" if len(crossing) == 1 else f"{len(crossing)} tensors cross"
        sent = f"{many} ({size})" if crossing else "nothing crosses"
        if self.source_form != PLAIN:
            sent += f", the input as {self.source_form}"
        gap = "" if self.status == "optimal" else f", gap {self.gap:.2%}"
        noisy = self.noise_kind != "none"
        noise = f"{self.noise:.4g} ({self.noise_kind})" if noisy else "0"
        if noisy and not math.isnan(self.noise_upper):
            noise += f", below {self.noise_upper:.4g} with {self.limits.get('confidence', math.nan):.4g} confidence"
        slowest = ""
        if self.objective_name == "bottleneck_s":
            slowest = f"slowest stage {show(self.cost.bottleneck_s, 's')} ({self.cost.throughput_per_s:.4g} requests/s)\n  "
        norms = f"T^norm {self.latency_norm:.4g}, E^norm {self.energy_norm:.4g}; " if self.reference else ""
        return folded(
            f"Plan: {where}; {len(self.quantized)} in int8\n"
            f"  {sent}\n"
            f"  {slowest}latency {show(self.latency_s, 's')}, energy {show(self.energy_j, 'J')} "
            f"(device {show(self.device_energy_j, 'J')})\n"
            f"  noise {noise}\n"
            f"  {norms}{self.status}{gap}, by {self.method}{f' with {self.solver}' if self.solver else ''}; "
            f"times {self.times_origin}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return shown(self, readable(self.cost.frame.query("seconds > 0")))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return value
