"""Several plans in one deployment: the best one for the links as they are and for the noise asked, and no request lost."""

import json
import math
import threading
from contextlib import closing
from itertools import product

import grpc
import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton
from helpers.coded_problems import coded_small
from helpers.problems import random_small
from helpers.processes import wait_until
from helpers.small_models import conv_net, images
from helpers.standalone import Cable, deployment
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.cutting.plan_set import PlanSet
from dnnsplit.cutting.prices import MARGIN, Prices
from dnnsplit.cutting.running import run_parts
from dnnsplit.deployment.stage.gauges import FollowedLink, Gauge
from dnnsplit.deployment.testbed.testbed import testbed
from dnnsplit.deployment.wire.channels import Stub
from dnnsplit.deployment.wire.messages import infer_request
from dnnsplit.studies.adaptive import AdaptivePlans, adaptive_plans, cut_plans
from dnnsplit.studies.bandwidths import bandwidths

SIZE = 96
SECONDS = {"device": 0.05, "edge": 0.02, "cloud": 0.0001}
ROUTE = (("device", "edge"), ("edge", "cloud"))
positive = st.floats(1e-3, 1e3)


def chain(first, second):
    """Device -> edge -> cloud, and back from everywhere; the two bandwidths on the way there are given [B/s]."""
    back = [("cloud", "device"), ("edge", "device"), ("cloud", "edge")]
    links = [ds.Link(*ends, b, 0.001) for ends, b in [*zip(ROUTE, (first, second), strict=True), *((e, 1e9) for e in back)]]
    return ds.Network([ds.Server(n, 1.0, 1.0) for n in SECONDS], links, "device")


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    graph = ds.load(conv_net(folder / "net.onnx", size=SIZE))
    rows = [(n, s, p, seconds * (1 if p == "float32" else 0.5))
            for n in graph.layer_names for s, seconds in SECONDS.items() for p in ("float32", "int8")]  # fmt: skip
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    first = graph.topological[0]
    noise = ds.NoiseModel.polynomial([first], {(first,): 0.1})
    network = chain(1e8, 1e8)
    plans = adaptive_plans(graph, network, times, noise, bandwidths={e: [1e5, "100 MB/s"] for e in ROUTE}, progress=False)
    calibration = ds.calibrate(graph, images(2, SIZE))
    return graph, network, plans, cut_plans(graph.model_path, plans, network, folder / "cut", calibration, progress=False)


class TestPrices:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_the_best_is_the_least_and_does_not_waver(self, data):
        count, links = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 3))
        draw = lambda n, of=positive: tuple(data.draw(of) for _ in range(n))  # noqa: E731
        noise = tuple(sorted(draw(count, st.floats(0, 1))))
        prices = Prices(tuple((f"s{i}", "t") for i in range(links)), noise, draw(count), tuple(draw(links) for _ in range(count)))
        now, limit = draw(links), data.draw(st.floats(noise[0], 2))
        value = [f + sum(p / b for p, b in zip(s, now, strict=True))
                 for f, s in zip(prices.fixed, prices.per_bandwidth, strict=True)]  # fmt: skip
        allowed = [i for i in range(count) if noise[i] <= limit]
        best = prices.best(now, limit)
        assert value[best] <= min(value[i] for i in allowed) * (1 + 1e-12)
        current = data.draw(st.sampled_from(allowed))
        taken = prices.best(now, limit, current)
        near = [prices.at([b * MARGIN**sign for b, sign in zip(now, signs, strict=True)])
                for signs in product((-1, 1), repeat=links)]  # fmt: skip
        assert taken in (current, best)
        if current != best:  # an affine function is least at a corner
            assert (taken == best) == all(at[best] < at[current] for at in near)

    def test_what_cannot_be_kept_is_said(self):
        prices = Prices((), (0.1, 0.2), (2.0, 1.0), ((), ()))
        assert [prices.best((), limit) for limit in (0.1, 0.2, math.inf)] == [0, 1, 1]
        for limit, text in ((0.05, "no stored plan keeps max_noise 0.05; the least noise of one is 0.1"), (-1, "max_noise is -1"),
                            (math.nan, "max_noise is nan")):  # fmt: skip
            with pytest.raises(ds.DeployError, match=text):
                prices.best((), limit)
        for wrong in ({"fixed": (1.0,)}, {"per_bandwidth": ((1.0,), ())}, {"noise": (-1.0, 0.0)}, {"fixed": (math.nan, 1.0)}):
            with pytest.raises(ds.DeployError, match="prices"):
                Prices(**{"links": (), "noise": (0.1, 0.2), "fixed": (2.0, 1.0), "per_bandwidth": ((), ())} | wrong)


