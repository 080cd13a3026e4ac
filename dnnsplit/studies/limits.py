"""Noise limits as people give them: in units of the outputs, or as shares of the noise that all layers in int8 make."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context

import numpy as np
import pandas as pd

from dnnsplit.ground.errors import OptionError, raise_problems
from dnnsplit.ground.units import SHARE, is_number
from dnnsplit.noise.models import NoiseModel

_UP = Context(prec=3, rounding=ROUND_CEILING)


def noise_limits(limits: Sequence[float | str], noise: NoiseModel, confidence: float | None = None) -> pd.DataFrame:
    """Return noise limits in units of the outputs, each with its share of the noise that all layers in int8 make.

    Parameters
    ----------
    limits : Sequence[float | str]
        Numbers, in units of the outputs, or shares such as ``"50 %"``, which suit a model whose noise is not known yet.
    noise : NoiseModel
        Of the model.
    confidence : float | None, optional
        As for `split`: the noise of all layers is its upper bound then, so that ``"100 %"`` allows all.

    Returns
    -------
    pd.DataFrame
        A row per limit: max_noise; share_%, which is NaN where no layer can run in int8. A limit given as a share is rounded up
        to three digits.

    Raises
    ------
    OptionError
        Neither a number of 0 or more nor a share.

    Examples
    --------
    >>> noise_limits([0.02, "50 %"], NoiseModel.polynomial(("a", "b"), {"a": 0.01, "b": 0.03})).to_dict("list")
    {'max_noise': [0.02, 0.02], 'share_%': [50.0, 50.0]}
    """
    shares = [SHARE.fullmatch(limit) if isinstance(limit, str) else None for limit in limits]
    odd = [n for n, share in zip(limits, shares, strict=True) if not share and not (is_number(n) and n >= 0)]
    raise_problems(OptionError, "noise limits", [f"{n!r} is no number of 0 or more, and no share such as '50 %'" for n in odd])
    known = noise.bounded(confidence) if confidence is not None and noise.layers else noise
    most = float(known.predict(np.ones((1, len(noise.layers))))[0])
    found = [
        float(_UP.create_decimal(repr(float(share[1]) / 100 * most))) if share else float(limit)
        for limit, share in zip(limits, shares, strict=True)
    ]
    return pd.DataFrame({"max_noise": found, "share_%": [100 * limit / most if most else np.nan for limit in found]})
