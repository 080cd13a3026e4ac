"""Verify and cut: no scheme is accepted on a prediction alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dnnsplit.ground.errors import NoiseError, OptionError
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
    measured : Mapping[tuple[str, ...], float]
        Noise of every scheme that was measured for it, in that order.
    choice : Any
        What `choose` returned for it.
    """

    quantized: tuple[str, ...]
    noise: float
    measured: Mapping[tuple[str, ...], float] = field(default_factory=dict, repr=False)
    choice: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class Informed(NoiseModel):
    """A noise model on its optimistic side, and the noise of schemes that is known (see `verify`)."""

    model: NoiseModel
    known: Mapping[int, float]

    kind = "informed"

    def _noise(self, q: np.ndarray) -> np.ndarray:
        low = self.model.optimistic(q).tolist()
        return np.array([self.known.get(key, value) for key, value in zip(pack_schemes(q).tolist(), low, strict=True)], float)


def verify(
    noise: NoiseModel,
    measure: Callable[[tuple[str, ...]], float],
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
    measure : Callable[[tuple[str, ...]], float]
        Names of the quantized layers -> measured noise, by the same metric and setting as the samples.
    choose : Callable[[NoiseModel], Any]
        Noise model -> the best choice within max_noise by that model: names of layers, or an object with the attribute
        ``quantized``, such as a plan.
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
        Samples of other layers, `choose` broke the limit, or `measure` returned something that is no noise.
    """
    if not 0 <= max_noise < np.inf:
        message = f"max_noise is {max_noise!r}; it must be a number, 0 or more"
        raise OptionError(message)
    if samples is not None and samples.layers != noise.layers:
        message = f"the samples are of the layers {samples.layers}, the noise model of {noise.layers}"
        raise NoiseError(message)
    known = {0: 0.0} if fresh else noise.certain()
    if samples is not None:
        known |= dict(zip(pack_schemes(samples.schemes).tolist(), samples.noise.tolist(), strict=True))
    measured: dict[tuple[str, ...], float] = {}
    while True:
        more = len(measured) < MOST
        view = Informed(noise.layers, noise, known) if more else Table(noise.layers, known)
        choice = choose(replace(view, origin=noise.origin))
        names = tuple(getattr(choice, "quantized", choice))
        scheme = row_of(noise.layers, names)
        key = pack(scheme)
        if key not in known and more:
            value = measured[names] = float(measure(names))
            if not 0 <= value < np.inf:
                message = f"the measured noise of {names} is {value!r}; it must be a number, 0 or more"
                raise NoiseError(message)
            known = known | {key: value}
            noise = noise.learn(scheme[None], np.array([value]))
        elif not within(known.get(key, np.inf), max_noise):
            message = f"the choice {names} is not within max_noise {max_noise:g} by the model it was made with"
            raise NoiseError(message)
        if within(known[key], max_noise):
            return Verified(names, known[key], measured, choice)
