"""Design of experiments: which schemes to measure when all of them are too many."""

from __future__ import annotations

import math

import numpy as np

from dnnsplit.ground.errors import NoiseError
from dnnsplit.ground.units import is_whole
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.schemes import all_schemes, pack_schemes

LISTED = 11  # layers up to which every scheme is a candidate
CANDIDATES = 2048  # random ones to choose from, where there are more layers
RESIDUAL = 1e-3  # variance of what no product of layers explains, where their sum has the variance 1


def design_schemes(layers: int, budget: int = 40, samples: NoiseSamples | None = None, seed: int = 0) -> np.ndarray:
    """Return the schemes to measure next, in two stages.

    First each layer alone and all together (without samples, or as far as samples lack them). Then, from the noise of each
    layer alone, the schemes that leave the least variance over all schemes (I-optimal: integrated mean squared error): those
    that lower it most one by one, then each exchanged for a better one while there is one (Fedorov, Theory of Optimal
    Experiments, 1972). The prior is of products of 2 q_i - 1, the variance of each being the product of its layers' noise
    alone (heredity); it needs nothing else of the samples.

    Parameters
    ----------
    layers : int
        How many.
    budget : int, default 40
        Of schemes in all, those of `samples` among them.
    samples : NoiseSamples | None, optional
        What was measured before, columns in the order of the layers.
    seed : int, default 0
        Of the `CANDIDATES`, where there are more schemes than that.

    Returns
    -------
    int8 (n, layers)
        Schemes that `samples` lacks; none when the budget is spent.

    Raises
    ------
    NoiseError
        A budget that does not cover the first stage, samples of other layers, or no layer with noise alone.

    Examples
    --------
    >>> design_schemes(3, budget=6).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    """
    least = layers + (layers > 1)
    if not is_whole(budget, least):
        message = f"budget {budget!r}: {layers} layers need {least} or more, each alone and all together"
        raise NoiseError(message)
    first = np.vstack([np.eye(layers), np.ones((least - layers, layers))]).astype(np.int8)
    if samples is None:
        return first
    if len(samples.layers) != layers:
        message = f"the samples are of {len(samples.layers)} layers, the design is for {layers}"
        raise NoiseError(message)
    known = samples.schemes[samples.schemes.any(axis=1)]
    number = min(int(budget), 2**layers - 1) - len(known)
    missing = first[~np.isin(pack_schemes(first), pack_schemes(known))]
    if len(missing) or number <= 0:
        return missing[: max(number, 0)]
    alone = NoiseModel.measured(samples).predict(first[:layers])
    if not alone.any():
        message = "no layer has any noise alone; there is nothing to tell a good design from a bad one"
        raise NoiseError(message)
    if layers <= LISTED:
        rows = all_schemes(layers)[1:]
    else:
        size = (max(CANDIDATES, number), layers)
        rows = np.unique(np.random.default_rng(seed).integers(0, 2, size, np.int8), axis=0)
    return _optimal(known, alone / alone.sum(), number, rows[~np.isin(pack_schemes(rows), pack_schemes(known))])


def _optimal(known: np.ndarray, weight: np.ndarray, number: int, rows: np.ndarray) -> np.ndarray:
    """Choose `number` of the rows; the variance left on the rows stands for that on all schemes."""
    every = np.vstack([rows, np.zeros((1, len(weight))), known])  # q = 0 is known without a measurement
    prior = np.ones((len(every), len(every)))
    for of_layer, signs in zip(weight, 2.0 * every.T - 1.0, strict=True):  # the sum over all products of layers, factored
        prior *= 1.0 + of_layer * np.outer(signs, signs)
    across, inner = prior[: len(rows), len(rows) :], prior[len(rows) :, len(rows) :]
    inner = inner + RESIDUAL * np.eye(len(inner))
    left = prior[: len(rows), : len(rows)] - across @ np.linalg.solve(inner, across.T)
    chosen: list[int] = []

    def best() -> int:
        value = (left**2).sum(axis=1) / (np.diag(left) + RESIDUAL)
        value[chosen] = -1.0
        return int(value.argmax())

    def update(row: int, added: bool) -> None:
        change = left[row] / math.sqrt(left[row, row] + RESIDUAL if added else RESIDUAL - left[row, row])
        left[...] += np.outer(change, -change if added else change)

    for _ in range(number):
        chosen.append(best())
        update(chosen[-1], added=True)
    for _ in range(2):
        before = sorted(chosen)
        for _ in range(number):
            update(chosen.pop(0), added=False)
            chosen.append(best())
            update(chosen[-1], added=True)
        if sorted(chosen) == before:
            break
    return rows[chosen].astype(np.int8)
