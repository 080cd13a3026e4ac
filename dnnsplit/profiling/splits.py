"""Seconds of the parts of a cut model, measured here: random splits, and every part as a deployment runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model, read_model
from dnnsplit.graph.partitions import components
from dnnsplit.ground.errors import ProfileError
from dnnsplit.profiling.overhead import Overhead, fit_overhead
from dnnsplit.profiling.times import PRECISIONS
from dnnsplit.quantize.calibration import Calibration, feeds_of, model_path
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.quantize.rewrite import QuantizedLayer, quantize_layer
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import find_provider, session

WARM_UP = 3
ROUNDS = 4  # the same part can be 10 % faster in one session than in the next, for good: where its memory happens to lie
LAYER_ERROR, PART_ERROR = 0.1, 0.03  # standard deviations: of a layer's share in the profile, of a part's measured time
MOST_BYTES = 1e9  # of weights in sessions that are open at once


@dataclass(frozen=True)
class Split:
    """A placement to be measured: server by layer, and the layers in int8."""

    assignment: Mapping[str, str]
    quantized: tuple[str, ...] = ()


def random_splits(graph: LayerGraph, count: int, layers: Sequence[str] = (), seed: int = 0, servers: int = 3) -> list[Split]:
    """Cut the layers at random places of their topological order; every second split has a random half of `layers` in int8.

    Parameters
    ----------
    count : how many
    layers : those that may run in int8
    servers : how many pieces; fewer where the graph has fewer layers
    """
    rng = np.random.default_rng(seed)
    names = graph.topological
    splits = []
    for i in range(count):
        cuts = np.sort(rng.choice(np.arange(1, len(names)), min(servers, len(names)) - 1, replace=False))
        piece = np.searchsorted(cuts, np.arange(len(names)), side="right")
        int8 = tuple(name for name in layers if i % 2 and rng.random() < 0.5)
        splits.append(Split({name: f"server{k}" for name, k in zip(names, piece, strict=True)}, int8))
    return splits


def whole_model(graph: LayerGraph, quantized: Sequence[str] = ()) -> Split:
    """Return the split into one part."""
    return Split(dict.fromkeys(graph.layer_names, "server0"), tuple(quantized))


def calibration_splits(graph: LayerGraph, count: int, layers: Sequence[str] = ()) -> list[Split]:
    """Return the splits that a profile measures: random ones, and the whole model, in float32 and with all `layers` in int8."""
    return [*random_splits(graph, count, layers), whole_model(graph), *([whole_model(graph, layers)] if layers else [])]


def measure_parts(
    graph: LayerGraph,
    splits: Sequence[Split],
    images: np.ndarray | Mapping[str, np.ndarray],
    calibration: Calibration | None = None,
    runs: int = 10,
    pause_s: float = 0.1,
    progress: bool = True,
    provider: str | Provider = "cpu",
) -> pd.DataFrame:
    """Run every part of every split in turn, again and again, so that what disturbs the machine disturbs all alike.

    There are several rounds, with new sessions in each, as sessions of the same part differ. A provider that compiles gets
    one round: making its sessions takes long.

    Parameters
    ----------
    graph : read from an ONNX file
    images : the first is run
    calibration : needed where layers are quantized
    runs : that count, of each part; in equal rounds, so it may be some more
    pause_s : sleep before each run, as a server does that waits for its inputs [s]
    provider : execution provider that runs the parts

    Returns
    -------
    DataFrame, one row per part: split (position), server, layers (tuple), quantized (those of the layers in int8),
    bytes_in, bytes_out [B] and tensors_in (from and to other parts, in float32 whatever crosses), entries (the share that it
    has of the layers that read the model's inputs), seconds, low_s, high_s (mean of the rounds' medians, and quartiles of
    all runs, by the provider's clock: CPU time on the CPU, else wall time) [s]
    """
    model = read_model(model_path(graph))
    feed, provider = feeds_of(model, images)[0], find_provider(provider)
    wanted = dict.fromkeys(name for split in splits for name in split.quantized)
    if wanted and calibration is None:
        raise ProfileError("parts with int8 layers need a calibration: pass calibration=calibrate(graph, images)")
    int8 = {name: quantize_layer(model, graph, name, calibration) for name in wanted}
    together = max(1, int(MOST_BYTES // max(1.0, sum(layer.weight_bytes for layer in graph.layers))))
    rounds = 1 if provider.compiles else min(ROUNDS, runs)
    found: list[list[tuple[dict[str, object], list[float]]]] = [[] for _ in range(rounds)]
    with tqdm(total=len(splits) * rounds, desc="parts", unit="split", disable=not progress) as bar:
        for kept in found:
            for start in range(0, len(splits), together):
                batch = list(enumerate(splits[start : start + together], start=start))
                parts = [part for i, split in batch for part in _parts(model, graph, i, split, int8, feed, provider)]
                for run in range(-WARM_UP, -(-runs // rounds)):
                    for part in parts:
                        part.run(keep=run >= 0, pause_s=pause_s if run >= 0 else 0.0)
                kept += [(part.about, part.seconds) for part in parts]
                bar.update(len(batch))
    return pd.DataFrame([_row(same) for same in zip(*found, strict=True)])


def _row(rounds: Sequence[tuple[dict[str, object], list[float]]]) -> dict[str, object]:
    """Return the row of a part from what each round found."""
    about, seconds = rounds[0][0], [seconds for _, seconds in rounds]
    low, high = np.percentile(np.concatenate(seconds), [25, 75])
    found = float(np.mean([np.median(one) for one in seconds]))  # a mean, which quartiles need not enclose
    return about | {"seconds": found, "low_s": min(low, found), "high_s": max(high, found)}


def layers_seconds(parts: pd.DataFrame, layers: pd.DataFrame) -> list[float]:
    """Return the sum of the layers of each part [s].

    Parameters
    ----------
    parts : from `measure_parts`
    layers : layer, precision, seconds [s]
    """
    seconds = {(row.layer, row.precision): row.seconds for row in layers.itertuples()}
    return [sum(seconds[name, PRECISIONS[name in row.quantized]] for name in row.layers) for row in parts.itertuples()]


def calibrated(graph: LayerGraph, layers: pd.DataFrame, parts: pd.DataFrame) -> tuple[pd.DataFrame, Overhead]:
    """Make the seconds of the layers agree with measured parts, and fit what parts take beside them.

    First one factor for all layers, with the overhead. Then each layer moves a little where parts that hold it are off: the
    mean of the Gaussian posterior of linear regression, with what the profile found as prior. A layer in a part may differ
    from the same layer in the whole model, as fusions and layouts end at a cut.

    Parameters
    ----------
    layers : layer, precision, seconds [s], and a note
    parts : from `measure_parts`, of `calibration_splits`
    """
    factor, overhead = fit_overhead(parts.assign(layers_s=layers_seconds(parts, layers)))
    entries = _entries(graph)
    start_s = layers["layer"].isin(entries) * overhead.s_per_part / max(1, len(entries))
    note = np.where(start_s > 0, "; with what any part takes to start", "")
    layers = layers.assign(seconds=layers["seconds"] * factor + start_s, note=layers["note"] + note)
    return layers.assign(seconds=corrected(layers, parts, overhead)), overhead


def corrected(layers: pd.DataFrame, parts: pd.DataFrame, overhead: Overhead) -> np.ndarray:
    """Return the seconds of the layers given what the predictions of measured parts miss; none falls below its half.

    The error of a layer in float32, and what int8 adds to it, are independent, both with a spread of a tenth of its float32
    seconds.
    """
    float32 = layers[layers["precision"] == "float32"].set_index("layer")["seconds"]
    place, spread = {name: i for i, name in enumerate(float32.index)}, LAYER_ERROR * float32.to_numpy(float)
    held = np.zeros((len(parts), 2, len(place)))
    for i, part in enumerate(parts.itertuples()):
        for name in part.layers:
            held[i, : 1 + (name in part.quantized), place[name]] = spread[place[name]]
    flat, seconds = held.reshape(len(parts), -1), parts["seconds"].to_numpy(float)
    missed = seconds - predicted(parts, layers, overhead)["predicted_s"].to_numpy(float)
    covariance = flat @ flat.T + np.diag((PART_ERROR * seconds) ** 2)
    moved = (flat.T @ np.linalg.solve(covariance, missed)).reshape(2, -1) * spread
    before = layers["seconds"].to_numpy(float)
    of = layers["layer"].map(place).to_numpy()
    after = before + moved[0, of] + moved[1, of] * (layers["precision"] == "int8").to_numpy()
    return np.maximum(after, before / 2)


def _entries(graph: LayerGraph) -> set[str]:
    """Return the layers that read the model's inputs."""
    return {name for tensor in graph.tensors if tensor.producer is None for name in tensor.consumers}


def predicted(parts: pd.DataFrame, layers: pd.DataFrame, overhead: Overhead | None = None) -> pd.DataFrame:
    """Predict measured parts.

    Parameters
    ----------
    parts : from `measure_parts`
    layers : layer, precision, seconds of one server [s]
    overhead : of that server; None adds nothing to the layers

    Returns
    -------
    DataFrame : `parts` with predicted_s (the part alone) and priced_s (what a plan is charged for it: its layers, and its
        tensors at the links) [s]
    """
    parts = parts.assign(layers_s=layers_seconds(parts, layers))
    parts["predicted_s"] = parts["priced_s"] = parts["layers_s"]
    if overhead is not None:
        moved = parts["bytes_in"] * overhead.s_per_byte_in + parts["bytes_out"] * overhead.s_per_byte_out
        parts["predicted_s"] += moved + (1 - parts["entries"]) * overhead.s_per_part
        parts["priced_s"] += moved + parts["tensors_in"] * overhead.s_per_tensor
    return parts


class _Part:
    """One part with its session, its inputs and its times."""

    def __init__(
        self, one: Any, feed: dict[str, np.ndarray], outputs: list[str], about: dict[str, object], clock: Callable[[], float]
    ) -> None:
        self.session, self.feed, self.outputs, self.about, self.clock = one, feed, outputs, about, clock
        self.seconds: list[float] = []

    def run(self, keep: bool, pause_s: float) -> None:
        time.sleep(pause_s)
        arrived = {name: value.copy() for name, value in self.feed.items()}  # a server's inputs have just been received
        start = self.clock()
        self.session.run(self.outputs, arrived)
        if keep:
            self.seconds.append(self.clock() - start)


def _parts(
    model: Model, graph: LayerGraph, index: int, split: Split, int8: Mapping[str, QuantizedLayer],
    feed: Mapping[str, np.ndarray], provider: Provider,
) -> list[_Part]:  # fmt: skip
    """Build the parts of one split as `cut` does, and run them once to have their inputs."""
    chosen = {name: int8[name] for name in split.quantized}
    form = {q.output: q.wire for q in chosen.values()}
    plain = {wire: tensor for tensor, wire in form.items()}
    outside = {*model.inputs, *model.outputs, *(form.get(o, o) for o in model.outputs)}
    values, parts, entries = dict(feed), [], _entries(graph)
    for names in components(graph, split.assignment):
        outputs = [form.get(t, t) for t in boundary(model, graph, names).outputs]
        one = session(build_part(model, graph, names, outputs, chosen).SerializeToString(), provider=provider)
        inputs = {i.name: values[i.name] for i in one.get_inputs()}
        made = dict(zip(outputs, one.run(outputs, inputs), strict=True))
        values |= made
        come, go = ([model.size_bytes(plain.get(n, n)) for n in group if n not in outside] for group in (inputs, made))
        about = {
            "split": index, "server": split.assignment[names[0]], "layers": names,
            "quantized": tuple(n for n in names if n in chosen), "bytes_in": sum(come), "bytes_out": sum(go),
            "tensors_in": len(come), "entries": len(entries & set(names)) / max(1, len(entries)),
        }  # fmt: skip
        parts.append(_Part(one, inputs, outputs, about, provider.clock))
    return parts
