"""What a network file may hold: one table for the loader, for the schema of editors, and for the template."""

import json
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT
from jsonschema import Draft202012Validator

import dnnsplit as ds
from dnnsplit.cli.main import main
from dnnsplit.ground.yaml_file import read_values
from dnnsplit.network.entries import LinkEntry, NetworkFile, ServerEntry, keys_of, schema
from dnnsplit.network.template import template

SHIPPED = sorted((ROOT / "data" / "networks").glob("*.yaml"))
ENTRIES = (NetworkFile, ServerEntry, LinkEntry)
FIGURES = {"servers": "[{name: a}]", "source": "a", "links": "[]", "description": "none"}


def problems(path):
    """What an editor says of a file."""
    return [error.message for error in Draft202012Validator(schema()).iter_errors(read_values(path))]


def written(tmp_path, text):
    (tmp_path / "net.yaml").write_text(text, encoding="utf-8")
    return tmp_path / "net.yaml"


def test_the_schema_that_ships_is_that_of_the_entries():
    Draft202012Validator.check_schema(schema())
    assert json.loads((ROOT / "data" / "networks" / "network.schema.json").read_text(encoding="utf-8")) == schema()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_files_keep_it_and_name_it(path):
    assert problems(path) == []
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert (path.parent / first.removeprefix("# yaml-language-server: $schema=")).is_file()


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_loader_takes_every_key_of_the_schema_and_no_other(entry, tmp_path):
    told = schema()["$defs"][entry.__name__]
    assert not told["additionalProperties"]
    for name in told["properties"]:
        key = keys_of(entry)[name]
        assert (name in told["required"]) == key.required
        assert told["properties"][name]["description"] == key.description
        value = key.example or "a"
        if entry is NetworkFile:
            text = "\n".join(f"{top}: {FIGURES[top]}" for top in {name: 0, "servers": 0})
        else:
            needs = {"name": "a"} if entry is ServerEntry else {"source": "a", "target": "a", "bandwidth": "1 MB/s"}
            lines = ", ".join(f"{what}: {given}" for what, given in (needs | {name: value}).items())
            servers, links = (f"[{{{lines}}}]", "[]") if entry is ServerEntry else ("[{name: a}]", f"[{{{lines}}}]")
            text = f"servers: {servers}\nlinks: {links}\n"
        path = written(tmp_path, text)
        assert ds.Network.load(path).server_names == ("a",)
        assert problems(path) == []
    path = written(
        tmp_path, "servers: [{name: a, sped: 1 CPU}]\nlinks: [{source: a, target: a, bandwidth: 1, delay: 1}]\nsrc: a\n"
    )
    with pytest.raises(ds.NetworkError, match="3 problems"):
        ds.Network.load(path)
    assert len(problems(path)) == 3


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("compute", ["2.9 W", "2.9W", "1e-3 kW", "5", "0.5 mW", "+1 W"], ["2.9 V", "-1 W", "W", "two W"]),
        ("memory", ["16 GB", "512 MiB", "1000"], ["16 mB", "16 Gb", "-5 B"]),
        ("speed", ["0.5 CPU", "2"], ["0.5 cpus", "x"]),
        ("transmit_per_rate", ["438.39 mW/(Mbit/s)", "1e-6 J/B", "3 mW per Mbit/s", "1 mW/Mbps"], ["-1 J/B", "x"]),
    ],
)
def test_quantities_are_taken_by_both_or_by_none(key, good, bad, tmp_path):
    for text in (*good, *bad):
        path = written(tmp_path, f"servers: [{{name: a, {key}: {text}}}]\n")
        assert (problems(path) == []) == (text in good), text
        if text in good:
            ds.Network.load(path)
        else:
            with pytest.raises(ds.NetworkError):
                ds.Network.load(path)


