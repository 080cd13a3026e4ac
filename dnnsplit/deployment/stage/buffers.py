"""What a stage keeps of a request that is in flight, and of each other stage."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np

from dnnsplit.codecs.plain import PLAIN
from dnnsplit.cutting.bundle import Bundle, Part
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.stage.watch import Watch
from dnnsplit.deployment.wire.channels import Stub, Tls
from dnnsplit.deployment.wire.messages import Elements, PartRecord, ReadRecord, Records, TransferRecord

START = ""  # in the queue of a link, for a tensor: a message without any, by which a stage learns of a request


class Request:
    """The buffer of one request on one stage.

    `deadline` is on the clock of `time.monotonic` [s]; `limit_s` is what the request was given as a whole when it arrived at the
    source, of which `remaining_s` were left [s].
    """

    def __init__(
        self, identity: str, remaining_s: float, limit_s: float, parts: Sequence[Part], awaited: Sequence[str] = ()
    ) -> None:
        self.identity, self.limit_s = identity, limit_s
        self.started = time.monotonic()
        self.deadline = self.started + remaining_s
        self.waiting = {part.name: part for part in parts}
        self.awaited = set(awaited)  # outputs of the model that are not there yet
        self.tensors: dict[str, np.ndarray] = {}
        self._lacks = {part.name: len(set(part.inputs)) for part in parts}  # how many inputs
        self._readers: dict[str, list[str]] = {}
        for part in parts:
            for name in dict.fromkeys(part.inputs):
                self._readers.setdefault(name, []).append(part.name)
        self._ready = [part.name for part in parts if not part.inputs]
        self.sending = 0
        self.moved = False
        self.confirmed = ""  # the process of the source that said that it has this request
        self.accepted: dict[str, tuple[str, float]] = {}  # other stage -> the process that took a tensor, and when
        self.parts: list[PartRecord] = []
        self.transfers: list[TransferRecord] = []
        self.reads: list[ReadRecord] = []
        self.error: tuple[grpc.StatusCode, str] | None = None
        self.dropped = threading.Event()

    def take(self, name: str, array: np.ndarray) -> None:
        """Take a tensor."""
        if name not in self.tensors:
            for part in self._readers.get(name, ()):
                self._lacks[part] -= 1
                if not self._lacks[part]:
                    self._ready.append(part)
        self.tensors[name] = array
        self.awaited.discard(name)

    def due(self) -> list[Part]:
        """Return the parts whose inputs are all there now; they wait no longer."""
        due, self._ready = [self.waiting.pop(name) for name in self._ready], []
        return due

    def move_inside(self, server: str, moves: Sequence[tuple[str, int]], emulation: Emulation, watch: Watch) -> None:
        """Take, once, the time of (tensor, bytes [B]) that a link of a server to itself prices, before the first part.

        Real hosts have no such link: there nothing is waited for, and a plan that prices one is off by that much.
        """
        if self.moved or server not in emulation.links:
            return
        self.moved = True
        for tensor, size_bytes in moves:
            started, paced_s = watch.now(), emulation.transfer_s(server, size_bytes)
            watch.wait(self.dropped, started + paced_s * emulation.time_dilation)
            seconds = (watch.now() - started) / emulation.time_dilation
            self.transfers.append(TransferRecord(tensor, server, server, size_bytes, seconds, paced_s))


@dataclass(frozen=True, eq=False)
class Sending:
    """What waits for its turn on a link: a tensor in the form in which it crosses, or, without one, the start of a request."""

    request: Request
    name: str
    tensor: np.ndarray | Elements | None = None
    form: str = PLAIN
    encode_s: float = 0.0  # that it took to write it, in emulated seconds [s]

    @property
    def size_bytes(self) -> int:
        """Of the tensor as it crosses [B]."""
        return 0 if self.tensor is None else self.tensor.nbytes if isinstance(self.tensor, np.ndarray) else self.tensor.size_bytes


def in_order(bundle: Bundle, told: Sequence[Records]) -> Records:
    """Join what all stages told, in the order of the bundle's parts and wires, moves inside of servers last.

    What the target of a transfer took to read it becomes a part of its record.
    """
    order, known = ({n: i for i, n in enumerate(names)} for names in ((p.name for p in bundle.parts), bundle.producers))
    parts = sorted((part for one in told for part in one.parts), key=lambda part: order[part.name])
    reads = {(read.wire, read.target): read.seconds for one in told for read in one.reads}
    transfers = [t for one in told for t in one.transfers]
    transfers = [t if t.source == t.target else replace(t, decode_s=reads.get((t.wire, t.target), 0.0)) for t in transfers]
    transfers.sort(key=lambda t: (t.source == t.target, known.get(t.wire, -1), t.target))
    return Records(tuple(parts), tuple(transfers))


class Peer:
    """Another stage: its channel, the queue of its link, and the last question whether it lives."""

    def __init__(self, name: str, address: str, limit_bytes: int, tls: Tls | None) -> None:
        self.name, self.address = name, address
        self.stub = Stub(address, limit_bytes, tls, peer=True, name=name)
        self.queue: queue.SimpleQueue[Sending | None] = queue.SimpleQueue()
        self.real_s: dict[str, float] = {}  # least wall seconds of the real send, by wire
        self.ping: Any = None
        self.pinged = 0.0

    @property
    def silent(self) -> bool:
        """Whether it has left a question unanswered for more than a second."""
        return self.ping is not None and not self.ping.done() and time.monotonic() - self.pinged > 1.0


def explain(error: grpc.RpcError, name: str, peer: Peer) -> tuple[grpc.StatusCode, str]:
    """Say in words of the deployment why the tensor `name`, or the start of a request, could not be sent to `peer`."""
    code, what = error.code(), f"tensor {name!r}" if name != START else "the start of a request"
    if code is grpc.StatusCode.UNAVAILABLE:
        return code, f"server {peer.name!r} at {peer.address} cannot be reached to send {what}: {error.details()}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return code, f"server {peer.name!r} did not acknowledge {what} before the deadline"
    return code, f"server {peer.name!r} refused {what}: {error.details()}"
