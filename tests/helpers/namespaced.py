"""Agents in network namespaces of this machine, whose links the kernel paces and whose processors it caps; needs root."""

import subprocess
from contextlib import contextmanager

import dnnsplit as ds
from dnnsplit.agents.local import LocalAgents
from dnnsplit.deployment.testbed import namespaces as space


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


@contextmanager
def namespaced_agents(network, folder, share, every=()):
    """Agents for the servers of a network, with these CPUs and options; each has one address, which others reach by their links.

    The first is the source of the network. Yields the agents, and what lets the link between two of them be as fast as it says
    from then on: (one, other, bandwidth [B/s]).
    """
    names = sorted(network.server_names, key=lambda name: name != network.source)
    ends, keys = {name: f"10.198.7.{10 + i}" for i, name in enumerate(names)}, folder / "keys"
    ds.make_keys({name: [end] for name, end in ends.items()}, keys)
    with space.namespaces(names, network, share, 1.0) as places:
        agents = LocalAgents(folder / "agents", keys, options={name: ["--host", end, *every] for name, end in ends.items()})
        for name, place in places.items():
            admitted = f'echo $$ > {place.cgroup / "cgroup.procs"}; exec "$@"'
            enter = ["nsenter", f"--net=/run/netns/{place.command[-1]}"]  # "ip netns exec" would hide the control groups
            agents.within = {**agents.within, name: ["sh", "-c", admitted, "sh", *enter]}
        try:
            for name in names:
                namespace, hub = places[name].command[-1], places[name].address.rpartition(":")[0]
                run("ip", "-n", namespace, "addr", "add", f"{ends[name]}/32", "dev", "lo")
                run("ip", "route", "add", f"{ends[name]}/32", "via", hub)
                for other in names:
                    if other != name:
                        there = places[name].peers[other].rpartition(":")[0]
                        run("ip", "-n", namespace, "route", "add", f"{ends[other]}/32", "via", there, "src", ends[name])

            def pace(one, other, bytes_per_s):
                for near, far in ((one, other), (other, one)):
                    a, b = sorted((near, far), key=names.index)
                    device = ["dev", f"{names.index(a)}x{names.index(b)}", "root"]
                    # not "replace": a packet that waits, and is larger than a smaller bucket, would wait for ever
                    run(*places[near].command, "tc", "qdisc", "del", *device)
                    run(*places[near].command, "tc", "qdisc", "add", *device, *space.bucket(bytes_per_s))

            with agents.running(names):
                yield agents, pace
        finally:
            for name in names:
                subprocess.run(["ip", "route", "del", f"{ends[name]}/32"], capture_output=True)
