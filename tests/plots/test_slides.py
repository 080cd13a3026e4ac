"""The slides' figures 3 to 6: which panels there are, in which order, and that what they draw is what their numbers tell."""

import numpy as np
import pandas as pd
import pytest
from helpers.figure_tables import LIMITS, TOPOLOGIES, baselines, measured, planned

import dnnsplit as ds

TITLES = ["latency weight 0", "latency weight 0.5", "latency weight 1"]


def drawn(axis, label):
    """The line of an axis with a label, as (x, y) of its points."""
    line = next(line for line in axis.lines if line.get_label().startswith(label))
    return [tuple(point) for point in np.transpose(line.get_data())]


def points(table, what):
    return list(zip(table["max_noise"], table[what], strict=True))


def test_device_panels_are_one_per_model_with_what_was_measured():
    table = planned(["device"])
    small = table.assign(latency_s=table["latency_s"] / 4)
    tests = measured(table)
    figure, numbers = ds.plots.device_panels({"m": small, "x-seg": table}, {"x-seg": tests})
    error = tests.loc[tests["latency_weight"] == 1, "error_%"].mean()
    titles = ["m", f"x-seg\npredicted against real {error:+.1f} %"]
    assert [axis.get_title(loc="left") for axis in figure.axes] == titles
    assert list(numbers["models"]) == ["m", "x-seg"]
    assert len({axis.get_ylim() for axis in figure.axes}) == 1
    assert "10\N{NO-BREAK SPACE}plans run" in figure.get_suptitle()  # one for each limit, though there are three weights
    for axis, part in zip(figure.axes, (small, table), strict=True):
        assert drawn(axis, "planned") == points(part[part["latency_weight"] == 1], "latency_s")
    m, x = figure.axes
    assert len(m.lines) == 1
    assert not m.collections  # no band
    real = tests[tests["latency_weight"] == 1]
    assert drawn(x, "real") == points(real, "latency_s")
    assert numbers["models"]["m"]["measured"] == {}
    assert numbers["models"]["x-seg"]["measured"]["low_s"] == list(real["low_s"])
    inside = {tuple(at) for at in x.collections[0].get_paths()[0].vertices}
    assert inside >= {*points(real, "low_s"), *points(real, "high_s")}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["planned", "real (median, 5 to 95 %)"]


def test_weight_panels_ascend_with_the_latencys_weight():
    table = planned(["device-edge"])
    tests = measured(table)
    figure, numbers = ds.plots.weight_panels(table, tests, "device + edge")
    above, below = figure.axes[:3], figure.axes[3:]
    found = tests.groupby("latency_weight")["error_%"].mean()
    titles = [f"{title}\npredicted against real {error:+.1f} %" for title, error in zip(TITLES, found, strict=True)]
    assert [axis.get_title(loc="left").removeprefix("device + edge\n") for axis in above] == titles
    assert above[0].get_title(loc="left").startswith("device + edge\n")
    assert [axis.get_ylabel() for axis in figure.axes] == ["latency [s]", "", "", "energy [J]", "", ""]
    for weight, high, low in zip((0.0, 0.5, 1.0), above, below, strict=True):
        part, real = (some[some["latency_weight"] == weight] for some in (table, tests))
        assert drawn(high, "planned") == points(part, "latency_s")
        assert drawn(high, "real") == points(real, "latency_s")
        assert drawn(low, "planned") == points(part, "energy_j")
    for row in (above, below):
        assert len({axis.get_ylim() for axis in row}) == 1
        assert row[0].get_ylim()[0] == 0
    assert numbers["title"] == "device + edge"
    assert numbers["measured"]["high_s"] == list(tests["high_s"])


def test_without_measurements_the_planned_lines_stand_alone():
    table = planned(["device-edge"], weights=[0.5])
    figure, numbers = ds.plots.weight_panels(table)
    assert [len(axis.lines) for axis in figure.axes] == [1, 1]
    assert "measured" not in numbers
    assert len(ds.plots.weight_panels(table, measured(table).head(0))[0].axes[0].lines) == 1


def test_weights_that_do_not_sum_to_one_are_both_named():
    table = planned(["device-edge"], weights=[1.0]).assign(energy_weight=2.0)
    figure, _ = ds.plots.weight_panels(table)
    assert figure.axes[0].get_title(loc="left") == "weights 1 and 2"


