"""Several plans in one deployment: the one for the bandwidth that is measured, and no request lost when it changes."""

import json
import threading

import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton
from small_models import conv_net, images
from standalone import Cable, deployment, wait_until

import dnnsplit as ds
from dnnsplit.adapting import cut_plans
from dnnsplit.bandwidth import bandwidths
from dnnsplit.cutting import run_parts
from dnnsplit.deploy.adaptive import PlanSet


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    graph = ds.load(conv_net(folder / "net.onnx", size=96))
    links = [ds.Link("device", "edge", 1e6, 0.001), ds.Link("edge", "device", 1e9, 0.001)]
    network = ds.Network([ds.Server("device", 1.0, 1.0), ds.Server("edge", 1.0, 1.0)], links, "device")
    rows = [(n, s, "float32", seconds) for n in graph.layer_names for s, seconds in (("device", 0.05), ("edge", 0.001))]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    plans = bandwidths(graph, network, times, low=5e4, high=1e9)
    return graph, network, plans, cut_plans(graph.model_path, plans, network, folder / "cut")


def test_the_set_of_plans_is_read_back_and_checked(setup, tmp_path):
    graph, network, plans, found = setup
    assert PlanSet.load(found.folder) == found
    assert len(found.bundles) == len(plans.plans) >= 2
    assert found.model_name == "net"
    assert [bundle.model_name for bundle in found.bundles] == [f"net@{i}" for i in range(len(plans.plans))]
    assert found.stages == ("device", "edge")
    for bandwidth in (6e4, 3e5, 1e6, 5e8):  # far from a breakpoint it is the optimal plan, whatever ran before
        near = [end for end in found.breakpoints[1:-1] if end / 1.2 < bandwidth < end * 1.2]
        if not near:
            assert {plans.plans[found.best(bandwidth, i)] is plans.at(bandwidth) for i in range(len(plans.plans))} == {True}
    end = found.breakpoints[1]
    assert found.best(end * 1.05, 0) == 0  # it does not waver at a breakpoint
    assert found.best(end * 0.95, 1) == 1

    document = json.loads((found.folder / "adaptive.json").read_text())
    for change, text in (({"schema": 2}, "schema 1"), ({"link": ["a"]}, "two servers"), ({"breakpoints": [2, 1]}, "ascending"),
                         ({"more": 1}, "nothing else"), ({"latency_s": "x"}, "could not convert")):  # fmt: skip
        (tmp_path / "adaptive.json").write_text(json.dumps(document | change))
        with pytest.raises(ds.DeployError, match=text):
            PlanSet.load(tmp_path)
    with pytest.raises(ds.OptionError, match="cannot be followed; take a link from 'device'"):
        cut_plans(graph.model_path, ds.BandwidthPlans((("edge", "device"),), plans.breakpoints, plans.lines), network, tmp_path)


def test_the_plan_follows_the_link_and_no_request_is_lost(setup, tmp_path):
    _, _, plans, found = setup
    feed = {"x": images(1, 96)}
    expected = run_parts(found.bundles[0], feed)
    last = len(plans.plans) - 1
    with deployment(found, tmp_path, deadline_s=20.0) as one:
        cable = Cable(one.addresses["edge"])
        cable.bytes_per_s = 5e8
        one.seen["edge"] = cable.address
        one.start()
        answers, stop = [], threading.Event()

        def ask():
            with one.client(deadline_s=20.0) as client:
                while not stop.is_set():
                    try:
                        outputs = client.infer(feed)
                        answers.append(all(np.allclose(outputs[n], expected[n], rtol=1e-4, atol=1e-5) for n in expected))
                    except ds.DeployError as error:
                        answers.append(str(error))
                    stop.wait(0.05)

        def plan():
            with triton.InferenceServerClient(one.addresses["device"]) as client:
                return int(client.get_server_metadata().extensions[1].removeprefix("plan-"))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: plan() == last, 20, plan)  # a fast link is found by asking it
            cable.bytes_per_s = 1e5
            wait_until(lambda: plan() == 0, 20, plan)
            cable.bytes_per_s = 5e8
            wait_until(lambda: plan() == last, 20, plan)
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        assert len(answers) > 10
        assert set(answers) == {True}
        with triton.InferenceServerClient(one.addresses["device"]) as client:
            assert client.get_model_metadata("net").name == "net"
            tensor = triton.InferInput("x", feed["x"].shape, "FP32").set_data_from_numpy(feed["x"])
            response = client.infer("net", [tensor]).get_response()
            assert (response.model_name, response.parameters["plan"].string_param) == ("net", f"net@{last}")
        cable.cut()
