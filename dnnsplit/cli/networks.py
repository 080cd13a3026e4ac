"""The command of network files: a new one to fill in, its check, and the schema that editors read."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import dnnsplit as ds
from dnnsplit.cli.models import Argument, argument, tell
from dnnsplit.ground.files import write_text
from dnnsplit.ground.outputs import check_output
from dnnsplit.ground.paths import is_taken
from dnnsplit.ground.units import show

NETWORK: tuple[Argument, ...] = (
    argument("action", choices=("new", "check", "schema"),
             help="new: write a file with every key explained, which loads as it is; check: read one, and say what it lacks; "
                  "schema: print the JSON Schema that editors check files by"),
    argument("file", type=Path, nargs="?", help="network YAML (not for schema)"),
    argument("--servers", default="device,edge,cloud", metavar="NAME,NAME,...",
             help="of a new file; inputs arise at the first (default: device,edge,cloud)"),
)  # fmt: skip


def network(options: argparse.Namespace) -> int:
    """Do one of the three."""
    from dnnsplit.network.entries import schema
    from dnnsplit.network.template import template
    from dnnsplit.network.yaml import bare_quantities

    if (options.file is None) != (options.action == "schema"):
        message = f"network {options.action} takes {'no file' if options.file else 'a file, such as my.yaml'}"
        raise ds.OptionError(message)
    if options.action == "schema":
        print(json.dumps(schema(), indent=2, ensure_ascii=False))
    elif options.action == "new":
        if is_taken(options.file):
            message = f"{options.file} is there already, and stays as it is; give another name"
            raise ds.OptionError(message)
        check_output(options.file)
        shipped = ds.examples.data_folder() / "networks" / "network.schema.json"
        names = [name.strip() for name in options.servers.split(",")]
        write_text(options.file, template(names, str(shipped)))
        print(f"{options.file}: {ds.Network.load(options.file)}")
        tell("its figures are placeholders: 'dnnsplit probe' measures links, 'dnnsplit power' measures power")
    else:
        found = ds.Network.load(options.file)
        print("\n".join([repr(found), *_figures(found)]))
        tell(*_lacks(found, bare_quantities(options.file)))
    return 0


def _figures(found: ds.Network) -> list[str]:
    """Return a line for each server and link, in units that people read."""
    lines = []
    for one in found.servers:
        per_rate = f" + {show(one.transmit_j_per_byte, 'J')} per B" if one.transmit_j_per_byte else ""
        told = [f"computing {show(one.compute_w, 'W')}", f"sending {show(one.transmit_w, 'W')}{per_rate}"]
        told += [f"memory {show(one.memory_bytes, 'B')}"] if one.memory_bytes is not None else []
        told += [f"{one.speed_cpu:g} CPU"] if one.speed_cpu else []
        lines.append(f"{one.name}: {'; '.join(filter(None, [', '.join(told), one.note]))}")
    for link in found.links:
        told = [show(link.bandwidth_bytes_per_s, "B/s"), show(link.latency_s, "s")]
        lines.append(f"{link.source} -> {link.target}: {'; '.join(filter(None, [', '.join(told), link.note]))}")
    return lines


def _lacks(found: ds.Network, bare: list[str]) -> list[str]:
    """Say what may be meant otherwise, though it is allowed."""
    names = found.server_names
    pairs = [f"{a} -> {b}" for a in names for b in names if a != b and found.link(a, b) is None]
    told = {
        "without a unit in the file, and read as": bare,
        "no link, so that they exchange no tensors": pairs,
        "no power of computing, which then costs no energy": [s.name for s in found.servers if not s.compute_w],
        "no power of sending, which then costs no energy": [s.name for s in found.servers if not s.transmit_w],
        "no speed, so that times cannot be scaled to them by ds.profile": [s.name for s in found.servers if not s.speed_cpu],
        "figures that are placeholders": [
            *(s.name for s in found.servers if "placeholder" in s.note),
            *(f"{n.source} -> {n.target}" for n in found.links if "placeholder" in n.note),
        ],
    }
    return [f"{what}: {', '.join(which)}" for what, which in told.items() if which]