def test_a_gauge_follows_what_crosses_its_link():
    gauge = Gauge(FollowedLink("a", "b", 1e6, 0.01, 1e-7))
    assert gauge.bandwidth == pytest.approx(1e6)
    gauge.take(100, 5.0)  # too small to tell a bandwidth
    assert gauge.bandwidth == pytest.approx(1e6)
    size = 200_000
    gauge.take(size, 0.01 + size * (1 / 2e6 + 1e-7))
    assert gauge.bandwidth == pytest.approx(2e6)  # the first counts for all
    gauge.take(size, 0.01 + size * (1 / 1e6 + 1e-7))
    assert 1 / gauge.bandwidth == pytest.approx(0.4 / 1e6 + 0.6 / 2e6)
    assert gauge.probe_bytes == 2**18
    for _ in range(50):
        gauge.take(size, 0.01 + size / 2e5)
    assert gauge.probe_bytes == pytest.approx(0.2 * 2e5, rel=0.05)
    gauge.take(size, 0.001)  # faster than its latency
    assert 0 < gauge.bandwidth < math.inf
    assert not gauge.is_due()
    assert Gauge(FollowedLink("a", "b", math.inf, 0.0, 0.0)).is_due()


class TestPlans:
    @pytest.mark.parametrize("seed", range(4))
    def test_at_every_condition_of_the_grid_they_hold_the_optimum(self, seed):
        graph, network, times, noise = random_small(seed, servers=3)
        grid = {("s0", "s1"): [20.0, 500.0], ("s1", "s2"): [20.0, 500.0]}
        plans = adaptive_plans(graph, network, times, noise, bandwidths=grid, progress=False)
        keys = [json.dumps([plan.assignment, plan.quantized, plan.routes]) for plan in plans.plans]
        assert len(set(keys)) == len(keys)
        for values in product(*grid.values()):
            there = dict(zip(grid, values, strict=True))
            links = [ds.Link(n.source, n.target, there.get((n.source, n.target), n.bandwidth_bytes_per_s), n.latency_s)
                     for n in network.links]  # fmt: skip
            changed = ds.Network(network.servers, links, "s0")
            for limit in (0.0, 0.05, 1.0):
                best = ds.split(graph, changed, times, noise=noise, max_noise=limit)
                taken = plans.at(there, limit)
                cost = ds.evaluate(graph, changed, times, taken.assignment, taken.quantized)
                assert cost.latency_s == pytest.approx(best.latency_s, rel=1e-9)
                assert taken.noise <= limit + 1e-12
            known = [there[ends] for ends in plans.prices.links]
            for plan, price in zip(plans.plans, plans.prices.at(known), strict=True):
                cost = ds.evaluate(graph, changed, times, plan.assignment, plan.quantized)
                assert price == pytest.approx(cost.latency_s, rel=1e-9)

    @pytest.mark.parametrize("seed", range(3))
    def test_plans_that_differ_in_a_form_alone_are_kept_apart(self, seed):
        graph, network, times, noise = coded_small(seed, layers=3)
        grid, pins = {("s0", "s1"): [5.0, 50.0, 5000.0]}, dict.fromkeys(graph.layer_names, "s1")
        plans = adaptive_plans(graph, network, times, noise, bandwidths=grid, progress=False, pins=pins)
        assert len({(plan.quantized, tuple(sorted(plan.forms.items()))) for plan in plans.plans}) == len(plans.plans)
        assert list(plans.frame["source_form"]) == [plan.source_form for plan in plans.plans]
        assert len({*plans.frame["source_form"]}) > 1
        for bandwidth in grid["s0", "s1"]:
            changed = network.with_bandwidths({("s0", "s1"): bandwidth})
            for limit in (0.0, 0.05, 1.0):
                best = ds.split(graph, changed, times, noise, max_noise=limit, pins=pins)
                taken = plans.at({("s0", "s1"): bandwidth}, limit)
                cost = ds.evaluate(graph, changed, times, taken.assignment, taken.quantized, taken.routes, taken.forms)
                assert cost.latency_s == pytest.approx(best.latency_s, rel=1e-9)
                assert taken.noise <= limit + 1e-12

    def test_limits_in_place_of_the_front_and_energy_in_place_of_latency(self):
        graph, network, times, noise = random_small(3, servers=3)
        grid, options = {("s0", "s1"): [20.0, 500.0]}, {"latency_weight": 0.0, "energy_weight": 1.0}
        limited = adaptive_plans(graph, network, times, noise, bandwidths=grid, max_noises=[0.0, 1.0], progress=False, **options)
        assert limited.at({("s0", "s1"): 20.0}, 0.0).noise == 0
        for bandwidth in (20.0, 500.0):
            links = [ds.Link(n.source, n.target, bandwidth if (n.source, n.target) == ("s0", "s1") else n.bandwidth_bytes_per_s,
                             n.latency_s) for n in network.links]  # fmt: skip
            best = ds.split(graph, ds.Network(network.servers, links, "s0"), times, noise=noise, max_noise=1.0, **options)
            least = limited.prices.at([bandwidth] * len(limited.prices.links)).min()
            plain = [plan for plan in limited.plans if plan.quantized == best.quantized and plan.assignment == best.assignment]
            value = limited.prices.at([bandwidth] * len(limited.prices.links))[limited.plans.index(plain[0])]
            assert value == pytest.approx(least)
        alone = adaptive_plans(graph, network, times, None, bandwidths=grid, progress=False)
        assert all(not plan.quantized for plan in alone.plans)

    def test_wrong_questions(self, setup):
        graph, network, times, noise = random_small(1)
        for options, error, text in (
            ({"bandwidths": {("s0", "s9"): [1.0]}}, ds.NetworkError, "there is no link 's0 -> s9'"),
            ({"bandwidths": {}}, ds.OptionError, "at least one link"),
            ({"bandwidths": {("s0", "s1"): []}}, ds.OptionError, "at least one bandwidth"),
            ({"objective": "throughput"}, ds.OptionError, "slowest stage"),
            ({"noise": None, "max_noises": [0.1]}, ds.OptionError, "max_noises go with"),
        ):
            given = {"noise": noise, "bandwidths": {("s0", "s1"): [1.0]}, "progress": False} | options
            with pytest.raises(error, match=text):
                adaptive_plans(graph, network, times, **given)
        with pytest.raises(ds.OptionError, match="the bandwidth of device -> edge is missing"):
            setup[2].at({})

    def test_the_plans_of_one_link_are_taken_as_they_are(self, setup, tmp_path):
        graph, network, times, _ = random_small(2)
        found = bandwidths(graph, network, times, link=("s0", "s1"), low=5.0, high=1e4)
        plans = AdaptivePlans.of(found)
        for bandwidth in (7.0, 60.0, 3000.0):
            known = [bandwidth] * len(plans.prices.links)
            assert plans.prices.at(known).min() == pytest.approx(found.line(bandwidth).of("objective", bandwidth))
        lone = ds.Network(network.servers, [], "s0")
        with pytest.raises(ds.OptionError, match="the network has no link 'device' -> 'edge'"):
            cut_plans(setup[0].model_path, setup[2], lone, tmp_path)


