"""Shapes for models that leave some open: sizes are made up and tried with ONNX Runtime until the model as it is runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np
import onnxruntime

Shape = tuple[int, ...]
Open = tuple[int | str | None, ...]  # as ONNX Runtime tells it: open extents are symbols or None

IMAGE = (320, 640, 224, 512, 160, 128, 96, 64, 48, 32, 80, 16, 1000)
SOUND = (512, 16000, 1000, 640, 320, 160, 80)
OTHER = (16, 32, 48, 64, 80, 96, 128, 160, 224, 320, 512, 640, 1000, 16000, 2, 1)
PAIRS = (16, 32, 48, 64, 80, 192, 320)  # where the open axes want sizes of their own
SAMPLES_PER_S = 16000
NO_SYMBOL = re.compile(r"\W*")  # exporters call any open extent "?" or nothing
TYPES = {"float": "float32", "double": "float64"}


def dtype_of(told: str) -> np.dtype:
    """The type of a tensor as numpy has it, from ONNX Runtime's name of it."""
    name = told.removeprefix("tensor(").removesuffix(")")
    return np.dtype(TYPES.get(name, name))


def made_up_shapes(session: onnxruntime.InferenceSession) -> dict[str, Shape]:
    """Shapes of the inputs with open extents, for which the model ran; none where nothing is open.

    A symbol has one size wherever it stands; that of a first axis is 1. All others have the same size, or 1, then sizes of their
    own; last, all symbols have the same. RuntimeError when none of the sizes runs.
    """
    inputs = {value.name: tuple(value.shape) for value in session.get_inputs()}
    types = {value.name: value.type for value in session.get_inputs()}
    unsettled = {name for name, shape in inputs.items() if any(not isinstance(extent, int) for extent in shape)}
    if not unsettled:
        return {}
    last = ""
    for shapes in candidates(inputs, types):
        try:
            session.run(None, {name: trial(name, dtype_of(types[name]), shape, shapes) for name, shape in shapes.items()})
        except Exception as error:  # ONNX Runtime has many; each says that the model cannot have that size
            last = str(error).strip().splitlines()[0]
        else:
            return {name: shape for name, shape in shapes.items() if name in unsettled}
    message = f"no size of {', '.join(sorted(unsettled))} that was tried runs; the last said: {last[:200]}"
    raise RuntimeError(message)


def candidates(inputs: Mapping[str, Open], types: Mapping[str, str]) -> Iterator[dict[str, Shape]]:
    """Shapes of all inputs to try, the likely ones first."""
    symbols = {name: tuple(symbol(name, axis, extent) for axis, extent in enumerate(shape)) for name, shape in inputs.items()}
    axes = list(dict.fromkeys(s for shape in symbols.values() for s in shape if isinstance(s, str)))
    batch = dict.fromkeys([shape[0] for shape in symbols.values() if shape and isinstance(shape[0], str)], 1)
    free = [axis for axis in axes if axis not in batch]
    few, tried = 1 < len(free) <= 3, sizes(inputs, types)
    for size in tried if free else ():
        # an axis that has no symbol may be another input's batch
        for chosen in itertools.product((size, 1), repeat=len(free)) if few and tried is not IMAGE else [[size] * len(free)]:
            yield filled(symbols, batch | dict(zip(free, chosen, strict=True)))
    for chosen in itertools.product(PAIRS, repeat=len(free)) if few else ():
        yield filled(symbols, batch | dict(zip(free, chosen, strict=True)))
    for size in (1, *tried):
        yield filled(symbols, dict.fromkeys(axes, size))


def symbol(name: str, axis: int, extent: int | str | None) -> int | str:
    """The extent, or what an open one is called: a symbol wherever it stands has one size."""
    if isinstance(extent, int):
        return extent
    return f"{name}[{axis}]" if extent is None or NO_SYMBOL.fullmatch(extent) else extent


def filled(symbols: Mapping[str, tuple[int | str, ...]], size: Mapping[str, int]) -> dict[str, Shape]:
    """Shapes with a size for every symbol."""
    return {name: tuple(size[s] if isinstance(s, str) else s for s in shape) for name, shape in symbols.items()}


def sizes(inputs: Mapping[str, Open], types: Mapping[str, str]) -> tuple[int, ...]:
    """Sizes to try: images have four axes, sounds are rows of floats of any length."""
    unsettled = {name: shape for name, shape in inputs.items() if any(not isinstance(extent, int) for extent in shape[1:])}
    if any(len(shape) == 4 for shape in unsettled.values()):
        return IMAGE
    if any("wave" in name or "audio" in name for name in unsettled):
        return (16000, *SOUND)
    if any(len(shape) == 2 and types[name] == "tensor(float)" for name, shape in unsettled.items()):
        return (*SOUND, *OTHER)
    return OTHER


def trial(name: str, dtype: np.dtype, shape: Shape, shapes: Mapping[str, Shape]) -> np.ndarray:
    """Values that most models take: floats of [0, 1), lengths as long as the longest axis, small numbers."""
    rng = np.random.default_rng(0)
    if dtype.kind == "f":
        return np.asarray(rng.random(shape), dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if "len" in name.lower():
        return np.full(shape, max(max(other, default=1) for other in shapes.values()), dtype)
    if not shape:
        return np.asarray(SAMPLES_PER_S, dtype)
    return np.asarray(rng.integers(0, 2, shape), dtype)


def zeros_like_inputs(session: onnxruntime.InferenceSession, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Zeros for every input that is a tensor of numbers, for those that nothing reads."""
    values: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        with suppress(TypeError):  # texts and sequences are no inputs that nothing reads
            values[value.name] = np.zeros(shapes.get(value.name, tuple(value.shape)), dtype_of(value.type))
    return values
