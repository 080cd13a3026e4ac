"""What a link really gives, measured over the channel that a deployment uses: latency, bandwidth, and packing per byte."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np

from dnnsplit.deployment.hosts import joined
from dnnsplit.deployment.wire.channels import SERVICE, Stub, Tls, listen, server_options
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import PROBE, acknowledge, infer_request, tensors_of
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, NetworkError
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Link, Network

ANSWERED_BYTES = 2**26  # largest tensor of a message that `answer_probes` takes [B]
HEAD_BYTES = 2**12  # of a message, beside its tensor [B]
LONG_S = 0.25  # messages grow until one takes this long
FIRST_BYTES = 2**16
PATIENCE = 10  # as many times the rounds are made, where the machine is too busy for the link to be seen


@dataclass(frozen=True)
class Probe:
    """A measured link, from here to `address`.

    Attributes
    ----------
    address : str
        ``host:port`` that was asked.
    latency_s : float
        Half of what an empty message and its answer take, at their fastest [s].
    bandwidth_bytes_per_s : float
        [B/s], without what packing takes.
    serialise_s_per_byte : float
        Packing and unpacking a tensor on this machine [s/B].
    largest_bytes : int
        Largest message that was sent [B].
    """

    address: str
    latency_s: float
    bandwidth_bytes_per_s: float
    serialise_s_per_byte: float
    largest_bytes: int

    def link(self, source: str, target: str) -> Link:
        """Return the link of a network that was measured."""
        note = f"measured by dnnsplit probe {self.address}, messages up to {show(self.largest_bytes, 'B')}"
        return Link(source, target, self.bandwidth_bytes_per_s, self.latency_s, self.serialise_s_per_byte, note)

    def write(self, path: str | Path, source: str, target: str) -> None:
        """Put the link into a network YAML, in the place of the one that is there."""
        network = Network.load(path)
        for name in (source, target):
            network.server(name)
        if source == target:
            message = f"a link inside {source!r} is not what was measured; name two servers"
            raise NetworkError(message)
        link = self.link(source, target)
        kept = [link if (old.source, old.target) == (source, target) else old for old in network.links]
        if link not in kept:
            kept.append(link)
        replace(network, links=tuple(kept)).save(path)

    def __str__(self) -> str:
        return (
            f"{self.address}: latency {show(self.latency_s, 's')}, bandwidth {show(self.bandwidth_bytes_per_s, 'B/s')}, "
            f"packing {self.serialise_s_per_byte * 1e9:.3g} ns/B (messages up to {show(self.largest_bytes, 'B')})"
        )


def probe(
    address: str, repeats: int = 10, most_bytes: int = 2**24, deadline_s: float = 30.0, tls: Tls | None = None, server: str = ""
) -> Probe:
    """Measure the link from here to a stage, or to a host that runs `answer_probes`.

    The time of a message of b bytes is fitted as 2 latency + b / bandwidth + b * packing; of every size the fastest counts.

    Parameters
    ----------
    address : str
        ``host:port``.
    repeats : int, default 10
        Rounds of messages of each size; ten times as many at most, while a busy machine hides what the size adds.
    most_bytes : int, optional
        Largest message [B]; a stage takes no more than its bundle needs, `answer_probes` 64 MiB, and then their limit counts.
    deadline_s : float, default 30.0
        Limit on each message [s].
    tls : Tls | None, optional
        Files that secure the connection.
    server : str, default ""
        Name of the other server, which its certificate has to carry where they are `Tls.named`.

    Raises
    ------
    DeployError
        Nobody answers there, or messages of all sizes take the same time in all rounds.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import queue, threading
    >>> started, stop = queue.Queue(), threading.Event()
    >>> asked = {"port": 0, "started": started.put, "stop": stop}
    >>> host = threading.Thread(target=ds.answer_probes, kwargs=asked)
    >>> host.start()
    >>> found = ds.probe(started.get(), most_bytes=2**20)
    >>> stop.set()
    >>> host.join()
    >>> found.latency_s > 0
    True
    """
    check_arguments(probe, locals(), above={"deadline_s": 0}, finite=("deadline_s",), some=("address",))
    if repeats < 1 or most_bytes < 2 * FIRST_BYTES:
        message = f"repeats is {repeats!r} and most_bytes {most_bytes!r}; give at least 1 and {2 * FIRST_BYTES}"
        raise DeployError(message)
    with message_timer(address, deadline_s, tls, server) as seconds:
        for _ in range(3):  # opens the connection
            seconds(1)
        size = _largest(seconds, most_bytes)
        empty_s = full_s = packed_s = bare_s = math.inf
        per_byte, rounds = 0.0, 0
        while rounds < repeats or (per_byte <= 0 and rounds < PATIENCE * repeats):
            # all in turn, so that a busy moment of a machine falls on each of them
            empty_s, full_s = min(empty_s, *(seconds(1) for _ in range(3))), min(full_s, seconds(size))
            packed_s, bare_s = min(packed_s, _packing(size)), min(bare_s, _packing(1))
            packing = max(0.0, packed_s - bare_s) / size
            per_byte, rounds = (full_s - empty_s) / size - packing, rounds + 1
    if per_byte <= 0:
        message = (
            f"{address}: in {rounds} rounds {size} B took no longer than 1 B, apart from packing; "
            f"repeat it when both machines are less busy, or raise most_bytes (here {most_bytes})"
        )
        raise DeployError(message)
    return Probe(address, empty_s / 2, 1 / per_byte, packing, size)


@contextmanager
def message_timer(address: str, deadline_s: float, tls: Tls | None = None, server: str = "") -> Iterator[Callable[[int], float]]:
    """Return what tells the seconds that a message of so many bytes [B] and its answer take, over one connection; see `probe`."""
    with closing(Stub(address, tls=tls, name=server)) as stub:

        def seconds(size: int) -> float:
            message = infer_request(PROBE, tensors={"x": np.ones(size, np.uint8)})
            started = time.perf_counter()
            stub.infer(message, timeout=deadline_s)
            return time.perf_counter() - started

        try:
            yield seconds
        except grpc.RpcError as error:
            text = f"{address}: {error.code().name}: {error.details()}; is a stage or a probe running there?"
            raise DeployError(text) from None


def answer_probes(host: str = "127.0.0.1", port: int = 7000, tls: Tls | None = None,
                  started: Callable[[str], None] = print, stop: threading.Event | None = None) -> None:  # fmt: skip
    """Answer the messages of `probe` until interrupted, or until `stop` is set; `started` is told ``host:port``.

    Parameters
    ----------
    host, port : str, int
        Where to listen; by default this machine alone can call, port 0 lets the system choose.
    tls : Tls | None, optional
        Files that secure the connection; None for a plain one.
    started : Callable[[str], None], optional
        Is called with ``host:port`` once it listens.
    stop : threading.Event | None, optional
        Ends it when it is set; without one, Ctrl-C does.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import queue, threading
    >>> started, stop = queue.Queue(), threading.Event()
    >>> asked = {"port": 0, "started": started.put, "stop": stop}
    >>> host = threading.Thread(target=ds.answer_probes, kwargs=asked)
    >>> host.start()
    >>> found = ds.probe(started.get(), most_bytes=2**20)
    >>> stop.set()
    >>> host.join()
    >>> found.bandwidth_bytes_per_s > 0
    True
    """
    check_arguments(answer_probes, locals(), least={"port": 0}, most={"port": 65535})
    server = grpc.server(ThreadPoolExecutor(2), options=server_options(ANSWERED_BYTES + HEAD_BYTES), maximum_concurrent_rpcs=16)
    answer = grpc.unary_unary_rpc_method_handler(lambda message, _: acknowledge(message), Infer.request, Infer.encode)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": answer}),))
    port = listen(server, host, port, tls)
    server.start()
    try:
        started(joined(host, port))
        (stop or threading.Event()).wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop(0)


def _largest(seconds: Callable[[int], float], most_bytes: int) -> int:
    """Return the size of the first message that takes `LONG_S`, or the largest that is taken."""
    size = FIRST_BYTES
    while 2 * size <= most_bytes and (seconds(size) < LONG_S or seconds(size) < LONG_S):  # a busy moment is no slow link
        try:
            seconds(2 * size)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # larger than a stage takes
                return size
            raise
        size *= 2
    return size


def _packing(size: int) -> float:
    """Seconds that encoding and decoding a message take here [s]."""
    array = np.ones(size, np.uint8)
    started = time.perf_counter()
    read = Infer.request(infer_request(PROBE, tensors={"x": array}).encode())
    tensors_of(read.head.inputs, read.contents, {"x": ("uint8", (size,))})
    return time.perf_counter() - started
