"""Plans over a grid: every point is what `split` answers there."""

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import coded_small, every_plan
from helpers.problems import random_small

import dnnsplit as ds
from dnnsplit.graph.partitions import components
from dnnsplit.noise.models import Table
from dnnsplit.plots import grids
from dnnsplit.studies.grid import single_servers, sweep_plans, weight_pairs

LIMITS = (0.0, 0.03, 0.08, 1.0)
SPEEDS = (10.0, "50 B/s", 400)


@pytest.mark.parametrize("seed", range(4))
def test_every_point_is_the_optimum_there(seed):
    graph, network, times, noise = random_small(seed, servers=3)
    topologies = {"two": network.only("s0", "s1"), "three": network}
    weights = ((1.0, 0.0), (0.3, 0.7))
    frame = sweep_plans(graph, topologies, times, noise, max_noise=LIMITS, bandwidths=SPEEDS, weights=weights)
    points = itertools.product(topologies, (10.0, 50.0, 400.0), weights, LIMITS)
    assert len(frame) == 2 * 3 * 2 * 4
    for row, (topology, speed, pair, limit) in zip(frame.itertuples(), points, strict=True):
        assert (row.topology, row.bandwidth_bytes_per_s, row.max_noise) == (topology, speed, limit)
        links = [
            ds.Link(n.source, n.target, speed if n.source == "s0" != n.target else n.bandwidth_bytes_per_s, n.latency_s)
            for n in topologies[topology].links
        ]
        varied = ds.Network(topologies[topology].servers, links, "s0")
        plan = ds.split(graph, varied, times, noise, max_noise=limit, latency_weight=pair[0], energy_weight=pair[1])
        assert row.objective == pytest.approx(plan.objective, rel=1e-9, abs=1e-9)
        assert row.noise <= limit + 1e-12
        assert row.status == "optimal"


def test_layers_and_parts_of_every_server_are_counted():
    graph, network, times, noise = random_small(4, servers=3)
    topologies = {"two": network.only("s0", "s1"), "three": network}
    pins = {graph.topological[0]: "s0", graph.topological[1]: "s1", graph.topological[-1]: "s0"}
    frame = sweep_plans(graph, topologies, times, noise, max_noise=[0.0, 1.0], weights=[1, 0.5], pins=pins)
    for row in frame.to_dict("records"):
        weights = {"latency_weight": row["latency_weight"], "energy_weight": 1 - row["latency_weight"]}
        plan = ds.split(graph, topologies[row["topology"]], times, noise, max_noise=row["max_noise"], pins=pins, **weights)
        parts = [plan.assignment[names[0]] for names in components(graph, plan.assignment)]
        assert "s1" in parts
        assert row["solve_s"] > 0
        for server in topologies[row["topology"]].server_names:
            there = [name for name, where in plan.assignment.items() if where == server]
            assert row[f"layers_{server}"] == len(there)
            assert row[f"int8_{server}"] == len({*there} & {*plan.quantized})
            assert row[f"parts_{server}"] == parts.count(server)
    lacking = frame.loc[frame["topology"] == "two", ["layers_s2", "int8_s2", "parts_s2"]]
    assert lacking.isna().all(axis=None)
    assert frame.loc[frame["topology"] == "three", lacking.columns].notna().all(axis=None)
    assert frame["int8"].max() > 0


def test_weights_are_numbers_or_pairs():
    assert weight_pairs([1, 0.25, (0.2, 0.6), [0, 3]]) == [(1.0, 0.0), (0.25, 0.75), (0.2, 0.6), (0.0, 3.0)]
    with pytest.raises(ds.OptionError) as caught:
        weight_pairs([1.5, -0.1, (0, 0), (1, 2, 3), "half", True, 0.5])
    assert len(caught.value.details) == 6
    assert caught.value.details[0].startswith("1.5 is no weight; give a number from 0 to 1, or a pair")
    for nothing in ([], 0.5, "0.5"):
        with pytest.raises(ds.OptionError, match=r"give at least one|give a list"):
            weight_pairs(nothing)
    graph, network, times, noise = ds.examples.tiny()
    with pytest.raises(ds.OptionError, match=r"latency_weight=0.5 is not taken; give weights="):
        sweep_plans(graph, {"tiny": network}, times, noise, max_noise=[0.1], latency_weight=0.5)


def test_a_limit_on_energy_is_solved_point_by_point_and_may_be_out_of_reach():
    problem = graph, network, times, noise = ds.examples.tiny()
    frame = sweep_plans(graph, {"tiny": network}, times, noise, max_noise=[0.0, 1.0], max_device_energy_j=[None, 0.9, 1e-6])
    free, limited, hopeless = (frame.iloc[i : i + 2] for i in (0, 2, 4))
    for row, limit in zip(limited.itertuples(), (0.0, 1.0), strict=True):
        assert row.latency_s == pytest.approx(ds.split(*problem, max_noise=limit, max_device_energy_j=0.9).latency_s)
        assert row.device_energy_j <= 0.9
    assert (free["latency_s"].to_numpy() <= limited["latency_s"].to_numpy()).all()
    assert list(hopeless["status"]) == ["infeasible"] * 2
    assert hopeless[["latency_s", "layers_device", "parts_device", "solve_s"]].isna().all(axis=None)


