"""Each run has a folder of its own, called by what differs, and no run overwrites another's files unnoticed."""

import ast
import json
import re

import pytest
import yaml
from helpers.notebook_files import notebook, row_of

import dnnsplit as ds
from dnnsplit.sweep.apart import alone, check_apart
from dnnsplit.sweep.jobs import WRITTEN, jobs_of
from dnnsplit.sweep.names import LONGEST, name_of
from dnnsplit.sweep.record import write_record

FOLDERS = (
    "x: float = 1.0  # a number\ndata: str = '../data'  # read\nout: str = '../data/by-hand'  # written\nbuild: str = ''  # too"
)
WRITES = (
    "from pathlib import Path\nPath(out).mkdir(parents=True, exist_ok=True)\nlength = Path(out, 'value.txt').write_text(str(x))"
)


class TestNames:
    @pytest.mark.parametrize(
        ("value", "told"),
        [
            (0.03, "0.03"), (1, "1"), (1.0, "1.0"), (True, "True"), (None, "None"), (float("inf"), "inf"),
            ("device-edge", "device-edge"), ("1 MB/s", "1_MB-s"),
            ("50 %", "50_%"), (["device", "edge"], "[device+edge]"), ([0.1, 2], "[0.1+2]"), ("", ""),
        ],
    )  # fmt: skip
    def test_short_values_are_told_as_they_are(self, value, told):
        assert name_of("04-split", {"x": value}) == f"04-split,x={told}"

    def test_a_hash_stands_for_what_is_long_or_no_part_of_a_path(self):
        for value in ("../models/small.onnx", "a" * 60, "naïve text", ["1", 1], {"x": [1, 3]}, list(range(50)), [["a"]]):
            assert re.fullmatch(r"n,x=[\w.+%\[\]-]*~[0-9a-f]{6}\]?", name_of("n", {"x": value}), re.ASCII) or value == ["1", 1], (
                value
            )
        assert name_of("n", {"model": "a/small.onnx"}).startswith("n,model=small.onnx~")

    def test_other_values_have_other_names(self):
        values = [
            1, 1.0, True, "1", "True", None, "None", "", [], {}, [1], ["1"], "[1]", "1 MB/s", "1_MB-s", "1MB/s", "1 MB-s",
            "50 %", "50%", "a/x", "b/x", "x",
            float("nan"), "nan", ["a", "b"], ["a+b"], "a" * 40, "a" * 41, {"a": 1}, {"a": 2}, "a b", "a-b",
        ]  # fmt: skip
        names = [name_of("n", {"x": value}) for value in values]
        assert len(set(names)) == len(values), sorted(name for name in names if names.count(name) > 1)

    def test_a_name_is_short_enough_for_a_folder(self):
        longest = [name_of("n", {f"parameter_{i}": last if i == 20 else i / 7 for i in range(21)}) for last in (1, 2)]
        assert all(len(name.encode()) <= LONGEST for name in longest)
        assert longest[0] != longest[1]


