"""Tables are read with the types that they were written with, whatever their entries look like."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.ground.tables import TEXTS, comment_of, read_table
from dnnsplit.studies.latency_rows import Run, finished

NAMES = ["001", "1e5", "NA", "nan", "null", "True", "", "-0", "111361920e476468", "12:30"]


def test_names_stay_texts_and_numbers_lose_nothing(tmp_path):
    numbers = [0.1 + 0.2, 1e-300, -0.0, np.pi, 1e22, np.nan, np.inf]
    names, flags = NAMES[: len(numbers)], [*[True, False] * 3, True]
    columns = {"topology": names, "plan_id": names[::-1], "latency_s": numbers, "int8": range(7), "is_output": flags}
    pd.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    again = read_table(tmp_path / "t.csv")
    assert again["topology"].tolist() == names
    assert again["plan_id"].tolist() == names[::-1]
    np.testing.assert_array_equal(again["latency_s"].to_numpy(), np.array(numbers))  # to the last bit
    assert again["int8"].dtype == np.int64
    assert again["is_output"].dtype == bool


@settings(max_examples=50, deadline=None)
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00")), min_size=1, max_size=6),
    value=st.floats(allow_nan=False),
)
def test_any_text_and_any_float_come_back(tmp_path_factory, names, value):
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    pd.DataFrame({"layer": names, "seconds": value}).to_csv(path, index=False)
    again = read_table(path)
    assert again["layer"].tolist() == names
    assert (again["seconds"] == value).all()


def test_comments_and_columns_that_are_called_like_texts(tmp_path):
    (tmp_path / "t.csv").write_text('# {"a": 1}\nlayers,servers,method\n100,3,slides\n')
    assert comment_of(tmp_path / "t.csv") == '{"a": 1}'
    assert read_table(tmp_path / "t.csv")["layers"].tolist() == ["100"]
    assert read_table(tmp_path / "t.csv", numbers={"layers", "servers"})["layers"].tolist() == [100]
    (tmp_path / "t.csv").write_text("tensor,is_output\nt,maybe\n")
    with pytest.raises(ValueError, match="holds other than True and False"):
        read_table(tmp_path / "t.csv")


def test_finished_rows_are_found_again_whatever_their_hash_looks_like(tmp_path):
    known = {
        "output_noise": 0.1,
        "output_difference": 0.0,
        "parts": 2,
        "cut_s": 1.5,
        "start_s": 2.5,
        "size_bytes": 9,
        "pace": 1.0,
    }
    rows = [{"plan_id": name, "latency_s": 0.3, **known} for name in ("111361920e476468", "0000000000000123", "lost")]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    assert finished(tmp_path / "rows.csv") == {}  # of no request anything is known
    requests = [("111361920e476468", 0.1 + 0.2), ("0000000000000123", 1.0), ("111361920e476468", 0.4), ("other", 7.0)]
    pd.DataFrame(requests, columns=["plan_id", "latency_s"]).to_csv(tmp_path / "rows.runs.csv", index=False)
    taken = {"111361920e476468": (0.1 + 0.2, 0.4), "0000000000000123": (1.0,)}
    assert finished(tmp_path / "rows.csv") == {name: Run(seconds, **known) for name, seconds in taken.items()}


def test_an_instance_of_odd_names_comes_back(tmp_path):
    names = ["001", "NA", "1e5", "nan"]
    tensors = [ds.Tensor("x", None, (names[0],), 8)]
    tensors += [ds.Tensor(f"{i}", n, tuple(names[i + 1 : i + 2]), 8, i == 3) for i, n in enumerate(names)]
    graph = ds.LayerGraph([ds.Layer(n, "Conv") for n in names], tensors)
    servers = ["NO", "010", "12:30"]
    network = ds.Network([ds.Server(s) for s in servers], [ds.Link("NO", "010", 1e6, 0.1)], "NO")
    times = ds.LayerTimes(pd.DataFrame([(n, s, "float32", 0.1) for n in names for s in servers],
                                       columns=["layer", "server", "precision", "seconds"]))  # fmt: skip
    instance = ds.Instance(graph, network, times, ds.NoiseModel.polynomial(["001", "1e5"], {"001": 0.1, "1e5": 0.2}))
    instance.save(tmp_path)
    again = ds.Instance.load(tmp_path)
    assert again.graph.layer_names == graph.layer_names
    assert [t.consumers for t in again.graph.tensors] == [t.consumers for t in graph.tensors]
    assert again.network == network
    assert again.noise.terms == instance.noise.terms
    pd.testing.assert_frame_equal(again.times.frame, times.frame)


def test_texts_of_all_shipped_tables_are_known_by_name():
    """Else a column reads as numbers where, as it happens, none of its texts is there, or all look like numbers."""
    unknown = {
        name
        for path in (Path(__file__).parents[2] / "data").rglob("*.csv")
        if "runs" not in path.parts
        for name, column in read_table(path).items()
        if column.dtype.kind not in "ifb" and name not in TEXTS
    }
    assert unknown == set()


def test_a_column_of_texts_that_are_all_empty_holds_texts(tmp_path):
    (tmp_path / "a.csv").write_text("best,source_form,alone_form,gain\ndevice,,,\ndevice,,,\n")
    found = read_table(tmp_path / "a.csv")
    assert [*found["source_form"], *found["alone_form"]] == [""] * 4
    assert found["gain"].isna().all()


@pytest.mark.parametrize("text", ["1_0", "٣", "３.５", "0x1"])
def test_numbers_are_written_as_such(tmp_path, text):
    (tmp_path / "t.csv").write_text(f"layer,server,precision,seconds\nc,device,float32,{text}\n", encoding="utf-8")
    with pytest.raises(ds.DnnSplitError, match="is no time"):
        ds.LayerTimes.load(tmp_path / "t.csv")


def test_a_million_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("," * 1_000_000)  # in hours, if each name were looked for among all
    with pytest.raises(ds.DnnSplitError, match="two columns are called ''"):
        read_table(tmp_path / "t.csv")
