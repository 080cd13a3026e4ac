"""Servers, directed links and their YAML."""

import dataclasses
import json
import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnsplit.ground.errors import NetworkError
from dnnsplit.network.servers import Link, Network, Server
from dnnsplit.network.template import template

NETWORKS = ROOT / "data" / "networks"


def refused(says, make, *args, **options):
    """Assert that `make` raises one NetworkError whose message holds every text of `says`; return the message."""
    with pytest.raises(NetworkError) as error:
        make(*args, **options)
    for part in says:
        assert part in str(error.value), str(error.value)
    return str(error.value)


def read(tmp_path, text):
    path = tmp_path / "net.yaml"
    path.write_text(text, encoding="utf-8")
    return Network.load(path)


def pair(**link):
    return Network([Server("device"), Server("edge")], [Link(**({"source": "device", "target": "edge"} | link))])


# ---------------------------------------------------------------- transfer times


def test_one_megabyte_over_5_megabytes_per_second_and_5_ms_takes_205_ms():
    assert Link("device", "edge", 5e6, 0.005).transfer_s(1e6) == pytest.approx(0.205, rel=1e-12)


def test_serialisation_adds_its_seconds_per_byte():
    # 0.005 + 1e6 / 5e6 + 1e6 * 1e-9
    assert Link("device", "edge", 5e6, 0.005, 1e-9).transfer_s(1e6) == pytest.approx(0.206, rel=1e-12)


def test_an_empty_tensor_still_pays_the_latency():
    assert Link("device", "edge", 5e6, 0.005).transfer_s(0) == 0.005


def test_transfer_matrix_is_directed_free_inside_and_infinite_without_a_link():
    #   a --5 MB/s--> b      c hangs on nothing
    network = Network([Server("a"), Server("b"), Server("c")], [Link("a", "b", 5e6, 0.005)])
    seconds = network.transfer_s(np.array([1e6, 0.0]))
    inf = math.inf
    assert seconds.shape == (2, 3, 3)
    assert seconds[0] == pytest.approx(np.array([[0, 0.205, inf], [inf, 0, inf], [inf, inf, 0]]))
    assert seconds[1, 0, 1] == 0.005


def test_a_self_link_gives_the_diagonal_a_time():
    network = Network([Server("a"), Server("b")], [Link("a", "a", 1e9, 0.001)])
    assert network.transfer_s(np.array([1e6]))[0].diagonal().tolist() == pytest.approx([0.002, 0.0])


# ---------------------------------------------------------------- power of sending


def test_the_power_of_sending_is_a_constant_unless_it_grows_with_the_rate():
    assert Server("device", transmit_w=3.507).sending_w(5e6) == 3.507
    assert Server("device", transmit_w=3.507).sending_j(0.205, 1e6) == pytest.approx(3.507 * 0.205, rel=1e-12)


def test_a_published_power_is_read_and_priced(tmp_path):
    # LTE of Huang et al. (MobiSys 2012), uplink: 438.39 mW per Mbit/s and 1288.04 mW; 5 MB/s are 40 Mbit/s
    text = "servers: [{name: phone, transmit: 1288.04 mW, transmit_per_rate: 438.39 mW/(Mbit/s)}, {name: edge}]\n"
    network = read(tmp_path, text + "links: [{source: phone, target: edge, bandwidth: 40 Mbit/s, latency: 50 ms}]\n")
    phone, link = network.servers[0], network.links[0]
    watts = 1.28804 + 0.43839 * 40
    assert phone.sending_w(link.bandwidth_bytes_per_s) == pytest.approx(watts, rel=1e-12)
    # a megabyte: 0.2 s at that power, and 50 ms in which nothing flows
    seconds = link.transfer_s(1e6)
    assert phone.sending_j(seconds, 1e6) == pytest.approx(watts * 0.2 + 1.28804 * 0.05, rel=1e-12)
    assert phone.sending_j(seconds, 1e6) == pytest.approx(phone.sending_w(1e6 / seconds) * seconds, rel=1e-12)  # P x t
    assert "1.288 W + 438.4 mW per Mbit/s" in network._repr_html_()
    assert network.servers_frame["transmit_j_per_byte"].tolist() == pytest.approx([0.43839 / 125e3, 0.0])


