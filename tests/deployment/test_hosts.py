"""Stages as on real hosts: `serve`, addresses by files, TLS by files, and parts that live in another model server."""

import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import grpc
import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from helpers.bundle_models import detector, detector_feed, detector_numpy, lookup, mlp
from helpers.deployments import NAMES, PAIRS, assert_close, images, network
from helpers.plans import plan_for
from helpers.processes import started, wait_until
from helpers.small_models import conv_net
from helpers.standalone import deployment, free_ports
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

import dnnsplit as ds
from dnnsplit.cutting.checks import DATATYPES
from dnnsplit.cutting.examples import Example
from dnnsplit.cutting.triton import part_config, part_file, write_repository
from dnnsplit.deployment.client import Client
from dnnsplit.deployment.hosts import read_hosts
from dnnsplit.deployment.serving import serve
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.testbed.comparison import compare
from dnnsplit.deployment.testbed.testbed import latency_test, testbed
from dnnsplit.deployment.wire.channels import Tls
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import infer_request
from dnnsplit.ground.errors import DeployError
from dnnsplit.network.servers import Link, Network, Server


def serving(bundle, server, hosts, *options):
    """`dnnsplit serve` as somebody would start it in a terminal."""
    command = [sys.executable, "-m", "dnnsplit", "serve", bundle.folder, "--server", server, "--hosts", hosts, *options]
    return started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class TestServe:
    def test_three_terminals_and_a_client_of_the_protocol(self, mlp_bundle, tmp_path):
        ports = free_ports(3)
        file = tmp_path / "hosts.yaml"
        file.write_text("".join(f"{name}: 127.0.0.1:{port}\n" for name, port in zip(NAMES, ports, strict=True)))
        with ExitStack() as stack:
            stages = [stack.enter_context(serving(mlp_bundle, name, file)) for name in reversed(NAMES)]  # in any order
            assert sorted(stage.stdout.readline().strip() for stage in stages) == sorted(f"127.0.0.1:{p}" for p in ports)
            with triton.InferenceServerClient(f"127.0.0.1:{ports[0]}") as client:
                assert client.is_server_live()
                wait_until(lambda: client.is_model_ready("mlp"), 60)
                x = images(2)
                tensor = triton.InferInput("x", x.shape, "FP32").set_data_from_numpy(x)
                result = client.infer("mlp", [tensor])
                assert_close({name: result.as_numpy(name) for name in ("y", "hidden")}, x)
            for stage in stages:
                stage.send_signal(signal.SIGTERM if stage is stages[0] else signal.SIGINT)
            errors = [stage.communicate(timeout=60)[1] for stage in stages]
        assert [stage.returncode for stage in stages] == [0, 0, 0]
        assert f"'cloud' of 'mlp' listens on 127.0.0.1:{ports[2]}; device at" in errors[0]
        assert all("has ended" in text and "Traceback" not in text for text in errors)

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"server": "egde"}, "'egde' has nothing to do in .*did you mean 'edge'"),
            ({"hosts": {"device": "127.0.0.1:7001", "edge": "127.0.0.1:7002"}}, "the address of 'cloud' is missing"),
            ({"hosts": dict.fromkeys(NAMES, "127.0.0.1:7001")}, "have the same address"),
            ({"hosts": {"edge": "10.0.0.2:7002", "device": "10.0.0.1:7001", "cloud": "10.0.0.3:7001"}},
             r"call it at 10.0.0.2:7002, but it listens on 127.0.0.1 alone; listen on 10.0.0.2 too"),
            ({"deadline_s": 0}, "deadline_s is 0"),
            ({"in_flight": 0}, "in_flight is 0"),
        ],
    )  # fmt: skip
    def test_its_arguments_are_checked(self, mlp_bundle, arguments, text):
        hosts = {name: f"127.0.0.1:{7001 + i}" for i, name in enumerate(NAMES)}
        with pytest.raises(DeployError, match=text):
            serve(**{"bundle": mlp_bundle.folder, "server": "edge", "hosts": hosts} | arguments)

    def test_hosts_files(self, tmp_path):
        file = tmp_path / "hosts.json"
        file.write_text(json.dumps({"device": "10.0.0.1:7001", "edge": "[fd00::7]:7002"}))
        assert read_hosts(file) == {"device": "10.0.0.1:7001", "edge": "[fd00::7]:7002"}
        for content, text in (("[1, 2]", "one line 'server: host:port'"), ("{", "not readable as YAML"),
                              ("a: fd00::7:1\nb: host\nc: host:99999\nd: ':1'", "4 problems")):  # fmt: skip
            file.write_text(content)
            with pytest.raises(DeployError, match=text):
                read_hosts(file)
        with pytest.raises(DeployError, match=r"none.yaml is not readable"):
            read_hosts(tmp_path / "none.yaml")


