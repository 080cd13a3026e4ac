"""Training: what a missing extra says, which values are refused, and the training notebook from end to end."""

import json
import os
import sys
from types import ModuleType

import nbformat
import pytest
from helpers.paths import ROOT

import dnnsplit as ds
from dnnsplit.examples import yolo11
from dnnsplit.examples.ppe import training
from dnnsplit.ground.files import sha256
from dnnsplit.sweep.notebook import parameters_of

NOTEBOOK = ROOT / "notebooks" / "train-yolo11n.ipynb"
try:
    training.versions()
    ABSENT = ""
except ds.DnnSplitError as problem:
    ABSENT = str(problem)


def without(missing):
    """Return a stand-in for `importlib.metadata.version` that does not find the distributions `missing`."""

    def version(name):
        if name in missing:
            raise yolo11.PackageNotFoundError(name)
        return "1.0"

    return version


def test_versions_name_everything_that_shapes_a_network(monkeypatch):
    monkeypatch.setattr(yolo11, "version", without(()))
    assert training.versions() == dict.fromkeys(training.MAKERS, "1.0")


def test_a_missing_extra_is_one_sentence_that_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(yolo11, "version", without({"torch", "ultralytics"}))
    checkpoint = tmp_path / "best.pt"
    checkpoint.touch()
    data = ds.scenes.write_yolo_dataset(tmp_path / "data", train=1, val=1, seed=0, size=32)
    for call in (
        training.versions,
        lambda: training.train_detector(data, tmp_path / "run"),
        lambda: training.export_onnx(checkpoint, tmp_path / "model.onnx"),
    ):
        with pytest.raises(ds.DnnSplitError, match=r'need ultralytics, torch, not installed here; install: pip .*"\.\[train\]"'):
            call()
    assert not (tmp_path / "run").exists()


def test_a_torchvision_that_does_not_load_is_one_sentence_too(monkeypatch, tmp_path):
    monkeypatch.setattr(yolo11, "version", without(()))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "best.pt").touch()
    with pytest.raises(ds.DnnSplitError, match=r'torchvision or .* does not load \(operator torchvision::nms .*"\.\[train\]"'):
        training.export_onnx(tmp_path / "best.pt", tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch": 0}, "batch"),
        ({"threads": 0}, "threads"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"size": 0}, "multiple of 32"),
        ({"size": 100}, "multiple of 32.*got 100"),
    ],
)
def test_bad_values_are_refused_before_anything_is_loaded(monkeypatch, tmp_path, values, message):
    monkeypatch.setattr(training, "load_ultralytics", lambda threads: pytest.fail("loaded"))
    data = tmp_path / "data.yaml"
    data.touch()
    with pytest.raises(ds.DnnSplitError, match=message):
        training.train_detector(data, tmp_path / "run", **values)


def test_missing_files_and_a_bad_input_side_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "load_ultralytics", lambda threads: pytest.fail("loaded"))
    with pytest.raises(ds.DnnSplitError, match="no data set description"):
        training.train_detector(tmp_path / "data.yaml", tmp_path / "run")
    with pytest.raises(ds.DnnSplitError, match="no checkpoint"):
        training.export_onnx(tmp_path / "best.pt", tmp_path / "model.onnx")
    with pytest.raises(ds.DnnSplitError, match="multiple of 32"):
        training.export_onnx(tmp_path / "best.pt", tmp_path / "model.onnx", size=300)


def test_the_defaults_of_the_notebook_are_those_of_the_shipped_record_and_spare_the_shipped_model():
    given = parameters_of(NOTEBOOK)
    record = json.loads((ROOT / "data" / "models" / "yolo11n-ppe-320.json").read_text(encoding="utf-8"))
    shared = record["training"].keys() & given.keys()
    assert shared >= {"train_scenes", "val_scenes", "data_seed", "training_seed", "epochs", "batch", "learning_rate", "threads"}
    assert {name: given[name] for name in shared} == {name: record["training"][name] for name in shared}
    assert (given["held_out"], given["held_out_seed"]) == (record["evaluation"]["canvases"], record["evaluation"]["seed"])
    assert 0 < given["least_map50"] < record["evaluation"]["mAP50"]
    written = (NOTEBOOK.parent / given["out"]).resolve()
    assert written.is_relative_to(ROOT / "data" / "runs")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Parameters of a run of half a minute; Ultralytics keeps its settings out of the home folder."""
    if ABSENT:
        pytest.skip(ABSENT)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    sizes = {"train_scenes": 16, "val_scenes": 4, "epochs": 1, "batch": 8, "held_out": 2}
    return {**sizes, "build": str(tmp_path / "work"), "out": str(tmp_path / "models"), "least_map50": 0}


def test_the_notebook_trains_exports_and_measures(small, tmp_path, shipped, shipped_path):
    before = sha256(shipped_path)
    row = ds.run(NOTEBOOK, small, tmp_path / "executed", progress=False).frame.iloc[0]
    assert row["status"] == "done", row["error"]
    cells = nbformat.read(row["output"], as_version=4).cells
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]

    model = tmp_path / "models" / "yolo11n-ppe-320.onnx"
    record = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in model.parent.iterdir()) == ["yolo11n-ppe-320.json", "yolo11n-ppe-320.onnx"]
    assert record["sha256"] == row["sha256"] == sha256(model)
    assert record["made_with"] == training.versions()
    assert 0 <= record["evaluation"]["mAP50"] <= 1
    assert record["training"]["epochs"] == 1
    graph = ds.load(model)
    assert [(layer.name, layer.flops) for layer in graph.layers] == [(layer.name, layer.flops) for layer in shipped.layers]
    assert sha256(shipped_path) == before


def test_a_model_that_detects_too_little_does_not_go_to_out(small, tmp_path):
    row = ds.run(NOTEBOOK, small | {"least_map50": 0.99}, tmp_path / "executed", progress=False).frame.iloc[0]
    assert row["status"] == "failed"
    assert "is below least_map50 = 0.99" in row["error"]
    assert (tmp_path / "work" / "run" / "yolo11n-ppe-320.onnx").is_file()
    assert not (tmp_path / "models").exists()
