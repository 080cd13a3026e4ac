"""CBC gets its files where it can read them, and leaves none."""

import subprocess
import tempfile

import pandas as pd
import pytest
from helpers.processes import none_left

import dnnsplit as ds
from dnnsplit.solving.milp import cbc


@pytest.fixture
def problem():
    layers = [ds.Layer("a", "Conv", 1, 1), ds.Layer("b", "Conv", 1, 1)]
    tensors = [ds.Tensor("x", None, ("a",), 9), ds.Tensor("t", "a", ("b",), 9), ds.Tensor("y", "b", (), 9, True)]
    rows = [(layer, server, "float32", seconds) for layer in "ab" for server, seconds in (("device", 1.0), ("cloud", 0.1))]
    times = ds.LayerTimes.from_frame(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    links = [ds.Link("device", "cloud", 1e6), ds.Link("cloud", "device", 1e6)]
    return ds.LayerGraph(layers, tensors), ds.Network([ds.Server("device", 1.0), ds.Server("cloud", 1.0)], links), times


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder of temporary files, whose name has a space, quotes and a dollar."""
    folder = tmp_path / "a 'b' $c"
    folder.mkdir()
    for name in ("TMPDIR", "TMP", "TEMP"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is asked for once
    return folder


@pytest.mark.parametrize("method", ["slides", "milp"])
def test_a_space_in_the_name_of_the_temporary_folder_is_no_trouble(problem, scratch, method):
    answers = [ds.split(*problem, method=method, solver=solver).latency_s for solver in ("CBC", "HiGHS")]
    assert answers[0] == pytest.approx(answers[1])
    assert not list(scratch.iterdir())


def test_a_failure_is_told_in_words_of_cbc_and_leaves_no_file(problem, scratch, monkeypatch):
    monkeypatch.setattr(cbc, "SOLUTION", "no folder/solution.txt")
    with pytest.raises(ds.SolverError, match=r"CBC failed: CBC ended with 0: (.|\n)*Total time"):
        ds.split(*problem, method="slides", solver="CBC")
    assert not list(scratch.iterdir())


def test_an_interrupt_ends_cbc_and_leaves_no_file(problem, scratch, tmp_path, monkeypatch):
    ds.split(*problem, method="slides", solver="CBC")  # its own tests are over
    waiting = tmp_path / "cbc"
    waiting.write_text("#!/bin/sh\nexec sleep 1000\n")
    waiting.chmod(0o755)
    monkeypatch.setattr(cbc, "pulp_cbc_path", str(waiting))
    original = subprocess.Popen.communicate

    def interrupted(*given, **options):
        monkeypatch.setattr(subprocess.Popen, "communicate", original)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with none_left(), pytest.raises(KeyboardInterrupt):
        ds.split(*problem, method="slides", solver="CBC")
    assert not list(scratch.iterdir())
