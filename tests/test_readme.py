"""The README: its code runs, its output is what is printed, its links lead somewhere."""

import contextlib
import io
import re

import pytest
from helpers.paths import ROOT

from dnnsplit.ground.files import sha256

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language):
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[1]


def test_the_code_runs_and_prints_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block("python"), "README.md", "exec"), {})
    shown = block("text").splitlines()
    found = printed.getvalue().splitlines()
    assert [line.split("(")[0].split(":")[0].split()[0] for line in found] == [
        line.split("(")[0].split(":")[0].split()[0] for line in shown
    ]
    profile = re.search(r"<!-- profile sha256 (\w+) -->", TEXT)[1]
    if sha256(ROOT / "data" / "profiles" / "yolo11n-ppe-320.csv") != profile:
        pytest.skip("the profile was measured again on this machine; the README shows the shipped one")
    assert found == shown


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 150