class TestFolders:
    def test_what_is_written_goes_into_the_runs_own_folder_unless_it_is_given(self, tmp_path):
        path, sweep = notebook(tmp_path / "notebooks" / "n.ipynb", parameters=FOLDERS), tmp_path / "here" / "runs"
        one, two = jobs_of(path, {}, {"x": [1.5, 2]}, sweep)
        assert (one.name, two.name) == ("n,x=1.5", "n,x=2")
        assert one.folder == sweep / "n,x=1.5"
        assert one.parameters == {
            "x": 1.5, "data": "../data", "out": "../here/runs/n,x=1.5", "build": "../here/runs/n,x=1.5/build",
        }  # fmt: skip
        assert set(one.own) == {"out", "build"} < set(WRITTEN)
        (given,) = jobs_of(path, {"out": "elsewhere", "data": "{sweep}/shared"}, {}, sweep)
        assert (given.parameters["out"], given.parameters["data"]) == ("elsewhere", "../here/runs/shared")
        assert set(given.own) == {"build"}

    def test_runs_of_a_sweep_file_share_the_folder_that_it_states(self, tmp_path):
        for name in ("a", "b"):
            notebook(tmp_path / f"{name}.ipynb", parameters=FOLDERS)
        entries = [
            {"notebook": "a.ipynb"},
            {"notebook": "b.ipynb", "needs": ["a"], "grid": {"x": [1, 2]}, "parameters": {"out": "../b"}},
        ]
        path = tmp_path / "all.yaml"
        path.write_text(yaml.safe_dump({"parameters": {"out": "{sweep}", "data": "{sweep}"}, "runs": entries}))
        first, *others = jobs_of(path, {}, {}, tmp_path / "runs")
        assert (first.parameters["out"], first.own) == ("runs", {"build": "runs/a/build"})
        assert [job.parameters["data"] for job in others] == ["runs", "runs"]
        check_apart((first, others[0]), "all.yaml")  # different notebooks may share a folder
        told = r"all.yaml: b,x=1 and b,x=2 would both write the same files of \S+/b: the parameter 'out' gives both"
        with pytest.raises(ds.OptionError, match=told):
            check_apart((first, *others), "all.yaml")

    def test_a_run_by_name_is_no_other_run(self, tmp_path):
        notebook(tmp_path / "n.ipynb")
        entries = [{"notebook": "n.ipynb", "grid": {"x": [1]}}, {"notebook": "n.ipynb", "name": "n,x=1"}]
        (tmp_path / "all.yaml").write_text(yaml.safe_dump({"runs": entries}))
        with pytest.raises(ds.OptionError, match="two runs are called 'n,x=1'"):
            ds.run(tmp_path / "all.yaml", out=tmp_path / "out", progress=False)

    def test_the_current_folder_has_the_runs_and_the_notebooks_folder_is_left_alone(self, tmp_path, monkeypatch):
        path, here = notebook(tmp_path / "theirs" / "notebooks" / "n.ipynb", WRITES, parameters=FOLDERS), tmp_path / "here"
        here.mkdir()
        monkeypatch.chdir(here)
        before = sorted((tmp_path / "theirs").rglob("*"))
        frame = ds.run(path, {"x": 2.5}, progress=False).frame
        assert frame["status"].to_list() == ["done"], frame["error"].to_list()
        assert sorted((tmp_path / "theirs").rglob("*")) == before
        run = here / "data" / "runs" / "n" / "n,x=2.5"
        assert sorted(file.name for file in run.iterdir()) == ["n.ipynb", "run.json", "run.log", "value.txt"]
        assert (run / "value.txt").read_text() == "2.5"
        assert json.loads((run / "run.json").read_text())["outputs"].keys() == {"../../here/data/runs/n/n,x=2.5/value.txt"}

    def test_an_executed_notebook_takes_no_notebooks_place(self, tmp_path):
        path = notebook(tmp_path / "n" / "n.ipynb")
        with pytest.raises(ds.OptionError, match=r"n would leave \S+n.ipynb in the place of what is run; give another folder"):
            ds.run(path, out=tmp_path, progress=False)


class TestCollisions:
    def test_runs_of_one_notebook_into_one_folder_are_refused_before_the_first_starts(self, tmp_path):
        path = notebook(tmp_path / "n.ipynb", parameters=FOLDERS)
        with pytest.raises(
            ds.OptionError, match=r"n,out=\S+,x=1 and n,out=\S+,x=2 would both write the same files of \S+/shared"
        ):
            ds.run(path, {"out": "{sweep}/shared"}, tmp_path / "out", progress=False, grid={"x": [1, 2]})
        assert not (tmp_path / "out").exists()
        assert len(jobs_of(path, {}, {"out": ["a", "b"]}, tmp_path / "out")) == 2  # each has one that was given

    def test_the_file_is_told_where_a_run_left_it_before(self, tmp_path):
        path = notebook(tmp_path / "n.ipynb", parameters=FOLDERS)
        given, grid = {"out": "shared"}, {"x": [1, 2]}
        jobs = jobs_of(path, given, grid, tmp_path / "out")
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "value.txt").touch()
        jobs[1].folder.mkdir(parents=True)
        write_record(jobs[1], row_of(jobs[1]), [], [str(tmp_path / "shared" / "value.txt")])
        with pytest.raises(ds.OptionError, match=r"would both write \S+/shared/value.txt: the parameter 'out'"):
            ds.run(path, given, tmp_path / "out", progress=False, grid=grid)

    def test_different_notebooks_that_wrote_one_file_are_refused(self, tmp_path):
        for name in ("a", "b"):
            notebook(tmp_path / f"{name}.ipynb", parameters=FOLDERS)
        path = tmp_path / "all.yaml"
        path.write_text(yaml.safe_dump({"parameters": {"out": "."}, "runs": [{"notebook": "a.ipynb"}, {"notebook": "b.ipynb"}]}))
        jobs = jobs_of(path, {}, {}, tmp_path / "out")
        check_apart(jobs, "all.yaml")  # nothing is known of them
        (tmp_path / "value.txt").touch()
        for job in jobs:
            job.folder.mkdir(parents=True)
            write_record(job, row_of(job), [], [str(tmp_path / "value.txt")])
        with pytest.raises(ds.OptionError, match=r"a and b would both write \S+/value.txt, as they did before"):
            check_apart(jobs, "all.yaml")
        check_apart(jobs_of(path, {"out": "other"}, {}, tmp_path / "out"), "all.yaml")  # what they wrote elsewhere tells nothing

    def test_a_file_that_a_run_overwrote_all_the_same_is_told(self, tmp_path):
        """It is no folder of a parameter that is known to be one, so that nothing could tell before."""
        path = notebook(tmp_path / "n.ipynb", "length = open('value.txt', 'w').write(str(x))")
        frame = ds.run(path, {}, tmp_path / "out", progress=False, grid={"x": [1, 2]}).frame
        assert frame["status"].to_list() == ["done", "failed"]
        assert re.fullmatch(r"it wrote \S+/value.txt, which n,x=1 wrote, too: give each a folder of its own", frame["error"][1])
        with pytest.raises(ds.OptionError, match=r"n,x=1 and n,x=2 would both write \S+/value.txt, as they did before"):
            ds.run(path, {}, tmp_path / "out", progress=False, grid={"x": [1, 2]})
        notebook(path, "length = open(f'value-{x}.txt', 'w').write(str(x))")  # what is mended is tried again
        frame = ds.run(path, {}, tmp_path / "out", progress=False, grid={"x": [1, 2]}).frame
        assert frame["status"].to_list() == ["done", "done"]


