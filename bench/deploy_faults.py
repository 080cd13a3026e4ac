"""A stage of a running deployment is killed and started again while 1000 requests arrive: what becomes of them.

python bench/deploy_faults.py
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from deploy_cut import SERVERS
from onnx import TensorProto, helper
from tqdm import tqdm

import dnnsplit as ds
from dnnsplit.cutting.bundle import Output, Part, Wire
from dnnsplit.ground.files import sha256

LOST = "edge"  # the stage that is killed
DEADLINE_S = 5.0


def forwarding(folder: Path, size_mb: float) -> ds.Bundle:
    """A tensor goes device -> edge -> cloud -> device and is copied once on each of them: three hops."""
    shape = (round(size_mb * 1e6 / 4),)
    wires = tuple(Wire(f"t{i}", "float32", shape) for i in range(5))
    parts = []
    for i, server in enumerate((*SERVERS, "device")):
        info = [helper.make_tensor_value_info(wire.name, TensorProto.FLOAT, shape) for wire in wires[i : i + 2]]
        graph = helper.make_graph([helper.make_node("Neg", [wires[i].name], [wires[i + 1].name])], "part", info[:1], info[1:])
        content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        onnx.checker.check_model(onnx.load_from_string(content))
        (folder / f"part{i}.onnx").write_bytes(content)
        parts.append(Part(f"part{i}", server, f"part{i}.onnx", sha256(content), (f"t{i}",), (f"t{i + 1}",)))
    outputs = (Output("out", "t4"),)
    bundle = ds.Bundle(folder, "forwarding", "0" * 64, "device", SERVERS, (wires[0],), outputs, wires[1:], tuple(parts))
    bundle.save()
    return bundle


def network(bandwidth: float, latency_s: float) -> ds.Network:
    """Three servers, each linked with each."""
    links = [ds.Link(a, b, bandwidth, latency_s) for a in SERVERS for b in SERVERS if a != b]
    return ds.Network([ds.Server(name) for name in SERVERS], links, "device")


@contextmanager
def served(bundle: ds.Bundle, folder: Path) -> Iterator[tuple[dict[str, str], Callable[[str], subprocess.Popen]]]:
    """Addresses by server, and what starts a stage there as in a terminal, with `dnnsplit serve`; all are ended at the end."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in SERVERS]
        addresses = {name: f"127.0.0.1:{one.getsockname()[1]}" for name, one in zip(SERVERS, sockets, strict=True)}
    at = [word for name, address in addresses.items() for word in ("--at", f"{name}={address}")]
    stages = []

    def start(server: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "dnnsplit", "serve", str(bundle.folder), "--server", server, *at]
        log = folder / f"{server}-{len(stages)}.log"
        with log.open("w") as errors:
            stages.append(subprocess.Popen([*command, "--deadline", str(DEADLINE_S)], stdout=subprocess.PIPE, stderr=errors))
        if not stages[-1].stdout.readline():
            raise ds.DeployError(f"the stage of {server!r} did not start: {log.read_text()}")
        return stages[-1]

    try:
        yield addresses, start
    finally:
        for stage in stages:
            stage.kill()
            stage.wait()
            stage.stdout.close()


def lost_stage(requests: int = 1000, in_flight: int = 4, every_s: float = 0.04) -> tuple[pd.DataFrame, float]:
    """Some requests at a time, every `every_s`; one stage is killed after a third of them, and started again after a half.

    Returns a row per request (outcome, begun_s, wait_s), and when the new stage listened, on the same clock.
    """
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(in_flight) as pool:
        folder = Path(name)
        bundle = forwarding(folder, 0.004)

        def request(number: int) -> tuple[str, float, float]:
            time.sleep(max(0.0, started + number // in_flight * every_s - time.monotonic()))
            begun = time.monotonic()
            try:
                found = client.infer({"t0": np.full(bundle.inputs[0].shape, number, np.float32)})["out"]
                outcome = "right" if (found == number).all() else "wrong"
            except ds.DeployError as error:
                outcome = "refused" if f"'{LOST}'" in str(error) else "unexplained"
            return outcome, begun - started, time.monotonic() - begun

        with served(bundle, folder) as (addresses, start):
            stages = {server: start(server) for server in SERVERS}
            with ds.testbed(bundle, network(1e15, 0.0), kind="hosts", hosts=addresses, deadline_s=DEADLINE_S) as client:
                client.infer({"t0": np.zeros(bundle.inputs[0].shape, np.float32)})
                started = time.monotonic()
                futures = [pool.submit(request, number) for number in range(requests)]
                futures[requests // 3].result()
                stages[LOST].kill()
                futures[requests // 2].result()
                start(LOST)
                listened_s = time.monotonic() - started
                rows = [future.result() for future in tqdm(futures, desc="a lost stage", unit="request")]
    return pd.DataFrame(rows, columns=["outcome", "begun_s", "wait_s"]), listened_s


def main() -> None:
    """Print the outcomes, with the shortest and the longest wait of each."""
    table, _ = lost_stage()
    print(table.groupby("outcome")["wait_s"].agg(["count", "min", "max"]).round(4).to_string())


if __name__ == "__main__":
    main()
