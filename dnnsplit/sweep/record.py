"""The record of a run: what it was made from and what it left, by content, so that a finished run is not run again."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from dnnsplit.ground.files import sha256, write_json
from dnnsplit.sweep.jobs import Job
from dnnsplit.sweep.values import from_json, same, to_json


def write_record(job: Job, row: Mapping[str, Any], read: Iterable[str], written: Iterable[str]) -> None:
    """Write the record of a finished run beside its executed notebook.

    Parameters
    ----------
    job : Job
        That was run.
    row : Mapping[str, Any]
        Of the table.
    read, written : Iterable[str]
        Paths of files, from `dnnsplit.sweep.tracing`.
    """
    runner = {str(path.resolve()) for path in (job.output, job.log, job.record)}
    document = {
        "row": to_json(dict(row)), "parameters": to_json(dict(job.parameters)),
        "notebook_sha256": sha256(job.notebook), "versions": versions(),
        "inputs": _hashes(job, read), "outputs": _hashes(job, set(written) - runner),
    }  # fmt: skip
    write_json(job.record, document)


def read_record(job: Job) -> dict[str, Any] | None:
    """Return the record that a run left, or None; also for one that another version of this package wrote otherwise."""
    try:
        record: dict[str, Any] = json.loads(job.record.read_text(encoding="utf-8"))
        record |= {key: from_json(record[key]) for key in ("row", "parameters")}
        return record if isinstance(record["row"]["seconds"], int | float) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finished(job: Job) -> dict[str, Any] | None:
    """Return the row of a run that need not be run again, or None.

    That is one that was done with the same parameters, notebook, versions and contents of all files that it read, and whose
    files are all still as it left them.
    """
    record = read_record(job)
    try:
        if record is None or record["row"]["status"] != "done" or not job.output.exists():
            return None
        now = {"parameters": dict(job.parameters), "notebook_sha256": sha256(job.notebook), "versions": versions()}
        files = {**record["inputs"], **record["outputs"]}
        unchanged = all(same(record[key], value) for key, value in now.items()) and all(
            sha256(job.notebook.parent / path) == known for path, known in files.items()
        )
    except (OSError, KeyError, TypeError, AttributeError):  # a file is gone, or the record is of another version
        return None
    return {**record["row"], "status": "kept"} if unchanged else None


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of what it depends on, by name."""
    names = ["dnnsplit"]
    names += [re.split(r"[^\w.-]", text)[0] for text in requires("dnnsplit") or () if "extra ==" not in text]
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _hashes(job: Job, paths: Iterable[str]) -> dict[str, str]:
    """SHA-256 by path relative to the notebook, so that a copy of the whole folder keeps its records."""
    base = job.notebook.parent
    return {Path(os.path.relpath(path, base)).as_posix(): sha256(Path(path)) for path in sorted(paths) if Path(path).is_file()}
