"""Moves inside of a server, which a link to itself gives a time: waited for where links are emulated.

Within a part nothing moves, so they are waited for all at once, before the first part of a request, on any kind of test-bed.
Real hosts have no such link: there `dnnsplit serve` waits for nothing, and a plan that prices one is off by that much.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from dnnsplit.deployment.stage.buffers import Request
from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.wire.messages import TransferRecord


def move_inside(request: Request, server: str, inside: Mapping[str, Sequence[tuple[str, int]]], emulation: Emulation) -> None:
    """Take the time of the moves inside of `server`, once per request; see `dnnsplit.cutting.bundle.Bundle.inside`."""
    moves = () if request.moved or server not in emulation.links else inside.get(server, ())
    request.moved = True
    for tensor, size_bytes in moves:
        started, paced_s = time.monotonic(), emulation.transfer_s(server, size_bytes)
        request.dropped.wait(paced_s * emulation.time_dilation)
        seconds = (time.monotonic() - started) / emulation.time_dilation
        request.transfers.append(TransferRecord(tensor, server, server, size_bytes, seconds, paced_s))
