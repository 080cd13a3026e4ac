"""Twice as many servers are about twice as much work to write down, look up and tell."""

import pytest
from helpers.counting import check_linear, star

import dnnsplit as ds


@pytest.mark.parametrize("work", [
    lambda net: ds.Network(net.servers, net.links, net.source),
    lambda net: [net.server(name) for name in net.server_names],
    lambda net: [net.link(*link.ends) for link in net.links],
    lambda net: (repr(net), net._repr_html_(), net.frame, net.servers_frame, net.digraph),
    lambda net: net.only(*net.server_names[::2]),
    lambda net: net.without(*(link.ends for link in net.links[::2])),
    lambda net: net.with_bandwidths({link.ends: 1e6 for link in net.links}),
])  # fmt: skip
def test_what_a_network_does(work):
    check_linear(star, work)


def test_reading_and_writing_a_network(tmp_path):
    file = tmp_path / "network.yaml"
    check_linear(lambda count: star(count, str), lambda net: (net.save(file), ds.Network.load(file)))
    assert ds.Network.load(file) == star(300, str)
