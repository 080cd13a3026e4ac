"""The documentation: the drawing has the imports of now, tables of data are those described, what is named exists."""

import re
import runpy
import subprocess
import tomllib

import pytest
import yaml
from helpers.paths import ROOT

from dnnsplit.ground.tables import read_table

PAGES = ("CONTRIBUTING.md", "docs/architecture.md", "data/README.md", "CHANGELOG.md")


@pytest.fixture(scope="module")
def architecture():
    return runpy.run_path(str(ROOT / "docs" / "architecture.py"))


def test_the_drawing_has_the_imports_of_now(architecture):
    assert architecture["drawn"]() == architecture["edges"](), "python docs/architecture.py draws it again"


def test_every_room_has_its_place_in_the_drawing(architecture):
    assert set(architecture["PLACE"]) == {room for layer in architecture["layers"]() for room in layer}


def test_the_table_of_rooms_is_that_of_their_docstrings(architecture):
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert architecture["TABLE"].search(text)[0] == architecture["rooms_table"](), "python docs/architecture.py writes it again"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (folder / target).exists(), target
    for name in re.findall(r"`((?:dnnsplit|tests|bench|notebooks|docs|data)/[\w./*-]+)`", text):
        assert list(ROOT.glob(name.rstrip("/"))), name


def described(text):
    """Columns by file of data/README.md: headings name files, the first column of the table below names columns."""
    for heading, section in re.findall(r"^### (.*)\n((?:(?!#).*\n)*)", text, re.MULTILINE):
        columns = re.findall(r"^\| (`\S+`|a column per layer) \|", section, re.MULTILINE)
        for file in re.findall(r"`([^`]+)`", heading):
            yield file, [column.strip("`") for column in columns]


def as_glob(file):
    return file.replace("<model>", "yolo11n-ppe-320").replace("<topology>", "device*")


def test_the_columns_of_every_table_are_those_described():
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    layers = set(read_table(ROOT / "data" / "models" / "yolo11n-ppe-320.layers.csv")["layer"])
    described_files = dict(described(text))
    for file, columns in described_files.items():
        paths = list((ROOT / "data").glob(as_glob(file)))
        assert paths, file
        for path in paths:
            found = [column for column in read_table(path).columns if column not in layers]
            per_layer = len(found) < len(read_table(path).columns)
            assert ["a column per layer"] * per_layer + found == columns, path.name
    assert len(described_files) == len(list(described(text)))


def test_every_file_of_data_is_described():
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    tracked = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named = {path for file in re.findall(r"`([\w-]+/[^`\s]+\.\w+)`", text) for path in (ROOT / "data").glob(as_glob(file))}
    assert {ROOT / file for file in tracked} - named == {ROOT / "data" / "README.md", ROOT / "data" / "models" / "README.md"}


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