def test_the_folder_is_read_back_and_checked(setup, tmp_path):
    _, _, plans, found = setup
    assert PlanSet.load(found.folder) == found
    assert len(found.bundles) == len(plans.plans) >= 4
    assert found.model_name == "net"
    assert found.stages == ("device", "edge", "cloud")
    assert [link.ends for link in found.links] == list(plans.prices.links) == list(ROUTE)
    for bundle, folder in zip(found.bundles, found.folders, strict=True):
        assert bundle.model_name == f"net@{folder.removeprefix('plan-')}"
    parts = [(part.sha256, bundle.folder / part.file) for bundle in found.bundles for part in bundle.parts]
    assert len({file.stat().st_ino for _, file in parts}) == len({digest for digest, _ in parts}) < len(parts)
    assert "follows device -> edge, edge -> cloud" in " ".join(repr(found).split())
    assert f"{len(plans.plans)} plan" in repr(plans)
    assert list(plans.frame["noise"]) == sorted(plans.frame["noise"])

    document = json.loads((found.folder / "adaptive.json").read_text())
    plan, link = document["plans"][0], document["links"][0]
    for change, text in (
        ({"schema": 1}, "schema 2"), ({"links": [link | {"more": 1}]}, "more"), ({"more": 1}, "the key 'more' is unknown"),
        ({"plans": [plan | {"folder": "../x"}]}, "not a plain name"), ({"plans": []}, "every plan"),
        ({"plans": [plan | {"fixed": "x"}]}, "fixed is 'x': Expected `float`"), ({"links": []}, "prices need"),
        ({"plans": [{k: v for k, v in plan.items() if k != "noise"}]}, "the key 'noise' is missing"),
        ({"links": [link | {"bandwidth_bytes_per_s": 0}, link]}, "must be above 0"),
    ):  # fmt: skip
        (tmp_path / "adaptive.json").write_text(json.dumps(document | change))
        with pytest.raises(ds.DeployError, match=text):
            PlanSet.load(tmp_path)


