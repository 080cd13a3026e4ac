"""The commands of agents and deployments, and what they print."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import dnnsplit as ds
from dnnsplit.cli.assignments import shapes
from dnnsplit.cli.models import FILES, PREPROCESS, Argument, argument, tell
from dnnsplit.ground.huge_pages import in_huge_pages, with_huge_pages
from dnnsplit.ground.units import parse, show

KEYS = argument(
    "--keys", default="", metavar="FOLDER", help="this host's folder from 'dnnsplit keys' (default: none, loopback alone)"
)
AT = argument("--at", required=True, metavar="HOST:PORT", help="the agent that others have joined")

AGENT: tuple[Argument, ...] = (
    argument("--name", required=True, help="of this host; with keys, that of its certificate"),
    argument(
        "--join", default="", metavar="HOST:PORT", help="the first agent (default: this is the first, where requests arrive)"
    ),
    argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1, this machine alone)"),
    argument("--port", type=int, help="where to listen (default: 7000 for the first agent, else any)"),
    argument("--address", default="", help="host, or host:port, by which others call this agent (default: where it listens)"),
    KEYS,
    argument("--folder", default="", writes="folder", help="for what is to last (default: ~/.local/share/dnnsplit/NAME)"),
    argument("--disk", default="20 GB", help="that files may hold (default: 20 GB)"),
    argument("--memory", default="", help="that a stage may use (default: no limit)"),
    argument("--compute", default="", help="power drawn while computing, such as '5.8 W'"),
    argument("--transmit", default="", help="power drawn while sending"),
    argument("--transmit-self", default="", help="power drawn while moving a tensor inside"),
    argument(
        "--emulate", default="", metavar="NETWORK", help="network YAML: be as slow as its server of this name, with its links"
    ),
    argument("--parent", type=int, default=0, metavar="PID", help="end with this process, which started it (default: do not)"),
)


def agent(options: argparse.Namespace) -> int:
    """Run an agent."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from dnnsplit.agents.agent import run_agent
    from dnnsplit.agents.options import AgentOptions

    told = {"compute_w": options.compute, "transmit_w": options.transmit, "transmit_self_w": options.transmit_self}
    powers = {key: parse(text, "power") for key, text in told.items() if text}
    port = options.port if options.port is not None else 0 if options.join else 7000
    memory = int(parse(options.memory, "memory")) if options.memory else None
    disk = parse(options.disk, "memory")
    given = AgentOptions(
        options.name, options.join, options.host, port, options.address, options.folder, options.keys, disk, memory, powers,
        options.emulate, options.parent,
    )  # fmt: skip

    # in huge pages, as what it starts: its speed is compared with theirs
    if sys.platform == "linux" and not in_huge_pages() and "agent" in sys.orig_argv:
        os.execve(sys.executable, sys.orig_argv, with_huge_pages(os.environ))

    def started(address: str) -> None:
        print(address, flush=True)
        where = f"joins {options.join}" if options.join else "is the first: others join it, and requests arrive here"
        tell(f"{options.name!r} listens on {address} and {where}; Ctrl-C ends it and its stages")

    run_agent(given, started)
    return 0


DEPLOY: tuple[Argument, ...] = (
    argument("model", type=Path, help="ONNX file"),
    AT,
    argument("--name", default="", help="of the deployment (default: that of the file)"),
    argument("--images", default="", help=f"{FILES} (default: scenes, for the examples' models; else nothing is quantized)"),
    PREPROCESS,
    argument(
        "--shape", action="append", default=[], metavar="NAME=1,3,640,640", help="shape of an input that the file leaves open"
    ),
    argument("--max-noise", type=float, help="limit on the noise; 0: float32 alone (default: no limit)"),
    argument("--confidence", type=float, default=0.95, help="with which it holds on other images (default: 0.95)"),
    argument("--latency-weight", type=float, default=1.0, help="weight of the latency (default: 1)"),
    argument("--energy-weight", type=float, default=0.0, help="weight of the energy (default: 0)"),
    argument("--max-device-energy", type=float, help="limit on the device's energy [J]"),
    argument("--layers", type=int, default=12, help="how many layers may run in int8 (default: 12)"),
    argument("--budget", type=int, default=40, help="how many schemes the noise is measured of (default: 40)"),
    argument("--setting", default="default", help="how int8 is made: default or thesis (default: default)"),
    argument("--deadline", type=float, default=60.0, help="limit on each request [s] (default: 60)"),
    argument("--in-flight", type=int, default=8, help="most requests at a time (default: 8)"),
    KEYS,
)


