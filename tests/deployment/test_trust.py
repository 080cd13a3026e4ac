"""A few bytes must not stop a stage: messages of strangers are bounded, refused in words, and keep nobody else waiting."""

import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from helpers.bundle_models import mlp_numpy
from helpers.deployments import assert_close, images
from helpers.processes import wait_until
from helpers.standalone import deployment
from tritonclient.grpc import service_pb2, service_pb2_grpc

import dnnsplit as ds
from dnnsplit.agents.wire import tls_of
from dnnsplit.cutting.checks import DATATYPES
from dnnsplit.deployment.hosts import read_hosts
from dnnsplit.deployment.probing import ANSWERED_BYTES, answer_probes, probe
from dnnsplit.deployment.stage.callers import check_peer
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.stage.readiness import Readiness
from dnnsplit.deployment.wire.channels import PLAIN, SERVICE, Stub, Tls, handlers, listen
from dnnsplit.deployment.wire.door import PUSHBACK, Door
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import PROBE, UNPROTECTED, Refusal, acknowledge, contents_of, infer_request
from dnnsplit.deployment.wire.typed import FIELDS
from dnnsplit.ground.errors import DeployError

H0 = {"h0": np.zeros((64, 256), "float32")}


def told(address, name, identity="", tensors=None, **parameters):
    """What a stage answers to a message, as a stranger sends it; an error as its status."""
    with closing(Stub(address)) as stub:
        try:
            return stub.infer(infer_request(name, identity, tensors, parameters), timeout=20).head
        except grpc.RpcError as error:
            return error.code().name, error.details(), dict(error.trailing_metadata() or ())


class TestTensorsOfStrangers:
    @pytest.mark.parametrize("remaining_s", [math.nan, math.inf, -math.inf, -5.0, 0.0])
    @pytest.mark.parametrize("server", ["device", "cloud"])
    def test_times_have_to_be_finite_and_above_0(self, running, server, remaining_s):
        for parameters in ({"remaining_s": remaining_s}, {"remaining_s": 1.0, "limit_s": remaining_s}, {}):
            code, text, _ = told(running.addresses[server], "mlp/tensors", "odd", H0 if server == "cloud" else {}, **parameters)
            assert code == "INVALID_ARGUMENT"
            assert "finite seconds above 0" in text

    def test_the_source_takes_no_request_that_it_did_not_open(self, running):
        for i in range(40):
            code, text, _ = told(running.addresses["device"], "mlp/tensors", f"invented-{i}", remaining_s=60.0)
            assert (code, "never was" in text) == ("NOT_FOUND", True)
        with running.client() as client:
            assert_close(client.infer({"x": images()}), images())

    def test_other_stages_ask_the_source_what_it_knows_before_they_refuse(self, running):
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(told, running.addresses["cloud"], "mlp/tensors", f"invented-{i}", H0, remaining_s=60.0)
                     for i in range(100)]  # fmt: skip
            with running.client() as client:
                for i in range(10):
                    assert_close(client.infer({"x": images(1 + i % 4)}), images(1 + i % 4))
            assert {future.result()[0] for future in asked if isinstance(future.result(), tuple)} <= {"RESOURCE_EXHAUSTED"}

    def test_an_id_is_no_longer_than_those_of_stages(self, running):
        code, text, _ = told(running.addresses["cloud"], "mlp/end", "x" * 10**6)
        assert (code, "64 at most" in text) == ("INVALID_ARGUMENT", True)

    def test_an_error_that_says_all_is_well_is_none(self, running):
        assert told(running.addresses["device"], "mlp/error", "nobody", code="OK", text="").model_name == "mlp/error"
        assert told(running.addresses["device"], "mlp/error", "nobody", code="__class__", text="").model_name == "mlp/error"


def test_a_source_that_crashes_twice_leaves_nothing_behind(mlp_bundle, tmp_path):
    """Its requests fill the others; they are dropped once it says that it does not know them."""
    with deployment(mlp_bundle, tmp_path, deadline_s=60.0, in_flight=2) as one, ThreadPoolExecutor(4) as pool:
        for name in one.bundle.stages:
            one.launch(name, emulation=Emulation(1e5 if name == "cloud" else None))  # a part of the cloud lasts for ever
        wait_until(one.ready, 60)
        for number in range(2):
            with one.client(60.0) as client:
                asked = [pool.submit(client.infer, {"x": images()}) for _ in range(3)]
                wait_until(lambda: any(future.done() for future in asked), 60)  # noqa: B023, one finds no room
                time.sleep(0.3)  # the others are on their way to the cloud
                one.kill(f"device {number}" if number else "device")
                assert all(isinstance(future.exception(60), DeployError) for future in asked)
            one.launch("device", f"device {number + 1}")
            wait_until(one.ready, 60)
        one.kill("cloud")
        one.launch("cloud", "cloud again")
        with one.client(60.0) as client:  # the edge has held four requests, which is its limit
            wait_until(lambda: answered(client), 60)


