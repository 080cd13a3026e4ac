"""YOLO11 of Ultralytics as ONNX: with its pretrained weights where they can be had, else with random ones that behave like some.

Ultralytics is licensed under AGPL-3.0, so it is never a dependency of this package: it is imported inside the functions below,
and only somebody who trains or exports a network needs it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from dnnsplit.examples.ppe import scenes
from dnnsplit.ground.errors import DnnSplitError, OptionError, nearest, raise_problems
from dnnsplit.ground.files import sha256, write_bytes
from dnnsplit.ground.units import is_whole

INSTALL = 'pip install -e ".[train]" in the folder of this repository'
MAKERS = ("ultralytics", "torch", "torchvision", "onnxslim", "onnx", "numpy", "pillow")
"""Distributions whose versions shape a trained and exported network."""
NAMES = tuple(f"yolo11{size}{task}" for task in ("", "-seg", "-cls") for size in "nsmlx")
WEIGHTS = ("auto", "pretrained", "untrained")
IMAGES = 16  # that BatchNorm of an untrained network is set from
SCENE = 160  # pixels of a drawn scene, at least
KEPT = ("author", "task", "stride", "names")  # of Ultralytics' metadata; the rest holds dates and local paths

# What a trained detector gives, roughly: most places show next to nothing, a few something.
_EVERYWHERE, _SOMEWHERE, _PLACES = 0.01, 0.25, 0.005
_SPREAD = {"cv2": 1.5, "cv3": 1.0, "cv4": 1.0, "linear": 2.0}  # of what the last layers give: boxes, classes, masks, one class


@dataclass(frozen=True)
class Exported:
    """An ONNX file that was written.

    Parameters
    ----------
    path : Path
        Where it is.
    weights : str
        What they are, as the file's metadata say under that name.
    note : str, default ""
        Why they are not pretrained, where either was welcome.
    """

    path: Path
    weights: str
    note: str = ""


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
        message = f"training and export need {', '.join(missing)}, not installed here; install: {INSTALL}"
        raise DnnSplitError(message)
    return found


def side_problems(size: int) -> list[str]:
    """Say what is wrong with the side of a square input."""
    if is_whole(size, 32) and size % 32 == 0:
        return []
    return [f"size must be a multiple of 32 (the coarsest stride of the detector), got {size!r}"]


def load_ultralytics(threads: int) -> Any:
    """Import Ultralytics, limited to `threads` CPU threads and one try to reach the network; return its `YOLO` class."""
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


def write_onnx(network: Any, path: str | Path, size: int, opset: int = 17, weights: str = "") -> Path:
    """Write a network as a simplified ONNX file with batch 1 and a fixed square input, whole or not at all.

    The nodes are named after the modules, as PyTorch's older exporter does, which Ultralytics calls.

    Parameters
    ----------
    network : Any
        Of Ultralytics.
    path : str | Path
        Where the file goes.
    size : int
        Side of the input in pixels, a multiple of 32.
    opset : int, default 17
        ONNX operator set.
    weights : str, default ""
        What the metadata shall say of the weights; "" says nothing.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would have its newer exporter called, and warns of each fixed size
        network.model.pt_path = str(Path(folder) / "network.pt")  # beside which Ultralytics writes
        exported = network.export(format="onnx", opset=opset, imgsz=size, simplify=True, device="cpu")
        model = onnx.load(exported)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key in KEPT}
    kept |= {"license": "AGPL-3.0 (https://ultralytics.com/license)"} | ({"weights": weights} if weights else {})
    del model.metadata_props[:]
    model.doc_string = ""
    onnx.helper.set_model_props(model, kept)
    return write_bytes(path, model.SerializeToString(deterministic=True))


