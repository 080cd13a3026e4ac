"""The figure of a limit on the device's energy."""

import itertools

import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.studies.grid import sweep_plans


def planned():
    """Of 10 layers, more stay on the device the more energy it has; below 2 J nothing keeps a limit on the noise of 0."""
    rows = []
    for topology, joules, limit in itertools.product(
        ("device-edge", "device-edge-cloud"), (3.0, 1.0, 2.0, 4.0, None), (0.0, 0.1)
    ):
        there = joules is None or joules > (1 if limit == 0 else 0.5)
        own = None if not there else 2 * int(joules or 5)
        cloud = float("nan") if topology == "device-edge" else 0.0 if there else None
        rows.append(
            (topology, 1.0, 0.0, joules, limit, 6.0 - (joules or 5) - limit if there else None, own, there and 10 - own, cloud)
        )
    columns = ["topology", "latency_weight", "energy_weight", "max_device_energy_j", "max_noise", "latency_s"]
    frame = pd.DataFrame(rows, columns=[*columns, "layers_device", "layers_edge", "layers_cloud"])
    return frame.astype({name: float for name in columns[1:]} | {"layers_device": float, "layers_edge": float})


def test_a_line_per_noise_limit_and_the_layers_at_the_loosest():
    figure, numbers = ds.plots.energy_shares(planned())
    above, _, below, _ = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes[:2]] == ["device + edge", "device + edge + cloud"]
    lines = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in above.lines}
    assert lines == {"0": ([2, 3, 4], [4.0, 3.0, 2.0]), "0.1": ([1, 2, 3, 4], pytest.approx([4.9, 3.9, 2.9, 1.9]))}
    areas = {area.get_label(): area.get_paths()[0].vertices for area in below.collections}
    assert set(areas) == {"device", "edge"}  # a server without a layer has no area
    assert areas["device"][:, 1].max() == 8
    assert areas["edge"][:, 1].max() == 10
    assert areas["edge"][:, 1][areas["edge"][:, 1] > 0].min() == 2  # it lies on the device's
    assert {text.get_text() for text in figure.legends[1].get_texts()} == {"device", "edge"}
    assert numbers["layers_at_noise_limit"] == 0.1
    assert None not in numbers["rows"]["max_device_energy_j"]


def test_what_no_plan_keeps_is_shaded():
    figure, _ = ds.plots.energy_shares(planned())
    assert not [text for axis in figure.axes for text in axis.texts]  # at 1 J there is a plan with noise
    quiet = planned()
    figure, _ = ds.plots.energy_shares(quiet[quiet["max_noise"] == 0])
    for axis in figure.axes:
        assert [text.get_text() for text in axis.texts] == ["no plan"]
        (ground,) = axis.patches
        assert (ground.get_x(), ground.get_width()) == (0, 1)


def test_a_table_that_lacks_what_it_needs_is_refused():
    frame = planned()
    with pytest.raises(ds.OptionError, match="no row has a limit on the device's energy"):
        ds.plots.energy_shares(frame[frame["max_device_energy_j"].isna()])
    with pytest.raises(ds.OptionError, match="no row has the layers of each server"):
        ds.plots.energy_shares(frame.drop(columns=["layers_device", "layers_edge", "layers_cloud"]))


def test_all_out_of_reach_is_a_drawing_too():
    frame = planned().assign(latency_s=float("nan"), layers_device=float("nan"), layers_edge=float("nan"))
    figure, _ = ds.plots.energy_shares(frame)
    assert all([text.get_text() for text in axis.texts] == ["no plan"] for axis in figure.axes)


def test_it_draws_what_the_sweep_of_plans_gives():
    graph, network, times, noise = ds.examples.tiny()
    frame = sweep_plans(graph, {"device-edge": network}, times, noise, max_noise=[0, 0.02], max_device_energy_j=[0.2, 1.0, 2.0])
    for server in network.server_names:
        frame[f"layers_{server}"] = [float(len(graph.layers)) if on == server else 0.0 for on in frame["servers"]]
    _, numbers = ds.plots.energy_shares(frame)
    assert numbers["servers"] == ["device", "edge"]
    assert len(numbers["rows"]["latency_s"]) == 6
