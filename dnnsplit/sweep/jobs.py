"""What is to be run: one notebook, a grid of its parameters, or the list of a sweep file."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dnnsplit.ground.errors import OptionError, nearest, raise_problems
from dnnsplit.ground.forms import formed
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.yaml_file import MOST_BYTES, read_values
from dnnsplit.sweep.names import LONGEST, name_of
from dnnsplit.sweep.notebook import MOST, check_parameters, parameters_of

_KIND = Kind(
    "is no sweep file (runs: [{notebook: ..., name: ..., parameters: ..., grid: ..., needs: ...}])", OptionError, MOST_BYTES,
    "the sweep file", "there is no sweep file {path}",
)  # fmt: skip
# parameters that are folders which a notebook writes to, and where they are in the run's own folder unless they are given
WRITTEN = {"out": ".", "figures": "figures", "build": "build"}
LOG, RECORD = "run.log", "run.json"
SWEEP = "{sweep}"  # in a text that is given: the folder of the runs of this sweep


@dataclass(frozen=True)
class Job:
    """One notebook with all its parameters.

    Attributes
    ----------
    name : str
        Unique in a sweep; the folder of the run is called by it.
    notebook : Path
        That is run, in the folder where it is.
    parameters : Mapping[str, Any]
        All of them, defaults included, JSON values.
    folder : Path
        The run's own: for the executed notebook, its log, its record, and what the notebook writes.
    needs : tuple[str, ...]
        Names of the jobs that must be done before.
    """

    name: str
    notebook: Path
    parameters: Mapping[str, Any]
    folder: Path
    needs: tuple[str, ...] = ()

    @property
    def output(self) -> Path:
        """The executed notebook."""
        return self.folder / self.notebook.name

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder / LOG

    @property
    def record(self) -> Path:
        """What the run was made from, and its row."""
        return self.folder / RECORD

    @property
    def own(self) -> dict[str, str]:
        """The folders of `WRITTEN` that are the run's own, as paths from the notebook's folder, where the kernel works."""
        places = {name: _from(self.notebook, self.folder / inside) for name, inside in WRITTEN.items()}
        return {name: place for name, place in places.items() if self.parameters.get(name) == place}

    def to_line(self) -> bytes:
        """Return the job as one line of JSON, which `dnnsplit.sweep.process` reads."""
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> Job:
        """Return the job that `to_line` wrote."""
        values = json.loads(line)
        paths = {name: Path(values[name]) for name in ("notebook", "folder")}
        return Job(**values | paths | {"needs": tuple(values["needs"])})


@dataclass(frozen=True)
class _Run:
    """An entry of a sweep file."""

    notebook: str
    name: str | int | None = None
    parameters: dict[str, Any] | None = None
    grid: dict[str, Any] | None = None
    needs: tuple[str, ...] | None = None

    @property
    def called(self) -> str:
        """The name, or that of the notebook."""
        return str(self.name or Path(self.notebook).stem)


@dataclass(frozen=True)
class _Sweep:
    """A sweep file."""

    runs: tuple[_Run, ...]
    parameters: dict[str, Any] | None = None


def jobs_of(
    path: Path, parameters: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], folder: Path
) -> tuple[Job, ...]:  # fmt: skip
    """Return the jobs of a notebook or a sweep file, each after those it needs.

    Parameters
    ----------
    path : Path
        ``.ipynb``, or ``.yaml``: ``parameters`` for all, and ``runs``, a list of {notebook, name, parameters, grid, needs}.
    parameters : Mapping[str, Any]
        Win over the file's; in a sweep they go to the notebooks that have them.
    grid : Mapping[str, Sequence[Any]]
        Values by name; as for parameters, and every combination becomes a job.
    folder : Path
        Of the sweep; each run has a folder of its own in it. Parameters of `WRITTEN` that are not given are that folder, or in
        it, whatever a notebook's cell says; in texts that are given, ``{sweep}`` is the folder of the sweep. Both become paths
        from the notebook's folder.

    Raises
    ------
    OptionError
        Unknown notebooks, parameters, names or keys, values of another kind than a notebook takes, two runs of one name, or a
        parameter that is given as a value and as an axis.
    """
    both = [f"{name!r} is given as a value and as an axis; give one of them" for name in parameters if name in grid]
    raise_problems(OptionError, path.name, both)
    if path.suffix not in (".yaml", ".yml"):
        return tuple(_expanded(path.stem, path, {}, parameters, grid, folder, ()))
    sweep = _read(path)
    common = sweep.parameters or {}
    known: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for notebook in dict.fromkeys(entry.notebook for entry in sweep.runs):
        with _noted(problems, notebook):
            known[notebook] = parameters_of(path.parent / notebook)
    everywhere = dict.fromkeys(name for names in known.values() for name in names)
    lost = [name for name in {**common, **parameters, **grid} if name not in everywhere]
    if not problems:  # a notebook that cannot be read may have them
        problems += [f"no notebook has the parameter {n!r}{nearest(n, everywhere, MOST)}" for n in lost]
    jobs: list[Job] = []
    made: dict[str, list[str]] = {}  # the names of the jobs that an entry became
    for entry in sweep.runs:
        has = known.get(entry.notebook, {})
        # what the caller gives wins over a run's own entry, and that over the entry for all runs
        shared, last, wide = ({k: v for k, v in group.items() if k in has} for group in (common, parameters, grid))
        values = {**shared, **(entry.parameters or {}), **last}
        name, needs = entry.called, entry.needs or ()
        if name in made:
            problems.append(f"two runs are called {name!r}; give one of them another name")
        problems += [f"{name} needs {n!r}, which does not come before it{nearest(n, made)}" for n in needs if n not in made]
        before = tuple(job for need in needs for job in made.get(need, ()))
        own = {k: v for k, v in (entry.grid or {}).items() if k not in last}
        made[name] = []
        if entry.notebook in known:
            with _noted(problems, entry.notebook):
                added = _expanded(name, path.parent / entry.notebook, values, {}, {**own, **wide}, folder, before)
                made[name] = [job.name for job in added]
                jobs += added
    raise_problems(OptionError, path.name, problems)
    names = [job.name for job in jobs]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    raise_problems(OptionError, path.name, [f"two runs are called {name!r}; give one of them another name" for name in twice])
    return tuple(jobs)


@contextmanager
def _noted(problems: list[str], notebook: str) -> Iterator[None]:
    """Take what is refused of a notebook as problems among others."""
    try:
        yield
    except OptionError as error:
        problems += [f"{notebook}: {line}" for line in error.details] or [str(error)]


def points(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid's values; the last name changes fastest, and no name gives one empty point."""
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            message = f"the grid of {name!r} is {values!r}; give a list of values"
            raise OptionError(message)
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


