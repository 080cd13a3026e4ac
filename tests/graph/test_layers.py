"""Layers, the tensors between them, and tables of both."""

import io
import math

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnsplit.graph.layers import Layer, LayerGraph, Tensor
from dnnsplit.ground.errors import ModelError, OptionError


def refused(says, make, *args, error=ModelError, **options):
    """Assert that `make` raises one error whose message holds every text of `says`; return the message."""
    with pytest.raises(error) as caught:
        make(*args, **options)
    for part in says:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value)


def diamond():
    """
    x --> a --> t --> b --> u --> d --> y
                \\--> c --> v --/
    """
    return LayerGraph(
        layers=[Layer("a", "Conv", 100, 400), Layer("b", "Conv", 50, 200), Layer("c", "Relu", 5), Layer("d", "Add", 7)],
        tensors=[
            Tensor("x", None, ("a",), 1000),
            Tensor("t", "a", ("b", "c"), 400),
            Tensor("u", "b", ("d",), 200),
            Tensor("v", "c", ("d",), 400),
            Tensor("y", "d", (), 100, is_output=True),
        ],
    )


@st.composite
def graphs(draw):
    """A random DAG whose layers are given in a shuffled order."""
    count = draw(st.integers(1, 7))
    order = draw(st.permutations([f"n{i}" for i in range(count)]))  # producers come first in this order
    kinds = st.sampled_from(["Conv", "Gemm", "Relu", "Add", ""])
    made = {
        name: Layer(
            name, draw(kinds), draw(st.floats(0, 1e12)), draw(st.floats(0, 1e9)), quantizable=draw(st.sampled_from([None, False]))
        )
        for name in order
    }
    tensors = [Tensor("in", None, (order[0],), draw(st.floats(0, 1e6)))]
    for i, name in enumerate(order):
        readers = tuple(n for n in order[i + 1 :] if draw(st.booleans()))
        tensors.append(Tensor(f"t{i}", name, readers, draw(st.floats(0, 1e6)), is_output=not readers))
    return LayerGraph([made[f"n{i}"] for i in range(count)], tensors)


# ---------------------------------------------------------------- structure


@settings(deadline=None, max_examples=30)
@given(graphs())
def test_producers_come_before_consumers(graph):
    position = {name: i for i, name in enumerate(graph.topological)}
    assert sorted(position) == sorted(graph.layer_names)
    for tensor in graph.tensors:
        for consumer in tensor.consumers if tensor.producer else ():
            assert position[tensor.producer] < position[consumer]


@settings(deadline=None, max_examples=30)
@given(graphs())
def test_the_digraph_has_an_edge_for_every_pair_that_shares_a_tensor(graph):
    pairs = {(t.producer, c) for t in graph.tensors if t.producer for c in t.consumers}
    assert set(graph.digraph.edges) == pairs
    assert list(graph.digraph.nodes) == list(graph.layer_names)
    assert nx.is_directed_acyclic_graph(graph.digraph)
    total = sum(t.size_bytes * len(t.consumers) for t in graph.tensors if t.producer)
    assert sum(size for *_, size in graph.digraph.edges(data="size_bytes")) == pytest.approx(total)


@settings(deadline=None, max_examples=30)
@given(graphs())
def test_tables_give_the_graph_back(graph):
    assert LayerGraph.from_frames(graph.frame, graph.tensors_frame) == graph


@settings(deadline=None, max_examples=30)
@given(graphs())
def test_tables_give_the_graph_back_through_csv(graph):
    frames = [pd.read_csv(io.StringIO(frame.to_csv(index=False))) for frame in (graph.frame, graph.tensors_frame)]
    again = LayerGraph.from_frames(*frames)
    assert again.tensors_frame["consumers"].tolist() == graph.tensors_frame["consumers"].tolist()
    assert again == graph


def test_ties_of_the_topological_order_keep_the_order_given():
    assert diamond().topological == ("a", "b", "c", "d")
    #   d --> a      b and c are free
    graph = LayerGraph([Layer(n) for n in "abcd"], [Tensor("t", "d", ("a",))])
    assert graph.topological == ("b", "c", "d", "a")
    #   a --> b      c is free, and comes after b
    assert LayerGraph([Layer(n) for n in "abc"], [Tensor("t", "a", ("b",))]).topological == ("a", "b", "c")


