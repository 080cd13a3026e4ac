"""What an agent knows of its own machine: processor, memory, disk, the CPUs it may use, and whose turn it is to measure."""

from __future__ import annotations

import fcntl
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from dnnsplit.ground.errors import DeployError
from dnnsplit.profiling.kernels import host_name

BOOT = Path("/proc/sys/kernel/random/boot_id")
GROUPS = Path("/sys/fs/cgroup")
WINDOWS, WINDOW_S = 5, 0.2
NEARLY = 0.95  # of a CPU that a thread gets is all of one, beside others


def facts(folder: Path) -> dict[str, Any]:
    """Return what stays as it is: processor, CPUs, memory [B], and which machine this is."""
    return {
        "cpu": host_name(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_share": cpu_share(),
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


def machine_id() -> str:
    """Tell machines apart until they start anew; what runs on the same one has the same."""
    return BOOT.read_text(encoding="ascii").strip() if BOOT.is_file() else f"{platform.node()}-{psutil.boot_time():.0f}"


def cpu_share(groups: Path = GROUPS, process: Path = Path("/proc/self/cgroup")) -> float:
    """Return what one busy thread may use of a CPU, by the quota of the control groups it is in; 1 without one [CPU].

    Where the files of its groups cannot be seen, as in network namespaces, it is measured.
    """
    share = 1.0
    if not process.is_file():
        return share
    for line in process.read_text(encoding="utf-8").splitlines():
        _, names, place = line.split(":", 2)
        roots = [groups / names, groups / "cpu", groups / "unified", groups] if names in ("", "cpu", "cpu,cpuacct") else []
        folders = [root / place.lstrip("/") for root in roots]
        if names and place != "/" and roots and not any(folder.is_dir() for folder in folders):
            share = min(share, _measured())
        for root, folder in zip(roots, folders, strict=True):
            for group in (folder, *folder.parents):
                if group.is_relative_to(root):
                    share = min(share, _quota(group))
    return share


def _measured() -> float:
    """Return which part of the time a busy thread gets, at its best of a few times."""
    best = 0.0
    for _ in range(WINDOWS):
        wall, cpu = time.monotonic(), time.thread_time()
        while (passed := time.monotonic() - wall) < WINDOW_S:
            pass
        best = max(best, (time.thread_time() - cpu) / passed)
    return 1.0 if best > NEARLY else best


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
