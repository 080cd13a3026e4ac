"""Whether the other stages live, and which requests were lost with one that does not, or are held for a source that is gone."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
from tritonclient.grpc import service_pb2

from dnnsplit.deployment.stage.buffers import Peer, Request
from dnnsplit.deployment.wire.channels import instance_of
from dnnsplit.deployment.wire.messages import infer_request

if TYPE_CHECKING:
    from dnnsplit.deployment.stage.work import Runner

HEARD_S = 5.0  # for which an answer tells that a stage lives
PATIENCE_S = 0.4  # age of a request from which on the other stages are asked whether they are alive
ANEW_S = 0.02  # between two questions to the source which requests have ended, where there is no room for another
SOURCE_S = 1.0  # limit on such a question


class Liveness:
    """Asks the other stages of a runner."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._asking, self._asked = threading.Lock(), -math.inf

    def look_after(self, requests: Sequence[Request]) -> None:
        """Called every now and then: end the requests of a stage that is gone or was started anew."""
        if any(time.monotonic() - request.started > PATIENCE_S for request in requests):
            for peer in self.runner.peers.values():
                self._ask(peer, requests)

    def lost(self, request: Request, peer: Peer, how: str) -> None:
        """End a request that another stage has lost."""
        self.runner.fail(request, grpc.StatusCode.UNAVAILABLE, f"server {peer.name!r} at {peer.address} {how}")

    def _ask(self, peer: Peer, requests: Sequence[Request]) -> None:
        """Ask another stage whether it is there, and end the requests that it lost by what it answered last time."""
        if peer.ping is not None and not peer.ping.done():
            return
        if peer.ping is not None and time.monotonic() - peer.pinged < HEARD_S:
            if self.runner.is_source and peer.ping.code() is grpc.StatusCode.UNAVAILABLE:
                for request in requests:
                    self.lost(request, peer, "is gone")
            elif peer.ping.code() is grpc.StatusCode.OK:
                instance = instance_of(peer.ping)
                for request in requests:
                    taken_by, when = request.accepted.get(peer.name, (instance, 0.0))
                    if taken_by != instance and when < peer.pinged:
                        self.lost(request, peer, "was started anew, and has lost what this request had sent to it")
                if peer.name == self.runner.bundle.source:
                    unsure = [one for one in requests if one.started < peer.pinged and one.confirmed != instance]
                    if unsure and not self._asking.locked():
                        threading.Thread(target=self.confirm, args=(peer, unsure), name="confirm", daemon=True).start()
        peer.pinged = time.monotonic()
        peer.ping = peer.stub.ServerLive.future(service_pb2.ServerLiveRequest(), timeout=10 * HEARD_S)

    def confirm(self, source: Peer, requests: Sequence[Request] = ()) -> None:
        """Ask the source which of these requests it does not have any more, as it was started anew, or never had; drop them.

        Without any, it is asked for all that are here.
        """
        came = time.monotonic()
        with self._asking:
            if self._asked > came:
                return  # somebody has asked since, for all
            time.sleep(max(0.0, self._asked + ANEW_S - time.monotonic()))
            self._asked = time.monotonic()
            with self.runner.state:
                requests = requests or list(self.runner.requests.values())
            for identity in self._gone(source, requests):
                self.runner.discard(identity)

    def _gone(self, source: Peer, requests: Sequence[Request]) -> set[str]:
        """Return which of some requests the source says that it does not have."""
        held = {request.identity for request in requests}
        message = infer_request(f"{self.runner.bundle.model_name}/open", parameters={"ids": " ".join(held)})
        try:
            answer, call = source.stub.infer.with_call(message, timeout=SOURCE_S, wait_for_ready=True)
        except grpc.RpcError as error:  # not found: it has the whole bundle no more; else nobody knows
            return held if error.code() is grpc.StatusCode.NOT_FOUND else set()
        for request in requests:
            request.confirmed = instance_of(call)
        return held.intersection(answer.head.parameters["gone"].string_param.split())
