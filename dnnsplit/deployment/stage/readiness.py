"""Whether the other stages are ready, asked of them by one caller at a time; the others get what it heard last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from tritonclient.grpc import service_pb2

FRESH_S = 0.2  # for which an answer counts
ASK_S = 2.0  # limit on the question


class Readiness:
    """What was heard last.

    Parameters
    ----------
    peers : Callable[[], Collection[Any]]
        The other stages (`dnnsplit.deployment.stage.buffers.Peer`).
    """

    def __init__(self, peers: Callable[[], Collection[Any]]) -> None:
        self._peers = peers
        self._ready, self._heard = False, -FRESH_S
        self._asking = threading.Lock()

    def of_all(self) -> bool:
        """Whether all of them are; asks them where nobody has of late, or does at the moment."""
        if time.monotonic() - self._heard > FRESH_S and self._asking.acquire(blocking=False):
            try:
                question = service_pb2.ServerReadyRequest()
                asked = [peer.stub.ServerReady.future(question, timeout=ASK_S, wait_for_ready=True) for peer in self._peers()]
                self._ready = all([future.exception() is None and future.result().ready for future in asked])
                self._heard = time.monotonic()
            finally:
                self._asking.release()
        return self._ready
