"""What verifies plans: a measure of their noise, and of its upper bound over images that did not choose them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature

import numpy as np

from dnnsplit.ground.errors import NoiseError, OptionError, raise_problems
from dnnsplit.noise.confidence import upper_bound
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.schemes import names_of, row_of
from dnnsplit.quantize.setting import mixed_settings
from dnnsplit.solving.plan import Plan

Measure = Callable[..., float]


@dataclass(frozen=True, eq=False)
class Measurer:
    """A measure of noise, as verification asks for it.

    Attributes
    ----------
    measure : Measure
        Names of the quantized layers -> noise; a `dnnsplit.noise.meter.NoiseMeter`, where bounds are asked for. The lossy form
        of the inputs, where they come in one, is its second argument.
    layers : tuple[str, ...]
        V_Q, in the order of schemes.
    fresh : bool
        Whether it tells another number than the noise model does: on other images, or a bound.
    confidence : float | None
        Of the bounds; None takes the mean for its own bound.
    """

    measure: Measure
    layers: tuple[str, ...]
    fresh: bool
    confidence: float | None
    # mean and bound, by lossy form of the inputs and layers
    _known: dict[tuple[str, tuple[str, ...]], tuple[float, float]] = field(default_factory=dict, repr=False)

    def bound(self, quantized: Sequence[str], source: str = "") -> float:
        """Return the upper bound of the noise when exactly these layers are quantized, and the inputs come in this lossy form."""
        key = source, tuple(quantized)
        if key not in self._known:
            if self.confidence is None:
                self._known[key] = (self.measure(key[1], *_named(source)),) * 2
            else:
                self.measure_all(row_of(self.layers, quantized)[None], progress=False, source=source)
        return self._known[key][1]

    def measure_all(self, schemes: np.ndarray | Sequence[Sequence[int]], progress: bool = True, source: str = "") -> None:
        """Measure some schemes, 0/1 (n, layers), in one walk where the measure can; `bound` knows them then."""
        rows = [names_of(self.layers, row) for row in schemes]
        if not hasattr(self.measure, "samples"):
            for names in rows:
                self.bound(names, source)
            return
        self._keep(source, self.measure.samples(schemes, progress, *_named(source)))

    def measure_forms(self, schemes: Mapping[str, np.ndarray], progress: bool = True) -> None:
        """Measure some schemes by the lossy form of the inputs, all in one walk where the measure can."""
        if hasattr(self.measure, "by_form"):
            for form, samples in self.measure.by_form(schemes, progress).items():
                self._keep(form, samples)
        else:
            for form, rows in schemes.items():
                self.measure_all(rows, progress, form)

    def _keep(self, source: str, samples: NoiseSamples) -> None:
        """Remember means and bounds of what was measured."""
        bounds = samples.noise
        if self.confidence is not None:
            if samples.spread is None or (samples.spread[:, 1] < 2).any():
                message = "verify measures on one image; a confidence needs the spread over two or more"
                raise NoiseError(message)
            bounds = upper_bound(samples.noise, samples.spread[:, 0], samples.spread[:, 1], self.confidence)
        order = np.array([samples.layers.index(n) for n in self.layers])
        for row, mean, most in zip(samples.schemes[:, order], samples.noise.tolist(), bounds.tolist(), strict=True):
            self._known[source, names_of(self.layers, row)] = mean, most

    def told(self, plan: Plan, measurements: int) -> Plan:
        """Return a plan with the noise that was measured of it."""
        names = tuple(n for n in self.layers if n in plan.quantized)
        noisy, key = bool(names or plan.lossy_source), (plan.lossy_source, names)
        mean, most = self._known.get(key, (plan.noise, plan.noise_upper)) if noisy else (0.0, 0.0)
        if self.confidence is None and (not noisy or key in self._known):
            most = math.nan
        origin, kind = getattr(self.measure, "origin", None) or plan.origin, "measured" if noisy else "none"
        return replace(plan, noise=mean, noise_upper=most, noise_kind=kind, measurements=measurements, origin=origin)


def _named(source: str) -> tuple[str, ...]:
    """Return the argument that names a lossy form: none for inputs as they are, so that a measure needs to know of no forms."""
    return (source,) if source else ()


def _takes_forms(measure: Measure) -> bool:
    """Whether a measure can be told the lossy form of the inputs; what says nothing of its arguments is believed to."""
    try:
        signature(measure).bind((), "")
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def measurer(
    noise: NoiseModel, verify: Measure, confidence: float | None = None, samples: NoiseSamples | None = None, lossy: bool = False
) -> Measurer:
    """Check that a measure is of the noise that a model predicts, if it tells its origin; other images are welcome.

    With `lossy` plans may send inputs in lossy forms, which the measure must be able to hear of.
    """
    origin = getattr(verify, "origin", {})
    known = [k for k in ("metric", "model_sha256", "calibration") if k in origin and k in noise.origin]
    other = [k for k in known if noise.origin[k] != origin[k]]
    problems = [f"{k} is {noise.origin[k]} in the noise model, {origin[k]} in verify" for k in other if k != "calibration"]
    problems += mixed_settings({"noise model": noise.origin, "measure": origin})
    problems += ["calibration: its ranges are others" for k in other if k == "calibration"]
    raise_problems(NoiseError, "verify measures another noise than the model predicts", problems)
    if lossy and not _takes_forms(verify):
        message = "verify takes names of layers alone, and plans may send inputs in a lossy form"
        way_out = "let it take the form as a second argument, as a noise_meter does, or name source_forms without a loss"
        raise OptionError(message, way_out)
    if confidence is not None and not hasattr(verify, "samples"):
        message = "with a confidence, verify must tell the spread over images: pass a noise_meter"
        raise OptionError(message)
    images = noise.origin.get("images_sha256"), origin.get("images_sha256")
    alike = None in images or images[0] == images[1]
    if samples is not None and not alike and samples.origin.get("images_sha256") != images[1]:
        message = "the samples are of other images than verify measures on; leave samples out"
        raise NoiseError(message)
    return Measurer(verify, noise.layers, not alike or confidence is not None, confidence)
