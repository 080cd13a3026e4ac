"""Seconds per layer on this machine, from ONNX Runtime's own profiler, and scaled to servers that are not here."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.external_data import save, session_of
from dnnsplit.graph.feeds import Feed, Images, feeds_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError, ProfileError, raise_problems
from dnnsplit.ground.huge_pages import in_huge_pages
from dnnsplit.network.servers import Network
from dnnsplit.profiling.codec_times import HERE, measure_forms, wanted_forms
from dnnsplit.profiling.executed import layer_seconds, measure_profiler
from dnnsplit.profiling.overhead import Overhead
from dnnsplit.profiling.splits import (
    CHEAP_S,
    calibrated,
    calibration_splits,
    int8_layers,
    measure_parts,
    measure_settled,
    seconds_alone,
    whole_model,
)
from dnnsplit.profiling.times import ONE_FACTOR, LayerTimes
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.kernels import float32_products
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.quantize.rewrite import QuantizedLayer
from dnnsplit.runtime.pace import own_pace
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import find_provider
from dnnsplit.runtime.timing import LEAST_RUNS, PAUSE_S, cpu_seconds, half_width, left_to_cpu

COLUMNS = ["layer", "server", "precision", "seconds", "origin", "factor", "note"]
WINDOW = 2  # tensors around a layer: what int8 changes is next to it, and there layouts are as in the whole model


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
    forms: bool | Sequence[str] = True,
) -> LayerTimes:
    """Measure the layers on this machine and scale them to the servers of a network.

    float32: the kernels' shares from ONNX Runtime's profiler (all optimisations, one thread, mean of the lesser half of the runs,
    less what the profiler adds to any kernel, mapped back to the layers; a body of If, Loop or Scan is in its kernel), scaled
    so that they sum to the median CPU time of the whole model without profiler, with pauses before the runs: a server that
    waits for requests is slower than one that never rests, by up to a fifth where the model is small.
    int8: what quantizing one layer changes in it and in the layers next to it (layouts change there too), as the mean of
    two: the layer alone in int8 against none, and all wanted layers in int8 against all but this one. Neighbours in int8
    share conversions, so that either of the two alone would be off where several are quantized. Layers that gain are then
    scaled to what they are measured to gain together, and what is missed of the CPU time of the model with all wanted layers
    in int8 is shared out evenly over the others.
    Parts: the parts of random splits are run as a deployment runs them. What they take beside their layers, and how far
    predictions of splits left out are off, is kept in `LayerTimes.overhead`; the layers are moved to agree with them.
    Pace: CPU seconds are those at one pace of this machine, which is looked at after each run (`dnnsplit.runtime.pace`):
    processors that others share are faster and slower from minute to minute. `LayerTimes.made` has it as reference_s,
    and as huge_pages whether this process had its memory in such pages (`dnnsplit.ground.huge_pages`).
    Effort: runs end when the 95 % confidence interval of their median is within 1 % of it, or they took 5 s in all, after 5 runs
    at least. Splits of a model that computes them all within a minute are measured at once; else they end when four more change
    the predictions of all that were measured by 1 % on average or less. Where one layer after another in int8 would take the
    whole model more than a minute, what int8 changes is measured with the layers around it alone. `LayerTimes.made` has how many
    runs of the whole model and how many splits it took, the half-width of the former's interval, and the CPU seconds of it all.
    Forms: what the graph's inputs and the tensors between layers take in other forms on the wire, see `WireForms`: bytes over
    the images, and CPU seconds, whatever the provider, scaled to the servers as the layers are.
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
        At most, of the whole model; a third of them of each part.
    progress : bool, default True
        Show a progress bar.
    splits : int, default 24
        Random splits whose parts are measured, at most, half of them with int8 layers where `layers` are given; 0 measures none,
        else 3 or more; ignored for a model of one layer, which cannot be split.
    provider : str | Provider, default "cpu"
        Execution provider, as `dnnsplit.runtime.providers.find` names it. `LayerTimes.made` has its full name, and the nodes that
        it left to the CPU.
    forms : bool | Sequence[str], default True
        In which tensors may cross a link besides their plain one: all that are known, those of these names, or none (False).

    Returns
    -------
    LayerTimes
        Origin "measured" where the factor from this machine is 1, else "scaled", with the factor in ``factor``.

    Raises
    ------
    ProfileError
        A server has no speed, no kernel leads to a layer, or the provider takes no node.
    OptionError
        The provider is not installed, cannot start, or its times would be scaled by the speeds of CPUs; a form is unknown.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import onnx
    >>> text = '<ir_version: 8, opset_import: ["": 17]> m (float[1, 64] x) => (float[1, 64] y) {a = Relu(x) y = Sigmoid(a)}'
    >>> onnx.save(onnx.parser.parse_model(text), "small.onnx")
    >>> import numpy as np
    >>> images = np.zeros((1, 1, 64), np.float32)
    >>> graph, network = ds.load("small.onnx"), ds.examples.network("device-edge")
    >>> times = ds.profile(graph, network, images, runs=2, splits=0, progress=False)
    >>> sorted(times.frame["server"].unique())
    ['device', 'edge']
    """
    speeds = ("cpu_slowdown", "source_seconds")
    check_arguments(profile, locals(), least={"runs": 1, "splits": 0}, above=dict.fromkeys(speeds, 0), finite=speeds)
    found, names = find_provider(provider), wanted_forms(forms)
    factors = slowdown(network, cpu_slowdown)  # what is wrong with the network is said before anything is measured
    if not found.is_cpu and (source_seconds is not None or set(factors.values()) != {1.0}):
        message = (
            f"times on {found.name!r} cannot be scaled to servers by the speeds of CPUs; profile every server "
            "on itself (profile_here) and join the times"
        )
        raise OptionError(message)  # fmt: skip
    host, overhead, effort = measured_here(graph, images, calibration, layers, runs, progress, splits, found)
    if source_seconds is not None:
        here = host.loc[host["precision"] == "float32", "seconds"].sum() * factors[network.source]
        factors = {server: factor * source_seconds / here for server, factor in factors.items()}
    host = host.assign(note="from " + host["note"])
    alike = host["note"].where(host["precision"] == "float32", host["note"] + f"; {ONE_FACTOR}")
    frames = [
        host.assign(server=server, seconds=host["seconds"] * f, origin="measured" if f == 1.0 else "scaled", factor=f,
                    note=host["note"] if f == 1.0 else alike)
        for server, f in factors.items()
    ]  # fmt: skip
    scaled = {server: overhead.scaled(factor) for server, factor in factors.items()} if overhead else {}
    about: dict[str, Any] = {"setting": asdict(calibration.setting)} if calibration and layers else {}
    about |= {"weights": graph.weights} if graph.weights else {}
    about |= effort if found.is_cpu else {"providers": [found.ort_name], **effort}
    wire = measure_forms(graph, images, calibration, layers, HERE, names, found)
    wire = wire.scaled(HERE, factors) if wire else None
    return LayerTimes(pd.concat(frames, ignore_index=True)[COLUMNS], scaled, dict.fromkeys(factors, about), wire)


def measured_here(
    graph: LayerGraph, images: Images, calibration: Calibration | None, layers: Sequence[str], runs: int, progress: bool,
    splits: int, provider: Provider,
) -> tuple[pd.DataFrame, Overhead | None, dict[str, Any]]:  # fmt: skip
    """Return the layers, what parts take beside them (None: not measured), and what was made for them; see `profile`.

    The last are JSON values: runs and half_width of the whole model's time, splits, cpu_s of it all, and left_to_cpu, the nodes
    left to the CPU; on the CPU reference_s, the pace that all seconds are at, huge_pages, and float32_products, the
    layers in int8 that it multiplies in float32 for want of a kernel.
    """
    started = time.process_time()
    left = {} if provider.is_cpu else {"left_to_cpu": _left_to_cpu(graph, images, provider)}
    if layers and provider.is_cpu:
        left = {"float32_products": [*float32_products(graph, int8_layers(graph, layers, calibration))]}
    host = profile_host(graph, images, calibration, layers, runs, progress, provider)
    overhead = None
    made: dict[str, Any] = {**host.attrs["effort"], "splits": 0}
    if splits and len(graph.layers) > 1:
        plans = calibration_splits(graph, splits, layers)
        parts = measure_settled(graph, host, plans, images, calibration, max(3, runs // 3), progress, provider)
        host, overhead = calibrated(graph, host, parts)
        made["splits"] = overhead.splits
    where = f"{'one core' if provider.is_cpu else provider.name} of {host_name()}"
    made["cpu_s"] = round(time.process_time() - started, 1)
    made |= {"reference_s": own_pace().reference_s, "huge_pages": in_huge_pages()} if provider.is_cpu else {}
    return host.assign(note=where + host["note"]), overhead, made | left


def _left_to_cpu(graph: LayerGraph, images: Images, provider: Provider) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        return left_to_cpu(save(graph.model.proto, Path(folder)), feeds_of(graph.model, images)[0], provider)


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
    """Return layer, precision, seconds [s] on this machine, and a note on times that had to be bounded; see `profile`.

    The ``effort`` among the table's attributes has how many runs of the whole model were made, and the half-width reached.
    """
    feed, found = feeds_of(graph.model, images)[0], find_provider(provider)
    int8 = int8_layers(graph, layers, calibration)
    with tqdm(total=2 + len(layers) * (not found.compiles), desc="profile", unit="step", disable=not progress) as bar:
        if found.compiles:
            shares, alone = seconds_alone(graph, int8, feed, runs, found)
            change = {name: alone[name] - shares[name] for name in layers}
        else:
            shares, change = _changes(graph, int8, feed, runs, found, bar)
        bar.update()
        plain = session_of(build_part(graph, graph.layer_names, graph.model.outputs), found)
        seconds = cpu_seconds(plain, feed, runs, PAUSE_S, found.clock)
        del plain  # a large model is not held beside those that are still to come
        whole, total = float(np.median(seconds)), sum(shares.values())
        bar.update()
        if total > 0:
            float32, change = ({n: s * whole / total for n, s in one.items()} for one in (shares, change))
            without = "; no kernel of its own here, done by its neighbours"
        else:  # no layer takes any time of its own; the time of the whole model is what a call takes
            float32, without = dict.fromkeys(shares, whole / len(shares)), "; an even share: no layer has a time of its own here"
        rows = [(n, "float32", s, "" if shares[n] or found.compiles else without) for n, s in float32.items()]
        change = _settled(graph, change, images, calibration, runs, found) if change else {}
        for name in layers:
            time_s = float32[name] + change[name]
            # Noise must never make a time vanish: no int8 layer is ten times faster than its float32 form on a CPU.
            least = 0.1 * float32[name]
            note = "" if time_s >= least else f"; measured {time_s:.3g} s here, bounded to a tenth of float32"
            rows.append((name, "int8", max(time_s, least), note))
    table = pd.DataFrame(rows, columns=["layer", "precision", "seconds", "note"])
    table.attrs["effort"] = {"runs": len(seconds), "half_width": half_width(seconds)}
    return table


def _changes(
    graph: LayerGraph, int8: Mapping[str, QuantizedLayer], feed: Feed, runs: int, provider: Provider, bar: tqdm[NoReturn]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the layers' times, and what int8 changes in each and those next to it [s]: the mean of it alone, and beside all.

    Of a model that takes long only the layers around it are run for that.
    """
    profiler, known = measure_profiler(provider), dict[tuple[object, ...], dict[str, float]]()

    def seconds(names: Sequence[str], some: Iterable[str], inputs: Feed) -> dict[str, float]:
        chosen = {name: int8[name] for name in some}
        key = (*names, *sorted(chosen))
        if key not in known:
            known[key] = layer_seconds(graph, names, chosen, inputs, runs, provider, profiler)
        return known[key]

    float32 = seconds(graph.layer_names, (), feed)
    least_s = 2 * (1 + len(int8)) * (1 + LEAST_RUNS) * sum(float32.values())
    windows = {n: graph.layer_names if least_s <= CHEAP_S else _around(graph, n, WINDOW) for n in int8}
    inputs = feed if least_s <= CHEAP_S else _received(graph, windows.values(), feed, provider)
    change = {}
    for name, names in windows.items():
        every = [n for n in int8 if n in names]
        schemes = ((name,), (), every, [n for n in every if n != name])
        alone, none, together, others = (seconds(names, some, inputs) for some in schemes)
        change[name] = 0.5 * sum(alone[n] - none[n] + together[n] - others[n] for n in _around(graph, name, 1))
        bar.update()
    return float32, change


def _around(graph: LayerGraph, layer: str, steps: int) -> tuple[str, ...]:
    """Return a layer and those that are at most so many tensors away from it, in topological order."""
    near = {layer}
    for _ in range(steps):
        near |= {n for name in near for n in (*graph.digraph.predecessors(name), *graph.digraph.successors(name))}
    return tuple(name for name in graph.topological if name in near)


def _received(graph: LayerGraph, windows: Iterable[Sequence[str]], feed: Feed, provider: Provider) -> Feed:
    """Return what some sets of layers read from elsewhere, from one run of the model."""
    read = {tensor for names in windows for tensor in boundary(graph, names).inputs}
    wanted = sorted(read - feed.keys())
    one = session_of(build_part(graph, graph.layer_names, wanted), provider)
    return {**feed, **dict(zip(wanted, one.run(wanted, dict(feed)), strict=True))}


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
