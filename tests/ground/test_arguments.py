"""Kinds of arguments, as signatures tell them, and the words for what is none of them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NetworkError, OptionError

PAIR = ("a", "b")
HUGE = [Fraction(10**400), np.longdouble("1e4000")]  # no float is as large


@dataclass(frozen=True)
class Lamp:
    name: str
    watts: float = 5.0

    def __post_init__(self) -> None:
        check_arguments(Lamp, vars(self), NetworkError, least={"watts": 0}, some=("name",))


class Odd:
    """A path that gives something else than a text."""

    def __init__(self, given):
        self.given = given

    def __fspath__(self):
        return self.given


def taken(hint: Any, value: Any) -> str:
    """Give a value to a function whose argument x has this type; return what is said of it, "" if nothing."""

    def called(x):
        check_arguments(called, locals())

    called.__annotations__ = {"x": hint}
    try:
        called(value)
    except OptionError as error:
        return str(error).partition(": ")[2]
    return ""


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (
            float,
            [0, -1.5, np.float32(1), np.int64(2), math.inf],
            [True, np.bool_(True), "1", None, math.nan, 10**400, 1j, Fraction(10**400), np.longdouble("1e4000")],
        ),
        (int, [0, -3, np.uint8(2), 2**63 - 1], [1.0, True, "1", None, 10**400]),
        (bool, [True, np.bool_(False)], [0, 1, "yes", None]),
        (str, ["", "a", np.str_("a")], [b"a", None, 3, Path("a")]),
        (str | Path, ["a", Path("a"), "a\udcff"], [b"a", None, 3, Path("a\0b"), "a\0b", "\ud800", Odd(b"a"), Odd(3)]),
        (Sequence[int], [[1], range(3)], [range(10**12), range(10**30)]),
        (float | None, [None, 1], ["", False]),
        (Sequence[str], [(), ["a"], ("a",), {"a": 1}.keys(), {"a"}], ["ab", b"ab", [3], {"a": 1}, iter(["a"]), np.array(["a"])]),
        (Iterable[str], [iter(["a"]), ["a"], {"a": 1}], ["ab", [3], {3: 1}, 3]),
        (Sequence[float], [[1, 2.5], np.linspace(0, 1, 3), pd.Series([1.0])], ["1", 1.0, ["1"], [math.nan], np.array(1.0)]),
        (Sequence[str], [], [pd.DataFrame({"a": [1]})]),
        (Sequence[tuple[str, str]], [[("a", "b")], [["a", "b"]]], [("a", "b"), [("a",)], ["ab"]]),
        (Mapping[str, Sequence[str]], [{}, {"a": ["b"]}], [{"a": "b"}, {1: ["b"]}, [("a", ["b"])], None]),
        (Callable[[str], None], [print, str.upper], ["print", None]),
        (Lamp, [Lamp("a")], ["a", Lamp, None, {"name": "a"}]),
        (np.ndarray, [np.zeros(2), np.zeros((1, 1), bool)], [[0.0], 1.0, np.array(["a"]), None]),
        (np.ndarray | Mapping[str, Any], [np.zeros(2), [0.0], {"a": 3}], ["a", None, object()]),
        (Any, [None, object()], []),
    ],
)
def test_a_value_is_of_the_kind_that_its_type_tells(hint, right, wrong):
    assert [taken(hint, value) for value in right] == [""] * len(right)
    assert [value for value in wrong if not taken(hint, value)] == []


@pytest.mark.parametrize(
    ("hint", "value", "says"),
    [
        (str, 3, "x is 3; give a text"),
        (int | None, True, "x is True; give a whole number or None"),
        (float, 10**400, "x is a whole number of 1329 bits; give a number"),
        (Lamp, object(), "x is of the type object; give a Lamp"),
        (Sequence[str], "conv", "x is 'conv'; give a list of texts, such as ['conv']"),
        (Sequence[Sequence[str]], ["a"], "x is the list ['a']; give a list of lists of texts, such as [['a']]"),
        (Sequence[tuple[str, str]], PAIR, f"x is the tuple {PAIR}; give a list of tuples (a text, a text), such as [{PAIR}]"),
        (Mapping[str, float], {"a": "b"}, "x['a'] is 'b'; give a number"),
        (Mapping[str, float], {1: 2.0}, "x: its key 1 is 1; give a text"),
        (Mapping[str, float], Path("a"), "x is the path 'a'; give a mapping of texts to numbers"),
        (int, "a" * 1000, f"x is '{'a' * 79}...; give a whole number"),
        (Sequence[str], [object()], "x[0] is of the type object; give a text"),
        (str, [object(), 10**400], "x is the list [<object>, a whole number of 1329 bits]; give a text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place_and_what_to_give(hint, value, says):
    assert taken(hint, value) == says


def test_a_dataclass_checks_its_fields_and_bounds_in_its_own_error():
    assert Lamp("desk", np.float64(3)).watts == 3
    with pytest.raises(NetworkError, match=r"^Lamp: 2 problems\n.* name is 3; give a text, not empty\n  \* watts is '5 W'; give"):
        Lamp(3, "5 W")
    with pytest.raises(NetworkError, match=r"watts is -1; give a number, 0 or more$"):
        Lamp("desk", -1)
    with pytest.raises(NetworkError, match=r"name is ''; give a text, not empty$"):
        Lamp("")


def test_bounds_are_told_together():
    def wait(seconds: float, times: int = 1) -> None:
        check_arguments(wait, locals(), above={"seconds": 0}, least={"times": 1}, most={"times": 9}, finite=("seconds",))

    wait(np.float32(0.5), np.int8(9))
    with pytest.raises(
        OptionError, match=r"2 problems\n.* times is 10; .* 1 or more, 9 or less\n.* seconds is inf; .* above 0, finite"
    ):
        wait(math.inf, 10)


def test_what_others_check_is_left_to_them():
    def wait(seconds: float) -> None:
        check_arguments(wait, locals(), but=("seconds",))

    wait("5 s")
