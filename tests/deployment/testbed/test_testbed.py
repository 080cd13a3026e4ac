"""Real processes and real sockets; upper limits on durations are generous, because machines are busy."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from helpers.bundle_models import ROWS, SIZE, lookup, mlp
from helpers.deployments import NAMES, PAIRS, assert_close, images, network, stage_pids
from helpers.paths import TESTS
from helpers.processes import is_running, wait_until
from helpers.standalone import deployment
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from dnnsplit.deployment.client import Client, Trace
from dnnsplit.deployment.stage.emulation import Emulation, smallest_dilation
from dnnsplit.deployment.testbed import processes
from dnnsplit.deployment.testbed.testbed import latency_test, requests, testbed
from dnnsplit.deployment.wire.messages import infer_request
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import sha256
from dnnsplit.ground.huge_pages import in_huge_pages
from dnnsplit.runtime.pace import Pace

SLOWDOWN, DILATION = {"device": 40.0, "edge": 5.0, "cloud": 0.5}, 2.5


@pytest.fixture
def own_bundle(tmp_path):
    """A bundle with no other test-bed, so that its stages can be told by its folder."""
    return mlp(tmp_path)


@pytest.fixture(scope="module")
def client(mlp_bundle):
    with testbed(mlp_bundle, network(), SLOWDOWN) as running:
        yield running


@pytest.fixture(scope="module")
def lookup_client(lookup_bundle):
    with testbed(lookup_bundle.folder, network(), deadline_s=20.0) as running:
        yield running


class TestOutputs:
    def test_they_equal_numpy(self, client):
        for seed in range(3):
            assert_close(client.infer({"x": images(seed)}), images(seed))

    def test_many_requests_from_several_threads(self, client):
        def ask(seed):
            assert_close(client.infer({"x": images(seed)}), images(seed))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(16)))

    def test_an_unmodified_client_of_the_protocol(self, client):
        x = images(7)
        with triton.InferenceServerClient(client.address) as other:
            assert other.is_server_live()
            assert other.is_server_ready()
            assert other.is_model_ready("mlp")
            assert not other.is_model_ready("other")
            tensor = triton.InferInput("x", x.shape, "FP32").set_data_from_numpy(x)
            result = other.infer("mlp", [tensor], request_id="seven")
            assert result.get_response().id == "seven"
            assert_close({name: result.as_numpy(name) for name in ("y", "hidden")}, x)
            one = other.infer("mlp", [tensor], outputs=[triton.InferRequestedOutput("hidden")])
            assert one.as_numpy("y") is None
            assert one.as_numpy("hidden").shape == (ROWS, SIZE)

    def test_metadata(self, client):
        assert client.inputs == {"x": ("float32", (ROWS, SIZE))}
        assert client.outputs == {"y": ("float32", (ROWS, SIZE)), "hidden": ("float32", (ROWS, SIZE))}
        with triton.InferenceServerClient(client.address) as other:
            assert other.get_server_metadata().name == "dnnsplit-device"
            assert other.get_model_metadata("mlp", as_json=True) == {
                "name": "mlp",
                "versions": ["1"],
                "platform": "onnxruntime_onnx",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": ["64", "256"]}],
                "outputs": [{"name": name, "datatype": "FP32", "shape": ["64", "256"]} for name in ("y", "hidden")],
            }
            with pytest.raises(InferenceServerException, match="there is no model 'mpl'"):
                other.get_model_metadata("mpl")


class Scripted(Client):
    """A client whose requests take what is given; it answers with what it is asked."""

    def __init__(self, *seconds):
        self.address = "here"
        self.seconds, self.feeds = iter(seconds), []

    def trace(self, feed):
        self.feeds.append(feed)
        return {"y": feed["x"]}, Trace(next(self.seconds), (), ())


class TestEmulation:
    def test_a_transfer_takes_what_the_link_says(self, mlp_bundle):
        slow = network(1e6, 0.02)
        with testbed(mlp_bundle, slow, time_dilation=1.0) as client:
            first, second = ({(t.wire, t.target): t for t in client.trace({"x": images()})[1].transfers} for _ in range(2))
        sizes = {("h0", "edge"): 65536, ("h0", "cloud"): 65536, ("q1", "cloud"): 16384, ("h2", "device"): 65536}
        for key, size_bytes in sizes.items():
            expected = slow.link("device", "edge").transfer_s(size_bytes)
            assert first[key].size_bytes == second[key].size_bytes == size_bytes
            assert first[key].paced_s == second[key].paced_s == pytest.approx(expected)
            # nothing is known of the real send yet, which comes on top; then what it took is waited less
            assert first[key].seconds >= expected - 1e-6
            assert second[key].seconds >= expected - (first[key].seconds - expected) - 1e-6

    def test_computing_is_dilated(self, client):
        client.infer({"x": images()})
        started = time.monotonic()
        _, trace = client.trace({"x": images()})
        wall_s = time.monotonic() - started
        assert [part.name for part in trace.parts] == ["a", "b", "c", "d"]
        for part in trace.parts:
            assert part.wall_s >= part.cpu_s - 1e-6  # emulated time is CPU time * slowdown, or more
            assert part.cpu_s > 1e-5 * SLOWDOWN[part.server]
        # the longest way through the graph, in emulated seconds; the wall saw it dilated
        a, b, c, d = (part.wall_s for part in trace.parts)
        sent = {(t.wire, t.target): t.paced_s for t in trace.transfers}
        assert trace.latency_s >= a + sent["h0", "edge"] + b + sent["q1", "cloud"] + c + sent["h2", "device"] + d - 5e-3
        assert wall_s >= DILATION * trace.latency_s

    def test_the_watch_stands_while_a_server_computes_that_is_too_fast(self, mlp_bundle):
        slowdown = {"device": 40.0, "edge": 5.0, "cloud": 1e-6}
        with testbed(mlp_bundle, network(), slowdown, time_dilation=1.0) as client:
            assert_close(client.infer({"x": images()}), images())
            started = time.monotonic()
            _, trace = client.trace({"x": images()})
            wall_s = time.monotonic() - started
        cloud = next(part for part in trace.parts if part.server == "cloud")
        real_s = cloud.cpu_s / slowdown["cloud"]
        assert real_s > 1e-5
        assert cloud.overrun_s == 0
        assert cloud.wall_s >= cloud.cpu_s - 1e-9
        assert wall_s >= trace.latency_s + real_s - cloud.cpu_s  # the machine took that time, and the watch left it out
        rest = [part for part in trace.parts if part.server != "cloud"]
        assert all(part.wall_s >= part.cpu_s - 1e-6 for part in rest)

    def test_a_server_is_as_fast_as_at_the_pace_that_its_slowdown_holds_at(self, mlp_bundle):
        """A machine that is a million times slower than when it was profiled computes next to nothing."""
        slowdown = {"device": 40.0, "edge": 5.0, "cloud": 2.0}
        now = Pace().reference_s
        with testbed(mlp_bundle, network(), slowdown, reference_s=1e-6 * now) as client:
            assert_close(client.infer({"x": images()}), images())
            parts = client.trace({"x": images()})[1].parts
        assert [part.pace > 1e5 for part in parts] == [True] * 4
        assert max(part.cpu_s for part in parts) < 1e-4
        with testbed(mlp_bundle, network(), slowdown) as client:
            assert [part.pace for part in client.trace({"x": images()})[1].parts] == [1.0] * 4
        with pytest.raises(DeployError, match="reference_s does not go with a test-bed of the kind 'hosts'"):  # noqa: SIM117
            with testbed(mlp_bundle, network(), kind="hosts", hosts={}, reference_s=1.0):
                pass

    def test_stages_have_their_memory_in_the_pages_that_were_asked_for(self, own_bundle, monkeypatch):
        def asked(**pages):
            with testbed(own_bundle, network(), **pages):
                told = [Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in stage_pids(own_bundle).values()]
            return [in_huge_pages(dict(one.partition("=")[::2] for one in environment)) for environment in told]

        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
        assert asked() == [False] * 3
        assert asked(huge_pages=True) == [True] * 3
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        assert asked() == [True] * 3
        assert asked(huge_pages=False) == [False] * 3

    def test_the_trace_as_a_table(self, client):
        frame = client.trace({"x": images()})[1].frame
        assert list(frame["kind"]) == ["part"] * 4 + ["transfer"] * 5
        assert list(frame.loc[frame["kind"] == "part", "target"]) == ["device", "edge", "cloud", "device"]

    def test_latency_test(self, client, capsys):
        test = latency_test(client, {"x": images()}, repeats=4, warm_up=1)
        assert "4/4" in capsys.readouterr().err
        assert test.latency_s.shape == (4,)
        assert test.spread_s[0] <= test.median_s <= test.spread_s[1]
        assert len(test.frame) == 9
        assert repr(test).startswith("LatencyTest(4 requests; median ")
        with pytest.raises(DeployError, match="repeats is 0"):
            latency_test(client, {"x": images()}, 0)

    def test_requests_end_when_their_median_is_known(self):
        steady = Scripted(3.0, 2.0, 2.5, *[1.0] * 9)  # the third is no quicker than the second
        found = [trace.latency_s for _, trace in requests(steady, [{"x": 0}], repeats=25, warm_up=10)]
        assert (found, len(steady.feeds)) == ([1.0] * 5, 8)
        uneasy = Scripted(*[1.0, 2.0] * 20)
        assert len(list(requests(uneasy, [{"x": 0}], repeats=25, warm_up=0))) == 25
        few = Scripted(*[3.0, 2.0, 1.0])
        assert [trace.latency_s for _, trace in requests(few, [{"x": 0}], repeats=1, warm_up=2)] == [1.0]

    def test_every_image_is_sent_unless_there_are_fewer_requests(self):
        steady = Scripted(*[1.0] * 20)
        assert [answer["y"] for answer, _ in requests(steady, [{"x": i} for i in range(8)], 25, 0)] == list(range(8))
        assert len(list(requests(steady, [{"x": i} for i in range(8)], 3, 0))) == 3

    def test_a_server_that_is_not_ours_tells_no_latency(self):
        with pytest.raises(DeployError, match="the server at here reports no latency"):
            latency_test(Scripted(math.nan), {"x": 0}, warm_up=0, progress=False)

    def test_smallest_dilation(self):
        assert smallest_dilation(SLOWDOWN) == DILATION
        assert smallest_dilation({"device": 10.0}) == 1.0
        assert smallest_dilation({}) == 1.0

    def test_a_real_host_is_not_dilated(self):
        real = Emulation()
        assert real.rest_s(0.5, 0.1) == 0.0
        assert real.compute_s(0.5) == 0.5
        assert real.transfer_s("edge", 10**9) == 0.0
        assert Emulation(2.0, 3.0).rest_s(0.5, 4.0) == -1.0


class TestWrongRequests:
    def test_all_problems_at_once(self, client):
        with pytest.raises(DeployError, match="3 problems") as caught:
            client.infer({"y": images(), "z": [1.0]})
        assert "input 'x' is missing" in str(caught.value)
        assert "there is no tensor 'y'" in str(caught.value)
        assert "'z' is a list, not a numpy array" in str(caught.value)

    @pytest.mark.parametrize(
        ("array", "text"),
        [
            (np.zeros((1, SIZE), "float32"), r"the shape \[1, 256\], not \[64, 256\]"),
            (np.zeros((ROWS, SIZE), "float64"), "the type float64, not float32"),
        ],
    )
    def test_wrong_arrays(self, client, array, text):
        with pytest.raises(DeployError, match=text):
            client.infer({"x": array})

    @pytest.mark.parametrize(
        ("name", "array", "datatype", "text"),
        [
            ("x", np.zeros((1, SIZE), "float32"), "FP32", r"the shape \[1, 256\], not \[64, 256\]"),
            ("x", np.zeros((ROWS, SIZE), "int32"), "INT32", "the type int32, not float32"),
            ("w", np.zeros((ROWS, SIZE), "float32"), "FP32", "there is no tensor 'w'"),
        ],
    )
    def test_the_server_checks_as_well(self, client, name, array, datatype, text):
        with triton.InferenceServerClient(client.address) as other:
            tensor = triton.InferInput(name, array.shape, datatype).set_data_from_numpy(array)
            with pytest.raises(InferenceServerException, match=text) as caught:
                other.infer("mlp", [tensor])
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"

    def test_other_refusals(self, client):
        x = triton.InferInput("x", (ROWS, SIZE), "FP32").set_data_from_numpy(images())
        with triton.InferenceServerClient(client.address) as other:
            with pytest.raises(InferenceServerException, match="the inputs 'x' are missing"):
                other.infer("mlp", [])
            with pytest.raises(InferenceServerException, match=r"there is no output 'hiden' .did you mean 'hidden'"):
                other.infer("mlp", [x], outputs=[triton.InferRequestedOutput("hiden")])
            with pytest.raises(InferenceServerException, match="there is no model 'mpl'"):
                other.infer("mpl", [x])
            with pytest.raises(InferenceServerException, match="version '9'"):
                other.infer("mlp", [x], model_version="9")

    def test_raw_contents_of_a_wrong_size(self, client):
        with grpc.insecure_channel(client.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            message = service_pb2.ModelInferRequest.FromString(infer_request("mlp", tensors={"x": images()}).encode())
            message.raw_input_contents[0] = b"1234"
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(message, timeout=10)
            assert "tensor 'x' holds 4 B, not 65536 B" in caught.value.details()
            del message.raw_input_contents[:]
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(message, timeout=10)
            assert "send every tensor as raw content" in caught.value.details()

    def test_a_failing_part_is_told_at_once_and_does_no_lasting_harm(self, lookup_client):
        started = time.monotonic()
        for _ in range(20):  # more than may be in flight: failed requests are cleared everywhere
            with pytest.raises(DeployError, match=r"INTERNAL: part 'gather' failed on 'edge': .*Gather"):
                lookup_client.infer({"index": np.array([99])})
        assert time.monotonic() - started < 20 * 15  # of 20 times 20
        assert lookup_client.infer({"index": np.array([3])})["value"] == [30.0]

    def test_too_many_requests_in_flight(self, mlp_bundle):
        with testbed(mlp_bundle, network(latency_s=0.15)) as client:
            outcomes = []

            def ask(seed):
                try:
                    assert_close(client.infer({"x": images(seed)}), images(seed))
                    outcomes.append("answered")
                except DeployError as error:
                    outcomes.append(str(error))

            with ThreadPoolExecutor(10) as pool:
                list(pool.map(ask, range(10)))
            assert outcomes.count("answered") == 8
            assert sum("RESOURCE_EXHAUSTED: 8 requests are in flight on 'device'" in text for text in outcomes) == 2
            assert_close(client.infer({"x": images()}), images())


class TestTrouble:
    def test_a_killed_stage_is_named_before_the_deadline(self, own_bundle):
        # the part on the edge lasts for ever, so that the edge dies while it computes
        with testbed(own_bundle, network(), {"edge": 1e6}, deadline_s=120.0) as client:
            started = time.monotonic()
            timer = threading.Timer(0.5, lambda: os.kill(stage_pids(own_bundle)["edge"], signal.SIGKILL))
            timer.start()
            with pytest.raises(DeployError, match=r"server 'edge' at .* is gone.*stage of 'edge' has ended with signal 9"):
                client.infer({"x": images()})
            timer.join()
            with pytest.raises(DeployError, match=r"server 'edge' at .* cannot be reached to send tensor 'h0'"):
                client.infer({"x": images()})
            os.kill(stage_pids(own_bundle)["device"], signal.SIGKILL)
            with pytest.raises(DeployError, match=r"UNAVAILABLE.*stage of 'device' has ended with signal 9"):
                client.infer({"x": images()})
            assert time.monotonic() - started < 100
        assert stage_pids(own_bundle) == {}

    def test_an_overdue_request_frees_all_stages(self, own_bundle):
        with testbed(own_bundle, network(), {"edge": 1e6}, deadline_s=1.0) as client:
            for _ in range(2):
                started = time.monotonic()
                told = r"the deadline of 1 s passed on .*'edge'.*, give a larger deadline_s"
                text = rf"DEADLINE_EXCEEDED: ({told}|no answer within deadline_s=1)"  # this where it is busy
                with pytest.raises(DeployError, match=text):
                    client.infer({"x": images()})
                assert time.monotonic() - started < 30  # the part itself lasts for hours

    def test_a_hung_stage_ends_the_request_within_the_deadline(self, own_bundle):
        with testbed(own_bundle, network(), deadline_s=5.0) as client:
            assert_close(client.infer({"x": images()}), images())
            silent = "'edge' (did not acknowledge tensor 'h0'|gives no sign of life)"
            for server, text in [("edge", silent), ("device", "DEADLINE_EXCEEDED")]:
                pid, started = stage_pids(own_bundle)[server], time.monotonic()
                os.kill(pid, signal.SIGSTOP)
                with pytest.raises(DeployError, match=text):
                    client.infer({"x": images()})
                assert time.monotonic() - started < 30  # it hangs for ever
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.3)
                assert_close(client.infer({"x": images()}), images())
            os.kill(pid, signal.SIGSTOP)  # a stopped stage is ended as well
        assert stage_pids(own_bundle) == {}

    def test_a_stage_that_acknowledges_and_stays_silent(self, lookup_bundle, tmp_path):
        class Mute(service_pb2_grpc.GRPCInferenceServiceServicer):
            def ServerLive(self, request, context):
                return service_pb2.ServerLiveResponse(live=True)

            def ModelInfer(self, request, context):
                return service_pb2.ModelInferResponse()

        server = grpc.server(ThreadPoolExecutor(2))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Mute(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        # a stage by itself, as on a real host: its peers are in the configuration and nothing is emulated
        try:
            with deployment(lookup_bundle, tmp_path, deadline_s=1.0) as one:
                stage = one.launch("device", peers={"edge": f"127.0.0.1:{port}"})
                wait_until(lambda: stage.address, 60)
                with Client(stage.address, "lookup", 10.0) as client:
                    wait_until(lambda: "not ready" not in message_of(client), 60)
                    told = message_of(client)
                    assert "the deadline of 1 s passed on 'device': tensor 'value' did not arrive from 'edge'" in told
                    assert told.endswith("; if it takes that long, give a larger deadline_s")
        finally:
            server.stop(0).wait(5)
        assert stage.process.returncode == 0

    def test_no_stage_is_left_after_an_exception(self, own_bundle):
        with pytest.raises(ZeroDivisionError), testbed(own_bundle, network()) as client:  # noqa: PT012
            assert set(stage_pids(own_bundle)) == set(NAMES)
            client.infer({"x": images()})
            raise ZeroDivisionError
        assert stage_pids(own_bundle) == {}
        with pytest.raises(DeployError, match="closed channel"):
            client.infer({"x": images()})

    def test_no_stage_is_left_when_the_test_bed_is_killed(self, own_bundle, tmp_path):
        script = f"""
            import os, signal, sys
            from pathlib import Path
            sys.path.insert(0, {str(TESTS)!r})
            from helpers.deployments import network, stage_pids
            from dnnsplit.cutting.bundle import Bundle
            from dnnsplit.deployment.testbed.testbed import testbed
            bundle = Bundle.load({str(own_bundle.folder)!r})
            with testbed(bundle, network()):
                print(*stage_pids(bundle).values(), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        environment = os.environ | {"TMPDIR": str(tmp_path)}  # it cannot clear its folder away
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        pids = [int(pid) for pid in run.stdout.split()]
        assert len(pids) == 3, run.stderr
        wait_until(lambda: not any(map(is_running, pids)), 60)

    def test_a_part_that_cannot_be_loaded(self, tmp_path):
        bundle = lookup(tmp_path)
        (tmp_path / "gather.onnx").write_bytes(b"no model")
        broken = replace(bundle, parts=(bundle.parts[0], replace(bundle.parts[1], sha256=sha256(b"no model"))))
        broken.save()
        text = "stage of 'edge' has ended with exit code 1; its stderr: part 'gather' cannot be run"
        with pytest.raises(DeployError, match=text), testbed(broken, network()):
            pass
        assert stage_pids(bundle) == {}

    def test_a_stage_that_is_not_ready_in_time(self, lookup_bundle, monkeypatch):
        monkeypatch.setattr(processes, "READY_S", 0.05)
        with pytest.raises(DeployError, match=r"is not ready after 0\.05 s"), testbed(lookup_bundle, network()):
            pass

    def test_nobody_listens(self):
        text = r"'mlp' at 127\.0\.0\.1:9: UNAVAILABLE"
        with Client("127.0.0.1:9", "mlp", 5.0) as client, pytest.raises(DeployError, match=text):
            client.infer({})


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"network": network(names=NAMES[:2], pairs=PAIRS[:1])}, "the server 'cloud' of the bundle is not in the network"),
            (
                {"network": network(pairs=[p for p in PAIRS if p != ("edge", "cloud")])},
                "'q1' goes from 'edge' to 'cloud', but the network has no link 'edge' -> 'cloud'",
            ),
            ({"slowdown": {"egde": 2.0}}, "slowdown names 'egde', which is no server .did you mean 'edge'"),
            ({"slowdown": {"edge": 0.0}}, "the slowdown of 'edge' is 0.0"),
            ({"slowdown": {"edge": "fast"}}, r"slowdown\['edge'\] is 'fast'"),
            ({"time_dilation": 0.5}, "time_dilation is 0.5"),
            ({"deadline_s": float("inf")}, "deadline_s is inf"),
            ({"kind": "docker"}, "no test-bed of the kind 'docker' .there is: 'emulated'"),
        ],
    )
    def test_they_are_checked(self, mlp_bundle, arguments, text):
        with pytest.raises(DeployError, match=text), testbed(mlp_bundle, **({"network": network()} | arguments)):
            pass

    def test_a_deadline_of_a_client(self):
        with pytest.raises(DeployError, match="deadline_s is 0"):
            Client("127.0.0.1:9", "mlp", 0)


def message_of(client):
    try:
        client.infer({"index": np.array([1])})
    except DeployError as error:
        return str(error)
    return ""
