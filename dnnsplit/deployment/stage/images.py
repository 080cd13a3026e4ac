"""Encoded images that a client sends for a graph input, as the stage of the source reads them."""

from __future__ import annotations

import numpy as np

from dnnsplit.codecs.forms import codec_of_image, decode_image
from dnnsplit.codecs.pixels import Malformed
from dnnsplit.cutting.bundle import Bundle
from dnnsplit.deployment.wire.messages import Elements


def read_images(bundle: Bundle, name: str, given: Elements) -> tuple[np.ndarray, Elements]:
    """Return the tensor that holds some images, and the images under a form in which they may be passed on as they came.

    That is the form in which the input is to leave the source, where they are of its kind: no quality is lost twice. Else they
    go by their kind.

    Raises
    ------
    Malformed
        They are no images of the size, channels and number that the input takes; found out before they are unpacked.
    """
    wire, pixels = bundle.wire_by_name[name], bundle.pixels[name]
    batch = "N" in pixels.layout
    count, shape = (wire.shape[0], (1, *wire.shape[1:])) if batch else (1, wire.shape)
    if len(given.elements) != count:
        message = f"{len(given.elements)} images for input {name!r}, which holds {count}"
        raise Malformed(message)
    kinds = sorted({codec_of_image(element) for element in given.elements})
    arrays = [decode_image(element, pixels, wire.dtype, shape) for element in given.elements]
    planned = [form for (wire_name, source, _), form in bundle.forms.items() if (wire_name, source) == (name, bundle.source)]
    form = next((form for form in planned if [form.partition("-")[0]] == kinds), ", ".join(kinds))
    return np.concatenate(arrays) if batch else arrays[0], Elements(given.elements, form, wire.shape)
