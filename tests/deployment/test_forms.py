"""What crosses the sockets of a deployment in forms: tensors, encoded images of clients, and what is none of them."""

import io
import struct
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from helpers.bundle_models import BOXES, detector, detector_feed, detector_numpy
from helpers.plans import any_network, plan_for, with_forms
from helpers.processes import wait_until
from helpers.small_models import conv_net, images, pictures
from helpers.standalone import deployment
from PIL import Image
from tritonclient.utils import InferenceServerException

import dnnsplit as ds
from dnnsplit.codecs.forms import codec
from dnnsplit.codecs.pixels import find_pixels
from dnnsplit.cutting.bundle import Coding, Hop
from dnnsplit.cutting.prices import Prices
from dnnsplit.cutting.running import run_parts
from dnnsplit.deployment.client import COLUMNS
from dnnsplit.deployment.testbed.comparison import compare
from dnnsplit.deployment.testbed.testbed import latency_test
from dnnsplit.deployment.wire.channels import SERVICE, Stub
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import Elements, Records, acknowledge, infer_request
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.studies.adaptive import AdaptivePlans, cut_plans

PIXELS = find_pixels([pictures(8)])
TO_CLOUD = ("x", "device", "cloud")
FORMS = ("png-1", "webp-lossless", "uint8", "jpeg-90", "float16", "zstd-1")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))


def away(graph, folder, form=None, pixels=PIXELS):
    """Everything in the cloud, and the input goes there in a form."""
    plan = plan_for(graph, dict.fromkeys(graph.layer_names, "cloud"))
    return ds.cut(graph, with_forms(plan, {TO_CLOUD: form} if form else {}, {"x": pixels} if pixels else {}), folder)


@contextmanager
def served(bundle, **options):
    with ds.testbed(bundle, any_network(), **options) as client:
        yield client


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def file_of(array, kind, **options):
    """The image that an input holds, as a file."""
    data = io.BytesIO()
    Image.fromarray(PIXELS.images(array)[0]).save(data, kind, **options)
    return data.getvalue()


def of_input(trace, target="cloud"):
    (found,) = (t for t in trace.transfers if t.wire == "x" and t.target == target)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_an_input_crosses_in_each_form(graph, tmp_path, form):
    bundle = away(graph, tmp_path, form)
    with served(bundle, slowdown={"device": 8.0, "cloud": 2.0}) as client:
        for seed in range(2):
            feed = {"x": pictures(1, seed=seed)}
            found, trace = client.trace(feed)
            same(found, run_parts(bundle, feed))
            told = of_input(trace)
            assert (told.form, told.source) == (form, "device")
            assert told.size_bytes == sum(map(len, codec(form, PIXELS).encode(feed["x"])))
            assert told.encode_s > 0
            assert told.decode_s > 0
            assert {t.form for t in trace.transfers if t.wire != "x"} == {"float32"}
    frame = trace.frame.set_index("name")
    assert list(trace.frame) == COLUMNS
    assert frame.loc["x", ["form", "encode_s", "decode_s"]].tolist() == [form, told.encode_s, told.decode_s]
    assert frame.loc["part00", "form"] == ""