class TestTogether:
    def test_a_sweep_into_a_folder_to_which_another_one_writes_is_refused(self, tmp_path):
        path, shared = notebook(tmp_path / "n.ipynb", parameters=FOLDERS), tmp_path / "shared"
        first = jobs_of(path, {"out": "shared"}, {}, tmp_path / "out")
        with alone(first, tmp_path / "out"):
            for given, out, told in (({}, tmp_path / "out", "out"), ({"out": "shared"}, tmp_path / "other", "shared")):
                with pytest.raises(
                    ds.OptionError, match=rf"another sweep writes to {tmp_path / told} now; wait until it has ended"
                ):
                    ds.run(path, given, out, progress=False)
            with alone(jobs_of(path, {}, {}, shared / "inside"), shared / "inside"):  # each of its runs has a folder of its own
                pass
        with alone(first, tmp_path / "out"):  # it has ended
            pass

    def test_its_end_ends_that_whatever_it_was(self, tmp_path):
        path = notebook(tmp_path / "n.ipynb", parameters=FOLDERS)
        with pytest.raises(ZeroDivisionError), alone(jobs_of(path, {}, {}, tmp_path / "out"), tmp_path / "out"):
            raise ZeroDivisionError
        with alone(jobs_of(path, {}, {}, tmp_path / "out"), tmp_path / "out"):
            pass

    def test_a_folder_that_cannot_be_made_is_no_start(self, tmp_path):
        path = notebook(tmp_path / "n.ipynb", parameters=FOLDERS)
        (tmp_path / "file").touch()
        with pytest.raises(ds.OutputError, match="file/below cannot be written"):
            ds.run(path, {"out": "file/below"}, tmp_path / "out", progress=False)

    def test_a_value_and_an_axis_are_two_answers(self, tmp_path):
        path = notebook(tmp_path / "n.ipynb", parameters=FOLDERS)
        with pytest.raises(ds.OptionError, match="'x' is given as a value and as an axis; give one of them"):
            ds.run(path, {"x": 1}, tmp_path / "out", progress=False, grid={"x": [1, 2]})


def test_a_grid_is_resumed_run_by_run_and_keeps_every_runs_files(tmp_path):
    path, grid = notebook(tmp_path / "n.ipynb", WRITES, parameters=FOLDERS), {"x": [1.5, 2.5]}
    runs = ds.run(path, out=tmp_path / "out", progress=False, grid=grid)
    assert runs.frame["status"].to_list() == ["done", "done"]
    assert [column for column in runs.frame if column.startswith("p.")] == ["p.x"]  # not the folders, which differ by themselves
    written = [tmp_path / "out" / name / "value.txt" for name in ("n,x=1.5", "n,x=2.5")]
    assert [ast.literal_eval(file.read_text()) for file in written] == grid["x"]
    assert ds.run(path, out=tmp_path / "out", progress=False, grid=grid).frame["status"].to_list() == ["kept", "kept"]
    written[0].unlink()
    assert ds.run(path, out=tmp_path / "out", progress=False, grid=grid).frame["status"].to_list() == ["done", "kept"]
