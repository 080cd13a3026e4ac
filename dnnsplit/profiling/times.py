"""Seconds per layer, server and precision: f_k(i, q)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import ProfileError, nearest, nearest_of, raise_problems
from dnnsplit.ground.files import plain, write_text
from dnnsplit.ground.forms import formed
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.ground.tables import MOST_BYTES, header_of, read_table
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.profiling.overhead import Overhead
from dnnsplit.profiling.wire_forms import WireForms
from dnnsplit.quantize.setting import QuantizationSetting, check_one_setting

PRECISIONS = ("float32", "int8")
_KIND = Kind("is not readable as a table of layer times", ProfileError, MOST_BYTES, "the table")
ONE_FACTOR = "int8 as float32: by one factor"  # in the note of an int8 time that was scaled so


@dataclass(frozen=True, eq=False)
class LayerTimes:
    """Seconds of every layer on every server, in float32 and, where measured, in int8.

    Parameters
    ----------
    frame : pd.DataFrame
        Columns layer, server, precision ("float32" or "int8"), seconds [s], and optionally origin ("measured", "scaled", "flops",
        "given"), factor (seconds there per CPU second of the machine it was measured on) and note (that machine).
    overhead : Mapping[str, Overhead], optional
        By server, what its parts take beside their layers, and how far predictions of them were off; empty where no part was
        measured.
    made : Mapping[str, Mapping[str, Any]], optional
        By server, what its times were measured with: packages, CPU, provider, options, hashes (JSON values).
    forms : WireForms | None, optional
        What tensors take in other forms than their plain one; None: they have no other.

    Raises
    ------
    ProfileError
        Missing columns, negative or missing times, unknown precisions, rows given twice.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> times = ds.examples.tiny().times
    >>> times
    LayerTimes(4 layers; whole model in float32: device 470 ms, edge 188 ms)
    >>> times.seconds("conv1", "device", "int8")
    0.08
    >>> times.save("times.csv")
    >>> ds.LayerTimes.load("times.csv").without("edge")
    LayerTimes(4 layers; whole model in float32: device 470 ms)
    """

    frame: pd.DataFrame = field(repr=False)
    overhead: Mapping[str, Overhead] = field(default_factory=dict, repr=False)
    made: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    forms: WireForms | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_arguments(LayerTimes, vars(self), ProfileError)
        frame = self.frame.reset_index(drop=True).copy()
        missing = [c for c in ("layer", "server", "precision", "seconds") if c not in frame]
        if missing:
            there = ", ".join(map(str, frame.columns))
            message = f"layer times lack the columns {', '.join(missing)}; there are {there}"
            raise ProfileError(message)
        for column, default in (("origin", "given"), ("factor", math.nan), ("note", "")):
            frame[column] = frame.get(column, default)
        seconds = pd.to_numeric(frame["seconds"], errors="coerce")
        problems = [
            f"layer {row.layer!r} on {row.server!r} in {row.precision}: {row.seconds!r} is no time; it must be 0 s or more"
            for row in frame[~(seconds >= 0) | ~np.isfinite(seconds)].itertuples()
        ]
        unknown = sorted({str(p) for p in frame["precision"]} - set(PRECISIONS))
        problems += [f"precision {p!r} is unknown{nearest(p, PRECISIONS)}" for p in unknown]
        twice = frame[frame.duplicated(["layer", "server", "precision"])]
        problems += [f"layer {r.layer!r} on {r.server!r} in {r.precision} is given twice" for r in twice.itertuples()]
        servers = frame["server"].unique()
        strangers = [s for s in self.overhead if s not in servers]
        problems += [f"an overhead is given of server {s!r}, which has no times{nearest(s, servers)}" for s in strangers]
        strangers = [s for s in (self.forms.frame["server"].unique() if self.forms else ()) if s not in servers]
        problems += [f"forms are given of server {s!r}, which has no times{nearest(s, servers)}" for s in strangers]
        raise_problems(ProfileError, "layer times", problems)
        frame["seconds"] = seconds.astype(float)
        frame.attrs["units"] = {"seconds": "s"}
        object.__setattr__(self, "frame", frame)

    @staticmethod
    def from_frame(frame: pd.DataFrame) -> LayerTimes:
        """Make layer times from a table; see the class for its columns."""
        check_arguments(LayerTimes.from_frame, locals())
        return LayerTimes(frame)

    @staticmethod
    def load(path: str | Path) -> LayerTimes:
        """Read the CSV that `save` writes, with the forms beside it if there are any, or any CSV with the columns of `frame`."""
        check_arguments(LayerTimes.load, locals())
        header, frame = header_of(path, _KIND), read_table(path, kind=_KIND)
        if "factor" in frame:
            frame["factor"] = pd.to_numeric(frame["factor"], errors="coerce")
        forms = WireForms.load(_beside(path)) if os.path.lexists(_beside(path)) else None
        return formed(header, LayerTimes, ProfileError, str(path), frame=frame, forms=forms)

    def save(self, path: str | Path) -> None:
        """Write a CSV, atomically; overheads and what the times were made with are JSON in a comment on its first line.

        The forms go into another beside it, ``NAME.forms.csv`` beside ``NAME.csv``, which is removed where there are none.
        """
        check_arguments(LayerTimes.save, locals())
        header = {"overhead": {server: asdict(one) for server, one in self.overhead.items()}, "made": self.made}
        first = f"# {json.dumps(header, default=plain)}\n" if self.overhead or self.made else ""
        write_text(path, first + self.frame.to_csv(index=False))
        if self.forms is None:
            _beside(path).unlink(missing_ok=True)
        else:
            self.forms.save(_beside(path))

    @cached_property
    def _keys(self) -> list[tuple[str, str, str]]:
        return list(zip(*(self.frame[column].tolist() for column in ("layer", "server", "precision")), strict=True))

    @cached_property
    def _seconds(self) -> dict[tuple[str, str, str], float]:
        return dict(zip(self._keys, self.frame["seconds"].tolist(), strict=True))

    @cached_property
    def _row(self) -> dict[tuple[str, str, str], int]:
        """Position of each row."""
        return {key: i for i, key in enumerate(self._keys)}

    @cached_property
    def _sums(self) -> dict[tuple[str, str], float]:
        """Seconds of all layers [s], by server and precision."""
        groups: Any = self.frame.groupby(["server", "precision"], sort=False)["seconds"]
        return {key: float(seconds.sum()) for key, seconds in groups}

    @cached_property
    def servers(self) -> tuple[str, ...]:
        """The servers that have times, in the order of the table."""
        return tuple(self.frame["server"].unique())

    def seconds(self, layer: str, server: str, precision: str = "float32") -> float:
        """Return one time [s]."""
        try:
            return self._seconds[layer, server, precision]
        except (KeyError, TypeError):
            check_arguments(LayerTimes.seconds, locals())
            message = f"there is no {precision} time of layer {layer!r} on {server!r}; profile it, or give it"
            raise ProfileError(message) from None

    def array(self, graph: LayerGraph, network: Network, quantizable: tuple[str, ...] = ()) -> npt.NDArray[np.float64]:
        """Return the times as an array.

        Parameters
        ----------
        graph, network : LayerGraph, Network
            Whose layers and servers are wanted.
        quantizable : tuple[str, ...], default ()
            Layers whose int8 times are wanted too.

        Returns
        -------
        npt.NDArray[np.float64]
            float (layers, servers, 2) [s]: [..., 0] float32, [..., 1] int8; NaN in int8 for layers that are not quantizable.

        Raises
        ------
        ProfileError
            A time that is needed is missing; all of them are named.
        """
        check_arguments(LayerTimes.array, locals())
        array = np.full((len(graph.layers), len(network.servers), 2), np.nan)
        near = nearest_of(graph.layer_names)
        strangers = [f"{n!r} is no layer{near(n)}" for n in quantizable if n not in graph.layer_index]
        raise_problems(ProfileError, "quantizable layers", strangers)
        near = nearest_of(self.servers)
        unknown = [name for name in network.server_names if not any((name, one) in self._sums for one in PRECISIONS)]
        problems = [f"no time is known of server {name!r}{near(name)}; profile it, or name it so" for name in unknown]
        for number, (precision, names) in enumerate(zip(PRECISIONS, (graph.layer_names, quantizable), strict=True)):
            rows = [[self._seconds.get((n, server, precision), math.nan) for server in network.server_names] for n in names]
            array[[graph.layer_index[n] for n in names], :, number] = np.reshape(rows, (-1, len(network.servers)))
            lacks = [(names[i], network.server_names[k]) for i, k in np.argwhere(np.isnan(rows))]
            problems += [
                f"no {precision} time of layer {n!r} on server {server!r}; profile it, or leave the layer out of the noise model"
                for n, server in lacks if server not in unknown
            ]  # fmt: skip
        raise_problems(ProfileError, "layer times do not cover the problem", problems, most=8)
        return array

    def seconds_of(self, server: str, precision: str = "float32") -> float:
        """Return the sum over all layers on one server [s]."""
        check_arguments(LayerTimes.seconds_of, locals())
        if (server, precision) not in self._sums:
            message = f"there are no {precision} times of server {server!r}{nearest(server, self.servers)}"
            raise ProfileError(message)
        return self._sums[server, precision]

    def error_s(self, compute_s: Mapping[str, float]) -> float:
        """How far the compute time of a plan may be off [s]: the worst that split models were, on each of its servers.

        Parameters
        ----------
        compute_s : Mapping[str, float]
            T^c_k by server, as `Cost.compute_s`.

        Returns
        -------
        float
            NaN where the plan computes on a server whose parts were never measured.
        """
        check_arguments(LayerTimes.error_s, locals())
        unknown = [server for server, seconds in compute_s.items() if seconds > 0 and server not in self.overhead]
        if unknown:
            return math.nan
        return math.fsum(self.overhead[server].worst * seconds for server, seconds in compute_s.items() if seconds > 0)

    def check_setting(self, setting: QuantizationSetting | Mapping[str, Any] | str | None, what: str = "noise") -> None:
        """Check, before anything is measured or planned, that int8 here is made as in what the times are to go with.

        Parameters
        ----------
        setting : QuantizationSetting | Mapping[str, Any] | str | None
            That one's; None where it tells none. Servers whose times tell none are believed to be of the same.
        what : str, default "noise"
            What it is called in a message.

        Raises
        ------
        NoiseError
            Settings are mixed: those of the servers, or theirs and this one.
        """
        check_arguments(LayerTimes.check_setting, locals())
        check_one_setting({what: {"setting": setting}} | {f"times of {server}": made for server, made in self.made.items()})

    @cached_property
    def slowdown(self) -> dict[str, float]:
        """Seconds on each server per CPU second of the machine that was profiled; for servers whose times were scaled.

        Of the whole model in float32: where layers are scaled by several factors, that of some of them is `slowdown_of`.
        """
        known = self.frame[self.frame["factor"].notna() & (self.frame["precision"] == "float32")]
        return {str(server): _slowdown(rows) for server, rows in known.groupby("server", sort=False)}

    @property
    def reference_s(self) -> float | None:
        """The pace of the machine at which these times hold, as `dnnsplit.runtime.pace` has it [s]; None: unknown."""
        return next((made["reference_s"] for made in self.made.values() if "reference_s" in made), None)

    @property
    def huge_pages(self) -> bool:
        """Whether these times are of processes in huge pages, as `dnnsplit.ground.huge_pages` has it."""
        return any(made.get("huge_pages") for made in self.made.values())

    def slowdown_of(self, server: str, layers: Collection[str], quantized: Collection[str] = ()) -> float:
        """Return the seconds of some layers on one server per CPU second that they take on the machine that was profiled.

        Parameters
        ----------
        server : str
            Whose times were scaled.
        layers : Collection[str]
            As a part of a plan has them.
        quantized : Collection[str], default ()
            Layers that run in int8.

        Raises
        ------
        ProfileError
            The times of the server were not scaled, or one is missing.
        """
        check_arguments(LayerTimes.slowdown_of, locals())
        if server not in self.slowdown:
            message = f"the times of {server!r} are not scaled from another machine's{nearest(server, self.slowdown)}"
            raise ProfileError(message)
        int8 = set(quantized)
        asked = {(layer, "int8" if layer in int8 else "float32") for layer in layers}
        for layer, precision in asked:
            self.seconds(layer, server, precision)  # which refuses
        rows = self.frame.iloc[sorted(self._row[layer, server, precision] for layer, precision in asked)]
        return _slowdown(rows) if rows["seconds"].any() else self.slowdown[server]

    def without(self, *servers: str) -> LayerTimes:
        """Return the times of the other servers alone."""
        check_arguments(LayerTimes.without, locals())
        frame, forms = self.frame[~self.frame["server"].isin(servers)], self.forms
        if forms:
            forms = replace(forms, frame=forms.frame[~forms.frame["server"].isin(servers)])
        overhead = {server: one for server, one in self.overhead.items() if server not in servers}
        return LayerTimes(frame, overhead, {server: one for server, one in self.made.items() if server not in servers}, forms)

    @property
    def totals(self) -> pd.DataFrame:
        """Sum over the layers per server and precision [s], with how the times came about."""
        grouped = self.frame.groupby(["server", "precision"], sort=False)
        return grouped.agg(
            layers=("layer", "size"),
            seconds=("seconds", "sum"),
            origin=("origin", _one),
            factor=("factor", "first"),
            note=("note", _one),
        ).reset_index()

    def __repr__(self) -> str:
        floats = self.frame[self.frame["precision"] == "float32"]
        totals = floats.groupby("server", sort=False)["seconds"].sum()
        parts = [f"{server} {show(total, 's')}" for server, total in totals.items()]
        return folded(f"LayerTimes({floats['layer'].nunique()} layers; whole model in float32: {', '.join(parts)})")

    def _repr_html_(self) -> str:
        return shown(self, readable(self.totals))


def _beside(path: str | Path) -> Path:
    """Return where the forms are that go with a table of times."""
    return Path(path).with_name(f"{Path(path).stem}.forms.csv")


def _slowdown(rows: pd.DataFrame) -> float:
    """Return the seconds of some times of one server per CPU second of the machine that was profiled."""
    first = float(rows["factor"].iloc[0])
    if (rows["factor"] == first).all() or not rows["seconds"].any():
        return first
    return math.fsum(rows["seconds"]) / math.fsum(rows["seconds"] / rows["factor"])


def _one(values: pd.Series) -> str:
    return " / ".join(dict.fromkeys(map(str, values)))
