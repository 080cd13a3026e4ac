"""The index of the notebooks, and the environments that they are opened in elsewhere."""

import json
import re
import tomllib

from helpers.paths import ROOT
from packaging.specifiers import SpecifierSet
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDER = ROOT / "notebooks"


def test_every_notebook_and_sweep_file_has_its_row_and_nothing_else_has():
    rows = re.findall(
        r"^\| \[([\w-]+(?:\.yaml)?)\]\(([^)]+)\) \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(target for _, target in rows) == sorted(
        path.name for path in FOLDER.iterdir() if path.suffix in (".ipynb", ".yaml")
    )
    assert all(target in (name, f"{name}.ipynb") for name, target in rows)


def test_links_of_the_index_lead_somewhere():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((\.\./[^)#]+)\)", text):
        assert (FOLDER / target).exists(), target


class TestOpenedElsewhere:
    """Binder and dev containers set up what `make` does."""

    def test_binder_installs_the_package_with_the_versions_that_are_pinned(self):
        lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
        constraints, package, server = (line.split() for line in lines if not line.startswith("#"))
        assert constraints == ["-c", "../constraints.txt"]  # relative to the file
        assert (ROOT / ".binder" / constraints[1]).exists()
        assert package == ["-e", "."]  # relative to the folder of the repository, where pip runs
        assert re.fullmatch(r"notebook==[\d.]+", *server)
        runtime = re.fullmatch(r"python-(\d+\.\d+)\n", (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8"))
        assert Version(runtime[1]) in SpecifierSet(PROJECT["requires-python"])

    def test_the_dev_container_makes_the_environment_that_the_makefile_asks_for(self):
        container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
        image = re.fullmatch(r"python:(\d+\.\d+)-bookworm", container["image"])  # Debian 12, with make and git
        assert Version(image[1]) in SpecifierSet(PROJECT["requires-python"])
        (target,) = re.findall(r"&& make (\S+)$", container["postCreateCommand"])
        assert f"READY := {target}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
        assert container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
        assert [str(port) for port in container["forwardPorts"]] == [*container["portsAttributes"]] == ["8888"]  # JupyterLab's
