"""What cutting a model costs the servers beside its layers: fitted to measured parts, and charged to the links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import ProfileError
from dnnsplit.ground.markup import Told
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network

TINY_S = 1e-9  # no measured time counts for less, so that one of 0 s may be fitted


@dataclass(frozen=True, repr=False)
class Overhead(Told):
    """What a part takes on one server beside its layers, and how well parts are predicted with it.

        T_part = sum of its layers + s_per_byte_in * bytes in + s_per_byte_out * bytes out + s_per_part

    Bytes are those of tensors that come from other parts or go to them, in float32: where a model is cut, int8 is unpacked,
    layouts are changed, and tensors are copied. The layers that read the model's inputs hold the `s_per_part` of the part that
    they are in, so that the uncut model is the sum of its layers; every other part is entered by tensors, and charged with
    them.

    Attributes
    ----------
    s_per_byte_in, s_per_byte_out : float
        [s/B].
    s_per_part : float
        To start a part [s].
    tensors_per_part : float
        Tensors that one more part brings, on average over the splits.
    error, worst : float
        Mean and greatest |relative error| of the summed time of all parts of a split, the links charged as `priced` does, each
        split predicted by a fit to the others (without the correction of single layers).
    splits : int
        How many were measured.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> overhead = ds.Overhead(1e-8, 0.0, 0.005, 2.0, 0.01, 0.03, 24)
    >>> overhead.scaled(0.5)
    Overhead(per part 2.5 ms; per byte in 5 ns; per byte out 0 s; error of
        predictions 1.0 % on average, 3.0 % at worst, over 24 splits)
    """

    s_per_byte_in: float
    s_per_byte_out: float
    s_per_part: float
    tensors_per_part: float
    error: float
    worst: float
    splits: int

    def __post_init__(self) -> None:
        check_arguments(Overhead, vars(self), ProfileError, least=dict.fromkeys(vars(self), 0), finite=[*vars(self)])

    def _told(self) -> tuple[object, Mapping[str, object]]:
        names = {"s_per_part": "per part", "s_per_byte_in": "per byte in", "s_per_byte_out": "per byte out"}
        facts = {told: show(getattr(self, name), "s") for name, told in names.items()}
        errors = f"{100 * self.error:.1f} % on average, {100 * self.worst:.1f} % at worst, over {self.splits} splits"
        return "", {**facts, "error of predictions": errors}

    @property
    def s_per_tensor(self) -> float:
        """`s_per_part`, spread over the tensors that one more part brings [s]."""
        return self.s_per_part / self.tensors_per_part if self.tensors_per_part else 0.0

    def scaled(self, factor: float) -> Overhead:
        """Return the same overhead on a server where everything takes `factor` times as long."""
        check_arguments(Overhead.scaled, locals(), above={"factor": 0}, finite=("factor",))
        names = ("s_per_byte_in", "s_per_byte_out", "s_per_part")
        return replace(self, **{name: getattr(self, name) * factor for name in names})


def priced(network: Network, overhead: Mapping[str, Overhead]) -> Network:
    """Charge what the servers do with a tensor that crosses to the link that it takes.

    The seconds are set, not added: pricing twice changes nothing. Only planning reads them; a test-bed paces its links
    without them, because its servers really do that work.

    Parameters
    ----------
    network : Network
        Whose links are charged; it stays as it is.
    overhead : Mapping[str, Overhead]
        By server, in seconds of that server, as `LayerTimes.overhead`; links between other servers stay as they are.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> network, overhead = ds.examples.network("device-edge"), ds.Overhead(1e-8, 0.0, 0.004, 2.0, 0.01, 0.03, 24)
    >>> priced = ds.priced(network, {"device": overhead, "edge": overhead})
    >>> priced.link("device", "edge")
    Link(device -> edge: bandwidth 5 MB/s; latency 5 ms; handling 2 ms per tensor,
        10 ns per byte; note slides of 2025-08-17)
    """
    check_arguments(priced, locals())
    links = []
    for link in network.links:
        if link.source != link.target and link.source in overhead and link.target in overhead:
            sender, receiver = overhead[link.source], overhead[link.target]
            per_byte = sender.s_per_byte_out + receiver.s_per_byte_in
            link = replace(link, handling_s=receiver.s_per_tensor, handling_s_per_byte=per_byte)
        links.append(link)
    return replace(network, links=tuple(links))


def fit_overhead(parts: pd.DataFrame) -> tuple[float, Overhead]:
    """Fit T_part = a * sum of its layers + b * bytes in + c * bytes out + d by non-negative least squares.

    The layers are to be multiplied by a, and those that read the model's inputs have d added; the overhead has b, c, d and the
    errors on splits left out of the fit. `parts` are as `measure_parts` returns them, with layers_s (sum of the layers) [s].
    """
    cut = [split for split, rows in parts.groupby("split") if len(rows) > 1]
    if len(cut) < 3:
        message = f"{len(cut)} splits are too few to fit what a cut costs and to tell the error; measure 3 or more"
        raise ProfileError(message)
    design = np.column_stack([parts["layers_s"], parts["bytes_in"], parts["bytes_out"], np.ones(len(parts))]).astype(float)
    seconds, split = parts["seconds"].to_numpy(float), parts["split"].to_numpy()
    more = sum(int((split == s).sum()) - 1 for s in cut)
    tensors = float(parts["tensors_in"].sum()) / more
    totals = parts.groupby("split")[["layers_s", "bytes_in", "bytes_out", "tensors_in", "seconds"]].sum()
    errors = []
    for left_out in cut:
        a, b, c, d = _nnls(design[split != left_out], seconds[split != left_out])
        row = totals.loc[left_out]
        starts = 1 + row["tensors_in"] / max(tensors, 1e-9)
        expected = a * row["layers_s"] + b * row["bytes_in"] + c * row["bytes_out"] + d * starts
        errors.append(abs(expected - row["seconds"]) / max(row["seconds"], TINY_S))
    a, b, c, d = _nnls(design, seconds)
    return a, Overhead(b, c, d, tensors, float(np.mean(errors)), float(np.max(errors)), len(cut))


def _nnls(design: np.ndarray, seconds: np.ndarray) -> list[float]:
    """Non-negative least squares with rows weighted by 1 / time: between absolute errors and relative ones."""
    seconds = np.maximum(seconds, TINY_S)
    weighted = design / np.sqrt(seconds)[:, None]
    size = np.abs(weighted).max(axis=0)
    size[size == 0] = 1.0
    return [float(value) for value in nnls(weighted / size, np.sqrt(seconds))[0] / size]