def draw_scenes(size: int, count: int = IMAGES, seed: int = 0) -> np.ndarray:
    """Draw images of as many scenes as fit: float32 (count, 3, size, size), RGB in [0, 1]. Same seed, same images.

    Parameters
    ----------
    size : int
        Side of an image in pixels.
    count : int, default 16
        How many.
    seed : int, default 0
        Of another seed, no image is the same.
    """
    tiles = next(t for t in range(max(1, size // SCENE), 0, -1) if size % t == 0)
    return scenes.labelled_canvases(count, seed, tiles, size // tiles)[0]


def export_yolo11(
    name: str,
    folder: str | Path = ".",
    size: int = 640,
    seed: int = 0,
    images: np.ndarray | None = None,
    weights: str = "auto",
    threads: int = 1,
) -> Exported:
    """Write a network of the YOLO11 family as ``<name>.onnx``, for one square image.

    Untrained networks have random weights, and means and variances of BatchNorm that are those of some images, set in one
    pass of all of them. Their last layers are scaled so that boxes, scores and masks have usual ranges: a few places of an image
    show something. What they show means nothing, but they run, cut and quantize as trained ones do.

    Parameters
    ----------
    name : str
        ``yolo11`` and a size (n, s, m, l, x), then ``-seg`` (segmentation), ``-cls`` (classification) or nothing (detection).
    folder : str | Path, default "."
        Of the file, made if missing. Pretrained weights are read from ``<name>.pt`` in it, and Ultralytics downloads them there.
    size : int, default 640
        Side of the input in pixels, a multiple of 32.
    seed : int, default 0
        Of random weights and of drawn images: the same seed gives the same file.
    images : np.ndarray | None, optional
        (n, 3, size, size), RGB in [0, 1], for BatchNorm of an untrained network; 16 scenes are drawn where there are none.
    weights : str, default "auto"
        "pretrained", "untrained", or "auto": pretrained if they can be had.
    threads : int, default 1
        CPU threads.

    Returns
    -------
    Exported
        The file, and what its weights are.

    Raises
    ------
    OptionError
        No such network, a bad value, or images of another shape.
    DnnSplitError
        The extra `train` is not installed, or there are no pretrained weights where no others are welcome.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.examples.export_yolo11("yolo11n", "models")  # doctest: +SKIP
    """
    raise_problems(OptionError, "export", _problems(name, size, seed, images, weights, threads))
    make, path = load_ultralytics(threads), Path(folder) / f"{name}.onnx"
    with _quiet():
        kind, note, network = "", "", None
        if weights != "untrained":
            try:
                network, kind = _pretrained(make, path.with_suffix(".pt"))
            except DnnSplitError as problem:
                if weights == "pretrained":
                    raise
                note = f"{problem.reason}, if you have it"
        if network is None:
            given = draw_scenes(size, seed=seed) if images is None else np.asarray(images, np.float32)
            network, kind = _untrained(make, name, seed, given)
        return Exported(write_onnx(network, path, size, weights=kind), kind, note)


def _problems(name: str, size: int, seed: int, images: np.ndarray | None, weights: str, threads: int) -> list[str]:
    problems = side_problems(size)
    if name not in NAMES:
        problems.append(f"there is no network {name!r}{nearest(str(name).removesuffix('-det'), NAMES)}")
    if weights not in WEIGHTS:
        problems.append(f"weights is {weights!r}{nearest(weights, WEIGHTS)}")
    for what, value, least in (("seed", seed, 0), ("threads", threads, 1)):
        if not is_whole(value, least):
            problems.append(f"{what} is {value!r}; it must be a whole number, {least} or more")
    if images is not None and weights == "pretrained":
        problems.append("images are for untrained weights, which weights='pretrained' excludes")
    if images is not None and (np.ndim(images) != 4 or np.shape(images)[1:] != (3, size, size) or not len(images)):
        problems.append(f"images have the shape {np.shape(images)}; it must be (n, 3, {size}, {size})")
    return problems


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ultralytics tell errors alone."""
    logger = logging.getLogger("ultralytics")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _pretrained(make: Any, checkpoint: Path) -> tuple[Any, str]:
    """Return a network with its pretrained weights, from a file or from Ultralytics, and what they are."""
    try:
        found = make(str(checkpoint))
    except (OSError, MemoryError, TypeError) as problem:  # no file and no network, no room for it, or another kind of file
        told = f"{checkpoint.name} cannot be had from Ultralytics ({_line(problem)}): put it into {checkpoint.parent}"
        raise DnnSplitError(told, "weights='untrained' needs none") from None
    return found, f"pretrained: {checkpoint.name} of Ultralytics, SHA-256 {sha256(checkpoint)[:12]}"


def _line(problem: BaseException) -> str:
    first = str(problem).strip().split("\n", maxsplit=1)[0]
    return first.encode("ascii", "ignore").decode().strip(" .")  # without pictographs


def _untrained(make: Any, name: str, seed: int, images: np.ndarray) -> tuple[Any, str]:
    """Return a network of random weights that gives usual activations and outputs for some images, and what they are."""
    torch = import_module("torch")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = make(f"{name}.yaml")
        head = made.model.model[-1]
        last = {part: _last(getattr(head, part)) for part in _SPREAD if hasattr(head, part)}
        given = _run(torch, made.model, [layer for layers in last.values() for layer in layers], torch.from_numpy(images))
        for part, layers in last.items():
            for layer in layers:
                given[layer] = _spread(layer, given[layer], _SPREAD[part])
        if "cv3" in last:
            _score(torch, last["cv3"], [given[layer] for layer in last["cv3"]])
    return made, f"untrained: random, seed {seed}, BatchNorm from {len(images)} images"


def _last(part: Any) -> list[Any]:
    """Return the last layers of a part of a head: one for each scale, or itself."""
    return [branch[-1] for branch in part] if hasattr(part, "__len__") else [part]


def _run(torch: Any, model: Any, layers: Sequence[Any], images: Any) -> dict[Any, Any]:
    """Set BatchNorm from images; return what some layers give for them, (channels, images, places) by layer.

    All images are one pass: statistics of small ones differ, and what they differ by would grow from layer to layer.
    """
    given: dict[Any, Any] = {}

    def keep(layer: Any, _: Any, output: Any) -> None:
        given[layer] = output.reshape(*output.shape[:2], -1).transpose(0, 1).clone()

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over passes, of which there is one
    model.train()
    model(images)
    model.eval()
    for hook in hooks:
        hook.remove()
    return given


def _spread(layer: Any, given: Any, spread: float) -> Any:
    """Scale a layer, in place, so that what it gives has the mean 0 and this standard deviation; return what it gives then."""
    mean = given.mean((1, 2), keepdim=True)
    factor = spread / (given - mean).std()
    layer.weight.mul_(factor)
    layer.bias.sub_(mean[:, 0, 0]).mul_(factor)
    return (given - mean) * factor


def _score(torch: Any, layers: Sequence[Any], given: Sequence[Any]) -> None:
    """Scale and shift the layers that give classes, in place, to usual scores: see `_EVERYWHERE`."""
    best = torch.cat([scores.amax(0) for scores in given], 1)  # (images, places)
    low, high = (float(best.quantile(share, 1).median()) for share in (0.5, 1 - _PLACES))
    least, most = (float(np.log(score / (1 - score))) for score in (_EVERYWHERE, _SOMEWHERE))
    factor = (most - least) / (high - low)
    for layer in layers:
        layer.weight.mul_(factor)
        layer.bias.mul_(factor).add_(most - factor * high)
