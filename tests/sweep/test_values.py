"""Numbers that JSON lacks, and notebooks that tell little of themselves, go through a run as they are."""

import json
import math
from dataclasses import replace

import nbformat
import pytest
from helpers.notebook_files import notebook, row_of

import dnnsplit as ds
from dnnsplit.cli.assignments import assignments, grids
from dnnsplit.sweep.jobs import jobs_of
from dnnsplit.sweep.values import from_json, same, to_json

VALUES = {"most": math.inf, "least": -math.inf, "none": math.nan, "list": [1, [math.nan, 2.5]], "map": {"a": math.inf, "b": {}}}


def strictly(text):
    """What a browser reads; it knows no NaN."""

    def refused(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refused)


def test_values_come_back_from_json_that_everybody_reads():
    assert same(from_json(strictly(json.dumps(to_json(VALUES)))), VALUES)
    assert to_json({"a": [1, 2.5, "nan", None, True]}) == {"a": [1, 2.5, "nan", None, True]}


def test_values_are_the_same_if_they_are_written_alike():
    assert same(math.nan, math.nan)
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not any(same(1, other) for other in (1.0, True, "1", [1]))


def test_infinite_and_undefined_numbers_are_numbers_from_the_parameters_to_the_table(tmp_path):
    cell = "import dnnsplit as ds\nds.publish(twice=2 * x, inside=limits, told=str(x))"
    path, out = notebook(tmp_path / "n.ipynb", cell, parameters="x = 1.0\nlimits = []\nundefined = 1e999"), tmp_path / "out"
    grid, given = {"x": [math.inf, -math.inf, math.nan, 2.0]}, {"limits": [math.nan, {"a": math.inf}], "undefined": math.nan}
    runs = ds.run(path, given, out, progress=False, grid=grid)
    assert list(runs.frame["status"]) == ["done"] * 4, runs.frame["error"].to_list()
    assert list(runs.frame["told"]) == ["inf", "-inf", "nan", "2.0"]
    assert [column for column in runs.frame if column.startswith("p.")] == ["p.x"]  # one NaN is no other value than the next
    again = ds.run(path, given, out, progress=False, grid=grid)
    assert list(again.frame["status"]) == ["kept"] * 4
    for frame in (runs.frame, again.frame):
        for column, values in (("p.x", grid["x"]), ("twice", [math.inf, -math.inf, math.nan, 4.0])):
            assert same(frame[column].to_list(), values)
        assert same(frame["inside"][0], given["limits"])
    for job in runs.jobs:
        assert strictly(job.record.read_text())["row"]["status"] == "done"
        assert strictly(job.output.read_text())["cells"]
        nbformat.validate(nbformat.read(job.output, as_version=4))


def test_the_command_line_knows_them_by_their_names():
    assert same(assignments(["a=inf", "b=-inf", "c= nan"]), {"a": math.inf, "b": -math.inf, "c": math.nan})
    assert assignments(["a='inf'", "b=infinite", "c=NaN"]) == {"a": "inf", "b": "infinite", "c": "NaN"}
    assert grids(["x=0.1,inf"]) == {"x": [0.1, math.inf]}


def test_another_kind_of_number_is_another_parameter(tmp_path):
    from dnnsplit.sweep.record import finished, write_record

    path = notebook(tmp_path / "n.ipynb")
    (job,) = jobs_of(path, {"x": 1}, {}, tmp_path)
    job.folder.mkdir()
    job.output.write_text("{}")
    write_record(job, row_of(job), [], [])
    assert finished(job)[0]
    for other in (True, 1.0):
        assert finished(replace(job, parameters={**job.parameters, "x": other}))[0] is None


@pytest.mark.parametrize("metadata", [{}, {"kernelspec": {"name": "python3", "display_name": "Python 3"}}, {"language_info": {}}])
def test_a_notebook_need_not_tell_its_language(tmp_path, metadata):
    path = notebook(tmp_path / "notebooks" / "n.ipynb", "import dnnsplit as ds\nds.publish(double=2 * x)")
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "metadata": metadata}))
    frame = ds.run(path, {"x": 4}, tmp_path / "{x} and {more}", progress=False).frame
    assert frame["error"].to_list() == [""]
    assert frame["double"].to_list() == [8]
