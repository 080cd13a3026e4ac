"""Values are held against the annotations of parameters before a kernel starts."""

import pytest
from helpers.notebook_files import notebook
from helpers.paths import ROOT

import dnnsplit as ds
from dnnsplit.sweep.notebook import KINDS, check_parameters, declared

PARAMETERS = """
limit: float = 0.5  # a number
count: int = 3  # a whole number
name: str = "a"  # a text
many: list = []  # of anything
some: dict = {}  # by name
flag: bool = False  # yes or no
missing: float = None  # None: no limit
also: float | None = 1.0  # the same
either: "float or None" = 1.0  # the same
noise: "float or share" = 0.05  # or "50 %"
limits: "list[float or share]" = [0.1]  # the same
free = 1  # of no kind
other: Path = "a"  # of a kind that is not known here
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return notebook(tmp_path_factory.mktemp("n") / "n.ipynb", parameters=PARAMETERS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 1), ("limit", float("inf")), ("count", 4), ("many", ["a", 1]), ("many", (1, 2)), ("some", {"a": 1}),
        ("flag", True), ("missing", None), ("missing", 2), ("also", None), ("either", None), ("noise", "50 %"),
        ("noise", ".5%"), ("noise", 1), ("limits", [0, "10 %"]), ("limits", []), ("free", "a"), ("free", None), ("other", 3),
    ],
)  # fmt: skip
def test_values_of_the_kind_are_taken(path, name, value):
    assert check_parameters(path, {name: value})[name] == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("limit", "abc", "limit is 'abc'; give a number"),
        ("limit", [1], "limit is the list [1]; give a number"),
        ("limit", True, "limit is True; give a number"),
        ("limit", None, "limit is None; give a number"),
        ("limit", "50 %", "limit is '50 %'; give a number"),
        ("count", 1.5, "count is 1.5; give a whole number"),
        ("name", 3, "name is 3; give a text"),
        ("many", "ab", "many is 'ab'; give a list, such as ['ab']"),
        ("some", [1], "some is the list [1]; give a dictionary"),
        ("flag", 1, "flag is 1; give True or False"),
        ("also", "a", "also is 'a'; give a number or None"),
        ("either", "a", "either is 'a'; give a number or None"),
        ("noise", "abc", "noise is 'abc'; give a number or a share such as '50 %'"),
        ("noise", "-5 %", "noise is '-5 %'; give a number or a share such as '50 %'"),
        ("limits", [0, "abc"], "limits[1] is 'abc'; give a number or a share such as '50 %'"),
        ("limits", 0.5, "limits is 0.5; give a list of numbers or shares such as '50 %'"),
    ],
)
def test_others_are_refused_with_the_notebook_the_name_the_value_and_what_it_takes(path, tmp_path, name, value, told):
    with pytest.raises(ds.OptionError) as refused:
        ds.run(path, {name: value}, tmp_path / "out", progress=False)
    assert str(refused.value) == f"n.ipynb: {told}"
    assert not (tmp_path / "out").exists()


def test_all_of_them_at_once_and_in_a_sweep_file_too(path):
    (path.parent / "all.yaml").write_text("runs: [{notebook: n.ipynb, grid: {limit: [1, abc]}, parameters: {count: 1.5}}]")
    with pytest.raises(ds.OptionError, match=r"n\.ipynb: count is 1\.5; give a whole number"):
        ds.run(path.parent / "all.yaml", progress=False)
    with pytest.raises(ds.OptionError, match=r"(?s)3 problems.*no parameter 'nmae'.*limit is 'abc'.*count is 1\.5"):
        ds.run(path, {"limit": "abc", "count": 1.5, "nmae": "b"}, progress=False)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_tells_the_kinds_of_its_parameters_and_its_defaults_are_of_them(path):
    for name, (default, kind) in declared(path).items():
        assert kind.words != "anything", f"{path.name}: the annotation of {name} is none of {', '.join(KINDS)}"
        assert default is None or kind.fits(default), f"{path.name}: {name} is {default!r}, and {kind.words} by its annotation"
