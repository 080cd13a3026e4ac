"""Every notebook is thin, carries no outputs, and runs with small parameters through the runner."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import onnx
import pandas as pd
import pytest
import yaml
from helpers.paths import ROOT
from helpers.small_models import conv_net, images
from helpers.small_parameters import SMALL
from papermill import inspect_notebook

import dnnsplit as ds
from dnnsplit.sweep.jobs import WRITTEN, jobs_of
from dnnsplit.sweep.notebook import KINDS, parameters_of

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
THESIS, SLIDES, MODEL, SWEEP = (
    yaml.safe_load((ROOT / "notebooks" / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("thesis", "slides", "model", "sweep")
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_thin_and_carries_no_outputs(path):
    document = nbformat.read(path, as_version=4)
    code = [cell for cell in document.cells if cell.cell_type == "code"]
    assert len(code) <= 15
    assert sum(len(cell.source.splitlines()) for cell in code) <= 85
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert not any("def " in cell.source for cell in code)
    assert document.metadata["kernelspec"]["name"] == "python3"
    assert document.cells[0].cell_type == "markdown"
    assert document.cells[0].source.startswith("# ")
    parameters = parameters_of(path)
    known = {p["name"]: p for p in inspect_notebook(str(path)).values()}  # what papermill --help-notebook shows
    assert list(known) == list(parameters)
    for name, parameter in known.items():
        kinds = set(re.findall(r"\w+", parameter["inferred_type_name"] or "none"))
        assert kinds <= {*KINDS, "or"} - {"bool"}, f"{path.name}: {name} has no type"
        assert parameter["help"], f"{path.name}: say what {name} is for"


def test_the_reports_draw_every_figure_from_the_data():
    documents = [nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4) for name in ("08-figures", "thesis")]
    report, thesis = ("\n".join(c.source for c in document.cells if c.cell_type == "code") for document in documents)
    code = report + thesis.replace("ds.split(", "", 2)  # the plans below Figures 6 and 9, of an instance
    assert not [name for name in ds.plots.__all__ if not name.startswith("save") and f"ds.plots.{name}(" not in code]
    assert "ds.plots.save_and_show" in code
    assert not [name for name in ("split", "pareto", "profile", "measure_noise", "bandwidths") if f"ds.{name}(" in code]


def test_sweeps_list_the_notebooks_in_order():
    for sweep in (THESIS, SLIDES, MODEL):
        listed = [run["notebook"] for run in sweep["runs"]]
        assert listed == sorted(listed)
    listed = [run["notebook"] for sweep in (THESIS, SLIDES) for run in sweep["runs"]]
    assert {path.name for path in NOTEBOOKS} == {
        *listed, "00-quickstart.ipynb", "09-deploy.ipynb", "09-sweep.ipynb", "10-your-model.ipynb", "train-yolo11n.ipynb",
    }  # fmt: skip


def tracked_files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(ROOT / "data" / "runs")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A copy of the notebooks with data folders of its own, so that a test never overwrites the shipped results."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for name in ("models", "networks"):
        shutil.copytree(ROOT / "data" / name, folder / "data" / name)
    return folder


def test_quickstart_answers_from_the_shipped_data(tmp_path):
    row = ds.run(ROOT / "notebooks" / "00-quickstart.ipynb", {"max_noise": 0.05}, tmp_path, progress=False).frame.iloc[0]
    assert row["status"] == "done", row["error"]
    assert row["latency_s"] > 0
    assert row["noise"] <= 0.05


def test_the_whole_line_runs_with_small_parameters(workplace):
    runs = [{**run, "parameters": SMALL.get(run["notebook"], {})} for run in THESIS["runs"]]
    (workplace / "notebooks" / "small.yaml").write_text(yaml.safe_dump(THESIS | {"runs": runs}), encoding="utf-8")
    runs = ds.run(workplace / "notebooks" / "small.yaml", out=workplace / "runs", progress=False)
    frame = runs.frame.set_index("notebook")
    assert (frame["status"] == "done").all(), frame[["cell", "error"]].to_string()
    assert len(frame) == len(THESIS["runs"])

    for path in (workplace / "runs").glob("*/0*.ipynb"):
        shown = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
        assert not [o for o in shown if o.output_type == "error" or o.get("name") == "stderr"], path.name
        words = ("Warning", "Traceback", "IProgress not found")
        assert not [o for o in shown for word in words if word in json.dumps(o.get("data", o.get("text")))], path.name
        pictures = [o.data["image/png"] for o in shown if "image/png" in o.get("data", {})]
        assert len(pictures) == len(set(pictures)), f"{path.name} shows a figure twice"

    name, data, figures = "yolo11n-ppe-320", workplace / "data", workplace / "figures"
    times = ds.LayerTimes.load(data / "profiles" / f"{name}.csv")
    assert times.seconds_of("device") == pytest.approx(0.4)
    assert set(times.frame["origin"]) == {"scaled"}
    tests = pd.read_csv(data / "measurements" / f"{name}.csv")
    assert len(tests) == 6  # three topologies, two limits
    assert (tests["output_difference"] <= 1e-3).all()
    # on other images than those of the plans; that it is the noise of the plan's scheme, the test itself has checked
    assert tests["output_noise"].to_numpy() == pytest.approx(tests["noise"].to_numpy(), rel=0.3, abs=1e-6)
    assert (tests["noise"] <= tests["noise_upper"]).all()
    assert (tests["noise_upper"] <= tests["max_noise"]).all()
    assert (tests["latency_s"] > 0).all()
    beside = pd.read_csv(data / "measurements" / f"{name}.baselines.csv").set_index("by")
    assert list(beside.index) == ["plan", "slides", "cloud alone"]
    assert beside["source_form"]["slides"] == "float32"
    assert (beside["output_noise"] == 0).all()
    assert beside["predicted_s"]["plan"] <= beside["predicted_s"].min()
    samples = ds.NoiseSamples.load(data / "noise" / f"{name}.csv")
    assert list(samples.sources) == ["float16", "jpeg-95", "jpeg-90", "webp-90"]
    assert {int(part.spread[0, 1]) for part in samples.sources.values()} == {8}  # of the images that verify
    regimes = pd.read_csv(data / "plans" / f"{name}.regimes.csv")
    assert regimes["gain"].min() >= -1e-9
    for stem in (
        "figure2-noise-fit",
        "figure3-device",
        "figure4-device-edge",
        "figure5-device-edge-cloud",
        "noise-task",
        "placement",
        "regimes-device-edge",
        "regimes-device-edge-cloud",
        "source-forms",
    ):
        assert (figures / f"{stem}.svg").stat().st_size > 2000
        assert (figures / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((figures / f"{stem}.json").read_text(encoding="utf-8"))["figure"] == stem


def test_only_the_sweep_of_the_thesis_writes_where_tracked_files_are(tmp_path):
    """Nor does a notebook that is opened by hand, whose defaults lead into a folder that git ignores."""
    tracked = [ROOT / "data", ROOT / "figures"]
    ignored = ROOT / "data" / "runs"
    for path in [*NOTEBOOKS, *(ROOT / "notebooks").glob("*.yaml")]:
        by_hand = [] if path.suffix == ".yaml" else [parameters_of(path)]
        for parameters in [*by_hand, *(job.parameters for job in jobs_of(path, {}, {}, tmp_path))]:
            places = [(ROOT / "notebooks" / parameters[name]).resolve() for name in WRITTEN if parameters.get(name)]
            there = [place for place in places if any(map(place.is_relative_to, tracked)) and not place.is_relative_to(ignored)]
            assert not there or path.name == "thesis.yaml", f"{path.name} writes to {there}"


def test_a_sweep_of_plans_leaves_the_repository_as_it_is_and_its_runs_agree_with_the_library(tmp_path):
    small = {"limits": [0.05], "bandwidths": ["5 MB/s"], "finer": ["1 MB/s", "5 MB/s"], "workers": 1}
    before = {path: path.stat().st_mtime_ns for name in ("data", "figures", "notebooks") for path in tracked_files(ROOT / name)}
    row = ds.run(ROOT / "notebooks" / "09-sweep.ipynb", small, tmp_path / "runs", progress=False).frame.iloc[0]
    assert row["status"] == "done", row["error"]
    assert (row["points"], row["runs"], row["failed"], row["worst_difference"]) == (4, 2, 0, 0.0)
    shown = [o for cell in nbformat.read(row["output"], 4).cells for o in cell.get("outputs", [])]
    assert not [o for o in shown if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in shown) == 1
    table = ds.results([Path(row["output"]).parent / name for name in ("sweep", "others")])
    assert table["sweep"].to_list() == ["sweep", "others"]
    assert (table["status"] == "done").all()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not [path for name in ("data", "figures", "notebooks") for path in tracked_files(ROOT / name) if path not in before]


def test_the_sweep_file_is_a_grid_of_three():
    (entry,) = SWEEP["runs"]
    jobs = jobs_of(ROOT / "notebooks" / "sweep.yaml", {}, {}, ROOT / "runs")
    assert len(jobs) == np.prod([len(values) for values in entry["grid"].values()]) == 18


def test_another_model_has_its_own_sweep_of_the_same_notebooks():
    assert [run["notebook"] for run in MODEL["runs"]] == [
        run["notebook"] for run in THESIS["runs"] if run["notebook"] != "07-scale.ipynb"
    ]


def test_another_model_goes_through_all_notebooks_into_folders_of_its_own(workplace):
    """Two layers of int8 alone, as on the slides, an open input, inputs by name; nothing of the shipped model's is touched."""
    model = onnx.load(conv_net(workplace / "small.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim[2:], "hw", strict=True):
            axis.dim_param = name + value.name
    onnx.save(model, workplace / "small.onnx")
    np.savez(workplace / "images.npz", x=images(16))
    before = {path: path.stat().st_mtime_ns for path in (workplace / "data").rglob("*") if path.is_file()}
    own = {"figures": str(workplace / "own" / "figures")}
    given = {"model": str(workplace / "small.onnx"), "shapes": {"x": [1, 3, 12, 12]}, "images": str(workplace / "images.npz")}
    small = {
        "runs": 6,
        "splits": 3,
        "held_out": 3,
        "calibration_images": 4,
        "noise_images": 2,
        "verify_images": 8,
        "sizes": [4, 80],
        "setting": "thesis",
    }
    few = {"count": 2, "limits": [0, "60 %"], "repeats": 2, "warm_up": 1, "bandwidths": ["1 MB/s"], "weights": [[1.0, 0.0]]}
    few |= {"networks": ["../data/networks/device-edge.yaml"], "topologies": ["device-edge"], "energy_shares": [0.5, 1.0]}
    frame = ds.run(
        workplace / "notebooks" / "model.yaml", own | given | small | few, workplace / "own", progress=False
    ).frame.set_index("notebook")  # fmt: skip
    assert (frame["status"] == "done").all(), frame[["cell", "error"]].to_string()
    assert {path: path.stat().st_mtime_ns for path in (workplace / "data").rglob("*") if path.is_file()} == before
    tests = pd.read_csv(workplace / "own" / "measurements" / "small.csv")
    samples = ds.NoiseSamples.load(workplace / "own" / "noise" / "small.csv")
    made = ds.LayerTimes.load(workplace / "own" / "profiles" / "small.csv").made["device"]
    assert samples.origin["setting"] == made["setting"] == vars(ds.QuantizationSetting.of("thesis"))
    all_int8 = float(samples.noise.max())
    assert (tests["noise"] <= tests["max_noise"]).all()
    assert 0.6 * all_int8 <= tests["max_noise"].max() <= 3 * all_int8  # of its upper bound
    said = (workplace / "own" / "03-noise" / "03-noise.ipynb").read_text(encoding="utf-8")
    assert "too few schemes for a polynomial" in said
    assert "scores are of the shipped detector's scenes, and of classifiers" in said
    assert "no input has the form 'jpeg-95'" in said
    assert "it needs no model" in (workplace / "own" / "08-figures" / "08-figures.ipynb").read_text(encoding="utf-8")
    assert not [path for path in (workplace / "own" / "figures").glob("*2-noise-fit*")]
    assert (workplace / "own" / "figures" / "figure3-device-edge.svg").stat().st_size > 2000


def test_noise_of_another_setting_than_the_times_is_refused_before_anything_is_measured(tmp_path):
    graph = ds.load(conv_net(tmp_path / "small.onnx"))
    rows = pd.DataFrame({"layer": graph.layer_names, "server": "device", "precision": "float32", "seconds": 1.0})
    times = ds.LayerTimes(rows, made={"device": {"setting": vars(ds.QuantizationSetting.of("thesis"))}})
    times.save(tmp_path / "profiles" / "small.csv")
    given = {"model": str(graph.model_path), "data": str(tmp_path), "out": str(tmp_path), "images": "there-are-none.npy"}
    row = ds.run(ROOT / "notebooks" / "03-noise.ipynb", given, tmp_path / "runs", progress=False).frame.iloc[0]
    assert row["status"] == "failed"
    assert "mixed, 'default' in the noise, 'thesis' in the times of device; measure all with one" in row["error"]
    assert not (tmp_path / "noise").exists()


def test_a_recorded_instance_is_planned_and_drawn_without_its_model(tmp_path):
    example = ds.examples.random_problem(10, 3, 2, seed=3)
    example.save(tmp_path / "slides")
    places = {"data": tmp_path / "own", "out": tmp_path / "own", "figures": tmp_path / "own" / "figures"}
    own = {"instance": str(tmp_path / "slides"), **{name: str(place) for name, place in places.items()}}
    few = {
        "limits": [0.0, 0.1],
        "regime_limits": [0.0, 0.1],
        "bandwidths": ["1 MB/s"],
        "weights": [[1.0, 0.0]],
        "energy_shares": [1.0],
    }
    said = []
    for name in ("04-split", "05-pareto", "08-figures"):
        path = ROOT / "notebooks" / f"{name}.ipynb"
        parameters = {key: value for key, value in (own | few).items() if key in parameters_of(path)}
        row = ds.run(path, parameters, tmp_path / "runs", progress=False).frame.iloc[0]
        assert row["status"] == "done", row["error"]
        cells = nbformat.read(row["output"], 4).cells
        said.append("".join(o.text for c in cells for o in c.get("outputs", []) if o.get("name") == "stdout"))
    assert all("slides is a recorded instance, without its model" in text for text in said)
    left_out = [line.split(", for want of")[0] for line in said[-1].splitlines() if line.startswith("Left out: ")]
    assert [line.removeprefix("Left out: ") for line in left_out] == [
        "Figure 2",
        "measured points and errors of predictions",
        "predictions of splits",
        "what the noise means for the task",
        "learning curves, and what wrong noise costs",
        "solve times, which 07-scale measures (it needs no model)",
    ]
    names = example.network.server_names
    for number, count in enumerate((1, 2, 3), start=3):
        topology = "-".join(names[:count])
        front = pd.read_csv(tmp_path / "own" / "plans" / f"slides.{topology}.front.csv", keep_default_na=False)
        exact = ds.pareto(example.graph, example.network.only(*names[:count]), example.times, example.noise).frame
        assert front["latency_s"].to_numpy() == pytest.approx(exact["latency_s"].to_numpy())
        assert (tmp_path / "own" / "figures" / f"figure{number}-{topology}.svg").stat().st_size > 2000


class TestShippedFigures:
    """The committed figures tell the same story as the committed data."""

    def test_fronts_fall_with_the_limit_and_more_servers_are_never_slower(self):
        fronts = []
        for number, topology in enumerate(ds.examples.TOPOLOGIES, start=3):
            front = json.loads((ROOT / "figures" / f"figure{number}-{topology}.json").read_text(encoding="utf-8"))["front"]
            assert front["noise"][0] == 0
            assert front["noise_upper"] == sorted(front["noise_upper"])  # what is limited
            assert front["latency_s"] == sorted(front["latency_s"], reverse=True)
            fronts.append(front["latency_s"])
        assert fronts[0][0] >= fronts[1][0] >= fronts[2][0]
        assert fronts[0][-1] >= fronts[1][-1] >= fronts[2][-1]

    def test_the_shipped_front_is_what_the_shipped_data_give(self):
        for topology in ds.examples.TOPOLOGIES:
            stored = pd.read_csv(ROOT / "data" / "plans" / f"yolo11n-ppe-320.{topology}.front.csv", keep_default_na=False)
            front = ds.pareto(*ds.examples.yolo11n(topology), confidence=0.95).frame
            for column in ("noise", "noise_upper", "latency_s"):
                assert stored[column].to_numpy() == pytest.approx(front[column].to_numpy())

    def test_the_noise_table_is_exhaustive_and_of_the_shipped_model(self, shipped_path):
        samples = ds.NoiseSamples.load(ROOT / "data" / "noise" / "yolo11n-ppe-320.csv")
        from dnnsplit.ground.files import sha256

        assert len(samples.frame) == 2 ** len(samples.layers) == 4096
        assert samples.origin["model_sha256"] == sha256(shipped_path)
        assert samples.layers == ds.load(shipped_path).quantizable(12)
