"""Tables of ours in CSV files, read with the types that they were written with.

A column is text by its name, whatever its entries look like: a layer called `001`, a server called `NA`, a plan whose hash reads
as the number 111361920e476468. The others hold numbers, of which nothing is lost, or true and false.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dnnsplit.ground.errors import OptionError, shortened
from dnnsplit.ground.gate import Kind, opened, read_text, text_of
from dnnsplit.ground.json_file import json_of
from dnnsplit.ground.units import number

TEXTS = frozenset({
    "layer", "layers", "op_type", "tensor", "producer", "consumers", "shared", "server", "servers", "precision", "origin", "note",
    "quantized", "links", "source", "target", "topology", "network", "status", "plan_id", "model", "by", "rule", "method",
    "solver", "objective_name", "weights", "term", "kind", "name", "sweep", "run", "notebook", "output", "cell", "error",
    "instance", "question", "form", "source_form", "best", "alone", "alone_form", "assumption", "proven", "equals_optimum",
    "graph", "step", "what", "deck",
})  # fmt: skip
FLAGS = frozenset({"is_output", "quantizable", "lossless"})
_TRUTHS = {"True": True, "False": False, "true": True, "false": False, "1": True, "0": False}
_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
MOST_BYTES = 2**27  # of a file
TABLE = Kind("is not readable as a table", OptionError, MOST_BYTES)


def read_table(path: str | os.PathLike[str], numbers: frozenset[str] = frozenset(), kind: Kind = TABLE) -> pd.DataFrame:
    """Read a CSV; a first line that starts with ``#`` is a comment (see `comment_of`).

    Parameters
    ----------
    path : str | os.PathLike[str]
        As ``DataFrame.to_csv(index=False)`` writes it.
    numbers : frozenset[str], optional
        Columns that hold numbers here although they are called as texts elsewhere, such as how many ``layers``.
    kind : Kind, optional
        How it is refused.

    Returns
    -------
    pd.DataFrame
        Texts as they are (an empty one is ""), whole numbers, floats to the last bit (an empty one is NaN), bools.

    Raises
    ------
    DnnSplitError
        Of the class that `kind` names: what `dnnsplit.ground.gate.opened` refuses, rows that are longer or shorter than the first
        one, columns of one name, open quotes, flags that are neither true nor false.
    """
    text = read_text(path, kind)
    comment = int(text.startswith("#"))
    names, columns = _columns(path, text.partition("\n")[2] if comment else text, comment, kind)
    found: dict[str, Any] = {}
    for name, entries in zip(names, columns, strict=True):
        if name in FLAGS:
            if wrong := [entry for entry in entries if entry not in _TRUTHS]:
                kind.refuse(path, f"column {name!r} holds other than True and False: {shortened(wrong[0])}")
            found[name] = np.array([_TRUTHS[entry] for entry in entries], bool)
        elif name in TEXTS - numbers:
            found[name] = pd.Series(entries, dtype=str)
        else:
            found[name] = _numbers(entries)
    return pd.DataFrame(found, columns=names)


def comment_of(path: str | os.PathLike[str], kind: Kind = TABLE) -> str:
    """Return the comment on the first line of a table, "" where there is none."""
    with opened(path, kind) as (file, _):
        first = file.readline() if file.read(1) == b"#" else b""
    return text_of(path, first, kind).strip()


def header_of(path: str | os.PathLike[str], kind: Kind) -> dict[str, Any]:
    """Return the JSON object in the comment on the first line of a table, {} where there is none."""
    comment = comment_of(path, kind)
    header = json_of(path, comment, kind, finite=False) if comment else {}
    if not isinstance(header, dict):
        kind.refuse(path, f"its first line is {shortened(header)}, not a JSON object")
    return header


def _columns(path: str | os.PathLike[str], text: str, above: int, kind: Kind) -> tuple[list[str], list[Sequence[str]]]:
    """Return the names and entries of the columns; `above` lines stand before the text."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next((row for row in reader if row), [])
        if not names:
            kind.refuse(path, "it has no columns")
        rows = []
        for row in reader:
            if len(row) != len(names) and row and "".join(row).strip():
                where = f"line {reader.line_num + above}"
                kind.refuse(path, f"{where} has {len(row)} entries, and there are {len(names)} columns; separate them by commas")
            if len(row) == len(names):
                rows.append(row)
    except csv.Error as error:
        kind.refuse(path, f"line {reader.line_num + above} is no line of a CSV ({error})")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        kind.refuse(path, f"two columns are called {shortened(twice[0])}; give each a name of its own")
    names = [name or f"Unnamed: {i}" for i, name in enumerate(names)]  # such as an index that was written too
    return names, list(zip(*rows, strict=True)) if rows else [()] * len(names)


def _numbers(entries: Sequence[str]) -> Any:
    """Return a column as whole numbers if all are, else as floats; as it is if an entry is no number."""
    if entries and all(map(_WHOLE.fullmatch, entries)):
        return np.fromiter(map(int, entries), np.int64, len(entries))
    try:
        return np.fromiter((number(entry) if entry and not entry.isspace() else np.nan for entry in entries), float, len(entries))
    except ValueError:
        return pd.Series(entries, dtype=str)