class Asking:
    """Clients that ask without a pause and compare what they get with what the plan that was taken gives."""

    def __init__(self, client, found, feed, threads=3):
        self.client, self.feed = client, feed
        self.expected = {b.folder.name: run_parts(b, feed) for b in found.bundles}
        self.answers, self.stop = [], threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def plan_of(self, max_noise=None):
        """Ask once; the plan that was taken."""
        outputs, trace = self.client.trace(self.feed, max_noise)
        expected = self.expected[trace.plan]
        assert all(np.allclose(outputs[n], expected[n], rtol=1e-3, atol=1e-2) for n in expected)
        return trace.plan

    def _ask(self):
        while not self.stop.is_set():
            try:
                self.answers.append(self.plan_of())
            except (ds.DeployError, AssertionError) as error:
                self.answers.append(error)
            self.stop.wait(0.05)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)


def test_a_test_bed_whose_links_change(setup):
    """The slow link is not one of the source's: the edge measures it, and the source takes another plan."""
    _, network, _, found = setup
    feed = {"x": images(1, SIZE)}
    folder = {(fast, limit): found.folders[found.prices.best([1e8, 1e8 if fast else 1e5], limit)]
              for fast in (True, False) for limit in (0.0, math.inf)}  # fmt: skip
    assert len(set(folder.values())) == 4
    with testbed(found.folder, network) as client, Asking(client, found, feed) as asking:
        wait_until(lambda: folder[True, math.inf] in asking.answers, 60)
        assert asking.plan_of(0.0) == folder[True, 0.0]
        client.pace(chain(1e8, 1e5))
        wait_until(lambda: asking.answers[-1] == folder[False, math.inf], 60)
        assert asking.plan_of(0.0) == folder[False, 0.0]
        assert asking.plan_of(0.1) == folder[False, math.inf]
        client.pace(network)
        wait_until(lambda: asking.answers[-1] == folder[True, math.inf], 60)
        for limit, text in ((-1.0, "max_noise is -1"), (math.nan, "max_noise is nan")):
            with pytest.raises(ds.DeployError, match=text):
                client.infer(feed, limit)
        with pytest.raises(ds.DeployError, match=r"no link 'device' -> 'edge'"):
            client.pace(ds.Network(network.servers, [], "device"))
    assert all(isinstance(answer, str) for answer in asking.answers), asking.answers


