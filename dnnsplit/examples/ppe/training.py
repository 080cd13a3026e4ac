"""Training and ONNX export of a small detector with Ultralytics, which stays optional: see `dnnsplit.examples.yolo11`."""

from __future__ import annotations

from pathlib import Path

from dnnsplit.examples.yolo11 import MAKERS, load_ultralytics, side_problems, versions, write_onnx
from dnnsplit.ground.errors import DnnSplitError, OptionError, raise_problems

__all__ = ["MAKERS", "export_onnx", "train_detector", "versions"]


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
    raise_problems(OptionError, "training", side_problems(size))
    network, target = load_ultralytics(threads)(architecture), Path(folder).resolve()
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
    raise_problems(OptionError, "export", side_problems(size))
    if not Path(checkpoint).is_file():
        message = f"no checkpoint at {checkpoint}"
        raise DnnSplitError(message)
    return write_onnx(load_ultralytics(threads)(str(checkpoint)), path, size, opset)
