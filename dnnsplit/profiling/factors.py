"""How much slower one server is than another by operator and precision: what one factor for all does not tell."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import ProfileError, nearest, raise_problems
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.tables import MOST_BYTES, comment_of, read_table
from dnnsplit.profiling.times import PRECISIONS, LayerTimes

COLUMNS = ("op_type", "precision", "factor")
ANY = "*"  # all operators that have no row of their own


@dataclass(frozen=True, eq=False)
class Factors:
    """Seconds of a layer on one server in a precision, per float32 second of the same layer on another, by its operator.

    Both precisions are told against float32, so that what int8 gains on the other server does not count here.

    Parameters
    ----------
    frame : pd.DataFrame
        Columns op_type (of the layer, see `dnnsplit.Layer`; "*": all that have no row of their own), precision ("float32" or
        "int8") and factor, above 0.
    note : str, default ""
        Where they come from.

    Raises
    ------
    ProfileError
        Missing columns, factors that are no numbers above 0, unknown precisions, rows given twice.
    """

    frame: pd.DataFrame = field(repr=False)
    note: str = ""

    def __post_init__(self) -> None:
        if missing := [column for column in COLUMNS if column not in self.frame]:
            there = ", ".join(map(str, self.frame.columns))
            message = f"factors lack the columns {', '.join(missing)}; there are {there}"
            raise ProfileError(message)
        frame = self.frame[[*COLUMNS]].reset_index(drop=True)
        values = pd.to_numeric(frame["factor"], errors="coerce")
        problems = [
            f"{row.op_type!r} in {row.precision}: the factor is {row.factor!r}; it must be a number above 0"
            for row in frame[~((values > 0) & np.isfinite(values))].itertuples()
        ]
        unknown = sorted({*map(str, frame["precision"])} - {*PRECISIONS})
        problems += [f"precision {p!r} is unknown{nearest(p, PRECISIONS)}" for p in unknown]
        twice = frame[frame.duplicated(["op_type", "precision"])]
        problems += [f"{row.op_type!r} in {row.precision} is given twice" for row in twice.itertuples()]
        raise_problems(ProfileError, "factors", problems)
        object.__setattr__(self, "frame", frame.assign(factor=values.astype(float)))

    @staticmethod
    def load(path: str | Path) -> Factors:
        """Read a CSV with the columns of `frame`; a comment on its first line is the note."""
        kind = Kind("is not readable as a table of factors", ProfileError, MOST_BYTES, "the table")
        return Factors(read_table(path, kind=kind), comment_of(path, kind))

    def of(self, graph: LayerGraph, times: LayerTimes, source: str) -> list[float]:
        """Return the factor of each row of `times` that `source` has, in their order.

        Raises
        ------
        ProfileError
            A row has no layer in the graph, or an operator no factor; all of them at once.
        """
        keys = zip(self.frame["op_type"], self.frame["precision"], strict=True)
        known = dict(zip(keys, self.frame["factor"].tolist(), strict=True))
        rows = times.frame[times.frame["server"] == source]
        strangers = [name for name in dict.fromkeys(rows["layer"]) if name not in graph.layer_index]
        problems = [f"{name!r} is no layer of the graph{nearest(name, graph.layer_names)}" for name in strangers]
        raise_problems(ProfileError, f"times of {source!r}", problems)
        operators = [graph.layer(name).op_type for name in rows["layer"].tolist()]
        asked = list(zip(operators, rows["precision"].tolist(), strict=True))
        found = [known.get(key, known.get((ANY, key[1]), math.nan)) for key in asked]
        lacking = dict.fromkeys(key for key, factor in zip(asked, found, strict=True) if math.isnan(factor))
        text = "there is none of {!r} in {}; add its row, or one of {!r}, for all that have none"
        raise_problems(ProfileError, "factors", [text.format(*key, ANY) for key in lacking])
        return found
