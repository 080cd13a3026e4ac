"""What a placement costs, term by term: the transfers, seconds and joules that `dnnsplit.solving.costs` works out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dnnsplit.ground.markup import Told, folded, readable, shown
from dnnsplit.ground.units import show
from dnnsplit.profiling.wire_forms import INT8, PLAIN

Routes = Mapping[str, Sequence[tuple[str, str]]]  # (source, target) of the links that a tensor takes, by its name

# By (tensor, source, target), the form in which it crosses that link; what is not named crosses plainly
WireChoice = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True, repr=False)
class Transfer(Told):
    """A tensor that crosses one link: y_tn = 1.

    Attributes
    ----------
    tensor : str
        Name.
    source, target : str
        Servers.
    size_bytes : float
        As it is sent [B].
    seconds : float
        That the link takes [s].
    form : str, default "float32"
        How it is written: plainly ("float32", or "int8" where its layer is quantized), or as a codec of `dnnsplit.codecs` does.
    encode_s, decode_s : float, default 0.0
        What the source takes to write it so, and the target to read it [s].

    Examples
    --------
    >>> import dnnsplit as ds
    >>> instance = ds.examples.tiny()
    >>> ds.split(*instance, pins={"conv1": "device", "conv2": "edge"}).transfers[0]
    Transfer(a: source device; target edge; form int8; size 100 kB; time on the link
        25 ms)
    """

    tensor: str
    source: str
    target: str
    size_bytes: float
    seconds: float
    form: str = PLAIN
    encode_s: float = 0.0
    decode_s: float = 0.0

    @property
    def whole_s(self) -> float:
        """Writing, sending and reading it [s]."""
        return self.encode_s + self.seconds + self.decode_s

    def _told(self) -> tuple[object, Mapping[str, object]]:
        ends = {"source": self.source, "target": self.target, "form": self.form}
        codec = (
            f"{show(self.encode_s, 's')} to write, {show(self.decode_s, 's')} to read" if self.encode_s or self.decode_s else ""
        )
        facts = {"size": show(self.size_bytes, "B"), "time on the link": show(self.seconds, "s"), "codec": codec}
        return self.tensor, {**ends, **facts}


@dataclass(frozen=True, repr=False)
class Cost:
    """What a placement costs.

    Attributes
    ----------
    latency_s : float
        T = T^c + T^x [s], the slides' sum.
    compute_s : Mapping[str, float]
        T^c_k by server [s].
    transfers : tuple[Transfer, ...]
        Every y_tn = 1, with bytes and seconds, a relayed tensor once per link; moves inside a server only where a self link
        prices them.
    energy_j : float
        E [J].
    server_energy_j : Mapping[str, float]
        E_k by server [J].
    device_energy_j : float
        E_0, of the network's source [J].
    weight_bytes : Mapping[str, float]
        Weights held by server [B]: each constant once, whichever of its float32 layers read it, and the int8 copies of each
        quantized layer, which are its own. (A server that runs several parts which read one constant has it in each file.)

    Examples
    --------
    >>> import dnnsplit as ds
    >>> instance = ds.examples.tiny()
    >>> cost = ds.split(*instance).cost
    >>> cost
    Cost(latency 218.2 ms: computing 188 ms, 2 transfers 30.2 ms; energy 957.9 mJ
        (device 319.5 mJ))
    >>> cost.frame
                         term  seconds     bytes
    0       compute on device   0.0800       NaN
    1         compute on edge   0.1080       NaN
    2       a: device -> edge   0.0250  100000.0
    3  scores: edge -> device   0.0052    4000.0
    """

    latency_s: float
    compute_s: Mapping[str, float]
    transfers: tuple[Transfer, ...]
    energy_j: float
    server_energy_j: Mapping[str, float]
    device_energy_j: float
    weight_bytes: Mapping[str, float]

    @property
    def compute_latency_s(self) -> float:
        """T^c [s]."""
        return math.fsum(self.compute_s.values())

    @property
    def transfer_latency_s(self) -> float:
        """T^x [s], with writing and reading what crosses in another form than its plain one."""
        return math.fsum(t.whole_s for t in self.transfers)

    @property
    def codec_s(self) -> dict[str, float]:
        """Seconds of writing and reading tensors, by server [s]."""
        return codec_seconds(self.compute_s, self.transfers)

    @property
    def forms(self) -> dict[tuple[str, str, str], str]:
        """Form by (tensor, source, target) of what does not cross plainly; `evaluate` takes them as `forms`."""
        return {(t.tensor, t.source, t.target): t.form for t in self.transfers if t.form not in (PLAIN, INT8)}

    @property
    def routes(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """The links between servers that each tensor takes, by its name; `evaluate` takes them as `routes`."""
        found: dict[str, list[tuple[str, str]]] = {}
        for t in self.transfers:
            if t.source != t.target:
                found.setdefault(t.tensor, []).append((t.source, t.target))
        return {tensor: tuple(links) for tensor, links in found.items()}

    @property
    def stage_s(self) -> dict[str, float]:
        """Seconds per request [s] of each stage: "compute on <server>", and "<source> -> <target>" of each link that is used."""
        moved: dict[str, list[float]] = {}
        for t in self.transfers:
            if t.source != t.target:
                moved.setdefault(f"{t.source} -> {t.target}", []).append(t.seconds)
        codec_s = self.codec_s
        stages = {f"compute on {server}": seconds + codec_s[server] for server, seconds in self.compute_s.items()}
        return stages | {link: math.fsum(seconds) for link, seconds in moved.items()}

    @property
    def bottleneck_s(self) -> float:
        """Seconds of the slowest stage [s]: with many requests in flight, one leaves every so often."""
        return max(self.stage_s.values())

    @property
    def throughput_per_s(self) -> float:
        """Requests per second [1/s] that a pipeline sustains: 1 / bottleneck."""
        return 1.0 / self.bottleneck_s if self.bottleneck_s else math.inf

    @property
    def frame(self) -> pd.DataFrame:
        """One row per term of the latency: term, seconds [s], bytes [B]."""
        rows = [(f"compute on {server}", seconds, math.nan) for server, seconds in self.compute_s.items()]
        for t in self.transfers:
            if t.form not in (PLAIN, INT8):
                rows.append((f"write {t.tensor} as {t.form} on {t.source}", t.encode_s, math.nan))
            rows.append((f"{t.tensor}: {t.source} -> {t.target}", t.seconds, t.size_bytes))
            if t.form not in (PLAIN, INT8):
                rows.append((f"read {t.tensor} as {t.form} on {t.target}", t.decode_s, math.nan))
        return pd.DataFrame(rows, columns=["term", "seconds", "bytes"])

    def __repr__(self) -> str:
        sent = f"{len(self.transfers)} transfers {show(self.transfer_latency_s, 's')}"
        energy = f"energy {show(self.energy_j, 'J')} (device {show(self.device_energy_j, 'J')})"
        return folded(
            f"Cost(latency {show(self.latency_s, 's')}: computing {show(self.compute_latency_s, 's')}, {sent}; {energy})"
        )

    def _repr_html_(self) -> str:
        return shown(self, readable(self.frame))


def codec_seconds(servers: Iterable[str], transfers: Iterable[Transfer]) -> dict[str, float]:
    """Return the seconds of writing and reading tensors, by server [s]."""
    found: dict[str, list[float]] = {server: [] for server in servers}
    for t in transfers:
        found[t.source].append(t.encode_s)
        found[t.target].append(t.decode_s)
    return {server: math.fsum(seconds) for server, seconds in found.items()}
