"""Cut parts, chained in real ONNX Runtime, give what the whole model gives."""

import os

import networkx as nx
import numpy as np
import onnx
import pytest
from helpers.plans import SERVERS, any_network, plan_for
from helpers.small_models import conv_net, double, images, saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import dnnsplit as ds
from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.running import all_values, delivered, run_parts, whole
from dnnsplit.graph.partitions import components
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.quantize.rewrite import quantize_layer


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = conv_net(tmp_path_factory.mktemp("net") / "net.onnx")
    graph = ds.load(path)
    return graph, calibrate(graph, images(4))


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.lists(st.sampled_from(SERVERS), min_size=5, max_size=5), bits=st.lists(st.booleans(), min_size=3, max_size=3))
def test_any_placement_with_any_quantization_equals_the_whole_model(net, tmp_path, choice, bits):
    graph, calibration = net
    assert len(graph.layers) == 5
    quantized = tuple(n for n, bit in zip(("c1", "c2", "c3"), bits, strict=True) if bit)
    plan = plan_for(graph, dict(zip(graph.layer_names, choice, strict=True)), quantized)
    assert plan.quantized == quantized
    bundle = ds.cut(graph, plan, tmp_path / "parts", calibration)
    model, feed = graph.model, {"x": images(1, seed=5)}
    int8 = {name: quantize_layer(graph, name, calibration) for name in quantized}
    expected, found = whole(graph, int8, feed), run_parts(bundle, feed)
    for name in model.outputs:
        step = max((q.scale for q in int8.values()), default=0.0)
        assert np.abs(expected[name] - found[name]).max() <= 1e-3 * np.abs(expected[name]).max() + 2 * step
    wires = bundle.wire_by_name
    for q in int8.values():  # what a quantized layer sends crosses in int8
        crossing = [t for t in plan.transfers if t.tensor == q.output and t.source != t.target]
        if crossing:
            assert wires[q.wire].dtype == "uint8"
            assert wires[q.wire].size_bytes == crossing[0].size_bytes
    sent = sum(wires[name].size_bytes * len(targets) for (name, _), targets in bundle.routes.items())
    assert sent == sum(t.size_bytes for t in plan.transfers)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_parts_never_form_a_cycle(seed):
    graph = ds.examples.random_problem(30, 3, seed=seed).graph
    rng = np.random.default_rng(seed)
    assignment = {name: str(rng.choice(SERVERS)) for name in graph.layer_names}
    groups = components(graph, assignment)
    assert sorted(n for group in groups for n in group) == sorted(graph.layer_names)
    of = {name: i for i, group in enumerate(groups) for name in group}
    quotient = nx.DiGraph((of[a], of[b]) for a, b in graph.digraph.edges if of[a] != of[b])
    assert nx.is_directed_acyclic_graph(quotient)
    assert all(a < b for a, b in quotient.edges)  # listed in an order in which they can run
    assert all(len({assignment[n] for n in group}) == 1 for group in groups)


def test_one_server_is_one_part(net, tmp_path):
    graph, _ = net
    bundle = ds.cut(graph, plan_for(graph, dict.fromkeys(graph.layer_names, "device")), tmp_path)
    assert len(bundle.parts) == 1
    assert bundle.routes == {}


def test_quantized_parts_need_a_calibration(net, tmp_path):
    graph, calibration = net
    plan = plan_for(graph, dict.fromkeys(graph.layer_names, "edge"), ("c1",))
    with pytest.raises(ds.DeployError, match="its noise model has no calibration"):
        ds.cut(graph, plan, tmp_path)
    carried = plan_for(graph, plan.assignment, ("c1",), {"calibration": calibration.to_json()})
    assert ds.cut(graph, carried, tmp_path).parts


def test_a_plan_of_another_model_is_refused(net, tmp_path):
    graph, _ = net
    with pytest.raises(ds.DnnSplitError, match="layer 'conv1' is not in the model"):
        ds.cut(graph, ds.split(*ds.examples.tiny()), tmp_path)
    with pytest.raises(ds.ModelError, match="there is no model file"):
        ds.cut(tmp_path / "none.onnx", ds.split(*ds.examples.tiny()), tmp_path)


