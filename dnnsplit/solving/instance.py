"""A placement problem as a folder of tables that any tool can read: graph, network, times, forms and noise polynomial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DnnSplitError, NoiseError, nearest, raise_problems, shortened
from dnnsplit.ground.files import write_text
from dnnsplit.ground.gate import Kind, is_there
from dnnsplit.ground.markup import folded, shown
from dnnsplit.ground.tables import MOST_BYTES, read_table
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import LENT, NoiseModel, Polynomial, PowerSum
from dnnsplit.profiling.times import LayerTimes

_KIND = Kind(
    "is no instance's table (layers.csv, tensors.csv, times.csv, network.yaml)", DnnSplitError, MOST_BYTES, "the table",
    "{path.parent} is no instance (layers.csv, tensors.csv, times.csv, network.yaml): it has no {path.name}",
)  # fmt: skip
LOSSY = ("tensor", "form", "noise")


class Instance(NamedTuple):
    """What `split` needs; unpacks in the order in which `split` takes it.

    Parameters
    ----------
    graph, network, times : LayerGraph, Network, LayerTimes
        What is placed, on what, and the seconds of each layer there.
    noise : NoiseModel | None, optional
        eta(q); None: no layer runs in int8.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> instance = ds.examples.tiny()
    >>> instance
    Instance
      graph: LayerGraph(4 layers, 5 tensors, 13 MFLOP, 220 kB of weights)
      network: Network(device, edge; 2 links; source device)
      times: LayerTimes(4 layers; whole model in float32: device 470 ms, edge
          188 ms)
      noise: NoiseModel(polynomial over 2 layers, 3 terms)
    >>> instance.save("instance")
    >>> graph, network, times, noise = ds.Instance.load("instance")
    """

    graph: LayerGraph
    network: Network
    times: LayerTimes
    noise: NoiseModel | None = None

    def __repr__(self) -> str:
        facts = [f"{name}: {' '.join(repr(value).split())}" for name, value in self._asdict().items()]
        return folded("\n  ".join(["Instance", *facts]))

    def _repr_html_(self) -> str:
        noise = "none: no layer in int8" if self.noise is None else self.noise
        return shown("Instance", self._asdict() | {"noise": noise})

    @staticmethod
    def load(folder: str | Path) -> Instance:
        """Read ``layers.csv``, ``tensors.csv``, ``times.csv``, ``network.yaml``, and what there is of the others.

        Parameters
        ----------
        folder : str | Path
            As `save` writes it. ``times.forms.csv`` has the forms of tensors (`LayerTimes.forms`). ``noise.csv`` has one row per
            product of layers (names separated by blanks) with its coefficient; the row without layers is the intercept, which
            counts once any layer is quantized. ``lossy.csv`` has the noise of each lossy form, of one tensor between layers, or,
            where tensor is empty, of the graph inputs.
        """
        check_arguments(Instance.load, locals())
        folder = Path(folder)
        tables = _tables(folder)
        graph = LayerGraph.from_frames(tables["layers"], tables["tensors"])
        noise = _noise(graph, tables) if "noise" in tables else None
        return Instance(graph, Network.load(folder / "network.yaml"), LayerTimes.load(folder / "times.csv"), noise)

    def save(self, folder: str | Path) -> None:
        """Write the files that `load` reads; a noise model must be a polynomial, with sources that are power sums with it."""
        check_arguments(Instance.save, locals())
        folder = Path(folder)
        if self.noise is not None and not (isinstance(self.noise, Polynomial) and self.noise.power == 1):
            message = "an instance holds a noise polynomial; fit one to the measured table (fit_noise) first"
            raise NoiseError(message)
        lossy = [] if self.noise is None else _lossy(self.noise)
        write_text(folder / "layers.csv", self.graph.frame.to_csv(index=False))
        write_text(folder / "tensors.csv", self.graph.tensors_frame.to_csv(index=False))
        self.times.save(folder / "times.csv")
        self.network.save(folder / "network.yaml")
        for name in ("noise", "lossy"):
            (folder / f"{name}.csv").unlink(missing_ok=True)
        if self.noise is not None:
            rows = [("", self.noise.intercept)] + [(" ".join(names), value) for names, value in self.noise.terms.items()]
            write_text(folder / "noise.csv", pd.DataFrame(rows, columns=["layers", "coefficient"]).to_csv(index=False))
        if lossy:
            write_text(folder / "lossy.csv", pd.DataFrame(lossy, columns=LOSSY).to_csv(index=False))


def lent_noise(folder: str | Path, graph: LayerGraph, times: LayerTimes) -> NoiseModel:
    """Return the noise polynomial of an instance as the noise of another model, whose layers have the same names.

    It is a prediction: nothing of this model was measured, and the instance may have another setting of int8. Its plans are cut
    once it has ranges, see `NoiseModel.calibrated`.

    Parameters
    ----------
    folder : str | Path
        Of an instance with a ``noise.csv``.
    graph : LayerGraph
        Of the model. Its layers are blocks of nodes; the polynomial may name a block or any node inside of it.
    times : LayerTimes
        With int8 times of those layers on every server.

    Raises
    ------
    DnnSplitError
        The folder is no instance.
    NoiseError
        It has no polynomial; or this names what is in no layer, two nodes of one layer, or layers that cannot run in int8 or have
        no int8 time; all of them at once.
    """
    folder = Path(folder)
    tables = _tables(folder)
    if "noise" not in tables:
        message = f"{folder} has no noise.csv; take an instance with a noise polynomial, or measure the noise (measure_noise)"
        raise NoiseError(message)
    layers = _noise(LayerGraph.from_frames(tables["layers"], tables["tensors"]), tables).layers
    of = {node: layer.name for layer in graph.layers for node in (*layer.nodes, layer.name)}
    problems = [f"{name!r} is in no layer{nearest(name, of)}" for name in layers if name not in of]
    found = [(name, of[name]) for name in layers if name in of]
    known = set(times.frame.loc[times.frame["precision"] == "int8", ["layer", "server"]].itertuples(index=False, name=None))
    for name, layer in found:
        twins = [other for other, one in found if one == layer]
        if twins[0] == name and len(twins) > 1:
            problems.append(f"{' and '.join(map(repr, twins))} are one layer here, {layer!r}")
        if not graph.layer(layer).quantizable:
            problems.append(
                f"layer {layer!r} ({graph.layer(layer).op_type}) cannot run in int8; graph.quantizable() names those that can"
            )
        elif lacks := [repr(server) for server in times.frame["server"].unique() if (layer, server) not in known]:
            problems.append(f"layer {layer!r} has no int8 time on {', '.join(lacks)}; profile it with this layer (layers=)")
    raise_problems(NoiseError, f"the noise polynomial of {folder.name!r} does not fit the model", problems)
    names = [" ".join(of[name] for name in text.split()) for text in tables["noise"]["layers"]]
    noise = _noise(graph, {**tables, "noise": tables["noise"].assign(layers=names)})
    return replace(noise, origin={LENT: folder.name})


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    names = ["layers", "tensors", *(name for name in ("noise", "lossy") if is_there(folder / f"{name}.csv", _KIND))]
    return {name: read_table(folder / f"{name}.csv", kind=_KIND) for name in names}


def _lossy(noise: Polynomial) -> list[tuple[str, str, float]]:
    """Return the rows of ``lossy.csv``."""
    kinds = {form: model.kind for form, model in noise.sources.items() if not _sum_with(noise, model)}
    text = "the noise of inputs as {!r} is a {}, not the power sum with this polynomial; fit it to the same samples (fit_noise)"
    raise_problems(NoiseError, "instance", [text.format(form, kind) for form, kind in kinds.items()])
    alone = [(name, form, value) for name, forms in noise.tensors.items() for form, value in forms.items()]
    return [("", form, model.floor) for form, model in noise.sources.items()] + alone


def _sum_with(noise: Polynomial, model: NoiseModel) -> bool:
    base = model.base if isinstance(model, PowerSum) else None
    known = (noise.layers, dict(noise.terms), noise.intercept, noise.power)
    return isinstance(base, Polynomial) and known == (base.layers, dict(base.terms), base.intercept, base.power)


def _with_forms(noise: NoiseModel, table: pd.DataFrame) -> NoiseModel:
    if not {*LOSSY} <= set(table):
        message = f"lossy.csv needs the columns {', '.join(LOSSY)}; it has {', '.join(map(str, table))}"
        raise NoiseError(message)
    values = pd.to_numeric(table["noise"], errors="coerce")
    wrong = table[~(values >= 0)].to_dict("records")
    raise_problems(
        NoiseError, "lossy.csv", [f"the noise of {r['form']!r} is {r['noise']!r}; it must be 0 or more" for r in wrong]
    )
    sources: dict[str, NoiseModel] = {}
    tensors: dict[str, dict[str, float]] = {}
    for tensor, form, value in zip(table["tensor"], table["form"], values.tolist(), strict=True):
        if tensor:
            tensors.setdefault(tensor, {})[form] = value
        else:
            sources[form] = PowerSum(noise.layers, noise, floor=value)
    return replace(noise, sources=sources, tensors=tensors)


def _noise(graph: LayerGraph, tables: Mapping[str, pd.DataFrame]) -> NoiseModel:
    table = tables["noise"]
    if not {"layers", "coefficient"} <= set(table):
        message = f"noise.csv needs the columns layers and coefficient; it has {', '.join(map(str, table))}"
        raise NoiseError(message)
    values = pd.to_numeric(table["coefficient"], errors="coerce")
    wrong = table[~np.isfinite(values)].to_dict("records")
    raise_problems(
        NoiseError,
        "noise.csv",
        [f"the coefficient of {shortened(r['layers'])} is {shortened(r['coefficient'])}; it must be a number" for r in wrong],
    )
    rows = zip(table["layers"], table["coefficient"], strict=True)
    terms: dict[Sequence[str] | str, float] = {tuple(names.split()): float(value) for names, value in rows}
    intercept = terms.pop((), 0.0)
    named = {name for names in terms for name in names}
    # names that the graph lacks come last; building the problem refuses them by name
    layers = [n for n in graph.layer_names if n in named] + sorted(named - {*graph.layer_names})
    noise = NoiseModel.polynomial(layers, terms, intercept)
    return _with_forms(noise, tables["lossy"]) if "lossy" in tables else noise