@pytest.mark.parametrize("servers", [("device", "edge", "cloud"), ("alone",), ("NO", "a: b", "1")])
def test_a_template_loads_as_it_is_and_explains_every_key(servers, tmp_path):
    text = template(servers, "network.schema.json")
    network = ds.Network.load(written(tmp_path, text))
    assert network.server_names == servers
    assert network.source == servers[0]
    assert len(network.links) == len(servers) * (len(servers) - 1)
    assert {one.note for one in (*network.servers, *network.links)} == {"placeholder, not measured"}
    if "1" not in servers:  # a number for an editor, unless it is in quotes
        assert problems(tmp_path / "net.yaml") == []
    assert text.startswith("# yaml-language-server: $schema=network.schema.json\n")
    plain = re.sub(r"\s*\n\s*#+\s*#? ", " ", text)  # explanations without their breaks
    for entry in ENTRIES:
        for key in keys_of(entry).values():
            assert f"{key.name}: {key.description}" in plain, key.name
            assert re.search(rf"^ *[#-]* *#?{key.name}:", text, re.MULTILINE)
    whole = re.sub(r"^( *)#(?=[a-z_]+:)", r"\1", text, flags=re.MULTILINE)  # what is left out, put in
    if len(servers) > 1:
        full = ds.Network.load(written(tmp_path, whole))
        assert full.servers[0].memory_bytes == 512e6
        assert full.links[0].handling_s_per_byte == 0.5e-9


def test_names_that_are_none_are_refused():
    with pytest.raises(ds.NetworkError) as error:
        template(("a", "", "a"))
    assert "the name '' is empty" in str(error.value)
    assert "'a' is given twice" in str(error.value)
    with pytest.raises(ds.NetworkError, match="give at least one name"):
        template(())


def test_the_command_begins_a_file_and_never_writes_over_one(tmp_path, capsys):
    path = tmp_path / "my.yaml"
    assert main(["network", "new", str(path), "--servers", "phone, pi"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{path}: Network(phone, pi; 2 links; source phone)\n"
    assert "its figures are placeholders" in captured.err
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(Path(first.partition("$schema=")[2]).read_text(encoding="utf-8")) == schema()
    before = path.read_bytes()
    assert main(["network", "new", str(path)]) == 2
    assert "my.yaml is there already, and stays as it is" in capsys.readouterr().err
    assert path.read_bytes() == before

    assert main(["network", "check", str(path)]) == 0
    captured = capsys.readouterr()
    assert "phone: computing 5 W, sending 2.5 W; placeholder, not measured" in captured.out
    assert "pi -> phone: 10 MB/s, 5 ms; placeholder, not measured" in captured.out
    assert "figures that are placeholders: phone, pi, phone -> pi, pi -> phone" in captured.err
    assert "without a unit" not in captured.err
    text = path.read_text(encoding="utf-8")
    bare = (
        text.replace("compute: 5 W", "compute: 5", 1)
        .replace("bandwidth: 10 MB/s", "bandwidth: 1e1", 1)
        .replace("latency: 5 ms", "latency: 0")
    )
    path.write_text(bare, encoding="utf-8")
    assert main(["network", "check", str(path)]) == 0
    told = "without a unit in the file, and read as: compute 5 W of phone, bandwidth 1e1 B/s of phone -> pi\n"
    assert told in capsys.readouterr().err
    path.write_text(text.replace("bandwidth: 10 MB/s", "bandwith: 10 MB/s"), encoding="utf-8")
    assert main(["network", "check", str(path)]) == 2
    assert "unknown key 'bandwith' (did you mean 'bandwidth'?)" in capsys.readouterr().err


def test_the_command_prints_the_schema_and_says_what_it_takes(tmp_path, capsys):
    assert main(["network", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert main(["network", "new"]) == 2
    assert "network new takes a file, such as my.yaml" in capsys.readouterr().err
    assert main(["network", "schema", "my.yaml"]) == 2
    assert "network schema takes no file" in capsys.readouterr().err
    assert main(["network", "new", str(tmp_path / "none.yaml"), "--servers", "a,,b"]) == 2
    assert "the name '' is empty" in capsys.readouterr().err
    assert not (tmp_path / "none.yaml").exists()
