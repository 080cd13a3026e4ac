"""The page of an executed notebook: figures with captions, tables with heads, headings in order, and nothing from elsewhere."""

import base64
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from helpers.notebook_files import notebook
from helpers.paths import ROOT

import dnnsplit as ds
from dnnsplit.sweep.report import write_report

DOT = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Elements in order, each with its attributes and those around it; every one is closed where it was opened."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def all(self, tag):
        return [attrs for name, attrs, _ in self.elements if name == tag]

    def text(self, tag):
        return "".join(data for around, data in self.texts if tag in around)


def executed(path, *outputs):
    """A notebook with a title, a heading, and a cell with some outputs, each data by MIME type and metadata."""
    document = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("secret = 1")
    cell.outputs = [nbformat.v4.new_output("display_data", data=data, metadata=metadata) for data, metadata in outputs]
    heads = [nbformat.v4.new_markdown_cell(text) for text in ("# A title", "## First & last\nProse.")]
    document.cells = [*heads, nbformat.v4.new_code_cell("import os"), cell]
    nbformat.write(document, path)
    return path


PICTURE = ({"image/png": DOT}, {"image/png": {"width": 300, "height": 200, "alt": 'a < b and "c"'}})
CAPTION = ({"text/html": "<figcaption>a &lt; b</figcaption>", "text/plain": "a < b"}, {})


def test_a_picture_and_the_caption_after_it_are_a_figure(tmp_path):
    page = Page(write_report(executed(tmp_path / "n.ipynb", PICTURE, CAPTION), tmp_path / "page.html"))
    assert page.all("img") == [
        {"alt": 'a < b and "c"', "width": "300", "height": "200", "src": f"data:image/png;base64,{DOT}"},
    ]
    (around,) = (around for tag, _, around in page.elements if tag == "img")
    assert around[-1] == "figure"
    assert page.text("figcaption") == "a < b"
    assert "secret" not in page.text("main")


@pytest.mark.parametrize("outputs", [[PICTURE], [CAPTION, PICTURE], [PICTURE, ({"text/html": "<p>prose</p>"}, {}), CAPTION]])
def test_a_caption_is_that_of_the_picture_right_before_it(tmp_path, outputs):
    page = Page(write_report(executed(tmp_path / "n.ipynb", *outputs), tmp_path / "page.html"))
    assert not page.all("figure")
    assert [image["alt"] for image in page.all("img")] == ['a < b and "c"']


def test_heads_of_tables_say_what_they_are_heads_of_and_wide_tables_scroll_in_a_frame(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "<th>"]}, index=pd.Index(["one", "two"]))
    titled = f"<b>Two(2)</b>{frame.to_html(index=False)}<pre>Three\nlines</pre>{frame.to_html(index=False)}"
    tables = [({"text/html": frame.to_html()}, {}), ({"text/html": titled}, {})]
    page = Page(write_report(executed(tmp_path / "n.ipynb", *tables), tmp_path / "page.html"))
    assert [attrs["scope"] for attrs in page.all("th")] == ["col", "col", "row", "row", *["col"] * 4]
    frames = [attrs for attrs in page.all("div") if attrs.get("class") == "table"]
    assert [(attrs["role"], attrs["tabindex"], attrs["aria-label"]) for attrs in frames] == [
        ("group", "0", "Table 1"), ("group", "0", "Table 2"), ("group", "0", "Table 3"),
    ]  # fmt: skip
    order = [tag for tag, attrs, around in page.elements if tag in ("b", "pre") or attrs.get("class") == "table"]
    assert order == ["div", "div", "b", "div", "pre"]  # a title is in the frame of its table


def test_contents_lead_to_headings_and_what_it_was_made_from_is_folded(tmp_path):
    path = notebook(tmp_path / "n.ipynb", "1")
    from dnnsplit.sweep.jobs import jobs_of
    from dnnsplit.sweep.local import unfinished
    from dnnsplit.sweep.record import write_record
    from dnnsplit.sweep.run import Runs

    (job,) = jobs_of(path, {}, {}, tmp_path / "out")
    row = unfinished(job, "done", "") | {"seconds": 1.5}
    job.output.parent.mkdir(parents=True)
    executed(job.output)
    write_record(job, row, [str(path)], [])
    page = Page(write_report(job.output, tmp_path / "page.html", title="A & B", runs=Runs((job,), {"n": row})))
    assert page.text("title") == "A & B"
    ids = {attrs["id"] for _, attrs, _ in page.elements if "id" in attrs}
    links = [attrs["href"] for attrs in page.all("a")]
    assert links == ["#First-&-last", "#runs", "#versions", "#parameters"]
    assert {link[1:] for link in links} <= ids
    assert "1.5" in page.text("table")
    folded = page.text("details")
    assert '"a"' in folded  # a parameter
    assert "dnnsplit" in folded  # a version
    assert "n.ipynb" in folded
    assert [data for _, data in page.texts if "not on paper" in data]


def headings(page):
    return [int(tag[1]) for tag, _, around in page.elements if re.fullmatch("h[1-6]", tag) and "main" in around]


@pytest.mark.parametrize("name", ["report", "thesis"])
class TestShippedPages:
    def test_they_stand_alone_with_headings_in_order(self, name):
        page = Page(ROOT / "figures" / f"{name}.html")
        assert page.all("html") == [{"lang": "en"}]
        told = headings(page)
        assert told[0] == 1
        assert told.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(told))
        sources = [attrs[key] for _, attrs, _ in page.elements for key in ("src", "data", "srcset") if key in attrs]
        assert all(source.startswith("data:") for source in sources)
        assert not page.all("link") + page.all("script") + page.all("iframe")
        assert "url(" not in page.text("style")
        assert all(attrs.get("scope") for attrs in page.all("th"))

    def test_every_figure_has_a_caption_and_a_text_for_who_does_not_see_it(self, name):
        page = Page(ROOT / "figures" / f"{name}.html")
        pictures = [(attrs, around) for tag, attrs, around in page.elements if tag == "img"]
        assert len(pictures) == len(page.all("figure")) == len(page.all("figcaption")) > 10
        assert all(around[-1] == "figure" for _, around in pictures)
        assert all(len(attrs["alt"]) > 20 for attrs, _ in pictures)

    def test_their_figures_are_those_of_the_files(self, name):
        folder = ROOT / "figures" / ("thesis" if name == "thesis" else "")
        numbers = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
        page = Page(ROOT / "figures" / f"{name}.html")
        assert {drawn["alt"] for drawn in numbers} == {attrs["alt"] for attrs in page.all("img")}
        assert all(drawn["caption"] in page.text("figcaption") for drawn in numbers)


def test_a_report_needs_an_executed_notebook(tmp_path):
    with pytest.raises(ds.OptionError, match="is no executed notebook"):
        write_report(tmp_path / "none.ipynb", tmp_path / "report.html")
