"""Every stage object shows itself in a notebook, and no name in it becomes HTML."""

import inspect
from html.parser import HTMLParser

import pytest
from helpers.stages import NO_STAGES, SOME

import dnnsplit as ds
from dnnsplit.ground.markup import shown


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
    assert "<th>memory" in SOME[6]._repr_html_()
    assert "<th>memory" not in SOME[7]._repr_html_()
    assert shown("a & b", {"x": 0, "y": None, "z": ""}).count("<tr>") == 1
    assert shown("two\nlines").startswith("<pre>")
