"""The notebook for a model of one's own: a small model that is not ours, and a folder of JPEGs."""

import json

import nbformat
import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.small_models import conv_net
from PIL import Image

import dnnsplit as ds


@pytest.mark.parametrize("measured_elsewhere", [False, True])
def test_a_model_and_a_folder_of_pictures_are_all_it_needs(tmp_path, measured_elsewhere):
    graph = ds.load(conv_net(tmp_path / "small.onnx"))
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        picture = Image.fromarray(rng.integers(0, 256, (40 + number, 60, 3), np.uint8))
        picture.save(tmp_path / "photos" / f"{number}.jpg")
    given = {"model": str(tmp_path / "small.onnx"), "images": str(tmp_path / "photos"), "preprocess": "letterbox,BGR"}
    given |= {"network": str(ROOT / "data" / "networks" / "device-edge.yaml"), "out": str(tmp_path / "out"), "max_noise": 1.0}
    few = {"calibration_images": 4, "noise_images": 3, "verify_images": 2, "runs": 3, "splits": 3, "requests": 2}
    if measured_elsewhere:
        images = ds.examples.load_images(tmp_path / "photos", 2, graph=graph, preprocess="letterbox,BGR", told=lambda line: None)
        for server in ("device", "edge"):
            times = ds.profile_here(graph, server, images, 3, runs=3, splits=0, progress=False)
            times.save(tmp_path / f"{server}.csv")
        few |= {"profiles": [str(tmp_path / f"{server}.csv") for server in ("device", "edge")], "budget": 7}
    row = ds.run(ROOT / "notebooks" / "10-your-model.ipynb", given | few, tmp_path / "runs", progress=False).frame.iloc[0]
    assert row["status"] == "done", row["error"]
    assert row["latency_s"] > 0
    assert row["measured_s"] > 0
    assert row["front"] >= 1
    shown = [o for cell in nbformat.read(row["output"], 4).cells for o in cell.get("outputs", [])]
    assert not [o for o in shown if o.output_type == "error" or o.get("name") == "stderr"]
    text = json.dumps([o.get("text") for o in shown])
    assert "4 of 9 pictures in" in text
    assert "letterbox,BGR,NCHW,scale=1/255 to 12 x 12 (as told" in text
    assert "3 layers may run in int8; 4 were asked for" in text
    times = ds.LayerTimes.load(tmp_path / "out" / "times.csv")
    assert set(times.frame["origin"]) == ({"measured"} if measured_elsewhere else {"measured", "scaled"})  # the edge is as fast
    plan = ds.Plan.load(tmp_path / "out" / "plan.json", graph)
    assert plan.latency_s == pytest.approx(row["latency_s"])
    assert {part.server for part in ds.Bundle.load(tmp_path / "out" / "parts").parts} == set(plan.servers)
    assert len(ds.NoiseSamples.load(tmp_path / "out" / "noise.csv").frame) == (7 if measured_elsewhere else 8)