def test_what_is_seen_of_the_wires_is_kept_for_warming_up(net, tmp_path):
    graph, calibration = net
    plan = plan_for(graph, dict(zip(graph.topological, ["device", "edge", "edge", "device", "device"], strict=True)), ("c1",))
    bundle = ds.cut(graph, plan, tmp_path / "one", calibration)
    wires, kept = bundle.wire_by_name, {example.wire: example for example in bundle.examples}
    assert kept.keys() == {name for part in bundle.parts for name in part.inputs}
    for name, example in kept.items():
        low, high = (0, 255) if wires[name].dtype == "uint8" else (-np.inf, np.inf)
        assert low <= example.least < example.greatest <= high
    assert ds.cut(graph, plan, tmp_path / "two", calibration).examples == bundle.examples
    assert ds.cut(graph, plan, tmp_path / "three", calibration, check=False).examples == ()


def test_an_input_that_no_layer_reads_is_delivered_as_it_is(tmp_path):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "u", "y")]
    proto = helper.make_graph([helper.make_node("Neg", ["x"], ["y"], "neg")], "g", ends[:2], [ends[1], ends[2]])
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    graph = ds.load(tmp_path / "m.onnx")
    bundle = ds.cut(graph, plan_for(graph, {"neg": "edge"}), tmp_path / "parts")
    feed = {"x": np.ones((1, 4), np.float32), "u": np.full((1, 4), 2, np.float32)}
    with ds.testbed(bundle, any_network()) as client:
        found, trace = client.trace(feed)
    np.testing.assert_array_equal(found["u"], feed["u"])
    np.testing.assert_array_equal(found["y"], -feed["x"])
    assert {t.wire for t in trace.transfers} == {"x", "y"}


def test_the_name_of_a_file_need_not_be_text(tmp_path):
    path = conv_net(tmp_path / os.fsdecode(b"it's \xff @ \xc3\xbc.onnx"))
    graph = ds.load(path)
    bundle = ds.cut(graph, plan_for(graph, dict.fromkeys(graph.layer_names, "device")), tmp_path / "out put", check=False)
    assert bundle.model_name == "it's \ufffd @ ü"
    assert Bundle.load(tmp_path / "out put") == bundle


def test_a_cut_that_fails_its_check_leaves_no_bundle(net, tmp_path, monkeypatch):
    graph, _ = net
    nines = dict.fromkeys(graph.model.outputs, np.float32(9))
    monkeypatch.setattr("dnnsplit.cutting.verification.delivered", lambda bundle, values: nines)
    with pytest.raises(ds.DeployError, match="the parts differ from the whole model"):
        ds.cut(graph, plan_for(graph, dict.fromkeys(graph.layer_names, "edge")), tmp_path)
    with pytest.raises(ds.DeployError, match="there is no bundle in"):
        Bundle.load(tmp_path)


def test_parts_that_differ_are_found(net, tmp_path, monkeypatch):
    graph, _ = net
    monkeypatch.setattr("dnnsplit.cutting.verification.all_values", lambda bundle, feed: {
        k: v + 1 for k, v in all_values(bundle, feed).items()})  # fmt: skip
    with pytest.raises(ds.DeployError, match="the parts differ from the whole model"):
        ds.cut(graph, plan_for(graph, dict.fromkeys(graph.layer_names, "edge")), tmp_path)


def test_a_deployed_plan_returns_the_whole_models_output_over_real_sockets(net, tmp_path):
    graph, calibration = net
    model = graph.model
    order = graph.topological
    assignment = dict(zip(order, ["device", "edge", "cloud", "device", "edge"], strict=True))
    plan = plan_for(graph, assignment, ("c1", "c2"))
    bundle = ds.cut(graph, plan, tmp_path, calibration)
    int8 = {name: quantize_layer(graph, name, calibration) for name in plan.quantized}
    with ds.testbed(bundle, any_network()) as client:
        for seed in range(3):
            feed = {"x": images(1, seed=seed)}
            found, expected = client.infer(feed), whole(graph, int8, feed)
            for name in model.outputs:
                step = max(q.scale for q in int8.values())
                assert np.abs(found[name] - expected[name]).max() <= 1e-3 * np.abs(expected[name]).max() + 2 * step


