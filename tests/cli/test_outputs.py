"""No command works for something that it cannot write, and none loses what it has worked out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.notebook_files import notebook
from helpers.paths import MODEL, NETWORK, NOISE, TIMES
from helpers.small_models import conv_net, pictures

import dnnsplit as ds
from dnnsplit.cli.commands import COMMANDS
from dnnsplit.cli.main import main

WRITTEN = {  # what each command needs besides
    ("run", "--out"): ["none.ipynb"],
    ("run", "--report"): ["none.ipynb"],
    ("results", "--out"): ["none"],
    ("profile", "--out"): ["none.onnx", "--server", "a"],
    ("power", "--network"): ["none.onnx", "--server", "a"],
    ("noise", "--out"): ["none.onnx"],
    ("profile-join", "--out"): ["none.csv"],
    ("profile-scale", "--out"): ["none.csv", "--source", "a", "--server", "b", "--factor", "2"],
    ("profile-flops", "--out"): ["none.onnx", "--server", "b", "--compute", "1 TFLOP/s", "--bandwidth", "1 GB/s"],
    ("split", "--out"): ["none.onnx", "none.yaml", "none.csv"],
    ("pareto", "--out"): ["none.onnx", "none.yaml", "none.csv"],
    ("cut", "--out"): ["none.onnx", "none.json"],
    ("probe", "--network"): ["127.0.0.1:1", "--link", "a", "b"],
    ("agent", "--folder"): ["--name", "a"],
    ("keys", "--out"): ["a"],
    ("export", "--out"): ["yolo11n"],
}
READ = {("results", "folders"), ("agent", "--keys"), ("deploy", "--keys"), ("status", "--keys"), ("undeploy", "--keys")}


@pytest.mark.parametrize(("command", "option"), WRITTEN)
def test_a_path_that_cannot_be_written_is_told_before_anything_else(command, option, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    path = str(tmp_path / "file" / "inside")
    assert main([command, *WRITTEN[command, option], option, path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"dnnsplit: {path} cannot be written: {tmp_path}/file is a file, not a folder\n"
    assert (tmp_path / "file").read_text() == "kept"


def test_every_argument_that_is_written_is_known_as_such():
    given = {(name, names[-1]): options for name, (_, _, arguments) in COMMANDS.items() for names, options in arguments}
    assert {argument for argument, options in given.items() if "writes" in options} == set(WRITTEN)
    named = [argument for argument in given if argument[1] in ("--out", "--folder", "--report", "--network")]
    assert set(named) <= set(WRITTEN)
    assert {argument for argument, options in given.items() if options.get("metavar") == "FOLDER"} == READ


def kept(capsys, folder):
    """The one file of a folder, if the message tells of it."""
    error = capsys.readouterr().err.splitlines()[-1]
    (path,) = folder.glob("dnnsplit-*")
    assert error.endswith(f"cannot be written: No space left on device; the result is kept in {path}")
    return path


def test_results_outlive_a_disk_that_became_full(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    problem = [MODEL, NETWORK, TIMES, "--noise", NOISE]
    assert main(["split", *problem, "-o", "/dev/full"]) == 2
    plan = kept(capsys, tmp_path)
    assert ds.Plan.load(plan).latency_s > 0
    plan.unlink()
    assert main(["pareto", *problem, "-o", "/dev/full"]) == 2
    front = kept(capsys, tmp_path)
    assert front.read_text().startswith("noise,latency_s")
    front.unlink()

    model = str(conv_net(tmp_path / "net.onnx"))
    np.save(tmp_path / "x.npy", pictures(24))
    images = ["--images", str(tmp_path / "x.npy"), "--layers", "2"]
    original = Path.replace

    def full(self, target):
        if Path(target).name in ("times.csv", "noise.csv"):
            raise OSError(28, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", full)
    assert main(["profile", model, *images, "--server", "a", "-o", "times.csv", "--runs", "3", "--splits", "0"]) == 2
    times = next(path for path in tmp_path.glob("dnnsplit-*") if ".forms" not in path.name)
    assert f"the result is kept in {times}" in capsys.readouterr().err
    assert ds.LayerTimes.load(times).forms is not None
    for path in tmp_path.glob("dnnsplit-*"):
        path.unlink()
    assert main(["noise", model, *images, "--count", "2", "-o", "noise.csv"]) == 2
    assert ds.NoiseSamples.load(kept(capsys, tmp_path)).layers
    assert (tmp_path / "noise.journal.npz").exists()


def test_a_sweep_is_refused_before_it_runs_and_keeps_what_is_done_when_it_fails(tmp_path, monkeypatch):
    path = notebook(tmp_path / "notebooks" / "n.ipynb", "y = x")
    (tmp_path / "out" / "n.csv").mkdir(parents=True)
    with pytest.raises(ds.OutputError, match=r"n.csv cannot be written: it is a folder"):
        ds.run(path, out=tmp_path / "out", progress=False)
    with pytest.raises(ds.OutputError, match=r"n.ipynb/n.csv cannot be written: .*n.ipynb is a file, not a folder"):
        ds.run(path, out=path, progress=False)
    (tmp_path / "logs" / "n" / "run.log").mkdir(parents=True)
    with pytest.raises(ds.OutputError, match=r"run.log cannot be written: it is a folder"):
        ds.run(path, out=tmp_path / "logs", progress=False)
    assert not [*tmp_path.rglob("run.json")]


@pytest.mark.parametrize(("target", "code", "told"), [
    ("/dev/full", 2, "dnnsplit: standard output cannot be written: No space left on device\n"),
    ("| true", 141, ""),
])  # fmt: skip
def test_standard_output_is_an_output_too(target, code, told, tmp_path):
    command = [sys.executable, "-m", "dnnsplit", "pareto", MODEL, NETWORK, TIMES, "--noise", NOISE]
    if target == "| true":
        closed = subprocess.Popen(["true"], stdin=subprocess.PIPE)
        closed.wait()
        output = closed.stdin
    else:
        output = Path(target).open("wb")  # noqa: SIM115
    with output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines(keepends=True)[-1:]) == (code, [told] if told else [])


def test_a_temporary_folder_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    assert main(["split", MODEL, NETWORK, TIMES]) == 1
    assert capsys.readouterr().err == "dnnsplit: [Errno 28] No space left on device: '/tmp/x'\n"
