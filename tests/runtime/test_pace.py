"""The pace of this machine: by hand, with runs that take what the test says."""

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dnnsplit.profiling.splits import _Part
from dnnsplit.runtime import pace as module
from dnnsplit.runtime.pace import COLD, FIRST, HELD_UP, KEPT, LEAST, REFERENCE, SHAPE, SHARE, Pace
from dnnsplit.runtime.timing import at_pace


def reference():
    """The computation: two convolutions with SiLU, on tensors of 1.6 MB, and their mean."""
    nodes, last = [], "x"
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.01])
    for name, shape in (("a", [64, 16, 3, 3]), ("b", [64, 64, 1, 1])):
        sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], shape)
        nodes += [
            helper.make_node("Constant", [], [f"{name}.shape"], value=sizes),
            helper.make_node("ConstantOfShape", [f"{name}.shape"], [f"{name}.weight"], value=value),
            helper.make_node("Conv", [last, f"{name}.weight"], [name], pads=[shape[2] // 2] * 4),
            helper.make_node("Sigmoid", [name], [f"{name}.sigmoid"]),
            helper.make_node("Mul", [name, f"{name}.sigmoid"], [f"{name}.silu"]),
        ]
        last = f"{name}.silu"
    nodes.append(helper.make_node("ReduceMean", [last], ["y"], keepdims=0))
    ends = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE), helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "reference", [ends[0]], [ends[1]])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="dnnsplit")


def test_the_computation_is_the_one_that_is_written_here():
    assert REFERENCE.read_bytes() == reference().SerializeToString(deterministic=True)
    assert REFERENCE.stat().st_size < 2000
    onnx.checker.check_model(reference(), full_check=True)


class Clocks:
    """A machine whose runs take what they are told to, and a wall clock that the test moves."""

    def __init__(self, monkeypatch, taken):
        self.taken, self.cpu, self.wall, self.runs = taken, 0.0, 0.0, 0
        monkeypatch.setattr(time, "thread_time", lambda: self.cpu)
        monkeypatch.setattr(time, "monotonic", lambda: self.wall)
        monkeypatch.setattr(module, "session", lambda path: self)

    def run(self, outputs, feed):
        assert feed["x"].shape == SHAPE
        self.cpu, self.runs = self.cpu + self.taken, self.runs + 1


def test_the_pace_is_1_when_it_is_first_looked_at_and_follows_the_machine(monkeypatch):
    clocks = Clocks(monkeypatch, 0.02)
    pace = Pace()
    assert (pace.reference_s, clocks.runs) == (pytest.approx(0.02), COLD + FIRST)
    clocks.taken = 0.03
    assert pace.now() == pytest.approx(1.0)  # it was looked at just now
    clocks.wall += 1.01 * KEPT * 0.02 / SHARE
    assert pace.now() == pytest.approx(1.5)
    assert clocks.runs == COLD + FIRST + COLD + KEPT
    clocks.taken, clocks.wall = 0.02, clocks.wall + 1.01 * LEAST * 0.02 / SHARE  # faster runs count in their share
    assert pace.now() == pytest.approx((1.5 * (KEPT - LEAST) + 1.0 * LEAST) / KEPT)
    assert clocks.runs == 2 * COLD + FIRST + KEPT + COLD + LEAST


def test_the_first_runs_of_a_look_do_not_count(monkeypatch):
    """They find the data of whatever ran before in the caches, and take longer: by more where a look has few runs."""
    clocks = Clocks(monkeypatch, 0.02)
    pace = Pace()
    warm = clocks.run

    def run(outputs, feed):
        warm(outputs, feed)
        clocks.cpu += 0.01 * (clocks.cold > 0)
        clocks.cold -= 1

    monkeypatch.setattr(clocks, "run", run)
    for _ in range(KEPT):
        clocks.cold, clocks.wall = COLD, clocks.wall + 1.01 * LEAST * 0.02 / SHARE
        assert pace.now() == pytest.approx(1.0)
    assert clocks.runs == (KEPT + 1) * COLD + FIRST + KEPT * LEAST


def test_a_run_that_was_held_up_counts_for_no_more_than_twice_the_usual(monkeypatch):
    clocks = Clocks(monkeypatch, 0.02)
    pace = Pace()
    usual = clocks.run

    def run(outputs, feed):
        usual(outputs, feed)
        clocks.cpu += 1.0 * (clocks.runs == COLD + FIRST + COLD + 1)

    monkeypatch.setattr(clocks, "run", run)
    clocks.wall += 1.01 * KEPT * 0.02 / SHARE
    assert pace.now() == pytest.approx((KEPT - 1 + HELD_UP) / KEPT)


def test_a_look_takes_no_longer_than_it_may(monkeypatch):
    clocks = Clocks(monkeypatch, 0.02)
    pace = Pace(0.01)
    assert pace.now() == pytest.approx(2.0)
    least_s = 0.01 * (COLD + LEAST)
    for most_s, runs in ((0.0, 0), (0.99 * least_s, 0), (1.01 * least_s, COLD + LEAST), (10.0, COLD + KEPT)):
        clocks.wall, before = clocks.wall + 3600.0, clocks.runs
        pace.now(most_s)
        assert clocks.runs - before == runs


def test_cpu_seconds_are_those_at_the_pace_of_this_process_and_other_clocks_tell_their_own(monkeypatch):
    clocks = Clocks(monkeypatch, 0.02)
    module.own_pace.cache_clear()
    try:
        assert at_pace(3.0, time.thread_time) == pytest.approx(3.0)
        clocks.taken, clocks.wall = 0.03, 100.0
        assert at_pace(3.0, time.thread_time) == pytest.approx(2.0)
        assert at_pace(3.0, time.perf_counter) == 3.0
    finally:
        module.own_pace.cache_clear()


def test_a_part_of_a_profile_takes_what_it_would_at_that_pace(monkeypatch):
    class Session:
        def run(self, outputs, inputs):
            clocks.cpu += 1.0

    clocks = Clocks(monkeypatch, 0.02)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    module.own_pace.cache_clear()
    try:
        part = _Part(Session(), {"x": np.zeros(1, np.float32)}, ["y"], time.thread_time, {})
        part.run(counts=True)
        clocks.taken, clocks.wall = 0.01, 100.0
        part.run(counts=True)
        assert part.seconds == pytest.approx([1.0, 2.0])
    finally:
        module.own_pace.cache_clear()
