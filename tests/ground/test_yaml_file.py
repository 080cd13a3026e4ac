"""YAML says what stands there: no key twice, and no text that becomes a truth, an octal or a time."""

import pytest
import yaml

import dnnsplit as ds
from dnnsplit.deployment.hosts import read_hosts
from dnnsplit.ground.yaml_file import read_values, texts_of
from dnnsplit.sweep.jobs import jobs_of

NETWORK = """source: NO
servers:
- {name: NO, compute: 010 W, transmit: 1.10 W, memory: 1e3 B}
- {name: 010, compute: 2 W}
- {name: 1.10, note: yes}
- {name: 12:30}
- {name: 2026-01-01}
links:
- {source: NO, target: 010, bandwidth: 1.10 MB/s, latency: 010 ms}
- {source: 010, target: 12:30, bandwidth: 2 MB/s}
"""


def test_names_and_quantities_are_texts(tmp_path):
    (tmp_path / "net.yaml").write_text(NETWORK)
    network = ds.Network.load(tmp_path / "net.yaml")
    assert network.server_names == ("NO", "010", "1.10", "12:30", "2026-01-01")
    assert network.server("NO").compute_w == 10.0
    assert network.server("NO").memory_bytes == 1000.0
    assert network.server("1.10").note == "yes"
    assert network.link("NO", "010").bandwidth_bytes_per_s == 1.1e6
    assert network.link("NO", "010").latency_s == 0.01
    network.save(tmp_path / "again.yaml")
    assert ds.Network.load(tmp_path / "again.yaml") == network
    assert read_hosts({"NO": "127.0.0.1:7001"}) == {"NO": "127.0.0.1:7001"}
    (tmp_path / "hosts.yaml").write_text("NO: 127.0.0.1:7001\n010: 127.0.0.1:7002\n")
    assert read_hosts(tmp_path / "hosts.yaml") == {"NO": "127.0.0.1:7001", "010": "127.0.0.1:7002"}


def test_an_empty_value_is_missing(tmp_path):
    (tmp_path / "net.yaml").write_text("source: a\nservers:\n- {name: a, compute: }\n- {name: }\n")
    with pytest.raises(ds.NetworkError, match="'compute' is empty"):
        ds.Network.load(tmp_path / "net.yaml")


def test_a_key_that_is_given_twice_is_refused_with_both_lines(tmp_path):
    (tmp_path / "net.yaml").write_text("source: a\nservers: [{name: a}]\nlinks: []\nservers: [{name: b}]\n")
    with pytest.raises(ds.NetworkError, match=r"the key 'servers' is given twice, on lines 2 and 4"):
        ds.Network.load(tmp_path / "net.yaml")
    (tmp_path / "net.yaml").write_text("source: a\nservers:\n- name: a\n  compute: 1 W\n  compute: 2 W\n")
    with pytest.raises(ds.NetworkError, match=r"the key 'compute' is given twice, on lines 4 and 5"):
        ds.Network.load(tmp_path / "net.yaml")
    (tmp_path / "hosts.yaml").write_text("edge: 127.0.0.1:7001\nedge: 127.0.0.1:7002\n")
    with pytest.raises(ds.DeployError, match=r"the key 'edge' is given twice, on lines 1 and 2"):
        read_hosts(tmp_path / "hosts.yaml")
    (tmp_path / "all.yaml").write_text("parameters: {x: 1, x: 2}\nruns: []\n")
    with pytest.raises(ds.OptionError, match="the key 'x' is given twice"):
        jobs_of(tmp_path / "all.yaml", {}, {}, tmp_path)


def test_parameters_are_values_as_yaml_1_2_has_them(tmp_path):
    text = """{a: true, b: False, c: yes, d: NO, e: on, f: 010, g: 0o10, h: 0x10, i: 12:30, j: 1e3, k: 1.10, l: .inf,
      m: 2026-01-01, n: null, o: ~, p: "1", q: -7, r: [1, 2.5, text], s: 1_000, t: .5}"""
    (tmp_path / "v.yaml").write_text(text)
    assert read_values(tmp_path / "v.yaml") == {
        "a": True, "b": False, "c": "yes", "d": "NO", "e": "on", "f": 10, "g": 8, "h": 16, "i": "12:30", "j": 1000.0, "k": 1.1,
        "l": float("inf"), "m": "2026-01-01", "n": None, "o": None, "p": "1", "q": -7, "r": [1, 2.5, "text"], "s": "1_000",
        "t": 0.5,
    }  # fmt: skip
    (tmp_path / "v.yaml").write_text("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}\n")
    assert read_values(tmp_path / "v.yaml")["more"] == {"x": 1, "y": 3}  # a merged key may be overridden


def test_texts_of_everything():
    found = texts_of("{a: true, b: 010, c: , d: ~, e: [1, yes]}")
    assert found == {"a": "true", "b": "010", "c": "", "d": "~", "e": ["1", "yes"]}
    with pytest.raises(yaml.YAMLError):
        texts_of("!!python/object/apply:os.system ['true']")
