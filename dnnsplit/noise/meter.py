"""A meter of the noise of any scheme: it keeps its sessions, remembers what it measured, and can resume from a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dnnsplit.graph.feeds import feeds_of, images_sha256
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, nearest, raise_problems
from dnnsplit.noise.journal import read_journal, write_journal
from dnnsplit.noise.metrics import PER_OUTPUT, by_image, check_metric, errors, kept, metrics_of, ranked, shown
from dnnsplit.noise.prefix_tree import RUNTIME, PrefixTree, build_tree, compared, incomparable
from dnnsplit.noise.samples import SOURCE, NoiseSamples
from dnnsplit.noise.schemes import check_schemes, names_of, row_of
from dnnsplit.noise.segments import check_detector
from dnnsplit.noise.source_forms import SourceForm, source_forms
from dnnsplit.quantize.calibration import Calibration, calibrate
from dnnsplit.quantize.reasons import why_none
from dnnsplit.quantize.rewrite import ranges_needed
from dnnsplit.quantize.setting import QuantizationSetting, check_one_setting

Key = tuple[str, bytes]  # the label of a lossy form of the inputs, "" for none, and a scheme
SAVE_S = 3.0  # between two writes of the file to resume from; a killed measurement loses no more than that


@dataclass(eq=False)
class NoiseMeter:
    """Measures the noise of schemes with ONNX Runtime's int8 kernels; made by `noise_meter`.

    Called with the names of the quantized layers, and the lossy form of the inputs if they come in one, it returns their noise:
    what `split(..., verify=meter)` asks for.

    Attributes
    ----------
    layers : tuple[str, ...]
        V_Q, in topological order.
    metric : str
        What it calls noise.
    origin : Mapping[str, Any]
        What that depends on: model, images, metric, setting, calibration, lossy forms of inputs.
    """

    layers: tuple[str, ...]
    metric: str
    origin: Mapping[str, Any] = field(repr=False)
    _tree: PrefixTree = field(repr=False)
    _feeds: Sequence[Mapping[str, np.ndarray]] = field(repr=False)
    _detections: bool = field(repr=False)
    _ranking: tuple[int, ...] = field(repr=False)
    _workers: int = field(repr=False)
    _resume: Path | None = field(repr=False)
    _forms: dict[str, SourceForm] = field(default_factory=dict, repr=False)
    # by form and scheme, (images, numbers of `kept`); NaN: not measured yet
    _known: dict[Key, np.ndarray] = field(default_factory=dict, repr=False)
    _writing: Lock = field(default_factory=Lock, repr=False)
    _saved_s: float = field(default_factory=time.monotonic, repr=False)

    def __post_init__(self) -> None:
        self._read()

    @property
    def _identity(self) -> dict[str, Any]:
        """What the numbers depend on, in the words that an error message lists."""
        parts = {"layers": self.layers, "outputs": self._tree.outputs, "metrics": PER_OUTPUT, "detections": self._detections}
        parts |= {"top1": self._ranking} if self._ranking else {}
        own = ("model_sha256", "images_sha256", "setting", "calibration")
        return parts | {key: self.origin[key] for key in own} | {"runtime": RUNTIME}

    def __call__(self, quantized: Sequence[str], source: str = "") -> float:
        """Return the noise when exactly these layers are quantized, and the inputs come in this lossy form, "" for none."""
        return float(self.samples(row_of(self.layers, quantized)[None], False, source).noise[0])

    @property
    def measured(self) -> NoiseSamples:
        """Every scheme that was measured so far; NoiseError while there is none.

        Forms of the inputs that were measured alone are its ``sources``.
        """
        done = [key for key, values in self._known.items() if not np.isnan(values).any()]
        found = {form: [key for key in done if key[0] == self._label(form)] for form in ("", *self._forms)}
        alone = bytes(len(self.layers))
        sources = {form: self._samples(form, keys) for form, keys in found.items() if form and (self._label(form), alone) in keys}
        return replace(self._samples("", found[""]), sources=sources)

    def samples(self, schemes: np.ndarray | Sequence[Sequence[int]], progress: bool = True, source: str = "") -> NoiseSamples:
        """Return the noise of schemes; what was measured before is not measured again.

        Parameters
        ----------
        schemes : np.ndarray | Sequence[Sequence[int]]
            Distinct 0/1 rows, (n, layers).
        progress : bool, default True
            Show a progress bar with the time left.
        source : str, default ""
            Lossy form of the inputs; "" takes them as they are.

        Returns
        -------
        NoiseSamples
            In the order of the schemes, with ``details``.
        """
        check_arguments(NoiseMeter.samples, locals())
        return self.by_form({source: schemes}, progress)[source]

    def by_form(
        self, schemes: Mapping[str, np.ndarray | Sequence[Sequence[int]]], progress: bool = True
    ) -> dict[str, NoiseSamples]:
        """Return the noise of schemes by the lossy form of the inputs, all measured in one go; see `samples`."""
        check_arguments(NoiseMeter.by_form, locals())
        self._read()
        keys: dict[str, list[Key]] = {}
        for form, rows in schemes.items():
            checked = check_schemes(rows, len(self.layers)).astype(np.int8)
            keys[form] = [(self._label(form), row.tobytes()) for row in checked]
        every = sorted(key for part in keys.values() for key in part)
        shape = len(self._feeds), len(kept(self._tree.outputs, self._detections, self._ranking))
        for key in every:
            self._known.setdefault(key, np.full(shape, np.nan))
        self._measure(every, progress)
        return {form: self._samples(form, part) for form, part in keys.items()}

    def by_image(self, schemes: np.ndarray | Sequence[Sequence[int]], source: str = "") -> np.ndarray:
        """Return the noise of schemes on each image, float (schemes, images); arguments are those of `samples`."""
        check_arguments(NoiseMeter.by_image, locals())
        rows = self.samples(schemes, False, source).schemes
        values = np.array([self._known[self._label(source), row.tobytes()] for row in rows])
        return by_image(values, self._tree.outputs, self._detections, self._ranking)[self.metric]

    def outputs(self, quantized: Sequence[str], source: str = "") -> dict[str, np.ndarray]:
        """Return the outputs of all images when exactly these layers are quantized: (n, *shape of one image) by name.

        The inputs come in the lossy form `source`, as in `samples`. Outputs that are not compared, because their shape depends on
        the data, are not among them.
        """
        check_arguments(NoiseMeter.outputs, locals())
        row = row_of(self.layers, quantized)[None]
        label = self._label(source)
        found = [list(self._tree.walk(self._brought(feed, label), row))[-1] for feed in self._feeds]
        return {name: np.concatenate([np.atleast_1d(v[i]) for v in found]) for i, name in enumerate(self._tree.outputs)}

    def walk(self, image: int, schemes: np.ndarray | Sequence[Sequence[int]], source: str = "") -> Iterator[list[np.ndarray]]:
        """Yield the outputs of one image: of the float32 model, then of each scheme; for measures that are none of the metrics.

        The arrays are those of the session: read them before the next are asked for. Nothing of it is remembered.

        Parameters
        ----------
        image : int
            Its place among the images.
        schemes : np.ndarray | Sequence[Sequence[int]]
            Distinct 0/1 rows, (n, layers); in lexicographic order they take the least work.
        source : str, default ""
            Lossy form in which the image comes, to the float32 model too; "" takes it as it is.

        Raises
        ------
        NoiseError
            Rows that are no schemes of the layers, no such image, or no such form of it.
        """
        check_arguments(NoiseMeter.walk, locals(), NoiseError, least={"image": 0}, most={"image": len(self._feeds) - 1})
        feed = self._brought(self._feeds[image], self._label(source))
        return self._tree.walk(feed, check_schemes(schemes, len(self.layers)).astype(np.int8))

    def _label(self, source: str) -> str:
        if source and source not in self._forms:
            self._forms |= source_forms(self._feeds, [source])
        return self._forms[source].label if source else ""

    def _brought(self, feed: Mapping[str, np.ndarray], label: str) -> Mapping[str, np.ndarray]:
        """Return inputs as they arrive in the form of this label."""
        return next((form.of(feed) for form in self._forms.values() if form.label == label), feed)

    def _samples(self, source: str, keys: Sequence[Key]) -> NoiseSamples:
        if not keys:
            message = "there is no sample: no scheme was measured yet, or none was asked for"
            raise NoiseError(message)
        numbers = np.array([self._known[key] for key in keys])
        details = metrics_of(numbers, self._tree.outputs, self._detections, self._ranking)
        frame = pd.DataFrame(self._rows(keys), columns=list(self.layers)).assign(
            noise=details[self.metric], noise_std=details[f"{self.metric} std"], noise_images=len(self._feeds)
        )
        return NoiseSamples(frame, {**self.origin, SOURCE: source} if source else self.origin, details)

    def _rows(self, keys: Sequence[Key]) -> np.ndarray:
        return np.frombuffer(bytearray(b"".join(row for _, row in keys)), np.int8).reshape(len(keys), len(self.layers))

    def _measure(self, keys: Sequence[Key], progress: bool) -> None:
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

    def _work(self, todo: Iterator[tuple[int, Sequence[Key]]], told: Callable[[], object], stop: Event) -> None:
        try:
            for image, part in todo:
                self._walk(image, part, told, stop)
                if stop.is_set():
                    break
        finally:
            self._save()

    def _walk(self, image: int, keys: Sequence[Key], told: Callable[[], object], stop: Event) -> None:
        walk = self._outputs(self._feeds[image], keys)
        reference = next(walk)
        detections = shown(reference) if self._detections else None
        for key, outputs in zip(keys, walk, strict=True):
            if stop.is_set():
                return
            found = errors(reference, outputs, detections, self._ranking)
            if not np.isfinite(found[:: len(PER_OUTPUT)]).all():  # a difference that is no number; a ratio may be infinite
                names = ", ".join(names_of(self.layers, self._rows([key])[0])) or "no layer"
                message = f"image {image}: the outputs are not all numbers with {names} in int8; measure other layers"
                raise NoiseError(message)
            self._known[key][image] = found
            told()
            self._save(SAVE_S)

    def _outputs(self, feed: Mapping[str, np.ndarray], keys: Sequence[Key]) -> Iterator[list[np.ndarray]]:
        """Yield the outputs of the float32 model for one image as it is, then those of each form and scheme."""
        plain = sum(not label for label, _ in keys)  # they sort before all others
        yield from self._tree.walk(feed, self._rows(keys[:plain]))
        for label, group in groupby(keys[plain:], itemgetter(0)):
            yield from islice(self._tree.walk(self._brought(feed, label), self._rows([*group])), 1, None)

    def _read(self) -> None:
        """Learn what the file holds by now: another meter may have written it."""
        found = read_journal(self._resume, self._identity) if self._resume else None
        if found:
            self._known = {(str(form), row.tobytes()): values for form, row, values in zip(*found, strict=True)} | self._known

    def _save(self, every_s: float = 0.0) -> None:
        """Write the file, unless that was done less than `every_s` ago; in a worker, where no interruption stops it halfway."""
        if not self._resume:
            return
        with self._writing:
            if time.monotonic() - self._saved_s >= every_s:
                keys, values = [*self._known], np.array([*self._known.values()])
                forms = np.array([label for label, _ in keys])
                write_journal(self._resume, self._identity, forms, self._rows(keys), values)
                self._saved_s = time.monotonic()


def _shared(keys: Sequence[Key], shares: int) -> list[Sequence[Key]]:
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
    sources: Sequence[str] = (),
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
    sources : Sequence[str], optional
        As for `measure_noise`.

    Returns
    -------
    NoiseMeter
        Call it with names of layers, and a lossy form of the inputs.

    Raises
    ------
    NoiseError
        See `measure_noise`.
    """
    check_arguments(noise_meter, locals(), least={"workers": 1}, most={"workers": 1024})
    model = graph.model
    names = layers_of(graph, layers)
    outputs = compared(model)
    feeds = feeds_of(model, images)
    if calibration is None and not names:  # there is nothing to calibrate
        calibration = Calibration({}, QuantizationSetting.of(setting), model.sha256, images_sha256(feeds))
    calibration = calibration or calibrate(graph, images, setting)
    check_one_setting({"calibration": {"setting": calibration.setting}, "noise": {"setting": setting}})
    detections, ranking = told_beside(model, [metric], detections)
    forms = source_forms(feeds, sources)
    tree = build_tree(graph, names, calibration)
    spoiling = _spoiling(tree, feeds[0]) if isinstance(layers, int | np.integer) else []
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
    if graph.weights:
        origin["weights"] = graph.weights
    if notes:
        origin["notes"] = notes
    if forms:
        origin["sources"] = {form.name: {"inputs": [*form.codecs], "writer": form.writer} for form in forms.values()}
    path = None if resume is None else Path(resume)
    return NoiseMeter(names, metric, origin, tree, feeds, detections, ranking, workers, path, forms)


