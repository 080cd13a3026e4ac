"""Ready-made inputs: the shipped YOLO11n with its profile and noise table, the slides' networks, and small graphs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dnnsplit.examples.pictures import are_pictures, listed, read
from dnnsplit.examples.ppe import scenes
from dnnsplit.examples.ppocr import DETECTOR, text_pages
from dnnsplit.examples.preprocessing import Preprocessing, of_model
from dnnsplit.examples.yolo11 import NAMES, draw_scenes
from dnnsplit.graph.blocks import load
from dnnsplit.graph.feeds import needed
from dnnsplit.graph.layers import Layer, LayerGraph, Tensor
from dnnsplit.ground.arrays import read_arrays
from dnnsplit.ground.errors import DnnSplitError, OptionError, nearest
from dnnsplit.ground.files import sha256
from dnnsplit.ground.gate import Kind, memory_bytes
from dnnsplit.network.servers import Link, Network, Server
from dnnsplit.noise.models import NoiseModel
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.solving.instance import Instance

SHIPPED = "yolo11n-ppe-320"
TOPOLOGIES = ("device", "device-edge", "device-edge-cloud")


def data_folder() -> Path:
    """Return the folder of the shipped data: in the package where that is installed, else ``data/`` of the repository.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> sorted(path.name for path in (ds.examples.data_folder() / "networks").glob("device*.yaml"))
    ['device-edge-cloud.yaml', 'device-edge.yaml', 'device.yaml']
    """
    package = Path(__file__).resolve().parents[1]
    folders = (package / "data", package.parent / "data")
    for folder in folders:
        if (folder / "models" / f"{SHIPPED}.onnx").is_file():
            return folder
    places = " and not in ".join(map(str, folders))
    message = f"models/{SHIPPED}.onnx is not in {places}; install a wheel, or clone the repository: pip install -e ."
    raise DnnSplitError(message)


def network(topology: str = "device-edge-cloud") -> Network:
    """Return one of the slides' networks: device, device-edge or device-edge-cloud.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.examples.network("device-edge")
    Network(device, edge; 2 links; source device)
    """
    if topology not in TOPOLOGIES:
        message = f"topology {topology!r} is unknown{nearest(topology, TOPOLOGIES)}"
        raise DnnSplitError(message)
    return Network.load(data_folder() / "networks" / f"{topology}.yaml")


def yolo11n(topology: str = "device-edge-cloud") -> Instance:
    """Return the shipped YOLO11n with its committed profile and its exhaustive table of measured noise.

    Parameters
    ----------
    topology : str, default "device-edge-cloud"
        Device, device-edge or device-edge-cloud.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n("device-edge")
    >>> network
    Network(device, edge; 2 links; source device)
    """
    data = data_folder()
    return Instance(
        load(data / "models" / f"{SHIPPED}.onnx"),
        network(topology),
        LayerTimes.load(data / "profiles" / f"{SHIPPED}.csv"),
        NoiseModel.measured(NoiseSamples.load(data / "noise" / f"{SHIPPED}.csv")),
    )


def yolo11n_task() -> NoiseSamples:
    """Return all schemes of the shipped YOLO11n with their noise, and what they do to its task (`scoring.task_scores`): measured.

    Both are of the same 8 drawn images; plans are made from the noise of more (`yolo11n`).

    Examples
    --------
    >>> import dnnsplit as ds
    >>> len(ds.examples.yolo11n_task().details)
    4096
    """
    return NoiseSamples.load(data_folder() / "noise" / f"{SHIPPED}.task.csv")


def load_images(
    path: str | Path = "",
    count: int = 8,
    seed: int = 0,
    start: int | None = None,
    graph: LayerGraph | None = None,
    preprocess: str | Preprocessing = "",
    told: Callable[[str], object] = print,
) -> np.ndarray | dict[str, np.ndarray]:
    """Return images, or other inputs, for calibration, noise and latency tests.

    Parameters
    ----------
    path : str | Path, default ""
        A folder of pictures (JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000, AVIF), taken by name, or one picture; a ``.npy``
        file of shape (n, *shape of one image), n >= count, or an ``.npz`` file of such arrays by the names of inputs; empty draws
        scenes for the shipped model and what `export_yolo11` writes, and pages of text for PP-OCR's detector (`ppocr_det`).
    count : int, default 8
        How many.
    seed : int, default 0
        Which of the drawn ones; of a file, which images: `count` of them from the seed times `count`-th on, round its end.
    start : int | None, optional
        Of a file, the first image instead, so that images for one purpose are none of those for another; there is no way round
        the end then.
    graph : LayerGraph | None, optional
        The model that they are for: one image is what one of its inferences takes, and nothing is drawn for other models than
        these; without it, scenes are drawn. Pictures need it.
    preprocess : str | Preprocessing, default ""
        What is done to pictures, see `Preprocessing.of`; what it leaves open is as the ONNX file tells: letterbox for Ultralytics
        models, ImageNet's mean and std for classifiers of 1000, pixels as they are for uint8, else stretch and scale=1/255.
    told : Callable[[str], object], optional
        Is called with a sentence that says which pictures were taken and what was done to them.

    Returns
    -------
    np.ndarray | dict[str, np.ndarray]
        (count, *shape of one image), or that by name; nothing for a model that reads nothing.

    Raises
    ------
    OptionError
        No readable file, too few images in it, or no file for a model that nothing is drawn for; pictures that cannot be read,
        all of them at once.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.examples.load_images(count=2).shape
    (2, 3, 320, 320)
    """
    if graph is not None and not graph.model.inputs:
        return {}
    if not path:
        return _drawn(graph, count, seed)
    if are_pictures(path):
        return _pictures(path, count, seed, start, graph, preprocess, told)
    found = read_images(path)
    given = found if isinstance(found, dict) else {"": found}
    taken = {name: _taken(array, path, count, seed, start, _rows(graph, name, array)) for name, array in given.items()}
    return taken if isinstance(found, dict) else taken[""]


def _drawn(graph: LayerGraph | None, count: int, seed: int) -> np.ndarray:
    """Draw what a model of the examples looks at; refuse for another model, with what it needs instead."""
    if graph is None:
        return scenes.images(count, seed)
    model = graph.model
    again = model.path.stem == SHIPPED  # trained again, on such scenes, it keeps its name
    if again or model.sha256 == sha256(data_folder() / "models" / f"{SHIPPED}.onnx"):
        return scenes.images(count, seed)
    if model.path.stem == DETECTOR:
        return text_pages(count, seed, *model.types["x"][1][2:])
    if model.path.stem in NAMES and "weights" in model.metadata:  # as `export_yolo11` writes it
        return draw_scenes(model.types[model.inputs[0]][1][-1], count, seed)
    shapes = {name: needed(model.types[name][1]) for name in model.inputs}
    form = f"images.npy of shape {next(iter(shapes.values()))}"
    if len(shapes) == 1:
        form += " or a folder of pictures" * (len(model.types[model.inputs[0]][1]) == 4)
    else:
        form = f"images.npz with {', '.join(f'{name!r} of shape {shape}' for name, shape in shapes.items())}"
    message = (
        f"images are drawn for the examples' models alone; for {model.path.name} give --images {form}, or images=... in Python"
    )
    raise OptionError(message)


def _pictures(
    path: str | Path,
    count: int,
    seed: int,
    start: int | None,
    graph: LayerGraph | None,
    preprocess: str | Preprocessing,
    told: Callable[[str], object],
) -> np.ndarray:
    """Read pictures, and say which and how."""
    if graph is None:
        message = f"{path} are pictures, which are resized to the input of a model; tell it by graph=, or give arrays"
        raise OptionError(message)
    (how, why), (there, left) = of_model(graph.model, preprocess), listed(path)
    (name,) = graph.model.inputs
    dtype, shape = graph.model.dtype(name), graph.model.types[name][1]
    rows = shape[0] if "N" in how.layout else 1
    numbers = _taken(np.arange(len(there)), path, count, seed, start, rows)
    found = read([there[number] for number in numbers], how, dtype, shape)
    which = (
        f"{len(numbers)} of {len(there)} pictures in {path}, from {there[numbers[0]].name} on" if len(there) > 1 else f"{path}"
    )
    size = f"to {shape[how.layout.index('W')]} x {shape[how.layout.index('H')]}"
    change = "--preprocess, or preprocess= in Python, changes it"
    told(f"{which}: {how} {size} ({why}; {change})" + (f"; no pictures: {left}" if left else ""))
    return found


def count_images(path: str | Path, graph: LayerGraph) -> int:
    """Return for how many inferences a folder or a file has images; raises as `load_images` does.

    Parameters
    ----------
    path : str | Path
        As `load_images` takes it.
    graph : LayerGraph
        The model that they are for.
    """
    if are_pictures(path):
        how, _ = of_model(graph.model)
        rows = graph.model.types[graph.model.inputs[0]][1][0] if "N" in how.layout else 1
        return len(listed(path)[0]) // rows
    found = read_images(path)
    given = found if isinstance(found, dict) else {"": found}
    counts = [len(array) // _rows(graph, name, array) for name, array in given.items() if array.ndim]
    return min(counts, default=1)


def read_images(path: str | Path) -> np.ndarray | dict[str, np.ndarray]:
    """Read all of a ``.npy`` file of images, or an ``.npz`` file of such arrays; an `OptionError` says why that cannot be."""
    ways = "or give a folder of pictures"
    kind = Kind(
        "is not readable as a .npy or .npz file of images", OptionError, memory_bytes(), "the file of images", way_out=ways
    )
    return read_arrays(path, kind)


def _rows(graph: LayerGraph | None, name: str, array: np.ndarray) -> int:
    """Return how much of the first axis one inference takes: as the model has it, unless inferences have an axis of their own."""
    if graph is None:
        return 1
    shape = graph.model.types.get(name or next(iter(graph.model.inputs), ""), (0, ()))[1]
    return max(1, shape[0]) if array.ndim == len(shape) > 0 else 1


def _taken(array: np.ndarray, path: str | Path, count: int, seed: int, start: int | None, rows: int) -> np.ndarray:
    if not array.ndim:
        return array  # one number for all
    there, wanted = len(array) // rows, count + (start or 0)
    if there < wanted:
        which = f"{count} are wanted" + (f" after the first {start}, which are for another purpose" if start else "")
        message = f"{path} holds {there} images; {which}: give it more images, or ask for fewer"
        raise OptionError(message)
    first = seed * count if start is None else start
    return np.roll(array[: there * rows], -first * rows, axis=0)[: count * rows]


def tiny() -> Instance:
    """Return four layers, two servers and two quantizable layers, made up, for tests and first steps.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.split(*tiny(), max_noise=0.02).quantized
    ('conv1',)
    """
    graph = LayerGraph(
        layers=(
            Layer("conv1", "Conv", 4e6, 4e4),
            Layer("conv2", "Conv", 8e6, 8e4),
            Layer("pool", "MaxPool"),
            Layer("fc", "Gemm", 1e6, 1e5),
        ),
        tensors=(
            Tensor("image", None, ("conv1",), 1.2e6),
            Tensor("a", "conv1", ("conv2", "fc"), 4e5),
            Tensor("b", "conv2", ("pool",), 2e5),
            Tensor("c", "pool", ("fc",), 5e4),
            Tensor("scores", "fc", (), 4e3, is_output=True),
        ),
    )
    servers = (Server("device", 2.9, 3.5), Server("edge", 5.8, 2.3))
    links = (Link("device", "edge", 5e6, 0.005), Link("edge", "device", 20e6, 0.005))
    float32 = {"conv1": 0.1, "conv2": 0.3, "pool": 0.02, "fc": 0.05}
    int8 = {"conv1": 0.08, "conv2": 0.2}
    rows = [
        (name, server, precision, seconds * factor)
        for server, factor in (("device", 1.0), ("edge", 0.4))
        for precision, table in (("float32", float32), ("int8", int8))
        for name, seconds in table.items()
    ]
    times = LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    noise = NoiseModel.polynomial(("conv1", "conv2"), {"conv1": 0.01, "conv2": 0.03, ("conv1", "conv2"): -0.005}, intercept=0.002)
    return Instance(graph, Network(servers, links, "device"), times, noise)


def random_problem(layers: int, servers: int, quantizable: int = 0, seed: int = 0, branches: float = 0.25) -> Instance:
    """Return a random acyclic graph of the shape of real networks, on servers that get faster and farther away.

    Parameters
    ----------
    layers : int
        How many, each with one tensor; all read that of their predecessor, and some one that left a few layers before.
    servers : int
        How many; each is linked with every other.
    quantizable : int, default 0
        How many layers may run in int8.
    seed : int, default 0
        Same seed, same problem.
    branches : float, default 0.25
        Share of the layers that read a second tensor, of up to 8 layers before: as in real networks; 0 gives a chain.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.examples.random_problem(100, 3, quantizable=4)
    Instance
      graph: LayerGraph(100 layers, 101 tensors, 142.9 MFLOP, 1 MB of weights)
      network: Network(s0, s1, s2; 6 links; source s0)
      times: LayerTimes(100 layers; whole model in float32: s0 1 s, s1 223.6 ms,
          s2 50 ms)
      noise: NoiseModel(polynomial over 4 layers, 7 terms)
    """
    rng = np.random.default_rng(seed)
    names = [f"layer{i}" for i in range(layers)]
    consumers: list[list[str]] = [[] for _ in names]
    for i in range(1, layers):
        consumers[i - 1].append(names[i])
        if i > 3 and rng.random() < branches:
            back = int(rng.integers(max(0, i - 8), i - 1))
            if names[i] not in consumers[back]:
                consumers[back].append(names[i])
    size = rng.lognormal(np.log(2e5), 0.8, layers)
    tensors = [Tensor("input", None, (names[0],), 1.2e6)]
    tensors += [Tensor(f"t{i}", names[i], tuple(consumers[i]), float(size[i]), i == layers - 1) for i in range(layers)]
    work = rng.lognormal(0, 0.8, layers)
    seconds = work / work.sum()
    chosen = sorted(rng.choice(layers, size=min(quantizable, layers), replace=False).tolist())
    speed = np.geomspace(1, 20, servers) if servers > 1 else np.ones(1)
    rows = [
        (names[i], f"s{k}", precision, float(seconds[i] / speed[k] * (gain if precision == "int8" else 1.0)))
        for i, gain in zip(range(layers), rng.uniform(0.5, 1.2, layers), strict=True)
        for k in range(servers)
        for precision in ("float32", *(["int8"] if i in chosen else []))
    ]
    nodes = tuple(Server(f"s{k}", float(2 + 3 * k), float(3 - 0.1 * k)) for k in range(servers))
    links = tuple(
        Link(f"s{a}", f"s{b}", float(5e6 * (1 + a)), 0.005 * abs(a - b)) for a, b in itertools.permutations(range(servers), 2)
    )
    alone = zip(chosen, rng.uniform(0.01, 0.1, len(chosen)), strict=True)
    terms: dict[Sequence[str] | str, float] = {(names[i],): float(v) for i, v in alone}
    terms |= {(names[a], names[b]): -0.005 for a, b in itertools.pairwise(chosen)}
    return Instance(
        LayerGraph(tuple(Layer(n, "Conv", float(w) * 1e6, 1e4) for n, w in zip(names, work, strict=True)), tuple(tensors)),
        Network(nodes, links, "s0"),
        LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"])),
        NoiseModel.polynomial([names[i] for i in chosen], terms, intercept=0.002 if chosen else 0.0),
    )
