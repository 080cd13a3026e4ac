"""Figures as a notebook shows them: one output each, with a text for who does not see it, and its caption below."""

import json

import matplotlib.pyplot as plt
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import dnnsplit as ds
from dnnsplit.plots.style import style


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    shell.display_formatter.formatters["image/png"].for_type(plt.Figure, lambda figure: (b"png", {"width": 7}))
    yield shell
    InteractiveShell.clear_instance()


def drawn(**told):
    with style():
        figure, axis = plt.subplots()
        axis.plot([1, 2])
    return figure, {"y": [1, 2], **told}


def test_a_figure_is_shown_with_its_text_and_its_caption(shell, tmp_path):
    drawings = {"one": drawn(caption="a < b", alt='"rises" from 1 to 2'), "two": drawn(caption="c", alt="rises, too")}
    with capture_output() as shown:
        ds.plots.save_and_show(drawings, tmp_path)
    one, below, two, _ = shown.outputs
    assert one.metadata == {"image/png": {"width": 7, "alt": '"rises" from 1 to 2'}}
    assert two.metadata["image/png"]["alt"] == "rises, too"
    assert below.data == {"text/html": "<figcaption>a &lt; b</figcaption>", "text/plain": "a < b"}
    told = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert (told["caption"], told["alt"]) == ("a < b", '"rises" from 1 to 2')


def test_a_figure_without_them_is_shown_alone(shell, tmp_path):
    with capture_output() as shown:
        ds.plots.save_and_show({"one": drawn()}, tmp_path)
    (only,) = shown.outputs
    assert only.metadata == {"image/png": {"width": 7}}
