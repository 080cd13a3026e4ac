"""The forms in which tensors may cross, as arrays: what each takes on each link, and which of them is best there.

A lossless form changes nothing but the cost of a tensor on a link, so the best one of each is taken before anything is solved:
the least of some numbers takes the place of one. Lossy forms of the graph inputs change the noise. They are the values of one
more variable, which rides along with the q bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dnnsplit.graph.layers import LayerGraph, Tensor
from dnnsplit.ground.errors import NoiseError, OptionError, SolverError, nearest, raise_problems
from dnnsplit.ground.units import show
from dnnsplit.network.servers import Network
from dnnsplit.profiling.wire_forms import INT8, PLAIN, Coded, WireForms
from dnnsplit.solving.costs import INT8_SHARE
from dnnsplit.solving.elimination.order import MAX_BYTES
from dnnsplit.solving.elimination.relays import TIE
from dnnsplit.solving.request import Request

if TYPE_CHECKING:
    from dnnsplit.solving.arrays import Weights


@dataclass(frozen=True, eq=False)
class Forms:
    """What tensors take in each form.

    Attributes
    ----------
    names : tuple[tuple[tuple[str, ...], ...], ...]
        By tensor and precision of its layer; the plain form comes first, where it is allowed.
    link_s : np.ndarray
        float (tensors, servers, servers, 2, forms) [s]; infinite without a link, or without the form.
    size_bytes : np.ndarray
        float (tensors, 2, forms) [B].
    encode_s, decode_s : np.ndarray
        float (tensors, servers, servers, 2, forms) [s], of the first server and of the second.
    power : np.ndarray
        float (tensors, 2, forms), the square of the noise of a tensor alone in a lossy form; 0 for forms without a loss.
    """

    names: tuple[tuple[tuple[str, ...], ...], ...]
    link_s: np.ndarray
    size_bytes: np.ndarray
    encode_s: np.ndarray
    decode_s: np.ndarray
    power: np.ndarray

    @cached_property
    def coded(self) -> bool:
        """Whether any tensor has another form than the plain one."""
        return any(name not in (PLAIN, INT8) for both in self.names for own in both for name in own)

    def only(self, tensors: Sequence[int], forms: Forms) -> Forms:
        """Return the same with some tensors in the one form that `forms` has of each."""
        names = list(self.names)
        arrays = {name: array.copy() for name, array in vars(self).items() if isinstance(array, np.ndarray)}
        for n, t in enumerate(tensors):
            names[t] = forms.names[n]
            for name, array in arrays.items():
                array[t] = np.inf if name == "link_s" else 0.0
                array[t, ..., :1] = getattr(forms, name)[n]
        return Forms(tuple(names), **arrays)

    def without(self, gone: np.ndarray) -> Forms:
        """Return the same without some forms on some links, bool like `link_s`."""
        return replace(self, link_s=np.where(gone, np.inf, self.link_s))

    @property
    def lossless(self) -> Forms:
        """The same without the lossy ones."""
        return self.without((self.power > 0)[:, None, None]) if self.power.any() else self

    def settled(self, tensors: Sequence[int]) -> Forms:
        """Return the same with the layers of some tensors in int8, whatever their precision is called."""
        names = [(own[1], own[1]) if t in tensors else own for t, own in enumerate(self.names)]
        found = {"size_bytes": self.size_bytes.copy(), "power": self.power.copy()}
        for array in found.values():
            array[tensors, 0] = array[tensors, 1]
        for name in ("link_s", "encode_s", "decode_s"):
            found[name] = array = getattr(self, name).copy()
            array[tensors, ..., 0, :] = array[tensors, ..., 1, :]
        return Forms(tuple(names), **found)

    def worth(self, by: Weights) -> np.ndarray:
        """Return what each tensor is worth on each link in each form: float like `link_s`; 0 where there is none."""
        linked = np.isfinite(self.link_s)
        worth = np.where(linked, self.link_s, 0.0)
        worth *= by.transfer[..., None, None]
        if self.encode_s.any() or self.decode_s.any():
            codec = self.encode_s * by.compute[:, None, None, None] + self.decode_s * by.compute[:, None, None]
            worth += np.where(linked, codec, 0.0)
        if np.any(by.sent):
            sent = np.asarray(by.sent)[..., None, None]
            worth += np.where(linked, self.size_bytes[:, None, None] * sent, 0.0)
        if by.power:
            worth += np.where(linked, self.power[:, None, None] * by.power, 0.0)
        return worth


@dataclass(frozen=True, eq=False)
class Source:
    """A lossy form of graph inputs: its name, the tensors that have it, and what they take in it."""

    name: str
    tensors: tuple[int, ...]
    forms: Forms = field(repr=False)


@dataclass(frozen=True, eq=False)
class Prices:
    """What tensors are worth on each link by some objectives, each in the form that is best for the first.

    Attributes
    ----------
    worth : np.ndarray
        float (objectives, tensors, servers, servers, 2), with lossless forms; the first is infinite without a link.
    choice : np.ndarray
        int (tensors, servers, servers, 2), the form.
    sources : Mapping[int, np.ndarray]
        float (objectives, sources, servers, servers) of the tensors that have lossy forms; at 0 by lossless ones.
    """

    worth: np.ndarray
    choice: np.ndarray
    sources: Mapping[int, np.ndarray]

    def of(self, tensor: int, precision: int, source: int) -> np.ndarray:
        """Return what a tensor is worth on each link, float (objectives, servers, servers)."""
        found: np.ndarray = self.sources[tensor][:, source] if tensor in self.sources else self.worth[:, tensor, ..., precision]
        return found


def prices(forms: Forms, sources: Sequence[Source], by: Sequence[Weights]) -> Prices:
    """Return what tensors are worth; between forms of equal first objective the second one decides."""
    worth, choice = _best(forms, by)
    found: dict[int, np.ndarray] = {}
    for t in sorted({t for source in sources for t in source.tensors}):
        found[t] = np.repeat(worth[:, None, t, ..., 0], 1 + len(sources), axis=1)
    for n, source in enumerate(sources, 1):
        own, _ = _best(source.forms, by)
        for i, t in enumerate(source.tensors):
            found[t][:, n] = own[:, i, ..., 0]
    return Prices(worth, choice, found)


def _best(forms: Forms, by: Sequence[Weights]) -> tuple[np.ndarray, np.ndarray]:
    worth = np.stack([forms.worth(one) for one in by])
    worth[0][~np.isfinite(forms.link_s)] = np.inf
    if worth.shape[-1] == 1:
        return worth[..., 0], np.zeros(worth.shape[1:-1], int)
    first = worth[0]
    equal = first <= first.min(axis=-1, keepdims=True) * (1 + TIE)
    choice = np.where(equal, worth[-1 if len(by) == 1 else 1], np.inf).argmin(axis=-1)
    return np.take_along_axis(worth, choice[None, ..., None], axis=-1)[..., 0], choice


def forms_of(graph: LayerGraph, table: WireForms | None, request: Request) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the forms that graph inputs, and that other tensors, may have, by what a request says and the profile knows.

    Raises
    ------
    OptionError
        A form that no such tensor was profiled in.
    """
    inputs = {t.name for t in graph.tensors if t.producer is None}
    known: list[dict[str, bool]] = [{PLAIN: True}, {PLAIN: True}]  # whether it is lossless, by form
    for (tensor, _), forms in table.coded.items() if table else ():
        for name, one in forms.items():
            here = known[tensor not in inputs]
            here[name] = here.get(name, True) and one.lossless
    given, problems = (request.source_forms, request.wire_forms), []
    for what, asked, names in zip(("source_forms", "wire_forms"), given, known, strict=True):
        for name in (n for n in asked or () if n not in names):
            there = f"there are {', '.join(names)}" if len(names) > 1 else "profile(...) measures forms"
            problems.append(f"{what}: the times have no form {name!r}{nearest(name, names)}; {there}")
        if asked == ():
            problems.append(f"{what} is empty; give at least {PLAIN!r}")
    raise_problems(OptionError, "options", problems)
    plain_alone = given[0] == (PLAIN,)  # as on the slides
    lossless_ones = (PLAIN,) if plain_alone else tuple(name for name, lossless in known[1].items() if lossless)
    return tuple(given[0] or known[0]), tuple(given[1] or lossless_ones)


