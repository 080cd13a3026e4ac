"""Seconds of layers from the kernels that ONNX Runtime runs: less what its profiler adds, each for the layer it works for."""

from __future__ import annotations

import tempfile
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from dnnsplit.graph.cleanup import node_inputs
from dnnsplit.graph.external_data import save
from dnnsplit.graph.feeds import Feed
from dnnsplit.graph.fusion import node_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import ProfileError, raise_problems
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.quantize.rewrite import QuantizedLayer
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import session
from dnnsplit.runtime.timing import WARM_UP, Kernel, cpu_seconds, kernel_runs

CHAIN, CHAIN_RUNS = 64, 100  # kernels that compute next to nothing, one after the other, and how often they run


@dataclass(frozen=True)
class Profiler:
    """What the profiler tells of a kernel that computes next to nothing, and what such a kernel takes without it [s]."""

    told_s: float
    real_s: float

    def kernel_s(self, told: Sequence[float]) -> float:
        """Return what a kernel takes, given what the profiler tells of its runs: the mean of the lesser half, less what it adds.

        What disturbs a run only adds to it, and whole microseconds are told, so that a mean is closer than the least. What
        the profiler adds is in what it tells of every kernel; no kernel takes less than one that computes next to nothing.
        """
        return max(_lesser(told) - max(0.0, self.told_s - self.real_s), min(self.told_s, self.real_s))


def measure_profiler(provider: Provider) -> Profiler:
    """Run kernels that compute next to nothing under the profiler and without it."""
    one, many = (_chain(count) for count in (1, CHAIN))
    feed = {"x": np.ones((1, 1, 1, 1), np.float32)}
    seconds = [_lesser(cpu_seconds(session(m, provider=provider), feed, CHAIN_RUNS, clock=provider.clock)) for m in (one, many)]
    told = kernel_runs(many, feed, provider, CHAIN_RUNS, WARM_UP)
    return Profiler(float(np.mean([_lesser(runs) for runs in told.values()])), max(1e-9, (seconds[1] - seconds[0]) / (CHAIN - 1)))


def _chain(count: int) -> bytes:
    nodes = [helper.make_node("Add", [f"t{i - 1}" if i else "x", "x"], [f"t{i}"]) for i in range(count)]
    first, last = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in ("x", nodes[-1].output[0]))
    graph = helper.make_graph(nodes, "chain", [first], [last])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def _lesser(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    return float(np.sort(values)[: -(-len(values) // 2)].mean())


def layer_seconds(
    graph: LayerGraph, layers: Sequence[str], int8: Mapping[str, QuantizedLayer], feed: Feed, runs: int, provider: Provider,
    profiler: Profiler,
) -> dict[str, float]:  # fmt: skip
    """Return the seconds of some layers, run as one part with some of them in int8: the sum of a layer's kernels; 0 without any.

    `feed` has what they read from elsewhere, and maybe more.
    """
    outputs = graph.model.outputs if len(layers) == len(graph.layers) else boundary(graph, layers).outputs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "executed.onnx"
        part = build_part(graph, layers, outputs, int8)
        feed = {value.name: feed[value.name] for value in part.graph.input}
        model = save(part, Path(folder), apart=True)
        kernels = kernel_runs(model, feed, provider, runs, WARM_UP, path)
        executed = onnx.load(path, load_external_data=False).graph
    seconds = dict.fromkeys(layers, 0.0)
    for layer, told in zip(owners(graph, executed, kernels), kernels.values(), strict=True):
        seconds[layer] += profiler.kernel_s(told)
    return seconds


def owners(graph: LayerGraph, executed: onnx.GraphProto, kernels: Iterable[Kernel]) -> list[str]:
    """Return the layer of each kernel, given in the order they run in.

    It is that of its node by the names of its outputs, else by its own name, else that of its neighbours by the data: a change
    of layout goes with the kernel that needs it, else with the one that made its input. What no data leads to goes with the
    kernel that ran before it, else with the one after.
    """
    of_node, kernels = _node_owners(graph, executed), list(kernels)
    found = [None if at is None else of_node[at] for at in _places(executed, kernels)]
    if len(graph.layers) == 1:
        return list(graph.layer_names) * len(kernels)
    for order in (range(1, len(found)), range(len(found) - 2, -1, -1)):
        for i in order:
            found[i] = found[i] or found[i - order.step]
    lost = [kernel.node for kernel, layer in zip(kernels, found, strict=True) if layer is None]
    raise_problems(ProfileError, "no kernel of the model leads to a layer", lost, most=5)
    return [layer for layer in found if layer]


def _places(executed: onnx.GraphProto, kernels: Iterable[Kernel]) -> list[int | None]:
    """Return the place of each kernel's node, which the profiler names by operator and index where it has no name."""
    left: defaultdict[tuple[str, str], deque[int]] = defaultdict(deque)
    for at, node in enumerate(executed.node):
        left[node.op_type, node.name].append(at)
    found: list[int | None] = []
    for kernel in kernels:
        name = (
            "" if kernel.node == f"{kernel.op_type}_{kernel.index}" and (kernel.op_type, kernel.node) not in left else kernel.node
        )
        same = left.get((kernel.op_type, name))
        found.append(same.popleft() if same else None)
    return found


def _node_owners(graph: LayerGraph, executed: onnx.GraphProto) -> list[str | None]:
    of = {node: layer.name for layer in graph.layers for node in layer.nodes}
    owner = [of.get(node_of(graph.model, kernel) or "") for kernel in executed.node]
    makers = {tensor: at for at, node in enumerate(executed.node) for tensor in node.output if tensor}
    sources = [[makers[tensor] for tensor in node_inputs(node) if tensor in makers] for node in executed.node]
    readers: list[list[int]] = [[] for _ in owner]
    for at, found in enumerate(sources):
        for source in found:
            readers[source].append(at)
    backward, forward = range(len(owner) - 1, -1, -1), range(len(owner))
    for at in (*backward, *forward):
        near = (owner[other] for other in (*readers[at], *sources[at]))
        owner[at] = owner[at] or next((layer for layer in near if layer), None)
    return owner
