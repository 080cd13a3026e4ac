"""The one look of stage objects in a notebook: a line in bold, then tables. All text is escaped; names come from files."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def shown(title: object, *tables: pd.DataFrame | Mapping[str, object]) -> str:
    """Return HTML of an object, for its ``_repr_html_``.

    Parameters
    ----------
    title : object
        Its repr; one of several lines keeps them.
    *tables : pd.DataFrame | Mapping[str, object]
        Below it; a mapping is a table of two columns, names and values, without those that say nothing (None, "").
    """
    text = html.escape(str(title))
    head = f"<pre>{text}</pre>" if "\n" in text else f"<b>{text}</b>"
    return head + "".join(
        _facts(table) if isinstance(table, Mapping) else table.to_html(index=False, float_format="{:.4g}".format, na_rep="")
        for table in tables
    )


def _facts(facts: Mapping[str, object]) -> str:
    told = {html.escape(str(name)): html.escape(str(value)) for name, value in facts.items() if value not in (None, "")}
    rows = (f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in told.items())
    return f'<table border="1" class="dataframe"><tbody>{"".join(rows)}</tbody></table>'
