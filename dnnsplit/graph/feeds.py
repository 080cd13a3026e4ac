"""Inputs of inferences: the one reading of what is calibrated on, profiled with and measured over, and inputs made up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from dnnsplit.graph.external_data import save
from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.errors import ModelError, NoiseError, nearest, raise_problems
from dnnsplit.ground.files import sha256
from dnnsplit.ground.gate import memory_bytes
from dnnsplit.ground.units import show
from dnnsplit.runtime.sessions import SlowError, run_within, session, session_options

# (n, *shape of one image) for a model with one input, or that by input name
Images = np.ndarray | Mapping[str, npt.ArrayLike]
Feed = dict[str, np.ndarray]  # the inputs of one inference, by name

MOST_EXTENTS = 8  # of a model's inputs that are tried as lengths
RATES = (16000, 8000)  # of sampling [Hz], which models of speech compare with
DRAWN_BYTES = 8  # of a value as it is drawn, before it takes on the type that the model has


def feeds_of(model: Model, images: Images) -> list[Feed]:
    """Return the inputs of one inference per image; a model whose batch is k takes k images at a time.

    The values of an input are those of its inferences, one after the other along the first axis, or stacked along an axis of
    their own; so a scalar takes (n,). One number, or an array without axes, is a scalar of all inferences. They take on the
    type that the model has, which must change no integer and leave every number finite. Inputs that nothing reads are left out.

    Parameters
    ----------
    model : Model
        That is to take them.
    images : Images
        An array for a model that reads one input, else arrays by the names of inputs.

    Raises
    ------
    NoiseError
        What is given does not fit the inputs of the model; all that is wrong is told.
    """
    given, problems = _by_name(model, images)
    stacked: dict[str, np.ndarray] = {}
    for name in (name for name in model.inputs if name in given):
        found = _stacked(given[name], model.dtype(name), model.types[name][1])
        if isinstance(found, str):
            problems.append(f"{_called(model, name)} {found}")
        else:
            stacked[name] = found
    counts = {name: len(array) for name, array in stacked.items() if array.ndim > len(model.types[name][1])}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name!r} for {count}" for name, count in counts.items())
        problems.append(f"the inputs are for different numbers of inferences ({told}); give as many of each")
    raise_problems(NoiseError, f"inputs for {model.path.name}", problems)
    return [
        {name: array[i, ...] if name in counts else array for name, array in stacked.items()}
        for i in range(max(counts.values(), default=1))
    ]


def _by_name(model: Model, images: Images) -> tuple[Mapping[str, npt.ArrayLike], list[str]]:
    """Return what is given for each input, and what is wrong with the names."""
    if not isinstance(images, Mapping):
        if len(model.inputs) == 1:
            return {model.inputs[0]: images}, []
        names = ", ".join(f"{name!r}: ..." for name in model.inputs)
        return {}, [f"one array is given, and the model reads {len(model.inputs)} inputs; give arrays by name, {{{names}}}"]
    known = [*model.inputs, *model.unread]
    problems = [f"there is no input {name!r}{nearest(str(name), known)}" for name in images if name not in known]
    lacking = [name for name in model.inputs if name not in images]
    problems += [f"{_called(model, name)} are missing; the model needs {needed(model.types[name][1])}" for name in lacking]
    return images, problems


def _called(model: Model, name: str) -> str:
    """Call four axes images, and all else values."""
    return f"{'images' if len(model.types[name][1]) == 4 else 'values'} for {name!r}"


def needed(shape: tuple[int, ...]) -> str:
    """Return the form in which the inputs of n inferences are given, in words.

    Examples
    --------
    >>> needed((1, 3, 8, 8)), needed((2, 16)), needed(())
    ('(n, 3, 8, 8)', '(n, 16) with n a multiple of 2', '(n,), or one number for all')
    """
    if not shape:
        return "(n,), or one number for all"
    axes = ", ".join(["n", *map(str, shape[1:])]) if len(shape) > 1 else "n,"
    return f"({axes}){f' with n a multiple of {shape[0]}' if shape[0] > 1 else ''}"


def _stacked(value: npt.ArrayLike, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray | str:
    """Return the values of an input, stacked by inference unless one scalar is for all; or what is wrong with them."""
    if isinstance(value, np.ma.MaskedArray):
        return "are a masked array, whose mask would be lost; fill it first"
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors of other libraries that are not here
        return f"are no array of numbers: {str(error).splitlines()[0]}"
    if array.dtype.kind not in "biuf":
        return f"are of the type {array.dtype}, which is no real number; the model takes {dtype}"
    found, one_for_all = array.shape, array.shape == shape == ()
    if not shape and found[1:] == (1,):
        array = array[:, 0]
    elif shape and array.ndim == len(shape) and found[1:] == shape[1:]:
        count = found[0] // shape[0] if shape[0] else 1
        array = array.reshape(count, *shape) if count * shape[0] == found[0] else array
    if not one_for_all and (array.shape[1:] != shape or not len(array)):
        return f"have the shape {found}; the model needs {needed(shape)}"
    return _converted(array, dtype)


def _converted(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | str:
    """Return a copy in the type of the model, or what it would lose: floats are rounded, and all else stays as it is."""
    with np.errstate(all="ignore"):
        found = array.astype(dtype)
    if np.can_cast(array.dtype, dtype):
        return found
    lost = np.isfinite(array) & ~np.isfinite(found) if dtype.kind == "f" else found != array
    if not lost.any():
        return found
    return f"hold {array[lost].flat[0]!s}, which {dtype} cannot; the model takes {dtype}"


def made_up(model: Model) -> Feed:
    """Return inputs of one inference that the model was seen to take, the same each time and never all zeros.

    Floats are in [0, 1), integers first 0 or 1, then numbers that models compare with, such as the extents of their inputs. The
    first inputs count that give finite outputs, else the first that ONNX Runtime runs at all.

    Parameters
    ----------
    model : Model
        That is to take them.

    Raises
    ------
    ModelError
        ONNX Runtime runs the model on none of them, or a run does not end, or they do not fit into memory.
    """
    _check_room(model)
    options, taken, refusals = session_options(), [], []
    options.log_severity_level = 4  # what it says of inputs that do not fit is told here, once
    with TemporaryDirectory() as folder:
        one = session(save(model.proto, Path(folder)), options)
        for feed in _candidates(model):
            try:
                outputs = run_within(one, model.outputs, feed)
            except SlowError:
                raise
            except ModelError as error:
                refusals.append(error.reason)
                continue
            taken.append(feed)
            if all(np.isfinite(o).all() for o in outputs if isinstance(o, np.ndarray) and o.dtype.kind == "f"):
                return feed
    if taken:
        return taken[0]
    message = (
        f"{model.path.name} runs on none of {len(refusals)} inputs that were made up for it ({refusals[0]}); give inputs of yours"
    )
    raise ModelError(message)


def _check_room(model: Model) -> None:
    """Refuse a model whose inputs cannot be held here beside the float64 values that they are made of."""
    most = memory_bytes()
    needs = sum(math.prod(model.types[name][1]) * (model.dtype(name).itemsize + DRAWN_BYTES) for name in model.inputs)
    if needs > most:
        room = f"{show(needs, 'B')} of memory, and this machine has {show(most, 'B')}"
        message = f"{model.path.name}: to make up its inputs takes {room}; use a machine with more"
        raise ModelError(message)


def _candidates(model: Model) -> Iterator[Feed]:
    """Yield inputs of one inference, the likeliest first."""
    kinds = {name: (model.dtype(name), model.types[name][1]) for name in model.inputs}
    shapes = [model.types[name][1] for name in (*model.inputs, *model.unread)]
    extents = sorted({extent for shape in shapes for extent in shape if extent > 1})[:MOST_EXTENTS]
    bounds = [(0, 1), (1, 1), (1, 7), *((n, n) for n in (*extents, *RATES))]
    if all(dtype.kind == "f" for dtype, _ in kinds.values()):
        bounds = bounds[:1]
    for least, (low, high) in itertools.product((0, 1), bounds):
        rng = np.random.default_rng(0)
        yield {name: _values(rng, *kind, least, low, high) for name, kind in kinds.items()}


def _values(
    rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], least: int, low: int, high: int
) -> np.ndarray:  # fmt: skip
    """Return floats in [least, least + 1), integers in low..high (bytes, as of images, are any), or truth that is all true."""
    values: np.ndarray | np.generic | float
    if dtype.kind == "f":
        values = least + rng.random(shape)
    elif dtype.kind == "b":
        values = np.ones(shape)
    elif dtype.itemsize == 1:
        values = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, endpoint=True)
    else:
        values = rng.integers(low, high, shape, endpoint=True)
    array = np.asarray(values).astype(dtype)
    if not array.any():
        array.reshape(-1)[:1] = 1
    return array


def images_sha256(feeds: list[Feed]) -> str:
    """Return a hash of all inputs."""
    return sha256(b"".join(np.ascontiguousarray(feed[name]).tobytes() for feed in feeds for name in sorted(feed)))
