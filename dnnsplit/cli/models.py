"""What commands that take a model read: the model itself, the inputs that it is measured on, and the problem it poses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import dnnsplit as ds
from dnnsplit.cli.assignments import shapes

Argument = tuple[tuple[str, ...], dict[str, Any]]


def argument(*names: str, **options: Any) -> Argument:
    """Name an argument as ``ArgumentParser.add_argument`` takes it; ``writes`` tells of a "file" or "folder" that is written."""
    return names, options


MODEL = (
    argument("model", type=Path, help="ONNX file"),
    argument("--shape", action="append", default=[], metavar="NAME=1,3,640,640",
             help="shape of an input that the file leaves open (repeatable)"),
)  # fmt: skip
FILES = "folder of pictures, a picture, .npy of shape (n, ...), or .npz of such arrays by the names of inputs"
IMAGES = argument("--images", default="", help=f"{FILES} (default: scenes, for the examples' models)")
PREPROCESS = argument(
    "--preprocess",
    default="",
    metavar="HOW",
    help="what is done to pictures, such as letterbox,BGR,scale=1/255 or imagenet (default: as the model tells)",
)
PROVIDER = argument("--provider", default="cpu", metavar="NAME[:DEVICE]",
                    help="of ONNX Runtime: cpu, cuda, tensorrt, openvino, or a full name (default: cpu)")  # fmt: skip
PROBLEM = (
    *MODEL,
    argument("network", type=Path, help="network YAML"),
    argument("times", type=Path, help="CSV of layer times"),
    argument("--noise", type=Path, help="CSV of noise samples; without it nothing is quantized"),
    argument("--degree", type=int, default=0, help="of the noise polynomial; 0 (default) takes the table itself"),
    argument("--confidence", type=float, help="keep noise limits by upper bounds of this confidence (default: the mean)"),
    argument(
        "--source-form",
        dest="source_forms",
        action="append",
        metavar="FORM",
        help="a form in which inputs may be sent, such as float32 or png-1 (repeatable; default: all that were measured)",
    ),
    argument(
        "--wire-form",
        dest="wire_forms",
        action="append",
        metavar="FORM",
        help="a form in which other tensors may be sent (repeatable; default: all lossless ones that were measured)",
    ),
    argument("-o", "--out", type=Path, writes="file", help="write the result here instead of printing it"),
)


def load(options: argparse.Namespace, provider: str = "cpu") -> ds.LayerGraph:
    """Read the model, and say what was done to it."""
    graph = ds.load(options.model, [provider], shapes=shapes(options.shape))
    tell(*graph.notes)
    return graph


def images(options: argparse.Namespace, graph: ds.LayerGraph, **purposes: int) -> list[Any]:
    """Read images for some purposes, none for two; where there are fewer than are wanted, fewer for each, which is told."""
    counts = tuple(purposes.values())
    if min(counts) < 1:
        message = f"{min(counts)} images are asked for; give 1 or more"
        raise ds.OptionError(message)
    path, starts = options.images, [sum(counts[:place]) for place in range(len(counts))]
    if path and graph.model.inputs:
        from dnnsplit.examples.shipped import count_images  # a host that only serves has no onnx

        there, wanted = count_images(path, graph), sum(counts)
        if there < wanted:
            counts = tuple(max(1, there * count // wanted) for count in counts)
            starts = [sum(counts[:place]) if sum(counts) <= there else 0 for place in range(len(counts))]
            each = " and ".join(f"{count} for the {purpose}" for purpose, count in zip(purposes, counts, strict=True))
            taken = f"{each} are taken" if sum(counts) <= there else "the first serve all purposes"
            asked = " and ".join(f"{count} for the {purpose}" for purpose, count in purposes.items())
            tell(f"{path} holds {there} image{'s' * (there > 1)}, and {wanted} are wanted ({asked}): {taken}")
    given = {"graph": graph, "preprocess": options.preprocess, "told": tell}
    return [
        ds.examples.load_images(path, count, seed=number, start=start, **given)
        for number, (count, start) in enumerate(zip(counts, starts, strict=True), 1)
    ]


def problem_of(options: argparse.Namespace) -> tuple[Any, ...]:
    """Read what `split` takes by place: graph, network, times and noise."""
    noise = None
    if options.noise:
        samples = ds.NoiseSamples.load(options.noise)
        noise = ds.fit_noise(samples, degree=options.degree) if options.degree else ds.fit_noise(samples, "measured")
        if not options.degree and not samples.complete:
            of = f"{len(samples.frame)} of {2 ** len(samples.layers)} schemes"
            tell(f"plans are of the {of} that were measured; --degree 2 predicts the others")
    return load(options), ds.Network.load(options.network), ds.LayerTimes.load(options.times), noise


def tell(*notes: str) -> None:
    """Print what is no result."""
    for note in notes:
        print(f"dnnsplit: {note}", file=sys.stderr)
