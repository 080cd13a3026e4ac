"""The slides' figures 7 and 8: a bar per server, limit and weight, where there is more than one server."""

from itertools import pairwise

import numpy as np
import pytest
from helpers.figure_tables import LIMITS, SERVERS, planned

import dnnsplit as ds


def heights(axis):
    """Heights of the bars of each server, by limit."""
    return [[bar.get_height() for bar in group] for group in axis.containers]


def test_layers_stand_above_those_in_int8_for_each_topology():
    table = planned()
    figure, numbers = ds.plots.layers_per_server(table)
    assert numbers["topologies"] == {"device-edge": ["device", "edge"], "device-edge-cloud": [*SERVERS]}
    rows = [figure.axes[i : i + 3] for i in range(0, 12, 3)]
    labels = [f"{names}\n{what}" for names in ("device + edge", "device + edge + cloud") for what in ("layers", "in int8")]
    assert [row[0].get_ylabel() for row in rows] == labels
    assert [axis.get_title(loc="left") for axis in rows[0]] == [f"latency weight {w}" for w in ("0", "0.5", "1")]
    for row, (topology, count) in zip(rows, [(t, c) for t in numbers["topologies"] for c in ("layers", "int8")], strict=True):
        for axis, weight in zip(row, (0.0, 0.5, 1.0), strict=True):
            part = table[(table["topology"] == topology) & (table["latency_weight"] == weight)]
            assert heights(axis) == [list(part[f"{count}_{server}"]) for server in numbers["topologies"][topology]]
    assert [label.get_text() for label in rows[-1][0].get_xticklabels()] == [f"{limit:g}" for limit in LIMITS]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*SERVERS]
    assert numbers["planned"]["layers_cloud"][0] is None  # the device alone has no cloud


def test_a_few_layers_are_seen_beside_hundreds():
    figure, _ = ds.plots.layers_per_server(planned(["device-edge"], weights=[1.0]))
    total, int8 = figure.axes
    low, high = (total.transData.transform((0, value))[1] for value in (0, 652))
    assert total.transData.transform((0, 2))[1] - low > 0.1 * (high - low)
    assert int8.get_yscale() == "linear"
    assert "652" in [label.get_text() for label in total.get_yticklabels()]


def test_parts_are_a_row_per_topology():
    figure, numbers = ds.plots.parts_per_server(planned(weights=[0.5]))
    assert [axis.get_ylabel() for axis in figure.axes] == ["device + edge\ncomponents", "device + edge + cloud\ncomponents"]
    assert heights(figure.axes[1])[0] == numbers["planned"]["parts_device"][-len(LIMITS) :]


def test_bars_do_not_overlap():
    figure, _ = ds.plots.parts_per_server(planned(["device-edge-cloud"], weights=[0.5]))
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for group in figure.axes[0].containers for bar in group)
    assert len(bars) == 3 * len(LIMITS)
    assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(bars))


def test_one_server_alone_is_drawn_where_there_is_nothing_else():
    figure, numbers = ds.plots.layers_per_server(planned(["device"], weights=[1.0]))
    assert numbers["topologies"] == {"device": ["device"]}
    assert heights(figure.axes[0]) == [[652] * len(LIMITS)]


def test_points_without_a_plan_are_crossed():
    table = planned(["device-edge"], weights=[1.0], infeasible=[("device-edge", 1.0, 0.05)])
    figure, _ = ds.plots.parts_per_server(table)
    assert [line.get_xdata().item() for line in figure.axes[0].lines] == [LIMITS.index(0.05)]
    assert np.isnan([group[LIMITS.index(0.05)] for group in heights(figure.axes[0])]).all()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["device", "edge", "no plan"]


@pytest.mark.parametrize("figure", [ds.plots.layers_per_server, ds.plots.parts_per_server])
def test_no_plan_at_all_leaves_crosses(figure, tmp_path):
    none = [("device-edge", 1.0, limit) for limit in LIMITS]
    drawn, numbers = figure(planned(["device-edge"], weights=[1.0], infeasible=none).reindex(columns=planned().columns))
    assert numbers["topologies"] == {"device-edge": []}
    assert len(drawn.axes[0].lines) == len(LIMITS)
    assert ds.plots.save(drawn, tmp_path, "none", numbers)["png"].exists()
