"""Agents whose links the kernel paces, where the machine can: real probes, quotas, and keys."""

import numpy as np
import pytest
from helpers.agents import Asking, deep, deployed, whole
from helpers.namespaced import namespaced_agents
from helpers.processes import wait_until
from helpers.small_models import images

import dnnsplit as ds
from dnnsplit.deployment.testbed import namespaces as space
from dnnsplit.ground.errors import DeployError

try:
    space.check_machine()
    REASON = ""
except DeployError as problem:
    REASON = f"no namespaces: {problem}"
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

NAMES = ("device", "edge", "cloud")


def network(**bandwidths):
    speeds = {("device", "edge"): 10e6, ("device", "cloud"): 2e6, ("edge", "cloud"): 10e6}
    links = [ds.Link(*ends, speed, 0.0) for pair, speed in speeds.items() for ends in (pair, pair[::-1])]
    return ds.Network([ds.Server(name) for name in NAMES], links, "device")


def test_agents_find_out_what_the_kernel_gives(tmp_path):
    path, pictures = deep(tmp_path)
    # the device is slow beside links of this speed, however fast this machine is
    speeds = [ds.Server(name, speed_cpu=0.05 if name == "device" else 1.0) for name in NAMES]
    ds.Network(speeds, (), "device").save(tmp_path / "speeds.yaml")
    every = ["--emulate", str(tmp_path / "speeds.yaml")]
    with namespaced_agents(network(), tmp_path, {"device": 0.4, "edge": 2.0, "cloud": 2.0}, every) as (agents, pace):
        found = ds.status(agents.at, agents.keys / "device")
        assert found["members"]["device"]["facts"]["cpu_quota"] == pytest.approx(0.4)
        with deployed(agents, path, pictures, max_noise=0, layers=0) as client, Asking(client, path, size=32) as asking:
            assert client.state["servers"] == ["edge"]
            links = ds.status(agents.at, agents.keys / "device")["members"]["device"]["state"]["links"]
            assert 0.5e6 < links["edge"]["bandwidth_bytes_per_s"] < 15e6  # no more than the kernel gives; less on a busy machine
            assert 0.1e6 < links["cloud"]["bandwidth_bytes_per_s"] < 3e6
            asking.more()
            pace("device", "edge", 0.5e6)  # now the cloud is nearer
            wait_until(
                lambda: client.state["servers"] == ["cloud"] and client.state["status"] == "running", 120, lambda: client.state
            )
            asking.more()
            reasons = client.switches["reason"].tolist()
            assert any("device -> edge" in reason or "edge -> device" in reason for reason in reasons), reasons
        assert not asking.lost
        assert not asking.wrong
        x = images(1, 32)
        with ds.Deployed("deep", agents.at, agents.keys / "device") as again:
            np.testing.assert_allclose(again.infer({"x": x})["out"], whole(path, x)["out"], rtol=1e-4, atol=1e-5)
