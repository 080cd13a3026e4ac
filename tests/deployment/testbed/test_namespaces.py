"""The test-bed of network namespaces, where the machine can: the kernel's links, and nothing left behind."""

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest
from helpers.bundle_models import mlp
from helpers.deployments import PAIRS, assert_close, images, network, stage_pids
from helpers.processes import started
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnsplit.cutting.bundle import Hop
from dnnsplit.deployment.testbed import namespaces as space
from dnnsplit.deployment.testbed.testbed import latency_test, testbed
from dnnsplit.ground.errors import DeployError

try:
    space.check_machine()
    REASON = ""
except DeployError as problem:
    REASON = f"no namespaces: {problem}"
needs_root = pytest.mark.skipif(bool(REASON), reason=REASON)


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
    assert f"ds{os.getpid()}" not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert not list(space.cpu_controller().glob(f"ds{os.getpid()}*"))


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


class TestQuota:
    @settings(max_examples=200, deadline=None)
    @given(st.floats(1e-3, 64))
    def test_it_is_what_was_asked_in_the_smallest_pieces(self, cpus):
        quota, period = space.quota_us(cpus)
        assert quota / period == pytest.approx(cpus, rel=2e-3)
        assert 1_000 <= period <= 1_000_000
        assert quota == 1_000 or period == 1_000

    @pytest.mark.parametrize("cpus", [0.0, 9e-4, -1.0, float("inf"), float("nan")])
    def test_what_the_kernel_cannot_give_is_refused(self, cpus):
        with pytest.raises(DeployError, match=r"cannot be given, the least is 0.001; take a smaller slowdown"):
            space.quota_us(cpus)

    def test_version_1(self, tmp_path):
        folder = tree(tmp_path, {"cpu/cgroup.procs": "", "cpu/cpu.cfs_quota_us": "-1"})
        assert space.cpu_controller(folder) == folder / "cpu"
        assert {f.name: text for f, text in space.quota_files(folder / "cpu", 0.05).items()} == {
            "cpu.cfs_period_us": "20000", "cpu.cfs_quota_us": "1000"}  # fmt: skip
        both = tree(tmp_path / "b", {"cpu,cpuacct/cgroup.procs": "", "unified/cgroup.controllers": "memory"})
        assert space.cpu_controller(both) == both / "cpu,cpuacct"

    def test_version_2(self, tmp_path):
        files = {"cgroup.controllers": "cpuset cpu io", "cgroup.subtree_control": "cpu memory", "one/cpu.max": "max 100000"}
        folder = tree(tmp_path, files)
        assert space.cpu_controller(folder) == folder
        assert {f.name: text for f, text in space.quota_files(folder / "one", 2.0).items()} == {"cpu.max": "2000 1000"}
        mixed = tree(tmp_path / "b", {"memory/x": "", **{f"unified/{name}": text for name, text in files.items()}})
        assert space.cpu_controller(mixed) == mixed / "unified"

    @pytest.mark.parametrize(
        ("files", "text"),
        [
            ({}, r"no cgroup in .* has a cpu controller, of version 1 \(cpu\) or of version 2"),
            ({"cgroup.controllers": "memory pids"}, "no cgroup in"),
            ({"unified/cgroup.controllers": "hugetlb", "memory/cgroup.procs": ""}, "no cgroup in"),
            ({"cgroup.controllers": "cpu", "cgroup.subtree_control": "memory"}, r"no cpu controller; give it .* echo \+cpu > "),
        ],
    )
    def test_a_machine_that_has_none_says_what_is_missing(self, tmp_path, files, text):
        with pytest.raises(DeployError, match=text):
            space.cpu_controller(tree(tmp_path, files))

    @pytest.mark.parametrize("files", [{"cpu/cgroup.procs": ""}, {"cgroup.controllers": "cpu", "cgroup.subtree_control": "cpu"}])
    def test_one_that_may_not_be_written(self, tmp_path, files, monkeypatch):
        monkeypatch.setattr(space.os, "access", lambda *_: False)  # root may write everything
        with pytest.raises(DeployError, match="may not be written"):
            space.cpu_controller(tree(tmp_path, files))

    def test_a_kernel_without_quotas(self, tmp_path):
        with pytest.raises(DeployError, match=r"neither cpu.max nor cpu.cfs_quota_us"):
            space.quota_files(tmp_path, 0.5)

    @needs_root
    @pytest.mark.parametrize("cpus", [0.5, 0.05])
    def test_the_kernel_keeps_it(self, cpus):
        """CPU time over wall time is the quota: never much above it, and below it only as far as the machine is busy."""
        code = "import time; input(); w = time.monotonic() + 1.5\nwhile time.monotonic() < w: pass\nprint(time.process_time())"
        with ExitStack() as stack:
            group = space._quota(stack, f"ds{os.getpid()}q", cpus)
            spinning = stack.enter_context(started(sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            (group / "cgroup.procs").write_text(str(spinning.pid))
            used = float(spinning.communicate("\n")[0])
        assert used < 1.5 * cpus * 1.25 + 0.1  # what it used before it was under the quota counts as well


def tree(root, files):
    """A folder with some files, as the kernel would show its control groups."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    root.mkdir(exist_ok=True)
    return root


def test_where_it_cannot_run_it_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with (
        pytest.raises(DeployError, match=r"'netns' here: it needs root; take kind='emulated'"),
        testbed(mlp(tmp_path), network(), kind="netns"),
    ):
        pass