def _spoiling(tree: PrefixTree, feed: Mapping[str, np.ndarray]) -> list[int]:
    """Return the toggles that alone make outputs that are no numbers, as the logarithm of what rounds to 0 is none."""
    reference, *found = tree.walk(feed, np.eye(len(tree.segments) - 1, dtype=np.int8))
    real = [np.isfinite(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool) for array in reference]
    return [i for i, one in enumerate(found) if any((r & ~np.isfinite(a)).any() for r, a in zip(real, one, strict=True))]


def told_beside(model: Model, metrics: Sequence[str], detections: bool = False) -> tuple[bool, tuple[int, ...]]:
    """Return whether detections are compared, and which outputs rank classes; NoiseError for a metric that the model has not."""
    outputs = compared(model)
    detections = bool(detections) or "disagreement" in metrics
    ranking = ranked(shapes := [model.types[name][1] for name in outputs])
    for metric in metrics:
        check_metric(metric, outputs, detections, ranking)
    if detections:
        check_detector(shapes, model.metadata)
    return detections, ranking


def layers_of(graph: LayerGraph, layers: int | Sequence[str]) -> tuple[str, ...]:
    """Return the names of V_Q, in topological order, from a count or a list of names."""
    if isinstance(layers, int | np.integer):
        if layers < 1:
            message = f"layers is {layers}; measure at least one layer"
            raise NoiseError(message)
        return graph.quantizable(int(layers))
    possible = graph.quantizable(10**9)
    lost = [f"{name!r} cannot run in int8{nearest(name, possible)}" for name in layers if name not in possible]
    raise_problems(NoiseError, "layers", lost)
    return tuple(name for name in possible if name in layers)


def _no_layer(graph: LayerGraph) -> str:
    """Return why there is no layer to measure."""
    return "no layer was asked for" if graph.quantizable(1) else why_none(graph.model)