def test_tensors_between_three_servers(graph, tmp_path):
    """A lossy form on one link of a tensor, a lossless one on that of an int8 tensor, and an image that the device reads too."""
    order = graph.topological
    assignment = dict(zip(order, ["device", "edge", "cloud", "cloud", "device"], strict=True))
    plan = plan_for(graph, assignment, ("c2",))
    (out,) = (t.tensor for t in plan.transfers if (t.source, t.target) == ("edge", "cloud"))
    forms = {("x", "device", "device"): "jpeg-90", ("c1.silu", "device", "cloud"): "uint8", (out, "edge", "cloud"): "zstd-1"}
    bundle = ds.cut(graph, with_forms(plan, forms, {"x": PIXELS}), tmp_path, calibrate(graph, images(4)))
    with served(bundle) as client:
        for seed in range(2):
            feed = {"x": pictures(1, seed=seed)}
            found, trace = client.trace(feed)
            same(found, run_parts(bundle, feed))
    wire = next(wire.name for wire in bundle.wires if wire.tensor == out)
    told = {(t.wire, t.source, t.target): t for t in trace.transfers}
    assert told[wire, "edge", "cloud"].form == "zstd-1"
    assert told["c1.silu", "device", "cloud"].form == "uint8"
    assert told["c1.silu", "device", "cloud"].size_bytes == 8 + told["c1.silu", "device", "edge"].size_bytes // 4
    assert told["c1.silu", "device", "edge"].form == "float32"
    here = told["x", "device", "device"]  # on no link
    assert (here.form, here.size_bytes, here.seconds, here.paced_s) == ("jpeg-90", 0, 0.0, 0.0)
    assert here.encode_s > 0
    assert here.decode_s > 0


def relayed(graph, folder, form):
    """To the cloud by way of the edge, which needs nothing of it."""
    bundle = away(graph, folder)
    hops = (Hop("x", "device", "edge"), Hop("x", "edge", "cloud"))
    bundle = replace(bundle, hops=hops, codings=tuple(Coding(h.wire, h.source, h.target, form) for h in hops), plan={})
    bundle.save()
    return bundle


@pytest.mark.parametrize("slow", ["device", "cloud"])
def test_writing_and_reading_take_what_the_server_takes(graph, tmp_path, slow):
    """Some microseconds of this machine, ten thousand times: emulated servers are as slow as that."""
    with served(away(graph, tmp_path, "png-1"), slowdown={"device": 2.0, "cloud": 2.0} | {slow: 1e4}) as client:
        told = of_input(client.trace({"x": pictures(1)})[1])
    assert (told.encode_s if slow == "device" else told.decode_s) > 0.1


def test_many_requests_at_a_time(graph, tmp_path):
    bundle = away(graph, tmp_path, "jpeg-90")
    feeds = [{"x": pictures(1, seed=seed)} for seed in range(6)]
    expected = [run_parts(bundle, feed) for feed in feeds]
    with served(bundle, slowdown={"device": 20.0, "cloud": 2.0}) as client, ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(client.infer, feeds * 3), expected * 3, strict=True):
            same(found, wanted)


def test_a_tensor_of_open_shape_in_a_form(tmp_path):
    bundle = replace(detector(tmp_path), codings=(Coding(BOXES, "edge", "device", "zstd-1"),))
    bundle.save()
    with ds.testbed(bundle, any_network()) as client:
        for scores, most in (([0.9, 0, 0.8, 0, 0, 0.7], 9), ([0.0] * 6, 9)):
            feed = detector_feed(scores, most)
            found, trace = client.trace(feed)
            same(found, detector_numpy(feed))
            assert {t.form for t in trace.transfers if t.wire == BOXES} == {"zstd-1"}


def test_plans_that_differ_in_the_form_alone(graph, tmp_path):
    """With a noise limit of 0 the image crosses as PNG, without one as JPEG; a client may send either."""
    plan = plan_for(graph, dict.fromkeys(graph.layer_names, "cloud"))
    plans = tuple(with_forms(plan, {TO_CLOUD: form}, {"x": PIXELS}) for form in ("png-1", "jpeg-90"))
    prices = Prices((("device", "cloud"),), (0.0, 0.1), (1.0, 0.5), ((1000.0,), (500.0,)))
    found = cut_plans(graph, AdaptivePlans(plans, prices), any_network(), tmp_path, progress=False)
    assert len(set(found.folders)) == 2
    with ds.testbed(found, any_network()) as client:
        assert client.images == {"x"}
        for limit, bundle in zip((0.0, None), found.bundles, strict=True):
            for given in (pictures(1), file_of(pictures(1), "png")):
                outputs, trace = client.trace({"x": given}, limit)
                assert trace.plan == bundle.folder.name
                assert of_input(trace).form == bundle.codings[0].form
                same(outputs, run_parts(bundle, {"x": pictures(1)}))