def test_a_point_that_no_plan_reaches_is_a_gap():
    table = planned(["device-edge"], weights=[1.0], infeasible=[("device-edge", 1.0, 0.05)])
    figure, numbers = ds.plots.weight_panels(table, measured(table))
    for axis in figure.axes:
        latency = dict(drawn(axis, "planned"))
        assert [limit for limit, value in latency.items() if np.isnan(value)] == [0.05]
    assert 0.05 not in dict(drawn(figure.axes[0], "real"))
    assert numbers["planned"]["latency_s"][LIMITS.index(0.05)] is None


def test_rows_of_several_topologies_are_refused():
    with pytest.raises(ds.OptionError, match=r"figure of both: 10 problems") as caught:
        ds.plots.weight_panels(planned(["device", "device-edge"], weights=[1.0]), None, "both")
    assert "several rows have latency weight 1 and the noise limit 0.025; give those of one topology" in str(caught.value)
    assert list(LIMITS) == sorted(LIMITS)


def test_topologies_are_lines_of_one_plot_per_weight():
    table = planned()
    figure, numbers = ds.plots.topologies(table)
    above, below = figure.axes[:3], figure.axes[3:]
    assert [axis.get_title(loc="left") for axis in above] == TITLES
    labels = ["device", "device + edge", "device + edge + cloud"]
    for weight, high, low in zip((0.0, 0.5, 1.0), above, below, strict=True):
        assert [line.get_label() for line in high.lines] == [line.get_label() for line in low.lines] == labels
        for topology, label in zip(TOPOLOGIES, labels, strict=True):
            part = table[(table["topology"] == topology) & (table["latency_weight"] == weight)]
            line = next(line for line in high.lines if line.get_label() == label)
            assert list(line.get_ydata()) == list(part["latency_s"])
    styles = {(line.get_marker(), line.get_linestyle(), line.get_color()) for line in above[0].lines}
    assert len(styles) == len(labels)
    for places in zip(*styles, strict=True):
        assert len(set(places)) == len(labels)  # each of marker, dashes and colour tells them apart
    assert "baselines" not in numbers


def test_each_baseline_has_a_row_of_its_own():
    others = baselines()
    others.loc[others["method"] == "greedy", ["latency_s", "energy_j"]] = np.nan
    figure, numbers = ds.plots.topologies(planned(["device-edge"], weights=[1.0]), others)
    for axis, what in zip(figure.axes[-2:], ("latency_s", "energy_j"), strict=True):
        values, places = axis.lines[-1].get_data()
        assert len({*places}) == len(others)
        assert pd.Series(values).equals(others[what])
        assert [text.get_text().strip() for text in axis.texts].count("no plan") == 1
    names = [label.get_text() for label in figure.axes[-2].get_yticklabels()]
    assert [names[int(place)] for place in places] == list(others["method"])
    assert numbers["baselines"]["latency_s"][7] is None


def test_axes_of_several_figures_are_alike():
    figures = [ds.plots.weight_panels(planned([name]), top=[6.0, 20.0])[0] for name in ("device-edge", "device-edge-cloud")]
    assert len({(figure.axes[0].get_ylim(), figure.axes[3].get_ylim()) for figure in figures}) == 1
    assert figures[0].axes[0].get_ylim()[1] >= 6
    assert figures[0].axes[3].get_ylim()[1] >= 20
    beyond = planned(["device-edge"])
    assert ds.plots.weight_panels(beyond, top=[0.1, 0.1])[0].axes[0].get_ylim()[1] > beyond["latency_s"].max()


def test_the_band_of_the_requests_is_drawn_in_every_panel():
    table = planned(["device-edge"])
    tests = measured(table)
    figure, _ = ds.plots.weight_panels(table, tests)
    for axis, weight in zip(figure.axes[:3], (0.0, 0.5, 1.0), strict=True):
        real = tests[tests["latency_weight"] == weight]
        lines = {tuple(at) for lines in axis.collections[1].get_segments() for at in lines}
        assert lines == {*points(real, "low_s"), *points(real, "high_s")}
