"""What the progress line says: what is done, what is left, and what runs now, on this machine and on a cluster."""

import time

from helpers.notebook_files import notebook, row_of

from dnnsplit.sweep.jobs import jobs_of
from dnnsplit.sweep.local import Now
from dnnsplit.sweep.run import Runs, _Told


def told(tmp_path, now, done=0):
    jobs = jobs_of(notebook(tmp_path / "n.ipynb"), {}, {"x": [1, 2, 3, 4, 5]}, tmp_path / "out")
    return str(_Told(Runs(jobs, {job.name: row_of(job, seconds=0.0) for job in jobs[:done]}), now))


def test_on_this_machine_it_names_what_runs(tmp_path):
    assert told(tmp_path, Now(1)) == "5 left"
    assert told(tmp_path, Now(1, running={"n,x=1": ""})) == "5 left, now n,x=1"
    assert told(tmp_path, Now(2, running={"n,x=2": "", "n,x=3": ""}), 1) == "1 done, 4 left, about 0 s, now n,x=2, n,x=3"
    assert told(tmp_path, Now(2), 5) == "5 done"


def test_on_a_cluster_it_also_says_on_how_many_workers(tmp_path):
    assert told(tmp_path, Now(0, 0)) == "5 left, no worker yet"
    assert told(tmp_path, Now(1, 1)) == "5 left, none runs on 1 worker"
    running = {f"n,x={x}": "tcp://a" for x in (1, 2, 3, 4)}
    assert told(tmp_path, Now(8, 2, running)) == "5 left, now n,x=1, n,x=2, n,x=3 and 1 more on 2 workers"
    assert told(tmp_path, Now(8, 2, running), 2) == "2 done, 3 left, about 0 s, now n,x=3, n,x=4 on 2 workers"


def test_the_time_left_is_shared_by_the_workers_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    jobs = jobs_of(notebook(tmp_path / "n.ipynb"), {}, {"x": [1, 2, 3, 4, 5]}, tmp_path / "out")
    now = Now(0, 0)
    line = _Told(Runs(jobs, {jobs[0].name: row_of(jobs[0], seconds=10.0)}), now)
    assert str(line) == "1 done, 4 left, no worker yet"
    now.workers, now.hosts = 4, 2
    assert str(line) == "1 done, 4 left, about 10 s, none runs on 2 workers"