def test_relayed_tensors_pass_through_servers_that_do_not_need_them(net, tmp_path):
    """device -> edge -> cloud and back, without a link between device and cloud: the edge relays, with and without parts."""
    import pandas as pd

    graph, calibration = net
    links = [ds.Link(a, b, 1e6, 0.001) for a, b in (("device", "edge"), ("edge", "device"), ("edge", "cloud"), ("cloud", "edge"))]
    chain = ds.Network([ds.Server(name, 1.0, 1.0) for name in SERVERS], links, "device")
    rows = [(n, s, p, 1.0 if p == "float32" else 0.1) for n in graph.layer_names for s in SERVERS for p in ("float32", "int8")]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    noise = ds.NoiseModel.polynomial(("c1",), {("c1",): 0.0})
    order = graph.topological
    for assignment in (dict.fromkeys(order, "cloud"), {n: "device" if n == order[0] else "cloud" for n in order}):
        plan = ds.split(graph, chain, times, noise, pins=assignment, routing="relay")
        assert plan.quantized == ("c1",)
        bundle = ds.cut(graph, plan, tmp_path / assignment[order[0]], calibration)
        assert bundle.stages == SERVERS
        assert {part.server for part in bundle.parts} == set(assignment.values())  # the edge runs none
        assert len(bundle.hops) == len([t for t in plan.transfers if t.source != t.target])
        assert ds.Bundle.load(bundle.folder) == bundle
        feed = {"x": images(1, seed=3)}
        with ds.testbed(bundle, chain) as client:
            found, trace = client.trace(feed)
        expected = run_parts(bundle, feed)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
        sent = {(t.wire, t.source, t.target) for t in trace.transfers}
        assert sent == {(hop.wire, hop.source, hop.target) for hop in bundle.hops}
        assert sum(t.size_bytes for t in trace.transfers) == sum(t.size_bytes for t in plan.transfers)


@pytest.mark.parametrize("quantized", [(), ("c1", "c2")])
def test_weights_of_large_parts_are_in_files_of_their_own(net, tmp_path, monkeypatch, quantized):
    graph, calibration = net
    plan = plan_for(graph, dict(zip(graph.topological, ["device", "edge", "edge", "cloud", "cloud"], strict=True)), quantized)
    small = ds.cut(graph, plan, tmp_path / "small", calibration)
    monkeypatch.setattr("dnnsplit.graph.external_data.LARGE", 100)
    monkeypatch.setattr("dnnsplit.graph.external_data.SMALL", 8)
    large = ds.cut(graph, plan, tmp_path / "large", calibration)  # compares with the whole model, by the same files
    assert {part.data for part in small.parts} == {""}
    heavy = [part for part in large.parts if part.data]
    assert heavy
    for part in heavy:  # a model of several files is a folder, as Triton wants it
        assert (part.file, part.data) == (f"{part.name}/1/model.onnx/model.onnx", f"{part.name}/1/model.onnx/model.onnx.data")
    assert not (large.folder / "whole.onnx").exists()
    feed = {"x": images(1, seed=2)}
    for name, array in run_parts(small, feed).items():
        np.testing.assert_array_equal(run_parts(large, feed)[name], array)
    with ds.testbed(large.folder, any_network()) as client:
        for name, array in client.infer(feed).items():
            np.testing.assert_allclose(array, run_parts(small, feed)[name], rtol=1e-5, atol=1e-6)
    data = large.folder / heavy[0].data
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    with pytest.raises(ds.DeployError, match=r"model\.onnx\.data' was changed after the cut"):
        ds.Bundle.load(large.folder)
    data.unlink()
    with pytest.raises(ds.DeployError, match=r"model\.onnx\.data' is missing"):
        ds.Bundle.load(large.folder)
    again = ds.cut(graph, plan, small.folder, calibration)  # over what an earlier cut left
    assert [part.data for part in again.parts] == [part.data for part in large.parts]
    monkeypatch.undo()
    assert {part.data for part in ds.cut(graph, plan, large.folder, calibration).parts} == {""}
    assert ds.Bundle.load(large.folder).parts


def one_each(path, folder, **options):
    """Cut a model with its layers on device and edge in turn."""
    graph = ds.load(path)
    places = {name: SERVERS[i % 2] for i, name in enumerate(graph.topological)}
    return ds.cut(graph, plan_for(graph, places), folder, **options)


