"""How far quantized outputs are from the float32 model's: what is kept of one image, and the metrics made of it.

Metrics that serve as a noise, 0 where nothing is quantized and more where it is worse:

- ``rho`` (the slides; the L1 average): mean over images, then over outputs, of mean |o - o_q|
- ``relative``: the same with each output's mean |o - o_q| divided by its mean |o|
- ``nsr``: root of the power of o - o_q over the power of o, the powers' ratio averaged over outputs
- ``inf``: the infinity norm, max |o - o_q|; it and the following are averaged as rho is
- ``l1``: the L1 norm, sum |o - o_q|; the largest output rules it, as it does the L2 norm
- ``l2``: the L2 norm, root of sum (o - o_q)^2
- ``l2_mean``: the L2 average, the L2 norm divided by the number of values of the output
- ``top1``: of outputs (1, n) of two values or more alone, as a classifier's scores are: the share of images where another value
  is the largest; where the largest value is no answer, as in an embedding, it means nothing
- ``disagreement``: 1 - agreement of the detections with the float32 model's (see `dnnsplit.noise.detections.agreement`), by their
  masks where the model segments

What a limit on one of them means for another, `dnnsplit.noise.limits.noise_for` tells.

A mean average precision over a few labelled images is no such metric: it rests on a few hundred boxes, so that quantizing
changes it less than another choice of images would, and many schemes even score above the float32 model. A limit on it
would be met by chance. Limit a noise instead, and look at the precision, with its spread, of the plans that come out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dnnsplit.ground.differences import absolute, magnitude
from dnnsplit.ground.errors import NoiseError, nearest
from dnnsplit.noise.detections import agreement, decode
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.segments import Segments, are_segments, decode_segments, segments_agreement

PER_OUTPUT = ("rho", "relative", "nsr", "inf", "l1", "l2", "l2_mean")
SHOWN = 0.25  # score from which on a detection counts as one


def ranked(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return which outputs may rank classes, by their shapes: (1, n), of two values or more."""
    return tuple(i for i, shape in enumerate(shapes) if len(shape) == 2 and shape[0] == 1 and shape[1] > 1)


def kept(outputs: Sequence[str], detections: bool = False, ranking: Sequence[int] = ()) -> tuple[str, ...]:
    """Return the names of the numbers that `errors` gives for one image."""
    names = [f"{metric}:{output}" for output in outputs for metric in PER_OUTPUT]
    return (*names, *(f"top1:{outputs[i]}" for i in ranking), *["disagreement"] * detections)


def shown(outputs: Sequence[np.ndarray]) -> np.ndarray | Segments:
    """Return the detections in the first output of one image, with masks where the second has their prototypes."""
    if are_segments([output.shape for output in outputs]):
        return decode_segments(outputs[0], outputs[1], SHOWN)
    return decode(outputs[0], SHOWN)


def _agreement(found: np.ndarray | Segments, reference: np.ndarray | Segments) -> float:
    if isinstance(found, Segments) and isinstance(reference, Segments):
        return segments_agreement(found, reference)
    return agreement(np.asarray(found), np.asarray(reference))


def errors(
    reference: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    detections: np.ndarray | Segments | None = None,
    ranking: Sequence[int] = (),
) -> np.ndarray:
    """Compare the outputs of the quantized model for one image with the float32 model's.

    So are the largest values of those that rank classes (see `ranked`), and the detections (see `shown`).

    The numbers are those that `kept` names. A ratio to an output that is 0 everywhere is infinite, and so is all where an output
    holds a value that is no number and the other does not hold the same.
    """
    found = []
    for wanted, output in zip(reference, outputs, strict=True):
        change, exact = absolute(output, wanted), magnitude(wanted)
        count, worst = max(change.size, 1), float(change.max(initial=0.0))
        l1, whole = float(change.sum()), float(exact.sum())
        # in place, as outputs are large; and not by @, which would start BLAS's threads
        power, full = (float(np.square(values, out=values).sum()) for values in (change, exact))
        l2 = power**0.5
        found += [l1 / count, _ratio(l1, whole), _ratio(power, full) ** 0.5, worst, l1, l2, l2 / count]
    found += [float(outputs[i].argmax() != reference[i].argmax()) for i in ranking]
    if detections is not None:
        found.append(1.0 - _agreement(shown(outputs), detections))
    return np.array(found)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else np.inf if part > 0 else 0.0


