"""Sweeps on Dask: a real scheduler and two real workers, one of which is killed in the middle."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers.notebook_files import notebook

import dnnsplit as ds

NOTE = "import pathlib, time\nwith pathlib.Path(name, str(x)).open('a') as file:\n    file.write('start ')"
WORK = "time.sleep(1.5)\nwith pathlib.Path(name, str(x)).open('a') as file:\n    file.write('end ')"


def start(program, *arguments, **options):
    command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments]
    return subprocess.Popen(command, start_new_session=True, **options)


@pytest.fixture
def scheduler(tmp_path):
    with (tmp_path / "scheduler.log").open("w") as log:
        process = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", stderr=log, stdout=log)
    end = time.monotonic() + 60
    found = None
    while not found and time.monotonic() < end:
        time.sleep(0.2)
        found = re.search(r"Scheduler at:\s+(tcp://\S+)", (tmp_path / "scheduler.log").read_text())
    yield found.group(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def workers(scheduler, tmp_path):
    options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--local-directory", str(tmp_path)]
    processes = []
    for i in range(2):
        with (tmp_path / f"worker{i}.log").open("w") as log:
            processes.append(start("dask_worker", scheduler, "--name", f"w{i}", *options, stdout=log, stderr=log))
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_killed_worker_loses_no_run_and_none_counts_twice(tmp_path, scheduler, workers):
    path, journal, out = notebook(tmp_path / "n.ipynb", NOTE, WORK), tmp_path / "journal", tmp_path / "out"
    journal.mkdir()
    command = [sys.executable, "-m", "dnnsplit", "run", str(path), "-p", f"name={journal}", "-g", "x=1,2,3,4", "-o", str(out)]
    sweep = subprocess.Popen([*command, "--scheduler", scheduler], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while time.monotonic() < end and len(list(journal.iterdir())) < 2:
        time.sleep(0.05)
    os.kill(workers[0].pid, signal.SIGKILL)
    printed, error = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, printed + error

    told = {file.name: file.read_text().split() for file in journal.iterdir()}
    assert set(told) == {"1", "2", "3", "4"}
    assert all(words.count("end") == 1 and words[-1] == "end" for words in told.values()), told  # each was finished once
    assert sum(words.count("start") for words in told.values()) == 5  # the one that the killed worker had was begun again
    runs = ds.run(path, {"name": str(journal)}, out, progress=False, grid={"x": [1, 2, 3, 4]})
    assert list(runs.frame["status"]) == ["kept"] * 4


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_blocks_what_needs_it_and_nothing_else(tmp_path, request, there):
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


def test_a_scheduler_that_is_not_there_is_bad_input(tmp_path):
    path = notebook(tmp_path / "n.ipynb")
    with pytest.raises(ds.OptionError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"):
        ds.run(path, out=tmp_path / "out", progress=False, scheduler="tcp://127.0.0.1:1")