class TestTestbed:
    def test_hosts_stand_behind_the_same_interface(self, mlp_bundle, running):
        with testbed(mlp_bundle, network(), kind="hosts", hosts=running.addresses) as client:
            assert_close(client.infer({"x": images(1)}), images(1))
            test = latency_test(client, {"x": images()}, 3, warm_up=1, progress=False)
        assert list(test.frame["kind"]) == ["part"] * 4 + ["transfer"] * 5
        assert (test.frame.loc[test.frame["kind"] == "transfer", "paced_s"] == 0).all()  # nothing is emulated
        assert 0 < test.median_s < 60
        with pytest.raises(DeployError, match="was not cut by a plan, so nothing is predicted"):
            compare(test, mlp_bundle)

    def test_what_the_hosts_are_is_checked(self, mlp_bundle, running, tmp_path):
        def failing(bundle, hosts, text, **more):
            arguments = {"network": network(), "kind": "hosts", "hosts": hosts} | more
            with pytest.raises(DeployError, match=text), testbed(bundle, **arguments):
                pass

        there = running.addresses
        failing(mlp_bundle, there | {"edge": there["cloud"], "cloud": there["edge"]}, "'edge' at .* is 'dnnsplit-cloud' instead")
        failing(mlp_bundle, there | {"edge": "127.0.0.1:9"}, "'edge' at 127.0.0.1:9 does not answer: UNAVAILABLE.*dnnsplit serve")
        failing(mlp_bundle, {"device": there["device"]}, "the address of 'edge' is missing")
        renamed = {"fog" if name == "edge" else name: address for name, address in there.items()}
        failing(mlp_bundle, renamed, "2 problems\n.*the address of 'edge' is missing\n.*'fog' is no stage of the bundle")
        more = there | {"fog": "127.0.0.1:9"}  # a server of the network for which the plan has no layer
        with testbed(mlp_bundle, network(), kind="hosts", hosts=more) as client:
            assert_close(client.infer({"x": images(1)}), images(1))
        failing(mlp_bundle, None, "the address of 'device' is missing")
        failing(mlp_bundle, there, "slowdown does not go with a test-bed of the kind 'hosts'", slowdown={"edge": 2.0})
        failing(mlp_bundle, there, "hosts does not go with a test-bed of the kind 'emulated'", kind="emulated")
        no_link = network(pairs=[p for p in PAIRS if p != ("edge", "cloud")])
        failing(mlp_bundle, there, "no link 'edge' -> 'cloud'", network=no_link)
        other = replace(mlp(tmp_path), plan={"objective": 2.0})
        other.save()
        failing(other, there, "'device' at .* serves another bundle")


