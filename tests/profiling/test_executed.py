"""Kernels as ONNX Runtime runs them, and the layers that their times are for."""

import numpy as np
import onnx
import pytest
from helpers.small_models import conv_net
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.profiling.executed import Profiler, layer_seconds, measure_profiler, owners
from dnnsplit.runtime.sessions import find_provider
from dnnsplit.runtime.timing import Kernel

CPU = find_provider("cpu")
EXACT = Profiler(0.0, 0.0)  # as if the profiler cost nothing


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def write(path, nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, "net", inputs, outputs, list(weights))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def branching(tmp_path):
    """A model with an If whose bodies have nodes of the names that nodes outside have."""

    def body(kind, name):
        nodes = [
            helper.make_node(kind, ["a"], [f"{name}1"], name="relu"),
            helper.make_node("Exp", [f"{name}1"], [name], name="exp"),
        ]
        return helper.make_graph(nodes, name, [], [info(name, [1, 8])])

    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="relu"), helper.make_node("ReduceSum", ["a"], ["s"], name="sum", keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"], name="greater"),
        helper.make_node("If", ["c"], ["i"], name="if", then_branch=body("Neg", "then"), else_branch=body("Abs", "else")),
        helper.make_node("Exp", ["i"], ["y"], name="exp"),
    ]  # fmt: skip
    weights = [numpy_helper.from_array(np.float32(0), "zero")]
    return ds.load(write(tmp_path / "m.onnx", nodes, [info("x", [1, 8])], [info("y", [1, 8])], weights))


def events_of(*kernels):
    """The profiler's events of one run: (name, operator, index, start, duration) of kernels, (start, duration) of executions."""
    for kernel in kernels:
        name = f"{kernel[0]}_kernel_time" if len(kernel) == 5 else "SequentialExecutor::Execute"
        about = {"op_name": kernel[1], "node_index": str(kernel[2]), "provider": CPU.ort_name} if len(kernel) == 5 else {}
        yield {"cat": "Node" if about else "Session", "name": name, "ts": kernel[-2], "dur": kernel[-1], "args": about}
    yield {"cat": "Session", "name": "model_run", "ts": 0, "dur": 0, "args": {}}


def test_bodies_count_once_and_for_the_layer_that_holds_them(branching, monkeypatch):
    # as ONNX Runtime tells them: what a body ran comes before the end of the body, and that before the kernel that holds it
    run = [("relu", "Relu", 0, 10, 1), ("sum", "ReduceSum", 1, 11, 0), ("greater", "Greater", 2, 11, 2),
           ("relu", "Neg", 0, 14, 30), ("exp", "Exp", 1, 44, 40), (14, 70), ("if", "If", 3, 13, 100),
           ("exp", "Exp", 4, 113, 7), (9, 111)]  # fmt: skip
    monkeypatch.setattr("dnnsplit.runtime.timing.pace_of", lambda clock: 1.0)
    monkeypatch.setattr("dnnsplit.runtime.timing._events", lambda path: [e for _ in range(8) for e in events_of(*run)])
    found = layer_seconds(branching, branching.layer_names, {}, {"x": np.ones((1, 8), np.float32)}, 3, CPU, EXACT)
    assert found == pytest.approx({"relu": 1e-6, "sum": 0.0, "greater": 2e-6, "if": 1e-4, "exp": 7e-6})


@pytest.mark.parametrize("sign", [1, -1])
def test_a_real_run_of_either_branch_gives_each_layer_a_time(branching, sign):
    found = layer_seconds(
        branching, branching.layer_names, {}, {"x": np.full((1, 8), sign, np.float32)}, 5, CPU, Profiler(2e-6, 1e-6)
    )
    assert set(found) == {"relu", "sum", "greater", "if", "exp"}
    assert min(found.values()) > 0


def test_a_kernel_that_no_name_leads_to_goes_with_its_neighbours(tmp_path):
    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    nodes = [
        helper.make_node("Transpose", ["x"], ["x.blocked"]),  # read by c1
        helper.make_node("Conv", ["x.blocked", "c1.w"], ["c1.silu"], name="c1"),
        helper.make_node("MemcpyToHost", ["c1.silu"], ["host"], name="Memcpy"),  # made by c1, and read by
        helper.make_node("Cast", ["host"], ["cast"], name="Memcpy"),  # another stranger, of the same name
        helper.make_node("Conv", ["sum", "c3.w"], ["out"], name="c3"),
        helper.make_node("Stranger", ["?"], ["!"], name="nobody's"),
    ]
    executed = helper.make_graph(nodes, "executed", [], [])
    kernels = [Kernel(0, "Transpose_0", "Transpose", ""), Kernel(1, "c1", "Conv", ""), Kernel(4, "Memcpy", "MemcpyToHost", ""),
               Kernel(7, "Memcpy", "Cast", ""), Kernel(9, "fused", "Fused", ""), Kernel(5, "c3", "Conv", ""),
               Kernel(8, "nobody's", "Stranger", "")]  # fmt: skip
    assert owners(graph, executed, kernels) == ["c1", "c1", "c1", "c1", "c1", "c3", "c3"]
    assert owners(graph, executed, [kernels[-1], kernels[1]]) == ["c1", "c1"]
    with pytest.raises(ds.ProfileError, match="no kernel of the model leads to a layer"):
        owners(graph, executed, kernels[-1:])


def test_what_the_profiler_adds_is_taken_off_and_nothing_takes_less_than_the_least():
    profiler = Profiler(told_s=3e-6, real_s=1e-6)
    assert profiler.kernel_s([10e-6, 12e-6, 50e-6, 90e-6]) == pytest.approx(9e-6)  # the mean of the lesser two, less 2
    assert profiler.kernel_s([1e-6]) == pytest.approx(1e-6)
    assert Profiler(told_s=1e-6, real_s=4e-6).kernel_s([10e-6]) == pytest.approx(10e-6)  # it never adds less than nothing


def test_the_profiler_is_measured_here():
    found = measure_profiler(CPU)
    assert 0 < found.real_s < 0.1
    assert 0 < found.told_s < 0.1  # in seconds: the profiler tells microseconds
