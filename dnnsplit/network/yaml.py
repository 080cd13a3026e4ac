"""The YAML that people write for a network: quantities with units on their side, plain SI records on ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dnnsplit.ground.errors import DnnSplitError, NetworkError, nearest, raise_problems, shortened
from dnnsplit.ground.files import write_text
from dnnsplit.ground.gate import Kind, name_problem
from dnnsplit.ground.units import is_bare, parse
from dnnsplit.ground.yaml_file import MOST_BYTES, read_texts, texts_of
from dnnsplit.network.entries import Key, LinkEntry, NetworkFile, ServerEntry, keys_of

_SERVER_KEYS, _LINK_KEYS, _TOP = (keys_of(entry) for entry in (ServerEntry, LinkEntry, NetworkFile))
_SI = {
    "power": "W", "power_per_rate": "J/B", "memory": "B", "speed": "CPU", "bandwidth": "B/s", "latency": "s", "serialise": "s/B",
}  # fmt: skip
_KIND = Kind("is not readable as YAML", NetworkError, MOST_BYTES, "the network file", "there is no network file {path}")


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Return the arguments of the servers and of the links, and the name of the source.

    Raises
    ------
    NetworkError
        The file is missing or no YAML, or has unknown keys or wrong quantities; all of them at once.
    """
    document = read_texts(path, _KIND)
    if not isinstance(document, dict):
        message = f"{path} must hold the keys source, servers and links, not {type(document).__name__}"
        raise NetworkError(message)
    problems = [f"unknown key {shortened(key)}{nearest(str(key), _TOP)}" for key in document if key not in _TOP]
    entries: dict[str, list[Any]] = {key: document.get(key) or [] for key in ("servers", "links")}
    for key, some in entries.items():
        if not isinstance(some, list):
            problems.append(f"{key} must be a list of entries, not {type(some).__name__}")
            entries[key] = []
    servers = [_record(e, _SERVER_KEYS, f"server {i}", problems) for i, e in enumerate(entries["servers"], 1)]
    links = [_record(e, _LINK_KEYS, f"link {i}", problems) for i, e in enumerate(entries["links"], 1)]
    source = document.get("source") or ""
    if not isinstance(source, str) or name_problem(source):
        problems.append(f"the source is {shortened(source)}; it must be the name of a server")
    raise_problems(NetworkError, f"network file {path.stem!r}", problems)
    return servers, links, source


def bare_quantities(path: Path) -> list[str]:
    """Return the quantities of a network file that have no unit, with the one that they are read in."""
    document, told = read_texts(path, _KIND), list[str]()
    for some, keys in (("servers", _SERVER_KEYS), ("links", _LINK_KEYS)):
        for entry in document.get(some) or []:
            name = entry.get("name") or f"{entry['source']} -> {entry['target']}"
            units = {key: _SI[dimension] for key in entry if (dimension := keys[key].dimension)}
            told += [f"{key} {entry[key]} {unit} of {name}" for key, unit in units.items() if is_bare(entry[key])]
    return told


def write(path: str | Path, source: str, servers: Sequence[object], links: Sequence[object]) -> None:
    """Write servers and links (anything with the attributes of `Server` and `Link`) so that `read` gives them back."""
    document = {
        "source": source,
        "servers": [_entry(server, _SERVER_KEYS) for server in servers],
        "links": [_entry(link, _LINK_KEYS) for link in links],
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    if texts_of(text) != document:  # some line separators survive only escaped
        text = yaml.safe_dump(document, sort_keys=False)
    write_text(path, text)


def scalar(text: str) -> str:
    """Write a text as a value of YAML, in quotes where it needs some."""
    written: str = yaml.safe_dump(text, default_flow_style=True, allow_unicode=True, width=10**6)
    return written.removesuffix("\n").removesuffix("\n...")


def _entry(record: object, keys: Mapping[str, Key]) -> dict[str, str]:
    return {
        key.name: value if key.dimension is None else f"{float(value)!r} {_SI[key.dimension]}"
        for key in keys.values()
        if (value := getattr(record, key.attribute)) not in (None, "")
    }


def _record(entry: Any, keys: Mapping[str, Key], where: str, problems: list[str]) -> dict[str, Any]:
    required = [key.name for key in keys.values() if key.required]
    if not isinstance(entry, dict):
        problems.append(f"{where} must be a mapping like {{{', '.join(required)}, ...}}, not {shortened(entry)}")
        return {}
    where = " ".join([where, *(shortened(entry[k]) for k in ("name", "source", "target") if k in entry)])
    problems += [f"{where}: {key!r} is missing" for key in required if key not in entry]
    record: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in keys:
            problems.append(f"{where}: unknown key {shortened(key)}{nearest(str(key), keys)}")
            continue
        attribute, dimension = keys[key].attribute, keys[key].dimension
        if not isinstance(value, str) or name_problem(value):
            wrong = name_problem(value) if isinstance(value, str) else "must be a text or a quantity"
            problems.append(f"{where}: {key!r} {wrong}: {shortened(value)}")
            continue
        if value == "":
            problems.append(f"{where}: {key!r} is empty; give it a value or leave it out")
            continue
        try:
            record[attribute] = value if dimension is None else parse(value, dimension)
        except DnnSplitError as error:
            problems.append(f"{where}: {error}")
    return record
