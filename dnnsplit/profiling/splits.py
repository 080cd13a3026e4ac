"""Seconds of the parts of a cut model, measured here: random splits, and every part as a deployment runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.external_data import session_of
from dnnsplit.graph.feeds import Feed, Images, feeds_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.partitions import components
from dnnsplit.ground.errors import ProfileError
from dnnsplit.profiling.overhead import TINY_S, Overhead, fit_overhead
from dnnsplit.profiling.times import PRECISIONS
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.quantize.rewrite import QuantizedLayer, quantize_layer
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.sessions import Session, find_provider
from dnnsplit.runtime.timing import SETTLED, at_pace, cpu_seconds, enough, settled, warm_up

WARM_UP = 3
# Before each run, as a server rests that waits for its inputs. As other parts have run since this one did, it takes as long after
# 5 ms as after 100, within 2 %; after 2 ms 5 % less.
PAUSE_S = 0.005
PIECES = 3  # of a random split; a graph of two layers has two
DRIFT_STEPS = 20
ROUNDS = 4  # the same part can be 10 % faster in one session than in the next, for good: where its memory happens to lie
LAYER_ERROR, PART_ERROR = 0.1, 0.03  # standard deviations: of a layer's share in the profile, of a part's measured time
STEP = 4  # splits that are measured between two looks at whether all predictions have settled
CHEAP_S = (
    60.0  # of computing: splits that take less are measured all at once, so that what disturbs the machine disturbs all alike
)
MOST_BYTES = 1e8  # of sessions that are open at once, beside the size of all tensors; one split may have more

Measured = tuple[
    dict[str, object], npt.NDArray[np.float64], int
]  # of a part in one round: what is known, its runs [s], its batch


@dataclass(frozen=True)
class Split:
    """A placement to be measured: server by layer, and the layers in int8."""

    assignment: Mapping[str, str]
    quantized: tuple[str, ...] = ()


def random_splits(graph: LayerGraph, count: int, layers: Sequence[str] = (), seed: int = 0) -> list[Split]:
    """Cut the layers at two random places of their topological order; every second split has a random half of them in int8."""
    rng = np.random.default_rng(seed)
    names = graph.topological
    splits = []
    for i in range(count):
        cuts = np.sort(rng.choice(np.arange(1, len(names)), min(PIECES, len(names)) - 1, replace=False))
        piece = np.searchsorted(cuts, np.arange(len(names)), side="right")
        int8 = tuple(name for name in layers if i % 2 and rng.random() < 0.5)
        splits.append(Split({name: f"server{k}" for name, k in zip(names, piece, strict=True)}, int8))
    return splits


def whole_model(graph: LayerGraph, quantized: Sequence[str] = ()) -> Split:
    """Return the split into one part."""
    return Split(dict.fromkeys(graph.layer_names, "server0"), tuple(quantized))


def calibration_splits(graph: LayerGraph, count: int, layers: Sequence[str] = ()) -> list[Split]:
    """Return the splits that a profile measures: the whole model, in float32 and with all `layers` in int8, and random ones."""
    return [whole_model(graph), *([whole_model(graph, layers)] if layers else []), *random_splits(graph, count, layers)]


def measure_parts(
    graph: LayerGraph,
    splits: Sequence[Split],
    images: Images,
    calibration: Calibration | None = None,
    runs: int = 10,
    progress: bool = True,
    provider: str | Provider = "cpu",
) -> pd.DataFrame:
    """Run every part of every split in turn, again and again, so that what disturbs the machine disturbs all alike.

    Of as many splits as memory holds, that is. There are several rounds, with new sessions in each, as sessions of the same part
    differ, and with other splits side by side, so that what disturbs some of them more shows, and is taken off
    (`_undrifted`). A provider that compiles gets one round: making its sessions takes long. Of each part as many runs count
    as are asked for, or some more, in equal rounds; rounds end when the runs of every part have `settled`.

    The table has one row per part: split (position), server, layers (tuple), quantized (those of the layers in int8),
    bytes_in, bytes_out [B] and tensors_in (from and to other parts, in float32 whatever crosses), entries (the share that it
    has of the layers that read the model's inputs), seconds, low_s, high_s (mean of the rounds' medians, and quartiles of
    all runs, by the provider's clock: CPU time on the CPU, else wall time) [s]
    """
    feed, found = feeds_of(graph.model, images)[0], find_provider(provider)
    int8 = int8_layers(graph, dict.fromkeys(name for split in splits for name in split.quantized), calibration)
    weights, tensors = sum(x.weight_bytes for x in graph.layers), sum(x.size_bytes for x in graph.tensors)
    held = weights + tensors / 4  # of one split: tensors take each other's place in memory
    together, most = max(1, int((MOST_BYTES + tensors) // max(1.0, held))), 1 if found.compiles else min(ROUNDS, runs)
    rounds: list[list[Measured]] = []
    with tqdm(total=len(splits) * most, desc="parts", unit="split", disable=not progress) as bar:
        while len(rounds) < most and not (rounds and _known(rounds)):
            order = np.random.default_rng(len(rounds)).permutation(len(splits)).tolist()
            measured: list[list[Measured]] = [[] for _ in splits]
            for start in range(0, len(splits), together):
                batch = order[start : start + together]
                parts = [(i, part) for i in batch for part in _parts(graph, i, splits[i], int8, feed, found)]
                warm_up(partial(_run_all, [part for _, part in parts]), WARM_UP)
                for _ in range(-(-runs // most)):
                    for _, part in parts:
                        part.run(counts=True)
                for i, part in parts:
                    measured[i].append((part.about, np.array(part.seconds), len(rounds) * len(splits) + start))
                bar.update(len(batch))
                del parts, part  # their sessions, before others are made
            rounds.append([one for of_split in measured for one in of_split])
    rounds = _undrifted(rounds)
    return pd.DataFrame([_row(same) for same in zip(*rounds, strict=True)])


def _known(rounds: Sequence[Sequence[Measured]]) -> bool:
    """Whether the runs of each part have settled, or those of its split are `enough` in two rounds."""
    parts = [(about["split"], _joined(same)) for same in zip(*rounds, strict=True) for about, *_ in same[:1]]
    totals: dict[object, npt.NDArray[np.float64]] = {}
    for split, seconds in parts:
        totals[split] = totals.get(split, 0.0) + seconds
    return all(settled(seconds) or (len(rounds) > 1 and enough(totals[split])) for split, seconds in parts)


def _run_all(parts: Iterable[_Part]) -> float:
    return sum(part.run(counts=False) for part in parts)


def _undrifted(rounds: Sequence[Sequence[Measured]]) -> list[list[Measured]]:
    """Take off what a batch took more than others: medians are the product of what a part takes and of what its batch is off.

    Both are found by turns, as the means of what the other leaves (in logarithms).
    """
    medians = np.log([[max(float(np.median(seconds)), TINY_S) for _, seconds, _ in measured] for measured in rounds])
    batches, place = np.unique([[batch for *_, batch in measured] for measured in rounds], return_inverse=True)
    place, off = place.reshape(medians.shape), np.zeros(len(batches))
    for _ in range(DRIFT_STEPS if len(rounds) > 1 else 0):
        left = medians - (medians - off[place]).mean(axis=0)
        off = np.array([left[place == batch].mean() for batch in range(len(batches))])
        off -= off[place].mean()
    return [
        [(about, seconds / np.exp(off[at]), batch) for (about, seconds, batch), at in zip(measured, places, strict=True)]
        for measured, places in zip(rounds, place, strict=True)
    ]


def _row(rounds: Sequence[Measured]) -> dict[str, object]:
    """Return the row of a part from what each round found."""
    low, high = np.percentile(_joined(rounds), [25, 75])
    found = float(np.mean([np.median(seconds) for _, seconds, _ in rounds]))  # a mean, which quartiles need not enclose
    return rounds[0][0] | {"seconds": found, "low_s": min(low, found), "high_s": max(high, found)}


def _joined(rounds: Sequence[Measured]) -> npt.NDArray[np.float64]:
    return np.concatenate([seconds for _, seconds, _ in rounds])


def measure_settled(
    graph: LayerGraph, layers: pd.DataFrame, splits: Sequence[Split], images: Images, calibration: Calibration | None, runs: int,
    progress: bool, provider: Provider,
) -> pd.DataFrame:  # fmt: skip
    """Measure some splits of `calibration_splits`, then more, until the predictions of all have settled; see `measure_parts`."""
    parts = pd.DataFrame()
    whole_s = float(layers.loc[layers["precision"] == "float32", "seconds"].sum())
    for start, end in steps(splits) if whole_s * runs * len(splits) > CHEAP_S else [(0, len(splits))]:
        more = measure_parts(graph, splits[start:end], images, calibration, runs, progress, provider)
        fewer, parts = parts, pd.concat([parts, more.assign(split=more["split"] + start)], ignore_index=True)
        if start and moved(graph, layers, fewer, parts) <= SETTLED:
            break
    return parts


def steps(splits: Sequence[Split]) -> list[tuple[int, int]]:
    """Return first and last + 1 of the splits of `calibration_splits` that are measured at a time: whole models in the first."""
    wholes = sum(len(set(split.assignment.values())) == 1 for split in splits)
    ends = [*range(wholes + STEP, len(splits) - 1, STEP), len(splits)]
    return list(pairwise([0, *ends]))


def moved(graph: LayerGraph, layers: pd.DataFrame, fewer: pd.DataFrame, parts: pd.DataFrame) -> float:
    """How far the predictions of the splits of `parts` move if all of them are fitted to, not `fewer`: mean |relative change|.

    A prediction is what a plan is charged for a split, by all that is fitted: the layers as they are `calibrated`, the overhead.
    """
    by_fewer, by_all = (
        predicted(parts, *calibrated(graph, layers, known)).groupby("split")["priced_s"].sum() for known in (fewer, parts)
    )
    return float(((by_all - by_fewer).abs() / by_all.clip(lower=TINY_S)).mean())


def layers_seconds(parts: pd.DataFrame, layers: pd.DataFrame) -> list[float]:
    """Return the sum of the layers of each part [s]."""
    seconds = layers.set_index(["layer", "precision"])["seconds"].to_dict()
    pairs = zip(parts["layers"], parts["quantized"], strict=True)
    return [sum(seconds[name, PRECISIONS[name in int8]] for name in names) for names, int8 in pairs]


def calibrated(graph: LayerGraph, layers: pd.DataFrame, parts: pd.DataFrame) -> tuple[pd.DataFrame, Overhead]:
    """Make the seconds of the layers agree with measured parts, and fit what parts take beside them.

    First one factor for all layers, with the overhead. Then each layer moves a little where parts that hold it are off: the
    mean of the Gaussian posterior of linear regression, with what the profile found as prior. A layer in a part may differ
    from the same layer in the whole model, as fusions and layouts end at a cut. The parts are those of `calibration_splits`.
    """
    factor, overhead = fit_overhead(parts.assign(layers_s=layers_seconds(parts, layers)))
    entries = _entries(graph)
    start_s = layers["layer"].isin(entries) * overhead.s_per_part / max(1, len(entries))
    note = np.where(start_s > 0, "; with what any part takes to start", "")
    layers = layers.assign(seconds=layers["seconds"] * factor + start_s, note=layers["note"] + note)
    return layers.assign(seconds=corrected(layers, parts, overhead)), overhead


def corrected(layers: pd.DataFrame, parts: pd.DataFrame, overhead: Overhead) -> npt.NDArray[np.float64]:
    """Return the seconds of the layers given what the predictions of measured parts miss; none falls below its half.

    The error of a layer in float32, and what int8 adds to it, are independent, both with a spread of a tenth of its float32
    seconds.
    """
    float32 = layers[layers["precision"] == "float32"].set_index("layer")["seconds"]
    place, spread = {name: i for i, name in enumerate(float32.index)}, LAYER_ERROR * float32.to_numpy(float)
    held = np.zeros((len(parts), 2, len(place)))
    for i, (names, int8) in enumerate(zip(parts["layers"], parts["quantized"], strict=True)):
        for name in names:
            held[i, : 1 + (name in int8), place[name]] = spread[place[name]]
    flat, seconds = held.reshape(len(parts), -1), parts["seconds"].to_numpy(float)
    missed = seconds - predicted(parts, layers, overhead)["predicted_s"].to_numpy(float)
    covariance = flat @ flat.T + np.diag(np.maximum(PART_ERROR * seconds, TINY_S) ** 2)
    moved = (flat.T @ np.linalg.solve(covariance, missed)).reshape(2, -1) * spread
    before = layers["seconds"].to_numpy(float)
    of = layers["layer"].map(place).to_numpy()
    after: npt.NDArray[np.float64] = before + moved[0, of] + moved[1, of] * (layers["precision"] == "int8").to_numpy()
    return np.maximum(after, before / 2)


def _entries(graph: LayerGraph) -> set[str]:
    """Return the layers that read the model's inputs."""
    return {name for tensor in graph.tensors if tensor.producer is None for name in tensor.consumers}


def predicted(parts: pd.DataFrame, layers: pd.DataFrame, overhead: Overhead | None = None) -> pd.DataFrame:
    """Predict measured parts from the layers of one server, and what its parts take beside them.

    Adds predicted_s (the part alone) and priced_s (what a plan is charged for it: its layers, and its tensors at the links) [s].
    """
    parts = parts.assign(layers_s=layers_seconds(parts, layers))
    parts["predicted_s"] = parts["priced_s"] = parts["layers_s"]
    if overhead is not None:
        moved = parts["bytes_in"] * overhead.s_per_byte_in + parts["bytes_out"] * overhead.s_per_byte_out
        parts["predicted_s"] += moved + (1 - parts["entries"]) * overhead.s_per_part
        parts["priced_s"] += moved + parts["tensors_in"] * overhead.s_per_tensor
    return parts


@dataclass
class _Part:
    """A part that is ready to run, what is known of it, and its times."""

    session: Session
    inputs: Feed
    outputs: list[str]
    clock: Callable[[], float]
    about: dict[str, object]
    seconds: list[float] = field(default_factory=list)

    def run(self, counts: bool) -> float:
        time.sleep(PAUSE_S if counts else 0.0)
        arrived = {name: value.copy() for name, value in self.inputs.items()}  # a server's inputs have just been received
        start = self.clock()
        self.session.run(self.outputs, arrived)
        taken_s = at_pace(self.clock() - start, self.clock)
        self.seconds += [taken_s] if counts else []
        return taken_s


def _parts(
    graph: LayerGraph, index: int, split: Split, int8: Mapping[str, QuantizedLayer], feed: Feed, provider: Provider
) -> Iterator[_Part]:
    """Build the parts of one split as `cut` does."""
    model, chosen = graph.model, {name: int8[name] for name in split.quantized}
    tensor_of = {q.wire: q.output for q in chosen.values()}
    outside, entries = {*model.inputs, *model.outputs}, _entries(graph)
    for names, one, inputs, made in chain(graph, components(graph, split.assignment), feed, provider, chosen):
        come, go = ([t for n in group if (t := tensor_of.get(n, n)) not in outside] for group in (inputs, made))
        about: dict[str, object] = {
            "split": index, "server": split.assignment[names[0]], "layers": names,
            "quantized": tuple(n for n in names if n in chosen), "bytes_in": sum(map(model.size_bytes, come)),
            "bytes_out": sum(map(model.size_bytes, go)), "tensors_in": len(come),
            "entries": len(entries & set(names)) / max(1, len(entries)),
        }  # fmt: skip
        yield _Part(one, inputs, list(made), provider.clock, about)


def chain(
    graph: LayerGraph, groups: Iterable[tuple[str, ...]], feed: Feed, provider: Provider,
    int8: Mapping[str, QuantizedLayer] | None = None,
) -> Iterator[tuple[tuple[str, ...], Session, Feed, Feed]]:  # fmt: skip
    """Yield groups of layers, in an order in which they can run, with their session, and what goes in and comes out of it."""
    int8, values = int8 or {}, dict(feed)
    form = {q.output: q.wire for q in int8.values()}
    for names in groups:
        outputs = [form.get(t, t) for t in boundary(graph, names).outputs]
        one = session_of(build_part(graph, names, outputs, int8), provider)
        inputs = {i.name: values[i.name] for i in one.get_inputs()}
        made = dict(zip(outputs, one.run(outputs, inputs), strict=True))
        values |= made
        yield names, one, inputs, made


def seconds_alone(
    graph: LayerGraph, int8: Mapping[str, QuantizedLayer], feed: Feed, runs: int, provider: Provider
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the least seconds of every layer as a model of its own, and in int8 of those that have such a form.

    A layer alone does more than inside a compiled model: it is called, and its tensors enter and leave ONNX Runtime. The
    call is taken off: the least that any layer took. Whoever uses the seconds scales them to the whole model.
    """
    float32, quantized = {}, {}
    for (name,), one, inputs, made in chain(graph, [(name,) for name in graph.topological], feed, provider):
        float32[name] = float(cpu_seconds(one, inputs, runs, clock=provider.clock).min())
        if name in int8:
            one = session_of(build_part(graph, [name], list(made), {name: int8[name]}), provider)
            quantized[name] = float(cpu_seconds(one, inputs, runs, clock=provider.clock).min())
    call = min((*float32.values(), *quantized.values()))
    return {n: s - call for n, s in float32.items()}, {n: s - call for n, s in quantized.items()}


def int8_layers(graph: LayerGraph, names: Iterable[str], calibration: Calibration | None) -> dict[str, QuantizedLayer]:
    """Return the int8 forms of some layers."""
    names = list(names)
    if calibration is None:
        if names:
            message = "int8 times need a calibration: pass calibration=calibrate(graph, images)"
            raise ProfileError(message)
        return {}
    return {name: quantize_layer(graph, name, calibration) for name in names}
