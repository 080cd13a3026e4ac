"""What was measured so far, in a file that survives an interruption."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnnsplit.ground.errors import NoiseError
from dnnsplit.ground.files import plain, replacing


def read_journal(path: Path, identity: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return forms (n,), schemes (n, layers) and their numbers (n, images, numbers), NaN where not measured; None without a file.

    A form is a label of the lossy form of the inputs, "" where there is none; a file without forms has none.
    The identity is what the numbers depend on: a file that is no journal, or one of something else, is a NoiseError.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found, schemes, values = json.loads(str(file["identity"])), file["schemes"], file["values"]
            forms = file["forms"] if "forms" in file else np.full(len(schemes), "")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        message = f"{path} is not readable as a measurement to resume: {error}; delete it or name another file"
        raise NoiseError(message) from None
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
