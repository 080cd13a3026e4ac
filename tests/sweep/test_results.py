"""Runs of one sweep or of many are read back as one table."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from helpers.notebook_files import notebook, row_of

import dnnsplit as ds
from dnnsplit.cli.main import main
from dnnsplit.ground.tables import read_table
from dnnsplit.sweep.jobs import jobs_of
from dnnsplit.sweep.record import write_record

FOLDERS = "x: int = 1  # a number\nlink: list = []  # a list\nout: str = ''  # written"


def left(path, sweep, parameters=None, grid=None, results=None, **told):
    """Leave what runs leave, without the seconds that kernels take."""
    jobs = jobs_of(path, parameters or {}, grid or {}, sweep)
    for i, job in enumerate(jobs):
        job.folder.mkdir(parents=True)
        job.output.write_text("{}")
        job.log.write_text("")
        write_record(job, row_of(job, results=results[i] if results else {}, **told), [], [])
    return jobs


@pytest.fixture
def path(tmp_path):
    return notebook(tmp_path / "n.ipynb", parameters=FOLDERS)


def test_a_row_per_run_with_what_differs_and_what_was_published(tmp_path, path):
    published = [{"latency_s": 0.25, "best": "edge"}, {"latency_s": np.inf}]
    left(path, tmp_path / "runs", {"link": ["a", "b"]}, {"x": [2, 10]}, published)
    frame = ds.results(tmp_path / "runs")
    assert list(frame) == [
        "sweep", "run", "notebook", "status", "cell", "error", "seconds", "cpu_s", "output", "p.x", "p.link", "latency_s", "best",
    ]  # fmt: skip
    frame = frame.sort_values("p.x")
    assert frame["run"].to_list() == ["n,link=[a+b],x=2", "n,link=[a+b],x=10"]
    assert (frame["sweep"].unique(), frame["status"].unique(), frame["notebook"].unique()) == ("runs", "done", "n")
    assert frame["p.x"].dtype == int
    assert frame["latency_s"].dtype == frame["seconds"].dtype == float
    assert frame["latency_s"].to_list() == [0.25, np.inf]
    assert frame["best"].to_list()[0] == "edge"
    assert pd.isna(frame["best"].to_list()[1])
    assert frame["output"].to_list()[0] == str(tmp_path / "runs" / "n,link=[a+b],x=2" / "n.ipynb")


def test_several_sweeps_are_one_table_in_which_a_run_is_once(tmp_path, path):
    other = notebook(tmp_path / "m.ipynb", parameters="y = 3  # a number")
    left(path, tmp_path / "one", {"x": 1}, results=[{"a": 1}])
    left(path, tmp_path / "two", {"x": 2, "link": ["a"]}, results=[{"b": 2.5}])
    left(other, tmp_path / "three", results=[{"b": 3.5}])
    frame = ds.results([tmp_path / "one", str(tmp_path / "two"), tmp_path / "three", tmp_path / "one" / "n,x=1"])
    assert frame["sweep"].to_list() == ["one", "two", "three"]
    assert frame["p.x"].to_list()[:2] == [1, 2]
    assert frame["p.link"].to_list()[:2] == ["[]", '["a"]']
    assert frame[["p.x", "p.link"]].iloc[2].isna().all()
    assert frame["p.y"].to_list()[2] == 3
    assert "p.out" not in frame
    assert frame["b"].to_list()[1:] == [2.5, 3.5]
    assert np.isnan(frame["b"][0])
    (alone,) = ds.results(tmp_path / "one" / "n,x=1").to_dict("records")
    assert (alone["sweep"], alone["run"], alone["p.x"], alone["a"]) == ("one", "n,x=1", 1, 1)


def test_failed_and_unfinished_runs_are_rows_too(tmp_path, path):
    left(path, tmp_path / "runs", {"x": 1}, status="failed", cell="In[2]", error="ValueError: no luck")
    begun = tmp_path / "runs" / "n,x=2"
    begun.mkdir()
    (begun / "run.log").touch()
    frame = ds.results(tmp_path / "runs").set_index("run")
    assert frame["status"].to_dict() == {"n,x=1": "failed", "n,x=2": "unfinished"}
    assert frame["error"].to_dict() == {"n,x=1": "ValueError: no luck", "n,x=2": ""}
    assert np.isnan(frame.loc["n,x=2", "seconds"])


def test_what_is_no_record_is_refused_all_at_once(tmp_path, path):
    jobs = left(path, tmp_path / "runs", grid={"x": [1, 2, 3, 4]})
    jobs[0].record.write_text(jobs[0].record.read_text()[:100])
    jobs[1].record.write_text('{"run": "of somebody else"}')
    record = json.loads(jobs[2].record.read_text())
    jobs[2].record.write_text(json.dumps(record | {"row": record["row"] | {"seconds": "long"}}))
    with pytest.raises(ds.OptionError) as refused:
        ds.results([tmp_path / "runs", tmp_path / "none"])
    told = str(refused.value)
    assert told.startswith("results: ")
    assert "n,x=1/run.json is no record of a run by this version of dnnsplit: it is no JSON from line" in told
    assert "n,x=2/run.json is no record of a run by this version of dnnsplit" in told
    assert "the key 'run' is unknown" in told
    assert "row.seconds is 'long'" in told
    assert f"there is no folder {tmp_path / 'none'}" in told
    assert "n,x=4" not in told


def test_what_is_no_run_is_told_but_not_what_runs_wrote(tmp_path, path):
    (job,) = left(path, tmp_path / "runs", {"x": 1, "out": "{sweep}"})
    (tmp_path / "runs" / "plans").mkdir()
    (tmp_path / "runs" / "plans" / "n.json").write_text("{}")
    write_record(job, row_of(job), [], [str(tmp_path / "runs" / "plans" / "n.json")])
    (tmp_path / "runs" / "n.csv").write_text("run,notebook,status,cell\n")
    (tmp_path / "runs" / ".hidden").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ds.results(tmp_path / "runs")) == 1
    (tmp_path / "runs" / "notes.csv").write_text("a,b\n")
    (tmp_path / "runs" / "empty").mkdir()
    with pytest.warns(UserWarning, match=r"left out, for they are no runs: \S+/empty, \S+/notes.csv$"):
        assert len(ds.results(tmp_path / "runs")) == 1


def test_a_folder_of_sweeps_says_so(tmp_path, path):
    left(path, tmp_path / "runs" / "one", {"x": 1})
    with pytest.raises(ds.OptionError, match=r"runs holds folders of sweeps; give \S+/runs/one"):
        ds.results(tmp_path / "runs")
    with pytest.raises(ds.OptionError, match="folders is the list \\[\\]; give"):
        ds.results([])


def test_no_published_name_takes_the_place_of_a_column():
    with pytest.raises(ds.OptionError, match="publish: 'status' is a column of every table of runs; call it otherwise"):
        ds.publish(status="good", latency_s=1)


def test_the_command_line_prints_the_table_and_writes_it_whole(tmp_path, path, capsys):
    left(path, tmp_path / "one", {"x": 1}, results=[{"latency_s": 0.25}])
    left(path, tmp_path / "two", {"x": 2}, results=[{"latency_s": 0.5}])
    (tmp_path / "two" / "notes.txt").touch()
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["results", *folders, "-o", str(tmp_path / "all.csv")]) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == ["sweep", "run", "status", "error", "p.x", "latency_s", "one", "n,x=1", "done", "1", "0.25",
                                   "two", "n,x=2", "done", "2", "0.5"]  # fmt: skip
    assert printed.err == f"dnnsplit: left out, for it is no run: {tmp_path / 'two' / 'notes.txt'}\n"
    table = read_table(tmp_path / "all.csv")
    assert table["sweep"].to_list() == ["one", "two"]
    assert table["latency_s"].to_list() == [0.25, 0.5]
    assert main(["results", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
