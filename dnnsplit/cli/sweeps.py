"""The commands of sweeps: `run` notebooks, and the table of the `results` of earlier runs."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from pathlib import Path

import dnnsplit as ds
from dnnsplit.cli.assignments import assignments, grids
from dnnsplit.cli.models import argument, tell
from dnnsplit.ground.outputs import keep, shown

WHY = {"failed": "has failed", "blocked": "needs one that failed"}
KEPT = "what is finished is kept: the same command goes on from there"
RUN = (
    argument("notebook", type=Path, help=".ipynb or .yaml"),
    argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="a parameter (repeatable)"),
    argument("-g", dest="grid", action="append", default=[], metavar="NAME=V1,V2,...",
             help="values of a parameter; every combination is a run (repeatable)"),
    argument("-o", "--out", type=Path, writes="folder",
             help="folder of the table and of the runs, each with a folder of its own (default: data/runs/NAME, here)"),
    argument("-w", "--workers", type=int, default=1, help="runs side by side; more than 1 distorts measured times (default: 1)"),
    argument("--scheduler", metavar="ADDRESS", help="run on the workers of a Dask scheduler, such as tcp://host:8786"),
    argument("--again", action="store_true", help="run everything, also what is finished"),
    argument("--report", type=Path, writes="file", help="write the last executed notebook as one HTML page"),
)  # fmt: skip
RESULTS = (
    argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of a sweep, such as data/runs/04-split, or of a run"),
    argument("-o", "--out", type=Path, writes="file", help="write the whole table here as CSV"),
)


def run(options: argparse.Namespace) -> int:
    """Run notebooks, print what became of them."""
    parameters, grid = assignments(options.parameters), grids(options.grid)
    try:
        runs = ds.run(
            options.notebook, parameters, options.out, grid=grid, workers=options.workers, scheduler=options.scheduler,
            again=options.again,
        )  # fmt: skip
    except KeyboardInterrupt as error:
        error.add_note(KEPT)
        raise
    columns = ["run", "status", "seconds", "cpu_s", "cell", "error"]
    columns[1:1] = [name for name in map(str, runs.frame) if name.startswith("p.")]
    print(runs.frame[columns].to_string(index=False, float_format="{:.4g}".format))
    if any(row["results"] for row in runs.rows.values()):
        tell(f"what they published: dnnsplit results {shlex.quote(shown(runs.jobs[0].folder.parent))}")
    last = runs.frame.iloc[-1]
    if options.report and last["status"] in ("done", "kept"):
        from dnnsplit.sweep.report import write_report

        print(write_report(last["output"], options.report, runs=runs))
    elif options.report:
        tell(f"{options.report} is not written: it would be of {last['run']}, the last run, which {WHY[last['status']]}")
    for row in runs.failed.itertuples():
        if row.status == "failed":
            print(f"dnnsplit: {row.run} failed; see {row.output} and run.log beside it", file=sys.stderr)
    return 1 if len(runs.failed) else 0


def results(options: argparse.Namespace) -> int:
    """Print the parameters that differ between runs and their results, and write all that is known of them."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        table = ds.results(options.folders)
    tell(*(str(one.message) for one in found))
    if options.out:
        from dnnsplit.ground.files import write_text

        keep(options.out, lambda path: write_text(path, table.to_csv(index=False)))
    alike = [name for name in table.filter(like="p.").columns if table[name].nunique(dropna=False) == 1]
    told = table.drop(columns=["notebook", "cell", "seconds", "cpu_s", "output", *alike])
    print(told.to_string(index=False, float_format="{:.4g}".format))
    return 0
