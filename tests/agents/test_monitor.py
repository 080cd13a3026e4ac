"""How an agent follows its links by what requests tell of them."""

import pytest

from dnnsplit.agents.monitor import Measured, Monitor


@pytest.fixture
def told():
    return []


@pytest.fixture
def monitor(told):
    monitor = Monitor("device", None, None, lambda: told.append(1), cpus=2.0)
    monitor.links["edge"] = Measured(10e6, 0.002, 1e-10, "measured by messages of its own", 0.0)
    return monitor


@pytest.mark.parametrize(
    ("bandwidth", "known"), [(10.4e6, 10e6), (9.6e6, 10e6), (10.6e6, 10.6e6), (9.4e6, 9.4e6), (0.5e6, 0.5e6)]
)
def test_what_requests_tell_is_taken_where_it_is_off_by_five_per_cent(monitor, told, bandwidth, known):
    monitor.take("edge", bandwidth)
    link = monitor.links["edge"]
    assert (link.bandwidth_bytes_per_s, link.latency_s, link.serialise_s_per_byte) == (known, 0.002, 1e-10)
    assert len(told) == (known != 10e6)
    assert ("requests" in link.note) == (known != 10e6)


def test_a_link_that_nobody_has_measured_is_not_taken_from_requests(monitor, told):
    monitor.take("cloud", 1e6)
    assert set(monitor.links) == {"edge"}
    assert not told
