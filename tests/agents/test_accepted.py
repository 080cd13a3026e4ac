"""What agents run: nothing that needs somebody's library, or weights from elsewhere."""

import numpy as np
import pytest
from helpers.small_models import conv_net
from onnx import TensorProto, helper, numpy_helper

from dnnsplit.agents.accepted import check_accepted
from dnnsplit.ground.errors import DeployError


def model(path, nodes, weights=(), opsets=("",), functions=()):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "small", [ends[0]], [ends[1]], list(weights))
    imports = [helper.make_opsetid(domain, 17 if not domain else 1) for domain in opsets]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, functions=functions).SerializeToString())
    return path


def external(name, location):
    weight = numpy_helper.from_array(np.ones(1, np.float32), name)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return weight


def test_models_of_the_runtimes_own_operators_are_accepted(tmp_path):
    check_accepted(conv_net(tmp_path / "net.onnx"))
    gelu = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    check_accepted(model(tmp_path / "gelu.onnx", [gelu], opsets=("", "com.microsoft")))
    add = helper.make_node("Add", ["x", "w"], ["y"])
    check_accepted(model(tmp_path / "add.onnx", [add], [external("w", "add.data")]), ["add.data"])


def test_functions_of_the_file_itself_are_no_library(tmp_path):
    body = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    twice = helper.make_node("Twice", ["x"], ["y"], domain="mine")
    check_accepted(model(tmp_path / "twice.onnx", [twice], opsets=("", "mine"), functions=[body]))


@pytest.mark.parametrize("where", ["graph", "body", "function"])
def test_operators_of_a_library_are_refused_wherever_they_are(tmp_path, where):
    odd, ends = (
        helper.make_node("Odd", ["x"], ["y"], domain="evil.ops"),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]),
    )
    if where == "graph":
        file = model(tmp_path / "odd.onnx", [odd], opsets=("", "evil.ops"))
    elif where == "body":
        body = helper.make_graph([odd], "then", [], [ends])
        yes = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
        both = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        file = model(tmp_path / "odd.onnx", [yes, both], opsets=("", "evil.ops"))
    else:
        inner = helper.make_node("Odd", ["a"], ["b"], domain="evil.ops")
        one = helper.make_function("mine", "One", ["a"], ["b"], [inner], [helper.make_opsetid("evil.ops", 1)])
        file = model(
            tmp_path / "odd.onnx", [helper.make_node("One", ["x"], ["y"], domain="mine")], opsets=("", "mine"), functions=[one]
        )
    with pytest.raises(DeployError, match=r"operators of the domain 'evil.ops' need a library, and none is loaded here"):
        check_accepted(file)


@pytest.mark.parametrize("place", ["/etc/passwd", "../w.data", "other.data", "sub/w.data"])
def test_weights_from_elsewhere_are_refused_wherever_they_are(tmp_path, place):
    add = helper.make_node("Add", ["x", "w"], ["y"])
    with pytest.raises(DeployError, match="which did not come with it"):
        check_accepted(model(tmp_path / "a.onnx", [add], [external("w", place)]), ["w.data"])
    constant = helper.make_node("Constant", [], ["w"], value=external("w", place))
    with pytest.raises(DeployError, match="which did not come with it"):
        check_accepted(model(tmp_path / "b.onnx", [constant, add]), ["w.data"])


def test_what_is_no_model_is_refused(tmp_path):
    for content in (b"", b"#!/bin/sh\nrm -rf /\n", b"\x00" * 100):
        (tmp_path / "odd.onnx").write_bytes(content)
        if content:
            with pytest.raises(DeployError, match=r"odd.onnx is (no ONNX file|not (readable|accepted))"):
                check_accepted(tmp_path / "odd.onnx")
    with pytest.raises(DeployError, match="there is no model file"):
        check_accepted(tmp_path / "missing.onnx")