def check_sources(graph: LayerGraph, table: WireForms | None, request: Request, known: Sequence[str]) -> None:
    """Raise NoiseError if a request names a lossy source form whose noise is not known."""
    inputs = {t.name for t in graph.tensors if t.producer is None}
    lossy = {n for t in inputs for n, one in table.of(t).items() if not one.lossless} if table else set()
    lost = [name for name in request.source_forms or () if name in lossy and name not in known]
    text = "the noise of inputs as {!r} is not known; measure it: measure_noise(..., sources=[{!r}])"
    raise_problems(NoiseError, "source_forms", [text.format(name, name) for name in lost])


def forms_on_links(
    graph: LayerGraph,
    network: Network,
    table: WireForms | None,
    source: Sequence[str],
    wire: Sequence[str],
    noise: Mapping[str, Mapping[str, float]],
) -> Forms:
    """Return the forms of all tensors that are allowed: lossless ones, and lossy ones of float32 tensors whose noise is known.

    An input that may not be sent plainly, and has no other lossless form, cannot be sent at all. `network` has links that are
    `priced` already; `noise` is that of one tensor alone, by tensor and form.
    """
    every, powers = [], []
    for t in graph.tensors:
        names, both = source if t.producer is None else wire, []
        told = noise.get(t.name, {}) if t.producer is not None else {}
        for precision in (PLAIN, INT8):
            known = table.of(t.name, precision) if table else {}
            lossy = told if precision == PLAIN else {}
            found: dict[str, Coded | None] = {n: one for n, one in known.items() if n in names and (one.lossless or n in lossy)}
            plainly = PLAIN in names or not any(n in names for n in known)
            first: dict[str, Coded | None] = {precision: None}
            both.append(first | found if plainly else found)
        every.append(both)
        powers.append({name: value**2 for name, value in told.items()})
    forms = _arrays(graph.tensors, network, every)
    for i, squares in enumerate(powers):
        for n, name in enumerate(forms.names[i][0]):
            one = table.of(graph.tensors[i].name).get(name) if table else None
            forms.power[i, 0, n] = 0.0 if one is None or one.lossless else squares.get(name, 0.0)
    return forms


