"""Images of 8 bits inside of tensors: the scale, the offset and the layout by which a tensor holds them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pixels:
    """How a tensor holds images: value = offset + scale * k, with k in 0..255, per channel.

    Attributes
    ----------
    layout : str
        "NCHW", "NHWC", "CHW" or "HWC".
    scale, offset : tuple[float, ...]
        One per channel (1, 3 or 4 of them).
    exact : bool
        Whether every value that was seen is bit for bit one of the `levels`.
    table : tuple[tuple[float, ...], ...], default ()
        The 256 values of each channel, where the formula does not give them to the last bit.
    """

    layout: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    exact: bool
    table: tuple[tuple[float, ...], ...] = ()
