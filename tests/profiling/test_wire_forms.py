"""The table of forms: what it refuses, what it tells, and how it is kept beside the times."""

import math

import numpy as np
import pandas as pd
import pytest

from dnnsplit.codecs.pixels import Pixels
from dnnsplit.ground.errors import ProfileError
from dnnsplit.profiling.elsewhere import joined, scaled_times
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import WireForms, joined_forms

COLUMNS = ["tensor", "precision", "form", "server", "size_bytes", "size_bytes_95", "encode_s", "decode_s", "lossless"]
ROWS = [
    ("x", "float32", "png-1", "device", 50.0, 60.0, 4.0, 2.0, True),
    ("x", "float32", "png-1", "edge", 50.0, 60.0, 2.0, 1.0, True),
    ("x", "float32", "jpeg-90", "device", 10.0, 12.0, 0.4, 0.2, False),
    ("t", "float32", "zstd-1", "device", 80.0, 81.0, 0.1, 0.0, True),
    ("t", "int8", "zstd-1", "device", 20.0, 21.0, 0.05, 0.0, True),
]
PIXELS = {"x": Pixels("NCHW", (1 / 255,), (0.0,), True, (tuple((np.arange(256) / np.float32(255)).tolist()),))}


def table(rows=ROWS):
    return pd.DataFrame(rows, columns=COLUMNS)


def times(*servers, forms=None):
    rows = [("conv", server, "float32", 1.0) for server in servers]
    return LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]), forms=forms)


def refused(says, make, *args):
    with pytest.raises(ProfileError) as error:
        make(*args)
    for part in says:
        assert part in str(error.value), str(error.value)


def changed(row, **values):
    frame = table().astype(dict.fromkeys(values, object))
    for column, value in values.items():
        frame.loc[row, column] = value
    return frame


def test_wrong_tables_are_refused():
    refused(["DataFrame", "list"], WireForms, ROWS)
    refused(["lack the columns decode_s, lossless", "there are tensor"], WireForms, table()[COLUMNS[:-2]])
    refused(["precision 'int4' is unknown", "did you mean 'int8'"], WireForms, changed(4, precision="int4"))
    refused(["precision 'nan' is unknown"], WireForms, changed(4, precision=math.nan))
    refused(["tensor 'x' as 'jpeg-90' on 'device' is given twice"], WireForms, table([*ROWS, ROWS[2]]))
    refused(["tensor 't' is given as 'int8', the plain form"], WireForms, changed(4, form="int8"))
    refused(["tensor 'x' as 'jpeg-90': lossless is 'False'", "True or False"], WireForms, changed(2, lossless="False"))


@pytest.mark.parametrize("column", ["size_bytes", "size_bytes_95", "encode_s", "decode_s"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "few"])
def test_a_number_that_is_none_is_named(column, value):
    refused(["tensor 't' as 'zstd-1' on 'device'", f"{column} is {value!r}"], WireForms, changed(3, **{column: value}))


@pytest.mark.parametrize("other", [{"size_bytes": 51.0}, {"size_bytes_95": 61.0}, {"lossless": False}])
def test_bytes_and_loss_are_the_same_on_every_server(other):
    refused(["tensor 'x' as 'png-1' has other bytes, or another loss"], WireForms, changed(1, **other))


def test_problems_come_at_once():
    rows = [*ROWS, ROWS[0], ("t", "float16", "zstd-1", "edge", -1.0, 1.0, 0.0, 0.0, True)]
    refused(["3 problems", "given twice", "'float16' is unknown", "size_bytes is -1.0"], WireForms, table(rows))


def test_what_a_form_takes_by_tensor_precision_and_server():
    forms = WireForms(table())
    assert forms.names == ("png-1", "jpeg-90", "zstd-1")
    assert list(forms.of("x")) == ["png-1", "jpeg-90"]
    assert forms.of("x")["png-1"] == (50.0, 60.0, {"device": 4.0, "edge": 2.0}, {"device": 2.0, "edge": 1.0}, True)
    assert not forms.of("x")["jpeg-90"].lossless
    assert "edge" not in forms.of("x")["jpeg-90"].encode_s  # it was not measured there
    assert forms.of("t", "int8")["zstd-1"].size_bytes == 20.0
    assert forms.of("x", "int8") == forms.of("y") == {}
    assert repr(forms) == "WireForms(2 tensors; png-1, jpeg-90, zstd-1)"
    assert "jpeg-90" in forms._repr_html_()


def test_the_table_given_is_not_changed_and_further_columns_are_left_out():
    frame = table().assign(note="")
    assert list(WireForms(frame).frame.columns) == COLUMNS
    assert list(frame.columns) == [*COLUMNS, "note"]