def test_a_link_without_end_takes_no_endless_power():
    device = Server("device", transmit_w=2.0, transmit_j_per_byte=1e-6)
    assert device.sending_j(Link("device", "edge", math.inf).transfer_s(1e6), 1e6) == 1.0


# ---------------------------------------------------------------- names and parts


def test_the_first_server_is_the_source_unless_told():
    servers = [Server("a"), Server("b")]
    assert Network(servers).source == "a"
    assert Network(servers, source="b").source == "b"


def test_lookup_by_name():
    network = pair(bandwidth_bytes_per_s=1.0)
    assert network.server("edge") is network.servers[1]
    assert network.link("device", "edge") is network.links[0]
    assert network.link("edge", "device") is None
    refused(["'egde'", "did you mean 'edge'"], network.server, "egde")


def test_only_keeps_the_links_between_the_servers_kept():
    network = Network.load(NETWORKS / "device-edge-cloud.yaml").only("device", "cloud")
    assert network.server_names == ("device", "cloud")
    assert [(link.source, link.target) for link in network.links] == [("device", "cloud"), ("cloud", "device")]
    assert network.name == "device+cloud"
    assert network.source == "device"


def test_only_gives_the_smaller_shipped_networks():
    whole = Network.load(NETWORKS / "device-edge-cloud.yaml")
    assert whole.only("device", "edge") == Network.load(NETWORKS / "device-edge.yaml")
    assert whole.only("device") == Network.load(NETWORKS / "device.yaml")


def test_only_refuses_to_drop_the_source_and_unknown_names():
    network = Network([Server("device"), Server("edge")])
    refused(["source 'device' must stay", "kept edge"], network.only, "edge")
    refused(["'cloud'"], network.only, "device", "cloud")
    refused(["two servers are named 'device'"], network.only, "device", "device")


def test_frames_have_a_row_per_link_and_server():
    network = Network.load(NETWORKS / "device-edge.yaml")
    assert network.frame[["source", "target", "bandwidth_bytes_per_s", "latency_s"]].values.tolist() == [
        ["device", "edge", 5e6, 0.005],
        ["edge", "device", 20e6, 0.005],
    ]
    assert network.servers_frame["speed_cpu"].tolist() == [0.5, 1.0]


def test_repr_counts_and_html_shows_the_figures():
    network = Network.load(NETWORKS / "device-edge.yaml")
    assert repr(network) == "Network(device, edge; 2 links; source device)"
    assert repr(Network([Server("d"), Server("e")], [Link("d", "e", 1.0)])).count("1 link;") == 1
    assert "20 MB/s" in network._repr_html_()


# ---------------------------------------------------------------- the shipped files


def test_the_shipped_networks_carry_the_figures_of_the_slides():
    for name in ("device-edge.yaml", "device-edge-cloud.yaml"):
        network = Network.load(NETWORKS / name)
        assert network.source == "device"
        assert network.server("device").speed_cpu == 0.5
        assert network.server("edge").speed_cpu == 1.0
        there, back = network.link("device", "edge"), network.link("edge", "device")
        assert (there.bandwidth_bytes_per_s, there.latency_s) == (5e6, 0.005)
        assert (back.bandwidth_bytes_per_s, back.latency_s) == (20e6, 0.005)
        assert network.name == Path(name).stem


def test_the_device_alone_has_no_links():
    network = Network.load(NETWORKS / "device.yaml")
    assert network.server_names == ("device",)
    assert network.links == ()
    assert network.server("device").speed_cpu == 0.5


def test_the_edge_computes_at_twice_the_power_and_speed_of_the_device():
    network = Network.load(NETWORKS / "device-edge.yaml")
    assert network.server("edge").compute_w == pytest.approx(2 * network.server("device").compute_w)


def test_every_pair_of_the_three_servers_is_linked():
    network = Network.load(NETWORKS / "device-edge-cloud.yaml")
    assert len(network.links) == 6
    assert np.isfinite(network.transfer_s(np.array([1.0]))).all()


