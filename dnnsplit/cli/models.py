"""What commands that take a model read: the model itself, and the inputs that it is measured on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import dnnsplit as ds
from dnnsplit.cli.assignments import shapes

Argument = tuple[tuple[str, ...], dict[str, Any]]


def argument(*names: str, **options: Any) -> Argument:
    """Name an argument as ``argparse.ArgumentParser.add_argument`` takes it."""
    return names, options


MODEL = (
    argument("model", type=Path, help="ONNX file"),
    argument("--shape", action="append", default=[], metavar="NAME=1,3,640,640",
             help="shape of an input that the file leaves open (repeatable)"),
)  # fmt: skip
FILES = ".npy of shape (n, ...), or .npz of such arrays by the names of inputs"
IMAGES = argument("--images", default="", help=f"{FILES} (default: scenes drawn for the shipped model)")


def load(options: argparse.Namespace, provider: str = "cpu") -> ds.LayerGraph:
    """Read the model, and say what was done to it."""
    graph = ds.load(options.model, [provider], shapes=shapes(options.shape))
    tell(*graph.notes)
    return graph


def tell(*notes: str) -> None:
    """Print what is no result."""
    for note in notes:
        print(f"dnnsplit: {note}", file=sys.stderr)
