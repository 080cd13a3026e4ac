"""A model cut at its toggled layers, so that every quantization scheme shares the work of its prefix with the others.

Each segment is built twice, with its layer in float32 and in int8. Walking the schemes in lexicographic order only reruns
the segments after the first bit that changed: with 12 layers all 4096 schemes cost about a quarter of a float run each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from dnnsplit.graph.external_data import session_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.errors import NoiseError
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.parts import Boundary, boundary, build_part
from dnnsplit.quantize.rewrite import quantize_layer
from dnnsplit.runtime.sessions import DISABLED

if TYPE_CHECKING:
    import onnx

RUNTIME = " without ".join([f"onnxruntime {ort.__version__}", *DISABLED])  # what measured noise depends on


@dataclass(frozen=True, eq=False)
class Segment:
    """The layers that depend on toggle n but on no later one, as one session per precision of the toggled layer."""

    sessions: tuple[ort.InferenceSession, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, bit: int, live: Mapping[str, ort.OrtValue]) -> dict[str, ort.OrtValue]:
        """Return the segment's outputs from the tensors there are."""
        values = self.sessions[bit].run_with_ort_values(self.outputs, {name: live[name] for name in self.inputs})
        return dict(zip(self.outputs, values, strict=True))


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """Segments in the order in which they run, the one without a toggle first, and the outputs that are compared."""

    segments: tuple[Segment, ...]
    outputs: tuple[str, ...]

    def walk(self, feed: Mapping[str, np.ndarray], schemes: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Yield the outputs of the float32 model for one image, then those of each scheme.

        The schemes are 0/1 in topological order of the layers; in lexicographic order they take the least work.
        """
        live = _values(feed)
        previous, first = np.zeros(schemes.shape[1], np.int8), 0
        for row in (previous, *schemes):
            changed = np.flatnonzero(row != previous)
            if len(changed):
                first = int(changed[0]) + 1
            for index in range(first, len(self.segments)):
                if self.segments[index].sessions:
                    live |= self.segments[index].run(int(row[index - 1]) if index else 0, live)
            yield [live[name].numpy() for name in self.outputs]
            previous, first = row, len(self.segments)


def build_tree(graph: LayerGraph, layers: Sequence[str], calibration: Calibration) -> PrefixTree:
    """Cut a model at the layers that are toggled, whose names come in topological order."""
    cut = _cut(graph, layers, calibration)
    segments = (Segment(tuple(session_of(part, lean=True) for part in parts), edge.inputs, edge.outputs) for edge, parts in cut)
    return PrefixTree(tuple(segments), compared(graph.model))


def _values(feed: Mapping[str, np.ndarray]) -> dict[str, ort.OrtValue]:
    return {name: ort.OrtValue.ortvalue_from_numpy(np.asarray(value)) for name, value in feed.items()}


def compared(model: Model) -> tuple[str, ...]:
    """Return the outputs whose noise is measured; NoiseError where there is none."""
    lost = incomparable(model)
    if len(lost) == len(model.outputs):
        reasons = [f"output {name!r}: {why}" for name, why in lost.items()]
        message = f"the noise of {model.path.name} cannot be measured"
        way_out = "measure it on a model that ends before them, as onnx.utils.extract_model writes one"
        raise NoiseError(message, way_out, reasons)
    return tuple(name for name in model.outputs if name not in lost)


def incomparable(model: Model) -> dict[str, str]:
    """Return the outputs that have no difference to one another, and why: they hold no numbers, or not always as many."""
    found = {}
    for name in model.outputs:
        if name not in model.types or model.dtype(name).kind not in "fiub":
            found[name] = "it holds no numbers that numpy has"
        elif min(model.types[name][1], default=0) < 0:
            found[name] = "its shape depends on the data"
    return found


def both_ways(
    graph: LayerGraph, layers: Sequence[str], calibration: Calibration, feed: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the outputs with none and with all of some layers in int8, as a tree measures them, one segment at a time."""
    plain, int8 = _values(feed), _values(feed)
    for edge, parts in _cut(graph, layers, calibration):
        found = []
        for live, part in zip((plain, int8), parts, strict=False):  # what comes before the first of them is one part
            found.append(Segment((session_of(part, lean=True),), edge.inputs, edge.outputs).run(0, live))
        plain.update(*found[:1])
        int8.update(*found[-1:])
    exact, quantized = ({name: live[name].numpy() for name in graph.model.outputs} for live in (plain, int8))
    return exact, quantized


def all_in_int8(
    graph: LayerGraph, layers: Sequence[str], calibration: Calibration, feeds: Iterable[Mapping[str, np.ndarray]]
) -> Iterator[list[np.ndarray]]:
    """Yield the compared outputs of each inference with all of some layers in int8, as a tree measures them.

    No segment is held in float32 too; without layers that is the whole model.
    """
    segments = [
        Segment((session_of(part, lean=True),), edge.inputs, edge.outputs)
        for edge, parts in _cut(graph, layers, calibration) for part in parts[-1:]
    ]  # fmt: skip
    names = compared(graph.model)
    for feed in feeds:
        live = _values(feed)
        for segment in segments:
            live |= segment.run(0, live)
        yield [live[name].numpy() for name in names]


def _cut(graph: LayerGraph, layers: Sequence[str], calibration: Calibration) -> Iterator[tuple[Boundary, list[onnx.ModelProto]]]:
    """Yield the border of each segment, and its parts: in float32, and with the layer that it starts with in int8."""
    label: dict[str, int] = {}
    for layer in graph.topological:
        before = [label[p] for p in graph.digraph.predecessors(layer)]
        label[layer] = max([layers.index(layer) + 1 if layer in layers else 0, *before])
    for index in range(len(layers) + 1):
        inside = [name for name in graph.layer_names if label[name] == index]
        if not inside:  # nothing comes before the first toggled layer
            yield Boundary((), ()), []
            continue
        edge = boundary(graph, inside)
        # Every segment receives float32: a quantized layer hands on what its int8 output stands for.
        parts = [build_part(graph, inside, edge.outputs)]
        if index:
            toggled = layers[index - 1]
            swap = {toggled: quantize_layer(graph, toggled, calibration)}
            parts.append(build_part(graph, inside, edge.outputs, swap))
        yield edge, parts
