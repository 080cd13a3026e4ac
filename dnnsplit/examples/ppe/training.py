"""Training and ONNX export of a small detector with Ultralytics, which stays optional.

Ultralytics is licensed under AGPL-3.0, so it is never a dependency of this package: it is imported
inside the functions below, and only somebody who trains a network needs it.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dnnsplit.ground.errors import DnnSplitError
from dnnsplit.ground.files import write_bytes

INSTALL = 'pip install -e ".[train]" in the folder of this repository'
MAKERS = ("ultralytics", "torch", "torchvision", "onnxslim", "onnx", "numpy", "pillow")
"""Distributions whose versions shape a trained and exported network."""


def versions() -> dict[str, str]:
    """Return the installed versions of `MAKERS`, by name.

    Returns
    -------
    dict of str to str
        What belongs into the record of a trained network.

    Raises
    ------
    DnnSplitError
        Some are missing; the message says which and how to install them.
    """
    found, missing = {}, []
    for name in MAKERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        message = f"training needs {', '.join(missing)}, not installed here; install: {INSTALL}"
        raise DnnSplitError(message)
    return found


def _require_side(size: int) -> None:
    if size < 32 or size % 32:
        message = f"size must be a multiple of 32 (the coarsest stride of the detector), got {size}"
        raise DnnSplitError(message)


def _load_ultralytics(threads: int) -> Any:
    """Import Ultralytics, offline and limited to `threads` CPU threads, and return its `YOLO` class."""
    versions()
    # Threads that spin while they wait cost many times the computation when two libraries share few cores.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": str(threads)}
    for name, value in {**waiting, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}.items():
        os.environ.setdefault(name, value)
    try:
        torch = import_module("torch")
        import_module("torchvision")  # which Ultralytics imports later: what is wrong with it is to be told now
        from ultralytics import YOLO
        from ultralytics.utils import torch_utils
    except (ImportError, RuntimeError) as problem:  # a torchvision that was built for another PyTorch raises a RuntimeError
        message = f"PyTorch, torchvision or Ultralytics does not load ({problem}); install: {INSTALL}"
        raise DnnSplitError(message) from problem
    # Ultralytics sets PyTorch's thread count to a constant of its own whenever it selects a device.
    torch_utils.NUM_THREADS = threads
    torch.set_num_threads(threads)
    return YOLO


def train_detector(
    data: str | Path,
    folder: str | Path,
    epochs: int = 25,
    size: int = 160,
    batch: int = 16,
    learning_rate: float = 1.5e-3,
    seed: int = 0,
    threads: int = 1,
    architecture: str = "yolo11n.yaml",
) -> Path:
    """Train a detector from random initial weights on the CPU.

    Parameters
    ----------
    data : str | Path
        Path of the data.yaml, e.g. from `dnnsplit.examples.ppe.scenes.write_yolo_dataset`.
    folder : str | Path
        Where the run is written; a run that is already there is replaced.
    epochs : int, default 25
        Passes over the training pictures.
    size : int, default 160
        Side of the square training pictures in pixels, a multiple of 32.
    batch : int, default 16
        Pictures per optimiser step.
    learning_rate : float, default 1.5e-3
        Initial learning rate of AdamW.
    seed : int, default 0
        Seed of the initial weights and of the augmentation.
    threads : int, default 1
        CPU threads.
    architecture : str, default "yolo11n.yaml"
        An Ultralytics model description; it names the architecture, no weights.

    Returns
    -------
    Path
        The checkpoint of the epoch with the best validation result.

    Raises
    ------
    DnnSplitError
        No data set, a bad value, the extra `train` is not installed, or training left no checkpoint.
    """
    if not Path(data).is_file():
        message = f"no data set description at {data}"
        raise DnnSplitError(message)
    if epochs < 1 or batch < 1 or threads < 1 or learning_rate <= 0:
        message = "epochs, batch and threads must be at least 1 and learning_rate above 0"
        raise DnnSplitError(message)
    _require_side(size)
    network, target = _load_ultralytics(threads)(architecture), Path(folder).resolve()
    network.train(
        data=str(Path(data).resolve()), project=str(target.parent), name=target.name, exist_ok=True,
        epochs=epochs, imgsz=size, batch=batch, optimizer="AdamW", lr0=learning_rate, seed=seed, pretrained=False,
        device="cpu", amp=False, workers=0, cache="ram", plots=False, close_mosaic=max(1, epochs // 3), conf=0.01,
    )  # fmt: skip
    best = target / "weights" / "best.pt"
    if not best.is_file():
        message = f"training ended without a checkpoint at {best}"
        raise DnnSplitError(message)
    return best


def export_onnx(checkpoint: str | Path, path: str | Path, size: int = 320, opset: int = 17, threads: int = 1) -> Path:
    """Export a checkpoint as a simplified ONNX file with batch 1 and a fixed square input.

    Parameters
    ----------
    checkpoint : str | Path
        File that `train_detector` returned.
    path : str | Path
        Where the ONNX file goes, whole or not at all; its output is (1, 4 + classes, anchors), see `noise.detections.decode`.
    size : int, default 320
        Side of the input in pixels, a multiple of 32.
    opset : int, default 17
        ONNX operator set.
    threads : int, default 1
        CPU threads.

    Returns
    -------
    Path
        `path`.  Of the metadata only licence, author, task, stride and class names are kept: the rest
        holds dates and local paths, which would make two equal exports differ.

    Raises
    ------
    DnnSplitError
        No checkpoint, a bad value, or the extra `train` is not installed.
    """
    _require_side(size)
    if not Path(checkpoint).is_file():
        message = f"no checkpoint at {checkpoint}"
        raise DnnSplitError(message)
    network = _load_ultralytics(threads)(str(checkpoint))
    exported = network.export(format="onnx", opset=opset, imgsz=size, simplify=True, device="cpu")
    import onnx

    model = onnx.load(exported)
    Path(exported).unlink()
    kept = {p.key: p.value for p in model.metadata_props if p.key in {"author", "task", "stride", "names"}}
    del model.metadata_props[:]
    model.doc_string = ""
    onnx.helper.set_model_props(model, {**kept, "license": "AGPL-3.0 (https://ultralytics.com/license)"})
    return write_bytes(path, model.SerializeToString(deterministic=True))
