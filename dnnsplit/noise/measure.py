"""Measured noise of quantization schemes: which of them to measure, and how few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NoiseError, OptionError, nearest
from dnnsplit.noise.design import design_schemes
from dnnsplit.noise.meter import NoiseMeter, noise_meter
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.noise.schemes import all_schemes, check_schemes, sample_schemes
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.setting import QuantizationSetting


def measure_noise(
    graph: LayerGraph,
    images: np.ndarray | Mapping[str, np.ndarray],
    layers: int | Sequence[str] = 12,
    schemes: str | int | np.ndarray = "all",
    setting: QuantizationSetting | str | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    budget: int | None = None,
    metric: str = "rho",
    detections: bool = False,
    resume: str | Path | None = None,
    sources: Sequence[str] = (),
    source_schemes: str = "none",
) -> NoiseSamples:
    """Measure the output noise of quantization schemes with ONNX Runtime's int8 kernels.

    rho = mean over images, then over outputs, of mean |o - o_q| (the slides), o being the float32 model in the same
    segments, so that rho = 0 exactly where nothing is quantized. Outputs whose shape depends on the data are left out, and
    ``origin["notes"]`` says so. All other metrics are told beside it, in ``details``; see `dnnsplit.noise.metrics` for them and
    for why a mean average precision over few images is not among them.

    Parameters
    ----------
    graph : LayerGraph
        Read from an ONNX file.
    images : np.ndarray | Mapping[str, np.ndarray]
        (n, *shape of one image), or that by input name.
    layers : int | Sequence[str], default 12
        How many of the layers with most FLOPs, or their names.
    schemes : str | int | np.ndarray, default "all"
        "all" 2^n of them, "alone" (none, and each layer alone), a number of them (none, each alone, all, then random ones), or a
        0/1 array (m, layers).
    setting : QuantizationSetting | str | None, optional
        How int8 is made, or its name ("thesis"); calibration is MinMax over the same images unless `calibration` is given.
    calibration : Calibration | None, optional
        Ranges measured before, on images of their own.
    seed : int, default 0
        Of random schemes, and of a design.
    workers : int, default 2
        Images measured side by side.
    progress : bool, default True
        Show a progress bar with the time left.
    budget : int | None, optional
        Instead of `schemes`: measure that many, each layer alone and all together, then those that tell most about the others
        (`dnnsplit.noise.design`).
    metric : str, default "rho"
        What is called noise: rho, relative, nsr, inf, l1, l2, l2_mean, top1 (of classifiers), disagreement, or one of an output,
        like ``rho:output0``.
    detections : bool, default False
        The first output is a YOLO detector's, or the first two are a segmentation's: tell the disagreement of detections too.
    resume : str | Path | None, optional
        File (.npz) that is written every few seconds; an interrupted measurement goes on from it, and a finished one is read from
        it.
    sources : Sequence[str], optional
        Lossy forms in which the inputs may come ("float16", "jpeg-95", "webp-90"): what they do to the outputs is measured too,
        each input that has the form being written and read back. Inputs that do not have it come as they are.
    source_schemes : str, default "none"
        Which schemes are measured with each form: "none" the one that quantizes nothing, from which the others are predicted
        (`dnnsplit.noise.models.PowerSum`), or "all" of `schemes`, and that one.

    Returns
    -------
    NoiseSamples
        With model, images, calibration, setting and metric in ``origin``, and every metric with its standard deviation over the
        images in ``details``; ``sources`` are the samples of lossy forms of the inputs. A model of which no layer can run in int8
        has one scheme, of noise 0; ``origin["notes"]`` says why.

    Raises
    ------
    NoiseError
        Unknown layers or metric, layers or an opset that no int8 kernel exists for, no output to compare, images of another
        shape, a budget smaller than layers + 1, a file to resume from that is of another measurement, forms that no input has or
        that lose nothing of these images.
    OptionError
        An unknown form, or unknown `source_schemes`.
    """
    check_arguments(measure_noise, locals(), least={"seed": 0, "workers": 1, "budget": 1}, most={"workers": 1024})
    if budget is not None and not (isinstance(schemes, str) and schemes == "all"):
        message = f"both schemes={schemes!r} and budget={budget!r} were given; a budget chooses the schemes"
        raise NoiseError(message)
    if source_schemes not in (choices := ("none", "all")):
        message = f"source_schemes is {source_schemes!r}{nearest(source_schemes, choices)}"
        raise OptionError(message)
    meter = noise_meter(graph, images, calibration, layers, setting, metric, detections, workers, resume, sources)
    if budget is not None and meter.layers:
        rows = _designed(meter, budget, seed, progress)
    else:
        rows = _schemes(schemes, len(meter.layers), seed)
    nothing = np.zeros((1, len(meter.layers)), np.int8)
    of_form = np.vstack([nothing, rows[rows.any(axis=1)]]) if source_schemes == "all" else nothing
    found = meter.by_form({"": rows, **dict.fromkeys(sources, of_form)}, progress)
    return replace(found.pop(""), sources=found)


def _designed(meter: NoiseMeter, budget: int, seed: int, progress: bool) -> np.ndarray:
    first = design_schemes(len(meter.layers), budget)
    second = design_schemes(len(meter.layers), budget, meter.samples(first, progress), seed)
    return np.vstack([first, second])


def _schemes(schemes: str | int | np.ndarray, count: int, seed: int) -> np.ndarray:
    if isinstance(schemes, str):
        if schemes == "alone":
            return np.vstack([np.zeros((1, count)), np.eye(count)]).astype(np.int8)
        if schemes != "all":
            message = f"schemes {schemes!r} is unknown; give 'all', 'alone', a number, or a 0/1 array"
            raise NoiseError(message)
        if count > 16:
            message = f"all schemes of {count} layers are {2**count}; give a number of schemes, or a budget"
            raise NoiseError(message)
        return all_schemes(count)
    if isinstance(schemes, int | np.integer):
        if schemes < 1:
            message = f"schemes is {schemes}; measure at least one"
            raise NoiseError(message)
        return sample_schemes(count, int(schemes), seed)
    return np.unique(check_schemes(schemes, count), axis=0).astype(np.int8)
