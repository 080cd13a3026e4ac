"""Sweeps on Dask: a real scheduler and two real workers, one of which is killed in the middle."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios
import threading

import psutil
import pytest
from helpers.notebook_files import notebook
from helpers.processes import is_running, started, wait_until

import dnnsplit as ds

NOTE = "import pathlib, time\nwith pathlib.Path(name, str(x)).open('a') as file:\n    file.write('start ')"
WAIT = "while not pathlib.Path(name, 'go').exists():\n    time.sleep(0.05)"
DONE = "with pathlib.Path(name, str(x)).open('a') as file:\n    file.write('end ')"


def dask(program, log, *arguments):
    return started(sys.executable, "-m", f"distributed.cli.dask_{program}", "--no-dashboard", *arguments, stdout=log, stderr=log)


@pytest.fixture
def scheduler(tmp_path):
    path = tmp_path / "scheduler.log"
    with path.open("w") as log, dask("scheduler", log, "--host", "127.0.0.1", "--port", "0"):
        yield wait_until(lambda: re.search(r"Scheduler at:\s+(tcp://\S+)", path.read_text()), otherwise=path.read_text)[1]


@pytest.fixture
def workers(scheduler, tmp_path):
    options = ["--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", tmp_path]
    with (
        (tmp_path / "workers.log").open("w") as log,
        dask("worker", log, scheduler, "--name", "w0", *options) as first,
        dask("worker", log, scheduler, "--name", "w1", *options) as second,
    ):
        yield first, second


@contextlib.contextmanager
def terminal():
    """The end of a wide terminal that a program writes to, and what it has shown there so far."""
    shown, (ours, theirs) = bytearray(), pty.openpty()
    termios.tcsetwinsize(theirs, (24, 200))

    def listen():
        with contextlib.suppress(OSError):  # whoever wrote has ended
            while text := os.read(ours, 4096):
                shown.extend(text)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield theirs, lambda: shown.decode(errors="replace")
    finally:
        os.close(theirs)
        thread.join()
        os.close(ours)


def test_a_killed_worker_loses_no_run_and_none_counts_twice(tmp_path, scheduler, workers):
    path, journal, out = notebook(tmp_path / "n.ipynb", NOTE, WAIT, DONE), tmp_path / "journal", tmp_path / "out"
    journal.mkdir()
    command = [sys.executable, "-m", "dnnsplit", "run", path, "-p", f"name={journal}", "-g", "x=1,2,3,4", "-o", out]
    with (
        terminal() as (stderr, shown),
        started(*command, "--scheduler", scheduler, stdout=subprocess.PIPE, stderr=stderr) as sweep,
    ):
        wait_until(lambda: len(list(journal.iterdir())) == 2)  # one on each worker, and neither can end
        both = r"n: 4 left, now n,name=\S+,x=\d, n,name=\S+,x=\d on 2 workers"
        wait_until(lambda: re.search(both, shown()), otherwise=shown)  # the progress line ticks
        lost = [child.pid for child in psutil.Process(workers[0].pid).children(recursive=True)]
        assert lost
        workers[0].kill()
        wait_until(lambda: not any(map(is_running, lost)))  # a run ends with its worker
        wait_until(lambda: re.search(r"n: 4 left, now n,name=\S+,x=\d on 1 worker ", shown()), otherwise=shown)
        (journal / "go").touch()
        printed = sweep.communicate(timeout=120)[0]
        assert sweep.returncode == 0, printed + shown()

    told = {x: (journal / x).read_text().split() for x in "1234"}
    ends = {1: ["start", "end"], 2: ["start", "start", "end"]}  # one was begun again: the one that the killed worker had
    assert all(words == ends[words.count("start")] for words in told.values()), told  # each was finished once
    assert sum(words.count("start") for words in told.values()) == 5
    runs = ds.run(path, {"name": str(journal)}, out, progress=False, grid={"x": [1, 2, 3, 4]})
    assert list(runs.frame["status"]) == ["kept"] * 4


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_blocks_what_needs_it_and_nothing_else(tmp_path, request, capfd, there):
    """On the workers of a scheduler, and side by side on this machine."""
    where = {"scheduler": request.getfixturevalue("scheduler")} if there else {"workers": 2}
    if there:
        request.getfixturevalue("workers")
    notebook(tmp_path / "bad.ipynb", "raise ValueError('no luck')")
    notebook(tmp_path / "good.ipynb", "y = 1")
    (tmp_path / "all.yaml").write_text(
        "runs: [{notebook: bad.ipynb}, {notebook: good.ipynb}, {notebook: good.ipynb, name: after, needs: [bad, good]}]"
    )
    frame = ds.run(tmp_path / "all.yaml", out=tmp_path / "out", progress=False, **where).frame.set_index("run")
    assert frame["status"].to_dict() == {"bad": "failed", "good": "done", "after": "blocked"}
    assert frame.loc["after", "error"] == "needs bad"
    notebook(tmp_path / "good.ipynb", "y = 2")
    ds.run(tmp_path / "all.yaml", out=tmp_path / "out", **where)
    assert "good runs again, in the place of what it left: the notebook has changed\n" in capfd.readouterr().err


def test_a_scheduler_that_is_not_there_is_bad_input(tmp_path):
    path = notebook(tmp_path / "n.ipynb")
    with pytest.raises(ds.OptionError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        ds.run(path, out=tmp_path / "out", progress=False, scheduler="tcp://127.0.0.1:1")
