"""The figures of bandwidths: exact breakpoints, and curves that are a + b / bandwidth between them."""

import numpy as np
import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.studies.bandwidths import sweep_bandwidths
from dnnsplit.studies.grid import sweep_plans

SPEEDS, LIMITS = ["100 kB/s", "1 MB/s", "100 MB/s"], [0.0, 0.02]


def of_tiny():
    graph, network, times, noise = ds.examples.tiny()
    topologies = {"device": network.only("device"), "device-edge": network}
    grid = sweep_plans(graph, topologies, times, noise, max_noise=LIMITS, bandwidths=SPEEDS)
    return grid, sweep_bandwidths(graph, topologies, times, noise, max_noise=LIMITS, ends=SPEEDS)


def lines_of(axis):
    """Curves of an axis, each as arrays of x and y."""
    return [line.get_data() for line in axis.lines if line.get_linestyle() != "None" and len(line.get_xdata()) > 2]


def test_breakpoints_are_those_of_bandwidths_and_curves_are_exact():
    graph, network, times, noise = ds.examples.tiny()
    found = ds.bandwidths(graph, network, times, noise, max_noise=0.02, low="100 kB/s", high="1 GB/s")
    figure, numbers = ds.plots.bandwidth(found, "device-edge")
    assert tuple(numbers["breakpoints_bytes_per_s"]) == found.breakpoints[1:-1]
    assert len(found.breakpoints) > 2
    axis = figure.axes[0]
    dots = [line.get_data() for line in axis.lines if line.get_marker() == "o"]
    assert [float(x[0]) for x, _ in dots] == list(found.breakpoints[1:-1])
    for line, (x, y), low, high in zip(found.lines, lines_of(axis), found.breakpoints, found.breakpoints[1:], strict=False):
        assert (x[0], x[-1]) == pytest.approx((low, high))
        assert y == pytest.approx([line.of("latency_s", b) for b in x], rel=1e-12)
    looks = {(line.get_linestyle(), line.get_color()) for line in axis.lines if len(line.get_xdata()) > 2}
    assert len({style for style, _ in looks}) == len(found.lines)  # told apart without colours


def test_a_grid_has_exact_curves_through_its_points():
    grid, exact = of_tiny()
    figure, numbers = ds.plots.bandwidth_grid(grid, exact)
    assert numbers["exact"]["from_bytes_per_s"] == list(exact["from_bytes_per_s"])
    for axis, (topology, part) in zip(figure.axes, exact.groupby("topology", sort=False), strict=True):
        assert axis.get_title(loc="left") == {"device": "device", "device-edge": "device + edge"}[topology]
        curves = lines_of(axis)
        assert len(curves) == len(part)
        for (x, y), row in zip(curves, part.to_dict("records"), strict=True):
            fixed, slope = np.linalg.solve(
                [[1, 1 / row["from_bytes_per_s"]], [1, 1 / row["to_bytes_per_s"]]], [row["from_latency_s"], row["to_latency_s"]]
            )
            assert y == pytest.approx(fixed + slope / x, rel=1e-9)
        for limit, rows in grid[grid["topology"] == topology].groupby("max_noise"):
            x = np.concatenate([curve[0] for curve, own in zip(curves, part["max_noise"], strict=True) if own == limit])
            y = np.concatenate([curve[1] for curve, own in zip(curves, part["max_noise"], strict=True) if own == limit])
            read = np.interp(-1 / rows["bandwidth_bytes_per_s"], -1 / x, y)  # straight in 1 / bandwidth
            assert read == pytest.approx(rows["latency_s"].to_numpy(), rel=1e-3)
        strokes = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "|"]
        inner = part.groupby("max_noise")["from_bytes_per_s"].apply(lambda starts: list(starts)[1:]).sum()
        assert strokes == inner
    assert any(line.get_marker() == "|" for line in figure.axes[1].lines)


def test_between_points_alone_nothing_is_drawn():
    grid, _ = of_tiny()
    figure, numbers = ds.plots.bandwidth_grid(grid)
    assert "exact" not in numbers
    assert not [line for axis in figure.axes for line in axis.lines if line.get_linestyle() != "None"]
    assert "Nothing is drawn between the points" in numbers["caption"]
    assert len({line.get_marker() for line in figure.axes[0].lines}) == len(LIMITS)
    empty = pd.DataFrame(columns=["topology", "max_noise"])  # of a sweep of one bandwidth
    assert "Nothing is drawn" in ds.plots.bandwidth_grid(grid, empty)[1]["caption"]
