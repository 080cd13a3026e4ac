"""What was measured so far, in a file that survives an interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnnsplit.ground.arrays import read_arrays
from dnnsplit.ground.errors import NoiseError, shortened
from dnnsplit.ground.files import plain, replacing
from dnnsplit.ground.gate import Kind, is_there
from dnnsplit.ground.json_file import json_of

_KIND = Kind(
    "is not readable as a measurement to resume", NoiseError, 2**33, "the file", way_out="delete it or name another file"
)  # fmt: skip


def read_journal(path: Path, identity: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return forms (n,), schemes (n, layers) and their numbers (n, images, numbers), NaN where not measured; None without a file.

    A form is a label of the lossy form of the inputs, "" where there is none; a file without forms has none.
    The identity is what the numbers depend on: a file that is no journal, or one of something else, is a NoiseError.
    """
    if not is_there(path, _KIND):
        return None
    file = read_arrays(path, _KIND, ("identity", "schemes", "values"))
    if not isinstance(file, dict):
        _KIND.refuse(path, "it is one array, not an archive of several")
    schemes, values, forms = file["schemes"], file["values"], file.get("forms")
    forms = np.full(len(schemes) if schemes.ndim else 0, "") if forms is None else forms
    shapes = [schemes.ndim == 2, values.ndim == 3, forms.ndim == 1, schemes.shape[:1] == values.shape[:1] == forms.shape[:1]]
    if file["identity"].shape or not all(shapes) or schemes.dtype.kind not in "biu" or values.dtype.kind != "f":
        _KIND.refuse(path, "its identity, schemes and values are not of the form in which they are written")
    found = json_of(path, str(file["identity"]), _KIND, finite=False)
    if not isinstance(found, dict):
        _KIND.refuse(path, f"its identity is {shortened(found)}, not a JSON object")
    wanted = json.loads(json.dumps(identity, default=plain))
    other = [key for key in wanted if found.get(key) != wanted[key]]
    if other:
        message = f"{path} holds a measurement with other {', '.join(other)}; delete it or name another file"
        raise NoiseError(message)
    return forms, schemes, values


def write_journal(path: Path, identity: Mapping[str, Any], forms: np.ndarray, schemes: np.ndarray, values: np.ndarray) -> None:
    """Write atomically what `read_journal` reads."""
    with replacing(path) as file:
        np.savez(file, identity=np.array(json.dumps(identity, default=plain)), forms=forms, schemes=schemes, values=values)