def tensor(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def test_an_input_that_must_not_be_zero_is_made_up_for_the_check(tmp_path):
    nodes = [helper.make_node("Div", ["hundred", "d"], ["q"]), helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Mul", ["x", "f"], ["z"])]  # fmt: skip
    inputs = [tensor("x", [1, 8]), tensor("d", [1], TensorProto.INT64)]
    path = saved(tmp_path / "m.onnx", nodes, inputs, [tensor("z", [1, 8])], {"hundred": np.array([100])})
    bundle = one_each(path, tmp_path / "parts")
    assert run_parts(bundle, {"x": np.ones((1, 8), np.float32), "d": np.array([3])})["z"].tolist() == [[33.0] * 8]


def test_a_file_with_open_shapes_is_cut_with_those_of_the_plan(tmp_path):
    path, shapes = double(tmp_path / "open.onnx", {"x": [1, "length"]}), {"x": (1, 5)}
    graph = ds.load(path, shapes=shapes)
    bundle = ds.cut(path, plan_for(graph, dict.fromkeys(graph.layer_names, "edge")), tmp_path / "parts", shapes=shapes)
    assert bundle.inputs[0].shape == (1, 5)
    assert run_parts(bundle, {"x": np.ones((1, 5), np.float32)})["twice"].tolist() == [[2.0] * 5]


def test_inputs_for_the_check_can_be_given(tmp_path):
    """This model takes no multiple of what is made up: it divides by 0 unless d is above 99999."""
    nodes = [helper.make_node("Div", ["d", "much"], ["q"]), helper.make_node("Div", ["much", "q"], ["r"]),
             helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT), helper.make_node("Exp", ["f"], ["z"])]  # fmt: skip
    inputs = [tensor("d", [1], TensorProto.INT64)]
    path = saved(tmp_path / "m.onnx", nodes, inputs, [tensor("z", [1])], {"much": np.array([100_000])})
    with pytest.raises(ds.DeployError, match=r"cannot be checked: m.onnx runs on none of .*images=.*check=False") as caught:
        one_each(path, tmp_path / "made-up")
    assert "\n" not in str(caught.value)
    assert one_each(path, tmp_path / "given", images={"d": np.array([200_000])}).parts
    assert one_each(path, tmp_path / "unchecked", check=False).parts
    with pytest.raises(ds.DeployError, match=r"cannot be checked: .*by zero.*images=.*check=False"):
        one_each(path, tmp_path / "bad", images={"d": np.array([7])})
    with pytest.raises(ds.NoiseError, match=r"hold 0\.5, which int64 cannot"):
        one_each(path, tmp_path / "wrong", images=[0.5])
    assert not (tmp_path / "wrong").exists()  # what is wrong with the arguments is told before anything is written


def test_outputs_that_are_no_floats_are_compared_by_how_many_differ(tmp_path, monkeypatch):
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("ArgMax", ["e"], ["class"], axis=1, keepdims=0),
             helper.make_node("Greater", ["e", "limit"], ["above"])]  # fmt: skip
    outputs = [tensor("class", [1], TensorProto.INT64), tensor("above", [1, 2000], TensorProto.BOOL)]
    path = saved(tmp_path / "m.onnx", nodes, [tensor("x", [1, 2000])], outputs, {"limit": np.float32(1.5)})
    assert len(one_each(path, tmp_path / "parts").parts) > 1

    def spoilt(name, change):
        monkeypatch.setattr("dnnsplit.cutting.verification.delivered", lambda bundle, values: {
            key: change(array.copy()) if key == name else array for key, array in delivered(bundle, values).items()})  # fmt: skip

    def turned(count):
        return lambda array: np.concatenate([~array[:, :count], array[:, count:]], axis=1)

    spoilt("class", lambda array: array + 1)  # a thousandth of its value, but another class
    with pytest.raises(ds.DeployError, match=r"output 'class' has 1 of its values wrong \(at most 0.001\)"):
        one_each(path, tmp_path / "parts")
    spoilt("above", turned(3))
    with pytest.raises(ds.DeployError, match=r"output 'above' has 0\.0015 of its values wrong"):
        one_each(path, tmp_path / "parts")
    spoilt("above", turned(2))
    assert one_each(path, tmp_path / "parts").parts
    spoilt("above", lambda array: array[:, :5])
    with pytest.raises(ds.DeployError, match=r"output 'above' has the shape \(1, 5\), not \(1, 2000\)"):
        one_each(path, tmp_path / "parts")


