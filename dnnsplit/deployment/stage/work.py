"""The work of one stage: buffer the tensors of a request, run the parts whose inputs are there, send what others need.

A tensor that crosses in another form than it is made in is written before it takes its turn on the link, and read after it was
acknowledged. A server does one thing at a time: run a part, write a tensor, or read one.

Emulation: with a slowdown, each of these is made to last `CPU seconds * slowdown * time_dilation`; with a link, a transfer of b
bytes is made to last `(latency_s + b / bandwidth + b * serialise_s_per_byte) * time_dilation`, the real send included.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from dnnsplit.codecs.pixels import Malformed, Unfit
from dnnsplit.cutting.bundle import Bundle, Part
from dnnsplit.deployment.stage.buffers import START, Peer, Request, Sending, explain, in_order
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.stage.images import read_images
from dnnsplit.deployment.wire.channels import Tls, instance_of
from dnnsplit.deployment.wire.messages import (
    LONGEST_ERROR,
    Elements,
    PartRecord,
    ReadRecord,
    Records,
    Refusal,
    TransferRecord,
    earlier,
    infer_request,
    mismatch,
    set_parameter,
)
from dnnsplit.ground.errors import DeployError

CONTROL_S = 5.0  # limit on a message without tensors
SETTLE_S = 1.0  # how long the end of a request waits for acknowledgements that are still on their way
PATIENCE_S = 0.4  # age of a request from which on the other stages are asked whether they are alive
REMEMBERED = 256  # ended requests whose late tensors are recognised and dropped
Found = TypeVar("Found")


class Spent(NamedTuple):
    """What something took on this server: compute time, duration and overrun, all in emulated seconds [s]."""

    cpu_s: float
    wall_s: float
    overrun_s: float


class Job(NamedTuple):
    """Something for the one processor of a server to do."""

    request: Request
    what: str
    do: Callable[[], None]


class Runner:
    """Buffers, one compute thread and one sender thread per link.

    Parameters
    ----------
    bundle, server : Bundle, str
        What is run, and which of its servers this is.
    emulation : Emulation
        Pace of this server and of the links that leave it.
    sessions : Mapping[str, Any]
        Part name -> onnxruntime session, filled before the first request.
    """

    def __init__(self, bundle: Bundle, server: str, emulation: Emulation, sessions: Mapping[str, Any]) -> None:
        self.bundle, self.server, self.emulation, self.sessions = bundle, server, emulation, sessions
        self.is_source, self.clock = server == bundle.source, time.thread_time  # a stage sets its provider's clock
        self.parts = [part for part in bundle.parts if part.server == server]
        self.routes, self.producers = bundle.routes, bundle.producers
        self.wires = bundle.wire_by_name
        self.kinds = {name: (wire.dtype, wire.shape) for name, wire in self.wires.items()}
        self.awaited = [output.wire for output in bundle.outputs] if self.is_source else []
        # no tensor that arrives need start a part without inputs, so the source tells its stage of the request
        self.starts = {part.server for part in bundle.parts if not part.inputs} - {server} if self.is_source else set()
        self.peers: dict[str, Peer] = {}
        self.requests: dict[str, Request] = {}
        self.ended: deque[str] = deque(maxlen=REMEMBERED)
        self.state = threading.Condition()
        # one computes, and one sends over a link, at a time: whoever shares a server and its links shares these
        self.turns = {name: threading.Lock() for name in bundle.servers}
        self.work: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.told: set[Any] = set()
        self.observe: Callable[[list[TransferRecord]], None] = lambda transfers: None  # told of every answered request
        self.threads: list[threading.Thread] = []
        self._start("compute", self._work_all)

    def connect(self, addresses: Mapping[str, str], tls: Tls | None = None) -> None:
        """Open a channel and a sender thread to every other stage: server -> ``host:port``."""
        for name in self.bundle.stages:
            if name != self.server:
                peer = self.peers[name] = Peer(name, addresses[name], self.bundle.largest_message_bytes, tls)
                self._start(f"send to {name}", self._send_all, peer)

    def close(self) -> None:
        """End all requests, threads and channels."""
        for request in list(self.requests.values()):
            self.fail(request, grpc.StatusCode.UNAVAILABLE, f"{self.server!r} was told to end")
        self.work.put(None)
        for peer in self.peers.values():
            peer.queue.put(None)
            peer.stub.close()
        for thread in self.threads:
            thread.join(SETTLE_S)

    def _start(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        self.threads.append(threading.Thread(target=target, args=arguments, name=name, daemon=True))
        self.threads[-1].start()

    def join(self, identity: str, remaining_s: float, limit_s: float, limit: int) -> Request | None:
        """Return the buffer of a request, a new one if need be; None when the request has ended already."""
        with self.state:
            return None if identity in self.ended else self.open(identity, remaining_s, limit_s, limit)

    def open(self, identity: str, remaining_s: float, limit_s: float, limit: int) -> Request:
        """Return the buffer of a request that has not ended, a new one if need be, and start the parts that need no inputs.

        Raises
        ------
        Refusal
            RESOURCE_EXHAUSTED when `limit` requests are in flight.
        """
        with self.state:
            if identity not in self.requests:
                if len(self.requests) >= limit:
                    text = f"{limit} requests are in flight on {self.server!r}, which is the limit; try again later"
                    raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
                request = self.requests[identity] = Request(identity, remaining_s, limit_s, self.parts)
                request.sending += len(self.starts)
                for target in self.starts:
                    self.peers[target].queue.put(Sending(request, START))
                self._run(request, request.due())
            return self.requests[identity]

    def deliver(self, request: Request, name: str, array: np.ndarray, came: Elements | None = None) -> None:
        """Take a tensor that has come into being or has arrived: start the parts that waited for it, send it on.

        `came` is what it was read from, where that may be passed on as it is.
        """
        with self.state:
            if request.dropped.is_set() or name in request.tensors:
                return  # a tensor that comes again is not sent on again
            self._send_on(request, name, array, came)
            self._keep(request, name, array)

    def take(self, request: Request, name: str, given: np.ndarray | Elements) -> None:
        """Take a graph input at the source, as an array or as encoded images."""
        if isinstance(given, Elements):
            self._do(request, f"reading the images of {name!r}", lambda: self._take_images(request, name, given))
        elif (form := self.bundle.forms.get((name, self.server, self.server))) is not None:
            with self.state:
                self._send_on(request, name, given)
            self._do(request, f"writing {name!r} as {form}", lambda: self._keep_what_is_left(request, name, given, form))
        else:
            self.deliver(request, name, given)

    def receive(self, request: Request, name: str, came: np.ndarray | Elements) -> None:
        """Take a tensor that another stage sent."""
        if isinstance(came, Elements):
            self._do(request, f"reading {name!r} as {came.form}", lambda: self._read(request, name, came))
        else:
            self.deliver(request, name, came)

    def _keep(self, request: Request, name: str, array: np.ndarray) -> None:
        with self.state:
            request.tensors[name] = array
            self.state.notify_all()
            self._run(request, request.due())

    def _send_on(self, request: Request, name: str, array: np.ndarray, came: Elements | None = None) -> None:
        """Send a tensor to the servers that get it from this one, in its form for each of them."""
        targets = self.routes.get((name, self.server), ())
        request.sending += len(targets)
        for target in targets:
            peer, form = self.peers[target], self.bundle.forms.get((name, self.server, target))
            if form is None or (came is not None and came.form == form):
                peer.queue.put(Sending(request, name, came if form else array, form or self.wires[name].plain))
            else:
                write = partial(self._write, request, name, array, peer, form)
                self._do(request, f"writing {name!r} as {form}", write)

    def wait(self, request: Request) -> None:
        """Block until all graph outputs are at the source; a `Refusal` says why they are not."""
        with self.state:
            done = self.state.wait_for(
                lambda: request.error is not None or all(name in request.tensors for name in self.awaited),
                timeout=request.deadline - time.monotonic(),
            )
        if not done:
            self.fail(request, grpc.StatusCode.DEADLINE_EXCEEDED, self._overdue(request))
        if request.error:
            raise Refusal(*request.error)

    def fail(self, request: Request, code: grpc.StatusCode, text: str) -> None:
        """End a request with an error, here and elsewhere: a stage tells the source, the source tells everybody."""
        with self.state:
            if request.dropped.is_set():
                return  # the first error counts
            request.error = (code, text)
            self._drop(request)
        for peer in list(self.peers.values()):
            if self.is_source or peer.name == self.bundle.source:
                self.tell(peer, "error", request.identity, CONTROL_S, code=code.name, text=text[:LONGEST_ERROR])

    def discard(self, identity: str) -> None:
        """Drop a request that failed elsewhere."""
        with self.state:
            if identity in self.requests:
                self._drop(self.requests[identity])
            self.ended.append(identity)

    def finish(self, identity: str) -> Records:
        """End a request that was answered and return its records, once the last acknowledgements are in."""
        with self.state:
            request = self.requests.get(identity)
            if request is None:
                self.ended.append(identity)
                return Records()
            self.state.wait_for(lambda: request.sending == 0, timeout=SETTLE_S)
            self._drop(request)
            return Records(tuple(request.parts), tuple(request.transfers), tuple(request.reads))

    def finish_all(self, request: Request) -> Records:
        """End an answered request on all stages; the records of a stage that does not tell them are left out."""
        asked = [self.tell(peer, "end", request.identity, 2 * SETTLE_S) for peer in self.peers.values()]
        told = [self.finish(request.identity)]
        told += [Records.read(future.result().head) for future in asked if future.exception() is None]
        records = in_order(self.bundle, told)
        self.observe([t for t in records.transfers if t.source != t.target])
        return records

    def tell(self, peer: Peer, kind: str, identity: str, limit_s: float, **parameters: str) -> Any:
        """Send a control message without waiting for the answer; return its future."""
        message = infer_request(f"{self.bundle.model_name}/{kind}", identity, parameters=parameters)
        future = peer.stub.infer.future(message, timeout=limit_s)
        self.told.add(future)  # a future that nobody holds is cancelled
        future.add_done_callback(self.told.discard)
        return future

    def look_after(self) -> None:
        """Called every now and then: end requests that are overdue, and those of a stage that is gone or was started anew."""
        now = time.monotonic()
        with self.state:
            requests = list(self.requests.values())
        for request in requests if not self.is_source else ():
            if now > request.deadline:
                self.fail(request, grpc.StatusCode.DEADLINE_EXCEEDED, self._overdue(request))
        if any(now - request.started > PATIENCE_S for request in requests):
            for peer in self.peers.values():
                self._ask(peer, requests)

    def _ask(self, peer: Peer, requests: list[Request]) -> None:
        """Ask another stage whether it is there, and end the requests that it lost by what it answered last time."""
        if peer.ping is not None and not peer.ping.done():
            return
        if peer.ping is not None and time.monotonic() - peer.pinged < CONTROL_S:
            if self.is_source and peer.ping.code() is grpc.StatusCode.UNAVAILABLE:
                for request in requests:
                    self._lost(request, peer, "is gone")
            elif peer.ping.code() is grpc.StatusCode.OK:
                instance = instance_of(peer.ping)
                for request in requests:
                    taken_by, when = request.accepted.get(peer.name, (instance, 0.0))
                    if taken_by != instance and when < peer.pinged:
                        self._lost(request, peer, "was started anew, and has lost what this request had sent to it")
        peer.pinged = time.monotonic()
        peer.ping = peer.stub.ServerLive.future(service_pb2.ServerLiveRequest(), timeout=10 * CONTROL_S)

    def _lost(self, request: Request, peer: Peer, how: str) -> None:
        self.fail(request, grpc.StatusCode.UNAVAILABLE, f"server {peer.name!r} at {peer.address} {how}")

    def _drop(self, request: Request) -> None:
        request.dropped.set()
        self.requests.pop(request.identity, None)
        self.ended.append(request.identity)
        self.state.notify_all()

    def _overdue(self, request: Request) -> str:
        needed = dict.fromkeys([*(name for part in request.waiting for name in part.inputs), *self.awaited])
        missing = [name for name in needed if name not in request.tensors and self.producers[name] != self.server]
        reasons = [f"tensor {name!r} did not arrive from {self.producers[name]!r}" for name in missing]
        reasons = reasons or [f"{self.server!r} did not finish computing and sending"]
        reasons += [f"{peer.name!r} gives no sign of life" for peer in self.peers.values() if peer.silent]
        # on its way to the source it has lost some milliseconds, which are not the user's
        given = f"{request.limit_s:.2g}" if request.limit_s < 10 else f"{request.limit_s:.0f}"
        told = f"the deadline of {given} s passed on {self.server!r}: {'; '.join(reasons)}"
        return f"{told}; if it takes that long, give a larger deadline_s"

    def _do(self, request: Request, what: str, job: Callable[[], None]) -> None:
        self.work.put(Job(request, what, job))

    def _run(self, request: Request, parts: list[Part]) -> None:
        for part in parts:
            self._do(request, f"part {part.name!r}", partial(self._compute, request, part))

    def _work_all(self) -> None:
        while (job := self.work.get()) is not None:
            if job.request.dropped.is_set():
                continue
            try:
                with self.turns[self.server]:
                    job.do()
            except Malformed as error:
                text = f"{job.what} failed on {self.server!r}: {error}"
                self.fail(job.request, grpc.StatusCode.INVALID_ARGUMENT, text)
            except Exception as error:  # whatever a part raises must reach the client
                self.fail(job.request, grpc.StatusCode.INTERNAL, f"{job.what} failed on {self.server!r}: {error}")

    def _timed(self, request: Request, clock: Callable[[], float], work: Callable[[], Found]) -> tuple[Found, Spent]:
        """Do something at the pace of the emulated server; return what came of it and what it took."""
        wall, cpu = time.monotonic(), clock()
        found = work()
        cpu_s = clock() - cpu
        rest_s = self.emulation.rest_s(cpu_s, time.monotonic() - wall)
        request.dropped.wait(max(rest_s, 0.0))
        wall_s, dilation = time.monotonic() - wall, self.emulation.time_dilation
        return found, Spent(self.emulation.compute_s(cpu_s), wall_s / dilation, max(-rest_s, 0.0) / dilation)

    def _compute(self, request: Request, part: Part) -> None:
        request.move_inside(self.server, self.bundle.inside.get(self.server, ()), self.emulation)
        inputs = {name: request.tensors[name] for name in part.inputs}
        arrays: list[np.ndarray]
        arrays, spent = self._timed(request, self.clock, lambda: self.sessions[part.name].run(list(part.outputs), inputs))
        wrong = [mismatch(n, a.dtype.name, a.shape, self.kinds) for n, a in zip(part.outputs, arrays, strict=True)]
        if any(wrong):
            raise DeployError("; ".join(filter(None, wrong)))
        with self.state:
            request.parts.append(PartRecord(part.name, self.server, *spent))
        for name, array in zip(part.outputs, arrays, strict=True):
            self.deliver(request, name, array)

    def _write(self, request: Request, name: str, array: np.ndarray, peer: Peer, form: str) -> None:
        """Write a tensor in a form and send it; one that the form cannot hold crosses as it is."""
        written, spent = self._timed(request, time.thread_time, lambda: self._encoded(name, array, form))
        tensor, form = (array, self.wires[name].plain) if written is None else (written, form)
        peer.queue.put(Sending(request, name, tensor, form, spent.wall_s))

    def _encoded(self, name: str, array: np.ndarray, form: str) -> Elements | None:
        try:
            return Elements(self.bundle.codec(name, form).encode(array), form, array.shape)
        except Unfit:
            return None

    def _decoded(self, name: str, came: Elements) -> np.ndarray:
        return self.bundle.codec(name, came.form).decode(came.elements, self.wires[name].dtype, came.shape)

    def _read(self, request: Request, name: str, came: Elements) -> None:
        array, spent = self._timed(request, time.thread_time, lambda: self._decoded(name, came))
        with self.state:
            request.reads.append(ReadRecord(name, self.server, spent.wall_s))
        self.deliver(request, name, array, came if name in self.bundle.lossy_inputs else None)

    def _keep_what_is_left(self, request: Request, name: str, array: np.ndarray, form: str) -> None:
        """Keep a graph input as the other servers read it, which loses something by its form."""
        written, spent = self._timed(request, time.thread_time, lambda: self._encoded(name, array, form))
        if written is None:
            form, left, read = self.wires[name].plain, array, 0.0
        else:
            left, (_, read, _) = self._timed(request, time.thread_time, lambda: self._decoded(name, written))
        with self.state:
            record = TransferRecord(name, self.server, self.server, 0, 0.0, 0.0, form, spent.wall_s, read)
            request.transfers.append(record)
            self._keep(request, name, left)

    def _take_images(self, request: Request, name: str, given: Elements) -> None:
        """Read the images that a client sent; what is in the form already in which it is to cross is passed on as it came."""
        (array, came), spent = self._timed(request, time.thread_time, lambda: read_images(self.bundle, name, given))
        record = TransferRecord(name, self.server, self.server, 0, 0.0, 0.0, came.form, 0.0, spent.wall_s)
        with self.state:
            request.transfers.append(record)
        if self.bundle.lossy_inputs.get(name, came.form) == came.form:
            self.deliver(request, name, array, came)
        else:
            self.take(request, name, array)

    def _send_all(self, peer: Peer) -> None:
        while (item := peer.queue.get()) is not None:
            request, name = item.request, item.name
            try:
                with self.turns[peer.name]:
                    self._send(item, peer)
            except grpc.RpcError as error:
                self.fail(request, *explain(error, name, peer))
            except Exception as error:  # never let the thread of a link die in silence
                self.fail(request, grpc.StatusCode.INTERNAL, f"sending {name!r} to {peer.name!r} failed: {error}")
            finally:
                with self.state:
                    request.sending -= 1
                    self.state.notify_all()

    def _send(self, item: Sending, peer: Peer) -> None:
        request, name, tensor = item.request, item.name, item.tensor
        started, tensors = time.monotonic(), {} if tensor is None else {name: tensor}
        message = infer_request(f"{self.bundle.model_name}/tensors", request.identity, tensors)
        size_bytes = item.size_bytes
        paced_s, dilation = self.emulation.transfer_s(peer.name, size_bytes), self.emulation.time_dilation
        if tensors:
            # The real send is a part of the emulated one: what the same tensor took at its fastest is waited less.
            hold_s = self.emulation.hold_s(peer.name, size_bytes, peer.real_s.get(name, 0.0))
            request.dropped.wait(max(started + hold_s - time.monotonic(), 0.0))
        remaining_s = earlier(request.deadline - time.monotonic())
        if request.dropped.is_set() or remaining_s <= 0:
            return
        set_parameter(message.head, "remaining_s", remaining_s)
        set_parameter(message.head, "limit_s", request.limit_s)
        sent = time.monotonic()
        _, call = peer.stub.infer.with_call(message, timeout=remaining_s)
        peer.real_s[name] = min(time.monotonic() - sent, peer.real_s.get(name, math.inf))
        seconds, instance = (time.monotonic() - started) / dilation, instance_of(call)
        if request.accepted.setdefault(peer.name, (instance, time.monotonic()))[0] != instance:
            self._lost(request, peer, "was started anew while this request sent to it")
        if tensors:
            told = TransferRecord(name, self.server, peer.name, size_bytes, seconds, paced_s, item.form, item.encode_s)
            with self.state:
                request.transfers.append(told)
