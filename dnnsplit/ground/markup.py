"""The one look of stage objects: a line or a few in a shell; in a notebook these in bold, then tables.

All text that becomes HTML is escaped; names come from files.
"""

from __future__ import annotations

import html
import numbers
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dnnsplit.ground.units import is_number, show

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 80  # columns of a shell
_NUMBER = re.compile(r"(?<=\d) |(?<=\bx) ")  # the blank between a number and its unit, 3 x 4
_AMOUNT = re.compile(r"[-+]?(\d[\d.,]*(e[-+]?\d+)?|inf)( \S{1,6})?")  # a number, maybe with its unit
MOST = 40  # letters of a text that is never broken; longer ones are broken at blanks
_UNITS = {"bytes_per_s": "B/s", "bytes": "B", "seconds": "s", "flops": "FLOP", "s": "s", "j": "J", "w": "W"}
_UNIT = re.compile(rf"(?:^|_)({'|'.join(_UNITS)})((?:_\d+)?)$")  # as in latency_s, and in size_bytes_95, a percentile


class Told:
    """An object that is told by a name and some facts, in a shell as in a notebook; for dataclasses with ``repr=False``."""

    def _told(self) -> tuple[object, Mapping[str, object]]:
        """Return what it is called, and its facts; those that say nothing are left out."""
        raise NotImplementedError

    def __repr__(self) -> str:
        name, facts = self._told()
        text = "; ".join(f"{key} {value}" for key, value in _said(facts).items())
        return folded(f"{type(self).__name__}({': '.join(filter(None, [str(name), text]))})")

    def _repr_html_(self) -> str:
        name, facts = self._told()
        return shown(f"{type(self).__name__} {name}".rstrip(), facts)


@dataclass(frozen=True, eq=False, repr=False)
class Readable:
    """A table as stage objects show theirs, for a notebook: units in the cells, texts on the left, numbers on the right.

    Examples
    --------
    >>> import pandas as pd
    >>> Readable(pd.DataFrame({"server": ["device"], "latency_s": [0.2005]}))
    server  latency
    device 200.5 ms
    """

    frame: pd.DataFrame

    def __repr__(self) -> str:
        return readable(self.frame).to_string(index=False)

    def _repr_html_(self) -> str:
        return shown("", readable(self.frame))


def folded(text: str) -> str:
    """Return a text whose lines are broken at blanks where they are too long for a shell, and go on indented.

    Examples
    --------
    >>> print(folded("Plan: " + "a sentence of words " * 5))
    Plan: a sentence of words a sentence of words a sentence of words a sentence of
        words a sentence of words
    """
    wrap = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in _NUMBER.sub("\xa0", text).splitlines():  # at which no line is broken
        indent = line[: len(line) - len(line.lstrip())]
        wrap.subsequent_indent = f"{indent}    "
        lines += wrap.wrap(line) or [""]
    return "\n".join(lines).replace("\xa0", " ")


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table as people read it: columns that are named by their unit, as ``latency_s``, have it in their cells.

    Examples
    --------
    >>> import pandas as pd
    >>> print(readable(pd.DataFrame({"latency_s": [0.2005], "size_bytes": [4e5], "noise": [0.1]})).to_string(index=False))
     latency   size  noise
    200.5 ms 400 kB    0.1
    """
    told, names = frame.copy(), {}
    for column in map(str, frame):
        names[column], unit = _unit(column)
        if unit:
            told[column] = [_cell(value, unit) for value in frame[column]]
    return told.rename(columns=names)


def shown(title: object, *tables: pd.DataFrame | Mapping[str, object]) -> str:
    """Return HTML of an object, for its ``_repr_html_``.

    Parameters
    ----------
    title : object
        Its repr; one of several lines keeps them.
    *tables : pd.DataFrame | Mapping[str, object]
        Below it, without columns that are empty throughout; a mapping is a table of two columns, names and values, without
        those that say nothing (None, "").
    """
    text = html.escape(str(title))
    head = f'<pre style="white-space:pre;overflow-x:auto">{text}</pre>' if "\n" in text else f"<b>{text}</b>" if text else ""
    return head + "".join(_facts(table) if isinstance(table, Mapping) else _rows(table) for table in tables)


def _unit(name: str) -> tuple[str, str]:
    """Return a name without the unit that it ends in, and the unit."""
    found = _UNIT.search(name)
    return (f"{name[: found.start()]}{found[2]}" or name, _UNITS[found[1]]) if found else (name, "")


def _cell(value: Any, unit: str) -> str:
    if not is_number(value):
        return "" if value is None else str(value)  # in words already
    return "" if value != value else show(float(value), unit)


def _said(facts: Mapping[str, object]) -> dict[str, object]:
    return {str(name): value for name, value in facts.items() if value not in (None, "")}


def _facts(facts: Mapping[str, object]) -> str:
    told = []
    for key, value in _said(facts).items():
        name, unit = _unit(key) if is_number(value) else (key, "")
        told.append(_entry("th", name) + _entry("td", _cell(value, unit) if unit else _text(value)))
    return _table("", told)


def _rows(frame: pd.DataFrame) -> str:
    told = frame.astype(object).where(frame.notna(), "")
    columns = {str(name): [_text(value) for value in told.iloc[:, i]] for i, name in enumerate(told)}
    columns = {name: texts for name, texts in columns.items() if any(texts) or not texts}
    right = {name: all(map(_AMOUNT.fullmatch, filter(None, texts))) for name, texts in columns.items()}
    head = "".join(_entry("th", name, right[name]) for name in columns)
    rows = zip(*columns.values(), strict=True)
    return _table(head, ["".join(map(_entry, ["td"] * len(row), row, right.values())) for row in rows])


def _table(head: str, rows: Sequence[str]) -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    thead = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<table border="1" class="dataframe">{thead}<tbody>{body}</tbody></table>'


def _entry(tag: str, text: str, right: bool = False) -> str:
    # in the cell itself, as notebooks have styles of their own: numbers keep their units, and no word is broken
    broken = "white-space:nowrap" if len(text) <= MOST else f"min-width:{MOST}ch;overflow-wrap:normal;word-break:normal"
    return f'<{tag} style="text-align:{"right" if right else "left"};{broken}">{html.escape(text)}</{tag}>'


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) else str(value)
