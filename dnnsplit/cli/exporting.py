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
    argument("--images", default="",
             help="folder of pictures, or .npy of shape (n, 3, size, size), for their BatchNorm (default: scenes are drawn)"),
    argument("--threads", type=int, default=1, help="CPU threads (default: 1)"),
)  # fmt: skip


def export(options: argparse.Namespace) -> int:
    """Write ``NAME.onnx``, and say where it is and what its weights are."""
    models = Path("data") / "models"
    folder = options.out or (models if models.is_dir() else Path())
    images = _images(options.images, options.size) if options.images else None
    asked = {name: getattr(options, name) for name in ("size", "seed", "weights", "threads")}
    found = ds.examples.export_yolo11(options.name, folder, images=images, **asked)
    tell(*filter(None, [found.note]))
    print(f"{found.path}: {found.weights}")
    return 0


def _images(path: str, size: int) -> np.ndarray:
    """Return 16 images; pictures are letterboxed, as Ultralytics does."""
    from dnnsplit.examples.pictures import are_pictures, listed, read  # a host that only serves has no onnx

    if not are_pictures(path):
        return np.asarray(ds.examples.load_images(path, 16))
    there, _ = listed(path)
    tell(f"{min(16, len(there))} of {len(there)} pictures in {path}: letterbox,RGB,scale=1/255")
    return read(there[:16], ds.Preprocessing.of("yolo"), np.dtype(np.float32), (1, 3, size, size))
