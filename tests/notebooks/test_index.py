"""The index of the notebooks, and the environments that they are opened in elsewhere."""

import re

import pytest
from helpers.paths import ROOT

FOLDER = ROOT / "notebooks"


@pytest.mark.xfail(strict=True, reason="09-sweep and 10-your-model are not there yet")
def test_every_notebook_and_sweep_file_has_its_row_and_nothing_else_has():
    rows = re.findall(
        r"^\| \[([\w-]+(?:\.yaml)?)\]\(([^)]+)\) \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(target for _, target in rows) == sorted(
        path.name for path in FOLDER.iterdir() if path.suffix in (".ipynb", ".yaml")
    )
    assert all(target in (name, f"{name}.ipynb") for name, target in rows)
