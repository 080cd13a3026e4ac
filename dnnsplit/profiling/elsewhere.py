"""Times of servers that are not here: measured there and brought back, scaled from another server, or from FLOPs alone."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from dnnsplit.graph.blocks import load
from dnnsplit.graph.feeds import Images, feeds_of, images_sha256
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError, ProfileError, nearest, nearest_of, raise_problems
from dnnsplit.profiling.codec_times import measure_forms, wanted_forms
from dnnsplit.profiling.factors import Factors
from dnnsplit.profiling.kernels import COLUMNS, host_name, measured_here
from dnnsplit.profiling.times import ONE_FACTOR, LayerTimes
from dnnsplit.profiling.wire_forms import joined_forms
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.quantize.setting import QuantizationSetting, mixed_settings
from dnnsplit.runtime.providers import KNOWN, Provider
from dnnsplit.runtime.sessions import find_provider

# ONNX Runtime comes in one of several
PACKAGES = ("dnnsplit", *dict.fromkeys(name for p in KNOWN for name in (p.package, p.plugin) if name), "onnx", "numpy")


def profile_here(
    model_path: LayerGraph | str | Path,
    server: str,
    images: Images,
    count: int = 12,
    runs: int = 40,
    splits: int = 24,
    progress: bool = True,
    provider: str | Provider = "cpu",
    forms: bool | Sequence[str] = True,
    setting: QuantizationSetting | str | None = None,
) -> LayerTimes:
    """Measure a model on this machine, which is the server itself; run it there and bring the saved file back.

    Parameters
    ----------
    model_path : LayerGraph | str | Path
        ONNX file, or the graph that was loaded from it with this provider.
    server : str
        The name that this machine has in the network.
    images : Images
        To run and to calibrate int8 on, as for `profile`.
    count : int, default 12
        How many layers may run in int8; 0 measures float32 alone.
    runs, splits, progress, provider, forms : int, int, bool, str | Provider, bool | Sequence[str]
        See `profile`.
    setting : QuantizationSetting | str | None, optional
        How int8 is made, or its name ("thesis"); the noise that goes with these times has to be measured with the same.

    Returns
    -------
    LayerTimes
        Of one server, origin "measured", without a factor (nothing was scaled); `made` says with what.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import onnx
    >>> text = '<ir_version: 8, opset_import: ["": 17]> m (float[1, 64] x) => (float[1, 64] y) {a = Relu(x) y = Sigmoid(a)}'
    >>> onnx.save(onnx.parser.parse_model(text), "small.onnx")
    >>> import numpy as np
    >>> images = np.zeros((1, 1, 64), np.float32)
    >>> times = ds.profile_here("small.onnx", "edge", images, runs=2, splits=0, progress=False)
    >>> times.save("edge.csv")
    >>> list(times.frame["server"].unique())
    ['edge']
    """
    check_arguments(profile_here, locals(), least={"count": 0, "runs": 1, "splits": 0}, some=("server",))
    found, names, setting = find_provider(provider), wanted_forms(forms), QuantizationSetting.of(setting)
    graph = model_path if isinstance(model_path, LayerGraph) else load(model_path, [found])
    layers = graph.quantizable(count)
    calibration = calibrate(graph, images, setting) if layers else None
    host, overhead, effort = measured_here(graph, images, calibration, layers, runs, progress, splits, found)
    made = {
        "model": graph.model.path.name,
        "model_sha256": graph.model_sha256,
        "images_sha256": images_sha256(feeds_of(graph.model, images)),
        "setting": vars(calibration.setting) if calibration else None,
        "cpu": host_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
        "providers": [found.ort_name],
        "left_to_cpu": [],
        "options": {"threads": 1, "optimization": "all", "spinning": False},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **effort,
        **({"weights": graph.weights} if graph.weights else {}),
    }
    frame = host.assign(server=server, origin="measured", factor=math.nan, note="on " + host["note"])[COLUMNS]
    wire = measure_forms(graph, images, calibration, layers, server, names, found)
    return LayerTimes(frame, {server: overhead} if overhead else {}, {server: made}, wire)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def joined(*times: LayerTimes) -> LayerTimes:
    """Put the times of several servers into one table.

    What a tensor takes in a form is said once for all servers: the bytes are those of the first table that has them, as codecs
    of another version write a few more or less, and it is lossless if all say so. Seconds are each server's own; one whose
    table has no forms takes part in none.

    Parameters
    ----------
    *times : LayerTimes
        Each with servers of its own.

    Raises
    ------
    ProfileError
        A server is in two of them, two were measured with different models or settings of int8, or their images lie in the
        inputs in other ways.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> times = ds.examples.tiny().times
    >>> ds.joined(times.without("edge"), times.without("device"))
    LayerTimes(4 layers; whole model in float32: device 470 ms, edge 188 ms)
    """
    check_arguments(joined, locals(), some=("times",))
    servers = [server for one in times for server in one.frame["server"].unique()]
    twice = sorted(s for s, count in Counter(servers).items() if count > 1)
    problems = [f"server {s!r} has times in two tables; keep one" for s in twice]
    made = {server: about for one in times for server, about in one.made.items()}
    hashes = {server: about["model_sha256"] for server, about in made.items() if "model_sha256" in about}
    if len(set(hashes.values())) > 1:
        models = ", ".join(f"{server}: {value[:12]}..." for server, value in hashes.items())
        problems.append(f"they were measured with different models ({models}); profile the same file everywhere")
    problems += mixed_settings({f"times of {server}": about for server, about in made.items()})
    tables = [one.forms for one in times if one.forms]
    for table in tables[1:]:
        if table.pixels != tables[0].pixels:
            here, there = (" and ".join(one.frame["server"].unique()) for one in (tables[0], table))
            problems.append(f"the inputs hold images otherwise on {there} than on {here}; give all the same images")
    raise_problems(ProfileError, "times to join", problems)
    overhead = {server: value for one in times for server, value in one.overhead.items()}
    return LayerTimes(pd.concat([one.frame for one in times], ignore_index=True), overhead, made, joined_forms(tables))


def scaled_times(
    times: LayerTimes,
    source: str,
    server: str,
    factor: float | Factors | str | Path,
    note: str = "",
    graph: LayerGraph | None = None,
) -> LayerTimes:
    """Estimate a server nobody can reach: every time of another one, multiplied.

    One factor for all keeps what int8 gains on `source`, and the notes of the int8 times say so. A table of factors tells float32
    and int8 apart, by operator; see `Factors`. What parts take beside their layers, and codecs, are scaled as the whole model in
    float32 is.

    Parameters
    ----------
    times : LayerTimes
        With those of `source`.
    source : str
        The server that was measured.
    server : str
        The one that is wanted.
    factor : float | Factors | str | Path
        Its seconds per second of `source`, such as the ratio of two published benchmarks; or a table of them, or the CSV of one:
        its seconds in each precision per float32 second of `source`.
    note : str, default ""
        Where the factor comes from.
    graph : LayerGraph | None, optional
        That the times are of; a table of factors needs it, for the operators of the layers.

    Returns
    -------
    LayerTimes
        Of `server` alone, origin "scaled"; `made` keeps the setting of int8.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> times = ds.examples.tiny().times
    >>> ds.joined(times, ds.scaled_times(times, "edge", "cloud", 0.1, note="ten times an edge"))
    LayerTimes(4 layers; whole model in float32: device 470 ms, edge 188 ms, cloud
        18.8 ms)
    """
    check_arguments(scaled_times, locals(), some=("source", "server"))
    factor = Factors.load(factor) if isinstance(factor, str | Path) else factor
    if not isinstance(factor, Factors) and not 0 < factor < math.inf:
        message = f"factor is {factor!r}; it must be above 0 (2: twice as slow as {source!r})"
        raise OptionError(message)
    known = times.frame["server"].unique()
    if source not in known:
        message = f"there are no times of server {source!r}{nearest(source, known)}"
        raise ProfileError(message)
    rows = times.frame[times.frame["server"] == source]
    if isinstance(factor, Factors):
        if graph is None:
            message = "a table of factors goes by the operators of layers; pass graph= too"
            raise OptionError(message)
        seconds = rows["layer"].map(lambda layer: times.seconds(layer, source)) * factor.of(graph, times, source)
        whole = float(seconds[rows["precision"] == "float32"].sum()) / times.seconds_of(source)
        text, one_factor, note = f"float32 on {source} x the factor of operator and precision", "", note or factor.note
    else:
        seconds, whole = rows["seconds"] * factor, factor
        text, one_factor = f"{factor:.4g} x {source}", ONE_FACTOR
    text += f", {note}" if note else ""
    kept = [old.removesuffix(ONE_FACTOR).removesuffix("; ") for old in rows["note"]]
    alike = [one_factor if precision == "int8" else "" for precision in rows["precision"]]
    notes = ["; ".join(filter(None, (text, *parts))) for parts in zip(kept, alike, strict=True)]
    by = (seconds / rows["seconds"]).where(rows["seconds"] > 0, whole) if isinstance(factor, Factors) else factor
    frame = rows.assign(server=server, seconds=seconds, origin="scaled", factor=rows["factor"] * by, note=notes)
    overhead = {server: times.overhead[source].scaled(whole)} if source in times.overhead else {}
    setting = times.made.get(source, {}).get("setting")
    made = {server: {"setting": setting}} if setting else {}
    return LayerTimes(frame, overhead, made, times.forms.scaled(source, {server: whole}) if times.forms else None)


def rescaled_times(
    times: LayerTimes, graph: LayerGraph, source: str, factors: Mapping[str, float | Factors | str | Path]
) -> LayerTimes:
    """Return the same times, but those of some servers scaled anew from `source`, see `scaled_times`.

    Parameters
    ----------
    times, graph : LayerTimes, LayerGraph
        As `profile` returns them, and what it measured.
    source : str
        The server that was measured, or is closest to it.
    factors : Mapping[str, float | Factors | str | Path]
        By server; all others stay as they are.

    Raises
    ------
    ProfileError
        There is no such server, or `source` is to be scaled itself.
    """
    known = [server for server in times.frame["server"].unique() if server != source]
    lost = [
        f"{server!r} has no times to replace by {source!r}'s{nearest(server, known)}" for server in factors if server not in known
    ]
    raise_problems(ProfileError, "factors", lost)
    anew = [scaled_times(times, source, server, factor, graph=graph) for server, factor in factors.items()]
    return joined(times.without(*factors), *anew)


def flops_times(
    graph: LayerGraph, server: str, flops_per_s: float, bytes_per_s: float, layers: Sequence[str] = (), note: str = ""
) -> LayerTimes:
    """Estimate a server nobody can reach from its data sheet: the roofline, max(FLOPs / peak, bytes / memory bandwidth).

    Source: S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009. Real kernels reach a share of either, so
    this ranks layers better than it times them. No data sheet tells what a codec takes: there are no forms, so that tensors cross
    the links of that server as they are.

    Parameters
    ----------
    graph : LayerGraph
        Gives the FLOPs and the bytes of each layer.
    server : str
        The name that it has in the network.
    flops_per_s : float
        That the server reaches in float32 [FLOP/s].
    bytes_per_s : float
        Of its memory [B/s]; a layer reads its weights and inputs and writes its outputs once.
    layers : Sequence[str], default ()
        That may run in int8; their estimate there is that of float32, because no data sheet tells a kernel's gain.
    note : str, default ""
        Where the figures come from.

    Returns
    -------
    LayerTimes
        Of `server` alone, origin "flops".

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph = ds.examples.tiny().graph
    >>> ds.flops_times(graph, "gpu", flops_per_s=1e12, bytes_per_s=1e11)
    LayerTimes(4 layers; whole model in float32: gpu 32.44 µs)
    """
    check_arguments(flops_times, locals(), some=("server",))
    for name, value in (("flops_per_s", flops_per_s), ("bytes_per_s", bytes_per_s)):
        if not 0 < value < math.inf:
            message = f"{name} is {value!r}; it must be above 0 and finite"
            raise OptionError(message)
    moved = {layer.name: float(layer.weight_bytes) for layer in graph.layers}
    for tensor in graph.tensors:
        for name in (*tensor.consumers, *([] if tensor.producer is None else [tensor.producer])):
            moved[name] += tensor.size_bytes
    seconds = {layer.name: max(layer.flops / flops_per_s, moved[layer.name] / bytes_per_s) for layer in graph.layers}
    near = nearest_of(graph.layer_names)
    strangers = [f"{n!r} is no layer{near(n)}" for n in layers if n not in seconds]
    raise_problems(ProfileError, "layers in int8", strangers)
    rows: list[tuple[Any, ...]] = [(name, server, "float32", value) for name, value in seconds.items()]
    rows += [(name, server, "int8", seconds[name]) for name in layers]
    frame = pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"])
    text = f"{flops_per_s:.4g} FLOP/s, {bytes_per_s:.4g} B/s" + (f", {note}" if note else "")
    return LayerTimes(frame.assign(origin="flops", note=text))
