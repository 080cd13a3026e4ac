"""What the experiments start from: a model with what was measured of it, or the folder of a recorded instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dnnsplit.graph.blocks import load
from dnnsplit.graph.feeds import Images
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.signature import Shapes
from dnnsplit.ground.paths import exists, real
from dnnsplit.network.servers import Network
from dnnsplit.noise.fit import fit_noise
from dnnsplit.noise.models import LENT, NoiseModel, Table
from dnnsplit.noise.samples import NoiseSamples
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.quantize.rewrite import ranges_needed
from dnnsplit.solving.instance import Instance, lent_noise


class Inputs(NamedTuple):
    """What plans are made from.

    Parameters
    ----------
    graph, times, noise : LayerGraph, LayerTimes, NoiseModel
        As for `split`.
    topologies : Mapping[str, Network]
        By name, the fewest servers first as given.
    name : str
        Of the model or the instance, for files.
    confidence : float | None
        With which limits on the noise can be kept; None where the noise has no spread over images.
    notes : tuple[str, ...]
        What cannot be had from these inputs, a sentence each.
    """

    graph: LayerGraph
    times: LayerTimes
    noise: NoiseModel
    topologies: Mapping[str, Network]
    name: str
    confidence: float | None
    notes: tuple[str, ...]


def read_problem(
    model: str | Path,
    shapes: Shapes | None = None,
    data: str | Path = "data",
    noise_model: str = "measured",
    *,
    networks: Sequence[str | Path] = (),
    instance: str | Path = "",
    noise: str | Path = "",
    confidence: float | None = None,
) -> Inputs:
    """Read a model with its times and its noise, or an instance in its place.

    Parameters
    ----------
    model : str | Path
        ONNX file; not read where there is an instance.
    shapes : Shapes | None, optional
        As for `load`.
    data : str | Path, default "data"
        Folder with ``profiles/<model>.csv`` and ``noise/<model>.csv``.
    noise_model : str, default "measured"
        As for `fit_noise`.
    networks : Sequence[str | Path], default ()
        YAML files of the topologies, named by them.
    instance : str | Path, default ""
        Folder of an `Instance`, which has its network too: its topologies are the source alone, the source and the next server,
        and so on, their names joined by "-".
    noise : str | Path, default ""
        Folder of an instance whose polynomial is the noise, see `dnnsplit.solving.instance.lent_noise`.
    confidence : float | None, optional
        Of the limits on the noise, for noise that was measured.

    Returns
    -------
    Inputs
        An instance without noise has a model over no layers: all of it runs in float32.
    """
    notes = []
    if instance:
        name = real(instance).name
        graph, network, times, found = Instance.load(instance)
        topologies = _topologies(network)
        notes.append(f"{name} is a recorded instance, without its model: nothing of it is measured, cut or run here.")
        eta = found or Table((), {0: 0.0})
        if found is None and not noise:
            notes.append(f"{name} has no noise.csv: no layer runs in int8.")
    else:
        graph, topologies = load(model, shapes=shapes), {Path(path).stem: Network.load(path) for path in networks}
        name = Path(model).stem
        times = LayerTimes.load(Path(data) / "profiles" / f"{name}.csv")
        eta = Table((), {0: 0.0}) if noise else fit_noise(NoiseSamples.load(Path(data) / "noise" / f"{name}.csv"), noise_model)
    if noise:
        eta = lent_noise(noise, graph, times)
        notes.append(f"The noise is that of the polynomial of {eta.origin[LENT]}: predicted, not measured on this model.")
    if (instance or noise) and confidence is not None:
        confidence = None
        notes.append("The noise has no spread over images: limits are on its mean, not on an upper bound of some confidence.")
    if times.forms is None:
        notes.append("No forms of tensors were timed: the input crosses in float32, others in float32 or int8.")
    if not times.overhead:
        notes.append("What servers do at a cut was not timed: plans count layers and links alone.")
    return Inputs(graph, times, eta, topologies, name, confidence, tuple(notes))


def with_ranges(noise: NoiseModel, graph: LayerGraph, times: LayerTimes, images: Images) -> NoiseModel:
    """Return noise whose plans can be cut: what was measured as it is, else with ranges from images, in the setting of the times.

    Parameters
    ----------
    noise, graph, times : NoiseModel, LayerGraph, LayerTimes
        As `read_problem` returns them.
    images : Images
        To calibrate on, as for `calibrate`.
    """
    if not noise.layers or "calibration" in noise.origin:
        return noise
    setting = next((made["setting"] for made in times.made.values() if made.get("setting")), None)
    calibration = calibrate(graph, images, setting)
    return noise.calibrated(calibration.only(ranges_needed(graph, noise.layers)))


def present(folder: str | Path, *files: str, what: str) -> list[Path]:
    """Return the paths of files that something is drawn from; where one is missing, say in a printed line what is left out.

    Parameters
    ----------
    folder : str | Path
        They are in.
    *files : str
        Their paths in it.
    what : str
        That is left out without them.

    Returns
    -------
    list[Path]
        None of them where one is missing.
    """
    paths = {file: Path(folder) / file for file in files}
    missing = [file for file, path in paths.items() if not exists(path)]
    if missing:
        print(f"Left out: {what}, for want of {' and '.join(missing)}.")
    return [] if missing else [*paths.values()]


def _topologies(network: Network) -> dict[str, Network]:
    servers = [network.source, *(server for server in network.server_names if server != network.source)]
    names = {"-".join(servers[:count]): servers[:count] for count in range(1, len(servers) + 1)}
    return {name: replace(network.only(*some), name=name) for name, some in names.items()}
