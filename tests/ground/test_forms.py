"""Values of files as dataclasses: types, keys, and what a dataclass itself refuses; all at once."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.forms import formed


@dataclass(frozen=True)
class Wheel:
    spokes: int
    radius_m: float = 0.3

    def __post_init__(self):
        if self.spokes < 3:
            raise DeployError(f"a wheel of {self.spokes} spokes breaks")


@dataclass(frozen=True)
class Cart:
    name: str
    wheels: tuple[Wheel, ...] = ()
    where: tuple[float, float] | None = None
    folder: Path = Path()


def test_lists_become_tuples_and_dataclasses_and_given_fields_are_kept():
    document = {"name": "a", "wheels": [{"spokes": 8, "radius_m": 1}], "where": [1, 2.5]}
    found = formed(document, Cart, DeployError, "cart", folder=Path("x"))
    assert found == Cart("a", (Wheel(8, 1.0),), (1.0, 2.5), Path("x"))
    assert isinstance(found.wheels[0].radius_m, float)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], r"it is \[\]: Expected `object`, got `array`"),
        ({}, "the key 'name' is missing"),
        ({"name": "a", "folder": "x"}, "the key 'folder' is unknown"),
        ({"name": "a", "wheels": [{"spokes": 8}, {"spoke": 8}]}, r"wheels\[1\]: the key 'spoke' is unknown .did you mean"),
        ({"name": "a", "wheels": [{"spokes": True}]}, r"wheels\[0\].spokes is True: Expected `int`"),
        ({"name": "a", "wheels": {"spokes": 8}}, r"wheels is \{'spokes': 8\}: Expected `array`"),
        ({"name": "a", "where": [1]}, r"where is \[1\]"),
        ({"name": "a", "wheels": [{"spokes": 2}]}, r"cart: a wheel of 2 spokes breaks - at `\$.wheels\[0\]`"),
    ],
)
def test_what_does_not_fit_is_refused(document, text):
    with pytest.raises(DeployError, match=text):
        formed(document, Cart, DeployError, "cart", folder=Path())


def test_all_is_told_at_once_and_keys_with_a_default_may_be_wanted():
    with pytest.raises(DeployError, match="3 problems") as caught:
        formed({"name": 3, "wheels": [{"spokes": 3}], "more": 1, "where": None}, Cart, DeployError, "cart", True, folder=Path())
    for text in ("name is 3", "wheels[0]: the key 'radius_m' is missing", "'more' is unknown"):
        assert re.search(re.escape(text), str(caught.value))
