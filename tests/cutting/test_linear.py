"""Twice as many parts are about twice as much work to cut, to read and to check."""

from helpers.counting import check_linear, products, star, times_of

import dnnsplit as ds


def test_cutting_and_reading_many_parts(tmp_path):
    def planned(count):
        graph, network = ds.load(products(count, tmp_path / f"{count}.onnx")), star(2, str)
        pins = {name: f"s{i % 2}" for i, name in enumerate(graph.topological)}
        return graph, ds.split(graph, network, times_of(graph, network), pins=pins), tmp_path / f"cut{count}"

    def made(count):
        return ds.cut(*planned(count), check=False)

    check_linear(planned, lambda given: ds.cut(*given, check=False), 25)
    check_linear(made, lambda bundle: ds.Bundle.load(bundle.folder), 25)
    check_linear(made, lambda bundle: (bundle.frame, repr(bundle), bundle.largest_message_bytes), 25)