def deploy(options: argparse.Namespace) -> int:
    """Deploy a model, and print the address that clients call."""
    try:
        found = ds.deploy(
            options.model, options.at, name=options.name, images=options.images or None, keys=options.keys,
            shapes=shapes(options.shape), preprocess=options.preprocess,
            max_noise=options.max_noise, confidence=options.confidence, latency_weight=options.latency_weight,
            energy_weight=options.energy_weight, max_device_energy_j=options.max_device_energy, layers=options.layers,
            budget=options.budget, setting=options.setting, deadline_s=options.deadline, in_flight=options.in_flight,
        )  # fmt: skip
    except KeyboardInterrupt as error:
        ends = ["dnnsplit", "undeploy", options.name or options.model.stem, "--at", options.at]
        ends += ["--keys", str(options.keys)] if options.keys else []
        error.add_note(f"what the agents have begun goes on, until: {shlex.join(ends)}")
        raise
    with found:
        print(found.address)
    return 0


STATUS: tuple[Argument, ...] = (AT, argument("--name", default="", help="a deployment whose switches are told too"), KEYS)


def status(options: argparse.Namespace) -> int:
    """Print who has joined, the links, and what is deployed."""
    found = ds.status(options.at, options.keys, options.name)
    for name, member in found["members"].items():
        print(_member(name, member, name == found["source"]))
    for name, member in found["members"].items():
        for target, link in member["state"]["links"].items():
            bandwidth, latency = show(link["bandwidth_bytes_per_s"], "B/s"), show(link["latency_s"], "s")
            print(f"{name} -> {target}: {bandwidth}, {latency}; {link['note']}")
    for name, deployment in found["deployments"].items():
        print(_deployment(name, deployment["state"]))
    if options.name:
        print(found["deployments"].get(options.name, {}).get("switches", ""), end="")
    return 0


UNDEPLOY: tuple[Argument, ...] = (argument("name", help="of the deployment"), AT, KEYS)


def undeploy(options: argparse.Namespace) -> int:
    """End a deployment."""
    ds.undeploy(options.name, options.at, options.keys)
    tell(f"{options.name!r} has ended; what was measured for it stays with the agents")
    return 0


MAKE_KEYS: tuple[Argument, ...] = (
    argument("hosts", nargs="+", metavar="NAME[=ADDRESS,...]", help="hosts, and where other clients check them, their addresses"),
    argument("-o", "--out", type=Path, default=Path("keys"), writes="folder",
             help="folder of the authority and of each host's keys (default: keys)"),
)  # fmt: skip


def make_keys(options: argparse.Namespace) -> int:
    """Make key pairs."""
    hosts: dict[str, Any] = {}
    for text in options.hosts:
        name, _, addresses = text.partition("=")
        hosts[name] = tuple(filter(None, addresses.split(",")))
    for name, folder in ds.make_keys(hosts, options.out).items():
        print(folder)
        tell(f"bring {folder} to {name!r} alone; whoever has it may call the agents of this authority")
    return 0


def _member(name: str, member: dict[str, Any], is_source: bool) -> str:
    facts, load = member["facts"], member["state"].get("load", {})
    told = [facts["cpu"], f"{show(load['free_memory_bytes'], 'B')} of memory free" if load else ""]
    told += [f"draws {show(load['drawn_w'], 'W')}"] if "drawn_w" in load else []
    told += [
        f"emulated: {facts['emulated']}" if "emulated" in facts else "",
        *(f"runs a {job}" for job in member["state"].get("jobs", ())),
        member["state"].get("problem", ""),
    ]
    alive = "" if member["alive"] else f", LOST for {member['silent_s']:g} s"
    return f"{name}{' (source)' if is_source else ''} at {member['address']}{alive}: {'; '.join(filter(None, told))}"


def _deployment(name: str, state: dict[str, Any]) -> str:
    if not state.get("plan"):
        return f"deployment {name}: {state.get('status', 'begins')}{': ' + state['problem'] if state.get('problem') else ''}"
    where = f"{state['status']} at {state['address']}, plan {state['plan']} on {'+'.join(state['servers'])}"
    now = f", now {show(state['expected_s'], 's')}" if state.get("expected_s") else ""
    what = f"promised {show(state['promised_s'], 's')}{now}, noise {state['noise']:.4g}, {state['quantized']} layers in int8"
    return f"deployment {name}: {where}, {what}" + "".join(f"; without {host}: {why}" for host, why in state["left_out"].items())
