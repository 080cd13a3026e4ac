"""Every stage object shows itself in a notebook, and no name in it becomes HTML."""

import inspect
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from helpers.stages import NO_STAGES, SOME

import dnnsplit as ds
from dnnsplit.ground.markup import MOST, Readable, shown


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.names, self.open = set(), []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.open += [] if tag == "br" else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_public_class_is_among_them():
    public = {n for n in ds.__all__ if inspect.isclass(getattr(ds, n)) and not issubclass(getattr(ds, n), Exception)}
    assert {n for n in public if any(isinstance(one, getattr(ds, n)) for one in SOME)} == public - NO_STAGES


@pytest.mark.parametrize("one", SOME, ids=lambda one: type(one).__name__)
def test_a_stage_object_is_a_table_without_the_markup_of_its_names(one):
    text, tags = one._repr_html_(), Tags()
    tags.feed(text)
    assert not tags.open
    assert "table" in tags.names
    drawn = {"div", "details", "summary", "svg", "g", "title", "path", "circle", "rect", "text"}
    assert tags.names <= {"b", "pre", "br", "table", "thead", "tbody", "tr", "th", "td"} | drawn
    if not isinstance(one, ds.QuantizationSetting | ds.Overhead):  # these have no names
        assert "&lt;i&gt;" in text


def test_what_says_nothing_is_left_out():
    assert ">memory</th>" in SOME[6]._repr_html_()
    assert ">memory</th>" not in SOME[7]._repr_html_()
    assert shown("a & b", {"x": 0, "y": None, "z": ""}).count("<tr>") == 1
    assert re.match("<pre [^>]*>two\nlines</pre>$", shown("two\nlines"))


def cells(page):
    """Of each cell: its style and its text."""
    return re.findall(r'<(?:th|td) style="([^"]*)">([^<]*)<', page)


def test_texts_are_on_the_left_and_numbers_with_their_units_on_the_right():
    frame = pd.DataFrame({
        "layer": ["/model.0", "7"], "latency_s": [0.2005, float("nan")], "flops": [1.5e6, 2e6], "ratio": [1.23456, 2.0],
        "what": ["3.4 x slower", "12 ms"], "works": [True, False], "size_bytes": [307200.0, float("inf")],
    })  # fmt: skip
    texts = {text: style.split(";")[0].removeprefix("text-align:") for style, text in cells(shown("", frame))}
    assert {text for text, side in texts.items() if side == "right"} == {
        "latency_s", "0.2005", "flops", "1.5e+06", "2e+06", "ratio", "1.235", "2", "size_bytes", "3.072e+05", "inf"
    } | {""}  # fmt: skip
    texts = {text: style for style, text in cells(Readable(frame)._repr_html_())}
    assert texts["200.5 ms"] == texts["1.5 MFLOP"] == texts["307.2 kB"] == "text-align:right;white-space:nowrap"
    assert texts["/model.0"] == texts["True"] == texts["3.4 x slower"] == "text-align:left;white-space:nowrap"
    assert repr(Readable(frame[["latency_s"]].head(1))).split() == ["latency", "200.5", "ms"]


def test_long_texts_are_broken_at_blanks_alone():
    long = "several words " * 9
    styles = {text: style for style, text in cells(shown("", {"short": "x" * MOST, "long": long}))}
    assert "nowrap" in styles["x" * MOST]
    assert "nowrap" not in styles[long]
    assert "word-break:normal" in styles[long]
    assert "overflow-wrap:normal" in styles[long]


def test_columns_without_an_entry_are_left_out():
    frame = pd.DataFrame({"a": [1, 2], "empty": ["", ""], "none": [None, None], "nan": [float("nan")] * 2, "some": ["", "x"]})
    assert [text for _, text in cells(shown("", frame))] == ["a", "some", "1", "", "2", "x"]
    assert [text for _, text in cells(shown("", frame.head(0)))] == list(frame)  # of a table without rows, all are told


def test_facts_have_units_and_few_digits():
    facts = {"promised_s": 0.06665222, "noise": 0.04686443, "size_bytes_95": 4e5, "source": "device", "name_s": "a word"}
    assert [text for _, text in cells(shown("", facts))] == [
        "promised", "66.65 ms", "noise", "0.04686", "size_95", "400 kB", "source", "device", "name_s", "a word"
    ]  # fmt: skip