def _expanded(
    name: str, notebook: Path, parameters: Mapping[str, Any], named: Mapping[str, Any], grid: Mapping[str, Sequence[Any]],
    folder: Path, needs: tuple[str, ...],
) -> list[Job]:  # fmt: skip
    """One job, or one for each point of the grid; they are called by the parameters that are `named`, and by the point."""
    jobs = {}
    for point in points(grid):
        called = name_of(name, {**named, **point})
        here = _from(notebook, folder)
        given = {k: v.replace(SWEEP, here) if isinstance(v, str) else v for k, v in {**parameters, **named, **point}.items()}
        has = parameters_of(notebook)
        own = {k: _from(notebook, folder / called / inside) for k, inside in WRITTEN.items() if k in has and k not in given}
        jobs[called] = Job(called, notebook, check_parameters(notebook, given | own), folder / called, needs)
    return list(jobs.values())  # a point that is listed twice runs once


def _from(notebook: Path, place: Path) -> str:
    """Return a path as the kernel takes it; a copy of all folders keeps its records so."""
    return Path(os.path.relpath(place, notebook.parent)).as_posix()


def _read(path: Path) -> _Sweep:
    document = read_values(path, _KIND)
    sweep = formed(document, _Sweep, OptionError, f"{path.name} {_KIND.unfit}")
    names = [run.called for run in sweep.runs]
    wrong = [name for name in names if re.search(r"^\.|[/\\\x00-\x1f]", name) or len(name.encode(errors="replace")) > LONGEST]
    way_out = "is no file name, and the folder of the run is called by it"
    raise_problems(OptionError, path.name, [f"the name {name!r} {way_out}" for name in wrong])
    return sweep
