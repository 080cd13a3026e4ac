"""Noise of tensors between layers that cross a link in a lossy form, each alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import networkx as nx
import numpy as np
from tqdm.auto import tqdm

from dnnsplit.codecs.forms import Codec, codec
from dnnsplit.codecs.pixels import Unfit
from dnnsplit.graph.external_data import session_of
from dnnsplit.graph.feeds import Feed, Images, feeds_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, nearest, raise_problems
from dnnsplit.noise.meter import told_beside
from dnnsplit.noise.metrics import errors, kept, metrics_of, shown
from dnnsplit.noise.prefix_tree import compared
from dnnsplit.noise.source_forms import brought
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.runtime.sessions import Session


def measure_wire_noise(
    graph: LayerGraph,
    images: Images,
    forms: Sequence[str] = ("float16", "uint8"),
    tensors: Iterable[str] | None = None,
    metric: str = "rho",
    detections: bool = False,
    workers: int = 2,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Measure what lossy forms of tensors between layers do to the outputs, one tensor at a time.

    A tensor is written and read back before all its readers, as if they all were on another server; everything else is in
    float32. Several tensors, and layers in int8, add their powers nearly: the sum is a prediction, to be verified.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    images : Images
        As for `measure_noise`.
    forms : Sequence[str], default ("float16", "uint8")
        Lossy forms of tensors.
    tensors : Iterable[str] | None, optional
        Their names; None takes all that a layer makes and another reads, in float32.
    metric : str, default "rho"
        As for `measure_noise`, and so are the following.
    detections : bool, default False
        As for `measure_noise`.
    workers : int, default 2
        As for `measure_noise`.
    progress : bool, default True
        As for `measure_noise`.

    Returns
    -------
    dict[str, dict[str, float]]
        Noise by tensor and form, the mean over images. A form that does not hold a tensor on each image, as float16 no large
        numbers, is left out. `NoiseSamples.with_tensors` keeps them with the samples.

    Raises
    ------
    NoiseError
        Tensors that are none of these, forms that are lossless or of images alone, an unknown metric.
    OptionError
        An unknown form, no worker.
    """
    check_arguments(measure_wire_noise, locals(), least={"workers": 1}, most={"workers": 1024})
    model = graph.model
    codecs = _codecs(forms)
    names = _tensors(graph, tensors)
    outputs = compared(model)
    detections, ranking = told_beside(model, [metric], detections)
    feeds = feeds_of(model, images)
    after = {name: _after(graph, name) for name in names}
    head = _head(graph, after.values(), outputs)
    found: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(names), desc="noise", unit="tensor", disable=not progress) as bar:
        for name, layers in after.items():
            tail = _tail(graph, name, layers, outputs)
            numbers = np.array([*pool.map(partial(_numbers, head, tail, outputs, codecs, (detections, ranking)), feeds)])
            means = metrics_of(numbers.swapaxes(0, 1), outputs, detections, ranking)[metric].tolist()
            found[name] = {form: mean for form, mean in zip(codecs, means, strict=True) if np.isfinite(mean)}
            bar.update()
    return found


@dataclass(frozen=True, eq=False)
class Part:
    """Some layers in float32, as a session: all of them, or those behind a tensor."""

    session: Session
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensor: str = ""

    def run(self, values: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """Return some of the outputs from the tensors there are."""
        if not wanted:
            return {}
        return dict(zip(wanted, self.session.run([*wanted], {name: values[name] for name in self.inputs}), strict=True))


def _numbers(
    head: Part, tail: Part, outputs: Sequence[str], codecs: Mapping[str, Codec], also: tuple[bool, tuple[int, ...]], feed: Feed
) -> np.ndarray:
    """Return what is kept of one image for each form, (forms, numbers); NaN where the form does not hold the tensor."""
    detections, ranking = also
    wanted = [name for name in (*tail.inputs, *outputs) if name not in feed and name not in tail.outputs]
    values = feed | head.run(feed, [*dict.fromkeys(wanted)])
    exact = values | tail.run(values, tail.outputs)
    reference = [exact[name] for name in outputs]
    detected = shown(reference) if detections else None
    numbers = np.full((len(codecs), len(kept(outputs, detections, ranking))), np.nan)
    for row, one in zip(numbers, codecs.values(), strict=True):
        with suppress(Unfit):
            arrives = values | {tail.tensor: brought(one, values[tail.tensor])}
            changed = exact | tail.run(arrives, tail.outputs)  # an output that is read too is told as it was made
            row[:] = errors(reference, [changed[name] for name in outputs], detected, ranking)
    return numbers


def _after(graph: LayerGraph, tensor: str) -> tuple[str, ...]:
    """Return the layers that a tensor reaches."""
    (readers,) = (t.consumers for t in graph.tensors if t.name == tensor)
    reached = {*readers}.union(*(nx.descendants(graph.digraph, name) for name in readers))
    return tuple(name for name in graph.topological if name in reached)


def _head(graph: LayerGraph, after: Iterable[Sequence[str]], outputs: Sequence[str]) -> Part:
    """Return the whole model, which tells besides its outputs what any of these layers read."""
    read = {name for layers in after for name in boundary(graph, layers).inputs}
    told = tuple(sorted({*read, *outputs} - {*graph.model.inputs}))
    return Part(session_of(build_part(graph, graph.topological, told)), boundary(graph, graph.topological).inputs, told)


def _tail(graph: LayerGraph, tensor: str, layers: Sequence[str], outputs: Sequence[str]) -> Part:
    edge = boundary(graph, layers)
    own = tuple(name for name in outputs if name in edge.outputs)
    return Part(session_of(build_part(graph, layers, own)), edge.inputs, own, tensor)


def _codecs(forms: Sequence[str]) -> dict[str, Codec]:
    """Return the codecs of lossy forms of tensors by name."""
    found, problems = {}, []
    for form in dict.fromkeys(forms):
        try:
            found[form] = codec(form)
        except Unfit as error:
            problems.append(error.reason)
        else:
            problems += [f"form {form!r} is lossless: it adds no noise"] if found[form].lossless else []
    raise_problems(NoiseError, "forms of tensors between layers", problems)
    return found


def _tensors(graph: LayerGraph, tensors: Iterable[str] | None) -> tuple[str, ...]:
    """Return the tensors that are asked for, of those that are written by one layer and read by another in float32."""
    model = graph.model
    possible = {t.name: model.dtype(t.name) for t in graph.tensors if t.producer is not None and t.consumers}
    fitting = tuple(name for name, dtype in possible.items() if dtype == np.float32)
    if tensors is None:
        return fitting
    asked, problems = tuple(dict.fromkeys(tensors)), []
    for name in asked:
        if name not in possible:
            problems.append(f"{name!r} lies between no two layers{nearest(name, fitting)}")
        elif name not in fitting:
            problems.append(f"{name!r} is {possible[name]}; lossy forms are of float32 tensors")
    raise_problems(NoiseError, "tensors", problems)
    return asked