def answers(client):
    try:
        return client.infer({"index": np.array([4])})["value"] == [40.0]
    except DeployError:
        return False


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """ca.pem, and certificates of it for "stage" (this machine) and "client"; "stranger" signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make certificates")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("ca", "stranger"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")
    for name in ("stage", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.pem", "-days", "2", "-extfile", "names")  # fmt: skip
    return folder


class TestTls:
    def test_stages_and_clients_know_each_other_by_certificates(self, mlp_bundle, certificates, tmp_path):
        def tls(name="", ca="ca"):
            pair = (f"{certificates}/{name}.pem", f"{certificates}/{name}.key") if name else ("", "")
            return Tls(*pair, f"{certificates}/{ca}.pem")

        hosts = {name: f"127.0.0.1:{port}" for name, port in zip(NAMES, free_ports(3), strict=True)}
        file = tmp_path / "hosts.json"
        file.write_text(json.dumps(hosts))
        own = tls("stage")
        secured = ["--tls-cert", own.cert, "--tls-key", own.key, "--tls-ca", own.ca]
        with ExitStack() as stack:
            stages = [stack.enter_context(serving(mlp_bundle, name, file, *secured)) for name in NAMES]
            for stage in stages:
                assert stage.stdout.readline().startswith("127.0.0.1:")
            stub = triton.InferenceServerClient(
                hosts["device"], ssl=True, root_certificates=f"{certificates}/ca.pem",
                private_key=f"{certificates}/client.key", certificate_chain=f"{certificates}/client.pem",
            )  # fmt: skip
            with stub as other:
                wait_until(lambda: other.is_model_ready("mlp"), 60)
            with testbed(mlp_bundle, network(), kind="hosts", hosts=file, tls=tls("client")) as client:
                assert_close(client.infer({"x": images(1)}), images(1))
            for wrong in (None, tls(), tls("stranger"), tls("client", "stranger")):
                with (
                    Client(hosts["device"], "mlp", 5.0, tls=wrong) as client,
                    pytest.raises(DeployError, match="UNAVAILABLE"),
                ):
                    client.infer({"x": images()})

    def test_stages_alone_may_be_certified(self, certificates, tmp_path):
        files = {"cert": f"{certificates}/stage.pem", "key": f"{certificates}/stage.key", "ca": f"{certificates}/ca.pem"}
        with deployment(lookup(tmp_path), tmp_path, tls=Tls(**files, mutual=False)) as one:
            one.ready = lambda: all(stage.address for stage in one.stages.values())
            one.start()
            with Client(one.addresses["device"], "lookup", 5.0, tls=Tls(ca=f"{certificates}/ca.pem")) as client:
                wait_until(lambda: answers(client), 60)

    def test_files_are_checked(self, certificates):
        with pytest.raises(DeployError, match=r"the cert file 'none\.pem' is missing"):
            Tls("none.pem", f"{certificates}/stage.key")
        with pytest.raises(DeployError, match="go together"):
            Tls(cert=f"{certificates}/stage.pem")
        with pytest.raises(DeployError, match="give at least"):
            Tls()
        with pytest.raises(DeployError, match="a stage needs a certificate"):
            Tls(ca=f"{certificates}/ca.pem").of_server()


class ModelServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """What Triton does with a model repository, as far as parts need it: reads config.pbtxt, runs <name>/1/model.onnx."""

    def __init__(self, repository):
        self.sessions, self.configs, self.runs = {}, {}, 0
        for folder in repository.iterdir():
            if folder.is_dir():
                config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
                self.configs[config.name] = config
                self.sessions[config.name] = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))

    def ModelInfer(self, request, context):
        config, session = self.configs[request.model_name], self.sessions[request.model_name]
        described = {i.name: i for i in config.input}
        feed = {}
        for entry, content in zip(request.inputs, request.raw_input_contents, strict=True):
            assert model_config_pb2.DataType.Name(described[entry.name].data_type) == f"TYPE_{entry.datatype}"
            assert all(wanted in (-1, extent) for wanted, extent in zip(described[entry.name].dims, entry.shape, strict=True))
            shape = [] if described[entry.name].HasField("reshape") else entry.shape
            feed[entry.name] = np.frombuffer(content, triton._utils.triton_to_np_dtype(entry.datatype)).reshape(shape)
        self.runs += 1
        response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        for output, value in zip(config.output, session.run([o.name for o in config.output], feed), strict=True):
            kind = model_config_pb2.DataType.Name(output.data_type)[5:]
            response.outputs.add(name=output.name, datatype=kind, shape=value.shape or (1,))
            response.raw_output_contents.append(value.tobytes())
        return response


def test_parts_may_live_in_another_model_server(tmp_path):
    graph = ds.load(conv_net(tmp_path / "net.onnx"))
    order = graph.topological
    plan = plan_for(graph, dict(zip(order, ["device", "edge", "edge", "device", "device"], strict=True)))
    bundle = ds.cut(graph.model_path, plan, tmp_path / "bundle")
    assert all((bundle.folder / part.name / "1" / "model.onnx").is_file() for part in bundle.parts)
    server = grpc.server(ThreadPoolExecutor(2))
    service = ModelServer(bundle.folder)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    feed = {"x": np.random.default_rng(1).random((1, 3, 12, 12)).astype("float32")}
    with ds.testbed(bundle, network()) as client:
        expected = client.infer(feed)
    with deployment(bundle, tmp_path, model_server=address) as one, one.start().client() as client:
        found = client.infer(feed)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
        assert service.runs == 3 * len(bundle.parts)  # each twice to warm up
        server.stop(0).wait(5)
        with pytest.raises(DeployError, match=f"the model server at {address}: UNAVAILABLE"):
            client.infer(feed)


def test_a_scalar_goes_to_a_model_server_and_back(tmp_path):
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2, 3]), ("y", [2, 3]))}
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], "total", keepdims=0),
        helper.make_node("Sqrt", ["total"], ["root"], "root"),
        helper.make_node("Mul", ["x", "root"], ["y"], "y"),
    ]
    graph = helper.make_graph(nodes, "scalar", [info["x"]], [info["y"]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "scalar.onnx")
    model = ds.load(tmp_path / "scalar.onnx")
    plan = plan_for(model, {name: "edge" if name == "root" else "device" for name in model.topological})
    bundle = ds.cut(model.model_path, plan, tmp_path / "bundle")
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(ModelServer(bundle.folder), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with deployment(bundle, tmp_path, model_server=address) as one, one.start().client() as client:
            x = np.arange(6, dtype=np.float32).reshape(2, 3)
            np.testing.assert_allclose(client.infer({"x": x})["y"], x * np.sqrt(15.0), rtol=1e-6)
    finally:
        server.stop(0).wait(5)


@contextmanager
def model_server(bundle):
    """The address of a `ModelServer` of parts that were written by hand, beside their files."""
    for part in bundle.parts:
        path = bundle.folder / part_file(part.name)
        path.parent.mkdir(parents=True)
        shutil.copy(bundle.folder / part.file, path)
    write_repository(bundle)
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(ModelServer(bundle.folder), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield address
    finally:
        server.stop(0).wait(5)


def test_open_and_empty_tensors_go_to_a_model_server_and_back(tmp_path):
    bundle = detector(tmp_path)
    with (
        model_server(bundle) as address,
        deployment(bundle, tmp_path, model_server=address) as one,
        one.start().client() as client,
    ):
        for scores in ([0.2, 0.9, 0.05, 0.5, 0.3, 0.8], [0.0] * 6):
            feed = detector_feed(scores, 4)
            found = client.infer(feed)
            for name, array in detector_numpy(feed).items():
                np.testing.assert_array_equal(found[name], array)


def test_a_warm_up_that_a_model_server_refuses_is_no_reason_to_end(tmp_path):
    bundle = replace(lookup(tmp_path), examples=(Example("same", values=(99,)),))
    bundle.save()
    with model_server(bundle) as address, deployment(bundle, tmp_path, model_server=address) as one:
        with one.start().client() as client:
            assert client.infer({"index": np.array([3])})["value"] == [30.0]
        told = f"part 'gather' was not warmed up, its first request takes longer: the model server at {address}"
        assert told in one.stages["edge"].tail


def test_a_model_server_that_is_not_there_is(lookup_bundle, tmp_path):
    with deployment(lookup_bundle, tmp_path, model_server="127.0.0.1:9") as one:
        stage = one.launch("edge")
        assert stage.process.wait(60) == 1
        assert "part 'gather' cannot be run: the model server at 127.0.0.1:9: UNAVAILABLE" in stage.tail


def test_the_configuration_of_a_scalar_has_one_extent(mlp_bundle):
    wires = tuple(replace(wire, shape=()) if wire.name == "h0" else wire for wire in mlp_bundle.wires)
    text = part_config(replace(mlp_bundle, wires=wires), mlp_bundle.parts[2])
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert {i.name: (list(i.dims), i.HasField("reshape")) for i in config.input} == {"q1": ([64, 256], False), "h0": ([1], True)}
    assert config.max_batch_size == 0
    assert config.parameters["intra_op_thread_count"].string_value == "1"


def test_every_part_is_a_model_as_triton_wants_it(mlp_bundle):
    """The layout and the fields that Triton's documentation of model repositories and configurations asks for."""
    for part in mlp_bundle.parts:
        config = text_format.Parse(part_config(mlp_bundle, part), model_config_pb2.ModelConfig())
        assert config.name == part.name  # that of its folder, if it is given
        assert part_file(part.name) == f"{part.name}/1/model.onnx"  # a numeric version without a leading 0, and the default file
        assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 0)
        assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_CPU]
        wires = mlp_bundle.wire_by_name
        for names, entries in ((part.inputs, config.input), (part.outputs, config.output)):
            assert tuple(entry.name for entry in entries) == names
            for entry in entries:
                assert tuple(entry.dims) == wires[entry.name].shape
                assert all(extent > 0 for extent in entry.dims)
                assert model_config_pb2.DataType.Name(entry.data_type) == f"TYPE_{DATATYPES[wires[entry.name].dtype][0]}"
    assert {f"TYPE_{name}" for name, _ in DATATYPES.values()} <= set(model_config_pb2.DataType.keys())