def answered(client):
    try:
        assert_close(client.infer({"x": images()}), images())
    except DeployError:
        return False
    return True


class TestRoom:
    def test_who_finds_no_room_is_told_when_to_come_again_before_a_byte_is_read(self):
        door, entered, leave = Door(1, 60.0, (("who", "me"),)), threading.Event(), threading.Event()

        def answer(message, context):
            entered.set()
            leave.wait(60)
            return acknowledge(message)

        with serving(door.answering(answer)) as address, closing(Stub(address)) as stub:
            first = stub.infer.future(infer_request("first"), timeout=20)
            assert entered.wait(60)
            with pytest.raises(grpc.RpcError) as refused:
                stub.infer(infer_request("second"), timeout=20)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "try again in 0.1 s" in refused.value.details()
            assert dict(refused.value.trailing_metadata()) == {"who": "me", PUSHBACK: "100"}
            leave.set()
            assert first.result().head.model_name == "first"
            assert stub.infer(infer_request("third"), timeout=20).head.model_name == "third"

    def test_a_message_that_does_not_arrive_leaves(self):
        door = Door(1, 0.0)
        served = serving(door.answering(lambda message, context: acknowledge(message)))
        with served as address, grpc.insecure_channel(address) as channel, closing(Stub(address)) as stub:
            waiting = threading.Event()
            call = channel.stream_unary(f"/{SERVICE}/ModelInfer", Infer.encode, Infer.response)
            silent = call.future(iter(lambda: waiting.wait(60) and None, None), timeout=60)
            wait_until(lambda: door._inside == 1, 60)
            door.look_after()
            assert silent.exception().code() is grpc.StatusCode.CANCELLED
            wait_until(lambda: door._inside == 0, 60)
            waiting.set()
            assert stub.infer(infer_request("next"), timeout=20).head.model_name == "next"

    def test_stages_have_a_door_of_their_own(self):
        leave, inside = threading.Event(), []

        def answer(message, context):
            inside.append(message.head.model_name)
            leave.wait(60)
            return acknowledge(message)

        handler, _ = handlers(SimpleNamespace(ModelInfer=answer, **dict.fromkeys(PLAIN)), 1, 1, 60.0)
        with serving(handler) as address, closing(Stub(address)) as client, closing(Stub(address, peer=True)) as stage:
            asked = [stub.infer.future(infer_request(name), timeout=20) for stub, name in ((client, "client"), (stage, "stage"))]
            wait_until(lambda: set(inside) == {"client", "stage"}, 60)
            for stub in (client, stage):
                with pytest.raises(grpc.RpcError, match="1 messages are being read and answered here"):
                    stub.infer(infer_request("another"), timeout=20)
            leave.set()
            assert [future.result().head.model_name for future in asked] == ["client", "stage"]

    def test_too_many_requests_are_told_when_to_come_again(self, mlp_bundle, tmp_path):
        with deployment(mlp_bundle, tmp_path, in_flight=1) as one, ThreadPoolExecutor(2) as pool:
            for name in one.bundle.stages:
                one.launch(name, emulation=Emulation(1e5 if name == "edge" else None))  # its part lasts for ever
            wait_until(one.ready, 60)
            with one.client() as client:
                asked = [pool.submit(client.infer, {"x": images()}) for _ in range(2)]
                wait_until(lambda: any(future.done() for future in asked), 60)  # the other has the room
                code, text, metadata = told(one.addresses["device"], "mlp", tensors={"x": images()})
            assert code == "RESOURCE_EXHAUSTED"
            assert "1 requests are in flight on 'device', which is the limit; try again in" in text
            assert int(metadata[PUSHBACK]) >= 50

    def test_one_asks_whether_the_others_are_ready_and_the_rest_hear_what_was_heard_last(self):
        asked, release = threading.Event(), threading.Event()

        def future(question, timeout, wait_for_ready):
            asked.set()
            release.wait(60)
            return SimpleNamespace(exception=lambda: None, result=lambda: SimpleNamespace(ready=True))

        readiness = Readiness(lambda: [SimpleNamespace(stub=SimpleNamespace(ServerReady=SimpleNamespace(future=future)))])
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(readiness.of_all)
            assert asked.wait(60)
            assert [readiness.of_all() for _ in range(400)] == [False] * 400
            release.set()
            assert first.result(60)
        assert readiness.of_all()


