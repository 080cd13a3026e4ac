"""The figure of solve times: a line per step, whole solves beside them."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.studies.scale import STEPS, solve_times


def rows():
    """Steps that take 1, 2, ... times what the whole size makes of it; the slides' MILP is stopped at its larger size."""
    sizes = [("elimination", 10, 3), ("elimination", 100, 3), ("elimination", 100, 5), ("slides", 10, 3), ("slides", 100, 3)]
    found = [
        (graph, layers, servers, method, step, (i + 1) * layers * servers * (1 + (method == "slides")), "optimal")
        for graph, (method, layers, servers), (i, step) in itertools.product(("chain", "random"), sizes, enumerate(STEPS))
    ]
    frame = pd.DataFrame(found, columns=["graph", "layers", "servers", "method", "step", "cpu_s", "status"])
    stopped = (frame["method"] == "slides") & (frame["layers"] == 100)
    frame.loc[stopped & (frame["step"] == "min E"), "status"] = "stopped"
    return frame[~(stopped & frame["step"].isin(("weighted", "post-processing")))]


def test_a_line_per_step_against_layers_and_servers():
    figure, numbers = ds.plots.scale(rows())
    assert (numbers["layers"], numbers["servers"]) == (100, 3)
    panels = np.array(figure.axes).reshape(2, 3)
    assert [panel.get_title(loc="left") for panel in panels[0]] == [
        "chain: 3 servers", "chain: 100 layers", "chain: whole solves, 3 servers"
    ]  # fmt: skip
    assert [panel.get_xlabel() for panel in panels[1]] == ["layers", "servers", "layers"]
    for across in panels:
        for panel, size, along in zip(across, ([30, 300], [300, 500]), ([10, 100], [3, 5]), strict=False):
            lines = {line.get_label(): line for line in panel.lines}
            assert list(lines) == list(STEPS)
            for i, step in enumerate(STEPS):
                assert lines[step].get_xdata().tolist() == along
                assert lines[step].get_ydata().tolist() == [(i + 1) * one for one in size]
        assert {line.get_linestyle() for line in across[0].lines} != {"-"}  # told apart in print


def test_whole_solves_of_every_method_and_hollow_where_stopped():
    figure, numbers = ds.plots.scale(rows())
    whole = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[2].lines if line.get_label()[0] != "_"}
    assert whole == {"elimination": [15 * 30, 15 * 300], "slides MILP": [15 * 60, 6 * 600]}
    hollow = [line.get_xdata().tolist() for line in figure.axes[2].lines if line.get_markerfacecolor() == "white"]
    assert hollow == [[], [100]]
    assert numbers["whole"]["proved"] == [True, True, True, True, False] * 2


def test_what_the_study_measures_is_drawn_and_saved(tmp_path):
    measured = pd.concat(solve_times([(5, 2), (8, 2)], method=method, progress=False) for method in ("elimination", "slides"))
    figure, numbers = ds.plots.scale(measured)
    paths = ds.plots.save(figure, tmp_path, "scale", numbers)
    told = json.loads(paths["json"].read_text())
    assert len(told["rows"]["cpu_s"]) == len(measured) == 2 * 2 * 2 * len(STEPS)
    assert sum(told["whole"]["cpu_s"]) == pytest.approx(measured["cpu_s"].sum())


def test_a_table_of_whole_solves_is_refused():
    with pytest.raises(ds.OptionError, match=r"solve_times, which 07-scale writes(?s:.*)the column 'step' is missing"):
        ds.plots.scale(rows().drop(columns=["step", "graph"]))
