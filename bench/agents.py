"""Deployments by agents: how long the first, a known and another one take, and how a dropped link and a lost host are followed.

``python bench/agents.py`` runs three emulated agents on this machine, with ``--namespaces`` three in network namespaces, whose
links the kernel paces and whose processors it caps (needs root), and sets what is promised beside what is measured there.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import psutil

import dnnsplit as ds
from dnnsplit.ground.errors import DeployError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

MODEL = Path(__file__).parents[1] / "data" / "models" / "yolo11n-ppe-320.onnx"
CLIENTS = 8
SPEEDS = {"device": 0.05, "edge": 1.0, "cloud": 1.0}  # of this machine, in namespaces
SEEN_S = 12.0  # until a link that nobody uses is seen to be another [s]
TOLD_S = 2.0  # until what requests tell of links is known [s]
STILL_S = 5.0  # that nothing was pushed, so that requests have the links to themselves [s]
QUIET = 15.0  # of the processors may be busy before requests are timed [%]


def network_file(path: Path, device_edge: float = 10e6) -> Path:
    """A device that is slow, with links to an edge and a cloud that are this machine."""
    servers = (ds.Server("device", speed_cpu=0.05), ds.Server("edge", speed_cpu=1.0), ds.Server("cloud", speed_cpu=1.0))
    speeds = {("device", "edge"): device_edge, ("device", "cloud"): 2e6, ("edge", "cloud"): 20e6}
    links = [ds.Link(*ends, speed, 0.005) for pair, speed in speeds.items() for ends in (pair, pair[::-1])]
    ds.Network(servers, tuple(links), "device").save(path)
    return path


class Clients:
    """Clients that ask all the time, and when they were answered, refused, or answered wrongly."""

    def __init__(self, client: ds.Client, count: int = CLIENTS) -> None:
        self.client = client
        self.inputs = {name: ds.scenes.images(1)[:1] for name in client.inputs}
        self.wanted = client.infer(self.inputs)
        self.answered, self.lost, self.wrong, self.stop = list[float](), list[str](), 0, threading.Event()
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(count)]

    def ask(self) -> None:
        """Ask until it is to stop."""
        while not self.stop.is_set():
            try:
                found = self.client.infer(self.inputs)
            except DeployError as error:
                self.lost.append(str(error))
                time.sleep(0.05)
                continue
            self.answered.append(time.monotonic())
            self.wrong += not all(np.allclose(found[name], array, rtol=1e-3, atol=1e-3) for name, array in self.wanted.items())

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(90)


def until(condition: Callable[[], bool], limit_s: float = 90.0) -> float:
    """Wait until something is so; return how long that took [s]."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > limit_s:
            raise TimeoutError(condition)
        time.sleep(0.02)
    return time.monotonic() - started


def timed(work: Callable[[], ds.Deployed]) -> tuple[ds.Deployed, float]:
    """Return a deployment, and what it took [s]."""
    started = time.monotonic()
    found = work()
    return found, time.monotonic() - started


def runs_on(client: ds.Deployed, server: str) -> bool:
    """Whether a deployment has settled on a plan with this server."""
    return server in client.state["servers"] and client.state["status"] == "running"


def runs_without(client: ds.Deployed, server: str) -> bool:
    """Whether it has settled on one without it."""
    return server not in client.state["servers"] and client.state["status"] == "running"


def emulated(folder: Path) -> None:
    """Deploy on three emulated agents, and let a link drop and a host be killed."""
    quiet = {"told": lambda line: print("  ", line[:150].replace("\n", " "))}
    with ds.local_agents(network_file(folder / "net.yaml"), folder / "agents") as agents:
        client, first_s = timed(lambda: ds.deploy(MODEL, agents.at, max_noise=0.05, **quiet))
        print(f"first deployment, nothing known: {first_s:.1f} s")
        quiet["told"] = lambda line: None
        _, again_s = timed(lambda: ds.deploy(MODEL, agents.at, max_noise=0.05, **quiet))
        print(f"the same again: {again_s:.1f} s")
        client, other_s = timed(lambda: ds.deploy(MODEL, agents.at, max_noise=0.0, **quiet))
        print(f"with another noise limit: {other_s:.1f} s")
        print("plan:", client.state["servers"], "promised", client.state["promised_s"])
        time.sleep(8.0)  # plans for what may come are prepared
        with Clients(client) as clients:
            time.sleep(3.0)
            network_file(agents.emulate, 0.5e6)
            drop_s = until(lambda: runs_without(client, "edge"))
            time.sleep(3.0)
            took_s = client.switches.iloc[-1]["took_s"]
            print(f"link drops 20-fold, {CLIENTS} clients: new plan {drop_s:.1f} s later, {took_s} s after it was seen")
            print(f"   {len(clients.answered)} answers, {clients.wrong} of them wrong; {len(clients.lost)} lost")
            network_file(agents.emulate)
            until(lambda: runs_on(client, "edge"))
        time.sleep(8.0)
        with Clients(client) as clients:
            time.sleep(2.0)
            agents.kill("edge")
            killed = time.monotonic()
            until(lambda: runs_without(client, "edge"))
            time.sleep(3.0)
            after = [t - killed for t in clients.answered if t > killed + 0.3]
            print(f"host killed under {CLIENTS} clients: first answer {min(after):.1f} s later")
            print(f"   {len(clients.answered)} answers, {clients.wrong} of them wrong; {len(clients.lost)} refused")
        ds.undeploy(client.name, agents.at)


