"""What is to be run: one notebook, a grid of its parameters, or the list of a sweep file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dnnsplit.ground.errors import OptionError, nearest, raise_problems
from dnnsplit.ground.files import sha256
from dnnsplit.ground.yaml_file import YAML_ERRORS, read_values
from dnnsplit.sweep.parameters import check_parameters, parameters_of, points

LONGEST = 200  # of a run's name; a hash and an ending come after it
KEYS = ("notebook", "name", "parameters", "grid", "needs")


@dataclass(frozen=True)
class Job:
    """One notebook with all its parameters.

    Attributes
    ----------
    name : unique in a sweep; the files that the run leaves are called by it
    notebook : that is run, in its own folder
    parameters : all of them, defaults included, JSON values
    folder : for the executed notebook, its log and its record
    needs : names of the jobs that must be done before
    """

    name: str
    notebook: Path
    parameters: Mapping[str, Any]
    folder: Path
    needs: tuple[str, ...] = ()

    @property
    def output(self) -> Path:
        """The executed notebook."""
        return self.folder / f"{self.name}.ipynb"

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """What the run was made from, and its row."""
        return self.folder / f"{self.name}.json"

    def to_line(self) -> bytes:
        """Return the job as one line of JSON, which `dnnsplit.sweep.process` reads."""
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> Job:
        """Return the job that `to_line` wrote."""
        values = json.loads(line)
        paths = {name: Path(values[name]) for name in ("notebook", "folder")}
        return Job(**values | paths | {"needs": tuple(values["needs"])})


def jobs_of(
    path: Path, parameters: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], folder: Path
) -> tuple[Job, ...]:  # fmt: skip
    """Return the jobs of a notebook or a sweep file, each after those it needs.

    Parameters
    ----------
    path : ``.ipynb``, or ``.yaml``: ``parameters`` for all, and ``runs``, a list of {notebook, name, parameters, grid, needs}
    parameters : win over the file's; in a sweep they go to the notebooks that have them
    grid : values by name; as for parameters, and every combination becomes a job
    folder : see `Job`

    Raises
    ------
    OptionError : unknown notebooks, parameters, names or keys, or two jobs of one name
    """
    if path.suffix not in (".yaml", ".yml"):
        return tuple(_expanded(path.stem, path, parameters, grid, folder, ()))
    common, entries = _read(path)
    known = {entry["notebook"]: parameters_of(path.parent / entry["notebook"]) for entry in entries}
    everywhere = {name for names in known.values() for name in names}
    lost = [name for name in {**common, **parameters, **grid} if name not in everywhere]
    raise_problems(OptionError, path.name, [f"no notebook has the parameter {n!r}{nearest(n, everywhere)}" for n in lost])
    jobs: list[Job] = []
    made: dict[str, list[str]] = {}  # the names of the jobs that an entry became
    for entry in entries:
        has = known[entry["notebook"]]
        # what the caller gives wins over a run's own entry, and that over the entry for all runs
        shared, last, wide = ({k: v for k, v in group.items() if k in has} for group in (common, parameters, grid))
        values = {**shared, **(entry.get("parameters") or {}), **last}
        name, needs = str(entry.get("name") or Path(entry["notebook"]).stem), entry.get("needs") or []
        if name in made:
            raise OptionError(f"{path.name}: two runs are called {name!r}; give one of them another name")
        unknown = [f"{name} needs {n!r}, which does not come before it{nearest(n, made)}" for n in needs if n not in made]
        raise_problems(OptionError, path.name, unknown)
        before = tuple(job for need in needs for job in made[need])
        own = {k: v for k, v in (entry.get("grid") or {}).items() if k not in last}
        added = list(_expanded(name, path.parent / entry["notebook"], values, {**own, **wide}, folder, before))
        made[name] = [job.name for job in added]
        jobs += added
    return tuple(jobs)


def _expanded(
    name: str, notebook: Path, parameters: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], folder: Path,
    needs: tuple[str, ...],
) -> list[Job]:  # fmt: skip
    """One job, or one for each point of the grid; these are told apart by a hash of their parameters."""
    jobs = {}
    for point in points(grid):
        values = check_parameters(notebook, {**parameters, **point})
        own = f"{name}-{sha256(json.dumps(values, sort_keys=True))[:8]}" if grid else name
        jobs[own] = Job(own, notebook, values, folder, needs)  # a point that is listed twice runs once
    return list(jobs.values())


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    form = "runs: [{notebook: ..., parameters: ..., needs: ...}]"
    try:
        document = read_values(path)
        entries, common = [dict(entry) for entry in document["runs"]], dict(document.get("parameters") or {})
        lost = [k for k in document if k not in ("parameters", "runs")]
        names = [str(entry["notebook"]) for entry in entries]
    except FileNotFoundError:
        raise OptionError(f"there is no sweep file {path}") from None
    except (*YAML_ERRORS, TypeError, ValueError, KeyError, AttributeError) as error:
        raise OptionError(f"{path} is no sweep file ({form}): {error}") from None
    problems = [f"the key {key!r} is unknown{nearest(key, ('parameters', 'runs'))}" for key in lost]
    for entry, name in zip(entries, names, strict=True):
        problems += [f"{name}: the key {key!r} is unknown{nearest(key, KEYS)}" for key in entry if key not in KEYS]
        wrong = [(k, kind) for k, kind in (("parameters", dict), ("grid", dict), ("needs", list)) if entry.get(k) is not None]
        problems += [f"{name}: {k} is {entry[k]!r}, no {kind.__name__}" for k, kind in wrong if not isinstance(entry[k], kind)]
        own = str(entry.get("name") or Path(name).stem)
        if re.search(r"[/\\\x00-\x1f]", own) or own.startswith(".") or len(own) > LONGEST:
            problems.append(f"{name}: the name {own!r} is no file name, and the files of the run are called by it, in one folder")
    raise_problems(OptionError, path.name, problems)
    return common, entries
