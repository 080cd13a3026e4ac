"""A network file to begin with: every key explained where it first stands, placeholders that say so, and a schema for editors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from textwrap import wrap

from dnnsplit.ground.errors import NetworkError, raise_problems
from dnnsplit.ground.gate import name_problem, unseen_problem
from dnnsplit.network.entries import Key, LinkEntry, NetworkFile, ServerEntry, keys_of
from dnnsplit.network.yaml import scalar

PLACEHOLDER = "placeholder, not measured"
_WIDTH = 110


def template(servers: Sequence[str] = ("device", "edge", "cloud"), schema: str = "") -> str:
    """Return a network file with every key explained, which loads as it is.

    Parameters
    ----------
    servers : Sequence[str], default ("device", "edge", "cloud")
        Their names; inputs arise at the first, and each is linked with every other.
    schema : str, default ""
        Path or URL of the JSON Schema, for editors; "" names none.

    Raises
    ------
    NetworkError
        No names, one twice, or one that is none.
    """
    wrong = {name: name_problem(name) or unseen_problem(name) if name else "is empty" for name in servers}
    problems = [f"the name {name!a} {problem}" for name, problem in wrong.items() if problem]
    problems += [f"{name!r} is given twice" for name in dict.fromkeys(servers) if list(servers).count(name) > 1]
    problems += [] if servers else ["give at least one name"]
    raise_problems(NetworkError, "servers", problems)
    top, of_server, of_link = (keys_of(entry) for entry in (NetworkFile, ServerEntry, LinkEntry))
    lines = [f"# yaml-language-server: $schema={schema}"] if schema else []
    lines += [
        "# A network: servers, and directed links between them. Quantities carry their units: 5 MB/s, 5 ms, 2.9 W, 512 MB.",
        "# Behind '# key:' stands what a key means; '#key: ...' is one that is left out, as an example.",
        f"# Figures with the note '{PLACEHOLDER}' are made up: put yours in their place, and say where they come from.",
    ]
    lines += ["", *_told(top["description"]), "#description: what this network is"]
    lines += ["", *_told(top["source"]), f"source: {scalar(servers[0])}"]
    lines += ["", *_told(top["servers"]), "servers:"]
    for number, name in enumerate(servers):
        lines += [""] * (number == 1)
        lines += _entry({"name": name, "note": PLACEHOLDER, "compute": "5 W", "transmit": "2.5 W"}, of_server, number == 0)
    lines += ["", *_told(top["links"])]
    pairs = list(itertools.permutations(servers, 2))
    lines += ["links:"] if pairs else ["links: []"]
    for number, (source, target) in enumerate(pairs):
        values = {"source": source, "target": target, "bandwidth": "10 MB/s", "latency": "5 ms", "note": PLACEHOLDER}
        lines += [""] * (number == 1)
        lines += _entry(values, of_link, number == 0)
    if not pairs:  # the keys are explained all the same
        lines += [f"#{line}" for line in _entry({"source": servers[0], "target": "edge", "bandwidth": "10 MB/s"}, of_link, True)]
    return "\n".join(lines) + "\n"


def _entry(values: dict[str, str], keys: dict[str, Key], explained: bool) -> list[str]:
    """Return the lines of a server or a link; keys without a value stand there as comments where all are explained."""
    lines: list[str] = []
    for key in keys.values():
        if explained:
            lines += [f"    {line}" for line in _told(key)]
        if key.name in values:
            lines.append(f"    {key.name}: {scalar(values[key.name])}")
        elif explained:
            lines.append(f"    #{key.name}: {key.example}")
    first = next(number for number, line in enumerate(lines) if not line.lstrip().startswith("#"))
    return [*lines[:first], f"  - {lines[first].lstrip()}", *lines[first + 1 :]]


def _told(key: Key) -> list[str]:
    must = "" if not key.required else " It has to be there."
    return [f"# {line}" for line in wrap(f"{key.name}: {key.description}{must}", _WIDTH)]