@contextmanager
def serving(answer):
    """A server of ModelInfer, or of a handler; its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    if callable(answer):
        method = grpc.stream_unary_rpc_method_handler(answer, Infer.request, Infer.encode)
        answer = grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": method})
    server.add_generic_rpc_handlers((answer,))
    port = listen(server, "127.0.0.1", 0, None)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_whoever_answers_probes_takes_messages_of_a_bounded_size():
    stop, address = threading.Event(), []
    thread = threading.Thread(target=answer_probes, kwargs={"port": 0, "started": address.append, "stop": stop})
    thread.start()
    try:
        wait_until(lambda: address, 60)
        message = infer_request(PROBE, tensors={"x": np.zeros(ANSWERED_BYTES + 2**13, np.uint8)}).encode()
        with grpc.insecure_channel(address[0], [("grpc.max_send_message_length", -1)]) as channel:
            for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):  # a few kB of it cross
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary(f"/{SERVICE}/ModelInfer")(message, timeout=60, compression=compression)
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert probe(address[0], repeats=1, most_bytes=2**20).bandwidth_bytes_per_s > 0
    finally:
        stop.set()
        thread.join()


class TestAddresses:
    @pytest.mark.parametrize("port", [-1, 65536, 65536 + 7001, 10**9])
    def test_a_port_is_one(self, port):
        with pytest.raises(DeployError, match=f"port is {port}; give one from 1 to 65535"):
            listen(grpc.server(ThreadPoolExecutor(1)), "127.0.0.1", port, None)
        for call in (lambda: ds.Client(f"127.0.0.1:{port}", "m"), lambda: probe(f"127.0.0.1:{port}"),
                     lambda: ds.status(f"127.0.0.1:{port}")):  # fmt: skip
            with pytest.raises(DeployError, match="with a port from 1 to 65535"):
                call()

    @pytest.mark.parametrize("address", ["", "host", ":7000", "[]:7000", "::1:7000", "host:٣", "host:7000 ", "host:"])
    def test_others_are_named(self, address):
        with pytest.raises(DeployError, match=r"the address is .*write host:port"):
            ds.Client(address, "m")

    def test_ipv6_in_a_hosts_file_needs_no_quotes(self, tmp_path):
        (tmp_path / "hosts.yaml").write_text("a: [fd00::7]:7001  # ours\nb: [::1]:7002\nc: '[fe80::1%eth0]:7003'\nd: h:7004\n")
        wanted = {"a": "[fd00::7]:7001", "b": "[::1]:7002", "c": "[fe80::1%eth0]:7003", "d": "h:7004"}
        assert read_hosts(tmp_path / "hosts.yaml") == wanted

    def test_ipv6_to_listen_on_needs_no_brackets(self):
        try:
            with socket.socket(socket.AF_INET6) as one:
                one.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        stop, address = threading.Event(), []
        given = {"host": "::1", "port": 0, "started": address.append, "stop": stop}
        thread = threading.Thread(target=answer_probes, kwargs=given)
        thread.start()
        wait_until(lambda: address, 60)
        assert address[0].startswith("[::1]:")
        assert probe(address[0], repeats=1, most_bytes=2**20).latency_s > 0
        stop.set()
        thread.join()


TYPED = {
    "bool": [True, False], "int8": [-128, 127], "int16": [-(2**15), 7], "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1], "uint8": [0, 255], "uint16": [0, 2**16 - 1], "uint32": [0, 2**32 - 1],
    "uint64": [0, 2**64 - 1], "float32": [1.5, -0.1],
    "float64": [0.1, 1e300],
}  # fmt: skip


class TestTypedContents:
    @pytest.mark.parametrize("dtype", TYPED)
    def test_every_type_is_read(self, dtype):
        datatype, _ = DATATYPES[dtype]
        request = service_pb2.ModelInferRequest()
        entry = request.inputs.add(name="x", datatype=datatype, shape=[2])
        getattr(entry.contents, FIELDS[datatype][0]).extend(TYPED[dtype])
        found = contents_of(request.inputs, [], {"x": (dtype, (2,))})["x"]
        np.testing.assert_array_equal(found, np.array(TYPED[dtype], dtype), strict=True)

    def test_elements_are_read_as_their_raw_form(self):
        request = service_pb2.ModelInferRequest()
        request.inputs.add(name="x", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"one", b""])
        found = contents_of(request.inputs, [], {"x": ("float32", (2,))}, forms={"x": ""})["x"]
        assert [bytes(element) for element in found.elements] == [b"one", b""]

    def test_what_is_wrong_is_told_of_all(self):
        request = service_pb2.ModelInferRequest()
        request.inputs.add(name="a", datatype="UINT8", shape=[1]).contents.uint_contents.append(256)
        request.inputs.add(name="b", datatype="FP32", shape=[1]).contents.fp64_contents.append(1.0)
        request.inputs.add(name="c", datatype="FP16", shape=[1]).contents.fp32_contents.append(1.0)
        expected = {"a": ("uint8", (1,)), "b": ("float32", (1,)), "c": ("float16", (1,))}
        with pytest.raises(Refusal) as refused:
            contents_of(request.inputs, [], expected)
        for part in ("'a' holds 256, which is no UINT8 (0 to 255)", "'b' is FP32 and comes in fp64_contents; give fp32_contents",
                     "'c' is FP16, which has no typed contents"):  # fmt: skip
            assert part in str(refused.value)

    def test_a_request_is_answered(self, running):
        request = service_pb2.ModelInferRequest(model_name="mlp")
        x = images(2)
        request.inputs.add(name="x", datatype="FP32", shape=x.shape).contents.fp32_contents.extend(x.ravel().tolist())
        with grpc.insecure_channel(running.addresses["device"]) as channel:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
        found = dict(zip([entry.name for entry in answer.outputs], answer.raw_output_contents, strict=True))
        y = mlp_numpy(x)[0]
        np.testing.assert_allclose(np.frombuffer(found["y"], np.float32).reshape(y.shape), y, atol=0.1)


class TestWhoMayTalk:
    def test_with_mutual_tls_stages_take_tensors_from_each_other_alone(self, mlp_bundle, tmp_path):
        keys = ds.make_keys([*mlp_bundle.servers, "guest"], tmp_path / "keys")
        certified = {name: tls_of(folder) for name, folder in keys.items()}
        with deployment(mlp_bundle, tmp_path / "stages") as one:
            for name in one.bundle.stages:
                one.launch(name, tls=certified[name])
            for name, allowed in {"guest": False, "edge": True}.items():
                with closing(Stub(one.addresses["cloud"], tls=certified[name], name="cloud")) as stub:
                    for what in ("tensors", "error", "end", "open"):
                        found = _refusal(stub, infer_request(f"mlp/{what}", "id", {}, {"remaining_s": 1.0}))
                        assert (found == "PERMISSION_DENIED") != allowed, what
            with ds.Client(one.addresses["device"], "mlp", tls=certified["guest"], server="device") as client:
                assert_close(client.infer({"x": images()}), images())  # whoever has a key may ask

    @pytest.mark.parametrize(
        ("names", "fits"),
        [([b"10.0.0.7"], True), ([b"x", b"edge.lan"], True), ([b"fd00::7"], True), ([b"10.0.0.8"], False), ([], False)],
    )
    def test_certificates_of_others_have_to_be_good_for_the_host_of_a_stage(self, tmp_path, names, fits):
        keys = ds.make_keys(["one"], tmp_path / "keys")
        tls = Tls(**{**vars(tls_of(keys["one"])), "named": False})
        context = SimpleNamespace(auth_context=lambda: {"x509_subject_alternative_name": names})
        for mutual in (True, False):
            config = Config("", "cloud", tls=replace(tls, mutual=mutual))
            with nullcontext() if fits or not mutual else pytest.raises(Refusal, match="none of the stages of this deployment"):
                check_peer(context, config, ["edge"], ["10.0.0.7:1", "edge.lan:2", "[fd00::7]:3"])

    def test_a_stage_that_anybody_may_use_says_so(self, mlp_bundle, tmp_path):
        with deployment(mlp_bundle, tmp_path, host="0.0.0.0") as one:
            one.launch("device")
            one.launch("edge", host="127.0.0.1")
            for name, said in {"device": True, "edge": False}.items():
                wait_until(lambda: one.stages[name].address, 60)  # noqa: B023
                with closing(Stub(one.addresses[name])) as stub:
                    answer = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=20)
                assert (UNPROTECTED in answer.extensions) == said


def _refusal(stub, message):
    def answer():
        try:
            stub.infer(message, timeout=20)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    wait_until(lambda: answer() != "UNAVAILABLE", 60)  # until it is there, and loaded
    return answer()
