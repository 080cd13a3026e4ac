"""Runs jobs in processes of their own, or finds that they need not be run; what becomes of one is a row, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dnnsplit.ground.outputs import writing
from dnnsplit.sweep.jobs import Job
from dnnsplit.sweep.record import finished, read_record

# the end of standard input tells a process to stop, and it may take GRACE_S of `process` for that
PATIENCE_S = 8.0
TICK_S = 1.0
POLL_S = 0.05


@dataclass
class Now:
    """What runs at this moment, as whoever runs it knows.

    Attributes
    ----------
    running : dict[str, str]
        Where each run is that was begun, by name: an address, or "" on this machine.
    workers : int
        How many can run side by side; 0 until a cluster has answered.
    hosts : int | None
        How many workers a cluster has, each with room for some; None on this machine.
    told : Callable[[str], None]
        Takes a line on a run that was done, and is begun again.
    """

    workers: int
    hosts: int | None = None
    running: dict[str, str] = field(default_factory=dict)
    told: Callable[[str], None] = lambda line: None


def side_by_side(jobs: Sequence[Job], now: Now, again: bool = False) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with its row, as they finish; whoever stops to listen ends the runs that are going on.

    Parameters
    ----------
    jobs : Sequence[Job]
        Each after those it needs; a worker that is free takes the first that can be run.
    now : Now
        How many run at a time; what runs is noted in it.
    again : bool, default False
        See `work`.
    """
    rows: dict[str, dict[str, Any]] = {}
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while len(rows) < len(jobs):
            for job in (job for job in jobs if job.name not in rows):
                if job.name in running:
                    if (code := running[job.name].poll()) is None:
                        continue
                    _end(running.pop(job.name))
                    del now.running[job.name]
                    row = _left(job, code)
                elif len(running) == now.workers or not all(name in rows for name in job.needs):
                    continue
                elif (settled := _settled(job, [rows[name] for name in job.needs], again, now.told)) is None:
                    running[job.name] = _start(job)
                    now.running[job.name] = ""
                    continue
                else:
                    row = settled
                rows[job.name] = row
                yield job, row
            if running:
                time.sleep(POLL_S)
    finally:
        _end(*running.values())


def work(
    job: Job, needed: Sequence[Mapping[str, Any]] = (), again: bool = False, told: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Run one job, unless it was finished before or something that it needs failed.

    Parameters
    ----------
    job : Job
        What is run.
    needed : Sequence[Mapping[str, Any]], default ()
        Rows of what it needs.
    again : bool, default False
        Run it even if it was finished before.
    told : Callable[[str], None], optional
        As in `Now`.

    Returns
    -------
    dict[str, Any]
        Run, notebook, status ("done", "kept", "failed" or "blocked"), cell, error, seconds [s], cpu_s [s], output, results.
    """
    if settled := _settled(job, needed, again, told):
        return settled
    process = _start(job)
    try:
        code = process.wait()
    finally:
        _end(process)
    return _left(job, code)


def unfinished(job: Job, status: str, error: str) -> dict[str, Any]:
    """Return the row of a run that left no record."""
    basic = {"run": job.name, "notebook": job.notebook.stem, "status": status, "cell": "", "error": error}
    return {**basic, "seconds": 0.0, "cpu_s": 0.0, "output": str(job.output), "results": {}}


@contextlib.contextmanager
def ticking(tell: Callable[[], Any], seen: bool = True) -> Iterator[None]:
    """Call `tell` now and then every second inside the ``with`` block, so that a clock goes on while a run is waited for.

    Parameters
    ----------
    tell : Callable[[], Any]
        Is called from a thread of its own.
    seen : bool, default True
        False calls it now alone, as for a line that goes to a file.
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


def _settled(job: Job, needed: Sequence[Mapping[str, Any]], again: bool, told: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the row of a job that is not to be run: something that it needs failed, or it was finished before."""
    if lost := [row["run"] for row in needed if row["status"] in ("failed", "blocked")]:
        return unfinished(job, "blocked", f"needs {', '.join(lost)}")
    row, changed = (None, "") if again else finished(job)
    if changed:
        told(f"{job.name} runs again, in the place of what it left: {changed}")
    return row


def _start(job: Job) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dnnsplit.sweep.process"]
    with contextlib.ExitStack() as stack:
        with writing(job.log):
            job.folder.mkdir(parents=True, exist_ok=True)
            job.record.unlink(missing_ok=True)
            log = stack.enter_context(job.log.open("wb"))
        # a session of its own: Ctrl-C reaches the sweep alone, which then lets go of its runs
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    assert process.stdin is not None  # a pipe
    with contextlib.suppress(BrokenPipeError):  # it has died already
        process.stdin.write(job.to_line())
        process.stdin.flush()
    return process


def _left(job: Job, code: int) -> dict[str, Any]:
    """Return the row that a process left, or what is known of one that left none."""
    if record := read_record(job):
        row: dict[str, Any] = record["row"]
        return row
    last = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return unfinished(job, "failed", f"its process ended with {code}; {''.join(last) or 'nothing is in its log'}")


def _end(*processes: subprocess.Popen[bytes]) -> None:
    """Let go of processes: they interrupt their cells and leave no record, or have ended already."""
    for process in processes:
        assert process.stdin is not None  # a pipe
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    for process in processes:
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