def test_an_edge_carries_the_sum_of_the_tensors_between_two_layers():
    graph = LayerGraph([Layer("a"), Layer("b")], [Tensor("t", "a", ("b",), 10), Tensor("u", "a", ("b",), 5)])
    assert graph.digraph.edges["a", "b"]["size_bytes"] == 15


def test_outputs_of_lists_every_layer():
    graph = diamond()
    assert {name: [t.name for t in made] for name, made in graph.outputs_of.items()} == {
        "a": ["t"], "b": ["u"], "c": ["v"], "d": ["y"],
    }  # fmt: skip


def test_a_consumer_that_reads_twice_counts_once_and_one_name_is_no_list_of_letters():
    graph = LayerGraph([Layer("first"), Layer("add")], [Tensor("t", "first", ("add", "add")), Tensor("u", "first", "add")])
    assert [t.consumers for t in graph.tensors] == [("add",), ("add",)]


def test_lookup_by_name_suggests():
    assert diamond().layer("b").flops == 50
    graph = LayerGraph([Layer("model.0/conv"), Layer("model.1/conv")], [])
    refused(["'model.0/cnv'", "did you mean 'model.0/conv'"], graph.layer, "model.0/cnv")


def test_repr_and_html_sum_up():
    assert repr(diamond()) == "LayerGraph(4 layers, 5 tensors, 162 FLOP, 600 B of weights)"
    assert "most FLOPs" in diamond()._repr_html_()


# ---------------------------------------------------------------- what can be quantized


def test_quantizable_picks_by_flops_and_answers_in_topological_order():
    layers = [Layer("a", "Conv", 1), Layer("b", "Gemm", 9), Layer("c", "Add", 99), Layer("d", "MatMul", 5)]
    layers += [Layer("e", "ConvTranspose", 7)]
    graph = LayerGraph(layers, [Tensor("t", "e", ("b",))])
    assert graph.quantizable(1) == ("b",)
    assert graph.quantizable(2) == ("e", "b")
    assert graph.quantizable(3) == ("d", "e", "b")
    assert graph.quantizable() == ("a", "d", "e", "b")
    assert graph.quantizable(0) == ()
    assert graph.quantizable(2, without=("b",)) == ("d", "e")
    assert graph.quantizable(without="b") == ("a", "d", "e")


def test_quantizable_picks_by_the_bytes_that_int8_saves_on_the_wire():
    layers = [Layer("a", "Conv", 9), Layer("b", "Conv", 8), Layer("c", "Conv", 7), Layer("d", "Add", 1)]
    tensors = [
        Tensor("t", "a", ("b",), 40),
        Tensor("u", "b", ("c",), 400),
        Tensor("v", "c", ("d",), 100),
        Tensor("w", "d", (), 900),
    ]
    graph = LayerGraph(layers, tensors)
    assert graph.quantizable(1) == ("a",)
    assert graph.quantizable(1, by="wire") == ("b",)
    assert graph.quantizable(2, by="wire") == ("b", "c")
    assert graph.quantizable(2, "wire", without=["b"]) == ("a", "c")
    refused(["by 'flops' or by 'wire'", "'bytes'"], graph.quantizable, 2, "bytes", error=OptionError)
    refused(["there is no layer 'x'"], graph.quantizable, 2, without=["x"])


def test_a_layer_may_say_itself_whether_it_can_be_quantized():
    graph = LayerGraph([Layer("a", "Conv", 9, quantizable=False), Layer("b", "Add", 1, quantizable=True)], [])
    assert graph.quantizable() == ("b",)


@pytest.mark.parametrize("count", [-1, 1.5, "3", None, True])
def test_a_count_that_is_no_whole_number_is_refused(count):
    refused([repr(count), "0 or more"], diamond().quantizable, count, error=OptionError)


# ---------------------------------------------------------------- wrong graphs


