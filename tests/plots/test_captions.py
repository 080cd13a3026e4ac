"""What every figure tells beside its drawing: the line above it, the caption, the finding; and that its texts are all in it."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.drawings import drawings
from helpers.paths import ROOT
from matplotlib.text import Text

import dnnsplit as ds
from dnnsplit.plots.captions import between, bias, listed, several, signed, spelled, told

ABOUT = "made-up, x 1 x 3 x 8 x 8; device + edge, times given"
NO_FIGURE = {"described", "save", "save_and_show"}


@pytest.fixture(scope="module")
def drawn():
    return drawings(ABOUT)


def names():
    return [name for name in ds.plots.__all__ if name not in NO_FIGURE]


def test_every_figure_is_among_them(drawn):
    assert list(drawn) == names()  # a new one is drawn in tests/helpers/drawings.py, too


@pytest.mark.parametrize("name", names())
def test_it_says_what_it_shows_of_what_and_what_is_found(drawn, name):
    figure, numbers = drawn[name]
    line = figure.get_suptitle().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    about = "" if name == "interactions" else ABOUT  # of this code, and of no model
    assert line.startswith(about)
    count = line.removeprefix(f"{about}; ")
    assert any(letter.isdigit() for letter in count), count
    caption, alt = numbers["caption"], numbers["alt"]
    assert caption.endswith(f"Shown: {line}.")
    assert len(caption.removesuffix(f"Shown: {line}.")) > 30
    for text in (caption, alt):
        assert text[0].isupper() or text[0].isdigit() or name in ("durations", "device_panels"), text  # names of models stay
        assert text.endswith(".")
        assert "nan" not in text.split()
        assert not {"device-edge", "device-edge-cloud"} & {*text.replace(",", " ").replace(":", " ").split()}
    assert any(letter.isdigit() for letter in alt)


@pytest.mark.parametrize("name", names())
def test_its_texts_lie_inside_it(drawn, name):
    figure = drawn[name][0]
    figure.draw_without_rendering()
    inside = figure.bbox.padded(4)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and not text.get_clip_on():
            box = text.get_window_extent()
            assert inside.contains(box.x0, box.y0), text
            assert inside.contains(box.x1, box.y1), text


@pytest.mark.parametrize("name", names())
def test_the_line_above_covers_nothing_else(drawn, name):
    figure = drawn[name][0]
    figure.draw_without_rendering()
    line, *others = sorted(figure.findobj(Text), key=lambda text: text is not figure._suptitle)
    for text in others:
        if text.get_visible() and text.get_text().strip() and not text.get_clip_on():
            assert not line.get_window_extent().overlaps(text.get_window_extent()), text


@pytest.mark.parametrize("path", sorted((ROOT / "figures").rglob("*.json")), ids=lambda path: path.stem)
def test_committed_figures_have_a_caption_and_a_finding(path):
    numbers = json.loads(path.read_text(encoding="utf-8"))
    assert numbers["caption"].endswith(".")
    assert any(letter.isdigit() for letter in numbers["alt"])
    if path.stem not in ("scale", "figure11-scale", "figure1-interactions"):  # of no model
        model = "yolo11" if path.parent.name == "thesis" else "yolo11n-ppe-320, images 1 x 3 x 320 x 320"
        assert model in numbers["caption"]


def test_a_model_and_its_test_bed_are_described():
    graph, network, times, _ = ds.examples.yolo11n()
    assert ds.plots.described(graph, times, network) == (
        "yolo11n-ppe-320, images 1 x 3 x 320 x 320; device + edge + cloud, times scaled from one machine"
    )
    assert ds.plots.described(graph, name="mine") == "mine, images 1 x 3 x 320 x 320"
    untrained = ds.LayerTimes(ds.examples.tiny().times.frame, made={"edge": {"weights": "untrained: random"}})
    assert ds.plots.described(ds.examples.tiny().graph, untrained) == "image 1.2 MB, weights untrained: random; times given"


def test_topologies_are_written_one_way_and_other_names_stay():
    assert [spelled(name) for name in ("device", "device-edge", "device-edge-cloud", "office-lan", "s0-s1", "")] == [
        "device", "device + edge", "device + edge + cloud", "office-lan", "s0-s1", ""
    ]  # fmt: skip


def test_words_and_numbers():
    assert (several(1, "plan"), several(0, "plan"), several(12, "plan")) == ("1 plan", "0 plans", "12 plans")
    assert (listed(["a"]), listed(["a", "b", "c"])) == ("a", "a, b and c")
    assert (signed(1.26), signed(-0.04), signed(-3)) == ("+1.3", "0.0", "-3.0")
    assert bias(pd.Series([-1.0, 3.0])) == "+1.0 % on average, -1.0 to +3.0 %"
    assert (between([0.5, np.nan, 0.25], "s"), between([2, 2]), between([np.nan])) == ("250 ms to 500 ms", "2", "no value")


def test_without_anything_to_tell_there_is_no_line():
    figure, _ = ds.plots.tensor_sizes(ds.examples.tiny().graph)
    figure.suptitle("")
    _, numbers = told(figure, {"a": 1}, "Shows this.", "Finds that.")
    assert figure.get_suptitle() == ""
    assert numbers == {"a": 1, "caption": "Shows this.", "alt": "Finds that."}
