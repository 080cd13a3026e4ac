"""A tensor sent to oneself costs what the network file says, in the plan and on the test-bed."""

import math

import pandas as pd
import pytest
from helpers.small_models import conv_net, images

import dnnsplit as ds

LATENCY_S, BYTES_PER_S = 0.02, 1e6


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """Two servers, the device with a link to itself; the first two layers on the device."""
    folder = tmp_path_factory.mktemp("self")
    graph = ds.load(conv_net(folder / "net.onnx"))
    between = [ds.Link(a, b, 1e9, 0.0) for a, b in (("device", "edge"), ("edge", "device"))]
    itself = ds.Link("device", "device", BYTES_PER_S, LATENCY_S)
    network = ds.Network([ds.Server("device", 1.0, 1.0, 3.0), ds.Server("edge")], [*between, itself])
    rows = [(n, s, "float32", 1e-4) for n in graph.layer_names for s in ("device", "edge")]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    pins = {name: "device" if i < 2 else "edge" for i, name in enumerate(graph.topological)}
    plan = ds.split(graph, network, times, pins=pins)
    return ds.cut(graph.model_path, plan, folder / "build"), network, plan


def test_the_test_bed_waits_for_exactly_what_is_priced(cut):
    bundle, network, plan = cut
    inside = [t for t in plan.transfers if t.source == t.target]
    assert {t.source for t in inside} == {"device"}
    assert len(inside) >= 2  # the image, and what the first layer hands to the second
    assert plan.cost.server_energy_j["device"] >= 3.0 * math.fsum(t.seconds for t in inside)
    with ds.testbed(bundle, network, {"device": 1.25, "edge": 1.25}) as client:
        for _ in range(2):  # in every request anew
            _, trace = client.trace({"x": images(1)})
            moved = {t.wire: t for t in trace.transfers if t.source == t.target}
            priced = {t.tensor: pytest.approx(t.seconds) for t in inside}
            assert {name: t.paced_s for name, t in moved.items()} == priced
            assert trace.latency_s >= math.fsum(t.seconds for t in inside)
        test = ds.latency_test(client, {"x": images(1)}, repeats=1, warm_up=0, progress=False)
        table = ds.compare(test, bundle).set_index("term")
    for t in inside:
        term = table.loc[f"{t.tensor}: device -> device"]
        assert term["predicted_s"] == pytest.approx(t.seconds)
        assert term["measured_s"] >= t.seconds
    # each term once: what is predicted adds up to the plan's latency
    assert table.drop(index="latency")["predicted_s"].sum() == pytest.approx(plan.latency_s)


def test_another_network_on_the_test_bed_sets_the_pace_inside_too(cut):
    bundle, network, plan = cut
    links = [n for n in network.links if n.source != n.target]
    with ds.testbed(bundle, ds.Network(network.servers, links), {"device": 1.25, "edge": 1.25}) as client:
        transfers = client.trace({"x": images(1)})[1].transfers
        assert all(t.source != t.target for t in transfers)
        client.pace(ds.Network(network.servers, [*links, ds.Link("device", "device", math.inf, 0.001)]))
        moved = [t for t in client.trace({"x": images(1)})[1].transfers if t.source == t.target]
    assert [t.paced_s for t in moved] == [0.001] * sum(t.source == t.target for t in plan.transfers)


def test_slowdowns_may_be_of_more_servers_than_there_are(cut):
    bundle, network, _ = cut
    with ds.testbed(bundle, network, {"device": 1.25, "edge": 1.25, "cloud": 0.1, "moon": 7.0}) as client:
        assert client.infer({"x": images(1)})["out"].shape == (1, 4, 12, 12)
    mistyped = ds.testbed(bundle, network, {"devise": 1.25, "edge": 1.25})
    with pytest.raises(ds.DeployError, match=r"'devise', which is no server \(did you mean 'device'\?\)"), mistyped:
        pass
