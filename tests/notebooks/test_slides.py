"""The slides' figures go through the sweep of slides.yaml, of any model."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers.paths import ROOT
from helpers.small_models import conv_net, pictures

import dnnsplit as ds


def test_the_slides_figures_are_drawn_of_any_model_from_what_its_sweep_left(tmp_path):
    """Three layers in int8, two weights, two topologies; 07-scale and the slides' own numbers are where they are."""
    model = conv_net(tmp_path / "small.onnx", size=24)
    np.save(tmp_path / "images.npy", pictures(16, 24))
    own = {
        "model": str(model),
        "data": str(tmp_path / "data"),
        "out": str(tmp_path / "data"),
        "images": str(tmp_path / "images.npy"),
    }
    own |= {"instances": str(tmp_path / "data" / "instances"), "figures": str(tmp_path / "figures"), "models": ["none", "small"]}
    small = {"runs": 6, "splits": 3, "held_out": 3, "noise_images": 2, "verify_images": 4, "sizes": [4], "schemes": 0, "train": 2}
    few = {"count": 3, "degree": 1, "limits": [0, 1.0], "weights": [1, 0], "repeats": 2, "warm_up": 1, "bandwidths": ["1 MB/s"]}
    few |= {"regime_limits": [0, 1.0], "energy_shares": [0.5, 1.0], "slides_limit_s": 5, "source_seconds": 0.3, "budget": 40}
    frame = ds.run(ROOT / "notebooks" / "slides.yaml", own | small | few, tmp_path / "runs", progress=False).frame
    assert (frame["status"] == "done").all(), frame[["notebook", "cell", "error"]].to_string()
    for path in (tmp_path / "runs").glob("*/*.ipynb"):
        shown = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
        assert not [output for output in shown if output.get("name") == "stderr"], path.name
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {re.match(r"figure(\d+)", name)[1] for name in drawn} == {str(n) for n in range(1, 13)} - {"2"}
    said = (tmp_path / "runs" / "thesis" / "thesis.ipynb").read_text(encoding="utf-8")
    assert "Left out: none, for want of" in said
    table = pd.read_csv(tmp_path / "data" / "measurements" / "small.csv")
    assert sorted(set(table["latency_weight"])) == [0.0, 1.0]
    runs = pd.read_csv(tmp_path / "data" / "measurements" / "small.runs.csv")
    assert set(runs["plan_id"]) == set(table["plan_id"])
    medians = runs.groupby("plan_id")["latency_s"].median()
    assert table["latency_s"].to_numpy() == pytest.approx(medians[table["plan_id"]].to_numpy())
    recorded = ds.Instance.load(tmp_path / "data" / "instances" / "small")
    again = ds.split(*recorded, max_noise=0, source_forms=["float32"], wire_forms=["float32"])
    fastest = table[(table["topology"] == "device-edge-cloud") & (table["max_noise"] == 0) & (table["latency_weight"] == 1)]
    assert fastest["predicted_s"].item() == pytest.approx(again.latency_s)
