"""Servers as network namespaces of this machine: links shaped by the kernel, computing capped by a CPU quota. Needs root.

Every link is a pair of virtual interfaces of its own with a token bucket (tc tbf) at each end; its latency is waited in the
sender, because many kernels lack netem. Stages without a link between them reach each other, for control messages alone,
over a bridge that is not shaped; so does the client.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dnnsplit.ground.errors import DeployError
from dnnsplit.network.servers import Network

PORT = 7000
CGROUPS = Path("/sys/fs/cgroup")
# What the kernel takes: a quota of 1 ms or more per period of 1 ms to 1 s. What is computed within one quota is not slowed at
# all, so the least quota is the one that distorts least.
LEAST_QUOTA_US, PERIODS_US = 1_000, (1_000, 1_000_000)
WIRE_BYTES = 1514 / 1448  # a TCP segment with its headers, per byte of payload
# A token bucket must hold what passes until the kernel looks at it again: a tick of its clock, where that is no finer. What it
# holds is not paced: with 4 ms of it, 300 kB at 20 MB/s were measured to take 25 % less than they should; with .2 ms, within 1 %.
BURST_S = 2e-4


@dataclass(frozen=True)
class Place:
    """Where one stage runs.

    Attributes
    ----------
    command : tuple[str, ...]
        What its command line starts with.
    address : str
        ``host:port`` by which the client calls it.
    peers : Mapping[str, str]
        ``host:port`` by which it calls the other stages.
    cgroup : Path
        Folder whose quota it is under.
    """

    command: tuple[str, ...]
    address: str
    peers: Mapping[str, str]
    cgroup: Path

    def admit(self, pid: int) -> None:
        """Put a process under the quota."""
        (self.cgroup / "cgroup.procs").write_text(str(pid))


def check_machine() -> None:
    """Raise a `DeployError` that says why, where this machine cannot run namespaces."""
    if os.name != "posix" or os.geteuid() != 0:
        message = "it needs root"
        raise DeployError(message)
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        message = f"{' and '.join(missing)} (iproute2) is missing"
        raise DeployError(message)
    cpu_controller()
    with ExitStack() as stack:
        name = f"ds{os.getpid()}t"
        _namespace(stack, name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "lo", "root", *bucket(1e6))


@contextmanager
def namespaces(
    stages: Sequence[str], network: Network, share: Mapping[str, float], dilation: float
) -> Iterator[dict[str, Place]]:
    """Build the network of a test-bed, and take it down in any case.

    Parameters
    ----------
    stages : Sequence[str]
        Servers that run a stage.
    network : Network
        Its links between two stages are built, `dilation` times slower.
    share : Mapping[str, float]
        CPUs that a server may use [CPU], above 0.
    dilation : float
        Wall seconds per emulated second.
    """
    tag = f"ds{os.getpid()}"
    number = {name: i for i, name in enumerate(stages)}
    peers: dict[str, dict[str, str]] = {name: {} for name in stages}
    with ExitStack() as stack:
        subnet = _free_subnet()
        spaces = {name: f"{tag}n{i}" for name, i in number.items()}
        _namespace(stack, f"{tag}hub")
        _run("ip", "-n", f"{tag}hub", "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", f"{tag}hub", "link", "set", "bridge", "up")
        for name, space in spaces.items():
            _namespace(stack, space)
            _run("ip", "-n", space, "link", "set", "lo", "up")
            _wire(f"{tag}hub", space, f"m{number[name]}", "control", f"{subnet}.{10 + number[name]}/24")
        outside = f"{tag}c"
        _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "client", "netns", f"{tag}hub")
        stack.callback(_run, "ip", "link", "del", outside, check=False)
        _run("ip", "addr", "add", f"{subnet}.1/24", "dev", outside)
        _run("ip", "link", "set", outside, "up")
        _run("ip", "-n", f"{tag}hub", "link", "set", "client", "master", "bridge", "up")
        for a, b in itertools.combinations(stages, 2):
            ends = f"{number[a]}x{number[b]}"
            links = {near: network.link(near, far) for near, far in ((a, b), (b, a))}
            if any(links.values()):
                net = f"10.{200 + number[a]}.{number[b]}"
                _run("ip", "-n", spaces[a], "link", "add", ends, "type", "veth", "peer", "name", ends, "netns", spaces[b])
                for i, (near, link) in enumerate(links.items(), start=1):
                    _run("ip", "-n", spaces[near], "addr", "add", f"{net}.{i}/24", "dev", ends)
                    _run("ip", "-n", spaces[near], "link", "set", ends, "up")
                    if link is not None and link.bandwidth_bytes_per_s < float("inf"):
                        shaped = bucket(link.bandwidth_bytes_per_s / dilation)
                        _run("ip", "netns", "exec", spaces[near], "tc", "qdisc", "add", "dev", ends, "root", *shaped)
                peers[a][b], peers[b][a] = f"{net}.2:{PORT}", f"{net}.1:{PORT}"
            else:
                peers[a][b], peers[b][a] = (f"{subnet}.{10 + number[name]}:{PORT}" for name in (b, a))
        yield {
            name: Place(
                ("ip", "netns", "exec", space), f"{subnet}.{10 + number[name]}:{PORT}", peers[name],
                _quota(stack, f"{tag}n{number[name]}", share[name]),
            )
            for name, space in spaces.items()
        }  # fmt: skip


def _wire(hub: str, space: str, port: str, device: str, address: str) -> None:
    """Plug a namespace into the bridge."""
    _run("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", device, "netns", space)
    _run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
    _run("ip", "-n", space, "addr", "add", address, "dev", device)
    _run("ip", "-n", space, "link", "set", device, "up")


def bucket(bytes_per_s: float) -> tuple[str, ...]:
    """Return the token bucket, as tc names it, that lets so much payload through [B/s]."""
    rate = bytes_per_s * WIRE_BYTES
    burst = rate * max(BURST_S, time.clock_getres(time.CLOCK_MONOTONIC))
    return ("tbf", "rate", f"{round(8 * rate)}bit", "burst", str(max(round(burst), 4096)), "latency", "400ms")


def _namespace(stack: ExitStack, name: str) -> None:
    _run("ip", "netns", "add", name)
    stack.callback(_run, "ip", "netns", "del", name, check=False)


def _free_subnet() -> str:
    """First three numbers of addresses that no route of this machine covers."""
    routes = _run("ip", "route", "show", "table", "all")
    return next(subnet for subnet in (f"10.199.{i}" for i in range(256)) if f"{subnet}." not in routes)


def cpu_controller(root: Path = CGROUPS) -> Path:
    """Return the folder in which groups with a CPU quota can be made: that of cgroup version 1, or of 2, also side by side.

    Raises
    ------
    DeployError
        There is none, with the reason for each version.
    """
    for folder in (root / "cpu", root / "cpu,cpuacct"):
        if (folder / "cpu.cfs_quota_us").exists() or (folder / "cgroup.procs").exists():
            if os.access(folder, os.W_OK):
                return folder
            message = f"the cgroups in {folder} may not be written; run as root of the machine, not of a container"
            raise DeployError(message)
    for folder in (root, root / "unified"):
        if not (folder / "cgroup.controllers").exists() or "cpu" not in (folder / "cgroup.controllers").read_text().split():
            continue
        if not os.access(folder, os.W_OK):
            message = f"the cgroups in {folder} may not be written; mount them for writing"
            raise DeployError(message)
        control = folder / "cgroup.subtree_control"
        if "cpu" not in control.read_text().split():
            message = f"the groups in {folder} have no cpu controller; give it to them: echo +cpu > {control}"
            raise DeployError(message)
        return folder
    message = f"no cgroup in {root} has a cpu controller, of version 1 (cpu) or of version 2 (cgroup.controllers)"
    raise DeployError(message)


def quota_us(cpus: float) -> tuple[int, int]:
    """Return the quota and the period [us] that give a number of CPUs [CPU], with as little as possible computed unslowed.

    Raises
    ------
    DeployError
        Less than a thousandth of a CPU, which the kernel cannot give.

    Examples
    --------
    >>> quota_us(0.5), quota_us(2.0)
    ((1000, 2000), (2000, 1000))
    """
    least = LEAST_QUOTA_US / PERIODS_US[1]
    if not least <= cpus < float("inf"):
        way_out = "take a smaller slowdown or time_dilation, or kind='emulated'"
        message = f"a quota of {cpus:.3g} CPU cannot be given, the least is {least:g}; {way_out}"
        raise DeployError(message)
    period = min(max(round(LEAST_QUOTA_US / cpus), PERIODS_US[0]), PERIODS_US[1])
    return max(round(cpus * period), LEAST_QUOTA_US), period


def quota_files(folder: Path, cpus: float) -> dict[Path, str]:
    """Return what is written into a new group so that it has a number of CPUs [CPU], in this order."""
    quota, period = quota_us(cpus)
    if (folder / "cpu.max").exists():
        return {folder / "cpu.max": f"{quota} {period}"}
    if not (folder / "cpu.cfs_quota_us").exists():
        message = f"{folder} has neither cpu.max nor cpu.cfs_quota_us: this kernel gives no CPU quota"
        raise DeployError(message)
    return {folder / "cpu.cfs_period_us": str(period), folder / "cpu.cfs_quota_us": str(quota)}


def _quota(stack: ExitStack, name: str, cpus: float) -> Path:
    folder = cpu_controller() / name
    folder.mkdir()
    stack.callback(_leave, folder)
    for file, text in quota_files(folder, cpus).items():
        file.write_text(text)
    return folder


def _leave(folder: Path) -> None:
    for pid in (folder / "cgroup.procs").read_text().split():
        (folder.parent / "cgroup.procs").write_text(pid)
    folder.rmdir()


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        message = f"'{' '.join(command)}' failed: {done.stderr.strip() or done.returncode}"
        raise DeployError(message)
    return done.stdout
