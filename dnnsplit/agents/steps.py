"""What a deployer keeps in the folder of its deployment: the request, the steps it has taken, the state of now, every switch."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dnnsplit.agents.deployments import REQUEST, STATE, STEPS, SWITCHES
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import write_json
from dnnsplit.ground.forms import formed

COLUMNS = ["at", "reason", "from", "to", "servers", "promised_s", "stayed_s", "noise", "took_s"]


@dataclass(frozen=True)
class Request:
    """What a deployment is to be.

    Attributes
    ----------
    model : str
        Name of the ONNX file among `files`.
    files : Mapping[str, str]
        Name -> hash: the model, files of its weights, and the images.
    shapes : Mapping[str, tuple[int, ...]]
        Of inputs that the model leaves open.
    images : str
        Name of the file of images; empty for none.
    count : int
        How many images are in it.
    max_noise : float | None
        Limit on the noise; 0 quantizes nothing.
    confidence : float | None
        With which the limit is to hold on other images.
    latency_weight, energy_weight : float
        As for `split`.
    max_device_energy_j : float | None
        As for `split` [J].
    layers, budget : int
        How many layers may run in int8, and how many schemes the noise is measured of.
    setting : str
        How int8 is made.
    provider : str
        Execution provider of every host.
    deadline_s, in_flight : float, int
        Of the stages.
    """

    model: str
    files: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    images: str = ""
    count: int = 0
    max_noise: float | None = None
    confidence: float | None = 0.95
    latency_weight: float = 1.0
    energy_weight: float = 0.0
    max_device_energy_j: float | None = None
    layers: int = 12
    budget: int = 40
    setting: str = "default"
    provider: str = "cpu"
    deadline_s: float = 60.0
    in_flight: int = 8

    @property
    def quantizes(self) -> bool:
        """Whether anything may run in int8."""
        return bool(self.images) and self.max_noise != 0 and self.layers > 0

    @property
    def counts_energy(self) -> bool:
        """Whether plans are chosen by energies."""
        return self.energy_weight > 0 or self.max_device_energy_j is not None

    def for_jobs(self) -> dict[str, Any]:
        """Return what jobs are told of it."""
        return {
            "files": dict(self.files), "model": self.model, "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "images": self.images, "count": self.count, "setting": self.setting,
            "layers": self.layers if self.images else 0,  # also where this limit quantizes nothing: another one may
        }  # fmt: skip


class Journal:
    """The files of one deployment, which a person can read.

    Parameters
    ----------
    folder : Path
        Of the deployment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.read_at = folder, 0
        self._told: dict[str, Any] = {}

    def request(self) -> Request:
        """Read what is asked for.

        Raises
        ------
        DeployError
            The file is not there, or not readable.
        """
        path = self.folder / REQUEST
        try:
            self.read_at = path.stat().st_mtime_ns
            found = msgspec.json.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            message = f"{path} is not readable: {error}"
            raise DeployError(message) from None
        return formed(found, Request, DeployError, str(path))

    def has_changed(self) -> bool:
        """Whether something else is asked for than was read last."""
        try:
            return (self.folder / REQUEST).stat().st_mtime_ns != self.read_at
        except OSError:
            return True

    def step(self, step: str, text: str, **more: Any) -> None:
        """Tell of a step."""
        with (self.folder / STEPS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "text": text, "at": time.time(), **more}) + "\n")

    def last(self) -> dict[str, Any]:
        """Return how things stood last; nothing before the first time."""
        path = self.folder / STATE
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def state(self, **what: Any) -> None:
        """Say how things stand, where that is news."""
        if what != self._told:
            write_json(self.folder / STATE, what | {"at": time.time()})
            self._told = what

    def switched(self, row: Mapping[str, Any]) -> None:
        """Tell of a switch to another plan: why, and what was promised of both."""
        path = self.folder / SWITCHES
        new = not path.is_file()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **row})
