"""An IPython extension that notes which files a kernel reads and writes, so that a run can be skipped when none changed.

The runner loads it into its kernels; it writes its list after every cell. Files that other processes of the notebook open
are not seen.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VARIABLE = "DNNSPLIT_TRACE"  # the file that the list is written to
PACKAGE = str(Path(__file__).resolve().parents[1])


def load_ipython_extension(shell: Any) -> None:
    """Start to listen (called by ``ipython --ext dnnsplit.sweep.tracing``)."""
    read: set[str] = set()
    written: set[str] = set()

    def listen(event: str, values: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(values[0], str | bytes | os.PathLike):
            writes = isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
            (written if writes else read).add(os.path.abspath(os.fsdecode(values[0])))  # noqa: PTH100 (called at every open)
        elif event == "os.rename":
            written.add(os.path.abspath(os.fsdecode(values[1])))  # noqa: PTH100

    def note(*_: Any) -> None:
        files = {"read": sorted({*_own(read - written), *_modules()}), "written": sorted(_own(written))}
        Path(os.environ[VARIABLE]).write_text(json.dumps(files), encoding="utf-8")

    sys.addaudithook(listen)
    shell.events.register("post_run_cell", note)


def _own(paths: Iterable[str]) -> set[str]:
    """Keep files that still exist and belong neither to the system, nor to an environment, nor to a hidden folder of a home."""
    home = f"{Path.home()}{os.sep}."
    foreign = (sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/etc", "/usr", PACKAGE, home)
    scratch = tuple(f"{tempfile.gettempdir()}/{start}" for start in ("ipykernel_", "dnns-"))
    own = [path for path in paths if not path.startswith((*(f"{f.rstrip('/.')}/" for f in foreign[:-1]), home, *scratch))]
    return {path for path in own if Path(path).is_file()}


def _modules() -> set[str]:
    """Sources of the modules that were imported, ours and the user's; of a room of ours, all of it (processes start there)."""
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    ours = {file for file in files if file.startswith(PACKAGE + os.sep)}
    rooms = {Path(PACKAGE, Path(file).relative_to(PACKAGE).parts[0]) for file in ours if Path(file).parent != Path(PACKAGE)}
    return _own(files) | ours | {str(path) for room in rooms for path in room.rglob("*.py")}
