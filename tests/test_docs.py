"""The documentation: the drawing has the imports of now, tables of data are those described, what is named exists."""

import re
import runpy
import subprocess

import pytest
import yaml
from helpers.paths import ROOT

import dnnsplit as ds
from dnnsplit.ground.tables import read_table

PAGES = (
    "CONTRIBUTING.md",
    "data/README.md",
    "CHANGELOG.md",
    *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md"))),
)


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
    """Columns by file of data/README.md, and whether all such files have them: headings name files, the tables below columns."""
    for heading, section in re.findall(r"^### (.*)\n((?:(?!#).*\n)*)", text, re.MULTILINE):
        rows = re.findall(r"^\| (`\S+`|a column per layer) \|(.*)", section, re.MULTILINE)
        for file in re.findall(r"`([^`]+)`", heading):
            yield file, {column.strip("`"): "no column" not in meaning for column, meaning in rows}


def paths_of(file):
    """Files of data that a name stands for; those of a model exist where its layers were read."""
    data = ROOT / "data"
    models = [path.name.removesuffix(".layers.csv") for path in (data / "models").glob("*.layers.csv")]
    names = {file.replace("<model>", model).replace("<topology>", "device*") for model in models}
    return [path for name in names for path in data.glob(name)]


def columns_of(path, layers):
    """Columns of a table; those of layers, and of servers, stand for all of them."""
    columns = ["a column per layer" if column in layers else column for column in read_table(path).columns]
    return list(dict.fromkeys(re.sub("_(device|edge|cloud)$", "_<server>", column) for column in columns))


def test_the_columns_of_every_table_are_those_described():
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    layers = {layer for path in paths_of("models/<model>.layers.csv") for layer in read_table(path)["layer"]}
    described_files = dict(described(text))
    for file, columns in described_files.items():
        paths = paths_of(file)
        assert paths, file
        for path in paths:
            found = columns_of(path, layers)
            assert found == [column for column, always in columns.items() if always or column in found], path.name
    assert len(described_files) == len(list(described(text)))


def test_every_file_of_data_is_described():
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    tracked = subprocess.run(["git", "ls-files", "data"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named = {path for file in re.findall(r"`([\w-][^`\s]*\.\w+)`", text) for path in paths_of(file)}
    assert {ROOT / file for file in tracked} - named == {ROOT / "data" / "README.md", ROOT / "data" / "models" / "README.md"}


def test_the_version_is_one():
    version = ds.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
