"""Verify and cut: no scheme is accepted on a prediction alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dnnsplit.ground.errors import NoiseError, OptionError, nearest
from dnnsplit.ground.tolerance import within
from dnnsplit.noise.models import NoiseModel, Table
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.schemes import pack, pack_schemes, row_of

MOST = 35  # measurements


@dataclass(frozen=True)
class Verified:
    """Layers to quantize whose noise was measured.

    Attributes
    ----------
    quantized : tuple[str, ...]
        The layers.
    noise : float
        Measured; at most the limit.
    measured : Mapping[tuple[str, tuple[str, ...]], float]
        Noise of every lossy form of the inputs ("" for none) and scheme that was measured for it, in that order.
    choice : Any
        What `choose` returned for it.
    source : str
        The lossy form of the inputs, "" for none.
    """

    quantized: tuple[str, ...]
    noise: float
    measured: Mapping[tuple[str, tuple[str, ...]], float] = field(default_factory=dict, repr=False)
    choice: Any = field(default=None, repr=False)
    source: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Informed(NoiseModel):
    """A noise model on its optimistic side, and the noise of schemes that is known (see `verify`)."""

    model: NoiseModel
    known: Mapping[int, float]

    kind = "informed"

    def __post_init__(self) -> None:
        floor = self.known[0] if 0 in self.known else float(self.model.optimistic(np.zeros((1, len(self.layers)), bool))[0])
        object.__setattr__(self, "floor", floor)

    def _noise(self, q: np.ndarray) -> np.ndarray:
        low = self.model.optimistic(q).tolist()
        return np.array([self.known.get(key, value) for key, value in zip(pack_schemes(q).tolist(), low, strict=True)], float)


def informed(noise: NoiseModel, known: Mapping[str, Mapping[int, float]]) -> NoiseModel:
    """Return a model on its optimistic side that was told measurements, by the lossy form of the inputs ("" for none)."""
    return _by_form(noise, {form: Informed(noise.layers, noise.at(form), known[form]) for form in ("", *noise.sources)})


def _by_form(noise: NoiseModel, views: Mapping[str, NoiseModel]) -> NoiseModel:
    sources = {form: view for form, view in views.items() if form}
    return replace(views[""], sources=sources, tensors=noise.tensors, origin=noise.origin)


def certain(noise: NoiseModel, samples: NoiseSamples | None = None, fresh: bool = False) -> dict[str, dict[int, float]]:
    """Return the noise that needs no measurement, by lossy form of the inputs and scheme; the arguments are those of `verify`."""
    known = {form: {} if fresh else noise.at(form).certain() for form in noise.sources}
    known = {"": {0: 0.0} if fresh else noise.certain(), **known}
    for form, part in {"": samples, **samples.sources}.items() if samples else ():
        if form in known and part:
            known[form] |= dict(zip(pack_schemes(part.schemes).tolist(), part.noise.tolist(), strict=True))
    return known


def verify(
    noise: NoiseModel,
    measure: Callable[..., float],
    choose: Callable[[NoiseModel], Any],
    max_noise: float,
    samples: NoiseSamples | None = None,
    fresh: bool = False,
) -> Verified:
    """Choose by prediction, measure the choice, exclude it if it is too noisy, and choose again.

    A model that is right to 1 % on average is wrong where it matters: the best scheme within a limit tends to be one whose
    noise was underestimated. So the model is read on its optimistic side, every measurement is told to it, and the first
    choice that holds is taken: it is the best of all schemes whose optimistic prediction is within the limit. After `MOST`
    measurements the best scheme that was measured is chosen (with none, nothing is quantized).

    Parameters
    ----------
    noise : NoiseModel
        Predicts; a Gaussian process learns from the measurements.
    measure : Callable[..., float]
        Names of the quantized layers -> measured noise, by the same metric and setting as the samples. Where the inputs come in
        a lossy form, its name is the second argument; it is asked so for choices in such forms alone.
    choose : Callable[[NoiseModel], Any]
        Noise model -> the best choice within max_noise by that model: names of layers, or an object with the attribute
        ``quantized``, such as a plan, and ``lossy_source``, the lossy form of the inputs ("" or left out for none).
    max_noise : float
        eta_max.
    samples : NoiseSamples | None, optional
        Measured before, such as those that `noise` was fitted to; they are not measured again.
    fresh : bool, default False
        `measure` tells another number than the model's, on other images or a bound, so that nothing of a table is known.

    Returns
    -------
    Verified
        Its noise was measured and keeps `max_noise`, to `dnnsplit.ground.tolerance.TOLERANCE`.

    Raises
    ------
    OptionError
        A limit below 0.
    NoiseError
        Samples of other layers, `choose` broke the limit or took a form that the model does not know, or `measure` returned
        something that is no noise.
    """
    if not 0 <= max_noise < np.inf:
        message = f"max_noise is {max_noise!r}; it must be a number, 0 or more"
        raise OptionError(message)
    if samples is not None and samples.layers != noise.layers:
        message = f"the samples are of the layers {samples.layers}, the noise model of {noise.layers}"
        raise NoiseError(message)
    known = certain(noise, samples, fresh)
    measured: dict[tuple[str, tuple[str, ...]], float] = {}
    while True:
        more = len(measured) < MOST
        tables = {form: Table(noise.layers, found) for form, found in known.items()}
        choice = choose(informed(noise, known) if more else _by_form(noise, tables))
        names, form = tuple(getattr(choice, "quantized", choice)), getattr(choice, "lossy_source", "")
        if form not in known:
            message = f"the choice takes its inputs as {form!r}, a form without a noise{nearest(form, noise.sources)}"
            raise NoiseError(message)
        scheme = row_of(noise.layers, names)
        key, what = pack(scheme), f"{names} with inputs as {form!r}" if form else f"{names}"
        if key not in known[form] and more:
            value = measured[form, names] = float(measure(names, form) if form else measure(names))
            if not 0 <= value < math.inf:
                message = f"the measured noise of {what} is {value!r}; it must be a number, 0 or more"
                raise NoiseError(message)
            known[form] = known[form] | {key: value}
            noise = _learned(noise, form, scheme, value)
        elif not within(known[form].get(key, math.inf), max_noise):
            message = f"the choice {what} is not within max_noise {max_noise:g} by the model it was made with"
            raise NoiseError(message)
        if within(known[form][key], max_noise):
            return Verified(names, known[form][key], measured, choice, form)


def _learned(noise: NoiseModel, form: str, scheme: np.ndarray, value: float) -> NoiseModel:
    learned = noise.at(form).learn(scheme[None], np.array([value]))
    return replace(noise, sources={**noise.sources, form: learned}) if form else learned