def test_single_servers_are_priced_as_the_plan_with_everything_there():
    graph, network, times, _ = ds.examples.tiny()
    frame = single_servers(graph, network, times).set_index("server")
    for server in network.server_names:
        cost = ds.evaluate(graph, network, times, dict.fromkeys(graph.layer_names, server), ())
        assert frame.loc[server, "latency_s"] == pytest.approx(cost.latency_s)
        assert frame.loc[server, "energy_j"] == pytest.approx(cost.energy_j)
        assert frame.loc[server, ["source_form", "noise"]].tolist() == ["float32", 0]
    alone = ds.Network(network.servers, [], "device")
    assert np.isnan(single_servers(graph, alone, times).set_index("server").loc["edge", "latency_s"])


def test_the_form_of_the_input_is_told_at_every_point():
    graph, network, times, noise = coded_small(0, layers=2)
    pins, energy = dict.fromkeys(graph.layer_names, "s1"), [None, 1e-6]
    asked = {"max_noise": [0.0, 1.0], "bandwidths": [2.0, 1e4], "pins": pins}
    frame = sweep_plans(graph, {"two": network}, times, noise, max_device_energy_j=energy, **asked)
    solved = frame[frame["status"] == "optimal"]
    for row in solved.itertuples():
        there = network.with_bandwidths({("s0", "s1"): row.bandwidth_bytes_per_s})
        assert row.source_form == ds.split(graph, there, times, noise, max_noise=row.max_noise, pins=pins).source_form
    assert len({*solved["source_form"]}) > 1
    assert {*frame.loc[frame["status"] == "infeasible", "source_form"]} == {""}
    slides = sweep_plans(graph, {"two": network}, times, noise, source_forms=["float32"], **asked)
    assert {*slides["source_form"]} == {"float32"}


def slowly_linked(seed):
    graph, network, times, noise = coded_small(seed, layers=2)
    return graph, network.with_bandwidths({("s0", "s1"): 2.0}), times, noise


@pytest.mark.parametrize("seed", [0, 5, 6])
def test_single_servers_get_the_input_in_every_form_that_is_best_at_some_limit(seed):
    graph, network, times, noise = slowly_linked(seed)
    frame = single_servers(graph, network, times, noise)
    assert len(frame) > len(network.servers)
    float32 = Table((), {0: 0.0}, sources={form: Table((), {0: model.floor}) for form, model in noise.sources.items()})
    for server, rows in frame.groupby("server"):
        for limit in (0.0, *(model.floor for model in noise.sources.values())):
            plans = every_plan(graph, network, times, float32, limit)
            least = min(cost.latency_s for cost, *_ in plans if cost.compute_s[server] == cost.compute_latency_s)
            assert rows[rows["noise"] <= limit]["latency_s"].min() == pytest.approx(least, rel=1e-9)
    quiet = single_servers(graph, network, times, noise, max_noise=0.0)
    pd.testing.assert_frame_equal(quiet, single_servers(graph, network, times))
    assert list(quiet["server"]) == list(network.server_names)
    plain = single_servers(graph, network, times, noise, source_forms=["float32"], wire_forms=["float32"])
    assert {*plain["source_form"]} == {"float32"}


def test_single_servers_keep_memory_and_bounds():
    graph, network, times, noise = slowly_linked(0)
    held = sum(layer.weight_bytes for layer in graph.layers)
    small = replace(network, servers=(network.servers[0], replace(network.servers[1], memory_bytes=0.9 * held)))
    frame = single_servers(graph, small, times, noise).set_index("server")
    assert frame.loc["s1", "source_form"] == ""
    assert np.isnan(frame.loc["s1", "latency_s"])
    noise = Table((), {0: 0.0}, sources={"jpeg-90": Table((), {0: 0.05}, {0: (0.01, 8)})})
    frame = single_servers(graph, network, times, noise, confidence=0.95)
    lossy = frame[frame["source_form"] == "jpeg-90"]
    assert (lossy["noise"] == 0.05).all()
    assert (lossy["noise_upper"] == noise.sources["jpeg-90"].bounded(0.95).floor).all()
    assert len(lossy)


def test_wrong_axes_are_refused():
    graph, network, times, noise = ds.examples.tiny()
    with pytest.raises(ds.OptionError, match="max_noise is empty"):
        sweep_plans(graph, {"tiny": network}, times, noise, max_noise=[])
    with pytest.raises(ds.NetworkError, match="no topology has the link device -> cloud"):
        sweep_plans(graph, {"tiny": network}, times, noise, max_noise=[0.1], bandwidths=[1e6], links=[("device", "cloud")])


def test_figures_of_grids_say_what_they_draw():
    graph, network, times, noise = ds.examples.tiny()
    topologies = {"device": network.only("device"), "device-edge": network}
    frame = sweep_plans(graph, topologies, times, noise, max_noise=[0.0, 0.02], bandwidths=["1 MB/s", "5 MB/s", "20 MB/s"])
    figure, numbers = ds.plots.bandwidth_grid(frame)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["device", "device + edge"]
    assert numbers["rows"]["latency_s"] == list(frame["latency_s"])
    frame = sweep_plans(graph, topologies, times, noise, max_noise=[0.0, 0.02], max_device_energy_j=[0.5, 0.9, 1.5])
    figure, numbers = grids.energy_limits(frame)
    assert figure.axes[0].get_xlabel() == "limit on device energy [J]"
    assert None in numbers["rows"]["latency_s"]
    loose = {"max_noise": 0.02, "progress": False}
    fronts = {name: ds.energy_front(graph, n, times, noise, **loose).frame for name, n in topologies.items()}
    figure, numbers = grids.latency_energy(fronts, single_servers(graph, network, times))
    assert len(numbers["baselines"]["server"]) == 2
    assert set(numbers["fronts"]) == set(topologies)
    assert not plt.get_fignums()
