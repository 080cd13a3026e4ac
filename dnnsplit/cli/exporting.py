"""The command that writes a network of a known family as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import dnnsplit as ds
from dnnsplit.cli.models import argument, tell

ARGUMENTS = (
    argument("name", metavar="NAME", help="yolo11 and a size (n, s, m, l, x), then -seg, -cls, or nothing for detection"),
    argument("-o", "--out", type=Path, writes="folder",
             help="folder of the file (default: data/models where there is one, else this folder)"),
    argument("--size", type=int, default=640, help="side of the input [pixels] (default: 640)"),
    argument("--weights", default="auto", help="pretrained, untrained, or auto: pretrained if they can be had (default)"),
    argument("--seed", type=int, default=0, help="of untrained weights (default: 0)"),
    argument("--images", default="", help=".npy of shape (n, 3, size, size) for their BatchNorm (default: scenes are drawn)"),
    argument("--threads", type=int, default=1, help="CPU threads (default: 1)"),
)  # fmt: skip


def export(options: argparse.Namespace) -> int:
    """Write ``NAME.onnx``, and say where it is and what its weights are."""
    models = Path("data") / "models"
    folder = options.out or (models if models.is_dir() else Path())
    images = np.asarray(ds.examples.load_images(options.images, 16)) if options.images else None
    asked = {name: getattr(options, name) for name in ("size", "seed", "weights", "threads")}
    found = ds.examples.export_yolo11(options.name, folder, images=images, **asked)
    tell(*filter(None, [found.note]))
    print(f"{found.path}: {found.weights}")
    return 0
