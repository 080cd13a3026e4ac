"""A placement problem as a folder of tables that any tool can read: graph, network, times, forms and noise polynomial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import DnnSplitError, NoiseError, raise_problems
from dnnsplit.ground.files import write_text
from dnnsplit.ground.markup import shown
from dnnsplit.ground.tables import TABLE_ERRORS, read_table
from dnnsplit.network.servers import Network
from dnnsplit.noise.models import NoiseModel, Polynomial, PowerSum
from dnnsplit.profiling.times import LayerTimes

LOSSY = ("tensor", "form", "noise")


class Instance(NamedTuple):
    """What `split` needs; unpacks in the order in which `split` takes it.

    Parameters
    ----------
    graph, network, times : LayerGraph, Network, LayerTimes
        What is placed, on what, and the seconds of each layer there.
    noise : NoiseModel | None, optional
        eta(q); None: no layer runs in int8.
    """

    graph: LayerGraph
    network: Network
    times: LayerTimes
    noise: NoiseModel | None = None

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
        folder = Path(folder)
        names = ["layers", "tensors", *(name for name in ("noise", "lossy") if (folder / f"{name}.csv").exists())]
        try:
            tables = {name: read_table(folder / f"{name}.csv") for name in names}
        except TABLE_ERRORS as error:
            message = f"{folder} is no instance (layers.csv, tensors.csv, times.csv, network.yaml): {error}"
            raise DnnSplitError(message) from None
        graph = LayerGraph.from_frames(tables["layers"], tables["tensors"])
        noise = _noise(graph, tables["noise"]) if "noise" in tables else None
        if noise is not None and "lossy" in tables:
            noise = _with_forms(noise, tables["lossy"])
        return Instance(graph, Network.load(folder / "network.yaml"), LayerTimes.load(folder / "times.csv"), noise)

    def save(self, folder: str | Path) -> None:
        """Write the files that `load` reads; a noise model must be a polynomial, with sources that are power sums with it."""
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


def _noise(graph: LayerGraph, table: pd.DataFrame) -> NoiseModel:
    if not {"layers", "coefficient"} <= set(table):
        message = f"noise.csv needs the columns layers and coefficient; it has {', '.join(map(str, table))}"
        raise NoiseError(message)
    rows = zip(table["layers"], table["coefficient"], strict=True)
    terms: dict[Sequence[str] | str, float] = {tuple(names.split()): float(value) for names, value in rows}
    intercept = terms.pop((), 0.0)
    named = {name for names in terms for name in names}
    # names that the graph lacks come last; building the problem refuses them by name
    layers = [n for n in graph.layer_names if n in named] + sorted(named - {*graph.layer_names})
    return NoiseModel.polynomial(layers, terms, intercept)
