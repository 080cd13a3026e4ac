"""The slides' figure 12: errors of predictions, durations and sizes."""

import numpy as np
import pytest
from helpers.figure_tables import durations, measured, planned

import dnnsplit as ds


def test_errors_are_a_panel_per_topology_and_a_mark_per_weight():
    tests = measured(planned())
    figure, numbers = ds.plots.prediction_errors(tests)
    error = tests["error_%"].abs()
    assert (numbers["plans"], numbers["MAPE_%"], numbers["worst_%"]) == (90, pytest.approx(error.mean()), error.max())
    line = figure.get_suptitle().replace("\N{NO-BREAK SPACE}", " ")
    assert line == f"90 plans run on emulated servers and links: MAPE {error.mean():.1f} %, worst {error.max():.1f} %"
    for axis, topology in zip(figure.axes, tests["topology"].unique(), strict=True):
        part = tests[tests["topology"] == topology]
        own = f"MAPE {part['error_%'].abs().mean():.1f} %, worst {part['error_%'].abs().max():.1f} %"
        assert axis.get_title(loc="left") == f"{topology.replace('-', ' + ')}\n{own}"
        for marks, weight in zip(axis.collections, (0.0, 0.5, 1.0), strict=True):
            assert list(marks.get_offsets()[:, 1]) == list(part.loc[part["latency_weight"] == weight, "error_%"])
        places = np.concatenate([marks.get_offsets()[:, 0] for marks in axis.collections])
        assert len({*places.round(6)}) == len(part)  # equal errors of two weights do not hide each other
        assert sorted(patch.get_height() for patch in axis.patches) == [4, 10]  # within 2 and 5 %


def test_a_bad_prediction_stays_inside_the_axis():
    tests = measured(planned(["device"], weights=[1.0]))
    tests.loc[tests.index[3], "error_%"] = -21.0
    figure, numbers = ds.plots.prediction_errors(tests)
    assert figure.axes[0].get_ylim()[0] < -21
    assert numbers["topologies"]["device"]["worst_%"] == 21


def test_plans_that_were_not_run_have_no_mark():
    tests = measured(planned(["device"], weights=[1.0]))
    tests.loc[tests.index[0], "error_%"] = np.nan
    figure, numbers = ds.plots.prediction_errors(tests)
    assert numbers["plans"] == len(tests) - 1 == len(figure.axes[0].collections[0].get_offsets())
    assert numbers["rows"]["error_%"][0] is None
    with pytest.raises(ds.OptionError, match="no row has an error_%"):
        ds.plots.prediction_errors(tests.head(1))


def test_durations_have_a_bar_per_model_and_step_beside_the_sizes():
    rows = durations()
    figure, numbers = ds.plots.durations(rows)
    time, size = figure.axes
    assert (time.get_xscale(), size.get_xscale()) == ("log", "linear")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["yolo11m", "yolo11x-seg"]
    for axis, column in ((time, "seconds"), (size, "size_bytes")):
        steps = [label.get_text() for label in axis.get_yticklabels()]
        for model, bars in zip(("yolo11m", "yolo11x-seg"), axis.containers, strict=True):
            part = rows[rows["model"] == model].dropna(subset=column)
            shown = {steps[round(bar.get_y() + bar.get_height() / 2)]: bar.get_width() for bar in bars}
            assert shown == dict(zip(part["what"], part[column], strict=True))
    assert "1800" in [text.get_text() for text in time.texts]
    assert "500 MB" in [text.get_text() for text in size.texts]
    assert numbers["rows"]["size_bytes"][0] is None


def test_durations_of_one_model_without_sizes():
    figure, _ = ds.plots.durations(durations(["n"])[["model", "what", "seconds"]])
    assert len(figure.axes) == 1
    with pytest.raises(ds.OptionError, match="no row has seconds or size_bytes"):
        ds.plots.durations(durations(["n"])[["model", "what"]])


def test_a_step_that_one_model_lacks_has_no_bar():
    rows = durations()
    figure, _ = ds.plots.durations(rows[~((rows["model"] == "yolo11m") & (rows["what"] == "noise"))])
    first, second = figure.axes[0].containers
    assert [np.isnan([bar.get_width() for bar in bars]).sum() for bars in (first, second)] == [1, 0]
