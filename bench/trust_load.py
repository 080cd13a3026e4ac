"""Requests under load, faults and strangers: which were right, refused with a reason, wrong or late, and what stages hold after.

python bench/trust_load.py                  10 000 requests of 8 clients
python bench/trust_load.py --requests 1000  fewer
"""

from __future__ import annotations

import argparse
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from dnnsplit.deployment.wire.channels import SERVICE, Stub
from dnnsplit.deployment.wire.messages import infer_request
from dnnsplit.ground.errors import DeployError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.bundle_models import ROWS, SIZE, mlp, mlp_numpy
from helpers.processes import wait_until
from helpers.standalone import Deployment, deployment, state_of

CLIENTS = 8
DEADLINE_S, LATE_S = 10.0, 1.0  # of a request, and how much later than that its end is late [s]
STOP_S = 2.0  # that a stage is held [s]
PAUSE_S = 0.02  # of a stranger between two messages, and of a client after a refusal [s]
FAULTS = ("device stopped", "edge stopped", "cloud stopped", "edge killed", "cloud killed", "device killed")
H0 = {"h0": np.zeros((ROWS, SIZE), "float32")}


class Load:
    """Clients that ask until so many requests have ended, and how these ended."""

    def __init__(self, one: Deployment, requests: int) -> None:
        self.one, self.left, self.lock = one, requests, threading.Lock()
        self.found: Counter[str] = Counter()
        self.texts: Counter[str] = Counter()
        self.slowest = 0.0
        self.threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(CLIENTS)]

    def run(self) -> None:
        """Ask, and wait until all have ended."""
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()

    def _ask(self, number: int) -> None:
        x = np.random.default_rng(number).normal(0, 1, (ROWS, SIZE)).astype("float32")
        wanted = mlp_numpy(x)
        with self.one.client(DEADLINE_S) as client:
            while self._takes():
                started = time.monotonic()
                try:
                    found = client.infer({"x": x})
                except DeployError as error:
                    how = "refused"
                    self.texts[str(error).partition(": ")[2][:260]] += 1
                else:
                    close = np.allclose(found["y"], wanted[0], atol=0.1) and np.allclose(found["hidden"], wanted[1], atol=0.1)
                    how = "right" if close else "wrong"
                took_s = time.monotonic() - started
                with self.lock:
                    self.found["late" if took_s > DEADLINE_S + LATE_S else how] += 1
                    self.slowest = max(self.slowest, took_s)
                if how == "refused":
                    time.sleep(PAUSE_S)

    def _takes(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0


class Strangers:
    """Clients of nobody, who send what a deployment does not want, until the block ends."""

    def __init__(self, one: Deployment) -> None:
        self.one, self.ended, self.sent = one, threading.Event(), Counter[str]()
        kinds: list[Callable[[], Iterator[Any]]] = [
            self.invented, self.odd_times, self.measures, self.readiness, self.half_open, self.bombs, self.rubbish, self.large,
        ]  # fmt: skip
        self.threads = [threading.Thread(target=self._send, args=(kind,), daemon=True) for kind in kinds]

    def __enter__(self) -> Strangers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def _send(self, kind: Callable[[], Iterator[Any]]) -> None:
        while not self.ended.is_set():
            with suppress(grpc.RpcError, DeployError):
                for _ in kind():
                    self.sent[kind.__name__] += 1
                    if self.ended.wait(PAUSE_S):
                        return

    @contextmanager
    def stub(self) -> Iterator[Stub]:
        """A connection to any stage."""
        with closing(Stub(random.choice([*self.one.addresses.values()]))) as stub:
            yield stub

    def messages(self, *messages: Any, **options: Any) -> Iterator[Any]:
        """Send some, and take whatever is answered."""
        with self.stub() as stub:
            for message in messages:
                with suppress(grpc.RpcError):
                    stub.infer(message, timeout=5, **options)
                yield message

    def invented(self) -> Iterator[Any]:
        """Tensors of requests that nobody made."""
        for _ in range(20):
            yield from self.messages(infer_request("mlp/tensors", os.urandom(8).hex(), H0, {"remaining_s": 60.0}))

    def odd_times(self) -> Iterator[Any]:
        """Times that are none."""
        times = (math.nan, math.inf, -1.0)
        yield from self.messages(*(infer_request("mlp/tensors", "odd", H0, {"remaining_s": seconds}) for seconds in times))

    def measures(self) -> Iterator[Any]:
        """Measurements that would take all memory."""
        yield from self.messages(infer_request("mlp/measure", parameters={"target": "edge", "size_bytes": 3e9}))

    def readiness(self) -> Iterator[Any]:
        """Questions whether all are ready, many at a time."""
        with self.stub() as stub:
            asked = [stub.ModelReady.future(service_pb2.ModelReadyRequest(name="mlp"), timeout=5) for _ in range(50)]
            for future in asked:
                future.exception()
            yield asked

    def half_open(self) -> Iterator[Any]:
        """Calls whose message never comes."""
        with grpc.insecure_channel(random.choice([*self.one.addresses.values()])) as channel:
            call = channel.stream_unary(f"/{SERVICE}/ModelInfer")

            def nothing() -> Iterator[bytes]:
                self.ended.wait(2)
                yield from ()

            silent = call.future(nothing(), timeout=1)
            silent.exception()
            yield silent

    def bombs(self) -> Iterator[Any]:
        """Half a gigabyte of zeros in a few hundred kilobytes."""
        message = infer_request("mlp", tensors={"x": np.zeros(2**29, np.uint8)}).encode()
        address, unlimited = random.choice([*self.one.addresses.values()]), [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(address, unlimited) as channel:
            with suppress(grpc.RpcError):
                channel.unary_unary(f"/{SERVICE}/ModelInfer")(message, timeout=20, compression=grpc.Compression.Gzip)
            yield message
            self.ended.wait(3)

    def rubbish(self) -> Iterator[Any]:
        """Bytes that are no message."""
        with grpc.insecure_channel(random.choice([*self.one.addresses.values()])) as channel:
            for _ in range(10):
                with suppress(grpc.RpcError):
                    channel.unary_unary(f"/{SERVICE}/ModelInfer")(os.urandom(300), timeout=5)
                yield channel

    def large(self) -> Iterator[Any]:
        """Requests as large as they may be, with tensors that nobody asked for."""
        extra = {"y": np.zeros((ROWS, SIZE), "float32"), "z": np.zeros(2**18, np.uint8)}
        yield from self.messages(*(infer_request("mlp", tensors=extra) for _ in range(5)))


def faults(one: Deployment, load: Load, requests: int) -> None:
    """Stop and kill every stage, spread over the load."""
    for number, fault in enumerate(FAULTS, 1):
        while load.left > requests * (1 - number / (len(FAULTS) + 1)):
            time.sleep(0.05)
        server, how = fault.split()
        if how == "stopped":
            pid = one.stages[server].process.pid
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STOP_S)
            os.kill(pid, signal.SIGCONT)
        else:
            one.kill(server)
            again = Deployment.launch(one, server, f"{server} again")
            one.stages[server] = one.stages.pop(f"{server} again")
            wait_until(lambda again=again: again.address, 60)


def loaded(requests: int = 10_000) -> list[dict[str, Any]]:
    """Run all; return a row for the requests, and one for each stage."""
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "cut"
        cut.mkdir()
        with deployment(mlp(cut), Path(folder) / "stages", deadline_s=DEADLINE_S) as one:
            one.start()
            Load(one, 500).run()  # everything is loaded and has its buffers
            before = {name: state_of(stage.process.pid) for name, stage in one.stages.items()}
            load = Load(one, requests)
            breaker = threading.Thread(target=faults, args=(one, load, requests))
            with Strangers(one) as strangers:
                breaker.start()
                load.run()
                breaker.join()
            time.sleep(LATE_S)  # what strangers left is cleared away
            rest = Load(one, 500)
            rest.run()
            after = {name: state_of(stage.process.pid) for name, stage in one.stages.items()}
    others = sum(strangers.sent.values())
    print(f"{requests} requests of {CLIENTS} clients beside {others} messages of strangers, {len(FAULTS)} faults")
    print("   " + ", ".join(f"{load.found[how]} {how}" for how in ("right", "refused", "wrong", "late")),
          f"- slowest {load.slowest:.2f} s of {DEADLINE_S:g}; after it {rest.found['right']} of 500 right")  # fmt: skip
    for text, count in load.texts.most_common(8):
        print(f"   refused {count} times: {text}")
    rows: list[dict[str, Any]] = [{"what": "requests", **{how: load.found[how] for how in ("right", "refused", "wrong", "late")},
                                   "slowest_s": load.slowest, "strangers": dict(strangers.sent)}]  # fmt: skip
    for name in before:
        (memory, threads, sockets), (memory_, threads_, sockets_) = before[name], after[name]
        ratio = memory_ / memory
        print(f"   {name}: {memory / 1e6:.0f} -> {memory_ / 1e6:.0f} MB ({ratio:.2f} x), {threads} -> {threads_} threads, "
              f"{sockets} -> {sockets_} sockets")  # fmt: skip
        rows.append({"what": name, "memory_ratio": ratio, "threads": threads_ - threads, "sockets": sockets_ - sockets})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="that are asked in all")
    loaded(parser.parse_args().requests)
