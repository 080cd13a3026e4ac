"""What tensors take in the forms in which they may cross a link: bytes, and the seconds of writing and reading them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dnnsplit.codecs.pixels import Pixels
from dnnsplit.codecs.plain import INT8 as INT8
from dnnsplit.codecs.plain import PLAIN as PLAIN
from dnnsplit.ground.errors import ProfileError, nearest, raise_problems
from dnnsplit.ground.files import plain, write_text
from dnnsplit.ground.forms import formed
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.ground.tables import MOST_BYTES, header_of, read_table

NAMES = ("tensor", "precision", "form", "server")
_KIND = Kind("is not readable as a table of wire forms", ProfileError, MOST_BYTES, "the table")
NUMBERS = ("size_bytes", "size_bytes_95", "encode_s", "decode_s")


class Coded(NamedTuple):
    """A tensor in a form: bytes on average and at the 95th percentile [B], seconds of encoding and decoding by server [s]."""

    size_bytes: float
    size_bytes_95: float
    encode_s: Mapping[str, float]
    decode_s: Mapping[str, float]
    lossless: bool


@dataclass(frozen=True, eq=False)
class WireForms:
    """Forms of tensors other than the plain one, which takes no time to write and to read.

    Parameters
    ----------
    frame : pd.DataFrame
        Columns tensor, precision of the layer that makes it ("float32", also of graph inputs, or "int8"), form, server,
        size_bytes and size_bytes_95 (mean and 95th percentile over images) [B], encode_s and decode_s (of one tensor on this
        server) [s], lossless (whether every value arrives as it was, to the last bit).
    pixels : Mapping[str, Pixels], optional
        How the graph inputs hold images, those that do.

    Raises
    ------
    ProfileError
        Missing columns, negative numbers, rows given twice, plain forms, sizes or losses that differ from server to server.
    """

    frame: pd.DataFrame = field(repr=False)
    pixels: Mapping[str, Pixels] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.frame, pd.DataFrame):
            message = f"wire forms come as a pandas DataFrame, not as {type(self.frame).__name__}"
            raise ProfileError(message)
        columns = [*NAMES, *NUMBERS, "lossless"]
        missing = [c for c in columns if c not in self.frame]
        if missing:
            message = f"wire forms lack the columns {', '.join(missing)}; there are {', '.join(map(str, self.frame.columns))}"
            raise ProfileError(message)
        frame = self.frame.reset_index(drop=True)[columns].copy()
        problems = []
        for column in NUMBERS:
            values = pd.to_numeric(frame[column], errors="coerce")
            for row in frame[~(values >= 0) | ~np.isfinite(values)].to_dict("records"):
                what = f"tensor {row['tensor']!r} as {row['form']!r} on {row['server']!r}"
                problems.append(f"{what}: {column} is {row[column]!r}; it must be a number, 0 or more")
            frame[column] = values.astype(float)
        problems += [f"precision {p!r} is unknown{nearest(p, (PLAIN, INT8))}"
                     for p in sorted({*map(str, frame["precision"])} - {PLAIN, INT8})]  # fmt: skip
        problems += [f"tensor {row.tensor!r} as {row.form!r}: lossless is {row.lossless!r}; it must be True or False"
                     for row in frame[~frame["lossless"].isin((True, False))].itertuples()]  # fmt: skip
        problems += [f"tensor {row.tensor!r} as {row.form!r} on {row.server!r} is given twice"
                     for row in frame[frame.duplicated(list(NAMES))].itertuples()]  # fmt: skip
        problems += [f"tensor {row.tensor!r} is given as {row.form!r}, the plain form, which needs no row"
                     for row in frame[frame["form"].isin((PLAIN, INT8))].itertuples()]  # fmt: skip
        same = frame.groupby(list(NAMES[:3]), sort=False)[["size_bytes", "size_bytes_95", "lossless"]].nunique()
        problems += [f"tensor {name!r} as {form!r} has other bytes, or another loss, from server to server"
                     for name, _, form in same.index[(same > 1).any(axis=1)]]  # fmt: skip
        raise_problems(ProfileError, "wire forms", problems, most=8)
        frame["lossless"] = frame["lossless"].astype(bool)
        frame.attrs["units"] = {"size_bytes": "B", "size_bytes_95": "B", "encode_s": "s", "decode_s": "s"}
        object.__setattr__(self, "frame", frame)

    @staticmethod
    def load(path: str | Path) -> WireForms:
        """Read the CSV that `save` writes."""
        header, frame = header_of(path, _KIND), read_table(path, kind=_KIND)
        return formed(header, WireForms, ProfileError, str(path), frame=frame)

    def save(self, path: str | Path) -> None:
        """Write a CSV, atomically; how the graph inputs hold images is JSON in a comment on its first line."""
        header = {"pixels": {tensor: asdict(pixels) for tensor, pixels in self.pixels.items()}}
        first = f"# {json.dumps(header, default=plain)}\n" if self.pixels else ""
        write_text(path, first + self.frame.to_csv(index=False))

    @cached_property
    def coded(self) -> dict[tuple[str, str], dict[str, Coded]]:
        """By tensor and precision, what each form takes."""
        found: dict[tuple[str, str], dict[str, Coded]] = {}
        for row in self.frame.to_dict("records"):
            forms = found.setdefault((row["tensor"], row["precision"]), {})
            one = forms.setdefault(row["form"], Coded(row["size_bytes"], row["size_bytes_95"], {}, {}, row["lossless"]))
            one.encode_s[row["server"]] = row["encode_s"]  # type: ignore[index]
            one.decode_s[row["server"]] = row["decode_s"]  # type: ignore[index]
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All forms that some tensor has, in the order of the table."""
        return tuple(dict.fromkeys(self.frame["form"]))

    def of(self, tensor: str, precision: str = PLAIN) -> Mapping[str, Coded]:
        """Return the forms of a tensor besides the plain one, by name."""
        return self.coded.get((tensor, precision), {})

    def scaled(self, source: str, factors: Mapping[str, float]) -> WireForms:
        """Return the forms on other servers alone, each taking its factor times the seconds of `source`."""
        rows = self.frame[self.frame["server"] == source]
        frames = [
            rows.assign(server=server, encode_s=rows["encode_s"] * factor, decode_s=rows["decode_s"] * factor)
            for server, factor in factors.items()
        ]
        return replace(self, frame=pd.concat(frames, ignore_index=True) if frames else rows.iloc[:0])

    def without(self, forms: Iterable[str]) -> WireForms:
        """Return the table without some forms."""
        return replace(self, frame=self.frame[~self.frame["form"].isin({*forms})])

    def __repr__(self) -> str:
        return folded(f"WireForms({self.frame['tensor'].nunique()} tensors; {', '.join(self.names) or 'none'})")

    def _repr_html_(self) -> str:
        rows = self.frame.groupby(["form", "server"], sort=False)
        table = rows.agg(tensors=("tensor", "nunique"), size_bytes=("size_bytes", "sum"), encode_s=("encode_s", "sum"),
                         decode_s=("decode_s", "sum")).reset_index()  # fmt: skip
        return shown(self, readable(table))


def joined_forms(tables: Sequence[WireForms]) -> WireForms | None:
    """Put the forms of several servers into one table, bytes and loss as `joined` says; None: no server has any."""
    if not tables:
        return None
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    same = frame.groupby(list(NAMES[:3]), sort=False)
    sizes = {column: same[column].transform("first") for column in ("size_bytes", "size_bytes_95")}
    return replace(tables[0], frame=frame.assign(**sizes, lossless=same["lossless"].transform("all")))
