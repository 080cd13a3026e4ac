"""The notebook that deploys: three agents on this machine, a link that drops, another limit."""

import json

import nbformat
from helpers.paths import ROOT
from helpers.small_parameters import small_deployment

import dnnsplit as ds


def test_a_model_is_deployed_and_follows_its_links(tmp_path):
    given = small_deployment(tmp_path)
    row = ds.run(ROOT / "notebooks" / "09-deploy.ipynb", given, tmp_path / "runs", progress=False).frame.iloc[0]
    assert row["status"] == "done", row["error"]
    assert row["switches"] >= 3  # deployed, dropped, deployed again
    assert row["again_s"] > 0
    assert 0 < row["before_s"] < row["after_s"]
    shown = [o for cell in nbformat.read(row["output"], 4).cells for o in cell.get("outputs", [])]
    assert not [o for o in shown if o.output_type == "error" or o.get("name") == "stderr"]
    assert "went from 20 MB/s to 20 kB/s" in json.dumps([o.get("data") for o in shown])
