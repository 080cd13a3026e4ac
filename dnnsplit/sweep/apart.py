"""Runs that would overwrite each other's files, found before the first starts or told when it has happened."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dnnsplit.ground.errors import OptionError, raise_problems
from dnnsplit.ground.files import sha256
from dnnsplit.ground.outputs import shown, writing
from dnnsplit.sweep.jobs import WRITTEN, Job
from dnnsplit.sweep.record import read_record


def check_apart(jobs: Sequence[Job], heading: str) -> None:
    """Refuse runs that would write one file.

    What a notebook will write is not known before it has run. Two runs are refused where they are of one notebook and would
    write into one folder, by the parameters of `WRITTEN`: what names the files there is the notebook's own business. Runs of
    different notebooks may share a folder. Any two are refused where both have run with these folders before, and wrote one file.
    A folder or a file that a parameter of another name tells is not known here the first time, nor one inside of another; see
    `overwritten`.

    Parameters
    ----------
    jobs : Sequence[Job]
        Of a sweep.
    heading : str
        Of the message.

    Raises
    ------
    OptionError
        With both names, and the file or the folder; also where an executed notebook would take the place of one that is run.
    """
    problems = []
    notebooks = {job.notebook for job in jobs}
    refused: set[tuple[str, str]] = set()
    into: dict[tuple[Path, str], Job] = {}
    wrote: dict[str, Job] = {}
    for job in jobs:
        if job.output in notebooks:
            problems.append(f"{job.name} would leave {shown(job.output)} in the place of what is run; give another folder")
        for name, place in _places(job).items():
            first = into.setdefault((job.notebook, place), job)
            if first is not job:
                refused.add((first.name, job.name))
                files = [Path(file) for file in sorted(_written(first) | _written(job)) if Path(file).is_relative_to(place)]
                what = shown(files[0]) if files else f"the same files of {shown(Path(place))}"
                given = f"the parameter {name!r} gives both this folder; without it each has its own"
                problems.append(f"{first.name} and {job.name} would both write {what}: {given}")
        for file in _written(job):
            first = wrote.setdefault(file, job)
            if first is not job and (first.name, job.name) not in refused:
                refused.add((first.name, job.name))
                problems.append(f"{first.name} and {job.name} would both write {shown(Path(file))}, as they did before")
    raise_problems(OptionError, heading, problems)


@contextmanager
def alone(jobs: Sequence[Job], folder: Path) -> Iterator[None]:
    """Hold the folder of a sweep, and those outside of it that its runs are told to write to, until the block ends.

    No other sweep writes there meanwhile, in any process of this host, where the file system can lock; elsewhere nothing is held.
    A folder that is not there yet is made.

    Raises
    ------
    OptionError
        Another sweep holds one; all of them at once.
    OutputError
        A folder cannot be made.
    """
    places = {Path(place) for job in jobs for place in _places(job).values()}
    problems = []
    with ExitStack() as stack:
        for place in sorted({folder, *(one for one in places if not one.is_relative_to(folder))}):
            with writing(place):
                place.mkdir(parents=True, exist_ok=True)
                file = os.open(place, os.O_RDONLY)
                stack.callback(os.close, file)  # which lets go of it, too
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                problems.append(f"another sweep writes to {shown(place)} now; wait until it has ended, or give another folder")
            except OSError:  # a file system without locks
                continue
        raise_problems(OptionError, "sweeps", problems)
        yield


def overwritten(job: Job, wrote: dict[str, str]) -> str:
    """Return what is wrong where a run has written a file that another run of the sweep wrote, too; "" where nothing is.

    Parameters
    ----------
    job : Job
        That has run.
    wrote : dict[str, str]
        Names of runs by the files that they wrote; the files of this one are added.
    """
    files = _written(job)
    if both := sorted(file for file in files if wrote.get(file, job.name) != job.name):
        return f"it wrote {shown(Path(both[0]))}, which {wrote[both[0]]} wrote, too: give each a folder of its own"
    wrote.update(dict.fromkeys(files, job.name))
    return ""


def _places(job: Job) -> dict[str, str]:
    """The folders that a run is told to write to, by the name of the parameter."""
    values = {name: job.parameters.get(name) for name in WRITTEN}
    return {name: _whole(job, value) for name, value in values.items() if isinstance(value, str) and value}


def _written(job: Job) -> set[str]:
    """The files that the same notebook wrote before, as far as they were seen, if it was told to write to the same folders."""
    record = read_record(job)
    if record is None or any(record["parameters"].get(name) != job.parameters.get(name) for name in WRITTEN):
        return set()
    if record["notebook_sha256"] != sha256(job.notebook):
        return set()
    return {_whole(job, path) for path in record["outputs"]}


def _whole(job: Job, path: str) -> str:
    return os.path.realpath(job.notebook.parent / path)
