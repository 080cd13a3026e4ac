"""CPU seconds of each step from load to deploy on large models and networks, for one thread: about twice for twice as many.

python bench/large.py                                        5 000, 10 000 and 20 000 layers; 1 000 and 10 000 servers
python bench/large.py --layers 2000 4000 --servers 100 200   others
python bench/large.py --kind fan                             one layer that all others read, in place of a chain with shortcuts
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.deployment.hosts import of_stages, read_hosts
from dnnsplit.deployment.stage.buffers import Request
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.stage.work import Runner

KINDS = ("residual", "fan")
PARTS = 200  # of the cut: each is a file, and what a file takes is not ours
Made = TypeVar("Made")


class Steps:
    """CPU seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Made]) -> Made:
        """Do something and keep what it took."""
        start = time.process_time()
        made = work()
        self.seconds[name] = time.process_time() - start
        return made


def write_model(path: Path, layers: int, kind: str) -> Path:
    """Write products of 1 x 4 with a matrix, by `kind`; every third adds what came two before in a chain."""
    nodes, last = [helper.make_node("MatMul", ["x", "w"], ["t0"])], "y"
    for i in range(1, layers - 1):
        adds = kind == "residual" and i % 3 == 0
        read = [f"t{i - 1}", f"t{i - 3}"] if adds else ["t0" if kind == "fan" else f"t{i - 1}", "w"]
        nodes.append(helper.make_node("Add" if adds else "MatMul", read, [f"t{i}"]))
    ends = [f"t{i}" for i in range(1, layers - 1)] if kind == "fan" else [f"t{layers - 2}"]
    nodes.append(helper.make_node("Sum" if kind == "fan" else "Neg", ends, [last]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", last))
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.eye(4).ravel())
    graph = helper.make_graph(nodes, kind, [x], [y], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def star(servers: int) -> ds.Network:
    """A device with a link to each of the other servers, and one back."""
    names = [f"server{k}" for k in range(servers)]
    ends = [pair for name in names[1:] for pair in ((names[0], name), (name, names[0]))]
    links = [ds.Link(*pair, 1e7 + k, 1e-3) for k, pair in enumerate(ends)]
    return ds.Network([ds.Server(name, 1.0 + k % 7, 0.5, speed_cpu=1 + k % 5) for k, name in enumerate(names)], links)


def times_of(graph: ds.LayerGraph, network: ds.Network) -> ds.LayerTimes:
    """Made-up seconds of every layer, scaled to the servers."""
    here = np.random.default_rng(0).uniform(1e-4, 2e-4, len(graph.layers))
    speeds = [server.speed_cpu or 1.0 for server in network.servers]
    names, servers = np.tile(graph.layer_names, len(speeds)), np.repeat(network.server_names, len(here))
    seconds = np.concatenate([here / speed for speed in speeds])
    frame = pd.DataFrame({"layer": names, "server": servers, "precision": "float32", "seconds": seconds})
    return ds.LayerTimes(frame)


def with_layers(layers: int, kind: str, folder: Path) -> dict[str, float]:
    """Go from a file to stages that could start, on three servers."""
    step, network = Steps(), star(3)
    file = write_model(folder / "model.onnx", layers, kind)
    graph = step("load", lambda: ds.load(file))
    step("graph: order, tables, repr", lambda: (graph.topological, graph.frame, graph.tensors_frame, graph._repr_html_()))
    times = step("times: make", lambda: times_of(graph, network))
    step("times: save, load", lambda: (times.save(folder / "times.csv"), ds.LayerTimes.load(folder / "times.csv")))
    piece = -(-layers // PARTS)
    pins = {name: f"server{i // piece % 2}" for i, name in enumerate(graph.topological)}
    ds.split(graph, network, times, pins={name: "server0" for name in graph.layer_names[:1]})  # what is loaded only once
    step("split: free", lambda: ds.split(graph, network, times))
    plan = step("split: pinned", lambda: ds.split(graph, network, times, pins=pins))
    step("plan: tables, repr", lambda: (plan.frame, plan.cost.frame, plan._repr_html_()))
    step("plan: save, load", lambda: (plan.save(folder / "plan.json"), ds.Plan.load(folder / "plan.json")))
    step("evaluate", lambda: ds.evaluate(graph, network, times, plan.assignment))
    if kind == "fan":  # each of its layers is a part
        return step.seconds
    step(f"cut into some {PARTS} parts", lambda: ds.cut(graph, plan, folder / "cut", check=False))
    bundle = step("bundle: load", lambda: ds.Bundle.load(folder / "cut"))
    step("bundle: table, repr", lambda: (bundle.frame, repr(bundle)))
    runner = step("stage: start", lambda: Runner(bundle, bundle.source, Emulation(), {}))

    def answer() -> None:
        request = Request("id", 1.0, 1.0, bundle.parts)
        for wire in (*bundle.inputs, *bundle.wires):
            request.take(wire.name, np.empty(0))
            request.due()

    step("stage: parts of a request", answer)
    runner.close()
    return step.seconds


def with_servers(servers: int, folder: Path) -> dict[str, float]:
    """Write down, look up and tell a star, and the times of a small model on it."""
    step, file = Steps(), folder / "network.yaml"
    network = step("network: make", lambda: star(servers))
    step("network: lookups", lambda: [network.server(link.target) for link in network.links if network.link(*link.ends)])
    step("network: tables, repr", lambda: (network.frame, network.servers_frame, network.digraph, network._repr_html_()))
    step("network: only, without", lambda: (network.only(*network.server_names), network.without(network.links[0].ends)))
    step("network: save", lambda: network.save(file))
    step("network: load", lambda: ds.Network.load(file))
    graph = ds.LayerGraph([ds.Layer(f"layer{i}") for i in range(10)], [ds.Tensor("x", None, ("layer0",), 1e4)])
    times = step("times: make", lambda: times_of(graph, network))
    step("times: save, load", lambda: (times.save(folder / "few.csv"), ds.LayerTimes.load(folder / "few.csv")))
    step("times: sums", lambda: [times.seconds_of(name) for name in network.server_names])
    step("evaluate", lambda: ds.evaluate(graph, network, times, dict.fromkeys(graph.layer_names, network.source)))
    hosts = {name: f"host-{name}:7000" for name in network.server_names}
    step("hosts", lambda: of_stages(read_hosts(hosts), hosts))
    return step.seconds


def main() -> None:
    """Print one table for layers and one for servers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="*", default=[5000, 10000, 20000])
    parser.add_argument("--servers", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--kind", choices=KINDS, default="residual")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [
            pd.DataFrame({f"{n} layers": with_layers(n, given.kind, folder) for n in given.layers}),
            pd.DataFrame({f"{n} servers": with_servers(n, folder) for n in given.servers}),
        ]
    for table in tables:
        if len(table):
            print(table.to_string(float_format="%.2f"), end="\n\n")
    print("CPU seconds")


if __name__ == "__main__":
    main()
