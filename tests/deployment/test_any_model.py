"""What the models that people have do to a deployment: shapes that depend on data, empty tensors, inputs that nobody reads."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import tritonclient.grpc as triton
from helpers.bundle_models import BOXES, FIXED, NOTHING, detector, detector_feed, detector_numpy, lookup, write_part
from helpers.deployments import network
from helpers.standalone import deployment
from onnx import helper
from tritonclient.grpc import service_pb2

from dnnsplit.cutting.bundle import Bundle, Output, Wire
from dnnsplit.cutting.checks import OPEN_BYTES
from dnnsplit.cutting.examples import Example
from dnnsplit.deployment.testbed.testbed import testbed
from dnnsplit.deployment.wire.channels import Stub, size_options
from dnnsplit.deployment.wire.messages import mismatch
from dnnsplit.ground.errors import DeployError

SCORES = [0.2, 0.9, 0.05, 0.5, 0.3, 0.8]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def client(bundle):
    with testbed(bundle, network()) as running:
        yield running


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)


def extensions(address):
    with closing(Stub(address)) as stub:
        return list(stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=5).extensions)


@pytest.mark.parametrize(("scores", "most", "found"), [(SCORES, 3, 3), (SCORES, 9, 5), ([0.0] * 6, 3, 0)])
def test_an_output_has_the_shape_that_the_data_give_it(client, scores, most, found):
    feed = detector_feed(scores, most)
    outputs, trace = client.trace(feed)
    assert outputs[BOXES].shape == (found, 3)
    assert_same(outputs, detector_numpy(feed))
    sent = {t.wire: (t.target, t.size_bytes) for t in trace.transfers}
    assert sent[BOXES] == ("device", found * 3 * 8)  # what it is, not what it may be
    assert sent[NOTHING] == ("edge", 0)
    assert sent[FIXED] == ("device", 8)
    assert [part.name for part in trace.parts] == ["a", "b", "c"]


def test_the_client_tells_open_shapes(client):
    assert client.outputs[BOXES] == ("int64", (-1, 3))
    assert client.outputs[NOTHING] == ("float32", (1, 1, 0))
    assert client.inputs["most"] == ("int64", ())


def test_inputs_that_nobody_reads_may_be_given(client):
    feed = detector_feed(SCORES, 3)
    assert client.ignored == {"sr", "token type"}
    assert_same(client.infer(feed | {"sr": np.array(16000), "token type": np.zeros((1, 7))}), detector_numpy(feed))
    with pytest.raises(DeployError, match=r"there is no tensor 'score' .did you mean 'scores'"):
        client.infer(feed | {"sr": np.array(16000), "score": np.zeros(3, np.float32)})


def test_a_client_of_the_protocol_gives_them_too(client):
    feed = detector_feed(SCORES, 2)
    kinds = {"boxes": "FP32", "scores": "FP32", "most": "INT64", "sr": "INT64"}
    asked = feed | {"sr": np.array([16000])}
    with triton.InferenceServerClient(client.address) as other:
        tensors = [triton.InferInput(name, array.shape, kinds[name]).set_data_from_numpy(array) for name, array in asked.items()]
        result = other.infer(client.model_name, tensors)
        assert_same({name: result.as_numpy(name) for name in client.outputs}, detector_numpy(feed))


def test_real_hosts_start_a_part_without_inputs(bundle, tmp_path):
    feed = detector_feed(SCORES, 1)
    with deployment(bundle, tmp_path) as one, one.start().client() as client:
        for _ in range(3):
            assert_same(client.infer(feed), detector_numpy(feed))
        one.kill("cloud")
        with pytest.raises(DeployError, match=r"server 'cloud' at .* cannot be reached to send the start of a request"):
            client.infer(feed)


def test_a_part_that_refuses_what_it_is_warmed_up_with_is_served(tmp_path):
    index = lookup(tmp_path)
    wrong = replace(index, examples=(Example("same", values=(99,)),))
    wrong.save()
    with deployment(wrong, tmp_path) as one, one.start().client() as client:
        assert client.infer({"index": np.array([3])})["value"] == [30.0]
        assert "part 'gather' was not warmed up, its first request takes longer: " in one.stages["edge"].tail
        assert extensions(one.addresses["edge"])[1:] == ["cold-gather"]
        assert extensions(one.addresses["device"])[1:] == []


def test_a_part_that_steers_a_shape_is_warmed_up_with_what_was_seen(tmp_path):
    x, target, y = Wire("x", "float32", (1, 6)), Wire("target", "int64", (2,)), Wire("y", "float32", (2, 3))
    node = helper.make_node
    parts = [
        write_part(tmp_path, "a", "device", [node("Identity", ["k"], ["target"])], [], [target], {"k": np.array([2, 3])}),
        write_part(tmp_path, "b", "edge", [node("Reshape", ["x", "target"], ["y"])], [x, target], [y], {}),
    ]
    examples = (Example("x"), Example("target", values=(2, 3)))
    bundle = Bundle(tmp_path, "steered", "0" * 64, "device", ("device", "edge", "cloud"), (x,), (Output("y", "y"),), (target, y),
                    tuple(parts), examples=examples)  # fmt: skip
    bundle.save()
    assert Bundle.load(tmp_path).examples == examples
    with deployment(bundle, tmp_path) as one, one.start().client() as client:
        feed = np.arange(6, dtype=np.float32)[None]
        np.testing.assert_array_equal(client.infer({"x": feed})["y"], feed.reshape(2, 3))
        assert extensions(one.addresses["edge"])[1:] == []


def test_another_part_than_the_bundle_says_is_not_served(tmp_path):
    bundle = lookup(tmp_path)
    other = write_part(tmp_path, "gather", "edge", [helper.make_node("Identity", ["other"], ["value"])],
                       [Wire("other", "float32", (1,))], [bundle.wires[1]], {})  # fmt: skip
    swapped = replace(bundle, parts=(bundle.parts[0], replace(bundle.parts[1], sha256=other.sha256)))
    swapped.save()
    text = r"part 'gather' cannot be run: 'gather.onnx' has the inputs \['other'\] and outputs \['value'\]"
    with pytest.raises(DeployError, match=text), testbed(swapped, network()):
        pass


def test_a_bundle_from_before_there_were_such_things_loads(bundle, tmp_path):
    old = lookup(tmp_path)
    document = json.loads((tmp_path / "bundle.json").read_text())
    del document["ignored"], document["examples"]
    (tmp_path / "bundle.json").write_text(json.dumps(document))
    assert Bundle.load(tmp_path) == old


def test_more_than_a_message_can_hold_is_no_limit_of_it():
    assert dict(size_options(2**40))["grpc.max_receive_message_length"] == 2**31 - 1
    assert dict(size_options(-1))["grpc.max_send_message_length"] == -1
    Stub("127.0.0.1:9", 2**40).close()


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((0, 3), ""),
        ((7, 3), ""),
        ((7, 4), r"the shape [7, 4], not [-1, 3] (-1: any extent)"),
        ((7,), "the shape [7], not [-1, 3]"),
        ((-1, 3), "the shape [-1, 3], not [-1, 3]"),
        ((OPEN_BYTES // 24, 3), ""),
        ((OPEN_BYTES // 24 + 1, 3), f"one of open shape may hold {OPEN_BYTES} B"),
    ],
)
def test_what_fits_an_open_shape(shape, text):
    problem = mismatch("y", "int64", shape, {"y": ("int64", (-1, 3))})
    assert text in problem
    assert bool(text) == bool(problem)
