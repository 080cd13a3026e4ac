"""Factors by operator and precision, and what becomes of the times of a server that has them."""

import pandas as pd
import pytest
from helpers.paths import ROOT

import dnnsplit as ds
from dnnsplit.profiling.elsewhere import rescaled_times, scaled_times
from dnnsplit.profiling.factors import Factors
from dnnsplit.profiling.overhead import Overhead

GRAPH = ds.LayerGraph(
    [ds.Layer("a", "Conv"), ds.Layer("b", "Relu"), ds.Layer("c", "Conv")],
    [ds.Tensor("x", None, ("a",), 10.0), ds.Tensor("t", "a", ("b", "c"), 20.0), ds.Tensor("y", "c", (), 20.0, is_output=True)],
)
ROWS = [("Conv", "float32", 0.5), ("*", "float32", 2.0), ("Conv", "int8", 0.75)]


def factors(*rows):
    return Factors(pd.DataFrame(rows or ROWS, columns=["op_type", "precision", "factor"]), "a benchmark")


def times(*servers):
    """One CPU second here is 4 s on the device."""
    rows = [("a", "float32", 2.0), ("b", "float32", 1.0), ("c", "float32", 8.0), ("a", "int8", 1.0), ("c", "int8", 2.0)]
    frame = pd.DataFrame(
        [(layer, s, *rest) for s in servers for layer, *rest in rows], columns=["layer", "server", "precision", "seconds"]
    )
    overhead = {server: Overhead(1e-9, 2e-9, 3e-3, 2.0, 0.01, 0.02, 12) for server in servers}
    return ds.LayerTimes(frame.assign(factor=4.0, origin="scaled"), overhead, {server: {"setting": None} for server in servers})


def notes(times):
    return [note for precision in ("float32", "int8") for note in times.frame.query("precision == @precision")["note"].unique()]


def test_int8_goes_by_its_own_factor_of_float32():
    far = scaled_times(times("device"), "device", "far", factors(), graph=GRAPH)
    assert {(r.layer, r.precision): r.seconds for r in far.frame.itertuples()} == {
        ("a", "float32"): 1.0, ("b", "float32"): 2.0, ("c", "float32"): 4.0, ("a", "int8"): 1.5, ("c", "int8"): 6.0,
    }  # fmt: skip
    assert set(far.frame["note"]) == {"float32 on device x the factor of operator and precision, a benchmark"}
    assert far.overhead == {"far": times("device").overhead["device"].scaled(7 / 11)}  # as the whole model in float32 is


def test_a_part_has_the_slowdown_of_its_own_layers():
    both = rescaled_times(times("device", "far"), GRAPH, "device", {"far": factors()})
    assert both.seconds("c", "device", "int8") == 2.0
    assert both.slowdown == {"device": 4.0, "far": 7 / (11 / 4)}
    assert both.slowdown_of("device", ["a", "b"], ["a"]) == 4.0
    # seconds there over CPU seconds here: a in int8 1.5 over 1 / 4, b 2 over 1 / 4
    assert both.slowdown_of("far", ["a"], ["a"]) == pytest.approx(1.5 / 0.25)
    assert both.slowdown_of("far", ["a", "b"], ["a", "c"]) == pytest.approx(3.5 / 0.5)
    with pytest.raises(ds.ProfileError, match="did you mean 'far'"):
        both.slowdown_of("farr", ["a"])
    with pytest.raises(ds.ProfileError, match="no int8 time of layer 'b'"):
        both.slowdown_of("far", ["b"], ["b"])


def test_one_factor_for_both_precisions_says_so():
    far = scaled_times(times("device"), "device", "far", 2.0)
    again = scaled_times(far, "far", "farther", 3.0)
    by_table = scaled_times(far, "far", "farther", factors(), graph=GRAPH)
    one = "int8 as float32: by one factor"
    table = "float32 on far x the factor of operator and precision, a benchmark; 2 x device"
    assert notes(far) == ["2 x device", f"2 x device; {one}"]
    assert notes(again) == ["3 x far; 2 x device", f"3 x far; 2 x device; {one}"]
    assert notes(by_table) == [table, table]


def test_servers_are_scaled_anew_and_others_kept():
    one = times("device", "edge", "far")
    found = rescaled_times(one, GRAPH, "device", {"far": factors(), "edge": 0.5})
    assert found.frame["server"].unique().tolist() == ["device", "far", "edge"]
    assert (found.seconds("c", "device"), found.seconds("c", "edge"), found.seconds("c", "far")) == (8.0, 4.0, 4.0)
    assert set(found.overhead) == {"device", "edge", "far"}
    pd.testing.assert_frame_equal(rescaled_times(one, GRAPH, "device", {}).frame, one.frame)
    with pytest.raises(
        ds.ProfileError, match=r"2 problems\n.*'fra' has no times .*did you mean 'far'.*\n.*'device' has no times"
    ):
        rescaled_times(one, GRAPH, "device", {"fra": 1.0, "device": 1.0})


def test_wrong_tables_are_refused_with_all_that_is_wrong(tmp_path):
    with pytest.raises(ds.ProfileError, match="lack the columns precision"):
        Factors(pd.DataFrame({"op_type": ["Conv"], "factor": [1.0]}))
    with pytest.raises(
        ds.ProfileError, match=r"3 problems\n.*is 0.0; it.*\n.*did you mean 'int8'.*\n.*'Conv' in float32 is given twice"
    ):
        factors(("Conv", "float32", 1.0), ("Conv", "float32", 0), ("Conv", "int9", 1.0))
    with pytest.raises(ds.ProfileError, match=r"none of 'Relu' in float32; add its row, or one of '\*'"):
        scaled_times(times("device"), "device", "far", factors(ROWS[0], ROWS[2]), graph=GRAPH)
    with pytest.raises(ds.OptionError, match="pass graph="):
        scaled_times(times("device"), "device", "far", factors())
    with pytest.raises(ds.ProfileError, match="is not readable as a table of factors"):
        scaled_times(times("device"), "device", "far", tmp_path / "none.csv", graph=GRAPH)
    small = ds.LayerGraph(GRAPH.layers[:2], [ds.Tensor("x", None, ("a", "b"), 1.0, is_output=True)])
    with pytest.raises(ds.ProfileError, match="'c' is no layer of the graph"):
        scaled_times(times("device"), "device", "far", factors(), graph=small)


def test_the_t4_of_the_slides_gains_little_by_int8():
    """A convolution takes it 1/75 of what half a CPU takes, and a twelfth less in int8."""
    path = ROOT / "data" / "profiles" / "t4.factors.csv"
    table = Factors.load(path)
    assert table.note == "S. Nicosanti, profiles of YOLO11x-seg on a T4 and on half a CPU"
    far = scaled_times(times("device"), "device", "cloud", path, graph=GRAPH)
    assert far.seconds("c", "cloud") == pytest.approx(8 / 75, rel=0.01)
    assert far.seconds("c", "cloud", "int8") == pytest.approx(11 / 12 * far.seconds("c", "cloud"), rel=0.01)
    assert set(far.frame["note"]) == {f"float32 on device x the factor of operator and precision, {table.note}"}