# ---------------------------------------------------------------- wrong networks


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ({"bandwidth_bytes_per_s": -1.0}, ["link 'device' -> 'edge'", "bandwidth_bytes_per_s is -1.0", "above 0"]),
        ({"bandwidth_bytes_per_s": 0}, ["bandwidth_bytes_per_s is 0", "above 0"]),
        ({"bandwidth_bytes_per_s": math.nan}, ["bandwidth_bytes_per_s is nan"]),
        ({"bandwidth_bytes_per_s": "5 MB/s"}, ["bandwidth_bytes_per_s is '5 MB/s', not a number"]),
        ({"bandwidth_bytes_per_s": True}, ["bandwidth_bytes_per_s is True, not a number"]),
        ({"bandwidth_bytes_per_s": 1.0, "latency_s": -0.1}, ["latency_s is -0.1", "0 or more"]),
        ({"bandwidth_bytes_per_s": 1.0, "latency_s": math.inf}, ["latency_s is inf", "finite"]),
        ({"bandwidth_bytes_per_s": 1.0, "serialise_s_per_byte": None}, ["serialise_s_per_byte is None, not a number"]),
        ({"bandwidth_bytes_per_s": 1.0, "target": "egde"}, ["'egde' is no server", "did you mean 'edge'"]),
        ({"bandwidth_bytes_per_s": 1.0, "source": "cloud"}, ["'cloud' is no server", "'device', 'edge'"]),
    ],
)
def test_a_wrong_link_is_named(link, says):
    refused(says, pair, **link)


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (Server("device", compute_w=-1), ["server 'device': compute_w is -1", "0 or more"]),
        (Server("device", transmit_w=math.nan), ["transmit_w is nan"]),
        (Server("device", transmit_self_w=math.inf), ["transmit_self_w is inf"]),
        (Server("device", memory_bytes=-5), ["memory_bytes is -5"]),
        (Server("device", speed_cpu=0), ["speed_cpu is 0", "above 0"]),
        (Server("device", compute_w="2 W"), ["compute_w is '2 W', not a number"]),
        (Server("device", transmit_w=None), ["transmit_w is None, not a number"]),
        (Server("device", transmit_j_per_byte=-1e-6), ["server 'device': transmit_j_per_byte is -1e-06", "0 or more"]),
        (Server("device", transmit_j_per_byte=math.inf), ["transmit_j_per_byte is inf", "finite"]),
        (Server(""), ["no name"]),
        ("device", ["'device'", "Server("]),
    ],
)
def test_a_wrong_server_is_named(server, says):
    refused(says, Network, [server])


def test_a_link_that_is_no_link_is_named():
    refused(["('device', 'edge')", "Link("], Network, [Server("device"), Server("edge")], [("device", "edge")])


def test_duplicates_no_servers_and_unknown_sources_are_refused():
    refused(["two servers are named 'a'"], Network, [Server("a"), Server("a")])
    refused(["no server"], Network, [])
    refused(["source 'devise' is no server", "did you mean 'device'"], Network, [Server("device")], source="devise")
    link = Link("a", "b", 1.0)
    refused(["link 'a' -> 'b' is given twice"], Network, [Server("a"), Server("b")], [link, link])


def test_several_problems_come_at_once():
    says = ["4 problems", "two servers are named 'a'", "compute_w is -1", "source 'x'", "bandwidth_bytes_per_s is 0"]
    refused(says, Network, [Server("a", -1), Server("a")], [Link("a", "a", 0)], source="x")


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([np.array(3.0)], "size_bytes has the shape (); give one number per tensor"),
        ([np.zeros((2, 2))], "size_bytes has the shape (2, 2)"),
        ([np.zeros(2), np.zeros(3)], "have the shapes (2,) and (3,); give as many of each"),
        ([np.array([-1.0])], "give bytes, 0 or more"),
        ([np.array([np.nan])], "give bytes, 0 or more"),
        ([np.ones(1), np.array([-1.0])], "give bytes, 0 or more"),
    ],
)
def test_sizes_that_are_none_are_refused(sizes, says):
    refused([says], pair(bandwidth_bytes_per_s=1e6).transfer_s, *sizes)


