"""Public functions and classes document what they take, in numpydoc's form."""

import inspect
import re

import pytest
from numpydoc.validate import validate

import dnnsplit

CHECKS = {
    "GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "SS01", "SS03", "SS04",
    "PR01", "PR02", "PR03", "PR04", "PR05", "PR06", "PR07", "PR09", "PR10", "RT02", "RT05",
}  # fmt: skip
OBJECTS = {name: value for name in dnnsplit.__all__ if callable(value := getattr(dnnsplit, name))}


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
