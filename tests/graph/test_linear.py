"""Twice as many layers are about twice as much work to read and to tell."""

from dataclasses import replace

import pytest
from helpers.counting import chain, check_linear, fan, products

import dnnsplit as ds
from dnnsplit.graph import reading
from dnnsplit.graph.cleanup import name_nodes


@pytest.mark.parametrize("kind", ["chain", "fan", "many"])
def test_reading_a_model(kind, tmp_path):
    check_linear(lambda count: products(count, tmp_path / f"{kind}{count}.onnx", kind), ds.load, 100)


def test_no_name_is_searched_for_among_inputs_and_outputs(tmp_path, monkeypatch):
    class Unsearched(tuple):
        __slots__ = ()

        def __contains__(self, name):
            raise AssertionError(name)

    index = reading.index

    def unsearched(*given):
        model = index(*given)
        return replace(model, inputs=Unsearched(model.inputs), outputs=Unsearched(model.outputs))

    monkeypatch.setattr(reading, "index", unsearched)
    graph = ds.load(products(5, tmp_path / "many.onnx", "many"))
    assert sum(tensor.is_output for tensor in graph.tensors) == 5


def test_nodes_of_one_name(tmp_path):
    import onnx

    check_linear(lambda count: onnx.load(products(count, tmp_path / f"{count}.onnx")).graph, name_nodes)
    graph = onnx.load(products(4, tmp_path / "four.onnx")).graph
    graph.node[2].name = "same#2"
    name_nodes(graph)
    assert [node.name for node in graph.node] == ["same", "same#2", "same#2#2", "same#3"]


@pytest.mark.parametrize("make", [chain, fan])
def test_building_and_telling_a_graph(make):
    check_linear(make, lambda graph: ds.LayerGraph(graph.layers, graph.tensors))
    check_linear(make, lambda graph: (graph.topological, graph.frame, graph.tensors_frame, repr(graph), graph._repr_html_()))
    check_linear(make, lambda graph: [graph.layer(name) for name in graph.layer_names] + [graph.quantizable(4)])
