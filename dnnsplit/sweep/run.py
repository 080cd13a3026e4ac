"""Run notebooks: one, a grid of its parameters, or all of a sweep file; each in a process of its own, and none twice.

papermill lets a misspelt parameter pass with a warning, and numpy values or paths crash it; `run` closes these holes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError
from dnnsplit.ground.files import write_text
from dnnsplit.ground.markup import readable, shown
from dnnsplit.ground.outputs import check_output
from dnnsplit.ground.paths import real
from dnnsplit.sweep import local
from dnnsplit.sweep.apart import alone, check_apart, overwritten
from dnnsplit.sweep.jobs import Job, jobs_of
from dnnsplit.sweep.record import read_record
from dnnsplit.sweep.results import Entry, table_of

if TYPE_CHECKING:
    import pandas as pd

STATES = ("done", "kept", "failed", "blocked")
SHOWN = 3  # of the runs that go on, those that the progress line names


@dataclass(frozen=True)
class Runs:
    """What became of some notebooks.

    Attributes
    ----------
    jobs : tuple[Job, ...]
        What was asked for, in order.
    rows : Mapping[str, Mapping[str, Any]]
        By the name of the run; a sweep that was stopped has fewer.

    Examples
    --------
    >>> import dnnsplit as ds, nbformat
    >>> from nbformat.v4 import new_code_cell, new_notebook
    >>> first = new_code_cell("x: int = 1  # a number", metadata={"tags": ["parameters"]})
    >>> nbformat.write(new_notebook(cells=[first, new_code_cell("x / 0")]), "broken.ipynb")
    >>> runs = ds.run("broken.ipynb", out="out", progress=False)
    >>> runs
    Runs(1 run: 1 failed)
    >>> runs.failed["error"].tolist()
    ['ZeroDivisionError: division by zero']
    """

    jobs: tuple[Job, ...]
    rows: Mapping[str, Mapping[str, Any]]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per run.

        run (its name), notebook, status ("done"; "kept": nothing changed since it was done; "failed"; "blocked": something
        that it needs failed), seconds (wall) [s], cpu_s (user and system, of its process and kernel) [s], cell and error (of
        failed ones), output (path of the executed notebook); a column ``p.<name>`` for each parameter that differs between
        runs of one notebook, and a column per published result
        """
        return table_of([Entry(self.rows[job.name], job.parameters, job.own) for job in self.jobs if job.name in self.rows])

    @property
    def failed(self) -> pd.DataFrame:
        """The rows that failed, or that something failed for."""
        return self.frame[self.frame["status"].isin(["failed", "blocked"])]

    def __repr__(self) -> str:
        states = [row["status"] for row in self.rows.values()]
        counts = [f"{states.count(state)} {state}" for state in STATES if state in states]
        return f"Runs({len(self.jobs)} run{'s' * (len(self.jobs) != 1)}: {', '.join(counts) or 'none begun'})"

    def _repr_html_(self) -> str:
        return shown(self, readable(self.frame.drop(columns=["notebook", "output"], errors="ignore")))


