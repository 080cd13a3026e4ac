"""YOLO11 as ONNX: names, what is refused and told; and, where the extra is installed, the files themselves."""

import socket

import numpy as np
import onnx
import pytest
from helpers.small_models import conv_net, telling

import dnnsplit as ds
from dnnsplit.cli.main import main
from dnnsplit.examples import yolo11
from dnnsplit.ground.files import sha256
from dnnsplit.noise.metrics import shown
from dnnsplit.noise.segments import Segments

try:
    yolo11.versions()
    ABSENT = ""
except ds.DnnSplitError as problem:
    ABSENT = str(problem)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Ultralytics, which keeps its settings out of the home folder, and reaches no network."""
    if ABSENT:
        pytest.skip(ABSENT)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))

    def refuse(*_, **__):
        raise OSError("no network in a test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_family_has_five_sizes_of_three_tasks():
    assert len(yolo11.NAMES) == 15
    assert {"yolo11n", "yolo11m", "yolo11x-seg", "yolo11s-cls"} <= {*yolo11.NAMES}


@pytest.mark.parametrize(
    ("name", "near"),
    [("yolo11x-sge", "yolo11x-seg"), ("yolov11m", "yolo11m"), ("yolo11n-det", "yolo11n"), ("YOLO11L-CLS", "yolo11l-cls")],
)
def test_a_wrong_name_is_told_with_the_nearest_one(name, near):
    with pytest.raises(ds.OptionError, match=rf"there is no network '{name}' \(did you mean '{near}'\?\)"):
        ds.examples.export_yolo11(name)


def test_all_that_is_wrong_is_told_at_once_and_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(yolo11, "load_ultralytics", lambda threads: pytest.fail("loaded"))
    with pytest.raises(ds.OptionError) as caught:
        ds.examples.export_yolo11("yolo12n", tmp_path, 100, -1, np.zeros((2, 3, 32, 32)), "trained", 0)
    said = str(caught.value)
    for part in (
        "6 problems",
        "multiple of 32 (the coarsest stride of the detector), got 100",
        "no network 'yolo12n' (did you mean 'yolo11n'?)",
        "weights is 'trained' (did you mean 'untrained'?)",
        "seed is -1",
        "threads is 0",
        "images have the shape (2, 3, 32, 32); it must be (n, 3, 100, 100)",
    ):
        assert part in said
    with pytest.raises(ds.OptionError, match="images are for untrained weights"):
        ds.examples.export_yolo11("yolo11n", tmp_path, 32, images=np.zeros((2, 3, 32, 32)), weights="pretrained")
    assert not [*tmp_path.iterdir()]


def test_a_missing_extra_says_how_to_install_it(monkeypatch, tmp_path, capsys):
    def version(name):
        raise yolo11.PackageNotFoundError(name)

    monkeypatch.setattr(yolo11, "version", version)
    assert main(["export", "yolo11n", "-o", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "training and export need ultralytics, torch" in told
    assert 'install: pip install -e ".[train]"' in told
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("size", "tiles"), [(32, 1), (160, 1), (320, 2), (640, 4), (608, 2), (416, 2)])
def test_scenes_fill_an_input_of_any_size(monkeypatch, size, tiles):
    drawn = []

    def draw(count, seed, rows, side):
        drawn.append((count, seed, rows, side))
        return np.zeros((count, 3, rows * side, rows * side), np.float32), []

    monkeypatch.setattr(yolo11.scenes, "labelled_canvases", draw)
    assert yolo11.draw_scenes(size, seed=7).shape == (16, 3, size, size)
    assert drawn == [(16, 7, tiles, size // tiles)]


def test_a_folder_of_models_is_the_default(monkeypatch, tmp_path, capsys):
    asked = []

    def export(name, folder, **options):
        asked.append((name, str(folder), options["images"], options["weights"]))
        return yolo11.Exported(folder / f"{name}.onnx", "untrained: random", "no network")

    monkeypatch.setattr(ds.examples, "export_yolo11", export)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "yolo11n"]) == 0
    (tmp_path / "data" / "models").mkdir(parents=True)
    assert main(["export", "yolo11n", "--weights", "untrained"]) == 0
    assert asked == [("yolo11n", ".", None, "auto"), ("yolo11n", "data/models", None, "untrained")]
    said = capsys.readouterr()
    assert said.out.splitlines() == ["yolo11n.onnx: untrained: random", "data/models/yolo11n.onnx: untrained: random"]
    assert said.err.splitlines() == ["dnnsplit: no network"] * 2


def test_scenes_are_drawn_for_what_was_exported(tmp_path):
    own = ds.load(conv_net(tmp_path / "yolo11n-seg.onnx", size=32))
    with pytest.raises(ds.OptionError, match="images are drawn for the examples' models alone"):
        ds.examples.load_images(count=2, graph=own)
    graph = ds.load(telling(own.model_path, weights="untrained: random"))
    found = ds.examples.load_images(count=2, seed=3, graph=graph)
    assert (found == ds.scenes.labelled_canvases(2, 3, 1, 32)[0]).all()


@pytest.mark.usefixtures("installed")
def test_a_segmentation_is_exported_with_usual_outputs_and_says_what_its_weights_are(tmp_path, capsys):
    command = ["export", "yolo11n-seg", "-o", str(tmp_path), "--size", "160"]
    assert main(command) == 0
    path, said = tmp_path / "yolo11n-seg.onnx", capsys.readouterr()
    weights = "untrained: random, seed 0, BatchNorm from 16 images"
    assert said.out.splitlines()[-1] == f"{path}: {weights}"
    assert "yolo11n-seg.pt cannot be had from Ultralytics (" in said.err
    assert len(said.err.splitlines()) == 1
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata.keys() == {"author", "license", "names", "stride", "task", "weights"}
    assert (metadata["task"], metadata["stride"], metadata["weights"]) == ("segment", "32", weights)
    assert metadata["license"].startswith("AGPL-3.0")

    graph = ds.load(path)
    assert graph.weights == weights
    assert "/model.1/conv/Conv" in graph.layer_names
    images = ds.scenes.labelled_canvases(4, 1, 1, 160)[0]
    meter = ds.noise_meter(graph, images, layers=2, metric="disagreement")
    assert meter.origin["weights"] == weights
    outputs = meter.outputs(())
    found = [shown([outputs["output0"][i : i + 1], outputs["output1"][i : i + 1]]) for i in range(4)]
    assert all(isinstance(one, Segments) for one in found)
    assert sum(len(one.rows) for one in found) >= 4
    best = outputs["output0"][:, 4:-32].max(axis=1)
    assert 1e-4 < np.median(best) < 0.1 < best.max()
    assert 8 < np.median(outputs["output0"][:, 2:4]) < 320  # sides of boxes [pixels]
    assert 0 < meter(meter.layers) < 1

    first = sha256(path)
    assert main([*command, "--weights", "untrained"]) == 0
    assert sha256(path) == first
    assert main([*command, "--weights", "untrained", "--seed", "1"]) == 0
    assert sha256(path) != first


@pytest.mark.usefixtures("installed")
def test_a_classifier_takes_images_that_are_given(tmp_path):
    images = np.random.default_rng(0).random((3, 3, 64, 64))
    found = ds.examples.export_yolo11("yolo11n-cls", tmp_path, 64, images=images, weights="untrained")
    assert found == yolo11.Exported(tmp_path / "yolo11n-cls.onnx", "untrained: random, seed 0, BatchNorm from 3 images")
    graph = ds.load(found.path)
    with pytest.raises(ds.NoiseError, match="name the task 'classify'"):
        ds.measure_noise(graph, images.astype(np.float32), 2, metric="disagreement", progress=False)


@pytest.mark.usefixtures("installed")
def test_pretrained_weights_that_cannot_be_had_are_one_line(tmp_path):
    told = r"^yolo11n.pt cannot be had from Ultralytics \(.*; weights='untrained' needs none$"
    with pytest.raises(ds.DnnSplitError, match=told):
        ds.examples.export_yolo11("yolo11n", tmp_path, weights="pretrained")
    (tmp_path / "yolo11n.pt").write_bytes(b"no weights")
    with pytest.raises(ds.DnnSplitError, match=told):
        ds.examples.export_yolo11("yolo11n", tmp_path, weights="pretrained")
    assert [one.name for one in tmp_path.iterdir() if one.suffix == ".onnx"] == []