def test_an_unmodified_client_and_a_real_link(setup, tmp_path):
    _, _, _, found = setup
    feed = {"x": images(1, SIZE)}
    with deployment(found, tmp_path, deadline_s=20.0) as one:
        cable = Cable(one.addresses["edge"])
        cable.bytes_per_s = 5e8
        one.seen["edge"] = cable.address
        one.start()
        with one.client(deadline_s=20.0) as client, Asking(client, found, feed) as asking:
            fast, slow = (found.folders[found.prices.best([b, 1e8])] for b in (1e8, 1e5))
            wait_until(lambda: fast in asking.answers, 60)
            cable.bytes_per_s = 1e5
            wait_until(lambda: asking.answers[-1] == slow, 60)
            cable.bytes_per_s = 5e8
            wait_until(lambda: asking.answers[-1] == fast, 60)
        assert all(isinstance(answer, str) for answer in asking.answers), asking.answers
        with triton.InferenceServerClient(one.addresses["device"]) as client:
            assert client.get_model_metadata("net").name == "net"
            assert client.get_server_metadata().extensions[1].startswith("plan-plan-")
            tensor = triton.InferInput("x", feed["x"].shape, "FP32").set_data_from_numpy(feed["x"])
            for limit in (0.0, "0", 0):
                response = client.infer("net", [tensor], parameters={"max_noise": limit}).get_response()
                assert response.model_name == "net"
                assert response.parameters["noise"].double_param == 0
            with pytest.raises(triton.InferenceServerException, match="must be a number"):
                client.infer("net", [tensor], parameters={"max_noise": "low"})
        elsewhere = pytest.raises(triton.InferenceServerException, match="this is 'edge'; requests go to 'device'")
        with triton.InferenceServerClient(one.addresses["edge"]) as client, elsewhere:
            client.infer("net", [tensor])
        cable.cut()


def test_a_message_that_asks_to_measure_is_bounded(setup, tmp_path):
    """A few bytes of a stranger make nobody allocate, or send, more than a message that measures takes."""
    _, _, _, found = setup
    with deployment(found, tmp_path, deadline_s=20.0) as one:
        one.start()
        with closing(Stub(one.addresses["device"])) as stub:

            def asked(size_bytes, target="edge"):
                message = infer_request("net/measure", parameters={"target": target, "size_bytes": size_bytes})
                return stub.infer(message, timeout=20).head.parameters["seconds"].double_param

            for size_bytes in (math.nan, math.inf, -5.0, 0.0, 4e9, 1e300):
                with pytest.raises(
                    grpc.RpcError, match=r"INVALID_ARGUMENT.*size_bytes is .*; give a number from 16384 to 262144"
                ):
                    asked(size_bytes)
            with pytest.raises(grpc.RpcError, match=r"INVALID_ARGUMENT.*no connection to 'egde' \(did you mean 'edge'\?\)"):
                asked(2.0**16, "egde")
            assert 0 < asked(2.0**16) < 20
        with triton.InferenceServerClient(one.addresses["device"]) as client:
            tensor = triton.InferInput("x", (1, 3, SIZE, SIZE), "FP32").set_data_from_numpy(images(1, SIZE))
            with pytest.raises(triton.InferenceServerException, match="max_noise is nan; give a number, 0 or more"):
                client.infer("net", [tensor], parameters={"max_noise": "nan"})
