"""Images as the inputs of inferences: the one reading of what is calibrated on, profiled with and measured over."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.errors import NoiseError
from dnnsplit.ground.files import sha256

Images = np.ndarray | Mapping[str, np.ndarray]  # (n, *shape of one image) for a model with one input, or that by input name
Feed = dict[str, np.ndarray]  # the inputs of one inference, by name


def feeds_of(model: Model, images: Images) -> list[Feed]:
    """Return the inputs of one inference per image; a model whose batch is k takes k images at a time."""
    by_name = images if isinstance(images, Mapping) else {model.inputs[0]: images}
    if set(by_name) != set(model.inputs):
        message = f"the model's inputs are {', '.join(model.inputs)}; images were given for {', '.join(by_name)}"
        raise NoiseError(message)
    feeds: list[Feed] = []
    for name, value in by_name.items():
        array, shape = np.asarray(value), model.types[name][1]
        if array.ndim != len(shape) or array.shape[1:] != shape[1:] or not len(array) or len(array) % shape[0]:
            needed = ", ".join(map(str, shape[1:]))
            message = f"images for {name!r} have the shape {array.shape}; the model needs (n, {needed})"
            raise NoiseError(message)
        array = array.astype(model.dtype(name))
        feeds = feeds or [{} for _ in range(len(array) // shape[0])]
        for feed, start in zip(feeds, range(0, len(array), shape[0]), strict=True):
            feed[name] = array[start : start + shape[0]]
    return feeds


def images_sha256(feeds: list[Feed]) -> str:
    """Return a hash of all inputs."""
    return sha256(b"".join(np.ascontiguousarray(feed[name]).tobytes() for feed in feeds for name in sorted(feed)))


def made_up(model: Model) -> Feed:
    """Return the inputs of one inference that the model was seen to accept."""
    rng = np.random.default_rng(0)
    feed: Feed = {}
    for name in model.inputs:
        dtype = model.dtype(name)
        shape = model.types[name][1]
        feed[name] = (rng.random(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)).astype(dtype)
    return feed
