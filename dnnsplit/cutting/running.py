"""The parts of a bundle run here, one after the other, and the whole model beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnnsplit.codecs.forms import Codec
from dnnsplit.codecs.pixels import Unfit
from dnnsplit.cutting.bundle import Bundle
from dnnsplit.graph.external_data import Place, borrow_weights, session_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.files import write_bytes
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import QuantizedLayer
from dnnsplit.runtime.sessions import session


def run_parts(bundle: Bundle, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run all parts of a bundle here, one after the other, and return the outputs of the model."""
    return delivered(bundle, all_values(bundle, feed))


def all_values(bundle: Bundle, feed: Mapping[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Run all parts of a bundle here, one after the other; return every graph input and wire as each server has it.

    What crosses a link is written and read in its form, as stages do it; the keys are (name, server).
    """
    values: dict[tuple[str, str], np.ndarray] = {}

    def bring(name: str, server: str, array: np.ndarray) -> None:
        values[name, server] = array
        for target in bundle.routes.get((name, server), ()):
            form = bundle.forms.get((name, server, target))
            written = form is not None and name not in bundle.lossy_inputs  # those are passed on as they came
            bring(name, target, _carried(bundle.codec(name, form), array) if form and written else array)

    for name, array in received(bundle, feed).items():
        bring(name, bundle.source, array)
        if (name, bundle.source, bundle.source) not in bundle.forms:
            values[name, bundle.source] = feed[name]
    for part in bundle.parts:
        one = session(bundle.folder / part.file)
        arrays = one.run(list(part.outputs), {name: values[name, part.server] for name in part.inputs})
        for name, array in zip(part.outputs, arrays, strict=True):
            bring(name, part.server, array)
    return values


def received(bundle: Bundle, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the graph inputs as their readers get them: some cross in a form that loses something."""
    lossy = {name: bundle.codec(name, form) for name, form in bundle.lossy_inputs.items()}
    return {name: _carried(lossy[name], array) if name in lossy else array for name, array in feed.items()}


def delivered(bundle: Bundle, values: Mapping[tuple[str, str], np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of the model, of the wires that carry them."""
    wires = bundle.wire_by_name
    return {output.name: wires[output.wire].real(values[output.wire, bundle.source]) for output in bundle.outputs}


def _carried(codec: Codec, array: np.ndarray) -> np.ndarray:
    """Write and read an array; what the form cannot hold crosses as it is."""
    try:
        return codec.decode(codec.encode(array), array.dtype.name, array.shape)
    except Unfit:
        return array


def whole(
    graph: LayerGraph,
    int8: Mapping[str, QuantizedLayer],
    feed: Mapping[str, np.ndarray],
    folder: Path | None = None,
    weights: Mapping[str, Place] | None = None,
) -> dict[str, np.ndarray]:
    """Run the whole model, with the same layers in int8, as one session; some weights may be taken from files in `folder`."""
    names = list(graph.model.outputs)
    proto = build_part(graph, graph.layer_names, names, int8, "whole")
    if folder is None or not weights:
        return dict(zip(names, session_of(proto).run(names, dict(feed)), strict=True))
    borrow_weights(proto, weights)
    file = write_bytes(folder / "whole.onnx", proto.SerializeToString())
    del proto
    try:
        return dict(zip(names, session(file).run(names, dict(feed)), strict=True))
    finally:
        file.unlink()