@pytest.mark.parametrize(("form", "again"), [("jpeg-90", False), ("png-1", True)])
def test_a_relay_passes_lossy_forms_on_as_they_came(graph, tmp_path, form, again):
    bundle = relayed(graph, tmp_path, form)
    with served(bundle) as client:
        feed = {"x": pictures(1, seed=3)}
        found, trace = client.trace(feed)
        same(found, run_parts(bundle, feed))
        first, second = of_input(trace, "edge"), of_input(trace, "cloud")
        assert (second.source, second.form, second.size_bytes) == ("edge", form, first.size_bytes)
        assert (second.encode_s > 0) is again
        assert min(first.encode_s, first.decode_s, second.decode_s) > 0
        feed = {"x": 3 * images(1, seed=3)}  # no image: as it is, all the way
        found, trace = client.trace(feed)
        same(found, run_parts(bundle, feed))
        assert {of_input(trace, name).form for name in ("edge", "cloud")} == {"float32"}
        assert (of_input(trace, "cloud").encode_s > 0) is again


def test_what_a_form_cannot_hold_crosses_as_it_is_and_the_trace_says_so(graph, tmp_path):
    bundle = away(graph, tmp_path, "png-1")
    with served(bundle) as client:
        feed = {"x": images(1, seed=3)}
        found, trace = client.trace(feed)
        same(found, run_parts(bundle, feed))
        told = of_input(trace)
        assert (told.form, told.size_bytes, told.decode_s) == ("float32", feed["x"].nbytes, 0.0)
        assert of_input(client.trace({"x": pictures(1)})[1]).form == "png-1"


def test_values_that_the_source_reads_too_and_that_do_not_fit(graph, tmp_path):
    order = graph.topological
    plan = plan_for(graph, dict(zip(order, ["device", "cloud", "cloud", "cloud", "cloud"], strict=True)))
    bundle = ds.cut(graph, with_forms(plan, {("x", "device", "device"): "float16"}), tmp_path)
    with served(bundle) as client:
        for feed in ({"x": images(1)}, {"x": images(1) * np.float32(1e6)}):  # the second is too large for it
            found, trace = client.trace(feed)
            same(found, run_parts(bundle, feed))
            fits = feed["x"].max() < 65504
            assert of_input(trace, "device").form == ("float16" if fits else "float32")


