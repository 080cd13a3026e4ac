"""Runs of models that nobody has run yet: they end."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.runtime import sessions
from dnnsplit.runtime.sessions import SlowError, run_within, session


def looping(times):
    """A model that adds 1 to its input so many times; for ever, if None."""
    body = helper.make_graph(
        [helper.make_node("Add", ["old", "one"], ["new"]), helper.make_node("Identity", ["on"], ["going_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("old", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("new", TensorProto.FLOAT, None),
        ],
    )
    known = [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]), helper.make_tensor("yes", TensorProto.BOOL, [], [True])]
    known += [] if times is None else [helper.make_tensor("times", TensorProto.INT64, [], [times])]
    node = helper.make_node("Loop", ["" if times is None else "times", "yes", "x"], ["y"], body=body)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [4]), ("y", None))]
    graph = helper.make_graph([node], "looping", ends[:1], ends[1:], known)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_loop_without_an_end_is_given_up():
    feed = {"x": np.ones(4, np.float32)}
    assert run_within(session(looping(3).SerializeToString()), ["y"], feed, 60)[0].tolist() == [4.0] * 4
    with pytest.raises(SlowError, match=r"does not end within 0\.2 s; does it hold a loop without an end"):
        run_within(session(looping(None).SerializeToString()), ["y"], feed, 0.2)


def test_a_model_that_does_not_end_is_read_and_the_loop_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "LONGEST_S", 0.2)
    onnx.save(looping(None), tmp_path / "net.onnx")
    try:
        told = " ".join(ds.load(tmp_path / "net.onnx").notes)
    except ds.ModelError as error:
        told = str(error)
    assert "does it hold a loop without an end" in told


def test_functions_that_write_out_to_millions_of_nodes_are_refused(tmp_path):
    def doubling(depth):
        """A model whose functions call the next one twice, so deep."""
        last = depth - 1
        functions = [
            helper.make_function("own", f"F{i}", ["a"], ["c"], [
                helper.make_node("Relu" if i == last else f"F{i + 1}", ["a"], ["b"], domain="" if i == last else "own"),
                helper.make_node("Relu" if i == last else f"F{i + 1}", ["b"], ["c"], domain="" if i == last else "own"),
            ], [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)])
            for i in range(depth)
        ]  # fmt: skip
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("F0", ["x"], ["y"], domain="own")], "doubling", ends[:1], ends[1:])
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)

    path = tmp_path / "net.onnx"
    onnx.save(doubling(3), path)
    assert len(ds.load(path).layers) == 8
    onnx.save(doubling(40), path)
    with pytest.raises(ds.ModelError, match=r"written out where they are called, are 1\.1e\+12 nodes; at most 200000"):
        ds.load(path)
