"""Measured noise of quantization schemes: every scheme shares the work of its prefix with the others.

The model is cut at the toggled layers into segments, each built twice (its layer in float32 and in int8). Walking the
schemes in lexicographic order only reruns the segments after the first bit that changed: with 12 layers all 4096
schemes cost about a quarter of a float run each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import onnxruntime as ort
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.calibration import Calibration, QuantizationSetting, calibrate, feeds_of, images_sha256, model_path
from dnnsplit.errors import NoiseError, nearest, raise_problems
from dnnsplit.graph import LayerGraph
from dnnsplit.model import Model, read_model
from dnnsplit.noise import NoiseSamples
from dnnsplit.parts import boundary, build_part
from dnnsplit.quantize import quantize_layer, ranges_needed
from dnnsplit.runtime import session
from dnnsplit.schemes import all_schemes, sample_schemes

METRIC = "rho"


def measure_noise(
    graph: LayerGraph,
    images: np.ndarray | Mapping[str, np.ndarray],
    layers: int | Sequence[str] = 12,
    schemes: str | int | np.ndarray = "all",
    setting: QuantizationSetting | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> NoiseSamples:
    """Measure the output noise of quantization schemes with ONNX Runtime's int8 kernels.

    rho = mean over images, then over outputs, of mean |o - o_q| (the slides), o being the float32 model in the same
    segments, so that rho = 0 exactly where nothing is quantized.

    Parameters
    ----------
    graph : read from an ONNX file
    images : (n, *shape of one image), or that by input name
    layers : how many of the layers with most FLOPs, or their names
    schemes : "all" 2^n of them, a number of them (none, each alone, all, then random ones), or a 0/1 array (m, layers)
    setting : how int8 is made; calibration is MinMax over the same images unless `calibration` is given
    calibration : ranges measured before, on images of their own
    seed : of random schemes
    workers : images measured side by side
    progress : show a progress bar

    Returns
    -------
    NoiseSamples : with model, images, calibration, setting and metric in ``origin``

    Raises
    ------
    NoiseError : unknown layers, layers that no int8 kernel exists for, images of another shape
    """
    model = read_model(model_path(graph))
    names = _layers(graph, layers)
    rows = _schemes(schemes, len(names), seed)
    calibration = calibration or calibrate(graph, images, setting)
    if setting is not None and setting != calibration.setting:
        raise NoiseError(f"the calibration is for {calibration.setting}, not for {setting}; calibrate anew")
    feeds = feeds_of(model, images)
    segments = _segments(model, graph, names, calibration)
    # the last bit changes fastest, so that neighbours share the longest prefix
    order = np.lexsort(rows.T[::-1])
    bar = tqdm(total=len(rows) * len(feeds), desc="noise", unit="run", disable=not progress)
    with bar, ThreadPoolExecutor(workers) as pool:
        noise = np.array(list(pool.map(lambda feed: _walk(segments, model, feed, rows[order], bar), feeds)))
    mean = np.empty(len(rows))
    mean[order] = noise.mean(axis=0)
    origin = {
        "model": model.path.name,
        "model_sha256": model.sha256,
        "images": len(feeds),
        "images_sha256": images_sha256(feeds),
        "metric": METRIC,
        "setting": asdict(calibration.setting),
        "calibration": calibration.only(ranges_needed(model, graph, names)).to_json(),
    }
    return NoiseSamples(pd.DataFrame(rows, columns=list(names)).assign(noise=mean), origin)


def _layers(graph: LayerGraph, layers: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(layers, int):
        if layers < 1:
            raise NoiseError(f"layers is {layers}; measure at least one layer")
        return graph.quantizable(layers)
    possible = graph.quantizable(10**9)
    raise_problems(
        NoiseError, "layers", [f"{name!r} cannot run in int8{nearest(name, possible)}" for name in layers if name not in possible]
    )
    return tuple(name for name in possible if name in layers)


def _schemes(schemes: str | int | np.ndarray, count: int, seed: int) -> np.ndarray:
    if isinstance(schemes, str):
        if schemes != "all":
            raise NoiseError(f"schemes {schemes!r} is unknown; give 'all', a number, or a 0/1 array")
        if count > 16:
            raise NoiseError(f"all schemes of {count} layers are {2**count}; give a number of schemes instead")
        return all_schemes(count)
    if isinstance(schemes, int | np.integer):
        if schemes < 1:
            raise NoiseError(f"schemes is {schemes}; measure at least one")
        return sample_schemes(count, int(schemes), seed)
    rows = np.unique(np.asarray(schemes, np.int8), axis=0)
    if rows.ndim != 2 or rows.shape[1] != count or not np.isin(rows, (0, 1)).all():
        raise NoiseError(f"schemes must be 0/1 rows of {count} layers; they have the shape {np.shape(schemes)}")
    return rows


class _Segment:
    """The layers that depend on toggle n but on no later one, as one session per precision of the toggled layer."""

    def __init__(self, sessions: list[ort.InferenceSession], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self.sessions, self.inputs, self.outputs = sessions, inputs, outputs

    def run(self, bit: int, live: Mapping[str, ort.OrtValue]) -> dict[str, ort.OrtValue]:
        values = self.sessions[bit].run_with_ort_values(self.outputs, {name: live[name] for name in self.inputs})
        return dict(zip(self.outputs, values, strict=True))


def _segments(model: Model, graph: LayerGraph, names: tuple[str, ...], calibration: Calibration) -> list[_Segment]:
    label: dict[str, int] = {}
    for layer in graph.topological:
        before = [label[p] for p in graph.digraph.predecessors(layer)]
        label[layer] = max([names.index(layer) + 1 if layer in names else 0, *before])
    segments = []
    for index in range(len(names) + 1):
        layers = [name for name in graph.layer_names if label[name] == index]
        if not layers:  # nothing comes before the first toggled layer
            segments.append(_Segment([], (), ()))
            continue
        edge = boundary(model, graph, layers)
        # Every segment receives float32: a quantized layer hands on what its int8 output stands for.
        parts = [build_part(model, graph, layers, edge.outputs)]
        if index:
            toggled = names[index - 1]
            swap = {toggled: quantize_layer(model, graph, toggled, calibration)}
            parts.append(build_part(model, graph, layers, edge.outputs, swap))
        segments.append(_Segment([session(part.SerializeToString()) for part in parts], edge.inputs, edge.outputs))
    return segments


def _walk(segments: Sequence[_Segment], model: Model, feed: Mapping[str, np.ndarray], rows: np.ndarray, bar: tqdm) -> np.ndarray:
    """Return rho of each row on one image; rows are in lexicographic order."""
    live = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feed.items()}
    noise = np.empty(len(rows))
    previous = np.zeros(rows.shape[1], np.int8)
    reference = outputs = _outputs(segments, model, live, previous, 0)
    for i, row in enumerate(rows):
        changed = np.flatnonzero(row != previous)
        if len(changed):
            outputs = _outputs(segments, model, live, row, int(changed[0]) + 1)
        noise[i] = np.mean([np.abs(a - b, dtype=np.float64).mean() for a, b in zip(outputs, reference, strict=True)])
        previous = row
        bar.update()
    return noise


def _outputs(
    segments: Sequence[_Segment], model: Model, live: dict[str, ort.OrtValue], row: np.ndarray, first: int
) -> list[np.ndarray]:
    for index in range(first, len(segments)):
        if segments[index].sessions:
            live |= segments[index].run(int(row[index - 1]) if index else 0, live)
    return [live[name].numpy() for name in model.outputs]
