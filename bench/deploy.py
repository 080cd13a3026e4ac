"""What a deployment costs on top of computing and links, in one run: hops against plain gRPC, and pipelining.

python bench/deploy.py                  1, 4 and 16 MB, 40 repeats
python bench/deploy.py --sizes 8 --repeats 100
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.deploy.bundle import Output, Part, Wire
from dnnsplit.deploy.channels import size_options
from dnnsplit.files import sha256

SERVERS = ("device", "edge", "cloud")
TARGET = 1.5
SERVE = "--plain-server"


def forwarding(folder: Path, size_mb: float) -> ds.Bundle:
    """A tensor goes device -> edge -> cloud -> device and is copied once on each of them: three hops."""
    shape = (round(size_mb * 1e6 / 4),)
    wires = [Wire(f"t{i}", "float32", shape) for i in range(5)]
    parts = []
    for i, server in enumerate((*SERVERS, "device")):
        info = [helper.make_tensor_value_info(wire.name, TensorProto.FLOAT, shape) for wire in wires[i : i + 2]]
        graph = helper.make_graph([helper.make_node("Neg", [wires[i].name], [wires[i + 1].name])], "part", info[:1], info[1:])
        content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        onnx.checker.check_model(onnx.load_from_string(content))
        (folder / f"part{i}.onnx").write_bytes(content)
        parts.append(Part(f"part{i}", server, f"part{i}.onnx", sha256(content), (f"t{i}",), (f"t{i + 1}",)))
    outputs = (Output("out", "t4"),)
    bundle = ds.Bundle(folder, "forwarding", "0" * 64, "device", SERVERS, (wires[0],), outputs, wires[1:], parts)
    bundle.save()
    return bundle


@contextmanager
def plain_server() -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """A process that takes bytes by gRPC and answers nothing, and the call that sends it some."""
    process = subprocess.Popen([sys.executable, __file__, SERVE], stdout=subprocess.PIPE, text=True)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}", size_options(-1)) as channel:
            yield channel.unary_unary("/plain/Send")
    finally:
        process.kill()
        process.wait()


def serve_plain() -> None:
    """Answer ``/plain/Send`` until killed."""
    server = grpc.server(ThreadPoolExecutor(4), options=size_options(-1))
    send = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("plain", {"Send": send}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


def network(bandwidth: float, latency_s: float) -> ds.Network:
    """Three servers, each linked with each."""
    links = [ds.Link(a, b, bandwidth, latency_s) for a in SERVERS for b in SERVERS if a != b]
    return ds.Network([ds.Server(name) for name in SERVERS], links, "device")


def hops(size_mb: float, repeats: int) -> dict[str, object]:
    """Median seconds of a hop: of the stages (all that is not computing, by three hops), and of plain gRPC, in turn."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, plain_server() as send:
        bundle = forwarding(Path(folder), size_mb)
        array = rng.random(bundle.inputs[0].shape, np.float32)
        content = array.tobytes()
        # links so fast that nothing is waited; the emulation must not stretch computing either
        with ds.testbed(bundle, network(1e15, 0.0), dict.fromkeys(SERVERS, 1e-9), time_dilation=1.0) as client:
            stage_s, transfer_s, plain_s = [], [], []
            for i in range(-5, repeats):
                trace = client.trace({"t0": array})[1]
                started = time.perf_counter()
                send(content)
                if i >= 0:
                    plain_s.append(time.perf_counter() - started)
                    stage_s.append((trace.latency_s - sum(part.wall_s for part in trace.parts)) / 3)
                    transfer_s.append(np.mean([transfer.seconds for transfer in trace.transfers]))
    stage, transfer, plain = (1e3 * float(np.median(values)) for values in (stage_s, transfer_s, plain_s))
    return {"MB": size_mb, "stage ms": stage, "of it sending ms": transfer, "plain gRPC ms": plain, "ratio": stage / plain}


def pipeline(size_mb: float = 0.2, requests: int = 40, in_flight: int = 8) -> dict[str, object]:
    """Requests per second with several in flight, against one at a time and against the rate of the slowest stage."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = forwarding(Path(folder), size_mb)
        feed = {"t0": np.zeros(bundle.inputs[0].shape, np.float32)}
        slow = dict.fromkeys(SERVERS, 100.0)  # computing takes about as long as sending, and leaves the machine idle
        with ds.testbed(bundle, network(5e6, 0.005), slow, time_dilation=1.0) as client, ThreadPoolExecutor(in_flight) as pool:
            traces = [client.trace(feed)[1] for _ in range(5)]
            alone_s = float(np.median([trace.latency_s for trace in traces]))
            busy = pd.concat([trace.frame for trace in traces[1:]])
            bottleneck_s = busy.groupby(["kind", "source", "target"])["seconds"].sum().max() / (len(traces) - 1)
            list(pool.map(client.infer, [feed] * in_flight))
            started = time.perf_counter()
            list(pool.map(client.infer, [feed] * requests))
            rate = requests / (time.perf_counter() - started)
    return {"one at a time /s": 1 / alone_s, f"{in_flight} in flight /s": rate, "bottleneck /s": 1 / bottleneck_s,
            "share of bottleneck": rate * bottleneck_s}  # fmt: skip


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.0, 4.0, 16.0], help="of the tensor [MB]")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument(SERVE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain_server:
        return serve_plain()
    rows = pd.DataFrame([hops(size, options.repeats) for size in options.sizes])
    print("one hop on loopback: a stage (encoding, sending, decoding, handing over) against plain gRPC of the same bytes")
    print(rows.round(2).to_string(index=False))
    if len(rows) > 1:
        slopes = {name: np.polyfit(rows["MB"], rows[name], 1)[0] for name in ("stage ms", "plain gRPC ms")}
        ratio = slopes["stage ms"] / slopes["plain gRPC ms"]
        stage, plain = slopes.values()
        print(f"per MB: {stage:.2f} ms against {plain:.2f} ms, ratio {ratio:.2f} (at most {TARGET})")
    print("\nthree stages, several requests in flight")
    print(pd.DataFrame([pipeline()]).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
