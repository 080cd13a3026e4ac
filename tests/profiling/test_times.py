"""Seconds per layer, server and precision."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnsplit.graph.layers import Layer, LayerGraph
from dnnsplit.ground.errors import ProfileError
from dnnsplit.network.servers import Network, Server
from dnnsplit.profiling.overhead import Overhead
from dnnsplit.profiling.times import LayerTimes

COLUMNS = ["layer", "server", "precision", "seconds"]
ROWS = [
    ("conv", "device", "float32", 4.0), ("conv", "device", "int8", 3.0), ("relu", "device", "float32", 1.0),
    ("conv", "edge", "float32", 1.0), ("conv", "edge", "int8", 0.5), ("relu", "edge", "float32", 0.25),
]  # fmt: skip
GRAPH = LayerGraph([Layer("conv", "Conv"), Layer("relu", "Relu")], [])
NETWORK = Network([Server("device"), Server("edge")])


def table(rows=ROWS, **columns):
    return pd.DataFrame(rows, columns=COLUMNS).assign(**columns)


def refused(says, make, *args):
    with pytest.raises(ProfileError) as error:
        make(*args)
    for part in says:
        assert part in str(error.value), str(error.value)


def test_one_time_by_name():
    times = LayerTimes.from_frame(table())
    assert times.seconds("conv", "device") == 4.0
    assert times.seconds("conv", "edge", "int8") == 0.5
    refused(["no int8 time of layer 'relu' on 'edge'", "profile it"], times.seconds, "relu", "edge", "int8")


def test_the_array_follows_the_graph_and_the_network():
    array = LayerTimes(table()).array(GRAPH, NETWORK, ("conv",))
    assert array.shape == (2, 2, 2)
    assert array[:, :, 0].tolist() == [[4.0, 1.0], [1.0, 0.25]]
    assert array[0, :, 1].tolist() == [3.0, 0.5]
    assert np.isnan(array[1, :, 1]).all()


def test_the_order_of_the_rows_does_not_matter():
    array = LayerTimes(table(ROWS[::-1])).array(GRAPH, NETWORK, ("conv",))
    assert array == pytest.approx(LayerTimes(table()).array(GRAPH, NETWORK, ("conv",)), nan_ok=True)


def test_the_table_given_is_not_changed():
    frame = table()
    LayerTimes(frame)
    assert list(frame.columns) == COLUMNS


def test_every_missing_time_is_named():
    says = ["no float32 time of layer 'relu' on server 'edge'", "no int8 time of layer 'conv' on server 'edge'"]
    refused(says, LayerTimes(table(ROWS[:4])).array, GRAPH, NETWORK, ("conv",))


def test_a_server_without_any_time_is_compared_with_those_known():
    told = "no time is known of server 'edeg' (did you mean 'edge'?); profile it, or name it so"
    with pytest.raises(ProfileError) as error:  # once, not for each layer
        LayerTimes(table()).array(GRAPH, Network([Server("device"), Server("edeg")]))
    assert str(error.value) == f"layer times do not cover the problem: {told}"


def test_a_quantizable_layer_that_the_graph_lacks_is_named():
    refused(["'cnv' is no layer", "did you mean 'conv'"], LayerTimes(table()).array, GRAPH, NETWORK, ("cnv",))


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "fast", None])
def test_a_time_that_is_no_time_is_named(value):
    frame = table().astype({"seconds": object})
    frame.loc[2, "seconds"] = value
    refused(["layer 'relu' on 'device' in float32", repr(value) if value is not None else "N", "0 s or more"], LayerTimes, frame)


def test_zero_seconds_and_numbers_as_text_are_times():
    assert LayerTimes(table([("a", "d", "float32", 0)])).seconds("a", "d") == 0.0
    assert LayerTimes(table([("a", "d", "float32", "0.5")])).seconds("a", "d") == 0.5


def test_wrong_tables_are_refused():
    refused(["lack the columns precision, seconds", "layer, server"], LayerTimes, table()[["layer", "server"]])
    refused(["precision 'float16' is unknown", "did you mean 'float32'"], LayerTimes, table([("a", "d", "float16", 1)]))
    refused(["layer 'conv' on 'device' in float32 is given twice"], LayerTimes, table([*ROWS, ROWS[0]]))
    refused(["DataFrame", "dict"], LayerTimes, {"layer": ["a"]})


def test_problems_come_at_once():
    rows = [("a", "d", "float32", -1), ("b", "d", "fp32", 1), ("c", "d", "int8", 1), ("c", "d", "int8", 1)]
    refused(["3 problems", "-1", "'fp32'", "given twice"], LayerTimes, table(rows))


def test_totals_by_hand():
    times = LayerTimes(table(origin=["measured"] * 3 + ["scaled"] * 3, factor=[1.0] * 3 + [0.25] * 3, note="this CPU"))
    totals = times.totals.set_index(["server", "precision"])
    assert totals["seconds"].to_dict() == {
        ("device", "float32"): 5.0, ("device", "int8"): 3.0, ("edge", "float32"): 1.25, ("edge", "int8"): 0.5,
    }  # fmt: skip
    assert totals.loc[("edge", "float32"), "origin"] == "scaled"
    assert totals.loc[("device", "float32"), "layers"] == 2
    assert times.slowdown == {"device": 1.0, "edge": 0.25}
    assert repr(times) == "LayerTimes(2 layers; whole model in float32: device 5 s, edge 1.25 s)"
    assert "scaled" in times._repr_html_()


def test_the_sum_over_a_server_by_hand():
    times = LayerTimes(table())
    assert times.seconds_of("device") == 5.0
    assert times.seconds_of("edge", "int8") == 0.5
    refused(["no float32 times of server 'egde'", "did you mean 'edge'"], times.seconds_of, "egde")
    refused(["no int8 times of server 'd'"], LayerTimes(table([("a", "d", "float32", 1)])).seconds_of, "d", "int8")


def test_times_that_were_given_have_no_slowdown():
    assert LayerTimes(table()).slowdown == {}


def test_save_and_load_keep_everything(tmp_path):
    times = LayerTimes(table(origin="scaled", factor=[2.0] * 3 + [math.nan] * 3, note=["a, b", "", "µ", "", "", ""]))
    times.save(tmp_path / "times.csv")
    again = LayerTimes.load(tmp_path / "times.csv")
    pd.testing.assert_frame_equal(again.frame, times.frame, check_dtype=False)
    assert again.slowdown == {"device": 2.0}


def test_times_without_notes_and_factors_survive_the_file(tmp_path):
    times = LayerTimes(table())
    times.save(tmp_path / "times.csv")
    pd.testing.assert_frame_equal(LayerTimes.load(tmp_path / "times.csv").frame, times.frame, check_dtype=False)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(["1", "007", "null", "NA", "conv 1", 'a"b', "a,b", "x#2"]), min_size=1, unique=True),
       st.floats(0, 1e6))  # fmt: skip
def test_any_layer_name_and_any_time_survive_the_file(tmp_path_factory, names, seconds):
    path = tmp_path_factory.mktemp("times") / "times.csv"
    LayerTimes(table([(name, "d", "float32", seconds) for name in names])).save(path)
    times = LayerTimes.load(path)
    assert [times.seconds(name, "d") for name in names] == [seconds] * len(names)


def test_files_that_are_no_table_are_refused(tmp_path):
    refused(["no.csv"], LayerTimes.load, tmp_path / "no.csv")
    refused([str(tmp_path)], LayerTimes.load, tmp_path)
    for content in (b"", b"\xff\xfe\x81\x00\n", b"a,b\n1,2,3\n1,2,3,4\n"):
        (tmp_path / "bad.csv").write_bytes(content)
        refused(["bad.csv"], LayerTimes.load, tmp_path / "bad.csv")
    (tmp_path / "other.csv").write_text("layer,seconds\na,1\n")
    refused(["lack the columns server, precision"], LayerTimes.load, tmp_path / "other.csv")


OVERHEAD = Overhead(1e-9, 2e-9, 3e-4, 2.5, 0.01, 0.04, 12)


def test_overheads_and_what_times_were_made_with_survive_the_file(tmp_path):
    times = LayerTimes(table(), {"edge": OVERHEAD}, {"edge": {"cpu": 'a, "b" # c', "packages": {"x": "1"}}})
    times.save(tmp_path / "times.csv")
    again = LayerTimes.load(tmp_path / "times.csv")
    assert again.overhead == times.overhead
    assert again.made == times.made
    pd.testing.assert_frame_equal(again.frame, times.frame, check_dtype=False)


def test_the_error_of_a_plan_by_hand():
    times = LayerTimes(table(), {"edge": OVERHEAD})
    assert times.error_s({"edge": 10.0, "device": 0.0}) == pytest.approx(0.4)
    assert times.error_s({}) == 0.0
    assert math.isnan(times.error_s({"edge": 10.0, "device": 1.0}))  # nobody knows how far the device's times are off


def test_an_overhead_without_times_and_broken_headers_are_refused(tmp_path):
    refused(["'egde', which has no times", "did you mean 'edge'"], LayerTimes, table(), {"egde": OVERHEAD})
    for header in ('# {"overhead": {"edge": {"s_per_part": 1}}}', "# {", "# []", '# {"overhead": 3}'):
        (tmp_path / "bad.csv").write_text(header + "\nlayer,server,precision,seconds\na,edge,float32,1\n")
        refused(["bad.csv"], LayerTimes.load, tmp_path / "bad.csv")
