"""The figure of regimes: what it names, numbers and colours."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from helpers.coded_problems import coded_small
from matplotlib.colors import to_rgba

import dnnsplit as ds
from dnnsplit.plots.regimes import SPLIT_COLOUR
from dnnsplit.plots.style import SERVER_COLOURS

SPEEDS, LIMITS = (1e5, 1e6, 1e7, 1e8), (0.0, 0.05)


def table():
    """At the limit 0: the device, a split, the cloud twice; at 0.05: the device, then the cloud, by jpeg-95."""
    rows = {
        0.0: [("device", "", 0.0), ("split", "uint8", 0.25), ("cloud", "uint8", 0.0), ("cloud", "float32", 0.0)],
        0.05: [("device", "", 0.0), *[("cloud", "jpeg-95", 0.0)] * 3],
    }
    return pd.DataFrame([
        {"bandwidth_bytes_per_s": speed, "max_noise": limit, "best": best, "servers": "device+cloud" if best == "split" else best,
         "source_form": form, "gain": gain}
        for limit, cells in rows.items() for speed, (best, form, gain) in zip(SPEEDS, cells, strict=True)
    ])  # fmt: skip


def test_regions_are_named_once_and_splits_have_their_gain():
    figure, numbers = ds.plots.regimes(table(), ["device", "edge", "cloud"], "made up")
    axis = figure.axes[0]
    assert sorted(text.get_text() for text in axis.texts) == [
        "25", "cloud: float32", "cloud: jpeg-95", "cloud: uint8", "device", "uint8"
    ]  # fmt: skip
    at = {text.get_text(): text.get_position() for text in axis.texts}
    assert at["cloud: jpeg-95"] == (2, 1)
    assert at["cloud: float32"] == (3, 0)
    assert at["device"][0] == 0
    assert [round(x) for x in at["25"]] == [1, 0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "device alone", "cloud alone", "a split; number: faster than the best server alone by [%]"
    ]  # fmt: skip
    image = axis.images[0].get_array()
    assert tuple(image[0, 0, :3]) == to_rgba(SERVER_COLOURS[0])[:3]
    assert tuple(image[0, 1, :3]) == to_rgba(SPLIT_COLOUR)[:3]
    assert tuple(image[1, 3, :3]) == to_rgba(SERVER_COLOURS[2])[:3]  # as in drawings of placements on these servers
    assert [label.get_text() for label in axis.get_xticklabels()] == ["100 kB/s", "1 MB/s", "10 MB/s", "100 MB/s"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "0.05"]
    assert numbers["rows"]["gain"] == list(table()["gain"])
    assert not plt.get_fignums()


def test_a_split_without_a_server_to_compare_with_has_no_number():
    part = table().assign(gain=lambda t: t["gain"].where(t["best"] != "split"))
    axis = ds.plots.regimes(part)[0].axes[0]
    assert "nan" not in {text.get_text() for text in axis.texts}
    assert axis.images[0].get_array()[0, 1, 3] == 0.8


def test_cells_that_are_not_alike_are_parted():
    axis = ds.plots.regimes(table())[0].axes[0]
    drawn = {(*line.get_xdata(), *line.get_ydata()) for line in axis.lines}
    upright, flat = [(0.5, 0), (1.5, 0), (2.5, 0), (0.5, 1)], [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert drawn == {(x, x, y - 0.5, y + 0.5) for x, y in upright} | {(x - 0.5, x + 0.5, y, y) for x, y in flat}


@pytest.mark.parametrize("seed", [0, 5, 6])
def test_the_table_of_the_study_is_drawn(seed):
    graph, network, times, noise = coded_small(seed, layers=2)
    found = ds.regimes(graph, network, times, noise, max_noise=[0.0, 0.05], bandwidths=[2, 50, 1e4], progress=False)
    figure, numbers = ds.plots.regimes(found, network.server_names)
    assert figure.axes[0].images[0].get_array().shape == (2, 3, 4)
    assert numbers["rows"]["best"] == list(found["best"])
