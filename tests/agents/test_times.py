"""What a model takes on hosts, as their quotas, their own use and their pace change it; and how fast a machine is."""

import math
import time

import pytest
from helpers.processes import wait_until
from helpers.small_models import conv_net

import dnnsplit as ds
from dnnsplit.agents import speed
from dnnsplit.agents.hosts import Hosts
from dnnsplit.agents.speed import Speed
from dnnsplit.agents.times import HostTimes


def hosts(**loads):
    """Hosts of one machine each, of which this is known."""
    found = Hosts(None, None)
    for name, load in loads.items():
        facts = {"cpu_quota": load.pop("quota", 2.0), "machine": load.pop("machine", name), "cpu": "x"}
        facts |= {"slowdown": load.pop("slowdown")} if "slowdown" in load else {}
        found.members[name] = {"facts": facts, "state": {"load": {"own_cpu": 0.0, **load}}}
    return found


@pytest.mark.parametrize(
    ("load", "factor", "note"),
    [
        ({}, 1.0, ""),
        ({"own_cpu": 0.2}, 1.0, ""),  # on another CPU
        ({"quota": 0.5}, 2.0, "a quota of 0.5 CPU"),
        ({"quota": 0.5, "own_cpu": 0.1}, 2.5, "of which the agent uses 0.1"),
        ({"quota": 0.5, "own_cpu": 0.4}, 4.0, "of which the agent uses 0.4"),  # half of it is left in any case
        ({"reference_s": 3e-3}, 1.5, "its pace of now, 1.5"),
        ({"slowdown": 4.0}, 4.0, "emulated, 4 times slower"),
        ({"quota": 0.5, "reference_s": 1e-3}, 1.0, "its pace of now, 0.5"),
    ],
)
def test_a_second_of_a_profile_takes_longer_where_there_is_less_of_a_cpu(load, factor, note):
    found, why = hosts(edge=load).factor("edge", 2e-3)
    assert found == pytest.approx(factor)
    assert note in why


def test_agents_of_one_machine_have_one_pace():
    found = hosts(
        edge={"machine": "m", "reference_s": 1e-3}, cloud={"machine": "m", "reference_s": 3e-3}, far={"reference_s": 5e-3}
    )
    assert [found.factor(name, 2e-3)[0] for name in ("edge", "cloud", "far")] == pytest.approx([1.0, 1.0, 2.5])


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """A profile of a small model."""
    graph = ds.load(conv_net(tmp_path_factory.mktemp("times") / "net.onnx"))
    return ds.flops_times(graph, "edge", 1e9, 1e9)


def test_times_follow_the_hosts_and_one_machine_is_measured_once(profile):
    found = hosts(edge={}, twin={"machine": "edge"}, far={})
    times, asked = HostTimes(found), []

    def measured(name):
        asked.append(name)
        return ds.scaled_times(profile, "edge", name, 1.0), False

    assert [times.learn(name, measured) for name in ("edge", "twin", "far")] == [False, True, False]
    assert asked == ["edge", "far"]
    assert "edge" not in times
    for name in ("edge", "twin", "far"):
        times.take(name)
    before = times.of("edge").seconds_of("edge")
    assert times.of("twin").seconds_of("twin") == pytest.approx(before)
    found.members["edge"]["facts"]["cpu_quota"] = 0.5
    assert times.every().seconds_of("edge") == pytest.approx(2 * before)
    assert times.speeds == pytest.approx({"edge": 2.0, "twin": 1.0, "far": 1.0})
    found.members["edge"]["facts"]["cpu_quota"] = 0.499  # too little to tell
    assert times.speeds["edge"] == 2.0
    del found.members["edge"]  # one that is lost has the times that it had
    assert times.every().seconds_of("edge") == pytest.approx(2 * before)
    times.drop("edge")
    assert "edge" not in times
    assert set(times.every().frame["server"]) == {"twin", "far"}


def test_the_pace_of_a_machine_is_looked_at_again(monkeypatch):
    monkeypatch.setattr(speed, "EVERY_S", 0.01)
    monkeypatch.setattr(speed, "MOST", math.inf)
    watched = Speed(1.0)
    assert math.isnan(watched.reference_s)
    watched.start()
    first = wait_until(lambda: (found := watched.reference_s) > 0 and found)
    time.sleep(0.2)
    watched.stop()
    assert 1e-5 < first < 1.0
    assert watched.reference_s > 0
