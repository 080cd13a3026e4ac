"""A network, images and checks for deployments of the made-up model of `helpers.bundle_models`."""

import json
import os
from pathlib import Path

import numpy as np

from dnnsplit.network.servers import Link, Network, Server
from helpers.bundle_models import ROWS, SCALE, SIZE, mlp_numpy

NAMES = ("device", "edge", "cloud")
PAIRS = [(a, b) for a in NAMES for b in NAMES if a != b]


def network(bandwidth=4e6, latency_s=0.003, pairs=PAIRS, names=NAMES):
    return Network([Server(n) for n in names], [Link(a, b, bandwidth, latency_s, 1e-9) for a, b in pairs], "device")


def images(seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, SIZE)).astype("float32")


def stage_pids(bundle):
    """Server -> process id of the stages of `bundle` that run as children of this process."""
    pids = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            if parent == os.getpid() and "dnnsplit.deployment.stage.process" in command:
                config = json.loads(Path(command[3]).read_text())
                if Path(config["bundle"]) == bundle.folder.resolve():
                    pids[config["server"]] = int(entry.name)
        except (OSError, IndexError):
            continue  # it has ended in the meantime
    return pids


def assert_close(outputs, x):
    y, hidden = mlp_numpy(x)
    # a value between two steps of the quantisation may fall to either side
    np.testing.assert_allclose(outputs["hidden"], hidden, atol=1.01 * SCALE)
    np.testing.assert_allclose(outputs["y"], y, atol=5 * SCALE)
    assert outputs["y"].dtype == outputs["hidden"].dtype == np.float32
