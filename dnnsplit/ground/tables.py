"""Tables of ours in CSV files, read with the types that they were written with.

A column is text by its name, whatever its entries look like: a layer called `001`, a server called `NA`, a plan whose hash reads
as the number 111361920e476468. The others hold numbers, of which nothing is lost, or true and false.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd

TEXTS = frozenset({
    "layer", "layers", "op_type", "tensor", "producer", "consumers", "shared", "server", "servers", "precision", "origin", "note",
    "quantized", "links", "source", "target", "topology", "network", "status", "plan_id", "model", "by", "rule", "method",
    "solver", "objective_name", "weights", "term", "kind", "name", "run", "cell", "error", "instance", "question", "form",
})  # fmt: skip
FLAGS = frozenset({"is_output", "quantizable", "lossless"})
TABLE_ERRORS = (OSError, UnicodeDecodeError, ValueError, pd.errors.ParserError, pd.errors.EmptyDataError)


def read_table(path: str | Path, numbers: frozenset[str] = frozenset()) -> pd.DataFrame:
    """Read a CSV; a first line that starts with ``#`` is a comment (see `comment_of`).

    Parameters
    ----------
    path : str | Path
        As ``DataFrame.to_csv(index=False)`` writes it.
    numbers : frozenset[str], optional
        Columns that hold numbers here although they are called as texts elsewhere, such as how many ``layers``.

    Returns
    -------
    pd.DataFrame
        Texts as they are (an empty one is ""), whole numbers, floats to the last bit (an empty one is NaN), bools.

    Raises
    ------
    OSError, ValueError, pandas.errors.ParserError, pandas.errors.EmptyDataError
        `TABLE_ERRORS`, unreadable files and entries.
    """
    text = Path(path).read_text(encoding="utf-8")
    comment = int(text.startswith("#"))
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_filter=False, skiprows=comment)
    for column in frame:
        if column in FLAGS:
            frame[column] = frame[column].map({"True": True, "False": False, "true": True, "false": False, "1": True, "0": False})
            if frame[column].isna().any():
                message = f"column {column!r} holds other than True and False"
                raise ValueError(message)
            frame[column] = frame[column].astype(bool)
        elif column not in TEXTS - numbers:
            frame[column] = _numbers(frame[column])
    return frame


def comment_of(path: str | Path) -> str:
    """Return the comment on the first line of a table, "" where there is none."""
    with Path(path).open(encoding="utf-8") as file:
        first = file.readline()
    return first[1:].strip() if first.startswith("#") else ""


def _numbers(column: pd.Series) -> pd.Series:
    """Return a column as whole numbers if all are, else as floats; as it is if an entry is no number."""
    texts = column.str.strip()
    if len(texts) and texts.str.fullmatch(r"[+-]?\d{1,18}").all():
        return texts.astype(np.int64)
    try:
        return texts.replace("", "nan").astype(float)
    except ValueError:
        return column
