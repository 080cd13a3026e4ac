"""Run notebooks through papermill: one notebook, or the list of a sweep file, each in a process of its own.

papermill lets a misspelt parameter pass with a warning, and numpy values or paths crash it; `run` closes these holes.
"""

from __future__ import annotations

import ast
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import papermill
import yaml
from IPython.display import display
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from tqdm.auto import tqdm

from dnnsplit.errors import OptionError, nearest, raise_problems
from dnnsplit.files import plain, write_json

MIME = "application/vnd.dnnsplit.result+json"


@dataclass(frozen=True)
class Runs:
    """What became of some notebooks.

    Attributes
    ----------
    frame : one row per run: notebook, status ("done" or "failed"), seconds (wall) [s], cpu_s (user and system, of the
        notebook's process and its children) [s], cell and error (of failed ones), output (path of the executed
        notebook), and one column per published result
    """

    frame: pd.DataFrame

    @property
    def failed(self) -> pd.DataFrame:
        """The rows that failed."""
        return self.frame[self.frame["status"] == "failed"]


def publish(**results: Any) -> None:
    """Show results as the output of a notebook cell, in a form that `run` reads back.

    Parameters
    ----------
    results : JSON values, numpy scalars or paths, by name
    """
    clean = json.loads(json.dumps(results, default=plain))
    display({MIME: clean, "text/plain": "\n".join(f"{k}: {v}" for k, v in clean.items())}, raw=True)


def parameters_of(notebook: str | Path) -> dict[str, Any]:
    """Return the parameters of a notebook and their defaults: the literals of the cell tagged ``parameters``.

    Raises
    ------
    OptionError : no such file, no notebook, no tagged cell, or a default that is no literal
    """
    path = Path(notebook)
    try:
        document = nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise OptionError(f"there is no notebook {path}") from None
    except (OSError, UnicodeDecodeError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise OptionError(f"{path} is no notebook: {str(error).splitlines()[0]}") from None
    cells = [c for c in document.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise OptionError(
            f"{path.name} has {len(cells)} cells tagged 'parameters' and needs one; in JupyterLab open the property inspector "
            "(the cogs) of the cell and add the tag"
        )
    found: dict[str, Any] = {}
    for statement in ast.parse(cells[0].source).body:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if len(targets) != 1 or not isinstance(targets[0], ast.Name) or statement.value is None:
            raise OptionError(f"{path.name}: the parameters cell may only assign literals to names (line {statement.lineno})")
        try:
            found[targets[0].id] = ast.literal_eval(statement.value)
        except ValueError:
            raise OptionError(f"{path.name}: the default of {targets[0].id!r} is no literal") from None
    return found


def check_parameters(notebook: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a run, defaults included, as plain JSON values; refuse unknown names."""
    defaults = parameters_of(notebook)
    raise_problems(
        OptionError,
        Path(notebook).name,
        [f"there is no parameter {name!r}{nearest(name, defaults)}" for name in given if name not in defaults],
    )
    return json.loads(json.dumps(defaults | dict(given), default=plain))


def run(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Runs:
    """Run one notebook, or all of a sweep file, in order; a failure is a row, and ends the runs that come after it.

    Parameters
    ----------
    notebook : an ``.ipynb``, or a ``.yaml`` with ``runs: [{notebook, parameters}, ...]`` relative to the file, and
        optionally ``parameters`` for all of them
    parameters : of every notebook of a sweep that has them; of a single notebook all must exist
    out : folder for the executed notebooks; default ``data/runs`` beside the folder of the notebook
    progress : show a progress line

    Returns
    -------
    Runs

    Raises
    ------
    OptionError : unknown notebooks or parameters; nothing was run then
    """
    path = Path(notebook).resolve()
    if path.suffix in (".yaml", ".yml"):
        jobs = _sweep(path, parameters or {})
    else:
        jobs = [(path, check_parameters(path, parameters or {}))]
    folder = Path(out) if out else path.parent.parent / "data" / "runs"
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(jobs), desc=path.stem, unit="notebook", disable=not progress) as bar:
        for source, values in jobs:
            bar.set_postfix_str(source.stem)
            rows.append(_isolated(source, values, folder / source.name, progress))
            bar.update()
            write_json(folder / f"{source.stem}.json", {"parameters": values, **rows[-1]})
            if rows[-1]["status"] == "failed":
                break
    return Runs(pd.DataFrame(rows))


def _sweep(path: Path, parameters: Mapping[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries, common = document["runs"], document.get("parameters") or {}
        listed = [(path.parent / entry["notebook"], entry.get("parameters") or {}) for entry in entries]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise OptionError(f"{path} is no sweep file (runs: [{{notebook: ..., parameters: ...}}]): {error}") from None
    known = {source: parameters_of(source) for source, _ in listed}
    everywhere = {name for names in known.values() for name in names}
    lost = [n for n in {**common, **parameters} if n not in everywhere]
    raise_problems(OptionError, path.name, [f"no notebook has the parameter {n!r}{nearest(n, everywhere)}" for n in lost])
    jobs = []
    for source, own in listed:
        # what the caller gives wins over a run's own entry, and that over the entry for all runs
        shared, last = ({k: v for k, v in group.items() if k in known[source]} for group in (common, parameters))
        jobs.append((source, check_parameters(source, {**shared, **own, **last})))
    return jobs


def _isolated(source: Path, values: dict[str, Any], output: Path, progress: bool) -> dict[str, Any]:
    """Run one notebook in a fresh process, so that its working folder, its kernel and its failure are its own."""
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        row = pool.submit(_execute, str(source), values, str(output.resolve()), progress).result()
    return {"notebook": source.stem, **row, "seconds": time.perf_counter() - started, "output": str(output)}


def _execute(source: str, values: dict[str, Any], output: str, progress: bool) -> dict[str, Any]:
    status: dict[str, Any] = {"status": "done", "cell": "", "error": ""}
    try:
        papermill.execute_notebook(
            source, output, values, kernel_name="python3", cwd=str(Path(source).parent), progress_bar=progress,
            kernel_manager_class=LocalKernelManager, autosave_cell_every=30,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        status = {"status": "failed", "cell": f"In[{error.exec_count}]", "error": f"{error.ename}: {error.evalue}"}
    except DeadKernelError as error:
        status = {"status": "failed", "cell": "", "error": f"the kernel died: {error}"}
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    status["cpu_s"] = sum(u.ru_utime + u.ru_stime for u in usage)
    return status | _published(Path(output))


class LocalKernelManager(AsyncKernelManager):
    """Talks to its kernel over Unix sockets: no ports to collide, and nobody else on the machine can connect."""

    def __init__(self, **options: Any) -> None:
        # a short path: Unix sockets take about 100 characters
        self._folder = tempfile.mkdtemp(prefix="dnns-")
        super().__init__(transport="ipc", connection_file=str(Path(self._folder) / "k.json"), **options)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart)
        if not restart:
            shutil.rmtree(self._folder, ignore_errors=True)

    cleanup_resources = _async_cleanup_resources


def _published(output: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for cell in nbformat.read(output, as_version=4).cells:
        for shown in cell.get("outputs", []):
            results |= shown.get("data", {}).get(MIME, {})
    return results