def by_image(
    numbers: np.ndarray, outputs: Sequence[str], detections: bool = False, ranking: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """Turn the numbers that were kept, (schemes, images, numbers), into metrics of each image: (schemes, images) by metric.

    They are those of `PER_OUTPUT`, snr_db (-20 log10 nsr; of L1 norms it would be -20 log10 relative), top1 where an output ranks
    classes, then the same per output as ``rho:output`` and so on if there are several, then disagreement.
    """
    of_image: dict[str, np.ndarray] = {}
    by_name = {name: numbers[..., i] for i, name in enumerate(kept(outputs, detections, ranking))}
    for metric in PER_OUTPUT:
        power = 2 if metric == "nsr" else 1
        each = [by_name[f"{metric}:{output}"] ** power for output in outputs]
        of_image[metric] = np.mean(each, axis=0) ** (1 / power)
    of_image["snr_db"] = _decibels(of_image["nsr"])
    if ranking:
        of_image["top1"] = np.mean([by_name[f"top1:{outputs[i]}"] for i in ranking], axis=0)
    if len(outputs) > 1:
        of_image |= {name: value for name, value in by_name.items() if ":" in name}
        of_image |= {f"snr_db:{output}": _decibels(by_name[f"nsr:{output}"]) for output in outputs}
    if detections:
        of_image["disagreement"] = by_name["disagreement"]
    return of_image


def metrics_of(
    numbers: np.ndarray, outputs: Sequence[str], detections: bool = False, ranking: Sequence[int] = ()
) -> pd.DataFrame:
    """Return the metrics of `by_image` per scheme: the mean over images and, as ``... std``, its spread (NaN for one image)."""
    table: dict[str, np.ndarray] = {}
    with np.errstate(invalid="ignore"):  # the spread of an infinite signal-to-noise ratio is no number
        for name, value in by_image(numbers, outputs, detections, ranking).items():
            spread = value.std(axis=1, ddof=1) if value.shape[1] > 1 else np.full(len(value), np.nan)
            table |= {name: value.mean(axis=1), f"{name} std": spread}
    return pd.DataFrame(table)


def _decibels(nsr: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(-20.0 * np.log10(nsr))


def check_metric(metric: str, outputs: Sequence[str], detections: bool, ranking: Sequence[int] = ()) -> None:
    """Raise NoiseError unless the metric can serve as a noise."""
    names = [*PER_OUTPUT, *["top1"] * bool(ranking), *["disagreement"] * detections]
    names += kept(outputs, ranking=ranking) if len(outputs) > 1 else ()
    if metric not in names:
        way_out = "; snr_db is infinite where nothing is quantized: take nsr" if metric.startswith("snr") else ""
        message = f"metric {metric!r} is unknown{nearest(metric, names)}{way_out}"
        raise NoiseError(message)


def fragile(samples: NoiseSamples, times: float = 20.0, relative: float = 0.5) -> dict[str, float]:
    """Name the layers that break the outputs when they alone are quantized, such as the decoding tail of a detector.

    A layer breaks them if its noise alone is more than `times` the median of all layers' noise alone, or if it changes the
    outputs by more than the share `relative` of their own size.

    Parameters
    ----------
    samples : NoiseSamples
        Every layer alone among them; take many layers, so that the median is of layers that do no harm, like
        ``measure_noise(graph, images, layers=10**9, schemes="alone")``.
    times, relative : float, optional
        The two thresholds; the second needs the samples' `details`.

    Returns
    -------
    dict[str, float]
        Noise alone by layer, the noisiest first.

    Raises
    ------
    NoiseError
        A layer was not measured alone.
    """
    where = samples.alone
    missing = [name for i, name in enumerate(samples.layers) if i not in where]
    if missing:
        message = f"{len(missing)} layers were not measured alone ({missing[0]!r} is one); measure schemes='alone'"
        raise NoiseError(message)
    if not samples.layers:
        return {}
    rows = [where[i] for i in range(len(samples.layers))]
    alone = samples.noise[rows]
    broken = alone > times * np.median(alone)
    if samples.details is not None:
        broken |= samples.details["relative"].to_numpy()[rows] > relative
    order = np.argsort(-alone, kind="stable")
    return {samples.layers[i]: float(alone[i]) for i in order if broken[i]}
