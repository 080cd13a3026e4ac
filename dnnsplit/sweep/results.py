"""The runs of one sweep or of many as one table, read back from their folders."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError, raise_problems
from dnnsplit.ground.outputs import shown
from dnnsplit.ground.paths import exists, is_file, is_folder, real
from dnnsplit.sweep.jobs import LOG, RECORD
from dnnsplit.sweep.record import record_at

NUMBERS = ("seconds", "cpu_s")


class Entry(NamedTuple):
    """A run, as a table is made from it.

    Parameters
    ----------
    row : Mapping[str, Any]
        Columns by name, and under ``results`` what was published.
    parameters : Mapping[str, Any]
        All of them.
    own : Collection[str]
        Names of those that are the run's own folder, or in it: they differ from run to run and tell nothing.
    """

    row: Mapping[str, Any]
    parameters: Mapping[str, Any]
    own: Collection[str]


def results(folders: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Return the runs of one sweep or of many as one table.

    Parameters
    ----------
    folders : str | Path | Sequence[str | Path]
        Folders of sweeps, such as ``data/runs/04-split``, or of single runs.

    Returns
    -------
    pd.DataFrame
        One row per run that was begun, in the order of the folders and of the runs' names: sweep (the folder's name), run,
        notebook, status ("done", "failed", or "unfinished": it was begun, and has no record: it still runs or was stopped),
        cell and error (of failed ones), seconds (wall) [s], cpu_s [s], output (path of the executed notebook); a column
        ``p.<name>`` for each parameter, where lists and dictionaries are JSON, without the folders that are a run's own; and a
        column per published result. What a run has not is NaN. That a run is done says nothing of what has changed since; `run`
        runs it again then.

    Raises
    ------
    OptionError
        A folder is not there or holds no run, or a record is none that this version reads; all of them at once.

    Warns
    -----
    UserWarning
        A folder holds what is neither a run nor what its runs wrote: it is named, and left out.

    See Also
    --------
    run : Makes them; ``Runs.frame`` is the table of what was asked for now.

    Examples
    --------
    A notebook of two cells, run twice:

    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import dnnsplit as ds
    >>> folder = Path(tempfile.mkdtemp())
    >>> cells = [("parameters", "x: int = 1"), ("", "import dnnsplit as ds; ds.publish(square=x * x)")]
    >>> code = {"cell_type": "code", "outputs": [], "execution_count": None}
    >>> cells = [{**code, "metadata": {"tags": [tag]}, "source": text} for tag, text in cells]
    >>> text = json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells})
    >>> length = (folder / "square.ipynb").write_text(text)
    >>> runs = ds.run(folder / "square.ipynb", out=folder / "squares", grid={"x": [2, 3]}, progress=False)
    >>> print(ds.results(folder / "squares")[["sweep", "run", "status", "p.x", "square"]].to_string(index=False))
      sweep        run status  p.x  square
    squares square,x=2   done    2       4
    squares square,x=3   done    3       9
    """
    check_arguments(results, locals(), some=("folders",))
    problems: list[str] = []
    found: dict[Path, Entry] = {}  # a run that is in two of the folders is there once
    strange: list[str] = []
    for folder in dict.fromkeys([Path(folders)] if isinstance(folders, str | Path) else map(Path, folders)):
        places = [folder] if _is_run(folder) else [child for child in _children(folder) if _is_run(child)]
        if not places:
            problems.append(_empty(folder))
        written: set[str] = set()
        for place in places:
            try:
                found[real(place)], files = _entry(place)
                written.update(files)
            except OptionError as error:
                problems.append(str(error))
        others = [] if places == [folder] else [child for child in _children(folder) if child not in places]
        strange += [shown(child) for child in others if not _is_known(child, written)]
    raise_problems(OptionError, "results", problems)
    if strange:
        why = "they are no runs" if len(strange) > 1 else "it is no run"
        warnings.warn(f"left out, for {why}: {', '.join(strange)}", stacklevel=2)
    return table_of([*found.values()], differ=False)


def table_of(entries: Sequence[Entry], differ: bool = True) -> pd.DataFrame:
    """Return the table of some runs; parameters are all of them, or those that `differ` between runs of one notebook."""
    varied: dict[str, dict[str, set[str | None]]] = {}  # by notebook and parameter, the values that it has
    for row, parameters, own in entries:
        values = varied.setdefault(row["notebook"], {})
        for name, value in parameters.items():
            values.setdefault(name, set()).add(None if name in own else json.dumps(value, sort_keys=True))
    rows = []
    for row, parameters, own in entries:
        values = varied[row["notebook"]]
        kept = {name: value for name, value in parameters.items() if name not in own and (len(values[name]) > 1 or not differ)}
        told = {f"p.{name}": _cell(value) for name, value in kept.items()}
        rows.append({**{k: v for k, v in row.items() if k != "results"}, **told, **row["results"]})
    frame = pd.DataFrame(rows)
    return frame.astype({name: float for name in NUMBERS if name in frame})


def _children(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if not child.name.startswith(".")) if is_folder(folder) else []


def _is_run(folder: Path) -> bool:
    return is_folder(folder) and (exists(folder / RECORD) or exists(folder / LOG))


def _empty(folder: Path) -> str:
    if not is_folder(folder):
        return (
            f"{shown(folder)} is a file; give the folder of its runs" if exists(folder) else f"there is no folder {shown(folder)}"
        )
    inside = [shown(child) for child in _children(folder) if any(map(_is_run, _children(child)))]
    return f"{shown(folder)} holds folders of sweeps; give {', '.join(inside)}" if inside else f"{shown(folder)} holds no run"


def _entry(place: Path) -> tuple[Entry, Iterator[str]]:
    """Return a run and the files that it wrote."""
    notebooks = [child for child in _children(place) if child.suffix == ".ipynb"]
    name = {"sweep": real(place).parent.name}
    if not exists(place / RECORD):
        notebook = notebooks[0].stem if notebooks else ""
        row = {"run": real(place).name, "notebook": notebook, "status": "unfinished", "cell": "", "error": ""}
        output = str(notebooks[0]) if notebooks else ""
        return Entry({**name, **row, "seconds": None, "cpu_s": None, "output": output, "results": {}}, {}, ()), iter(())
    record = record_at(place / RECORD)
    base = real(place / record.notebook).parent
    row = asdict(record.row) | {"output": str(place / Path(record.notebook).name)}
    return Entry(name | row, record.parameters, record.own), (os.path.realpath(base / path) for path in record.outputs)


def _is_known(child: Path, written: Collection[str]) -> bool:
    """Whether something beside the runs is their table, or what they wrote."""
    place = os.path.realpath(child)
    if any(file == place or file.startswith(place + os.sep) for file in written):
        return True
    if child.suffix != ".csv" or not is_file(child):
        return False
    with child.open("rb") as file:
        return file.read(len(b"run,notebook,status,")) == b"run,notebook,status,"


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