def test_a_cycle_is_named():
    layers = [Layer(n) for n in ("stem", "p", "q", "head")]
    tensors = [Tensor("s", "stem", ("p",)), Tensor("t", "p", ("q", "head")), Tensor("u", "q", ("p",))]
    message = refused(["cycle", "acyclic"], LayerGraph, layers, tensors)
    assert "p -> q -> p" in message or "q -> p -> q" in message
    assert "stem" not in message
    assert "head" not in message


def test_a_layer_that_reads_itself_is_a_cycle():
    refused(["a -> a"], LayerGraph, [Layer("a")], [Tensor("t", "a", ("a",))])


@pytest.mark.parametrize(
    ("layers", "tensors", "says"),
    [
        ([], [], ["no layer"]),
        ([Layer("a"), Layer("a")], [], ["two layers are named 'a'"]),
        ([Layer("a")], [Tensor("t", "a"), Tensor("t", "a")], ["two tensors are named 't'"]),
        ([Layer("conv")], [Tensor("t", "conw")], ["tensor 't'", "'conw' is no layer", "did you mean 'conv'"]),
        ([Layer("conv")], [Tensor("t", "conv", ("relu",))], ["tensor 't'", "'relu' is no layer"]),
        ([Layer("a")], [Tensor("t", "a", (), -4)], ["tensor 't'", "size_bytes is -4", "0 or more"]),
        ([Layer("a")], [Tensor("t", "a", (), math.nan)], ["size_bytes is nan"]),
        ([Layer("a")], [Tensor("t", "a", (), math.inf)], ["size_bytes is inf"]),
        ([Layer("a")], [Tensor("t", "a", (), "4 kB")], ["size_bytes is '4 kB'"]),
        ([Layer("a", flops=-1)], [], ["layer 'a'", "flops is -1"]),
        ([Layer("a", flops=None)], [], ["flops is None"]),
        ([Layer("a", weight_bytes=math.nan)], [], ["weight_bytes is nan"]),
        (["a"], [], ["'a'", "Layer("]),
        ([Layer("a")], ["t"], ["'t'", "Tensor("]),
    ],
)
def test_a_wrong_graph_says_what_and_where(layers, tensors, says):
    refused(says, LayerGraph, layers, tensors)


def test_problems_come_at_once():
    says = ["4 problems", "two layers are named 'a'", "flops is -1", "'zz' is no layer", "size_bytes is -2"]
    refused(says, LayerGraph, [Layer("a", flops=-1), Layer("a")], [Tensor("t", "zz", (), -2)])


# ---------------------------------------------------------------- tables


def test_the_tables_by_hand():
    graph = diamond()
    assert graph.frame["output_bytes"].tolist() == [400, 200, 400, 100]
    assert graph.frame["op_type"].tolist() == ["Conv", "Conv", "Relu", "Add"]
    assert graph.tensors_frame["producer"].tolist() == ["", "a", "b", "c", "d"]
    assert graph.tensors_frame["consumers"].tolist() == ["a", "b c", "d", "d", ""]
    assert graph.frame.attrs["units"]["output_bytes"] == "B"


def test_a_table_of_names_alone_is_enough():
    tensors = pd.DataFrame({"tensor": ["x"], "producer": [np.nan], "consumers": ["a"], "size_bytes": [3]})
    graph = LayerGraph.from_frames(pd.DataFrame({"layer": ["a"]}), tensors)
    assert graph == LayerGraph([Layer("a")], [Tensor("x", None, ("a",), 3)])


@pytest.mark.parametrize(
    ("layers", "tensors", "says"),
    [
        (pd.DataFrame({"name": ["a"]}), diamond().tensors_frame, ["lacks the columns layer", "name"]),
        (diamond().frame, pd.DataFrame({"tensor": ["x"], 3: [1]}), ["producer, consumers, size_bytes", "tensor, 3"]),
        (["a"], diamond().tensors_frame, ["DataFrame", "list"]),
        (diamond().frame, diamond().tensors_frame.assign(size_bytes="big"), ["size_bytes is 'big'"]),
        (diamond().frame[:3], diamond().tensors_frame, ["'d' is no layer"]),
    ],
)
def test_a_wrong_table_is_refused(layers, tensors, says):
    refused(says, LayerGraph.from_frames, layers, tensors)
