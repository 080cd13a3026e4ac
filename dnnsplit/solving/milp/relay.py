"""The two programmes with relays: a tensor may pass through other servers, and pays each link it takes once.

Between the servers of its producer and of each receiver runs one unit of flow, on links that the tensor takes (the
multicommodity flow formulation of the Steiner arborescence, Wong, 1984). Receivers share links; the server that relays a
tensor pays the energy of sending it on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dnnsplit.solving.arrays import Problem, Weights
from dnnsplit.solving.milp.formulations import FORMULATIONS, Slides, Tight
from dnnsplit.solving.milp.rows import Key, Row, row


class Relay(Slides):
    """The slides' programme, where y_tn belongs to the tensor and the link, whichever server its producer is on."""

    def _sent(self, t: int, k: int, h: int) -> bool:
        return self._priced(t, k, h) and (k != h or self._takes_time(t, k, k))

    def coherence(self) -> Iterable[Row]:
        """sum_h w_kh - sum_h w_hk = x_pk - x_jk and w <= y for each receiver j; y_kk >= x_pk + x_jk - 1 for self links."""
        for t, (p, receivers) in enumerate(zip(self.problem.producer, self.problem.receivers, strict=True)):
            links = [(k, h) for k, h in self.pairs if ("y", t, k, h) in self.variables]
            for n, j in enumerate(receivers):
                flow = {(k, h): self._variable("w", t, n, k, h) for k, h in links if k != h}
                for k in self.servers:
                    moves = [(w, float(a == k) - float(b == k)) for (a, b), w in flow.items() if k in (a, b)]
                    yield row(f"flow_{t}_{n}_{k}", [*moves, (self.at(p, k), -1.0), (self.at(j, k), 1.0)], "==")
                for (k, h), w in flow.items():
                    yield row(f"crosses_{t}_{n}_{k}_{h}", [(w, 1.0), (("y", t, k, h), -1.0)], "<=")
                for k, h in links:
                    if k == h:
                        both = [(("y", t, k, k), 1.0), (self.at(p, k), -1.0), (self.at(j, k), -1.0)]
                        yield row(f"inside_{t}_{n}_{k}", both, ">=", -1.0)


class RelayTight(Relay, Tight):
    """x, q and y are integer; flows and products are not."""

    integers = ("x", "q", "y")

    def _int8_at(self, p: int, k: int) -> Key:
        """y^q <= q of the producer: a tensor is int8 on every link that it takes, also where another server sends it."""
        return ("q", p)


def formulate(problem: Problem, name: str, sums: Sequence[Weights] | None = ()) -> Slides:
    """Return the programme of a problem: "slides" (to the letter) or "milp" (tight), with its routing; `sums` as for `Slides`."""
    relay = {"slides": Relay, "milp": RelayTight}
    return (relay if problem.routing == "relay" else FORMULATIONS)[name](problem, sums)
