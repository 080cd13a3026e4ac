"""Forms of tensors on the wire, measured on this machine: bytes over the images, CPU seconds of writing and reading."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pandas as pd

from dnnsplit.codecs.forms import Bytes, Codec, File, codec
from dnnsplit.codecs.pixels import Pixels, Unfit, find_pixels
from dnnsplit.graph.external_data import session_of
from dnnsplit.graph.feeds import Feed, Images, feeds_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.profiling.splits import int8_layers
from dnnsplit.profiling.wire_forms import INT8, PLAIN, WireForms
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.rewrite import QuantizedLayer
from dnnsplit.runtime.providers import Provider
from dnnsplit.runtime.timing import LEAST_RUNS, at_pace, settled

SOURCE_FORMS = ("float16", "uint8", "png-1", "webp-lossless", "jpeg-95", "jpeg-90", "webp-90")
WIRE_FORMS = ("zstd-1", "float16", "uint8")
FORMS = tuple(dict.fromkeys((*SOURCE_FORMS, *WIRE_FORMS)))
PACKED = "zstd"  # of tensors between layers alone: images are smaller as such
HERE = "here"
PAUSE_S = 0.05  # before a form is written, and read: a stage has been waiting for the request, and for the link
RUNS = 10  # of a form of a graph input, at most; each takes the next image
MOST_IMAGES = 8  # that tensors between layers are made from
MOST_BYTES = 2.5e8  # of tensors that one run of the model delivers


@dataclass
class _Coding:
    """A tensor in a form: its values over some images, the bytes that they take, and the seconds of runs."""

    tensor: str
    precision: str
    codec: Codec
    arrays: Sequence[np.ndarray]
    sizes: list[int] = field(default_factory=list)
    held: Sequence[np.ndarray] = ()  # the same as the source holds them
    exact: bool = True  # all came back to the last bit; of a lossless form
    encode_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)

    def is_smaller(self) -> bool:
        """Write every array once, and read it where that has to lose nothing; whether all take fewer bytes than as they are."""
        for array in self.arrays:
            try:
                elements = self.codec.encode(array)
            except Unfit:
                return False
            self.sizes.append(sum(map(len, elements)))
            if self.codec.lossless:
                back = self.codec.decode(elements, str(array.dtype), array.shape)
                self.exact = self.exact and back.tobytes() == array.tobytes()
        return sum(self.sizes) < sum(array.nbytes for array in self.arrays)

    def measure(self, run: int, pause_s: float) -> None:
        """Write and read the next array, unless the seconds of both are known."""
        if settled(self.encode_s) and settled(self.decode_s):
            return
        array, held = self.arrays[run % len(self.arrays)], (self.held or self.arrays)[run % len(self.arrays)]
        time.sleep(pause_s)
        start = time.thread_time()
        elements = self.codec.encode(held)
        self.encode_s.append(at_pace(time.thread_time() - start, time.thread_time))
        time.sleep(pause_s)
        start = time.thread_time()
        self.codec.decode(elements, str(array.dtype), array.shape)
        self.decode_s.append(at_pace(time.thread_time() - start, time.thread_time))

    def row(self, server: str) -> dict[str, object]:
        return {
            "tensor": self.tensor, "precision": self.precision, "form": self.codec.name, "server": server,
            "size_bytes": float(np.mean(self.sizes)), "size_bytes_95": float(np.percentile(self.sizes, 95)),
            "encode_s": float(np.median(self.encode_s)), "decode_s": float(np.median(self.decode_s)),
            "lossless": self.codec.lossless and self.exact,
        }  # fmt: skip


def wanted_forms(forms: bool | Sequence[str]) -> tuple[str, ...]:
    """Return the forms that are to be measured, without the plain ones; OptionError where one is unknown."""
    if isinstance(forms, bool):
        return FORMS if forms else ()
    names = tuple(n for n in dict.fromkeys([forms] if isinstance(forms, str) else forms) if n not in (PLAIN, INT8))
    _codecs(names)
    return names


def measure_forms(
    graph: LayerGraph, images: Images, calibration: Calibration | None = None, layers: Sequence[str] = (), server: str = HERE,
    forms: Sequence[str] = FORMS, provider: str | Provider = "cpu",
) -> WireForms | None:  # fmt: skip
    """Measure what the tensors of a model take in other forms than their plain one, which takes no time.

    Graph inputs: over all images, in forms of images where the input holds such (`find_pixels`; lossless ones where that is
    exact), in float16 and uint8 where it holds floats. The seconds are medians over runs that take the images by turns, with
    pauses between them as a stage rests that waits for requests, and end when both are known to 1 %. A source whose images are
    exactly of 8 bits, as a camera's are, has them as such: forms of images are written from these. Making the tensor of them is
    not counted, as the slides do not.
    Tensors between layers, and outputs: compressed, also as the layer makes it in int8 where it is one of `layers`; floats also
    in float16 and uint8. Over the first images, as many as memory holds and 8 at most; the seconds are medians of 5 runs, of
    all tensors in turn, so that none finds its values in the cache.
    Seconds are CPU seconds of this thread. They are all beyond the plain path: what is coded is the array that the plain path
    would copy, and what comes out is one. A form is left out where an array cannot be written so, and where it takes no fewer
    bytes than the plain one.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    images : Images
        As for `profile`.
    calibration : Calibration | None, optional
        Needed when `layers` are given.
    layers : Sequence[str], default ()
        Those that may run in int8.
    server : str, default "here"
        What this machine is called.
    forms : Sequence[str], default FORMS
        Their names.
    provider : str | Provider, default "cpu"
        Execution provider that makes the tensors between layers; what they take is measured on the CPU.

    Returns
    -------
    WireForms | None
        None where no tensor has a form.
    """
    if not forms:
        return None
    feeds = feeds_of(graph.model, images)
    sources, pixels = list[_Coding](), dict[str, Pixels]()
    for name in (tensor.name for tensor in graph.tensors if tensor.producer is None):
        arrays = [feed[name] for feed in feeds]
        found = find_pixels(arrays)
        pixels |= {name: found} if found else {}
        held = [found.steps(array, exact=True) for array in arrays] if found and found.exact else arrays
        for one in _codecs(forms, found):
            if one.name.partition("-")[0] != PACKED:
                sources.append(_Coding(name, PLAIN, one, arrays, held=held if isinstance(one, Bytes | File) else arrays))
    codings, between = _measured(sources, RUNS, PAUSE_S), _codecs(forms)
    int8 = {one.output: one for one in int8_layers(graph, layers, calibration).values()}
    for made in _values(graph, feeds, provider) if between else ():
        sent = {(name, PLAIN): arrays for name, arrays in made.items()}
        sent |= {(name, INT8): [_quantized(one, int8[name]) for one in arrays] for name, arrays in made.items() if name in int8}
        codings += _measured([_Coding(*name, one, arrays) for name, arrays in sent.items() for one in between], LEAST_RUNS, 0.0)
    rows = [coding.row(server) for coding in codings]
    return WireForms(pd.DataFrame(rows), pixels) if rows else None


def _codecs(forms: Iterable[str], pixels: Pixels | None = None) -> list[Codec]:
    """Return the codecs of the forms in which a tensor may be written that holds such images, or none."""
    found = []
    for form in forms:
        with suppress(Unfit):
            found.append(codec(form, pixels))
    return found


def _values(graph: LayerGraph, feeds: Sequence[Feed], provider: str | Provider) -> Iterator[dict[str, list[np.ndarray]]]:
    """Yield the values of what layers make, over the first images: as many tensors in a run of the model as memory holds."""
    model, tensors = graph.model, [tensor for tensor in graph.tensors if tensor.producer is not None]
    ends = np.cumsum([tensor.size_bytes for tensor in tensors])
    total = ends[-1] if tensors else 0.0
    few = feeds[: int(max(1, min(MOST_IMAGES, MOST_BYTES // max(1.0, total))))]
    received = [model.value_info(name) for name in model.inputs]
    for _, batch in groupby(zip(ends, tensors, strict=True), key=lambda one: one[0] // MOST_BYTES):
        names = [tensor.name for _, tensor in batch]
        delivered = [model.value_info(name) for name in names]
        one = session_of(model.assemble(list(model.nodes.values()), received, delivered), provider)
        runs = [one.run(names, feed) for feed in few]
        yield dict(zip(names, map(list, zip(*runs, strict=True)), strict=True))


def _quantized(array: np.ndarray, layer: QuantizedLayer) -> np.ndarray:
    """Return the values of a layer's output as it makes them in int8."""
    info = np.iinfo(layer.dtype)
    with np.errstate(invalid="ignore"):  # what is no number becomes any
        steps: np.ndarray = np.rint(array / np.float32(layer.scale)) + np.float32(layer.zero_point)
        return steps.clip(info.min, info.max).astype(layer.dtype)


def _measured(codings: Iterable[_Coding], runs: int, pause_s: float) -> list[_Coding]:
    """Measure the forms in turn, those that hold every array in fewer bytes; return these."""
    smaller = [coding for coding in codings if coding.is_smaller()]
    for run in range(runs):
        for coding in smaller:
            coding.measure(run, pause_s)
    return smaller
