"""Seconds per layer on this machine, from ONNX Runtime's own profiler, and scaled to servers that are not here."""

from __future__ import annotations

import platform
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.feeds import Feed, Images, feeds_of
from dnnsplit.graph.fusion import node_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import OptionError, ProfileError, raise_problems
from dnnsplit.network.servers import Network
from dnnsplit.profiling.overhead import Overhead
from dnnsplit.profiling.splits import calibrated, calibration_splits, int8_layers, measure_parts, seconds_alone, whole_model
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.parts import build_part
from dnnsplit.quantize.rewrite import QuantizedLayer
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import find_provider, session
from dnnsplit.runtime.timing import WARM_UP, cpu_seconds, kernel_runs, left_to_cpu

COLUMNS = ["layer", "server", "precision", "seconds", "origin", "factor", "note"]


def profile(
    graph: LayerGraph,
    network: Network,
    images: Images,
    calibration: Calibration | None = None,
    layers: Sequence[str] = (),
    cpu_slowdown: float = 1.0,
    source_seconds: float | None = None,
    runs: int = 40,
    progress: bool = True,
    splits: int = 24,
    provider: str | Provider = "cpu",
) -> LayerTimes:
    """Measure the layers on this machine and scale them to the servers of a network.

    float32: the kernels' shares from ONNX Runtime's profiler (all optimisations, one thread, least of `runs` runs,
    mapped back to the layers), scaled so that they sum to the median CPU time of the whole model without profiler, with
    pauses between the runs: a server that waits for requests is 5 to 15 % slower than one that never rests.
    int8: what quantizing one layer changes in it and in the layers next to it (layouts change there too), as the mean of
    two: the layer alone in int8 against none, and all wanted layers in int8 against all but this one. Neighbours in int8
    share conversions, so that either of the two alone would be off where several are quantized. Layers that gain are then
    scaled to what they are measured to gain together, and what is missed of the CPU time of the model with all wanted layers
    in int8 is shared out evenly over the others.
    Parts: the parts of random splits are run as a deployment runs them. What they take beside their layers, and how far
    predictions of splits left out are off, is kept in `LayerTimes.overhead`; the layers are moved to agree with them.
    Providers other than the CPU: wall time in place of CPU time, with the copies to and from the provider's memory. On CUDA
    the profiler's times are of a node's launch where ONNX Runtime does not wait for the device. A provider that compiles
    (OpenVINO, TensorRT) shows no kernels: the shares are those of each layer as a session of its own, in either precision.
    `LayerTimes.overhead` tells how well either holds. Only the CPU and OpenVINO on a CPU have been tried.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    network : Network
        Every server needs a ``speed`` in CPUs.
    images : Images
        (n, *shape of one image), or that by input name; the first is run.
    calibration : Calibration | None, optional
        Needed when `layers` are given.
    layers : Sequence[str], default ()
        Those whose int8 time is wanted too.
    cpu_slowdown : float, default 1.0
        How many times slower a CPU of the test-bed is than one core of this machine.
    source_seconds : float | None, optional
        Instead of `cpu_slowdown`: what the whole float32 model shall take on the network's source [s]; gives the same test-bed on
        every machine.
    runs : int, default 40
        Of the whole model.
    progress : bool, default True
        Show a progress bar.
    splits : int, default 24
        Random splits whose parts are measured, half of them with int8 layers where `layers` are given; 0 measures none, else 3 or
        more; ignored for a model of one layer, which cannot be split.
    provider : str | Provider, default "cpu"
        Execution provider, as `dnnsplit.runtime.providers.find` names it. `LayerTimes.made` has its full name, and the nodes that
        it left to the CPU.

    Returns
    -------
    LayerTimes
        Origin "measured" where the factor from this machine is 1, else "scaled", with the factor in ``factor``.

    Raises
    ------
    ProfileError
        A server has no speed, a kernel belongs to no layer, or the provider takes no node.
    OptionError
        The provider is not installed, cannot start, or its times would be scaled by the speeds of CPUs.
    """
    found = find_provider(provider)
    factors = slowdown(network, cpu_slowdown)  # what is wrong with the network is said before anything is measured
    if not found.is_cpu and (source_seconds is not None or set(factors.values()) != {1.0}):
        message = (
            f"times on {found.name!r} cannot be scaled to servers by the speeds of CPUs; profile every server "
            "on itself (profile_here) and join the times"
        )
        raise OptionError(message)  # fmt: skip
    host, overhead, left = measured_here(graph, images, calibration, layers, runs, progress, splits, found)
    if source_seconds is not None:
        here = host.loc[host["precision"] == "float32", "seconds"].sum() * factors[network.source]
        factors = {server: factor * source_seconds / here for server, factor in factors.items()}
    host = host.assign(note="from " + host["note"])
    frames = [
        host.assign(server=server, seconds=host["seconds"] * f, origin="measured" if f == 1.0 else "scaled", factor=f)
        for server, f in factors.items()
    ]
    scaled = {server: overhead.scaled(factor) for server, factor in factors.items()} if overhead else {}
    about: dict[str, object] = {"setting": asdict(calibration.setting)} if calibration and layers else {}
    about |= {} if found.is_cpu else {"providers": [found.ort_name], "left_to_cpu": left}
    made = dict.fromkeys(factors, about) if about else {}
    return LayerTimes(pd.concat(frames, ignore_index=True)[COLUMNS], scaled, made)


