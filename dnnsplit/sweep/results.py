"""What a notebook publishes: values by name, shown in a cell in a form that the runner reads back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dnnsplit.ground.files import plain
from dnnsplit.sweep.parameters import code_cells

MIME = "application/vnd.dnnsplit.result+json"


def publish(**results: Any) -> None:
    """Show results as the output of a notebook cell, in a form that `run` reads back.

    Parameters
    ----------
    results : JSON values, numpy scalars or paths, by name
    """
    from IPython.display import display

    clean = json.loads(json.dumps(results, default=plain))
    display({MIME: clean, "text/plain": "\n".join(f"{k}: {v}" for k, v in clean.items())}, raw=True)


def published(notebook: Path) -> dict[str, Any]:
    """Return what an executed notebook published; of a name published twice, the last."""
    found: dict[str, Any] = {}
    for cell in code_cells(notebook):
        for shown in cell.get("outputs", []):
            found |= shown.get("data", {}).get(MIME, {})
    return found
