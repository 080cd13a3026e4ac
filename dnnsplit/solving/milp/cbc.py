"""CBC through PuLP, in a folder of its own and ended with whoever waits for it."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pulp
from pulp.apis.coin_api import pulp_cbc_path

MODEL, SOLUTION = "model.mps", "solution.txt"


class Cbc(pulp.COIN_CMD):
    """PuLP's interface to the CBC that it brings along; `log` has what CBC printed, where alone its bound is told.

    PuLP cuts its command line at spaces, in the names of temporary folders too; it leaves files behind when CBC fails, and a CBC
    that runs on when it is interrupted.

    Parameters
    ----------
    **options : Any
        As `pulp.COIN_CMD` takes them.
    """

    log = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(path=pulp_cbc_path, **options)

    def solve_CBC(self, lp: pulp.LpProblem, use_mps: bool = True) -> int:
        """Solve a programme; return its status."""
        limit = [] if self.timeLimit is None else ["-sec", str(self.timeLimit)]
        options = [word for option in self.getOptions() for word in f"-{option}".split()]
        command = [self.path, MODEL, *limit, *options, "-solve", "-printingOptions", "all", "-solution", SOLUTION]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            variables, names, rows, _ = lp.writeMPS(str(folder / MODEL), rename=True)
            # in the folder, so that its own name is no part of the command; `run` kills a process that it stops to wait for
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
            self.log = done.stdout.decode(errors="replace")
            if done.returncode or not (folder / SOLUTION).exists():
                message = f"CBC ended with {done.returncode}: {self.log[-300:].strip() or 'it printed nothing'}"
                raise pulp.PulpSolverError(message)
            status, found, reduced, prices, slacks, quality = self.readsol_MPS(str(folder / SOLUTION), lp, variables, names, rows)
        lp.assignVarsVals(found)
        lp.assignVarsDj(reduced)
        lp.assignConsPi(prices)
        lp.assignConsSlack(slacks, activity=True)
        lp.assignStatus(status, quality)
        return int(status)