def measured_here(
    graph: LayerGraph, images: Images, calibration: Calibration | None, layers: Sequence[str], runs: int, progress: bool,
    splits: int, provider: Provider,
) -> tuple[pd.DataFrame, Overhead | None, list[str]]:  # fmt: skip
    """Return the layers, what parts take beside them (None: not measured), and the nodes left to the CPU; see `profile`."""
    left = left_to_cpu(graph.model.proto.SerializeToString(), feeds_of(graph.model, images)[0], provider)
    host = profile_host(graph, images, calibration, layers, runs, progress, provider)
    overhead = None
    if splits and len(graph.layers) > 1:
        plans = calibration_splits(graph, splits, layers)
        parts = measure_parts(graph, plans, images, calibration, max(3, runs // 3), progress=progress, provider=provider)
        host, overhead = calibrated(graph, host, parts)
    where = f"{'one core' if provider.is_cpu else provider.name} of {host_name()}"
    return host.assign(note=where + host["note"]), overhead, left


def slowdown(network: Network, cpu_slowdown: float) -> dict[str, float]:
    """Return, for each server, how many of its seconds one CPU second of this machine stands for; see `profile`."""
    if not cpu_slowdown > 0:
        message = f"cpu_slowdown is {cpu_slowdown!r}; it must be above 0 (1: a test-bed CPU is a core of this machine)"
        raise OptionError(message)
    way_out = "write one in the network file, like 'speed: 0.5 CPU'"
    lacking = [f"server {s.name!r} has no speed to scale by; {way_out}" for s in network.servers if s.speed_cpu is None]
    raise_problems(ProfileError, "profile", lacking)
    return {s.name: cpu_slowdown / s.speed_cpu for s in network.servers if s.speed_cpu is not None}


def host_name() -> str:
    """Return the processor of this machine, in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def profile_host(
    graph: LayerGraph,
    images: Images,
    calibration: Calibration | None = None,
    layers: Sequence[str] = (),
    runs: int = 40,
    progress: bool = True,
    provider: str | Provider = "cpu",
) -> pd.DataFrame:
    """Return layer, precision, seconds [s] on this machine, and a note on times that had to be bounded; see `profile`."""
    feed, found = feeds_of(graph.model, images)[0], find_provider(provider)
    int8 = int8_layers(graph, layers, calibration)
    with tqdm(total=2 + len(layers) * (not found.compiles), desc="profile", unit="step", disable=not progress) as bar:
        if found.compiles:
            float32, alone = seconds_alone(graph, int8, feed, runs, found)
            change = {name: alone[name] - float32[name] for name in layers}
        else:
            float32 = _layer_seconds(graph, {}, feed, runs, found)
            change = _changes(graph, int8, float32, feed, runs, found, bar)
        bar.update()
        plain = session(build_part(graph, graph.layer_names, graph.model.outputs).SerializeToString(), provider=found)
        whole = float(np.median(cpu_seconds(plain, feed, runs // 2, pause_s=0.1, clock=found.clock)))
        bar.update()
        scale = whole / sum(float32.values())
        float32, change = ({name: scale * seconds for name, seconds in one.items()} for one in (float32, change))
        absorbed = "" if found.compiles else "; no kernel of its own here, done by its neighbours"
        rows = [(name, "float32", seconds, "" if seconds else absorbed) for name, seconds in float32.items()]
        change = _settled(graph, change, images, calibration, runs, found) if change else {}
        for name in layers:
            seconds = float32[name] + change[name]
            # Noise must never make a time vanish: no int8 layer is ten times faster than its float32 form on a CPU.
            least = 0.1 * float32[name]
            note = "" if seconds >= least else f"; measured {seconds:.3g} s here, bounded to a tenth of float32"
            rows.append((name, "int8", max(seconds, least), note))
    return pd.DataFrame(rows, columns=["layer", "precision", "seconds", "note"])


def _changes(
    graph: LayerGraph, int8: Mapping[str, QuantizedLayer], float32: Mapping[str, float], feed: Feed, runs: int,
    provider: Provider, bar: tqdm[NoReturn],
) -> dict[str, float]:  # fmt: skip
    """Return what int8 changes in each layer and those next to it [s]: the mean of it alone, and of it beside all others."""
    every = _layer_seconds(graph, int8, feed, runs, provider) if int8 else {}
    change = {}
    for name in int8:
        single = _layer_seconds(graph, {name: int8[name]}, feed, runs, provider)
        others = _layer_seconds(graph, {n: q for n, q in int8.items() if n != name}, feed, runs, provider)
        near = {name, *graph.digraph.predecessors(name), *graph.digraph.successors(name)}
        change[name] = 0.5 * sum(single[n] - float32[n] + every[n] - others[n] for n in near)
        bar.update()
    return change


def _settled(
    graph: LayerGraph, change: Mapping[str, float], images: Images, calibration: Calibration | None, runs: int, provider: Provider
) -> dict[str, float]:
    """Return what int8 changes in each layer [s], so that all layers together change what they are measured to change.

    So do those that gain: a plan takes just these, and those that look best are the luckiest ones, too.
    """
    gaining = [name for name, seconds in change.items() if seconds < 0]
    losing = [name for name in change if name not in gaining]
    schemes = [(), tuple(change), *([tuple(gaining)] if gaining and losing else [])]
    parts = measure_parts(graph, [whole_model(graph, q) for q in dict.fromkeys(schemes)], images, calibration, max(3, runs // 2),
                          progress=False, provider=provider)  # fmt: skip
    float32, every, *some = parts["seconds"]
    settled = dict(change)
    if gaining:
        measured = (some or [every])[0] - float32
        factor = max(0.0, measured / sum(change[name] for name in gaining))
        settled |= {name: factor * change[name] for name in gaining}
    missed = every - float32 - sum(settled.values())
    return settled | {name: settled[name] + missed / len(losing) for name in losing}


def _layer_seconds(
    graph: LayerGraph, int8: Mapping[str, QuantizedLayer], feed: Feed, runs: int, provider: Provider
) -> dict[str, float]:
    """Return seconds of each layer of the model, with some of them in int8: the sum of its kernels' least."""
    durations: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        content = build_part(graph, graph.layer_names, graph.model.outputs, int8).SerializeToString()
        for kernel in kernel_runs(content, feed, provider, WARM_UP + runs, path):
            durations[kernel.node].append(kernel.seconds)
        executed = onnx.load(path).graph
    _name_kernels(executed, durations)
    owner = _owners(graph, executed)
    lost = [name for name in durations if name not in owner]
    raise_problems(ProfileError, "kernels that belong to no layer", lost, most=5)
    seconds = dict.fromkeys(graph.layer_names, 0.0)
    for name, values in durations.items():
        seconds[owner[name]] += min(values[WARM_UP:] or values)
    return seconds


def _name_kernels(executed: onnx.GraphProto, profiled: Iterable[str]) -> None:
    """Name the kernels without a name, of functions that were written out late, as the profile does: by kind and index."""
    names = {node.name for node in executed.node}
    for kind in {node.op_type for node in executed.node if not node.name}:
        found = [name for name in profiled if re.fullmatch(rf"{kind}_\d+", name) and name not in names]
        found.sort(key=lambda name: int(name.rpartition("_")[2]))
        for node, name in zip([n for n in executed.node if n.op_type == kind and not n.name], found, strict=False):
            node.name = name


def _owners(graph: LayerGraph, executed: onnx.GraphProto) -> dict[str, str]:
    """Return the layer of each executed node: by its outputs' names, by its own, else that of its neighbours."""
    of_node = {node: layer.name for layer in graph.layers for node in layer.nodes}
    owner = {kernel.name: of_node[node] for kernel in executed.node if (node := node_of(graph.model, kernel)) in of_node}
    makers = {o: n.name for n in executed.node for o in n.output}
    # A change of layout goes with the kernel that needs it, else with the one that made its input.
    for node in reversed(executed.node):
        if node.name not in owner:
            readers = [owner[r.name] for r in executed.node if set(node.output) & set(r.input) and r.name in owner]
            sources = [owner[makers[i]] for i in node.input if makers.get(i) in owner]
            if readers or sources:
                owner[node.name] = (readers or sources)[0]
    return owner
