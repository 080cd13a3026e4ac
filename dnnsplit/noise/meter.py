"""A meter of the noise of any scheme: it keeps its sessions, remembers what it measured, and can resume from a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.feeds import feeds_of, images_sha256
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import NoiseError, OptionError, nearest, raise_problems
from dnnsplit.noise.journal import read_journal, write_journal
from dnnsplit.noise.metrics import PER_OUTPUT, by_image, check_metric, errors, kept, metrics_of, shown
from dnnsplit.noise.prefix_tree import RUNTIME, PrefixTree, build_tree, compared, incomparable
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.schemes import check_schemes, names_of, row_of
from dnnsplit.quantize.calibration import Calibration, calibrate
from dnnsplit.quantize.reasons import why_none
from dnnsplit.quantize.rewrite import ranges_needed
from dnnsplit.quantize.setting import QuantizationSetting

SAVE_S = 3.0  # between two writes of the file to resume from; a killed measurement loses no more than that


@dataclass(eq=False)
class NoiseMeter:
    """Measures the noise of schemes with ONNX Runtime's int8 kernels; made by `noise_meter`.

    Called with the names of the quantized layers it returns their noise: what `split(..., verify=meter)` asks for.

    Attributes
    ----------
    layers : tuple[str, ...]
        V_Q, in topological order.
    metric : str
        What it calls noise.
    origin : Mapping[str, Any]
        What that depends on: model, images, metric, setting, calibration.
    """

    layers: tuple[str, ...]
    metric: str
    origin: Mapping[str, Any] = field(repr=False)
    _tree: PrefixTree = field(repr=False)
    _feeds: Sequence[Mapping[str, np.ndarray]] = field(repr=False)
    _detections: bool = field(repr=False)
    _workers: int = field(repr=False)
    _resume: Path | None = field(repr=False)
    # by scheme, (images, numbers of `kept`); NaN: not measured yet
    _known: dict[bytes, np.ndarray] = field(default_factory=dict, repr=False)
    _writing: Lock = field(default_factory=Lock, repr=False)
    _saved_s: float = field(default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        self._read()

    @property
    def _identity(self) -> dict[str, Any]:
        """What the numbers depend on, in the words that an error message lists."""
        parts = {"layers": self.layers, "outputs": self._tree.outputs, "detections": self._detections}
        own = ("model_sha256", "images_sha256", "setting", "calibration")
        return parts | {key: self.origin[key] for key in own} | {"runtime": RUNTIME}

    def __call__(self, quantized: Sequence[str]) -> float:
        """Return the noise when exactly these layers are quantized."""
        return float(self.samples(row_of(self.layers, quantized)[None], progress=False).noise[0])

    @property
    def measured(self) -> NoiseSamples:
        """Every scheme that was measured so far; NoiseError while there is none."""
        return self._samples([key for key, values in self._known.items() if not np.isnan(values).any()])

    def samples(self, schemes: np.ndarray, progress: bool = True) -> NoiseSamples:
        """Return the noise of schemes; what was measured before is not measured again.

        Parameters
        ----------
        schemes : np.ndarray
            Distinct 0/1 rows, (n, layers).
        progress : bool, default True
            Show a progress bar with the time left.

        Returns
        -------
        NoiseSamples
            In the order of the schemes, with ``details``.
        """
        schemes = check_schemes(schemes, len(self.layers)).astype(np.int8)
        self._read()
        keys = [row.tobytes() for row in schemes]
        for key in keys:
            self._known.setdefault(key, np.full((len(self._feeds), len(kept(self._tree.outputs, self._detections))), np.nan))
        self._measure(sorted(keys), progress)
        return self._samples(keys)

    def by_image(self, schemes: np.ndarray) -> np.ndarray:
        """Return the noise of schemes on each image, float (schemes, images); arguments are those of `samples`."""
        rows = self.samples(schemes, progress=False).schemes
        values = np.array([self._known[row.tobytes()] for row in rows])
        return by_image(values, self._tree.outputs, self._detections)[self.metric]

    def outputs(self, quantized: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the outputs of all images when exactly these layers are quantized: (n, *shape of one image) by name.

        Outputs that are not compared, because their shape depends on the data, are not among them.
        """
        row = row_of(self.layers, quantized)[None]
        found = [list(self._tree.walk(feed, row))[-1] for feed in self._feeds]
        return {name: np.concatenate([np.atleast_1d(v[i]) for v in found]) for i, name in enumerate(self._tree.outputs)}

    def _samples(self, keys: Sequence[bytes]) -> NoiseSamples:
        if not keys:
            message = "there is no sample: no scheme was measured yet, or none was asked for"
            raise NoiseError(message)
        details = metrics_of(np.array([self._known[key] for key in keys]), self._tree.outputs, self._detections)
        frame = pd.DataFrame(self._rows(keys), columns=list(self.layers)).assign(
            noise=details[self.metric], noise_std=details[f"{self.metric} std"], noise_images=len(self._feeds)
        )
        return NoiseSamples(frame, self.origin, details)

    def _rows(self, keys: Sequence[bytes]) -> np.ndarray:
        return np.frombuffer(bytearray(b"".join(keys)), np.int8).reshape(len(keys), len(self.layers))

    def _measure(self, keys: Sequence[bytes], progress: bool) -> None:
        """Fill in what is missing of some schemes, image by image; their keys sort as the schemes do."""
        images, stop = range(len(self._feeds)), Event()
        missing = [[key for key in keys if np.isnan(self._known[key][image]).any()] for image in images]
        shares = -(-self._workers // len(images))  # few images leave workers idle unless each is shared
        work = [(image, part) for image in images for part in _shared(missing[image], shares) if part]
        if not work:
            return
        total = len(keys) * len(images)
        bar = tqdm(total=total, initial=total - sum(map(len, missing)), desc="noise", unit="run", disable=not progress)
        todo = iter(work)  # shared: what one worker takes, no other gets
        ended: SimpleQueue[Future[None]] = SimpleQueue()
        with bar, ThreadPoolExecutor(self._workers) as pool:
            try:
                for _ in range(self._workers):
                    pool.submit(self._work, todo, bar.update, stop).add_done_callback(ended.put)
                # An interruption finds no lock half taken here, as it may in `concurrent.futures.wait`, where a worker would then
                # wait for it for ever.
                for _ in range(self._workers):
                    ended.get().result()
            finally:  # an interruption or an error ends the workers, and what they found is kept
                stop.set()

    def _work(self, todo: Iterator[tuple[int, Sequence[bytes]]], told: Callable[[], object], stop: Event) -> None:
        try:
            for image, part in todo:
                self._walk(image, part, told, stop)
                if stop.is_set():
                    break
        finally:
            self._save()

    def _walk(self, image: int, keys: Sequence[bytes], told: Callable[[], object], stop: Event) -> None:
        walk = self._tree.walk(self._feeds[image], self._rows(keys))
        reference = next(walk)
        detections = shown(reference) if self._detections else None
        for key, outputs in zip(keys, walk, strict=True):
            if stop.is_set():
                return
            found = errors(reference, outputs, detections)
            if not np.isfinite(found[:: len(PER_OUTPUT)]).all():  # a difference that is no number; a ratio may be infinite
                names = ", ".join(names_of(self.layers, key)) or "no layer"
                message = f"image {image}: the outputs are not all numbers with {names} in int8; measure other layers"
                raise NoiseError(message)
            self._known[key][image] = found
            told()
            self._save(SAVE_S)

    def _read(self) -> None:
        """Learn what the file holds by now: another meter may have written it."""
        found = read_journal(self._resume, self._identity) if self._resume else None
        if found:
            self._known = {row.tobytes(): values for row, values in zip(*found, strict=True)} | self._known

    def _save(self, every_s: float = 0.0) -> None:
        """Write the file, unless that was done less than `every_s` ago; in a worker, where no interruption stops it halfway."""
        if not self._resume:
            return
        with self._writing:
            if time.monotonic() - self._saved_s >= every_s:
                write_journal(self._resume, self._identity, self._rows(list(self._known)), np.array([*self._known.values()]))
                self._saved_s = time.monotonic()


def _shared(keys: Sequence[bytes], shares: int) -> list[Sequence[bytes]]:
    """Divide schemes into runs of neighbours."""
    size = -(-len(keys) // shares) or 1
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def noise_meter(
    graph: LayerGraph,
    images: np.ndarray | Mapping[str, np.ndarray],
    calibration: Calibration | None = None,
    layers: int | Sequence[str] = 12,
    setting: QuantizationSetting | str | None = None,
    metric: str = "rho",
    detections: bool = False,
    workers: int = 2,
    resume: str | Path | None = None,
) -> NoiseMeter:
    """Prepare to measure the noise of any scheme of some layers.

    Parameters
    ----------
    graph : LayerGraph
        As for `measure_noise`.
    images : np.ndarray | Mapping[str, np.ndarray]
        As for `measure_noise`.
    calibration : Calibration | None, optional
        As for `measure_noise`.
    layers : int | Sequence[str], default 12
        As for `measure_noise`.
    setting : QuantizationSetting | str | None, optional
        As for `measure_noise`.
    metric : str, default "rho"
        As for `measure_noise`.
    detections : bool, default False
        As for `measure_noise`.
    workers : int, default 2
        As for `measure_noise`.
    resume : str | Path | None, optional
        As for `measure_noise`.

    Returns
    -------
    NoiseMeter
        Call it with names of layers.

    Raises
    ------
    NoiseError
        See `measure_noise`.
    """
    model = graph.model
    names = layers_of(graph, layers)
    outputs = compared(model)
    feeds = feeds_of(model, images)
    if calibration is None and not names:  # there is nothing to calibrate
        calibration = Calibration({}, QuantizationSetting.of(setting), model.sha256, images_sha256(feeds))
    calibration = calibration or calibrate(graph, images, setting)
    if setting is not None and QuantizationSetting.of(setting) != calibration.setting:
        message = f"the calibration is for {calibration.setting}, not for {setting}; calibrate anew"
        raise NoiseError(message)
    if workers < 1:
        message = f"workers is {workers!r}; it must be 1 or more"
        raise OptionError(message)
    detections = detections or metric == "disagreement"
    check_metric(metric, outputs, detections)
    tree = build_tree(graph, names, calibration)
    spoiling = _spoiling(tree, feeds[0]) if isinstance(layers, int) else []
    notes = [f"layer {names[i]!r} is left out: in int8 it makes outputs that are no numbers" for i in spoiling]
    if spoiling:
        names = tuple(name for i, name in enumerate(names) if i not in spoiling)
        tree = build_tree(graph, names, calibration)
    notes += [] if names or spoiling else [_no_layer(graph)]
    notes += [f"output {name!r} is not compared: {why}" for name, why in incomparable(model).items()]
    origin: dict[str, Any] = {
        "model": model.path.name,
        "model_sha256": model.sha256,
        "images": len(feeds),
        "images_sha256": images_sha256(feeds),
        "metric": metric,
        "setting": asdict(calibration.setting),
        "calibration": calibration.only(ranges_needed(graph, names)).to_json(),
    }
    if notes:
        origin["notes"] = notes
    return NoiseMeter(names, metric, origin, tree, feeds, detections, workers, None if resume is None else Path(resume))


def _spoiling(tree: PrefixTree, feed: Mapping[str, np.ndarray]) -> list[int]:
    """Return the toggles that alone make outputs that are no numbers, as the logarithm of what rounds to 0 is none."""
    reference, *found = tree.walk(feed, np.eye(len(tree.segments) - 1, dtype=np.int8))
    real = [np.isfinite(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool) for array in reference]
    return [i for i, one in enumerate(found) if any((r & ~np.isfinite(a)).any() for r, a in zip(real, one, strict=True))]


def layers_of(graph: LayerGraph, layers: int | Sequence[str]) -> tuple[str, ...]:
    """Return the names of V_Q, in topological order, from a count or a list of names."""
    if isinstance(layers, int):
        if layers < 1:
            message = f"layers is {layers}; measure at least one layer"
            raise NoiseError(message)
        return graph.quantizable(layers)
    possible = graph.quantizable(10**9)
    lost = [f"{name!r} cannot run in int8{nearest(name, possible)}" for name in layers if name not in possible]
    raise_problems(NoiseError, "layers", lost)
    return tuple(name for name in possible if name in layers)


def _no_layer(graph: LayerGraph) -> str:
    """Return why there is no layer to measure."""
    return "no layer was asked for" if graph.quantizable(1) else why_none(graph.model)