def test_other_servers_take_their_factor_times_the_seconds():
    forms = WireForms(table(), PIXELS).scaled("device", {"far": 0.5, "near": 1.0})
    assert set(forms.frame["server"]) == {"far", "near"}
    assert forms.of("x")["png-1"] == (50.0, 60.0, {"far": 2.0, "near": 4.0}, {"far": 1.0, "near": 2.0}, True)
    assert forms.pixels == PIXELS
    assert WireForms(table()).scaled("device", {}).names == WireForms(table()).scaled("cloud", {"far": 1.0}).names == ()


def test_forms_that_are_left_out_are_gone():
    forms = WireForms(table(), PIXELS).without(["png-1", "jpeg-90"])
    assert forms.names == ("zstd-1",)
    assert forms.of("x") == {}
    none = forms.without(["zstd-1"])
    assert (none.names, repr(none)) == ((), "WireForms(0 tensors; none)")


def test_forms_are_kept_beside_the_times(tmp_path):
    one = times("device", "edge", forms=WireForms(table(), PIXELS))
    one.save(tmp_path / "a.times.csv")
    again = LayerTimes.load(tmp_path / "a.times.csv")
    pd.testing.assert_frame_equal(again.forms.frame, one.forms.frame)
    assert again.forms.pixels == PIXELS  # to the last bit
    assert {path.name for path in tmp_path.iterdir()} == {"a.times.csv", "a.times.forms.csv"}
    times("device").save(tmp_path / "a.times.csv")
    assert LayerTimes.load(tmp_path / "a.times.csv").forms is None
    assert {path.name for path in tmp_path.iterdir()} == {"a.times.csv"}


def test_odd_names_and_a_table_without_rows_survive_the_file(tmp_path):
    odd = WireForms(table([("001", "float32", "zstd-1", "NA", 1, 1, 0, 0.1 + 0.2, True)]))
    for forms in (odd, odd.without(["zstd-1"])):
        forms.save(tmp_path / "forms.csv")
        pd.testing.assert_frame_equal(WireForms.load(tmp_path / "forms.csv").frame, forms.frame, check_dtype=len(forms.frame) > 0)


def test_files_that_are_no_table_of_forms_are_refused(tmp_path):
    path = tmp_path / "t.forms.csv"
    times("device").save(tmp_path / "t.csv")
    for content, says in [
        ("tensor,form\nx,png-1\n", "lack the columns"), ("# {\n", "t.forms.csv"), ("", "t.forms.csv"),
        (",".join(COLUMNS) + "\nx,float32,png-1,device,1,1,1,1,maybe\n", "other than True and False"),
        ('# {"pixels": {"x": {"layout": "NCHW"}}}\n' + table().to_csv(index=False), "t.forms.csv"),
        ('# {"pixel": {}}\n' + table().to_csv(index=False), "did you mean 'pixels'"),
    ]:  # fmt: skip
        path.write_text(content)
        refused([says], LayerTimes.load, tmp_path / "t.csv")


def test_forms_of_a_server_without_times_are_refused():
    refused(["forms are given of server 'edge', which has no times"], lambda: times("device", forms=WireForms(table())))


def test_bytes_of_the_first_table_count_where_servers_are_joined():
    device = WireForms(table([row for row in ROWS if row[3] == "device"]), PIXELS)
    edge = WireForms(table([("x", "float32", "png-1", "edge", 49.0, 59.0, 2.0, 1.0, True),
                            ("x", "float32", "webp-90", "edge", 5.0, 6.0, 0.1, 0.1, False),
                            ("t", "float32", "zstd-1", "edge", 81.0, 82.0, 0.2, 0.1, False)]), PIXELS)  # fmt: skip
    both = joined(times("device", forms=device), times("cloud"), times("edge", forms=edge)).forms
    assert both.of("x")["png-1"] == (50.0, 60.0, {"device": 4.0, "edge": 2.0}, {"device": 2.0, "edge": 1.0}, True)
    assert both.of("x")["webp-90"].encode_s == {"edge": 0.1}
    assert not both.of("t")["zstd-1"].lossless  # one of them says that it loses something
    assert both.pixels == PIXELS
    assert joined(times("device"), times("edge")).forms is None
    assert joined_forms([device]).frame.equals(device.frame)


def test_servers_that_hold_images_otherwise_are_not_joined():
    tables = [times("device", forms=WireForms(table(ROWS[:1]), PIXELS)), times("edge", forms=WireForms(table(ROWS[1:2])))]
    refused(["hold images otherwise on edge than on device", "give all the same images"], joined, *tables)


def test_a_server_that_is_scaled_from_another_has_its_forms():
    one = times("device", "edge", forms=WireForms(table(), PIXELS))
    assert scaled_times(one, "edge", "far", 3.0).forms.of("x")["png-1"].encode_s == {"far": 6.0}
    assert scaled_times(times("edge"), "edge", "far", 3.0).forms is None
