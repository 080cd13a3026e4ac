"""Runs a job in a process of its own, or finds that it need not be run; what becomes of it is a row, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dnnsplit.sweep.jobs import Job
from dnnsplit.sweep.record import finished, read_record

# the end of standard input tells a process to stop, and it may take GRACE_S of `execution` for that
PATIENCE_S = 8.0
TICK_S = 1.0

_running: dict[int, subprocess.Popen[bytes]] = {}
stopping = threading.Event()


def work(job: Job, needed: Sequence[Mapping[str, Any]] = (), again: bool = False) -> dict[str, Any]:
    """Run one job, unless it was finished before or something that it needs failed.

    Parameters
    ----------
    job : what is run
    needed : rows of what it needs
    again : run it even if it was finished before

    Returns
    -------
    dict : run, notebook, status ("done", "kept", "failed" or "blocked"), cell, error, seconds [s], cpu_s [s], output, results
    """
    basic = {"run": job.name, "notebook": job.notebook.stem, "cell": "", "error": "", "output": str(job.output), "results": {}}
    lost = [row["run"] for row in needed if row["status"] in ("failed", "blocked")]
    if lost:
        return {**basic, "status": "blocked", "error": f"needs {', '.join(lost)}", "seconds": 0.0, "cpu_s": 0.0}
    if not again and (row := finished(job)):
        return row
    job.folder.mkdir(parents=True, exist_ok=True)
    job.record.unlink(missing_ok=True)
    code = _process(job)
    if record := read_record(job):
        return record["row"]
    last = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    error = f"its process ended with {code}; {''.join(last) or 'nothing is in its log'}"
    return {**basic, "status": "failed", "error": error, "seconds": 0.0, "cpu_s": 0.0}


def stop() -> None:
    """End the runs of this process: their cells are interrupted, and no record is left of them."""
    stopping.set()
    for process in list(_running.values()):
        _end(process)


@contextlib.contextmanager
def ticking(tell: Callable[[], Any], seen: bool = True) -> Iterator[None]:
    """Call `tell` now and then every second inside the ``with`` block, so that a clock goes on while a run is waited for.

    Parameters
    ----------
    tell : is called from a thread of its own
    seen : False calls it now alone, as for a line that goes to a file
    """
    over = threading.Event()

    def tick() -> None:
        while not over.wait(TICK_S):
            tell()

    thread = threading.Thread(target=tick, daemon=True)
    tell()
    if seen:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if seen:
            thread.join()


def _process(job: Job) -> int:
    if stopping.is_set():
        return -signal.SIGTERM
    with job.log.open("wb") as log:
        # a session of its own: Ctrl-C reaches the sweep alone, which then lets go of its runs
        command = [sys.executable, "-m", "dnnsplit.sweep.process"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
        _running[process.pid] = process
        try:
            process.stdin.write(job.to_line())
            process.stdin.flush()
            return process.wait()
        except BrokenPipeError:
            return process.wait()
        finally:
            _end(process)
            _running.pop(process.pid, None)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
