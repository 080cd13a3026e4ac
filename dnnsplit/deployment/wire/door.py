"""How many ModelInfer messages are taken at a time: one beyond that is refused before a byte of its tensors is read.

Clients and stages come through doors of their own, so that clients who ask for too much keep no tensor of a request out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import grpc

from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import Refusal

PUSHBACK = "grpc-retry-pushback-ms"  # trailing metadata of a refusal: when to come again, as gRPC names it [ms]
AGAIN_S = 0.1  # after which a message that found no room may come again


class Door:
    """Lets so many messages in at a time, and no message take for ever to arrive.

    Parameters
    ----------
    room : int
        Messages that are read or answered at a time.
    limit_s : float
        That a message may take to arrive [s].
    metadata : tuple[tuple[str, str], ...], optional
        Trailing metadata of every answer.
    """

    def __init__(self, room: int, limit_s: float, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.room, self.limit_s, self.metadata = room, limit_s, metadata
        self._inside = 0
        self._arriving: dict[grpc.ServicerContext, float] = {}
        self._lock = threading.Lock()

    def answering(
        self, answer: Callable[[Infer, grpc.ServicerContext], Infer]
    ) -> Callable[[Iterator[Infer], grpc.ServicerContext], Infer]:
        """Return what answers a call whose message has not been read yet; a `Refusal` becomes the status of the call."""

        def call(messages: Iterator[Infer], context: grpc.ServicerContext) -> Infer:
            context.set_trailing_metadata(self.metadata)
            try:
                self._enter(context)
                try:
                    message = next(messages, None)
                    self._arrived(context)
                    if message is None:
                        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "a call without a message")
                    return answer(message, context)
                finally:
                    self._leave(context)
            except Refusal as refusal:
                if refusal.again_s:
                    context.set_trailing_metadata((*self.metadata, (PUSHBACK, f"{1e3 * refusal.again_s:.0f}")))
                context.abort(refusal.code, str(refusal))  # which raises
                raise

        return call

    def look_after(self) -> None:
        """End the calls whose message has not arrived in time."""
        with self._lock:
            late = [context for context, since in self._arriving.items() if time.monotonic() - since > self.limit_s]
        for context in late:
            context.cancel()

    def _enter(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            if self._inside >= self.room:
                text = f"{self.room} messages are being read and answered here, which is the limit; try again in {AGAIN_S:g} s"
                raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, text, AGAIN_S)
            self._inside += 1
            self._arriving[context] = time.monotonic()

    def _arrived(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._arriving.pop(context, None)

    def _leave(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._arriving.pop(context, None)
            self._inside -= 1
