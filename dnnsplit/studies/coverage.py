"""How often a noise limit is broken on images that were not measured, and what it costs to break it seldom.

Told by the bootstrap (Efron, Ann. Statist. 7, 1979): the images that there are stand for all images, and draws of some of them,
with replacement, for those that were measured. Against the few images that a draw without replacement leaves over, the
sampling error of their own mean would count as a broken limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import NoiseError, raise_problems
from dnnsplit.ground.tolerance import within
from dnnsplit.network.servers import Network
from dnnsplit.noise.confidence import upper_bound
from dnnsplit.noise.meter import NoiseMeter
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.schemes import pack_schemes
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.question import ask


def coverage(
    meter: NoiseMeter,
    graph: LayerGraph,
    network: Network,
    times: LayerTimes,
    measured: int | None = None,
    limits: Sequence[float] | None = None,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose among the schemes that a meter has measured as `split` would, on draws of its images, and look at all of them.

    Only schemes are chosen, of inputs that come without a loss, in whichever form is fastest.

    Parameters
    ----------
    meter : NoiseMeter
        Has measured the schemes that there are to choose from, such as those of fronts.
    graph, network, times : LayerGraph, Network, LayerTimes
        The latency of a scheme is that of its best placement.
    measured : int | None, optional
        As for `resampled`; by default as many images as there are.
    limits : Sequence[float] | None, optional
        On the noise; by default eight, evenly from none to the most that was measured.
    confidence, resamples, seed : float, int, int
        As for `resampled`.

    Returns
    -------
    pd.DataFrame
        As of `resampled`, the value being the latency [s].
    """
    times.check_setting(meter.origin["setting"])
    schemes = np.vstack([np.zeros(len(meter.layers)), meter.measured.schemes]).astype(np.int8)
    schemes = np.unique(schemes, axis=0)
    latency = ask(graph, network, times, NoiseModel.measured(meter.samples(schemes, progress=False))).optima.value
    value = latency[pack_schemes(schemes)]
    noise = meter.by_image(schemes)
    if limits is None:
        limits = np.linspace(0.0, noise.mean(axis=1).max(), 9)[1:].tolist()
    return resampled(noise, value, limits, measured or noise.shape[1], confidence, resamples, seed)


def resampled(
    noise: np.ndarray,
    value: np.ndarray,
    limits: Sequence[float],
    measured: int,
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose schemes on draws of images, and look at their noise on all images.

    In each resample the scheme of least value is chosen among those that keep a limit on a random draw of images: by their mean,
    and by its upper confidence bound. It breaks the limit if its mean over all images is above it.

    Parameters
    ----------
    noise : np.ndarray
        float (schemes, images), of each scheme on each image; one of them is 0 on all.
    value : np.ndarray
        float (schemes,), what is least of those that keep the limit, such as the latency of the best placement [s].
    limits : Sequence[float]
        On the noise.
    measured : int
        How many images are drawn, with replacement.
    confidence : float, default 0.95
        Of the bound.
    resamples, seed : int, optional
        How often images are drawn, and which.

    Returns
    -------
    pd.DataFrame
        One row per limit and rule: limit, rule ("mean" or "bound"), broken_% (share of resamples whose limit is broken),
        most_over_% (by how much at most), value (mean of the chosen ones).

    Raises
    ------
    NoiseError
        No scheme without noise, or too few images.
    """
    noise, value = np.asarray(noise, float), np.asarray(value, float)
    problems = []
    if not (noise == 0).all(axis=1).any():
        problems.append("no scheme has the noise 0 on all images; add the one that quantizes nothing")
    if measured < 2 or noise.shape[1] < 2:
        problems.append(f"{measured} of {noise.shape[1]} images are too few; a spread over images needs 2 or more of both")
    raise_problems(NoiseError, "coverage", problems)
    rng, rows, whole = np.random.default_rng(seed), [], noise.mean(axis=1)
    for _ in range(resamples):
        drawn = noise[:, rng.integers(0, noise.shape[1], measured)]
        mean = drawn.mean(axis=1)
        rules = {"mean": mean, "bound": upper_bound(mean, drawn.std(axis=1, ddof=1), measured, confidence)}
        for limit in limits:
            for rule, told in rules.items():
                chosen = int(np.where(within(told, limit), value, np.inf).argmin())
                over = 0.0 if within(whole[chosen], limit) else whole[chosen] / limit - 1 if limit else np.inf
                rows.append((limit, rule, over, value[chosen]))
    table = pd.DataFrame(rows, columns=["limit", "rule", "over", "value"])
    of = table.assign(broken=100.0 * (table["over"] > 0)).groupby(["limit", "rule"], sort=False)
    columns = {"broken_%": of["broken"].mean(), "most_over_%": 100.0 * of["over"].max(), "value": of["value"].mean()}
    return pd.DataFrame(columns).reset_index()
