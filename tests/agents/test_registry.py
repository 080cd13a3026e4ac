"""Who is there: joining, leaving, being lost, and names that are somebody's."""

import threading

import pytest

from dnnsplit.agents import registry as module
from dnnsplit.agents.registry import Registry
from dnnsplit.ground.errors import DeployError


def told(name, instance="1", address="127.0.0.1:1", **state):
    return {"name": name, "address": address, "instance": instance, "facts": {}, "powers": {}, "state": state}


def test_a_member_is_lost_when_it_is_silent_and_back_when_it_is_heard(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    registry = Registry()
    registry.beat("", told("edge"))
    assert registry.members()["edge"]["alive"]
    now[0] += module.LOST_S + 0.1
    assert not registry.members()["edge"]["alive"]
    registry.beat("", told("edge", "2", "127.0.0.1:2"))  # started anew, elsewhere
    assert registry.members()["edge"]["alive"]
    assert registry.members()["edge"]["address"] == "127.0.0.1:2"
    registry.forget("edge")
    assert registry.members() == {}


def test_names_are_those_of_certificates_and_of_one_host_alone():
    registry = Registry()
    with pytest.raises(
        DeployError, match="'edge' came with the certificate of 'cloud'; start it with its own, or with --name cloud"
    ):
        registry.beat("cloud", told("edge"))
    registry.beat("edge", told("edge"))
    with pytest.raises(DeployError, match=r"an agent named 'edge' is at 127.0.0.1:1 already"):
        registry.beat("edge", told("edge", "2", "127.0.0.1:2"))
    registry.beat("edge", told("edge", "3"))  # at its own place it may have started anew
    with pytest.raises(DeployError, match="cannot be used"):
        registry.beat("", told("../edge"))


def test_whoever_waits_hears_of_a_change_at_once():
    registry = Registry()
    registry.beat("", told("edge"))
    version = registry.wait(-1, 0.0)
    assert registry.wait(version, 0.01) == version
    registry.beat("", told("edge"))  # nothing new
    assert registry.wait(version, 0.0) == version
    timer = threading.Timer(0.05, registry.beat, ("", told("edge", links={"device": 1})))
    timer.start()
    assert registry.wait(version, 30.0) != version
    timer.join()


def test_whose_place_is_empty_is_lost_at_once_and_who_is_only_silent_is_not(monkeypatch):
    import socket

    registry, now = Registry(), [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        registry.beat("", told("edge", address=address))
        now[0] += module.SILENT_S + 0.1
        registry.call_on_silent()
        assert registry.members()["edge"]["alive"]
    registry.call_on_silent()
    assert not registry.members()["edge"]["alive"]
