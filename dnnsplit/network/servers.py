"""The physical graph: servers, directed links, and the YAML that people write for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import NetworkError, nearest, nearest_of, raise_problems, shortened
from dnnsplit.ground.gate import unseen_problem
from dnnsplit.ground.markup import Told, folded, readable, shown
from dnnsplit.ground.units import is_number, show
from dnnsplit.network import yaml

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd

Size = TypeVar("Size", float, np.ndarray)  # of one tensor, or of several


@dataclass(frozen=True, repr=False)
class Server(Told):
    """A place where layers run, k in V_N.

    Sending to another server at a throughput takes P^other_k = transmit_w + transmit_j_per_byte * throughput: a constant on the
    slides, affine in the throughput where it was measured (J. Huang et al., "A Close Examination of Performance and Power
    Characteristics of 4G LTE Networks", MobiSys 2012). The throughput of a transfer is its bytes over all its seconds, so that
    it takes transmit_w * seconds + transmit_j_per_byte * bytes, whatever the rate at which they flow; see `sending_j`.

    Parameters
    ----------
    name : str
        Unique.
    compute_w : float, default 0.0
        P^c_k [W], drawn while a layer runs.
    transmit_w : float, default 0.0
        P^other_k [W], drawn while a tensor is sent to another server; its constant part where it grows with the rate.
    transmit_self_w : float, default 0.0
        P^self_k [W], drawn while a tensor moves inside the server (only where a self link gives it a time).
    memory_bytes : float | None, optional
        Upper limit on the weights held [B], or None.
    speed_cpu : float | None, optional
        Compute speed in CPUs of the test-bed [CPU]; used only to scale a profile, never by the solver.
    note : str, default ""
        Where the figures come from.
    transmit_j_per_byte : float, default 0.0
        What P^other_k grows by per throughput [W per B/s, which is J/B].

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.Server("device", compute_w=2.9165, transmit_w=3.507)
    Server(device: computing 2.917 W; sending 3.507 W; moving inside 0 W)
    """

    name: str
    compute_w: float = 0.0
    transmit_w: float = 0.0
    transmit_self_w: float = 0.0
    memory_bytes: float | None = None
    speed_cpu: float | None = None
    note: str = ""
    transmit_j_per_byte: float = 0.0

    def __post_init__(self) -> None:
        check_arguments(Server, vars(self), NetworkError, but=_figures(self))

    def sending_w(self, bytes_per_s: float) -> float:
        """Power drawn while bytes flow to another server at a throughput [W]: P^other_k."""
        check_arguments(Server.sending_w, locals(), least={"bytes_per_s": 0})
        return self.transmit_w + self.transmit_j_per_byte * bytes_per_s

    def sending_j(self, seconds: float, size_bytes: float) -> float:
        """Energy of a transfer to another server [J]: `sending_w` of its own throughput, times its seconds."""
        check_arguments(Server.sending_j, locals(), least={"seconds": 0, "size_bytes": 0})
        return self.transmit_w * seconds + self.transmit_j_per_byte * size_bytes

    def _told(self) -> tuple[object, Mapping[str, object]]:
        sending, inside = _sending(self), show(self.transmit_self_w, "W")
        powers = {"computing": show(self.compute_w, "W"), "sending": sending, "moving inside": inside}
        memory = None if self.memory_bytes is None else show(self.memory_bytes, "B")
        return self.name, {**powers, "memory": memory, "CPUs": self.speed_cpu, "note": self.note}


@dataclass(frozen=True, repr=False)
class Link(Told):
    """A directed link n = (k, h) in E_N.

    Parameters
    ----------
    source, target : str
        Server names.
    bandwidth_bytes_per_s : float
        [B/s], above 0; infinity is allowed for links inside a server.
    latency_s : float, default 0.0
        One-way latency [s].
    serialise_s_per_byte : float, default 0.0
        Measured cost of packing and unpacking [s/B].
    note : str, default ""
        Where the figures come from.
    handling_s, handling_s_per_byte : float, default 0.0
        What the two servers themselves do where a model is cut, per tensor between layers [s] and per byte of it in float32
        [s/B]; set by `priced` from a profile.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> link = ds.Link("device", "edge", bandwidth_bytes_per_s=5e6, latency_s=0.005)
    >>> link
    Link(device -> edge: bandwidth 5 MB/s; latency 5 ms)
    >>> round(link.transfer_s(1e6), 6)
    0.205
    """

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    serialise_s_per_byte: float = 0.0
    note: str = ""
    handling_s: float = 0.0
    handling_s_per_byte: float = 0.0

    def __post_init__(self) -> None:
        check_arguments(Link, vars(self), NetworkError, but=_figures(self))

    @property
    def ends(self) -> tuple[str, str]:
        """(source, target)."""
        return self.source, self.target

    @property
    def s_per_byte(self) -> float:
        """Seconds that a byte on the link adds [s/B]: 1 / bandwidth + serialisation."""
        return 1 / self.bandwidth_bytes_per_s + self.serialise_s_per_byte

    def transfer_s(self, size_bytes: Size, handled_bytes: Size | None = None) -> Size:
        """Seconds to move `size_bytes` over this link: g(t, n) = latency + bytes / bandwidth (+ serialisation, + handling).

        Parameters
        ----------
        handled_bytes : Size | None, optional
            Of the tensor in float32 if a layer makes it and another reads it, as `Tensor.handled_bytes`; default: `size_bytes`.
            Inputs and outputs of the model (0) are the same work wherever it runs: the layers' times hold that.
        """
        check_arguments(Link.transfer_s, locals())
        handled_bytes = size_bytes if handled_bytes is None else handled_bytes
        shapes = np.shape(size_bytes), np.shape(handled_bytes)
        if shapes[0] != shapes[1] and () not in shapes:
            message = f"size_bytes and handled_bytes have the shapes {shapes[0]} and {shapes[1]}; give as many of each"
            raise NetworkError(message)
        if not (np.all(size_bytes >= 0) and np.all(handled_bytes >= 0)):
            message = f"sizes are {shortened(size_bytes)} and {shortened(handled_bytes)}; give bytes, 0 or more"
            raise NetworkError(message)
        seconds = self.latency_s + size_bytes / self.bandwidth_bytes_per_s + size_bytes * self.serialise_s_per_byte
        whole: Size = seconds + (handled_bytes > 0) * self.handling_s + handled_bytes * self.handling_s_per_byte
        return whole

    def _told(self) -> tuple[object, Mapping[str, object]]:
        facts: dict[str, object] = {"bandwidth": show(self.bandwidth_bytes_per_s, "B/s"), "latency": show(self.latency_s, "s")}
        handling = f"{show(self.handling_s, 's')} per tensor, {show(self.handling_s_per_byte, 's')} per byte"
        facts["handling"] = handling if self.handling_s or self.handling_s_per_byte else ""
        return f"{self.source} -> {self.target}", {**facts, "note": self.note}


@dataclass(frozen=True)
class Network:
    """The physical graph G_N = (V_N, E_N).

    Parameters
    ----------
    servers : tuple[Server, ...]
        At least one.
    links : tuple[Link, ...], default ()
        Directed; a pair without a link cannot exchange tensors.
    source : str, default ""
        The device: graph inputs start here and graph outputs end here.
    name : str, default ""
        For reports, such as that of its file.

    Raises
    ------
    NetworkError
        Duplicate or unknown names, negative figures, a source that is not a server; all of them at once.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.Network([ds.Server("device"), ds.Server("edge")], [ds.Link("device", "edge", 5e6, 0.005)], source="device")
    Network(device, edge; 1 link; source device)
    """

    servers: tuple[Server, ...]
    links: tuple[Link, ...] = ()
    source: str = ""
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_arguments(Network, vars(self), NetworkError)
        object.__setattr__(self, "servers", tuple(self.servers))
        object.__setattr__(self, "links", tuple(self.links))
        if not self.source and self.servers:
            object.__setattr__(self, "source", self.servers[0].name)
        raise_problems(NetworkError, f"network {self.name!r}" if self.name else "network", list(self._problems()))

    def _problems(self) -> Iterable[str]:
        names = [server.name for server in self.servers]
        if not names:
            yield "it has no server; give at least the device"
        if "" in names:
            yield "a server has no name; give each a name"
        yield from (f"the name of server {name!a} {wrong}" for name in names if (wrong := unseen_problem(name)))
        known = Counter(names)
        for name in sorted(name for name, count in known.items() if count > 1):
            yield f"two servers are named {name!r}; names must be unique"
        for server in self.servers:
            yield from _no_figures(server, f"server {server.name!r}")
        if names and self.source not in known:
            yield f"source {self.source!r} is no server{nearest(self.source, names)}"
        seen, near = set(), nearest_of(known)
        for link in self.links:
            where = f"link {link.source!r} -> {link.target!r}"
            for end in (link.source, link.target):
                if end not in known:
                    yield f"{where}: {end!r} is no server{near(end)}"
            if (link.source, link.target) in seen:
                yield f"{where} is given twice; keep one"
            seen.add((link.source, link.target))
            yield from _no_figures(link, where)

    @cached_property
    def server_names(self) -> tuple[str, ...]:
        """Names of the servers, in the order given."""
        return tuple(server.name for server in self.servers)

    @cached_property
    def server_index(self) -> dict[str, int]:
        """Position of each server by name."""
        return {name: k for k, name in enumerate(self.server_names)}

    def server(self, name: str) -> Server:
        """Return the server called `name`."""
        check_arguments(Network.server, locals(), NetworkError)
        if name not in self.server_index:
            message = f"there is no server {name!r}{nearest(name, self.server_names)}"
            raise NetworkError(message)
        return self.servers[self.server_index[name]]

    def link(self, source: str, target: str) -> Link | None:
        """Return the link from `source` to `target`, or None."""
        check_arguments(Network.link, locals(), NetworkError)
        return self._between.get((source, target))

    @cached_property
    def _between(self) -> dict[tuple[str, str], Link]:
        return {(link.source, link.target): link for link in self.links}

    def transfer_s(self, size_bytes: np.ndarray, handled_bytes: np.ndarray | None = None) -> np.ndarray:
        """Seconds to move each size between each pair of servers.

        Parameters
        ----------
        size_bytes : np.ndarray
            float (n,) [B].
        handled_bytes : np.ndarray | None, optional
            float (n,) [B]; see `Link.transfer_s`.

        Returns
        -------
        np.ndarray
            float (n, servers, servers) [s]: infinite where there is no link; 0 on the diagonal unless a self link is given.
        """
        check_arguments(Network.transfer_s, locals())
        index = self.server_index
        size_bytes = np.asarray(size_bytes, float)
        if size_bytes.ndim != 1:
            message = f"size_bytes has the shape {size_bytes.shape}; give one number per tensor"
            raise NetworkError(message)
        seconds = np.full((len(size_bytes), len(index), len(index)), np.inf)
        seconds[:, range(len(index)), range(len(index))] = 0.0
        for link in self.links:
            seconds[:, index[link.source], index[link.target]] = link.transfer_s(size_bytes, handled_bytes)
        return seconds

    def without(self, *links: tuple[str, str]) -> Network:
        """Return the same network without some links, each given as (source, target)."""
        check_arguments(Network.without, locals(), NetworkError)
        gone = {(source, target) for source, target in links}
        known = [f"{link.source} -> {link.target}" for link in self.links]
        lost = [f"{source} -> {target}" for source, target in links if (source, target) not in self._between]
        near = nearest_of(known)
        raise_problems(NetworkError, "links", [f"there is no link {name!r}{near(name)}" for name in lost])
        return replace(self, links=tuple(link for link in self.links if link.ends not in gone))

    def with_bandwidths(self, bandwidths: Mapping[tuple[str, str], float]) -> Network:
        """Return the same network with other bandwidths [B/s] of some links, by (source, target); others are left out."""
        check_arguments(Network.with_bandwidths, locals(), NetworkError)
        links = ((link, bandwidths.get((link.source, link.target), link.bandwidth_bytes_per_s)) for link in self.links)
        return replace(self, links=tuple(replace(link, bandwidth_bytes_per_s=bandwidth) for link, bandwidth in links))

    @cached_property
    def digraph(self) -> nx.DiGraph[str]:
        """The network as a networkx graph: nodes carry the fields of their `Server`, edges those of their `Link`."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph(source=self.source)
        graph.add_nodes_from((server.name, vars(server)) for server in self.servers)
        graph.add_edges_from((link.source, link.target, vars(link)) for link in self.links)
        return graph

    def only(self, *names: str) -> Network:
        """Return the same network with some servers alone, links between them kept; the source must stay."""
        check_arguments(Network.only, locals(), NetworkError)
        servers, kept = tuple(self.server(name) for name in names), set(names)
        if self.source not in kept:
            message = f"the source {self.source!r} must stay in the network; you kept {', '.join(names)}"
            raise NetworkError(message)
        links = tuple(link for link in self.links if link.source in kept and link.target in kept)
        return Network(servers, links, self.source, name="+".join(names))

    @property
    def frame(self) -> pd.DataFrame:
        """One row per link: source, target, bandwidth_bytes_per_s [B/s], latency_s [s]."""
        import pandas as pd  # here: a host that serves and probes alone need not have it

        columns = ["source", "target", "bandwidth_bytes_per_s", "latency_s", "serialise_s_per_byte", "note"]
        return pd.DataFrame([vars(link) for link in self.links], columns=columns)

    @property
    def servers_frame(self) -> pd.DataFrame:
        """One row per server: powers [W], what sending takes per byte [J/B], memory [B], speed [CPU]."""
        import pandas as pd

        return pd.DataFrame([vars(server) for server in self.servers])

    def __repr__(self) -> str:
        links = f"{len(self.links)} link" + ("" if len(self.links) == 1 else "s")
        return folded(f"Network({', '.join(self.server_names)}; {links}; source {self.source})")

    def _repr_html_(self) -> str:
        servers = readable(self.servers_frame.assign(transmit_w=[_sending(s) for s in self.servers]))
        servers = servers[["name", "speed_cpu", "compute", "transmit", "memory", "note"]]
        links = readable(self.frame)[["source", "target", "bandwidth", "latency", "note"]]
        return shown(self, servers, links)

    @staticmethod
    def load(path: str | Path) -> Network:
        """Read a network from the YAML that people write.

        Parameters
        ----------
        path : str | Path
            File with ``source``, ``servers`` (name, compute, transmit, transmit_per_rate, memory, speed, note) and ``links``
            (source, target, bandwidth, latency, note); quantities as ``5 MB/s``, ``5 ms``, ``2.9 W``, ``438 mW/(Mbit/s)``.

        Raises
        ------
        NetworkError
            The file is missing or no YAML, has unknown keys, or describes a wrong network.
        """
        check_arguments(Network.load, locals(), NetworkError)
        path = Path(path)
        servers, links, source = yaml.read(path)
        return Network(tuple(Server(**s) for s in servers), tuple(Link(**n) for n in links), source, name=path.stem)

    def save(self, path: str | Path) -> None:
        """Write the YAML that `load` reads back to an equal network."""
        check_arguments(Network.save, locals(), NetworkError)
        yaml.write(path, self.source, self.servers, self.links)


def _sending(server: Server) -> str:
    slope = f" + {show(server.transmit_j_per_byte * 125e3, 'W')} per Mbit/s" if server.transmit_j_per_byte else ""
    return show(server.transmit_w, "W") + slope


def _figures(entry: Server | Link) -> list[str]:
    """Return the names of the numbers, which a network checks: it says of which server or link they are, all at once."""
    return [one.name for one in fields(entry) if one.type != "str"]


def _no_figures(entry: Server | Link, where: str) -> Iterable[str]:
    for one in (one for one in fields(entry) if one.type != "str"):
        value, positive = getattr(entry, one.name), one.name in ("speed_cpu", "bandwidth_bytes_per_s")
        what = f"{where}: {one.name} is {value!r}"
        if value is None and one.default is None:
            continue
        if not is_number(value):
            yield f"{what}, not a number"
        elif math.isnan(value) or (math.isinf(value) and one.name != "bandwidth_bytes_per_s"):
            yield f"{what}; it must be finite"
        elif value < 0 or (positive and value == 0):
            yield f"{what}; it must be {'above 0' if positive else '0 or more'}"
