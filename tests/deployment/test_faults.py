"""What breaks, with real processes: the client hears it in time, the others go on, and what comes back is used again."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from helpers.bundle_models import mlp_numpy
from helpers.deployments import assert_close, images
from helpers.processes import wait_until
from helpers.standalone import Cable, deployment, free_ports, state_of
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dnnsplit.deployment.client import Client
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.wire.messages import infer_request
from dnnsplit.ground.errors import DeployError


def ask(client, index):
    """The table has 10 * index."""
    return float(client.infer({"index": np.array([index])})["value"][0])


def test_a_thousand_requests_with_a_stage_killed_and_started_again(lookup_bundle, tmp_path):
    """Every request is answered, rightly, or refused in time; nothing piles up."""
    with deployment(lookup_bundle, tmp_path) as one, one.start().client(deadline_s=5.0) as client:
        answered, refused, slowest = [], [], 0.0
        lock = threading.Lock()

        def request(number):
            nonlocal slowest
            started = time.monotonic()
            try:
                value, problem = ask(client, number % 5), ""
            except DeployError as error:
                value, problem = None, str(error)
            with lock:
                slowest = max(slowest, time.monotonic() - started)
                if problem:
                    refused.append(problem)
                else:
                    answered.append(value == 10.0 * (number % 5))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(request, range(200)))
            before = {name: state_of(stage.process.pid) for name, stage in one.stages.items()}
            assert (len(answered), refused) == (200, [])
            rest = [pool.submit(request, number) for number in range(200, 600)]
            wait_until(lambda: len(answered) > 250, 60)
            one.kill("edge")
            wait_until(lambda: len(refused) > 5, 60)
            one.start("edge")
            for future in rest:
                future.result()
            wait_until(lambda: answers(client), 60)  # the stage is used again
            seen = len(refused)
            list(pool.map(request, range(600, 1000)))
            assert len(refused) == seen
        assert len(answered) + len(refused) == 1000
        assert all(answered)
        assert all("'edge'" in problem for problem in refused), refused
        assert slowest < 6.0
        after = state_of(one.stages["device"].process.pid)
        memory, threads, sockets = (b - a for a, b in zip(before["device"], after, strict=True))
        assert memory < 30e6
        assert threads <= 8  # gRPC starts and ends some of its own
        assert sockets <= 3


def answers(client):
    try:
        return ask(client, 1) == 10.0
    except DeployError:
        return False


@pytest.mark.parametrize("path", ["from the source", "from another stage"])
def test_a_request_that_a_stage_took_before_it_was_started_anew(mlp_bundle, tmp_path, path):
    """Another process stands at the same address, before anybody asks whether the old one is alive."""
    lost, sender = ("edge", "device") if path == "from the source" else ("cloud", "edge")
    with deployment(mlp_bundle, tmp_path, deadline_s=60.0) as one, ThreadPoolExecutor(1) as pool:
        cable, spare = Cable(one.addresses[lost]), free_ports(1)[0]
        one.launch(lost, emulation=Emulation(1e5))  # its part lasts for ever
        again = one.launch(lost, "again", port=spare)
        for name in set(one.bundle.stages) - {lost}:
            one.seen = one.addresses | ({lost: cable.address} if name == sender else {})
            one.launch(name)
        wait_until(lambda: again.address and one.ready(), 60)
        with one.client(deadline_s=60.0) as client:
            client.metadata  # noqa: B018
            started = time.monotonic()
            answer = pool.submit(client.infer, {"x": images()})
            time.sleep(0.2)
            cable.target = spare
            cable.cut()
            cable.mend()
            with pytest.raises(DeployError, match=rf"UNAVAILABLE: server '{lost}' at {cable.address} was started anew"):
                answer.result(60)
            assert time.monotonic() - started < 50  # of 60
        cable.cut()


def test_a_link_that_is_cut_and_comes_back(lookup_bundle, tmp_path):
    with deployment(lookup_bundle, tmp_path, deadline_s=5.0) as one:
        cable = Cable(one.addresses["edge"])
        one.seen["edge"] = cable.address
        with one.start().client() as client:
            assert ask(client, 2) == 20.0
            cable.cut()
            # not DEADLINE_EXCEEDED: it is told before
            with pytest.raises(DeployError, match=r"UNAVAILABLE: server 'edge' at .* cannot be reached to send tensor 'same'"):
                ask(client, 2)
            cable.mend()
            wait_until(lambda: answers(client), 60)
            cable.hold()  # packets are lost, nobody is told
            started = time.monotonic()
            with pytest.raises(DeployError, match=r"DEADLINE_EXCEEDED.*'edge'"):
                ask(client, 3)
            assert time.monotonic() - started < 30  # without a deadline, for ever
            cable.release()
            wait_until(lambda: answers(client), 60)
            assert ask(client, 4) == 40.0
        cable.cut()


def test_a_slow_client_keeps_nobody_waiting(running):
    cable = Cable(running.addresses["device"])
    cable.bytes_per_s = 4_000  # 64 KiB there and 128 KiB back would take most of a minute
    with Client(cable.address, "mlp", 120.0) as slow, running.client() as quick, ThreadPoolExecutor(1) as pool:
        future = pool.submit(slow.infer, {"x": images(1)})
        time.sleep(0.2)
        for seed in range(5):
            assert_close(quick.infer({"x": images(seed)}), images(seed))
        assert not future.done()
        cable.bytes_per_s = None
        assert_close(future.result(60), images(1))
    cable.cut()


def test_a_client_that_leaves_frees_its_place(running):
    cable, pid = Cable(running.addresses["device"]), running.stages["cloud"].process.pid
    with Client(cable.address, "mlp", 30.0) as gone, running.client() as quick, ThreadPoolExecutor(12) as pool:
        gone.infer({"x": images()})
        os.kill(pid, signal.SIGSTOP)  # so that they wait
        try:
            futures = [pool.submit(gone.infer, {"x": images()}) for _ in range(12)]
            wait_until(lambda: sum(future.done() for future in futures) == 4, 60)  # 8 are in flight, which is the limit
            assert "RESOURCE_EXHAUSTED" in problem(quick, 5.0)
            cable.cut()
            for future in futures:
                with pytest.raises(DeployError, match=r"UNAVAILABLE|RESOURCE_EXHAUSTED"):
                    future.result(60)
            wait_until(lambda: "RESOURCE_EXHAUSTED" not in problem(quick, 0.5), 60)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not problem(quick, 5.0), 60)


def problem(client, deadline_s):
    """What a request ends with; empty when it is answered."""
    with Client(client.address, "mlp", deadline_s) as one:
        try:
            one.metadata  # noqa: B018
            one.infer({"x": images()})
        except DeployError as error:
            return str(error)
    return ""


def test_a_message_that_is_too_large(running):
    with grpc.insecure_channel(running.addresses["device"]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        message = service_pb2.ModelInferRequest(model_name="mlp", raw_input_contents=[bytes(4 * 2**20)])
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(message, timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in caught.value.details()
    with running.client() as client:
        assert_close(client.infer({"x": images()}), images())


@pytest.mark.parametrize("garbage", [b"\xff" * 64, b"\x3a\xff\xff\xff\xff\x0f", b"\x0a", b"\x0b\x00", b"\x0a\x02\xff\xfe"])
@pytest.mark.parametrize("server", ["device", "edge"])
def test_garbage_instead_of_a_message(running, garbage, server):
    with grpc.insecure_channel(running.addresses[server]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(garbage, timeout=10)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "are no ModelInferRequest" in caught.value.details()


def test_garbage_instead_of_grpc(running):
    host, port = running.addresses["device"].split(":")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)):
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(garbage)
            raw.settimeout(10)
            try:
                while raw.recv(4096):
                    pass  # it says what it has to say, and hangs up
            except ConnectionError:
                pass
    with running.client() as client:
        assert_close(client.infer({"x": images()}), images())


def test_a_stage_checks_what_other_stages_send(running):
    wrong = {
        "there is no tensor 'h9'": ("h9", np.zeros((64, 256), "float32")),
        "the type float64, not float32": ("h0", np.zeros((64, 256), "float64")),
        r"the shape [2, 2], not [64, 256]": ("h0", np.zeros((2, 2), "float32")),
    }
    with grpc.insecure_channel(running.addresses["edge"]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for text, (name, array) in wrong.items():
            with pytest.raises(grpc.RpcError) as caught:
                call(infer_request("mlp/tensors", "one", {name: array}, {"remaining_s": 5.0}).encode(), timeout=10)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert text in caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:
            call(infer_request("mlp", tensors={"x": images()}).encode(), timeout=10)
        assert "this is 'edge'; requests go to 'device'" in caught.value.details()


def test_a_repeated_request_is_answered_again_and_a_repeated_tensor_counts_once(running):
    import tritonclient.grpc as triton

    x = images(4)
    with triton.InferenceServerClient(running.addresses["device"]) as client:
        tensor = triton.InferInput("x", x.shape, "FP32").set_data_from_numpy(x)
        for _ in range(2):
            result = client.infer("mlp", [tensor], request_id="same")
            np.testing.assert_allclose(result.as_numpy("y"), mlp_numpy(x)[0], atol=0.1)
        done = []
        call = client.async_infer("mlp", [tensor], lambda result, error: done.append((result, error)), request_id="same")
        client.infer("mlp", [tensor], request_id="same")
        wait_until(lambda: done, 60)
        assert done[0][1] is None
        del call
    with grpc.insecure_channel(running.addresses["cloud"]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        message = infer_request("mlp/tensors", "twice", {"h0": np.zeros((64, 256), "float32")}, {"remaining_s": 0.3}).encode()
        for _ in range(3):
            call(message, timeout=10)
    with running.client() as client:
        assert_close(client.infer({"x": x}), x)


def test_a_hung_stage_and_requests_that_go_on_after_it(lookup_bundle, tmp_path):
    with deployment(lookup_bundle, tmp_path, deadline_s=1.0) as one, one.start().client() as client:
        pid = one.stages["edge"].process.pid
        os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(DeployError, match="'edge'"):
            ask(client, 1)
        assert time.monotonic() - started < 30  # without a deadline, for ever
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: answers(client), 60)


def test_a_port_that_is_taken(lookup_bundle, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with deployment(lookup_bundle, tmp_path) as one:
            stage = one.launch("edge", port=port)
            assert stage.process.wait(60) == 1
        assert f"cannot listen on 127.0.0.1:{port}" in stage.tail
        assert "choose port 0 or a free one" in stage.tail


def test_a_stage_started_twice_is_refused_by_its_port(lookup_bundle, tmp_path):
    with deployment(lookup_bundle, tmp_path) as one:
        one.start()
        assert one.launch("edge", "again").process.wait(60) == 1
        with one.client() as client:
            assert ask(client, 1) == 10.0