# ---------------------------------------------------------------- YAML


names = st.lists(
    st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8), min_size=1, max_size=3, unique=True
)
amount = st.floats(0, 1e12)
above = st.floats(1e-9, 1e12)


@st.composite
def networks(draw):
    called = draw(names)
    note, memory, speed = st.text(max_size=8), st.none() | amount, st.none() | above
    figures = st.tuples(amount, amount, amount, memory, speed, note, amount)
    servers = [Server(name, *draw(figures)) for name in called]
    links = [
        Link(a, b, draw(above | st.just(math.inf)), draw(amount), draw(st.floats(0, 1)), draw(note))
        for a in called
        for b in called
        if draw(st.booleans())
    ]
    return Network(servers, links, draw(st.sampled_from(called)))


@settings(deadline=None, max_examples=30)
@given(networks())
def test_save_and_load_give_an_equal_network(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("yaml") / "net.yaml"
    network.save(path)
    assert Network.load(path) == network


def test_numpy_figures_survive_the_file(tmp_path):
    network = Network([Server("a", np.float64(3.5), np.float32(2))], [Link("a", "a", np.int64(5))])
    network.save(tmp_path / "net.yaml")
    assert Network.load(tmp_path / "net.yaml") == Network([Server("a", 3.5, 2.0)], [Link("a", "a", 5.0)])


def test_saving_loses_no_field(tmp_path):
    full = Network([Server("a", 1.0, 2.0, 3.0, 4.0, 5.0, "n", 11.0)], [Link("a", "a", 6.0, 7.0, 8.0, "m", 9.0, 10.0)])
    for thing in (*full.servers, *full.links):
        assert all(getattr(thing, f.name) != f.default for f in dataclasses.fields(thing))
    full.save(tmp_path / "net.yaml")
    assert Network.load(tmp_path / "net.yaml") == full


def test_written_quantities_are_read_with_their_units(tmp_path):
    network = read(
        tmp_path,
        "source: d\nservers: [{name: d, compute: 450 mW, memory: 2 GB, speed: 0.5 CPU}]\n"
        "links: [{source: d, target: d, bandwidth: 100 Mbit/s, latency: 5 ms, serialise: 2 ns/B}]\n",
    )
    assert network.servers[0] == Server("d", 0.45, memory_bytes=2e9, speed_cpu=0.5)
    link = network.links[0]
    assert (link.bandwidth_bytes_per_s, link.latency_s, link.serialise_s_per_byte) == (12.5e6, 0.005, 2e-9)


def test_names_that_look_like_numbers_stay_names(tmp_path):
    assert read(tmp_path, "source: 0\nservers: [{name: 1}, {name: 0}]\n").source == "0"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("servers: [", ["net.yaml is not readable as YAML"]),
        ("\tservers: 1", ["not readable as YAML"]),
        ("a: \x00", ["not readable as YAML"]),
        ("", ["not readable as YAML", "it is empty"]),
        ("# nothing", ["source, servers and links", "NoneType"]),
        ("- device", ["source, servers and links", "list"]),
        ("just words", ["source, servers and links", "str"]),
        ("source: d\n", ["network 'net'", "no server"]),
        ("servers: {name: d}", ["servers must be a list", "dict"]),
        ("servers: [d]", ["server 1 must be a mapping", "'d'"]),
        ("servers: [{compute: 1 W}]", ["server 1: 'name' is missing"]),
        ("servers: [{name: }]", ["'name' is empty"]),
        ("server: [{name: d}]", ["unknown key 'server'", "did you mean 'servers'"]),
        ("servers: [{name: d, comptue: 1 W}]", ["server 1 'd'", "unknown key 'comptue'", "did you mean 'compute'"]),
        ("servers: [{name: d, compute: 1 kg}]", ["server 1 'd'", "'1 kg'", "2.9 W"]),
        ("servers: [{name: d, compute: .nan}]", ["server 1 'd'", "nan"]),
        ("servers: [{name: d, transmit_per_rate: 438 mW}]", ["server 1 'd'", "'438 mW'", "438.39 mW/(Mbit/s)"]),
        ("servers: [{name: d, transmit_pr_rate: 1 J/B}]", ["'transmit_pr_rate'", "did you mean 'transmit_per_rate'"]),
        ("servers: [{name: d, compute: }]", ["server 1 'd'", "'compute' is empty"]),
        ("servers: [{name: d, speed: 0}]", ["speed_cpu is 0", "above 0"]),
        ("servers: [{name: d}, {name: d}]", ["two servers are named 'd'"]),
        ("servers: [{name: d}]\nlinks: [{source: d, target: d}]", ["link 1 'd' 'd': 'bandwidth' is missing"]),
        ("servers: [{name: d}]\nlinks: [{source: d, target: d, bandwidth: 0}]", ["bandwidth_bytes_per_s is 0", "above 0"]),
        ("servers: [{name: d}]\nlinks: [{source: d, target: d, bandwidth: -5 MB/s}]", ["'-5 MB/s'", "negative"]),
        ("servers: [{name: d}]\nlinks: [{source: d, target: edge, bandwidth: 1 B/s}]", ["'edge' is no server"]),
        ("source: x\nservers: [{name: d}]", ["source 'x' is no server"]),
    ],
)
def test_a_wrong_file_says_what_and_where(tmp_path, text, says):
    refused(says, read, tmp_path, text)


