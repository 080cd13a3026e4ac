"""The work of one stage: buffer the tensors of a request, run the parts whose inputs are there, send what others need.

A tensor that crosses in another form than it is made in is written before it takes its turn on the link, and read after it was
acknowledged. A server does one thing at a time: run a part, write a tensor, or read one.

Emulation: with a slowdown, each of these is made to last `CPU seconds * slowdown * time_dilation`; with a link, a transfer of b
bytes is made to last `(latency_s + b / bandwidth + b * serialise_s_per_byte) * time_dilation`, the real send included. All of it
is by the watch of the test-bed, which stands while a server computes that is too fast to be emulated so.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import grpc
import numpy as np

from dnnsplit.cutting.bundle import Bundle, Part
from dnnsplit.deployment.stage.buffers import START, Peer, Request, Sending, explain, in_order
from dnnsplit.deployment.stage.coding import Coder
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.stage.liveness import Liveness
from dnnsplit.deployment.stage.processor import Processor
from dnnsplit.deployment.stage.watch import Watch
from dnnsplit.deployment.wire.channels import Tls, instance_of
from dnnsplit.deployment.wire.messages import (
    LONGEST_ERROR,
    Elements,
    PartRecord,
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
REMEMBERED = 256  # ended requests whose late tensors are recognised and dropped
LEAST_S = 0.05  # after which whoever found no room is told to come again


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
        self.watch = Watch(emulation.watch)
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
        self.usual_s = 0.0  # that a request took of late
        self.state = threading.Condition()
        # one computes, and one sends over a link, at a time: whoever shares a server and its links shares these
        self.turns = {name: threading.Lock() for name in bundle.servers}
        self.processor, self.coder, self.liveness = Processor(self), Coder(self), Liveness(self)
        self.told: set[Any] = set()
        self.observe: Callable[[list[TransferRecord]], None] = lambda transfers: None  # told of every answered request
        self.threads: list[threading.Thread] = []
        self._start("compute", self.processor.work)

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
        self.processor.close()
        for peer in self.peers.values():
            peer.queue.put(None)
            peer.stub.close()
        for thread in self.threads:
            thread.join(SETTLE_S)
        self.watch.close()

    def _start(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        self.threads.append(threading.Thread(target=target, args=arguments, name=name, daemon=True))
        self.threads[-1].start()

    def join(self, identity: str, remaining_s: float, limit_s: float, limit: int) -> Request | None:
        """Return the buffer of a request, a new one if need be; None when the request has ended already.

        Where there is no room, the source is asked first which of the requests here it has ended, or never had.

        Raises
        ------
        Refusal
            RESOURCE_EXHAUSTED as of `open`; NOT_FOUND at the source, where only `open` makes requests.
        """
        with self.state:
            if identity in self.ended:
                return None
            if self.is_source and identity not in self.requests:
                text = f"there is no request {identity!r} on {self.server!r}: it has ended, or never was"
                raise Refusal(grpc.StatusCode.NOT_FOUND, text)
            full = len(self.requests) >= limit and identity not in self.requests
        if full and self.bundle.source in self.peers:
            self.liveness.confirm(self.peers[self.bundle.source])
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
                    again_s = max(LEAST_S, self.usual_s)
                    text = f"{limit} requests are in flight on {self.server!r}, which is the limit; try again in {again_s:.2g} s"
                    raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, text, again_s)
                request = self.requests[identity] = Request(identity, remaining_s, limit_s, self.parts, self.awaited)
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
            self.send_on(request, name, array, came)
            self.keep(request, name, array)

    def keep(self, request: Request, name: str, array: np.ndarray) -> None:
        """Keep a tensor, and start the parts that waited for it."""
        with self.state:
            request.take(name, array)
            self.state.notify_all()
            self._run(request, request.due())

    def send_on(self, request: Request, name: str, array: np.ndarray, came: Elements | None = None) -> None:
        """Send a tensor to the servers that get it from this one, in its form for each of them."""
        targets = self.routes.get((name, self.server), ())
        request.sending += len(targets)
        for target in targets:
            peer, form = self.peers[target], self.bundle.forms.get((name, self.server, target))
            if form is not None and came is not None and came.form == form:
                peer.queue.put(Sending(request, name, came, form))
            elif form is None or (name in self.bundle.lossy_inputs and not self.is_source):  # there it did not fit its form
                peer.queue.put(Sending(request, name, array, self.wires[name].plain))
            else:
                self.coder.write(request, name, array, peer, form)

    def wait(self, request: Request) -> None:
        """Block until all graph outputs are at the source; a `Refusal` says why they are not."""
        with self.state:
            done = self.state.wait_for(
                lambda: request.error is not None or not request.awaited,
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
        self.usual_s = (self.usual_s + time.monotonic() - request.started) / 2
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
        for request in requests:
            if now > request.deadline:  # at the source too: whoever waits there may be gone
                self.fail(request, grpc.StatusCode.DEADLINE_EXCEEDED, self._overdue(request))
        self.liveness.look_after(requests)

    def _drop(self, request: Request) -> None:
        request.dropped.set()
        self.requests.pop(request.identity, None)
        self.ended.append(request.identity)
        self.state.notify_all()

    def _overdue(self, request: Request) -> str:
        needed = dict.fromkeys([*(name for part in request.waiting.values() for name in part.inputs), *self.awaited])
        missing = [name for name in needed if name not in request.tensors and self.producers[name] != self.server]
        reasons = [f"tensor {name!r} did not arrive from {self.producers[name]!r}" for name in missing]
        reasons = reasons or [f"{self.server!r} did not finish computing and sending"]
        reasons += [f"{peer.name!r} gives no sign of life" for peer in self.peers.values() if peer.silent]
        # on its way to the source it has lost some milliseconds, which are not the user's
        given = f"{request.limit_s:.2g}" if request.limit_s < 10 else f"{request.limit_s:.0f}"
        told = f"the deadline of {given} s passed on {self.server!r}: {'; '.join(reasons)}"
        return f"{told}; if it takes that long, give a larger deadline_s"

    def _run(self, request: Request, parts: list[Part]) -> None:
        for part in parts:
            self.processor.do(request, f"part {part.name!r}", partial(self._compute, request, part))

    def _compute(self, request: Request, part: Part) -> None:
        request.move_inside(self.server, self.bundle.inside.get(self.server, ()), self.emulation, self.watch)
        inputs = {name: request.tensors[name] for name in part.inputs}
        arrays: list[np.ndarray]
        arrays, spent = self.processor.timed(
            request, lambda: self.sessions[part.name].run(list(part.outputs), inputs), self.clock
        )
        wrong = [mismatch(n, a.dtype.name, a.shape, self.kinds) for n, a in zip(part.outputs, arrays, strict=True)]
        if any(wrong):
            raise DeployError("; ".join(filter(None, wrong)))
        with self.state:
            request.parts.append(PartRecord(part.name, self.server, *spent))
        for name, array in zip(part.outputs, arrays, strict=True):
            self.deliver(request, name, array)

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
        started, tensors = self.watch.now(), {} if tensor is None else {name: tensor}
        message = infer_request(f"{self.bundle.model_name}/tensors", request.identity, tensors)
        size_bytes = item.size_bytes
        paced_s, dilation = self.emulation.transfer_s(peer.name, size_bytes), self.emulation.time_dilation
        if tensors:
            # The real send is a part of the emulated one: what the same tensor took at its fastest is waited less.
            hold_s = self.emulation.hold_s(peer.name, size_bytes, peer.real_s.get(name, 0.0))
            self.watch.wait(request.dropped, started + hold_s)
        remaining_s = earlier(request.deadline - time.monotonic())
        if request.dropped.is_set() or remaining_s <= 0:
            return
        set_parameter(message.head, "remaining_s", remaining_s)
        set_parameter(message.head, "limit_s", request.limit_s)
        sent = time.monotonic()
        _, call = peer.stub.infer.with_call(message, timeout=remaining_s)
        peer.real_s[name] = min(time.monotonic() - sent, peer.real_s.get(name, math.inf))
        seconds, instance = (self.watch.now() - started) / dilation, instance_of(call)
        if request.accepted.setdefault(peer.name, (instance, time.monotonic()))[0] != instance:
            self.liveness.lost(request, peer, "was started anew while this request sent to it")
        if tensors:
            latency_s = self.emulation.transfer_s(peer.name, 0)
            told = TransferRecord(
                name, self.server, peer.name, size_bytes, seconds, paced_s, item.form, item.encode_s, latency_s=latency_s
            )
            with self.state:
                request.transfers.append(told)
