"""Inputs as a lossy form brings them: each is written and read back, as between the source and who reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from dnnsplit.codecs.forms import EXAMPLES, Codec, File, codec
from dnnsplit.codecs.pixels import Pixels, Unfit, find_pixels
from dnnsplit.codecs.plain import PLAIN
from dnnsplit.graph.feeds import Feed, Images, feeds_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import NoiseError, raise_problems


@dataclass(frozen=True, eq=False)
class SourceForm:
    """A lossy form of graph inputs.

    Attributes
    ----------
    name : str
        As it is called.
    codecs : Mapping[str, Codec]
        By the inputs that have it; the others cross as they are.
    """

    name: str
    codecs: Mapping[str, Codec]

    @property
    def writer(self) -> str:
        """The library that decides what is lost, with its version; "" where the form alone does."""
        return f"Pillow {version('pillow')}" if any(isinstance(one, File) for one in self.codecs.values()) else ""

    @property
    def label(self) -> str:
        """What its noise depends on, besides the images."""
        return f"{self.name}, {self.writer}" if self.writer else self.name

    def of(self, feed: Mapping[str, np.ndarray]) -> Feed:
        """Return the inputs of an inference as they arrive."""
        return {name: brought(self.codecs[name], array) if name in self.codecs else array for name, array in feed.items()}


def brought(form: Codec, array: np.ndarray) -> np.ndarray:
    """Return an array as a form brings it: written, and read back."""
    return form.decode(form.encode(array), str(array.dtype), array.shape)


def source_forms(feeds: Sequence[Mapping[str, np.ndarray]], names: Iterable[str]) -> dict[str, SourceForm]:
    """Return lossy forms of inputs by name.

    Parameters
    ----------
    feeds : Sequence[Mapping[str, np.ndarray]]
        The inputs of all images, which tell how each input holds images.
    names : Iterable[str]
        Of the forms.

    Raises
    ------
    NoiseError
        A form that loses nothing of these inputs, and one that none of them has.
    OptionError
        An unknown form.
    """
    forms, problems = _sorted(feeds, names)
    raise_problems(NoiseError, "sources", [*problems.values()])
    return forms


def unmeasured_forms(graph: LayerGraph, images: Images, names: Iterable[str]) -> dict[str, str]:
    """Return those forms that `measure_noise` refuses to measure, and why: no input has them, or they lose nothing.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    images : Images
        All that noise is to be measured on.
    names : Iterable[str]
        Of forms.

    Raises
    ------
    OptionError
        An unknown form.
    """
    return _sorted(feeds_of(graph.model, images), names)[1]


def _sorted(feeds: Sequence[Mapping[str, np.ndarray]], names: Iterable[str]) -> tuple[dict[str, SourceForm], dict[str, str]]:
    """Return the forms that lose something of inputs, and what is wrong with the others, by name."""
    names = tuple(dict.fromkeys(names))
    arrays = {name: [feed[name] for feed in feeds] for name in (feeds[0] if names else ())}
    pixels = {name: find_pixels(values) for name, values in arrays.items()}
    forms, problems = {}, {}
    for name in names:
        found = {} if name == PLAIN else {i: _fitting(name, arrays[i], pixels[i]) for i in arrays}
        lossy = {i: one for i, one in found.items() if isinstance(one, Codec)}
        loses = any(not _same(brought(one, array), array) for i, one in lossy.items() for array in arrays[i])
        if name == PLAIN or (lossy and not loses):
            problems[name] = f"{name!r} brings these inputs to the last bit: it adds no noise, and needs no measurement"
        elif not lossy:
            tried = {f: _fitting(f, arrays[i], pixels[i]) for f in EXAMPLES for i in arrays}
            fitting = [f for f, one in tried.items() if isinstance(one, Codec) and not one.lossless]
            reasons = "; ".join(f"{i!r}: {why}" for i, why in found.items())
            problems[name] = f"no input has the form {name!r} ({reasons}); lossy ones that fit: {', '.join(fitting) or 'none'}"
        else:
            forms[name] = SourceForm(name, lossy)
    return forms, problems


def _fitting(form: str, arrays: Sequence[np.ndarray], pixels: Pixels | None) -> Codec | str:
    """Return the codec of a form that holds all of some arrays, or why there is none."""
    try:
        found = codec(form, pixels)
        for array in arrays:
            found.encode(array)
    except Unfit as error:
        return error.reason
    return found


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()
