"""The notebook runner: parameters, isolation, failures, published results, and the report."""

import nbformat
import numpy as np
import pytest
import yaml

import dnnsplit as ds
from dnnsplit.report import write_report
from dnnsplit.sweep import check_parameters, parameters_of

PARAMETERS = "x = 2  # a number\nname = 'a'  # a text\nlimits = [0.1, 0.2]  # a list\nnothing = None  # may be missing"


def notebook(path, *cells, parameters=PARAMETERS):
    document = nbformat.v4.new_notebook()
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    document.cells = [first, *map(nbformat.v4.new_code_cell, cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(document, path)
    return path


def test_parameters_and_their_defaults_are_read(tmp_path):
    assert parameters_of(notebook(tmp_path / "n.ipynb")) == {"x": 2, "name": "a", "limits": [0.1, 0.2], "nothing": None}


def test_given_values_become_plain_and_defaults_are_kept(tmp_path):
    path = notebook(tmp_path / "n.ipynb")
    values = check_parameters(path, {"x": np.float64(3.5), "limits": (1, np.int64(2)), "name": tmp_path})
    assert values == {"x": 3.5, "limits": [1, 2], "name": str(tmp_path), "nothing": None}


@pytest.mark.parametrize(
    ("parameters", "given", "text"),
    [
        (PARAMETERS, {"nmae": 1}, "there is no parameter 'nmae' \\(did you mean 'name'"),
        ("x = 1 + y", {}, "the default of 'x' is no literal"),
        ("import os", {}, "may only assign literals"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(tmp_path, parameters, given, text):
    path = notebook(tmp_path / "n.ipynb", parameters=parameters)
    with pytest.raises(ds.OptionError, match=text):
        ds.run(path, given, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(ds.OptionError, match="there is no notebook"):
        ds.run(tmp_path / "none.ipynb", progress=False)
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


def test_a_sweep_runs_each_notebook_in_its_folder_publishes_and_stops_at_a_failure(tmp_path, capfd):
    folder = tmp_path / "notebooks"
    publish = "ds.publish(value=x * 2, folder=os.path.basename(os.getcwd()))"
    notebook(folder / "one.ipynb", "import os\nimport dnnsplit as ds", publish)
    notebook(folder / "two.ipynb", "y = 1", "raise ValueError('no luck')")
    notebook(folder / "three.ipynb", "y = 1")
    runs = [{"notebook": "one.ipynb", "parameters": {"x": 21}}, {"notebook": "two.ipynb"}, {"notebook": "three.ipynb"}]
    (folder / "all.yaml").write_text(yaml.safe_dump({"parameters": {"name": "all"}, "runs": runs}))
    frame = ds.run(folder / "all.yaml", out=tmp_path / "out", progress=False).frame
    assert list(frame["notebook"]) == ["one", "two"]
    assert list(frame["status"]) == ["done", "failed"]
    assert frame["value"][0] == 42
    assert frame["folder"][0] == "notebooks"
    assert frame["cell"][1] == "In[4]"  # parameters, injected parameters, y = 1, and then it
    assert frame["error"][1] == "ValueError: no luck"
    assert (tmp_path / "out" / "one.ipynb").exists()
    assert "TCP" not in capfd.readouterr().err  # kernels talk over Unix sockets, without a warning
    with pytest.raises(ds.OptionError, match="no notebook has the parameter 'z'"):
        ds.run(folder / "all.yaml", {"z": 1}, progress=False)
    page = write_report(tmp_path / "out" / "one.ipynb", tmp_path / "report.html").read_text()
    assert "value: 42" in page
    assert "os.path.basename" not in page


def test_a_dead_kernel_is_a_row_too(tmp_path):
    path = notebook(tmp_path / "notebooks" / "dies.ipynb", "import os\nos._exit(3)")
    frame = ds.run(path, out=tmp_path / "out", progress=False).frame
    assert list(frame["status"]) == ["failed"]
    assert "the kernel died" in frame["error"][0]


def test_a_report_needs_an_executed_notebook(tmp_path):
    with pytest.raises(ds.OptionError, match="is no executed notebook"):
        write_report(tmp_path / "none.ipynb", tmp_path / "report.html")