class TestImages:
    @pytest.mark.parametrize(
        ("form", "kind", "options", "passed_on"),
        [
            ("png-1", "png", {"compress_level": 9}, True),
            ("png-1", "jpeg", {"quality": 80}, False),
            ("jpeg-90", "jpeg", {"quality": 80}, True),
            ("jpeg-90", "png", {}, False),
            ("webp-lossless", "webp", {"lossless": True}, True),
            ("uint8", "png", {}, False),
            (None, "webp", {"quality": 80}, False),
        ],
    )
    def test_a_client_gives_an_encoded_image(self, graph, tmp_path, form, kind, options, passed_on):
        bundle, image = away(graph, tmp_path, form), file_of(pictures(1, seed=7), kind, **options)
        shown = PIXELS.array(np.asarray(Image.open(io.BytesIO(image)))[None], "float32", (1, 3, 12, 12))
        expected = run_parts(replace(bundle, codings=()) if passed_on else bundle, {"x": shown})
        with served(bundle) as client:
            assert client.images == {"x"}
            for given in (image, [image]):
                found, trace = client.trace({"x": given})
                same(found, expected)
            read, told = of_input(trace, "device"), of_input(trace)
            assert read.decode_s > 0
            assert told.form == (form or "float32")
            assert (told.encode_s > 0) is (form is not None and not passed_on)
            assert (told.size_bytes == len(image)) is passed_on
            with triton.InferenceServerClient(client.address) as other:
                tensor = triton.InferInput("x", [1], "BYTES").set_data_from_numpy(np.array([image], np.object_))
                answer = other.infer(bundle.model_name, [tensor])
                same({name: answer.as_numpy(name) for name in expected}, expected)
                assert other.get_model_metadata(bundle.model_name).inputs[0].datatype == "FP32"

    def test_what_is_no_image_of_this_size_is_refused(self, graph, tmp_path):
        bundle, image = away(graph, tmp_path, "png-1"), file_of(pictures(1), "png")
        with served(bundle) as client:
            for given, text in (
                (b"no image", "8 B are no PNG"),
                (image[:60], "INVALID_ARGUMENT: reading the images of 'x' failed on 'device'"),
                (image[:-20], "INVALID_ARGUMENT"),
                (b"", "0 B are no PNG"),
                (bomb(60_000), "60000"),
                (file_of(pictures(1), "jpeg")[:-30], "INVALID_ARGUMENT"),
                (file_of(pictures(1, size=16).repeat(2, 2), "png"), "INVALID_ARGUMENT.*16"),
                ([image, image], "2 images for input 'x', which holds 1"),
            ):
                with pytest.raises(ds.DeployError, match=text) as caught:
                    client.infer({"x": given})
                assert "Traceback" not in str(caught.value)
            same(client.infer({"x": image}), run_parts(bundle, {"x": pictures(1)}))  # it goes on

    def test_what_is_no_tensor_of_bytes_is_refused(self, graph, tmp_path):
        with served(away(graph, tmp_path, "png-1")) as client, closing_stub(client.address) as stub:
            image = file_of(pictures(1), "png")
            for content, shape, parameters, text in (
                (struct.pack("<I", 10) + b"short", [1], {}, "holds 9 B, which are not 1 elements, each behind its length"),
                (struct.pack("<I", len(image)) + image, [2], {}, "are not 2 elements"),
                (struct.pack("<I", 2**32 - 1), [1], {}, "holds 4 B, which are not 1 elements"),
                (
                    struct.pack("<I", len(image)) + image,
                    [1],
                    {"form": "png-1"},
                    "has the form 'png-1', not that of encoded images",
                ),
                (b"", [-1], {}, "are not -1 elements"),
            ):
                with pytest.raises(grpc.RpcError, match=text) as caught:
                    stub.infer(of_bytes("net", "x", content, shape, parameters), timeout=10)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    def test_an_input_that_is_not_known_to_hold_images(self, graph, tmp_path):
        with served(away(graph, tmp_path, pixels=None)) as client:
            assert client.images == frozenset()
            with pytest.raises(
                ds.DeployError, match=r"'x' takes no encoded images; give an array of float32, shape \[1, 3, 12, 12\]"
            ):
                client.infer({"x": b"an image"})
            with triton.InferenceServerClient(client.address) as other:
                tensor = triton.InferInput("x", [1], "BYTES").set_data_from_numpy(np.array([b"an image"], np.object_))
                with pytest.raises(InferenceServerException, match=r"taken as float32 of the shape \[1, 3, 12, 12\] alone"):
                    other.infer(client.model_name, [tensor])

    def test_what_clients_may_not_give(self, graph, tmp_path):
        with served(away(graph, tmp_path, "png-1")) as client:
            for given in (["text"], "text", [], 3):
                with pytest.raises(ds.DeployError, match=r"input 'x' is a (list|int), not a numpy array|inputs\['x'\]"):
                    client.infer({"x": given})
            with pytest.raises(ds.DeployError, match="there is no tensor 'z'"):
                client.infer({"x": pictures(1), "z": b"an image"})


