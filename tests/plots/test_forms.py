"""The figure of the forms of the inputs: a mark per form and reader, and what each link saves."""

from dataclasses import replace

import pytest
from helpers.coded_problems import coded_small
from helpers.problems import random_small

import dnnsplit as ds


def of_inputs(graph, times):
    inputs = {tensor.name for tensor in graph.tensors if tensor.producer is None}
    return times.forms.frame[times.forms.frame["tensor"].isin(inputs)]


def test_every_form_of_an_input_is_a_mark_for_each_server_that_reads_it():
    graph, network, times, _ = coded_small(0, layers=2)
    figure, numbers = ds.plots.source_forms(graph, times, network, "coded")
    read = of_inputs(graph, times)
    both = set(read.loc[read["server"] == "s0", "form"]) & set(read.loc[read["server"] == "s1", "form"])
    assert {*numbers["rows"]["server"]} == {"s1"}
    assert {*numbers["rows"]["form"]} == both != set()
    at = {(row.form, row.server): row for row in read.itertuples()}
    for form, write, done in zip(*(numbers["rows"][name] for name in ("form", "encode_s", "decode_s")), strict=True):
        assert write == at[form, "s0"].encode_s
        assert done == at[form, "s1"].decode_s
    axis = figure.axes[0]
    marks = sorted((x, y) for drawn in axis.collections for x, y in drawn.get_offsets())
    sizes, seconds = zip(*marks, strict=True)
    assert list(sizes) == sorted(at[form, "s1"].size_bytes for form in both)
    assert sorted(seconds) == pytest.approx(sorted(at[form, "s0"].encode_s + at[form, "s1"].decode_s for form in both))
    assert {text.get_text().strip() for text in axis.texts} == both | {"float32"}
    link = network.link("s0", "s1")
    x, y = next(line for line in axis.lines if line.get_linestyle() == "--").get_data()
    plain = max(numbers["plain_bytes"].values())
    assert y == pytest.approx((plain - x) / link.bandwidth_bytes_per_s)


def test_without_forms_there_is_the_plain_one_alone():
    graph, network, times, _ = random_small(0, 2, 2, 1)
    figure, numbers = ds.plots.source_forms(graph, replace(times, forms=None), network)
    assert numbers["rows"]["form"] == []
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["float32"]