def in_namespaces(folder: Path) -> None:
    """Set what is expected beside what is measured, and let a link drop: the kernel paces the links, the device is emulated."""
    from helpers.namespaced import namespaced_agents

    fast, slow = 10e6, 0.5e6
    servers = [ds.Server(name, speed_cpu=speed) for name, speed in SPEEDS.items()]
    speeds = {("device", "edge"): fast, ("device", "cloud"): 2e6, ("edge", "cloud"): 20e6}
    links = [ds.Link(*ends, speed, 0.0) for pair, speed in speeds.items() for ends in (pair, pair[::-1])]
    ds.Network(servers, (), "device").save(folder / "speeds.yaml")
    every = ["--emulate", str(folder / "speeds.yaml")]
    with namespaced_agents(ds.Network(servers, links, "device"), folder, dict.fromkeys(SPEEDS, 2.0), every) as (agents, pace):
        quiet = {"keys": agents.keys / "device", "told": lambda line: None}
        client, took_s = timed(lambda: ds.deploy(MODEL, agents.at, max_noise=0.05, **quiet))
        print(f"namespaces: first deployment, nothing known: {took_s:.1f} s")
        errors = []
        for speed in (20e6, fast, 5e6, slow):
            pace("device", "edge", speed)
            time.sleep(SEEN_S)
            for limit in (0.0, 0.05, 0.2):
                client, took_s = timed(lambda limit=limit: ds.deploy(MODEL, agents.at, max_noise=limit, **quiet))
                errors.append(error_of(client, f"{speed / 1e6:g} MB/s, noise {limit:g}, deployed in {took_s:.1f} s"))
        print(f"   predicted within {max(map(abs, errors)):.1%}, {np.mean(np.abs(errors)):.1%} on average")
        pace("device", "edge", fast)
        time.sleep(12.0)
        client = ds.deploy(MODEL, agents.at, max_noise=0.0, **quiet)
        time.sleep(8.0)
        before = len(client.switches)
        with Clients(client) as clients:
            time.sleep(3.0)
            pace("device", "edge", slow)
            drop_s = until(lambda: len(client.switches) > before)
            time.sleep(3.0)
            told = client.switches.iloc[before]
            print(f"link drops 20-fold, {CLIENTS} clients: new plan {drop_s:.1f} s later, {told.took_s} s after it was seen")
            print(f"   {told.reason}; {told['servers']}")
            print(f"   {len(clients.answered)} answers, {clients.wrong} of them wrong; {len(clients.lost)} lost")


def is_still(client: ds.Deployed) -> bool:
    """Whether no files are pushed and nothing is computed."""

    def held() -> list[int]:
        return [member["state"]["pool_bytes"] for member in ds.status(client.at, client.keys)["members"].values()]

    before = held()
    return psutil.cpu_percent(STILL_S) < QUIET and held() == before


def error_of(client: ds.Deployed, what: str) -> float:
    """Print what a deployment is expected to take by the links and speeds of the moment, and what single requests take."""
    until(lambda: is_still(client), 120.0)  # plans for what may come are prepared
    inputs = {name: ds.scenes.images(1)[:1] for name in client.inputs}
    seconds, expected, servers = list[float](), list[float](), set[str]()
    for known in (False, True, True, True):  # the first requests tell of the links
        found = [client.trace(inputs)[1].latency_s for _ in range(14)][4:]  # in a row, as the times of a profile are
        time.sleep(TOLD_S)
        if not known:
            continue
        seconds += found
        state = client.state
        expected.append(state["expected_s"])
        servers.add("+".join(state["servers"]))
    told, measured = statistics.fmean(expected), statistics.median(seconds)
    print(f"   {what}, {' / '.join(sorted(servers))}: expected {told:.4f} s, measured {measured:.4f} s,"
          f" {told / measured - 1:+.1%}; promised {state['promised_s']:.4f} s", flush=True)  # fmt: skip
    return told / measured - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespaces", action="store_true", help="only agents in network namespaces; needs root")
    work = in_namespaces if parser.parse_args().namespaces else emulated
    with tempfile.TemporaryDirectory() as there:
        work(Path(there))