def run(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    grid: Mapping[str, Sequence[Any]] | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    again: bool = False,
) -> Runs:
    """Run one notebook, a grid of it, or all of a sweep file; a failure is a row, and stops only what needs it.

    A run is not repeated while its parameters, its notebook, the versions of the packages, the sources of the modules it
    imported and the contents of all files that it read are the same, and the files that it wrote are still as it left them.

    Parameters
    ----------
    notebook : str | Path
        An ``.ipynb``, or a ``.yaml`` with ``runs``, a list of {notebook, name, parameters, grid, needs}, relative to the file,
        and optionally ``parameters`` for all of them; ``needs`` lists names of earlier runs.
    parameters : Mapping[str, Any] | None, optional
        By name. In a sweep each goes to all notebooks that have it; a single notebook must have all of them.
    out : str | Path | None, optional
        Folder of the sweep, default ``data/runs/<sweep>`` in the current folder: for the table of what this call asked for,
        ``<sweep>.csv``, and for a folder of each run with the executed notebook, its log ``run.log``, its record ``run.json``,
        and what the notebook writes.
    progress : bool, default True
        Show a progress line.
    grid : Mapping[str, Sequence[Any]] | None, optional
        Values by parameter; every combination is a run of its own.
    workers : int, default 1
        How many runs side by side; more than one distorts what notebooks measure.
    scheduler : str | None, optional
        Address of a Dask scheduler, such as ``tcp://host:8786``, whose workers run them instead of this machine.
    again : bool, default False
        Run everything, also what is finished.

    Returns
    -------
    Runs

    Raises
    ------
    OptionError
        Unknown notebooks or parameters, values of another kind than a notebook's annotations tell, no scheduler there, two runs
        that would write one file, or another sweep that writes to the same folder now; nothing was run then.
    OutputError
        The folder cannot be written; what is finished by then is kept.

    See Also
    --------
    results : The table of earlier runs, of one sweep or of many.

    Notes
    -----
    A run is called by its notebook, or by its name in the sweep file, and by the parameters that tell it from others:
    ``04-split,max_noise=0.03``. What a sweep file sets for all of its runs is in no name: when it is changed, they run again, and
    what they left is replaced, which a line tells; give another `out` to keep both.

    A notebook writes to its parameters ``out``, ``figures`` and ``build``. The caller or the sweep file may set them; else they
    are the run's own folder, and ``figures`` and ``build`` in it. Runs share a folder where all of them are told the same one.
    ``{sweep}`` stands for the folder of the sweep in whatever is set: with ``out: "{sweep}"`` one run leaves there what another,
    which needs it, reads with ``data: "{sweep}"``.

    What a notebook will write is not known before it has run, but two runs of one notebook that are given one folder of these
    three are refused; so are any two that wrote one file when they ran before. A run that wrote a file of an earlier run of the
    sweep has failed. Not seen are files that other processes of a notebook write. A sweep that would write to a folder to which
    another one writes at that moment is refused, on the same host and where the file system can lock; one that does so later
    runs, and replaces what it finds.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import nbformat
    >>> from nbformat.v4 import new_code_cell, new_notebook
    >>> first = new_code_cell("x: int = 1  # a number", metadata={"tags": ["parameters"]})
    >>> last = new_code_cell("import dnnsplit as ds; ds.publish(double=2 * x)")
    >>> nbformat.write(new_notebook(cells=[first, last]), "double.ipynb")
    >>> runs = ds.run("double.ipynb", grid={"x": [21]}, out="out", progress=False)
    >>> runs.frame["double"].tolist()
    [42]
    >>> ds.run("sweeps/none.yaml")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    dnnsplit.ground.errors.OptionError: there is no sweep file .../sweeps/none.yaml
    """
    check_arguments(run, locals(), least={"workers": 1}, some=("notebook",))
    path = real(notebook)
    if workers < 1:
        message = f"workers is {workers}; it must be 1 or more"
        raise OptionError(message)
    folder = real(out) if out else Path.cwd() / "data" / "runs" / path.stem
    jobs = jobs_of(path, parameters or {}, grid or {}, folder)
    check_apart(jobs, path.name)
    table = folder / f"{path.stem}.csv"
    check_output(table)
    rows: dict[str, Mapping[str, Any]] = {}
    runs = Runs(jobs, rows)
    wrote: dict[str, str] = {}
    with alone(jobs, folder), tqdm(total=len(jobs), disable=not progress, bar_format="{desc} [{elapsed}]") as bar:
        now = local.Now(workers) if scheduler is None else local.Now(0, hosts=0)
        if progress:
            now.told = lambda line: bar.write(line, file=bar.fp)
        told = _Told(runs, now)

        def tell() -> None:
            bar.set_description_str(f"{path.stem}: {told}")

        with local.ticking(tell, seen=progress and (bar.gui or bar.fp.isatty())):
            for job, row in _rows(jobs, now, scheduler, again):
                if row["status"] in ("done", "kept") and (problem := overwritten(job, wrote)):
                    row |= {"status": "failed", "error": problem}
                rows[job.name] = row
                write_text(table, runs.frame.to_csv(index=False))
                told = _Told(runs, now)
                tell()
    return runs


def _rows(jobs: Sequence[Job], now: local.Now, scheduler: str | None, again: bool) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its row as they finish."""
    if scheduler is None:
        return local.side_by_side(jobs, now, again)
    from dnnsplit.sweep.dask import on_workers

    return on_workers(jobs, scheduler, now, again)


class _Told:
    """The progress in words, with the time left where all that is left ran before, or enough of this sweep has."""

    def __init__(self, runs: Runs, now: local.Now) -> None:
        states = [row["status"] for row in runs.rows.values()]
        left = [job for job in runs.jobs if job.name not in runs.rows]
        took = [row["seconds"] for row in runs.rows.values() if row["status"] == "done"]
        usual = sum(took) / len(took) if took else None
        before = [record["row"]["seconds"] if (record := read_record(job)) else usual for job in left]
        guesses = [seconds for seconds in before if seconds is not None]
        self.counts = [f"{states.count(state)} {state}" for state in STATES if state in states]
        self.left = [job.name for job in left]
        self.now = now
        self.begun = time.monotonic()
        self.seconds = sum(guesses) if left and len(guesses) == len(left) else None

    def __str__(self) -> str:
        left = f"{len(self.left)} left" if self.left else ""
        about = ""
        if self.seconds is not None and self.now.workers:
            about = f"about {max(0.0, self.begun + self.seconds / self.now.workers - time.monotonic()):.0f} s"
        return ", ".join(filter(None, [*self.counts, left, about, self._running() if self.left else ""]))

    def _running(self) -> str:
        running = [name for name in self.left if name in self.now.running]
        more = f" and {len(running) - SHOWN} more" if len(running) > SHOWN else ""
        names = f"now {', '.join(running[:SHOWN])}{more}" if running else ""
        if self.now.hosts is None:
            return names
        if not self.now.hosts:
            return "no worker yet"
        return f"{names or 'none runs'} on {self.now.hosts} worker{'s'[: self.now.hosts > 1]}"