def test_problems_of_a_file_come_at_once(tmp_path):
    text = "sorce: d\nservers: [{name: d, watt: 3}, {compute: fast}]\nlinks: 5\n"
    says = ["5 problems", "'sorce'", "'watt'", "'name' is missing", "'fast'", "links must be a list"]
    refused(says, read, tmp_path, text)


def test_a_missing_file_a_folder_and_no_text_are_refused(tmp_path):
    refused(["there is no network file", "no.yaml"], Network.load, tmp_path / "no.yaml")
    refused([str(tmp_path), "not readable"], Network.load, tmp_path)
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00\x81")
    refused(["bin.yaml", "not readable"], Network.load, tmp_path / "bin.yaml")


def test_a_note_with_a_line_separator_survives_the_file(tmp_path):
    network = Network([Server("phone", note="\x85 or\n two"), Server("Rechenzentrum Zürich")])
    network.save(tmp_path / "net.yaml")
    assert Network.load(tmp_path / "net.yaml") == network


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\n", "\u202eb", "\ufeffc", "\ud800", " ", "a ", "\xa0a"])
def test_a_name_that_cannot_be_told_by_looking_is_refused(tmp_path, name):
    says = ["the name of server", ascii(name), "is not seen" if not name.isprintable() else "spaces around it"]
    refused(says, Network, [Server(name)])
    with pytest.raises(NetworkError, match="name"):
        template([name])
    if name == "\ud800":  # of which no file can hold half
        return
    (tmp_path / "net.yaml").write_text(json.dumps({"servers": [{"name": name}]}), encoding="utf-8")
    refused(says, Network.load, tmp_path / "net.yaml")


def test_the_network_is_a_graph_of_networkx_with_its_figures():
    network = Network.load(NETWORKS / "device-edge-cloud.yaml")
    graph = network.digraph
    assert graph.graph["source"] == network.source
    assert {name: data["compute_w"] for name, data in graph.nodes.items()} == {s.name: s.compute_w for s in network.servers}
    for (source, target), data in graph.edges.items():
        link = network.link(source, target)
        assert (data["latency_s"], data["bandwidth_bytes_per_s"]) == (link.latency_s, link.bandwidth_bytes_per_s)
    seconds = nx.shortest_path_length(graph, "device", "cloud", weight=lambda a, b, _: network.link(a, b).transfer_s(1e6))
    ways = [[("device", "cloud")], [("device", "edge"), ("edge", "cloud")]]
    assert seconds == min(sum(network.link(*link).transfer_s(1e6) for link in way) for way in ways)
