"""The small curve of a front in a notebook."""

from xml.etree import ElementTree

from dnnsplit.ground.curve import steps


def test_steps_go_right_and_then_to_the_next_value():
    svg = ElementTree.fromstring(steps([0.0, 1.0, 2.0], [3.0, 2.0, 1.0], ("noise <", "latency"), (list("01234"), list("abcde"))))
    points = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # down is a greater y
    assert abs((points[0][0] + points[2][0]) / 2 - points[1][0]) < 0.2
    curve = next(p.get("d") for p in svg.iter("path") if p.get("fill") == "none")
    assert curve.count("H") == curve.count("V") == 2
    assert {text.text for text in svg.iter("text")} == {*"01234", *"abcde", "noise <", "latency"}


def test_a_flat_curve_is_in_the_middle():
    svg = ElementTree.fromstring(steps([1.0], [5.0], ("x", "y"), (list("01234"), list("abcde"))))
    assert len(list(svg.iter("circle"))) == 1
