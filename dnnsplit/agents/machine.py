"""What an agent knows of its own machine: processor, memory, disk, the CPUs it may use, and whose turn it is to measure."""

from __future__ import annotations

import fcntl
import math
import os
import platform
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from dnnsplit.ground.errors import DeployError, ProfileError
from dnnsplit.profiling.kernels import host_name
from dnnsplit.profiling.power import Drawn

BOOT = Path("/proc/sys/kernel/random/boot_id")
GROUPS = Path("/sys/fs/cgroup")
WINDOWS, WINDOW_S = 5, 0.2
USES, USE_S = 12, 5.0  # windows of what an agent uses itself, and their length [s]
NEARLY = 0.95  # of a CPU that a thread gets is all of one, beside others


def facts(folder: Path) -> dict[str, Any]:
    """Return what stays as it is: processor, CPUs and the quota of them, memory [B], and which machine this is."""
    return {
        "cpu": host_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": cpus(),
        "cpu_quota": cpu_quota(),
        "memory_bytes": psutil.virtual_memory().total,
        "disk_bytes": shutil.disk_usage(folder).total,
        "machine": machine_id(),
        "pid": os.getpid(),
    }


def load(folder: Path) -> dict[str, Any]:
    """Return what changes: free memory and disk [B], and the part of the CPUs that is busy."""
    return {
        "free_memory_bytes": psutil.virtual_memory().available,
        "free_disk_bytes": shutil.disk_usage(folder).free,
        "busy": round(psutil.cpu_percent() / 100, 3),
    }


def drawn() -> Drawn | None:
    """Return what tells the power of this machine; None where zeus is not installed or no counter is readable."""
    try:
        return Drawn()
    except ProfileError:
        return None


def machine_id() -> str:
    """Tell machines apart until they start anew; what runs on the same one has the same."""
    return BOOT.read_text(encoding="ascii").strip() if BOOT.is_file() else f"{platform.node()}-{psutil.boot_time():.0f}"


def cpu_quota(groups: Path = GROUPS, process: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many CPUs this process may use: by the quota of the control groups it is in, or all that there are [CPU].

    Where the files of its groups cannot be seen, as some tools for network namespaces leave it, what a thread gets is measured.
    """
    quota = float(cpus())
    if not process.is_file():
        return quota
    for line in process.read_text(encoding="utf-8").splitlines():
        _, names, place = line.split(":", 2)
        roots = [groups / names, groups / "cpu", groups / "unified", groups] if names in ("", "cpu", "cpu,cpuacct") else []
        folders = [root / place.lstrip("/") for root in roots]
        found = min((_quota(group) for root, folder in zip(roots, folders, strict=True) for group in (folder, *folder.parents)
                     if group.is_relative_to(root)), default=math.inf)  # fmt: skip
        if names and place != "/" and roots and math.isinf(found) and not any(folder.is_dir() for folder in folders):
            found = _measured()
        quota = min(quota, found)
    return quota


def cpus() -> int:
    """Return how many CPUs this process may be on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measured() -> float:
    """Return which part of the time a busy thread gets, at its best of a few times; infinite where nothing keeps it from all."""
    best = 0.0
    for _ in range(WINDOWS):
        wall, cpu, idle = time.monotonic(), time.thread_time(), psutil.cpu_times().idle
        while (passed := time.monotonic() - wall) < WINDOW_S:
            pass
        share, idle_s = (time.thread_time() - cpu) / passed, psutil.cpu_times().idle - idle
        if share > NEARLY:
            return math.inf
        if idle_s > (1 - share) * passed / 2:  # else it had to wait for other processes
            best = max(best, share)
    return best or math.inf


def _quota(folder: Path) -> float:
    """Return the quota of one group [CPU]; infinite without one."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((folder / f"cpu.cfs_{what}_us").read_text(encoding="ascii").strip() for what in ("quota", "period"))
    except (OSError, ValueError):
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


class OwnUse:
    """What this process uses of the CPUs while it has nothing special to do: the least of its last windows."""

    def __init__(self) -> None:
        self._windows: deque[float] = deque(maxlen=USES)
        self._since = time.monotonic(), time.process_time()

    def cpus(self) -> float:
        """Return it [CPU]; 0 before the first window has passed."""
        passed = time.monotonic() - self._since[0]
        if passed > USE_S:
            self._windows.append((time.process_time() - self._since[1]) / passed)
            self._since = time.monotonic(), time.process_time()
        return min(self._windows, default=0.0)


@contextmanager
def turn_to_measure() -> Iterator[None]:
    """Wait until nobody else of this user measures on this machine: two agents of one machine would disturb each other."""
    with (Path(tempfile.gettempdir()) / f"dnnsplit-{os.getuid()}-measures").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def alone(folder: Path) -> IO[str]:
    """Take a folder for this process alone, until what is returned is closed.

    Raises
    ------
    DeployError
        Another agent has it.
    """
    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        message = f"another agent uses {folder}; end it, or give this one another folder"
        raise DeployError(message) from None
    return file
