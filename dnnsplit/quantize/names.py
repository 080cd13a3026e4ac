"""Names of what quantizing adds to a model: none that the model has, and the same whichever other layers are quantized."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Collection

from dnnsplit.graph.onnx_file import Model

OF_LAYER = ("input", "weight", "bias", "product", "output")
OF_TENSOR = ("scale", "zero_point", "int8", "float32", "QuantizeLinear", "DequantizeLinear")
OF_COPY = ("copy",)


def free_stem(model: Model, stem: str, endings: Collection[str]) -> str:
    """Return what the names that are made for a layer or a tensor begin with: its own name, with a number behind it if need be.

    They are ``{stem}/{ending}``, or begin with that and a slash; no name of the model does. Layers and tensors have no ending in
    common, so that what is made for two of them never meets: one would have to be called like what is made for the other.
    """
    start, end = (bisect_left(model.names, f"{stem}{ending}") for ending in "/0")  # 0 is what comes after the slash
    names = model.names[start:end]
    stems = itertools.chain([stem], (f"{stem}/#{count}" for count in itertools.count(2)))
    return next(free for free in stems if not any(f"{name}/".startswith(f"{free}/{e}/") for name in names for e in endings))