class TestEncoding:
    @pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
    def test_it_is_what_protocol_buffers_write(self, dtype):
        arrays = {
            "a": np.arange(6).reshape(2, 3).astype(dtype),
            "b": np.array(1).astype(dtype),
            "c": np.ones((200, 3), dtype)[::2],
        }
        message = infer_request("m", "id", arrays, {"text": "t", "number": 1.5})
        plain = service_pb2.ModelInferRequest.FromString(message.encode())
        assert list(plain.raw_input_contents) == [array.tobytes() for array in arrays.values()]
        read = Infer.request(plain.SerializeToString())
        assert [bytes(content) for content in read.contents] == list(plain.raw_input_contents)
        assert read.head.parameters["text"].string_param == "t"
        plain.ClearField("raw_input_contents")
        assert read.head == plain

    def test_tensors_are_aligned_for_who_reads_them_in_place(self):
        arrays = {"a" * n: np.arange(n, dtype="uint8") for n in range(1, 40)}
        data = infer_request("m", "id", arrays).encode()
        for name, content in zip(arrays, Infer.request(data).contents, strict=True):
            assert bytes(content) == arrays[name].tobytes()
            assert (np.frombuffer(content, "u1").ctypes.data - np.frombuffer(data, "u1").ctypes.data) % 16 == 0

    def test_a_message_cut_short_is_refused(self):
        data = infer_request("m", "id", {"a": np.ones((3, 5), "float32")}, {"text": "t"}).encode()
        whole = Infer.request(data)
        assert not whole.problem
        for length in range(len(data)):
            read = Infer.request(data[:length])
            assert read.problem or (not read.contents and len(read.head.SerializeToString()) <= length)


