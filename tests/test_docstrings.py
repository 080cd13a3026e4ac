"""Public functions and classes document what they take, in numpydoc's form, with an example that runs."""

import doctest
import functools
import importlib
import inspect
import re
from types import ModuleType

import matplotlib.pyplot as plt
import pytest
from helpers.paths import ROOT
from numpydoc.validate import validate

import dnnsplit as ds

CHECKS = {
    "GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "SS01", "SS03", "SS04",
    "PR01", "PR02", "PR03", "PR04", "PR05", "PR06", "PR07", "PR09", "PR10", "RT02", "RT05",
}  # fmt: skip
OBJECTS = {name: value for name in ds.__all__ if callable(value := getattr(ds, name))}
SHOWN = OBJECTS | {
    f"{place}.{name}": value
    for place in ("plots", "examples", "scenes")
    for name in getattr(ds, place).__all__
    if callable(value := getattr(getattr(ds, place), name)) and not isinstance(value, ModuleType)
}
# by the name of a public object, why lines of its example cannot be run by a test
SKIPPED = {
    "explore": "a widget of JupyterLab, whose repr differs by version; tests/plots/test_sliders.py moves it",
    "examples.export_yolo11": "needs the extra train, and minutes",
    "examples.ppocr_det": "needs the package rapidocr, which is installed by hand",
    "measure_power": "needs counters of energy that few machines have; tests/profiling/test_power.py has a stand-in",
    "Power": "as measure_power",
    "serve": "it answers until its process is ended; the example of testbed starts such a process",
    "deploy": "it profiles, probes and measures on agents for half a minute or more; tests/agents/test_deploying.py does",
    "Deployed": "as deploy, which returns one",
    "undeploy": "as deploy, whose deployment it ends",
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "dnnsplit").rglob("*.py"))
}


def undocumented(name, found):
    """Return what PR01 misses, but for private parameters, what results hold (`Attributes`), and what a base class documents."""
    text = next((text for code, text in found["errors"] if code == "PR01"), "")
    told = inspect.isclass(OBJECTS[name]) and ("Attributes\n----" in found["docstring"] or "__init__" not in vars(OBJECTS[name]))
    return [] if told else [parameter for parameter in re.findall(r"'([^']+)'", text) if not parameter.startswith("_")]


@pytest.mark.parametrize("name", OBJECTS)
def test_public_names_document_their_parameters_in_numpydoc_form(name):
    found = validate(f"dnnsplit.{name}")
    assert [f"{code} {text}" for code, text in found["errors"] if code in CHECKS - {"PR01"}] == []
    assert undocumented(name, found) == []


def test_a_parameter_without_documentation_is_noticed(monkeypatch):
    def listen(port: int) -> None:
        """Listen."""

    monkeypatch.setitem(OBJECTS, "listen", listen)
    assert undocumented("listen", {"errors": [("PR01", "Parameters {'port', '_x'} not documented")], "docstring": ""}) == ["port"]


def examples_of(value):
    """Return the examples of its own docstring; a class that has none would show its base's."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return doctest.DocTestParser().get_examples(text or "")


def left_out(value):
    return [one.source for one in examples_of(value) if one.options.get(doctest.SKIP)]


@pytest.mark.parametrize("name", SHOWN)
def test_public_names_have_an_example(name):
    examples = examples_of(SHOWN[name])
    assert any("ds." in one.source for one in examples)  # by the name that users have
    assert not left_out(SHOWN[name]) or name in SKIPPED


def test_what_is_left_out_has_a_reason_and_no_reason_is_left_over():
    assert {name for name, value in SHOWN.items() if left_out(value)} == set(SKIPPED)


@pytest.fixture(scope="module")
def _once():
    """The shipped example is read once for all modules; its objects never change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ds.examples, "yolo11n", functools.cache(ds.examples.yolo11n))
        yield


@pytest.mark.usefixtures("_once")
@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if ">>> " in path.read_text(encoding="utf-8")])
def test_the_examples_in_docstrings_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    found = doctest.testmod(importlib.import_module(name), extraglobs={"ds": ds})
    plt.close("all")
    assert found.attempted > 0
    assert found.failed == 0
