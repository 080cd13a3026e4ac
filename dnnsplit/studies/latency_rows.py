"""The points of a latency test, what a run of a plan gave, and the tables of both: one row per point, and one per request."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd

from dnnsplit.ground.files import sha256, write_text
from dnnsplit.ground.paths import exists
from dnnsplit.ground.tables import read_table
from dnnsplit.network.servers import Network
from dnnsplit.solving.plan import Plan


@dataclass(frozen=True)
class Point:
    """What one row is about: a topology, the weights of latency and energy, a noise limit, and the plan for them.

    `slowdown` has the emulated seconds of each server that takes part per CPU second of this machine; `identity` is the same for
    all points whose plans run the same.
    """

    topology: str
    latency_weight: float
    energy_weight: float
    max_noise: float
    network: Network
    plan: Plan
    folder: Path
    slowdown: Mapping[str, float] = field(default_factory=dict)
    identity: str = ""

    def __str__(self) -> str:
        return f"{self.topology}, noise <= {self.max_noise:g}, latency weight {self.latency_weight:g}"

    @property
    def stages(self) -> tuple[str, ...]:
        """The servers that take part: the source always does, and those that relay a tensor."""
        relays = [end for transfer in self.plan.transfers for end in (transfer.source, transfer.target)]
        return tuple(dict.fromkeys([self.network.source, *self.plan.servers, *relays]))


@dataclass(frozen=True)
class Run:
    """What running a plan gave: the latency of each request that counts [s], how its outputs compare, and what it took before.

    `cut_s` and `start_s` are wall seconds, `size_bytes` are those of the files of its parts, `pace` is that of the machine.
    """

    latency_s: tuple[float, ...]
    output_noise: float
    output_difference: float
    parts: int
    cut_s: float
    start_s: float
    size_bytes: int
    pace: float


def folder_of(topology: str, pair: tuple[float, float], max_noise: float, several: bool) -> str:
    """Return the name of the folder of a point; it tells the weights where there are several.

    Examples
    --------
    >>> folder_of("device", (1.0, 0.0), 0.05, False), folder_of("device", (0.5, 0.5), 0.05, True)
    ('device-0.05', 'device-w0.5-0.05')
    """
    latency, energy = pair
    weights = f"{latency:g}" if math.isclose(latency + energy, 1.0) else f"{latency:g}+{energy:g}"
    return f"{topology}-w{weights}-{max_noise:g}" if several else f"{topology}-{max_noise:g}"


def identity_of(plan: Plan, network: Network, slowdown: Mapping[str, float], run: object) -> str:
    """Return a hash that plans share which run the same, whatever topology, limit or weight asked for them.

    They place and quantize all layers alike, tensors cross the same links in the same forms, and these links and the servers are
    as fast. `run` is what else tells two runs apart.
    """
    used = sorted({(t.source, t.target) for t in plan.transfers})
    links = [link for link in network.links if (link.source, link.target) in used]
    speeds = [(link.source, link.target, link.bandwidth_bytes_per_s, link.latency_s, link.serialise_s_per_byte) for link in links]
    servers = {network.source, *plan.servers, *(end for ends in used for end in ends)}
    crossing = sorted((t.tensor, t.source, t.target, t.form) for t in plan.transfers)
    calibration = json.dumps(plan.origin.get("calibration"), sort_keys=True) if plan.quantized else ""
    # what comes back is held against the noise of the plan
    noise = plan.noise_kind, f"{plan.noise:.6g}"
    slow = [(name, slowdown.get(name)) for name in sorted(servers)]
    placed = plan.source, sorted(plan.assignment.items()), sorted(plan.quantized), crossing
    return sha256(repr((*placed, sorted(speeds), slow, noise, calibration, run)))[:16]


def row_of(point: Point, run: Run, weights: str) -> dict[str, object]:
    """Return the row of a point; `weights` is what the model's file says of them."""
    plan, seconds = point.plan, np.array(run.latency_s)
    median, (low, high) = float(np.median(seconds)), np.percentile(seconds, [5, 95])
    return {
        "topology": point.topology,
        "latency_weight": point.latency_weight,
        "energy_weight": point.energy_weight,
        "max_noise": point.max_noise,
        "predicted_s": plan.latency_s,
        "latency_s": median,
        "low_s": float(low),
        "high_s": float(high),
        "error_%": 100.0 * (plan.latency_s / median - 1.0),
        "energy_j": plan.energy_j,
        "device_energy_j": plan.device_energy_j,
        "noise": plan.noise,
        "noise_upper": plan.noise_upper,
        "output_noise": run.output_noise,
        "output_difference": run.output_difference,
        "servers": "+".join(plan.servers),
        "source_form": plan.source_form,
        "parts": run.parts,
        "int8_layers": len(plan.quantized),
        "repeats": len(run.latency_s),
        "solve_s": plan.solve_s,
        "cut_s": run.cut_s,
        "start_s": run.start_s,
        "size_bytes": run.size_bytes,
        "pace": run.pace,
        "weights": weights,
        "plan_id": point.identity,
    }


def runs_file(results: str | Path) -> Path:
    """Return the table of every request that belongs to a table of results: ``NAME.runs.csv`` beside ``NAME.csv``."""
    return Path(results).with_name(f"{Path(results).stem}.runs.csv")


def write(results: str | Path | None, points: Sequence[Point], done: Mapping[str, Run], weights: str) -> pd.DataFrame:
    """Return the rows of the points that are done, and write them, and those of their requests, each of which is told once."""
    table = pd.DataFrame([row_of(point, done[point.identity], weights) for point in points if point.identity in done])
    if results is not None:
        first = {point.identity: point for point in reversed(points) if point.identity in done}
        requests = pd.DataFrame(
            [
                (point.topology, point.latency_weight, point.max_noise, point.identity, number, seconds)
                for point in reversed(first.values())
                for number, seconds in enumerate(done[point.identity].latency_s)
            ],
            columns=["topology", "latency_weight", "max_noise", "plan_id", "run", "latency_s"],
        )
        # in this order: a row of results is finished, and its requests are there
        write_text(runs_file(results), requests.to_csv(index=False))
        write_text(results, table.to_csv(index=False))
    return table


def finished(results: str | Path | None) -> dict[str, Run]:
    """Return what earlier runs gave, by the identity of their plans, where figures and requests are all there."""
    if results is None or not exists(results) or not exists(runs_file(results)):
        return {}
    rows, requests = read_table(results), read_table(runs_file(results), numbers=frozenset({"run"}))
    own = [field.name for field in fields(Run)]
    if not {"plan_id", *own} <= {*rows} or not {"plan_id", "latency_s"} <= {*requests}:
        return {}
    seconds = requests.groupby("plan_id", sort=False)["latency_s"].agg(tuple).to_dict()
    told = rows.set_index("plan_id")[own].to_dict("records")
    return {
        identity: Run(**{str(name): value for name, value in row.items()} | {"latency_s": seconds[identity]})
        for identity, row in zip(rows["plan_id"], told, strict=True)
        if identity in seconds
    }