def bomb(size):
    """A PNG whose header says that it is huge."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


@contextmanager
def closing_stub(address):
    stub = Stub(address)
    try:
        yield stub
    finally:
        stub.close()


def of_bytes(model, name, content, shape, parameters):
    """A request with one tensor of bytes, right or wrong."""
    message = infer_request(model, "forged")
    entry = message.head.inputs.add(name=name, datatype="BYTES", shape=shape)
    for key, value in parameters.items():
        entry.parameters[key].string_param = value
    return Infer(message.head, [memoryview(content)])


class Source:
    """A source that is none: it hears what the other stages say to it."""

    def __init__(self):
        self.heard = deque()
        self.server = grpc.server(ThreadPoolExecutor(2))

        def answer(message, context):
            self.heard.append(message.head)
            return acknowledge(message)

        handler = grpc.unary_unary_rpc_method_handler(answer, Infer.request, Infer.encode)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()


def test_what_a_peer_sends_is_checked(graph, tmp_path):
    bundle, source = away(graph, tmp_path, "png-1"), Source()
    array = pictures(1)
    (good,) = codec("png-1", PIXELS).encode(array)
    shape = array.shape
    with ExitStack() as stack:
        stack.callback(source.server.stop, 0)
        one = stack.enter_context(deployment(bundle, tmp_path / "stages"))
        one.seen["device"] = source.address
        one.launch("cloud")
        wait_until(lambda: one.stages["cloud"].address, 60)
        stub = stack.enter_context(closing_stub(one.addresses["cloud"]))

        def send(identity, elements, form="png-1", shape=shape):
            message = infer_request("net/tensors", identity, {"x": Elements(elements, form, shape)})
            message.head.parameters["remaining_s"].double_param = message.head.parameters["limit_s"].double_param = 10.0
            stub.infer(message, timeout=10, wait_for_ready=True)

        wait_until(lambda: ready(stub), 60)
        for elements, form, given, text in (
            ([good], "jpeg-90", shape, "has the form 'jpeg-90', not 'png-1'; or send it as float32"),
            ([good], "png-1", (1, 3, 12, 13), "has the shape .1, 3, 12, 13., not .1, 3, 12, 12."),
            ([good], "png-1", (10**9,) * 4, "has the shape"),
            ([good], "", (), "has the form '', not 'png-1'"),
        ):
            with pytest.raises(grpc.RpcError, match=text) as caught:
                send("at once", elements, form, given)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        for identity, elements in (("rubbish", [b"rubbish"]), ("cut off", [good[:-30]]), ("huge", [bomb(60_000)]),
                                   ("two", [good, good]), ("none", [])):  # fmt: skip
            source.heard.clear()
            send(identity, elements)
            wait_until(lambda: source.heard, 60)
            told = source.heard[0]
            assert (told.model_name, told.id) == ("net/error", identity)
            assert told.parameters["code"].string_param == "INVALID_ARGUMENT"
            assert "reading 'x' as png-1 failed on 'cloud'" in told.parameters["text"].string_param
        source.heard.clear()
        send("good", [good])
        wait_until(lambda: len(source.heard) == 2, 60)  # both outputs
        assert {message.model_name for message in source.heard} == {"net/tensors"}


def ready(stub):
    from tritonclient.grpc import service_pb2

    try:
        return stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=1).ready
    except grpc.RpcError:
        return False


def test_terms_of_a_plan_beside_those_of_its_deployment(graph, tmp_path):
    bundle = away(graph, tmp_path, "png-1")
    with served(bundle, slowdown={"device": 8.0, "cloud": 2.0}) as client:
        test = latency_test(client, {"x": pictures(1)}, 3, warm_up=1, progress=False)
        seen = latency_test(client, {"x": file_of(pictures(1), "jpeg")}, 1, warm_up=0, progress=False)
        mixed = replace(test, traces=(*test.traces, client.trace({"x": images(1)})[1]))
    table = compare(test, bundle).set_index("term")
    assert list(table.index) == [
        "compute on cloud", "write x as png-1 on device", "x: device -> cloud", "read x as png-1 on cloud",
        "out: cloud -> device", "side: cloud -> device", "hand-over", "latency",
    ]  # fmt: skip
    assert table.loc["write x as png-1 on device", "predicted_s"] == 0.002
    assert table.loc["read x as png-1 on cloud", "predicted_s"] == 0.001
    row = test.frame.set_index("name").loc["x"]
    assert table.loc["write x as png-1 on device", "measured_s"] == row["encode_s"]
    assert table.loc["read x as png-1 on cloud", "measured_s"] == row["decode_s"]
    # 1728 B were planned, and the link has 1 ms and 1 MB/s, whatever this image took
    assert row["size_bytes"] < 1000
    assert table.loc["x: device -> cloud", "predicted_s"] == pytest.approx(0.002728)
    assert table.loc["compute on cloud", "predicted_s"] == pytest.approx(5.0)
    of_client = compare(seen, bundle).set_index("term").loc["read x as jpeg on device"]
    assert of_client["predicted_s"] == 0.0
    assert of_client["measured_s"] == seen.frame.set_index("form").loc["jpeg", "decode_s"] > 0
    assert list(mixed.frame.loc[mixed.frame["name"] == "x", "form"]) == ["png-1", "float32"]
    assert compare(mixed, bundle).set_index("term").loc["read x as png-1 on cloud", "measured_s"] == row["decode_s"]


def test_records_from_before_there_were_forms():
    old = b'{"parts":[],"transfers":[{"wire":"x","source":"a","target":"b","size_bytes":4,"seconds":1.0,"paced_s":0.5}]}'
    response = acknowledge(infer_request("m")).head
    response.parameters["dnnsplit_trace"].string_param = old.decode()
    (transfer,) = Records.read(response).transfers
    assert (transfer.form, transfer.encode_s, transfer.decode_s) == ("float32", 0.0, 0.0)


@pytest.mark.parametrize("form", [None, "uint8", "png-1", "jpeg-90", "float16"])
def test_a_camera_hands_over_its_images(graph, tmp_path, form):
    bundle = away(graph, tmp_path, form)
    assert bundle.leave_as_images == (frozenset({"x"}) if form in ("uint8", "png-1", "jpeg-90") else frozenset())
    with served(bundle) as client:
        for seed in range(2):
            feed = {"x": pictures(1, seed=seed)}
            held = PIXELS.steps(feed["x"], exact=True)
            assert held.dtype == np.uint8
            found, trace = client.trace({"x": held})
            same(found, run_parts(bundle, feed))
            assert of_input(trace).form == (form or "float32")


def test_images_are_handed_over_to_who_reads_the_tensor_too(graph, tmp_path):
    order = graph.topological
    plan = plan_for(graph, {order[0]: "device"} | dict.fromkeys(order[1:], "cloud"))
    bundle = ds.cut(graph, with_forms(plan, {}, {"x": PIXELS}), tmp_path)
    assert bundle.leave_as_images == frozenset()
    feed = {"x": pictures(1)}
    with served(bundle) as client:
        same(client.infer({"x": PIXELS.steps(feed["x"])}), run_parts(bundle, feed))


def test_images_are_refused_where_the_tensor_is_not_exactly_of_them(graph, tmp_path):
    held = PIXELS.steps(pictures(1))
    with served(away(graph, tmp_path / "no", None, None)) as client, pytest.raises(ds.DeployError, match="has the type uint8"):
        client.infer({"x": held})
    near = replace(PIXELS, exact=False)
    with served(away(graph, tmp_path / "near", None, near)) as client, pytest.raises(ds.DeployError, match="has the type uint8"):
        client.infer({"x": held})
    with served(away(graph, tmp_path / "exact")) as client, pytest.raises(ds.DeployError, match="has the shape"):
        client.infer({"x": held[..., :4]})
