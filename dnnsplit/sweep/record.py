"""The record of a run: what it was made from and what it left, by content, so that a finished run is not run again."""

from __future__ import annotations

import itertools
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from dnnsplit.ground.errors import DnnSplitError, OptionError, raise_problems, shortened
from dnnsplit.ground.files import sha256, write_json
from dnnsplit.ground.forms import formed
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.json_file import read_json
from dnnsplit.sweep.jobs import Job
from dnnsplit.sweep.notebook import COLUMNS
from dnnsplit.sweep.values import from_json, same, to_json

CHANGES = 3  # that are told, of those for which a run is run again
KIND = Kind("is no record of a run by this version of dnnsplit", OptionError, 2**28, "the record")


@dataclass(frozen=True)
class Row:
    """What became of a run, as a table has it: see `dnnsplit.sweep.run.Runs.frame`."""

    run: str
    notebook: str
    status: str
    cell: str
    error: str
    seconds: float
    cpu_s: float
    output: str
    results: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What a run leaves beside its executed notebook.

    Attributes
    ----------
    row : Row
        Of the table.
    parameters : dict[str, Any]
        All of them, with JSON values.
    own : tuple[str, ...]
        Names of those that are the run's own folder, or in it.
    notebook : str
        Path of the notebook that was run, from the folder of the run.
    notebook_sha256 : str
        Of its content.
    versions : dict[str, str]
        See `versions`.
    inputs, outputs : dict[str, str]
        SHA-256 of the files that it read and wrote, by path from the notebook's folder.
    """

    row: Row
    parameters: dict[str, Any]
    own: tuple[str, ...]
    notebook: str
    notebook_sha256: str
    versions: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]


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
        "row": to_json(dict(row)), "parameters": to_json(dict(job.parameters)), "own": list(job.own),
        "notebook": Path(os.path.relpath(job.notebook, job.folder)).as_posix(), "notebook_sha256": sha256(job.notebook),
        "versions": versions(), "inputs": _hashes(job, read), "outputs": _hashes(job, set(written) - runner),
    }  # fmt: skip
    write_json(job.record, document)


def record_at(path: Path) -> Record:
    """Return the record in a file.

    Raises
    ------
    OptionError
        There is none, or what is there is not what `write_record` writes.
    """
    document = read_json(path, KIND)
    if isinstance(document, dict):  # numbers that JSON lacks come back where they may be
        document |= {key: from_json(document[key]) for key in ("row", "parameters") if key in document}
    record = formed(document, Record, OptionError, f"{path} {KIND.unfit}", complete=True)
    problems = [f"{name!r} is no path" for name in (record.notebook, *record.inputs, *record.outputs) if "\0" in name]
    problems += [f"the result {name!r} is a column of every table of runs" for name in record.row.results if name in COLUMNS]
    raise_problems(OptionError, f"{path} {KIND.unfit}", problems)
    return record


def read_record(job: Job) -> dict[str, Any] | None:
    """Return the `Record` that a run left, by key, or None; also for one that another version of this package wrote otherwise."""
    try:
        return asdict(record_at(job.record))
    except DnnSplitError:
        return None


def finished(job: Job) -> tuple[dict[str, Any] | None, str]:
    """Return the row of a run that need not be run again, or None and why one that was done has to be run again; "" if none was.

    It need not if it was done with the same parameters, notebook, versions and contents of all files that it read, and its files
    are all still as it left them.
    """
    record = read_record(job)
    if record is None or record["row"]["status"] != "done":
        return None, ""
    if changed := [*itertools.islice(_changed(job, record), CHANGES + 1)]:
        return None, ", ".join([*changed[:CHANGES], *(["..."] if len(changed) > CHANGES else [])])
    return {**record["row"], "status": "kept", "output": str(job.output)}, ""


def _changed(job: Job, record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is otherwise than it was when a run was done, in words."""
    was = record["parameters"]
    for name, value in job.parameters.items():
        if name not in was:
            yield f"{name} is new"
        elif not same(was[name], value):
            yield f"{name} was {shortened(was[name])}"
    yield from (f"{name} is gone" for name in was if name not in job.parameters)
    if _sha256(job.notebook) != record["notebook_sha256"]:
        yield "the notebook has changed"
    before, here = record["versions"], versions()
    yield from (f"{name} was {before.get(name, 'missing')}" for name in {**before, **here} if before.get(name) != here.get(name))
    if not job.output.exists():
        yield f"{job.output.name} is gone"
    for path, known in {**record["inputs"], **record["outputs"]}.items():
        if (now := _sha256(job.notebook.parent / path)) != known:
            yield f"{path} has changed" if now else f"{path} is gone"


def _sha256(path: Path) -> str:
    """The SHA-256 of a file, "" where it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


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
