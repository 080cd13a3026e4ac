"""The notebook runner: parameters, grids, isolation, failures, published results, resuming, and the report."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.notebook_files import PARAMETERS, notebook, row_of
from helpers.processes import is_running, started, wait_until

import dnnsplit as ds
from dnnsplit.cli.assignments import assignments, grids
from dnnsplit.cli.main import main
from dnnsplit.ground.huge_pages import in_huge_pages
from dnnsplit.sweep import local
from dnnsplit.sweep.jobs import Job, jobs_of, points
from dnnsplit.sweep.notebook import check_parameters, parameters_of
from dnnsplit.sweep.report import write_report


def sweep_file(folder, *runs, **common):
    path = folder / "all.yaml"
    path.write_text(yaml.safe_dump({"parameters": common, "runs": list(runs)}))
    return path


class TestParameters:
    def test_they_and_their_defaults_are_read(self, tmp_path):
        assert parameters_of(notebook(tmp_path / "n.ipynb")) == {"x": 2, "name": "a", "limits": [0.1, 0.2], "nothing": None}

    def test_annotations_and_equal_signs_are_no_trouble(self, tmp_path):
        path = notebook(
            tmp_path / "n.ipynb", parameters="x: float | None = None  # a = b\ntext = 'a=b'  # c\npair = (1, -2)  # d"
        )
        assert parameters_of(path) == {"x": None, "text": "a=b", "pair": (1, -2)}
        assert check_parameters(path, {})["pair"] == [1, -2]

    def test_given_values_become_plain_and_defaults_are_kept(self, tmp_path):
        path = notebook(tmp_path / "n.ipynb")
        values = check_parameters(path, {"x": np.float64(3.5), "limits": (1, np.int64(2)), "name": tmp_path})
        assert values == {"x": 3.5, "limits": [1, 2], "name": str(tmp_path), "nothing": None}

    @pytest.mark.parametrize(
        ("parameters", "given", "text"),
        [
            (PARAMETERS, {"nmae": 1}, "there is no parameter 'nmae' \\(did you mean 'name'"),
            (PARAMETERS, {"x": object()}, "parameter 'x': object has no JSON form; give numbers"),
            ("x = 1 + y", {}, "the default of 'x' is no literal"),
            ("import os", {}, "may only assign literals"),
            ("x = (", {}, "is no Python"),
        ],
    )
    def test_wrong_ones_are_refused_before_anything_runs(self, tmp_path, parameters, given, text):
        path = notebook(tmp_path / "n.ipynb", parameters=parameters)
        with pytest.raises(ds.OptionError, match=text):
            ds.run(path, given, tmp_path / "out", progress=False)
        assert not (tmp_path / "out").exists()

    def test_the_command_line_writes_literals_and_texts(self):
        assert assignments(["x=0.5", "name=device-edge", "pair=(1, 'b=c')", "none=None"]) == {
            "x": 0.5, "name": "device-edge", "pair": (1, "b=c"), "none": None,
        }  # fmt: skip
        found = grids(["x=0.1,0.2", "name=device,device-edge", "link=['a','b'],['a','c']", "x=3"])
        assert found == {"x": [0.1, 0.2, 3], "name": ["device", "device-edge"], "link": [["a", "b"], ["a", "c"]]}
        with pytest.raises(ds.OptionError, match="'x' is not NAME=VALUE"):
            assignments(["x"])
        with pytest.raises(ds.OptionError, match="a value is missing"):
            grids(["x=1,,2"])

    def test_a_grid_is_a_product(self):
        assert list(points({"a": [1, 2], "b": ["x", "y"]})) == [
            {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
        ]  # fmt: skip
        assert list(points({})) == [{}]
        with pytest.raises(ds.OptionError, match="the grid of 'a' is 3; give a list"):
            points({"a": 3})


class TestJobs:
    def test_wrong_files_are_refused(self, tmp_path):
        with pytest.raises(ds.OptionError, match="there is no notebook"):
            ds.run(tmp_path / "none.ipynb", progress=False)
        with pytest.raises(ds.OptionError, match="there is no sweep file"):
            ds.run(tmp_path / "none.yaml", progress=False)
        (tmp_path / "bad.ipynb").write_text("no json")
        with pytest.raises(ds.OptionError, match="is no notebook"):
            ds.run(tmp_path / "bad.ipynb", progress=False)
        plain = notebook(tmp_path / "n.ipynb")
        document = nbformat.read(plain, 4)
        document.cells[0].metadata["tags"] = []
        nbformat.write(document, plain)
        with pytest.raises(ds.OptionError, match="0 cells tagged 'parameters'"):
            ds.run(plain, progress=False)
        (tmp_path / "bad.yaml").write_text("runs: 3")
        with pytest.raises(ds.OptionError, match="is no sweep file"):
            ds.run(tmp_path / "bad.yaml", progress=False)

    @pytest.mark.parametrize(
        ("run", "text"),
        [
            ({"notebook": "n.ipynb", "parameter": {}}, "the key 'parameter' is unknown \\(did you mean 'parameters'"),
            ({"notebook": "n.ipynb", "needs": "m"}, "needs is 'm': Expected `array | null`"),
            ({"notebook": "n.ipynb", "needs": ["m"]}, "n needs 'm', which does not come before it"),
            ({"notebook": "n.ipynb", "parameters": {"y": 1}}, "there is no parameter 'y'"),
            ({"notebook": "m.ipynb"}, "there is no notebook"),
        ],
    )
    def test_wrong_entries_are_refused(self, tmp_path, run, text):
        notebook(tmp_path / "n.ipynb")
        with pytest.raises(ds.OptionError, match=text):
            ds.run(sweep_file(tmp_path, run), progress=False)

    def test_parameters_and_grids_go_where_they_are_known(self, tmp_path):
        notebook(tmp_path / "n.ipynb")
        notebook(tmp_path / "m.ipynb", parameters="y = 1  # a number")
        path = sweep_file(
            tmp_path,
            {"notebook": "n.ipynb", "grid": {"x": [1, 2]}, "parameters": {"name": "b"}},
            {"notebook": "m.ipynb", "needs": ["n"]},
            {"notebook": "n.ipynb", "name": "last"},
            name="all",
        )
        first, second, third, last = jobs_of(path, {"y": 5}, {}, tmp_path)
        assert [first.parameters["x"], second.parameters["x"]] == [1, 2]
        assert first.parameters["name"] == "b"
        assert (first.name, second.name) == ("n,x=1", "n,x=2")
        assert third.needs == (first.name, second.name)
        assert third.parameters == {"y": 5}
        assert last.parameters["name"] == "all"
        # the caller's value takes the place of the file's grid, and the caller's grid of the file's value
        assert len(jobs_of(path, {"x": 3}, {}, tmp_path)) == 3
        assert len(jobs_of(path, {}, {"x": [3, 4, 5], "y": [1, 2]}, tmp_path)) == 3 + 2 + 3
        with pytest.raises(ds.OptionError, match="no notebook has the parameter 'z'"):
            jobs_of(path, {"z": 1}, {}, tmp_path)
        with pytest.raises(ds.OptionError, match="two runs are called 'n'"):
            jobs_of(sweep_file(tmp_path, {"notebook": "n.ipynb"}, {"notebook": "n.ipynb"}), {}, {}, tmp_path)

    def test_a_job_survives_the_way_to_its_process(self, tmp_path):
        job = Job("n", tmp_path / "n.ipynb", {"x": [1, None, "ä"]}, tmp_path, ("a",))
        assert Job.from_line(job.to_line()) == job


def test_a_sweep_isolates_failures_publishes_and_runs_nothing_twice(tmp_path, capfd):
    folder, out = tmp_path / "notebooks", tmp_path / "out"
    publish = "ds.publish(value=x * 2, folder=os.path.basename(os.getcwd()), memory=os.environ['GLIBC_TUNABLES'])"
    notebook(folder / "one.ipynb", "import os\nimport dnnsplit as ds", "print('here I am')", publish)
    notebook(folder / "two.ipynb", "y = 1", "raise ValueError('no luck')")
    notebook(folder / "three.ipynb", "y = 1")
    path = sweep_file(
        folder,
        {"notebook": "one.ipynb", "parameters": {"x": 21}},
        {"notebook": "two.ipynb", "needs": ["one"]},
        {"notebook": "three.ipynb", "needs": ["two"]},
        {"notebook": "three.ipynb", "name": "four"},
        name="all",
    )
    runs = ds.run(path, out=out)
    frame = runs.frame.set_index("run")
    assert frame["status"].to_dict() == {"one": "done", "two": "failed", "three": "blocked", "four": "done"}
    assert frame.loc["one", "value"] == 42
    assert frame.loc["one", "folder"] == "notebooks"
    assert in_huge_pages({"GLIBC_TUNABLES": frame.loc["one", "memory"]})  # what it measures is the same in the next kernel
    assert frame.loc["two", "cell"] == "In[4]"  # parameters, injected parameters, y = 1, and then it
    assert frame.loc["two", "error"] == "ValueError: no luck"
    assert frame.loc["three", "error"] == "needs two"
    assert list(runs.failed["run"]) == ["two", "three"]
    assert "here I am" in (out / "one" / "run.log").read_text()
    progress = capfd.readouterr().err
    assert "2 done, 1 failed, 1 blocked" in progress
    assert "TCP" not in progress + (out / "one" / "run.log").read_text()  # kernels talk over Unix sockets, without a warning
    table = pd.read_csv(out / "all.csv")
    assert list(table["run"]) == list(frame.index)
    record = json.loads((out / "one" / "run.json").read_text())
    assert record["parameters"] == {"x": 21, "name": "all", "limits": [0.1, 0.2], "nothing": None}
    assert {"python", "dnnsplit", "onnxruntime"} <= set(record["versions"])

    again = ds.run(path, out=out, progress=False).frame.set_index("run")
    assert again["status"].to_dict() == {"one": "kept", "two": "failed", "three": "blocked", "four": "kept"}
    assert again.loc["one", "value"] == 42
    page = write_report(out / "one" / "one.ipynb", tmp_path / "report.html", runs=runs).read_text()
    assert "value: 42" in page
    assert "os.path.basename" not in page


READS = (
    "from pathlib import Path\nimport helper\nimport pandas as pd",
    "value = pd.read_csv('data.csv')['a'].sum() * helper.FACTOR",
    "Path('sum.txt').write_text(str(value))",
)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("parameter", "x was 2"), ("notebook", "the notebook has changed"), ("input", "data.csv has changed"),
        ("module", "helper.py has changed"), ("changed output", "sum.txt has changed"), ("lost output", "sum.txt is gone"),
        ("lost notebook", "n.ipynb is gone"),
    ],
)  # fmt: skip
def test_a_run_is_repeated_when_something_it_depends_on_changes(tmp_path, change, why):
    path = notebook(tmp_path / "n.ipynb", *READS)
    (tmp_path / "data.csv").write_text("a\n1\n2\n")
    (tmp_path / "helper.py").write_text("FACTOR = 2\n")
    out = tmp_path / "out"
    job = jobs_of(path, {}, {}, out)[0]
    if change == "parameter":
        (row,) = ds.run(path, out=out, progress=False).rows.values()
        assert row["status"] == "done", row
        record = json.loads(job.record.read_text())
        assert set(record["outputs"]) == {"sum.txt"}
        assert {"data.csv", "helper.py"} <= set(record["inputs"])
        assert not [name for name in record["inputs"] if "site-packages" in name or name.endswith("n.ipynb")]
    else:  # what such a run leaves, without the seconds that a kernel takes
        from dnnsplit.sweep.record import write_record

        (tmp_path / "sum.txt").write_text("6")
        job.folder.mkdir(parents=True)
        job.output.write_text("{}")
        write_record(job, row_of(job), [str(tmp_path / n) for n in ("data.csv", "helper.py")], [str(tmp_path / "sum.txt")])

    from dnnsplit.sweep.record import finished

    assert finished(job)[0]["status"] == "kept"
    if change == "parameter":
        job = replace(job, parameters={**job.parameters, "x": 3})
    elif change == "notebook":
        notebook(path, *READS, "value")
    elif change == "input":
        (tmp_path / "data.csv").write_text("a\n1\n3\n")
    elif change == "module":
        (tmp_path / "helper.py").write_text("FACTOR = 3\n")
    elif change == "changed output":
        (tmp_path / "sum.txt").write_text("7")
    else:
        {"lost output": tmp_path / "sum.txt", "lost notebook": job.output}[change].unlink()
    assert finished(job) == (None, why)


def test_what_takes_the_place_of_a_finished_run_is_told_and_so_is_a_page_that_is_not_made(tmp_path, capfd):
    notebook(tmp_path / "n.ipynb", "import dnnsplit as ds\nds.publish(y=1 / (x - 2))")
    page = tmp_path / "page.html"
    command = ["run", str(sweep_file(tmp_path, {"notebook": "n.ipynb"}, x=1)), "-o", str(tmp_path / "a b"), "--report", str(page)]
    assert main(command) == 0
    assert f"\ndnnsplit: what they published: dnnsplit results '{tmp_path / 'a b'}'\n" in capfd.readouterr().err
    page.unlink()
    sweep_file(tmp_path, {"notebook": "n.ipynb"}, x=2)
    assert main(command) == 1
    told = capfd.readouterr().err
    assert "n runs again, in the place of what it left: x was 1\n" in told
    assert f"dnnsplit: {page} is not written: it would be of n, the last run, which has failed\n" in told
    assert not page.exists()


def test_all_that_is_wrong_with_a_sweep_file_is_told_at_once(tmp_path):
    notebook(tmp_path / "n.ipynb")
    runs = [
        {"notebook": "n.ipynb", "grid": {"nmae": [1]}, "needs": ["m"]}, {"notebook": "none.ipynb"},
        {"notebook": "n.ipynb", "parameters": {"X": 1, "namee": 2}},
    ]  # fmt: skip
    with pytest.raises(ds.OptionError) as error:
        ds.run(sweep_file(tmp_path, *runs), out=tmp_path / "out")
    assert str(error.value).splitlines() == [
        "all.yaml: 6 problems",
        f"  * there is no notebook {tmp_path / 'none.ipynb'}",
        "  * n needs 'm', which does not come before it",
        "  * n.ipynb: there is no parameter 'nmae' (did you mean 'name'?)",
        "  * two runs are called 'n'; give one of them another name",
        "  * n.ipynb: there is no parameter 'X' (did you mean 'x'?)",
        "  * n.ipynb: there is no parameter 'namee' (did you mean 'name'?)",
    ]
    runs = [{"notebook": "n.ipynb"}]
    with pytest.raises(ds.OptionError, match="no notebook has the parameter 'zzz' \\(there is: 'x', 'name', 'limits', 'nothing'"):
        ds.run(sweep_file(tmp_path, *runs, zzz=1), out=tmp_path / "out")


def test_a_grid_is_one_table_and_grows(tmp_path):
    path = notebook(tmp_path / "n.ipynb", "import dnnsplit as ds\nds.publish(double=2 * x)")
    frame = ds.run(path, {"name": "b"}, tmp_path / "out", progress=False, grid={"x": [1, 2]}).frame
    assert list(frame["p.x"]) == [1, 2]
    assert list(frame["double"]) == [2, 4]
    runs = ds.run(path, {"name": "b"}, tmp_path / "out", progress=False, grid={"x": [2, 3]}, workers=2)
    assert repr(runs) == "Runs(2 runs: 1 done, 1 kept)"
    assert ">6</td>" in runs._repr_html_()
    frame = runs.frame
    assert list(frame["status"]) == ["kept", "done"]
    assert list(frame["double"]) == [4, 6]


@pytest.mark.parametrize("seen", [True, False])
def test_the_progress_line_ticks_where_it_is_seen_until_the_end(monkeypatch, seen):
    monkeypatch.setattr(local, "TICK_S", 0.001)
    calls, often = [], threading.Event()

    def tell():
        calls.append(threading.current_thread())
        if len(calls) == 3:
            often.set()

    with local.ticking(tell, seen):
        assert calls[0] == threading.main_thread()  # at once
        if seen:
            assert often.wait(60)
    told = len(calls)
    assert seen == (told >= 3)
    assert not [thread for thread in calls[1:] if thread.is_alive()]  # so that nothing is told any more


def test_a_dead_kernel_is_a_row_too(tmp_path):
    path = notebook(tmp_path / "notebooks" / "dies.ipynb", "import os\nos._exit(3)")
    frame = ds.run(path, out=tmp_path / "out", progress=False).frame
    assert list(frame["status"]) == ["failed"]
    assert "the kernel died" in frame["error"][0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_leaves_no_process_and_goes_on_later(tmp_path_factory, tmp_path, number):
    folder, out, mark = tmp_path / "notebooks", tmp_path / "out", tmp_path / "pid"
    scratch = tmp_path_factory.mktemp("s")
    notebook(folder / "one.ipynb", "y = 1")
    slow = "import os, pathlib, time\npathlib.Path(name).write_text(str(os.getpid()))\ntime.sleep(x)"
    notebook(folder / "two.ipynb", slow)
    path = sweep_file(folder, {"notebook": "one.ipynb"}, {"notebook": "two.ipynb"}, name=str(mark))
    command = [sys.executable, "-m", "dnnsplit", "run", path, "-o", out, "-p", "x=600"]
    with started(*command, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(scratch)}) as sweep:
        kernel = int(wait_until(lambda: mark.exists() and mark.read_text()))
        sweep.send_signal(number)
        error = sweep.communicate(timeout=60)[1]
    if number != signal.SIGKILL:
        assert sweep.returncode == 128 + number
        word = "interrupted" if number == signal.SIGINT else "terminated"
        assert error.endswith(f"\ndnnsplit: {word}; what is finished is kept: the same command goes on from there\n")
        assert "Traceback" not in error
        assert not is_running(kernel)
        assert not list(scratch.glob("dnns*"))
    wait_until(lambda: not is_running(kernel), 60)
    wait_until(lambda: not list(scratch.glob("dnns*")), 60)
    assert not (out / "two" / "run.json").exists()
    frame = ds.run(path, {"x": 0}, out, progress=False).frame.set_index("run")
    assert frame["status"].to_dict() == {"one": "done", "two": "done"}  # another x, which both have
    frame = ds.run(path, {"x": 0}, out, progress=False).frame
    assert set(frame["status"]) == {"kept"}
