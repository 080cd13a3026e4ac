"""What a link gives, measured over real sockets; only what must hold on any machine is asserted of times."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from helpers.bundle_models import lookup
from helpers.paths import ROOT
from helpers.standalone import Cable, deployment, free_ports

import dnnsplit as ds
from dnnsplit.deployment import probing
from dnnsplit.deployment.probing import Probe, answer_probes, probe


@pytest.fixture
def answering():
    stop, ready, address = threading.Event(), threading.Event(), f"127.0.0.1:{free_ports(1)[0]}"
    options = {"host": "127.0.0.1", "port": int(address.rpartition(":")[2]), "stop": stop, "started": lambda _: ready.set()}
    thread = threading.Thread(target=answer_probes, kwargs=options)
    thread.start()
    try:
        assert ready.wait(60)
        yield address
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_a_slow_link_is_measured_as_slow(answering):
    found = []
    for bytes_per_s, *asked in ((4e7, 3, 2**20), (2e6, 2, 2**18)):  # on either, what a message takes is far above what noise adds
        cable = Cable(answering)
        cable.bytes_per_s = bytes_per_s
        found.append(probe(cable.address, *asked))
        cable.cut()
    fast, slow = found
    # a link is never faster than what it lets through
    assert slow.bandwidth_bytes_per_s < 1.3 * 2e6 < fast.bandwidth_bytes_per_s
    assert 0 < fast.latency_s < slow.latency_s + 1
    assert 0 < fast.serialise_s_per_byte < 1e-6
    assert fast.largest_bytes <= 2**20
    assert "bandwidth" in str(fast)


@pytest.fixture
def busy(monkeypatch):
    """Messages that take 1 ms and 10 ns/B, but for the first `busy.messages`, which take 1 s whatever their size."""
    told = SimpleNamespace(messages=0, packing_s=0.0, sent=[])

    def seconds(size):
        told.sent.append(size)
        return 1.0 if len(told.sent) <= told.messages else 1e-3 + size * 1e-8

    @contextmanager
    def timer(*_):
        yield seconds

    monkeypatch.setattr(probing, "message_timer", timer)
    monkeypatch.setattr(probing, "_packing", lambda size: 2e-9 * size + told.packing_s)
    return told


@pytest.mark.parametrize("messages", [0, 20, 60])
def test_a_busy_moment_does_not_hide_a_link(busy, messages):
    busy.messages, busy.packing_s = messages, 1e-3  # what packing takes whatever the size is a part of the latency
    found = probe("10.0.0.2:7000", 2, 2**20)
    assert found.latency_s == pytest.approx(0.5e-3 + 0.5e-8)
    assert found.serialise_s_per_byte == pytest.approx(2e-9, rel=1e-4)
    assert 1 / found.bandwidth_bytes_per_s == pytest.approx(8e-9, rel=1e-4)
    assert len(busy.sent) < messages + 30


def test_a_link_that_stays_hidden_is_told_after_so_many_rounds(busy):
    busy.messages = 10_000
    with pytest.raises(
        ds.DeployError, match=r"in 20 rounds 65536 B took no longer than 1 B.*less busy, or raise most_bytes \(here 1048576\)"
    ):
        probe("10.0.0.2:7000", 2, 2**20)
    assert len(busy.sent) < 100


def test_a_stage_answers_as_well_up_to_what_it_takes(tmp_path):
    with deployment(lookup(tmp_path), tmp_path) as one:
        one.start()
        found = probe(one.addresses["edge"], 2)
    assert found.largest_bytes <= 2**20


def test_the_link_goes_into_the_network_file(tmp_path):
    path = tmp_path / "network.yaml"
    path.write_text((ROOT / "data" / "networks" / "device-edge.yaml").read_text())
    before = ds.Network.load(path)
    Probe("10.0.0.2:7000", 0.004, 5.5e6, 2e-9, 2**20).write(path, "device", "edge")
    after = ds.Network.load(path)
    link = after.link("device", "edge")
    assert (link.latency_s, link.bandwidth_bytes_per_s, link.serialise_s_per_byte) == (0.004, 5.5e6, 2e-9)
    assert "dnnsplit probe 10.0.0.2:7000" in link.note
    assert after.link("edge", "device") == before.link("edge", "device")
    assert after.servers == before.servers
    for source, target, text in (("device", "egde", "did you mean 'edge'"), ("edge", "edge", "name two servers")):
        with pytest.raises(ds.NetworkError, match=text):
            Probe("a:1", 0.1, 1.0, 0.0, 1).write(path, source, target)


def test_nobody_answers():
    with pytest.raises(ds.DeployError, match=r"127\.0\.0\.1:9: UNAVAILABLE.*is a stage or a probe running there"):
        probe("127.0.0.1:9")
    with pytest.raises(ds.DeployError, match="repeats is 0"):
        probe("127.0.0.1:9", 0)