def test_a_model_that_draws_random_numbers_says_so(tmp_path):
    """Unless they have a seed, or are not drawn after all."""
    exp, inputs, outputs = helper.make_node("Exp", ["x"], ["e"]), [tensor("x", [1, 64])], [tensor("y", [1, 64])]
    constants = {"half": np.float32(0.5), "on": np.array(True), "off": np.array(False)}
    for kind, read, options in (
        ("RandomNormalLike", ["e"], {}), ("Bernoulli", ["e"], {}), ("Dropout", ["e", "half", "on"], {}),
        ("RandomUniformLike", ["e"], {"seed": 3.0}), ("Dropout", ["e", "half", "off"], {}), ("Dropout", ["e"], {}),
    ):  # fmt: skip
        nodes = [exp, helper.make_node(kind, read, ["r"], name="draw", **options), helper.make_node("Add", ["e", "r"], ["y"])]
        path = saved(tmp_path / "m.onnx", nodes, inputs, outputs, constants)
        if options or (kind == "Dropout" and "on" not in read):
            assert one_each(path, tmp_path / "parts").parts
            continue
        with pytest.raises(ds.DeployError, match=f"no two runs of the model agree, as {kind} 'draw' .*check=False"):
            one_each(path, tmp_path / "parts")
        assert one_each(path, tmp_path / "parts", check=False).parts


def test_what_nothing_reads_and_what_rests_on_constants(tmp_path):
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 4]), ("y", [1, 4]), ("k", [2]))
    ]
    unread = helper.make_tensor_value_info("sample rate", TensorProto.INT64, [])
    nodes = [helper.make_node("Neg", ["x"], ["y"], "neg"), helper.make_node("Exp", ["w"], ["k"], "exp")]
    weights = [numpy_helper.from_array(np.zeros(2, np.float32), "w")]
    proto = helper.make_graph(nodes, "g", [ends[0], unread], ends[1:], weights)
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    graph = ds.load(tmp_path / "m.onnx")
    constant = next(name for name in graph.layer_names if name != "y")
    plan = plan_for(graph, {name: "cloud" if name == constant else "edge" for name in graph.layer_names})
    bundle = ds.cut(graph, plan, tmp_path / "parts")
    assert bundle.ignored == ("sample rate",)
    assert sorted(part.inputs for part in bundle.parts) == [(), ("x",)]
    with ds.testbed(bundle, any_network()) as client:
        found = client.infer({"x": np.ones((1, 4), np.float32), "sample rate": np.array(16000)})
    np.testing.assert_array_equal(found["y"], -np.ones((1, 4)))
    np.testing.assert_array_equal(found["k"], [1, 1])


def test_the_boxes_that_a_detector_found_are_sent_as_many_as_they_are(tmp_path):
    shapes = {"boxes": [1, 6, 4], "scores": [1, 1, 6]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    best = helper.make_tensor_value_info("best", TensorProto.INT64, ["found", 3])
    limits = {"most": np.array([9]), "overlap": np.float32([0.5]), "least": np.float32([0.1])}
    nodes = [
        helper.make_node("Sigmoid", ["scores"], ["s"], "sigmoid"),
        helper.make_node("NonMaxSuppression", ["boxes", "s", *limits], ["best"], "nms"),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in limits.items()]
    proto = helper.make_graph(nodes, "g", inputs, [best], weights)
    onnx.save(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    graph = ds.load(tmp_path / "m.onnx")
    first, last = graph.topological
    bundle = ds.cut(graph, plan_for(graph, {first: "device", last: "edge"}), tmp_path / "parts")
    assert bundle.wire_by_name["best"].shape == (-1, 3)
    corners = np.arange(6, dtype=np.float32)[:, None] * 10 + np.float32([0, 0, 1, 1])
    with ds.testbed(bundle, any_network()) as client:
        for scores, wanted in (([3, -9, 2, -9, -9, 1], [0, 2, 5]), ([-9] * 6, [])):
            found = client.infer({"boxes": corners[None], "scores": np.float32(scores)[None, None]})["best"]
            assert found.shape == (len(wanted), 3)
            assert list(found[:, 2]) == wanted
