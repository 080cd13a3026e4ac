"""A constant that several layers read is held once by each server, in every method; int8 layers have copies of their own."""

import itertools

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.graph.shared_weights import find_shared, groups, total_bytes

METHODS = [("auto", "HiGHS"), *itertools.product(("milp", "slides"), ("HiGHS", "CBC"))]


def chain(layers):
    """A chain of layers (name, bytes, shared), each with a little tensor to the next."""
    names = [name for name, _, _ in layers]
    tensors = [ds.Tensor("x", None, (names[0],), 4)]
    tensors += [ds.Tensor(f"t{i}", n, tuple(names[i + 1 : i + 2]), 4, i == len(names) - 1) for i, n in enumerate(names)]
    return ds.LayerGraph([ds.Layer(n, "MatMul", 1.0, size, shared=shared) for n, size, shared in layers], tensors)


def two_servers(memory_bytes):
    """The device is slow and has no limit; the edge is fast."""
    links = [ds.Link("device", "edge", 1e6, 0.001), ds.Link("edge", "device", 1e6, 0.001)]
    return ds.Network([ds.Server("device", 1.0), ds.Server("edge", 2.0, memory_bytes=memory_bytes)], links)


def times_of(graph, int8=()):
    rows = [(n, s, "float32", 1.0 if s == "device" else 0.1) for n in graph.layer_names for s in ("device", "edge")]
    rows += [(n, s, "int8", 0.9 if s == "device" else 0.09) for n in int8 for s in ("device", "edge")]
    return ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))


W = (("w", 100.0),)
GRAPH = chain([("a", 110.0, W), ("b", 120.0, W), ("c", 30.0, ()), ("d", 140.0, W)])


def test_by_hand():
    assert groups(GRAPH.layers) == ((100.0, (0, 1, 3)),)
    assert total_bytes(GRAPH.layers) == 100 + 10 + 20 + 30 + 40
    assert "200 B of weights" in repr(GRAPH)
    network, times = two_servers(None), times_of(GRAPH, ("a", "b"))
    where = {"a": "device", "b": "edge", "c": "edge", "d": "edge"}
    held = ds.evaluate(GRAPH, network, times, where).weight_bytes
    assert held == {"device": 110.0, "edge": 100 + 20 + 30 + 40}
    held = ds.evaluate(GRAPH, network, times, where, ("a", "b")).weight_bytes
    assert held == {"device": 27.5, "edge": 30 + 30 + 140}  # int8 copies of their own; d still has the float32 one


@pytest.mark.parametrize(("method", "solver"), METHODS)
def test_a_server_that_can_hold_them_once_is_enough(method, solver):
    times = times_of(GRAPH)
    for memory in (200.0, 200.0 * (1 + 1e-7), 1e9):
        plan = ds.split(GRAPH, two_servers(memory), times, method=method, solver=solver)
        assert set(plan.assignment.values()) == {"edge"}
        assert plan.status == "optimal"
    tight = ds.split(GRAPH, two_servers(200.0 * (1 - 1e-3)), times, method=method, solver=solver)
    assert tight.cost.weight_bytes["edge"] <= 200.0 * (1 - 1e-3)
    assert sorted(tight.assignment.values()) == ["device", "edge", "edge", "edge"]


@pytest.mark.parametrize(("method", "solver"), METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_binding_memories_against_every_assignment(method, solver, seed):
    rng = np.random.default_rng(seed)
    shares = [tuple((name, size) for name, size in (("v", 50.0), ("w", 80.0)) if rng.random() < 0.6) for _ in range(6)]
    graph = chain([(f"n{i}", float(rng.integers(5, 40)) + sum(s for _, s in own), own) for i, own in enumerate(shares)])
    int8 = [str(n) for n in rng.permutation(graph.layer_names)[:2]]
    times, noise = times_of(graph, int8), ds.NoiseModel.polynomial(int8, {n: 0.1 for n in int8})
    network = two_servers(float(rng.uniform(0.3, 0.9)) * total_bytes(graph.layers))
    best = np.inf
    for servers, bits in itertools.product(itertools.product(("device", "edge"), repeat=6), ((), int8[:1], int8[1:], int8)):
        cost = ds.evaluate(graph, network, times, dict(zip(graph.layer_names, servers, strict=True)), bits)
        if cost.weight_bytes["edge"] <= network.server("edge").memory_bytes:
            best = min(best, cost.latency_s)
    plan = ds.split(graph, network, times, noise, method=method, solver=solver)
    assert plan.latency_s == pytest.approx(best, rel=1e-9)
    assert plan.status == "optimal"


def test_what_is_shared_is_checked_and_comes_back_from_a_table(tmp_path):
    again = ds.LayerGraph.from_frames(GRAPH.frame, GRAPH.tensors_frame)
    assert [layer.shared for layer in again.layers] == [layer.shared for layer in GRAPH.layers]
    GRAPH.frame.to_csv(tmp_path / "layers.csv", index=False)
    plain = ds.LayerGraph.from_frames(pd.read_csv(tmp_path / "layers.csv"), GRAPH.tensors_frame)
    assert [layer.shared for layer in plain.layers] == [layer.shared for layer in GRAPH.layers]
    with pytest.raises(ds.ModelError) as caught:
        chain([("a", 50.0, W), ("b", 120.0, (("w", 90.0),))])
    assert "its shared constants are more than its weight_bytes" in str(caught.value)
    assert "the shared constant 'w' has 90.0 B, in another layer 100.0 B" in str(caught.value)
    assert find_shared({"a": {"w": 4, "v": 2}, "b": {"w": 4}}) == {"a": (("w", 4.0),), "b": (("w", 4.0),)}


def test_an_onnx_file_tells_what_its_layers_share(tmp_path):
    weight = numpy_helper.from_array(np.ones((16, 16), np.float32), "w")
    nodes, tensor = [], "x"
    for i in range(5):
        nodes.append(helper.make_node("MatMul", [tensor, "w"], [f"m{i}"], name=f"m{i}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"], name=f"r{i}"))
        tensor = f"r{i}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16]) for name in ("x", tensor)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    graph = ds.load(tmp_path / "m.onnx")
    assert total_bytes(graph.layers) == 16 * 16 * 4
    assert all(layer.weight_bytes == 16 * 16 * 4 for layer in graph.layers)
    network = ds.Network([ds.Server("device", memory_bytes=16 * 16 * 4.0)])
    assert ds.split(graph, network, ds.flops_times(graph, "device", 1e9, 1e9)).status == "optimal"
