"""Agents in network namespaces of this machine, whose links the kernel paces and whose processors it caps; needs root."""

import subprocess
import sys
import time
from contextlib import contextmanager

import dnnsplit as ds
from dnnsplit.agents.local import LocalAgents
from dnnsplit.deployment.testbed import namespaces as space


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


class Namespaced(LocalAgents):
    """Agents of which each is in a namespace of its own, at one address that the others reach by the links between them."""

    def begin(self, places, names):
        self.places, self.names = places, names
        self.ends = {name: f"10.198.7.{10 + i}" for i, name in enumerate(names)}

    def start(self, name):
        place, out, err = self.places[name], self.folder / f"{name}.out", self.folder / f"{name}.err"
        port = self.at.rpartition(":")[2] if self.at and name == self.names[0] else "7000"
        command = [sys.executable, "-m", "dnnsplit", "agent", "--name", name, "--folder", str(self.folder / name), "--port", port]
        command += ["--host", self.ends[name], "--keys", str(self.keys / name)]
        command += ["--join", self.at] if self.at and name != self.names[0] else []
        admitted = ["sh", "-c", f'echo $$ > {place.cgroup / "cgroup.procs"}; exec "$@"', "sh"]
        with out.open("wb") as stdout, err.open("ab") as stderr:
            self.processes[name] = subprocess.Popen(
                [*admitted, *place.command, *command], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        end = time.monotonic() + 60
        while not (line := out.read_text()).endswith("\n"):
            assert self.processes[name].poll() is None, err.read_text()
            assert time.monotonic() < end, err.read_text()
            time.sleep(0.05)
        self.at = self.at or line.strip()

    def drop(self, source, target, bytes_per_s):
        """Give a link another bandwidth, from now on."""
        device = "x".join(str(self.names.index(name)) for name in sorted((source, target), key=self.names.index))
        namespace = self.places[source].command[-1]
        run("ip", "netns", "exec", namespace, "tc", "qdisc", "change", "dev", device, "root", *space._bucket(bytes_per_s))


@contextmanager
def namespaced_agents(network, folder, share):
    """Agents for the servers of a network, with these CPUs; the first is its source."""
    names = sorted(network.server_names, key=lambda name: name != network.source)
    keys = folder / "keys"
    ds.make_keys({name: [f"10.198.7.{10 + i}"] for i, name in enumerate(names)}, keys)
    with space.namespaces(names, network, share, 1.0) as places:
        ends = {name: f"10.198.7.{10 + i}" for i, name in enumerate(names)}
        for name in names:
            namespace, hub = places[name].command[-1], places[name].address.rpartition(":")[0]
            run("ip", "-n", namespace, "addr", "add", f"{ends[name]}/32", "dev", "lo")
            run("ip", "route", "add", f"{ends[name]}/32", "via", hub)
            for other in names:
                if other != name:
                    there = places[name].peers[other].rpartition(":")[0]
                    run("ip", "-n", namespace, "route", "add", f"{ends[other]}/32", "via", there, "src", ends[name])
        agents = Namespaced(folder / "agents", keys)
        agents.folder.mkdir(parents=True, exist_ok=True)
        agents.begin(places, names)
        try:
            for name in names:
                agents.start(name)
            agents.wait(*names)
            yield agents
        finally:
            agents.end()
            for name in names:
                subprocess.run(["ip", "route", "del", f"{ends[name]}/32"], capture_output=True)
