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


def read_journal(path: Path, identity: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the schemes (n, layers) and their numbers (n, images, numbers), NaN where not measured; None without a file.

    The identity is what the numbers depend on: a file that is no journal, or one of something else, is a NoiseError.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found, schemes, values = json.loads(str(file["identity"])), file["schemes"], file["values"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        message = f"{path} is not readable as a measurement to resume: {error}; delete it or name another file"
        raise NoiseError(message) from None
    wanted = json.loads(json.dumps(identity, default=plain))
    other = [key for key in wanted if found.get(key) != wanted[key]]
    if other:
        message = f"{path} holds a measurement with other {', '.join(other)}; delete it or name another file"
        raise NoiseError(message)
    return schemes, values


def write_journal(path: Path, identity: Mapping[str, Any], schemes: np.ndarray, values: np.ndarray) -> None:
    """Write atomically what `read_journal` reads."""
    with replacing(path) as file:
        np.savez(file, identity=np.array(json.dumps(identity, default=plain)), schemes=schemes, values=values)
