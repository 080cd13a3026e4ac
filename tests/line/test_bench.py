"""The benchmark of whole lines in small: what becomes of a file is a row, and the exit status tells whether all is well."""

import subprocess
import sys

import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.written_models import normal, save, written

OPEN = written(
    "(float[batch,8] x, float[batch,n] t) => (float[batch,m] y) { a = MatMul(x, w)  b = Concat<axis=1>(a, t)  y = Neg(b) }",
    {"w": normal(8, 8)},
)
STAGES = ["shapes", "load", "noise", "profile", "front", "cut", "run", "compare"]


def bench(*arguments, patch="pass"):
    """Run the benchmark; `patch` changes it before."""
    code = f"import os, signal, models; {patch}; models.main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT / "bench")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save(OPEN.proto(), folder, "open")
    (folder / "text.onnx").write_text("no model")
    return folder


def test_every_file_is_through_or_refused_in_words(folder, tmp_path):
    done = bench(folder, "--csv", tmp_path / "rows.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pd.read_csv(tmp_path / "rows.csv").set_index(["file", "stage"])
    assert [stage for file, stage in rows.index if file == "open.onnx"] == STAGES
    assert set(rows.loc["open.onnx", "outcome"]) == {"ok"}
    assert "x 1x8, t 1x512" in rows.loc[("open.onnx", "shapes"), "note"]
    assert rows.loc[("open.onnx", "compare"), "difference"] <= 1e-5
    assert rows.loc[("text.onnx", "load"), "outcome"] == "refused"
    assert ("text.onnx", "cut") not in rows.index
    assert "1 of 2 files (50%) went through the whole line" in done.stdout
    assert "text.onnx is no ONNX file" in done.stdout


def test_given_shapes_are_taken(folder, tmp_path):
    (tmp_path / "shapes.yaml").write_text("'op*': {x: [1, 8], t: [1, 3]}")
    done = bench(folder, "--only", "open*", "--shapes", tmp_path / "shapes.yaml", patch="models.STAGES = ('shapes', 'load')")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "given: x 1x8, t 1x3" in done.stdout


@pytest.mark.parametrize(
    ("patch", "told", "stages"),
    [
        (
            "models.Line.noise = lambda line: os.kill(os.getpid(), signal.SIGKILL)",
            "noise: ended the process ended with exit code -9",
            3,
        ),
        ("models.Line.shapes = lambda line: signal.pause(); models.TIMEOUT_S = 0.2", "shapes: ended it took more than 0.2 s", 1),
        (
            "models.STAGES = ('shapes', 'load', 'front', 'cut'); models.Line.front = lambda line: {}['key']",
            "front: TRACEBACK KeyError: 'key' | <string>:1",
            4,
        ),
    ],
)
def test_what_goes_wrong_is_a_row(patch, told, stages, folder, tmp_path):
    done = bench(folder, "--csv", tmp_path / "rows.csv", patch=patch)
    assert done.returncode == 1
    assert f"open.onnx: {told}" in done.stdout, done.stdout + done.stderr
    assert (pd.read_csv(tmp_path / "rows.csv")["file"] == "open.onnx").sum() == stages


def test_a_folder_without_models_is_refused(tmp_path):
    done = bench(tmp_path)
    assert done.returncode == 2
    assert "there is no .onnx file" in done.stderr


def test_no_plan_is_worse_than_one_server_with_one_form_of_the_input():
    done = subprocess.run([sys.executable, "forms.py"], capture_output=True, text=True, timeout=300, cwd=ROOT / "bench")
    told = next(line for line in done.stdout.splitlines() if "regret against one server" in line)
    assert "yes" in told.split(), done.stdout + done.stderr
    assert "192 points" in told
