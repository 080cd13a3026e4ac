"""What is asked of a solver, and how it is to be answered: the keywords of `split`, checked once and passed on whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, OptionError, nearest, raise_problems, shortened
from dnnsplit.ground.units import is_number
from dnnsplit.profiling.wire_forms import PLAIN

CHOICES = {"objective": ("latency", "throughput"), "normalise": ("limited", "fixed"), "routing": ("direct", "relay")}
# what `Request` checks itself, to tell all that is wrong with it at once
OWN_CHECKS = ("max_noise", "latency_weight", "energy_weight", "max_device_energy_j", "max_energy_j")
METHODS = ("auto", "elimination", "milp", "slides")


@dataclass(frozen=True)
class Request:
    """What is minimised, under which limits, and what else a placement has to keep; see `split` for each."""

    max_noise: float | None = None
    latency_weight: float = 1.0
    energy_weight: float = 0.0
    max_device_energy_j: float | None = None
    max_energy_j: float | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    forbid: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    colocate: Sequence[Sequence[str]] = ()
    forbid_links: Sequence[tuple[str, str]] = ()
    routing: str = "direct"
    objective: str = "latency"
    normalise: str = "limited"
    confidence: float | None = None
    source_forms: str | Sequence[str] | None = None
    wire_forms: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("pins", "forbid"):
            object.__setattr__(self, name, {} if getattr(self, name) is None else getattr(self, name))
        check_arguments(Request, vars(self), but=OWN_CHECKS)
        forbid = {layer: (on,) if isinstance(on, str) else tuple(on) for layer, on in self.forbid.items()}
        object.__setattr__(self, "forbid", forbid)
        object.__setattr__(self, "pins", dict(self.pins))
        for name in ("source_forms", "wire_forms"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else None if given is None else tuple(given))
        if self.max_noise is not None:
            if not is_number(self.max_noise) or math.isnan(self.max_noise):
                message = f"max_noise is {shortened(self.max_noise)}, not a number; give 0 or more, or None for no limit"
                raise NoiseError(message)
            if self.max_noise < 0:
                message = f"max_noise is {self.max_noise!r}; it must be 0 or more (0 keeps every layer in float32)"
                raise NoiseError(message)
        problems = []
        for name in ("latency_weight", "energy_weight"):
            if not is_number(value := getattr(self, name)) or not 0 <= value < math.inf:
                problems.append(f"{name} is {shortened(value)}; it must be a number, 0 or more")
        for name in ("max_device_energy_j", "max_energy_j"):
            if (value := getattr(self, name)) is not None and (not is_number(value) or not value >= 0):
                problems.append(f"{name} is {shortened(value)}; it must be a number of joules, 0 or more, or None")
        if not problems and self.latency_weight == self.energy_weight == 0:
            problems.append("latency_weight and energy_weight are both 0; there is nothing to minimise")
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                problems.append(f"{name} {value!r} is unknown{nearest(value, known)}")
        raise_problems(OptionError, "options", problems)
        for name in ("max_device_energy_j", "max_energy_j"):
            if getattr(self, name) == math.inf:  # no limit, which a solver wants told so
                object.__setattr__(self, name, None)

    @property
    def restricts(self) -> bool:
        """Whether some placements are out of the question, whatever they cost."""
        return bool(self.pins or self.forbid or self.colocate or self.forbid_links)


@dataclass(frozen=True)
class Effort:
    """How a question is answered: by which method and solver, and when that may stop; see `split`."""

    method: str = "auto"
    solver: str = "HiGHS"
    gap: float = 1e-9
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        check_arguments(Effort, vars(self), least={"gap": 0, "time_limit_s": 0})
        if self.method not in METHODS:
            message = f"method {self.method!r} is unknown{nearest(self.method, METHODS)}"
            raise OptionError(message)


Kind = TypeVar("Kind", Request, Effort)


def picked(kind: type[Kind], keywords: Mapping[str, Any]) -> Kind:
    """Make a request, or an effort, from those of the keywords of `split` that are its own; the slides send float32."""
    own = {f.name for f in fields(kind)}
    if keywords.get("method") == "slides" and keywords.get("source_forms") is None:
        keywords = {**keywords, "source_forms": (PLAIN,)}
    return kind(**{name: value for name, value in keywords.items() if name in own})