def lossy_sources(graph: LayerGraph, network: Network, table: WireForms | None, names: Sequence[str]) -> tuple[Source, ...]:
    """Return lossy forms of the graph inputs, by their names."""
    found = []
    for name in names:
        inputs = [(i, t) for i, t in enumerate(graph.tensors) if t.producer is None and not t.is_output]
        own = [(i, t, table.of(t.name)[name]) for i, t in inputs if table and name in table.of(t.name)]
        if own:
            forms = _arrays([t for _, t, _ in own], network, [[{name: one}, {name: one}] for *_, one in own], through=True)
            found.append(Source(name, tuple(i for i, *_ in own), forms))
    return tuple(found)


def _arrays(
    tensors: Sequence[Tensor], network: Network, every: Sequence[Sequence[Mapping[str, Coded | None]]], through: bool = False
) -> Forms:
    """Turn forms by tensor and precision into arrays; None is a plain one.

    What moves inside of a server is not written anew; unless all readers are to read what went `through` the form, which is then
    of an input: written at the source, passed on as it is by others, and read at the source too.
    """
    servers, count = len(network.servers), max((len(own) for both in every for own in both), default=1)
    if (size := 8.0 * len(tensors) * servers**2 * 2 * max(1, count)) > MAX_BYTES:
        message = f"what {len(tensors)} tensors take between {servers} servers needs {show(size, 'B')} of memory"
        way_out = f"at most {show(MAX_BYTES, 'B')} are taken; keep the servers that may be worth it: network.only(...)"
        raise SolverError(message, way_out)
    at_source = np.arange(servers) == network.server_index[network.source]
    sizes = np.array([t.size_bytes for t in tensors], float)
    handled = np.array([t.handled_bytes for t in tensors], float)
    link_s = np.full((len(tensors), servers, servers, 2, max(1, count)), np.inf)
    size_bytes = np.zeros((len(tensors), 2, max(1, count)))
    codec_s = np.zeros((2, *link_s.shape))
    inside = np.eye(servers, dtype=bool)
    for precision, share in enumerate((1.0, INT8_SHARE)):
        link_s[..., precision, 0] = network.transfer_s(sizes * share, handled)
        size_bytes[:, precision, 0] = sizes * share
    coded = [
        (t, precision, n, one)
        for t, both in enumerate(every)
        for precision, own in enumerate(both)
        for n, one in enumerate(own.values())
        if one is not None
    ]
    for t, precision, n, one in coded:
        seconds = network.transfer_s(np.array([one.size_bytes]), handled[t : t + 1])[0]
        write, read = (_by_position(network, by) for by in (one.encode_s, one.decode_s))
        write = np.where(at_source, write, 0.0) if through else write
        able = np.isfinite(write)[:, None] & np.isfinite(read)
        there = able & (~inside | at_source) if through else able & ~inside
        on_links = np.where(able, seconds, np.inf)
        at_home = np.where(there, link_s[t, ..., precision, n], np.inf) if through else link_s[t, ..., precision, n]
        link_s[t, ..., precision, n] = np.where(inside, at_home, on_links)
        size_bytes[t, precision, n] = one.size_bytes
        codec_s[0, t, ..., precision, n] = np.where(there, write[:, None], 0.0)
        codec_s[1, t, ..., precision, n] = np.where(there, read, 0.0)
    names = tuple(tuple(tuple(own) for own in both) for both in every)
    return Forms(names, link_s, size_bytes, codec_s[0], codec_s[1], np.zeros(size_bytes.shape))


def _by_position(network: Network, by_server: Mapping[str, float]) -> np.ndarray:
    """Return seconds by position of the server; infinite where they are not known."""
    return np.array([by_server.get(name, np.inf) for name in network.server_names])
