"""Seconds of layers that run alone, each as a session of its own: for providers that show no kernels."""

from __future__ import annotations

from collections.abc import Mapping

from dnnsplit.graph.feeds import Feed
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.profiling.splits import chain
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import QuantizedLayer
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import session
from dnnsplit.runtime.timing import cpu_seconds


def seconds_alone(
    graph: LayerGraph, int8: Mapping[str, QuantizedLayer], feed: Feed, runs: int, provider: Provider
) -> tuple[dict[str, float], dict[str, float]]:
    """Measure every layer as a model of its own, and in int8 those that have such a form.

    A layer alone does more than inside a compiled model: it is called, and its tensors enter and leave ONNX Runtime. The
    call is taken off: the least that any layer took. Whoever uses the seconds scales them to the whole model.

    Parameters
    ----------
    int8 : the quantized forms, by layer
    feed : inputs of the model
    runs : of each layer; the least counts

    Returns
    -------
    (float32, int8) : by layer, [s] beyond the call
    """
    float32, quantized = {}, {}
    for (name,), one, inputs, made in chain(graph, [(name,) for name in graph.topological], feed, provider):
        float32[name] = float(cpu_seconds(one, inputs, runs, clock=provider.clock).min())
        if name in int8:
            part = build_part(graph, [name], list(made), {name: int8[name]})
            one = session(part.SerializeToString(), provider=provider)
            quantized[name] = float(cpu_seconds(one, inputs, runs, clock=provider.clock).min())
    call = min((*float32.values(), *quantized.values()))
    return {n: s - call for n, s in float32.items()}, {n: s - call for n, s in quantized.items()}
