"""The test-bed of network namespaces, where the machine can: the kernel's links, and nothing left behind."""

import subprocess

import pytest
from bundle_models import mlp
from test_deploy import PAIRS, assert_close, images, network, stage_pids

from dnnsplit.deploy import namespaces as space
from dnnsplit.deploy.bundle import Hop
from dnnsplit.deploy.testbed import latency_test, testbed
from dnnsplit.errors import DeployError

REASON = space.why_not()
needs_root = pytest.mark.skipif(bool(REASON), reason=f"no namespaces: {REASON}")


@needs_root
def test_the_kernel_paces_links_and_a_quota_computing(tmp_path):
    bundle = mlp(tmp_path)
    slow = network(1e6, 0.02)
    with testbed(bundle, slow, {"edge": 4.0}, kind="netns") as client:
        assert_close(client.infer({"x": images(1)}), images(1))
        test = latency_test(client, {"x": images()}, 3, warm_up=1, progress=False)
    rows = test.frame.set_index(["kind", "name", "target"])
    for (name, target), size_bytes in {("h0", "edge"): 65536, ("h2", "device"): 65536}.items():
        row = rows.loc["transfer", name, target]
        assert row["paced_s"] == pytest.approx(slow.link("device", "edge").transfer_s(size_bytes))
        assert row["seconds"] > 0.8 * row["paced_s"]  # a bucket lets its fill through at once
    assert stage_pids(bundle) == {}
    assert "ds" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert not list(space._cpu_controller().glob("ds*"))


@needs_root
def test_stages_without_a_link_are_relayed_to(tmp_path):
    from dataclasses import replace

    bundle = mlp(tmp_path)
    hops = (Hop("h0", "device", "edge"), Hop("h0", "edge", "cloud"), Hop("h2", "cloud", "edge"), Hop("h2", "edge", "device"))
    relayed = replace(bundle, hops=hops)
    relayed.save()
    chain = network(4e6, 0.0, pairs=[p for p in PAIRS if set(p) != {"device", "cloud"}])
    with testbed(relayed, chain, kind="netns") as client:
        assert_close(client.infer({"x": images(2)}), images(2))


def test_where_it_cannot_run_it_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("dnnsplit.deploy.testbed.why_not", lambda: "it needs root")
    with (
        pytest.raises(DeployError, match=r"'netns' here: it needs root; take kind='emulated'"),
        testbed(mlp(tmp_path), network(), kind="netns"),
    ):
        pass
