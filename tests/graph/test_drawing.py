"""The drawing of a graph in a notebook: every layer and tensor is told, lines pass no box, and it stays small enough to read."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

import dnnsplit as ds
from dnnsplit.graph import drawing


def svg_of(graph):
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", drawing.drawn(graph), re.DOTALL)[0])


def boxes(svg):
    """(left, top, right, bottom) of each box, by the name in its title."""
    found = {}
    for group in svg.iter("g"):
        rect = group.find("rect")
        if rect is not None:
            x, y, wide, high = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
            found[group.find("title").text.split(":")[0]] = (x, y, x + wide, y + high)
    return found


@pytest.fixture(scope="module")
def shipped_svg(shipped):
    return svg_of(shipped)


def test_every_layer_input_and_output_has_a_box(shipped, shipped_svg):
    ends = {t.name for t in shipped.tensors if t.producer is None or t.is_output}
    assert set(boxes(shipped_svg)) == {*shipped.layer_names} | ends


def test_producers_stand_above_consumers_and_boxes_apart(shipped, shipped_svg):
    found = boxes(shipped_svg)
    for producer, consumer in shipped.digraph.edges:
        assert found[producer][3] < found[consumer][1]
    rows = {}
    for left, top, right, _ in found.values():
        rows.setdefault(top, []).append((left, right))
    for row in map(sorted, rows.values()):
        assert all(a[1] < b[0] for a, b in pairwise(row))


def test_everything_is_inside_the_picture_and_told(shipped, shipped_svg):
    width, height = float(shipped_svg.get("width")), float(shipped_svg.get("height"))
    for left, top, right, bottom in boxes(shipped_svg).values():
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    texts = {text.text for text in shipped_svg.iter("text")}
    assert {"Conv", "Concat", "input", "output", "1 x 3 x 320 x 320, 1.229 MB"} <= texts
    titles = " ".join(title.text for title in shipped_svg.iter("title"))
    assert all(tensor.name in titles for tensor in shipped.tensors if tensor.consumers or tensor.is_output)


def test_a_line_that_skips_rows_passes_between_boxes():
    svg = svg_of(ds.examples.tiny().graph)  # fc reads a of conv1, two rows above
    found = boxes(svg)
    ways = [path for path in svg.iter("path") if path.find("title").text.startswith("a:")]
    points = [tuple(map(float, pair)) for path in ways for pair in re.findall(r"([\d.]+) ([\d.]+)", path.get("d"))]
    for name in ("conv2", "pool"):
        left, top, right, bottom = found[name]
        assert not any(left < x < right and top < y < bottom for x, y in points)
    assert any(found["conv2"][1] < y < found["pool"][3] and not found["conv2"][0] <= x <= found["conv2"][2] for x, y in points)


def test_a_large_graph_is_bounded_and_says_so():
    graph = ds.examples.random_problem(3000, 2).graph
    text = drawing.drawn(graph)
    assert "the first 400 of 3000 layers" in text
    assert len(text) < 400_000
    assert len(boxes(svg_of(graph))) <= 402
    assert "the first" not in drawing.drawn(ds.examples.tiny().graph)


def test_lines_that_pass_too_many_rows_make_it_smaller(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_POINTS", 20)
    names = [f"l{i}" for i in range(30)]
    layers = [ds.Layer(name, "Add") for name in names]
    tensors = [ds.Tensor(f"t{i}", name, tuple(names[i + 1 :]), 1.0, i == 29) for i, name in enumerate(names)]
    assert re.search(r"the first \d of 30 layers", drawing.drawn(ds.LayerGraph(layers, tensors)))


def test_a_single_layer_without_tensors_is_drawn():
    assert boxes(svg_of(ds.LayerGraph([ds.Layer("a")], []))).keys() == {"a"}