def test_the_interface_of_an_unmodified_client(running):
    with triton.InferenceServerClient(running.addresses["device"]) as client:
        assert client.is_server_ready()
        assert client.get_server_metadata().extensions[0].startswith("bundle-")
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            client.get_model_repository_index()


def test_a_network_of_one_server_needs_no_hosts(tmp_path):
    bundle = lookup(tmp_path)
    alone = replace(bundle, parts=tuple(replace(part, server="device") for part in bundle.parts), servers=("device",))
    alone.save()
    with deployment(alone, tmp_path) as one, one.start().client() as client:
        assert client.infer({"index": np.array([4])})["value"] == [40.0]
    with testbed(alone, Network([Server("device")], [Link("device", "device", 1e9)])) as client:
        assert client.infer({"index": np.array([4])})["value"] == [40.0]


def test_the_configuration_of_a_stage_is_checked(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"bundle": "b", "server": "edge", "emulation": {"slowdown": 2, "links": {"cloud": [0.1, 1e-6]}}}))
    assert Config.load(file) == Config("b", "edge", emulation=Emulation(2.0, links={"cloud": (0.1, 1e-6)}))
    for content, text in (
        ("{", "is not readable as the configuration of a stage"),
        ('{"bundle": "b"}', "the key 'server' is missing"),
        ('{"bundle": "b", "server": "edge", "prot": 7001}', "the key 'prot' is unknown .did you mean 'port'"),
        ('{"bundle": "b", "server": "edge", "port": "7001"}', "port is '7001': Expected `int`"),
        ('{"bundle": "b", "server": "edge", "emulation": {"links": {"cloud": [1]}}}', "emulation.links is"),
        ('{"bundle": "b", "server": "edge", "tls": {"ca": "none.pem"}}', r"the ca file 'none\.pem' is missing"),
    ):
        file.write_text(content)
        with pytest.raises(DeployError, match=text):
            Config.load(file)
