"""What becomes of a plan on hosts that cannot run it, or are lost: only where one was lost it is tried again."""

from types import SimpleNamespace

import pytest

from dnnsplit.agents.deployer import Deployer
from dnnsplit.agents.hosts import Hosts, LostError
from dnnsplit.agents.placed import Placed
from dnnsplit.ground.errors import DeployError

CUT = SimpleNamespace(name="net@1", files={}, bundle=SimpleNamespace(stages=("device", "edge")))


def stage(address, other, **more):
    peer = {"edge": "b", "device": "a"}[other]
    return {
        "running": True,
        "address": address,
        "ready": {"net@1": {other: peer}},
        "used": "net@1",
        "failed": {},
        "pid": 1,
        **more,
    }


@pytest.fixture
def placed(monkeypatch):
    """A plan on two hosts, whose stages are ready and in use."""
    hosts = Hosts(None, None)
    hosts.source = "device"
    for name, found in {"device": stage("a", "edge"), "edge": stage("b", "device")}.items():
        hosts.members[name] = {"alive": True, "instance": name, "state": {"stages": {"net": found}}}
    monkeypatch.setattr(hosts, "look", lambda limit_s=0.0: None)
    monkeypatch.setattr("dnnsplit.agents.placed.MOVED_S", 0.05)
    monkeypatch.setattr(Placed, "reconcile", lambda self: None)
    found = Placed("net", hosts, {})
    found.cuts["net@1"] = CUT
    return found


def of(placed, name):
    return placed.hosts.members[name]["state"]["stages"]["net"]


def test_ready_are_stages_that_call_each_other_where_they_are(placed):
    assert placed.is_used("net@1")
    of(placed, "edge")["address"] = "c"  # it has started anew, and the other does not know
    assert not placed.is_ready("net@1")
    assert not placed.is_used("net@1")


def test_a_part_that_cannot_be_run_is_an_error_and_a_host_that_is_gone_is_lost(placed):
    of(placed, "edge").update(ready={}, failed={"net@1": "no memory"})
    with pytest.raises(DeployError, match="'edge' cannot run its part: no memory") as told:
        placed.wait(CUT)
    assert not isinstance(told.value, LostError)
    of(placed, "edge")["failed"] = {}
    placed.hosts.members["edge"]["alive"] = False
    with pytest.raises(LostError, match="edge cannot be reached any more"):
        placed.wait(CUT)


@pytest.mark.parametrize(
    ("what", "moved"), [({}, False), ({"pid": 2}, True), ({"running": False}, True), ({"address": "c"}, True)]
)
def test_a_request_that_failed_is_tried_again_where_a_process_is_another_one(placed, monkeypatch, what, moved):
    def fail():
        of(placed, "edge").update(what)
        message = "no answer"
        raise DeployError(message)

    deployer = Deployer.__new__(Deployer)
    deployer.placed = placed
    monkeypatch.setattr(deployer, "say", lambda *told: None, raising=False)
    monkeypatch.setattr(deployer, "_first_request", fail, raising=False)
    with pytest.raises(LostError if moved else DeployError, match="no answer") as told:
        deployer._start(CUT)
    assert isinstance(told.value, LostError) == moved
