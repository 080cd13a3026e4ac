"""Seconds of layers that run alone, each as a session of its own: for providers that show no kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.quantize.rewrite import QuantizedLayer
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import cpu_seconds, session


def seconds_alone(
    model: Model,
    graph: LayerGraph,
    int8: Mapping[str, QuantizedLayer],
    feed: Mapping[str, np.ndarray],
    runs: int,
    provider: Provider,
) -> dict[str, tuple[float, float]]:
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
    by layer : (float32, int8) [s] beyond the call; int8 is NaN where the layer has no such form
    """
    values = dict(feed)
    seconds = {}
    last = {tensor.name: max(map(graph.topological.index, tensor.consumers), default=-1) for tensor in graph.tensors}
    for i, name in enumerate(graph.topological):
        outputs = list(boundary(model, graph, [name]).outputs)
        found = [np.nan, np.nan]
        for k, form in enumerate(({}, {name: int8[name]} if name in int8 else None)):
            if form is not None:
                one = session(build_part(model, graph, [name], outputs, form).SerializeToString(), provider=provider)
                inputs = {value.name: values[value.name] for value in one.get_inputs()}
                found[k] = cpu_seconds(one, inputs, runs, clock=provider.clock).min()
                if not k:
                    made = dict(zip(outputs, one.run(outputs, inputs), strict=True))
        seconds[name] = found
        values = {tensor: value for tensor, value in (values | made).items() if last.get(tensor, -1) > i}
    call = np.nanmin(list(seconds.values()))
    return {name: (float32 - call, quantized - call) for name, (float32, quantized) in seconds.items()}
