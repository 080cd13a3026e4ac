"""The bundle: a folder with the ONNX parts of a cut model and `bundle.json`, which says how they are wired."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnsplit.codecs.forms import Bytes, Codec, File, codec
from dnnsplit.codecs.pixels import Pixels
from dnnsplit.codecs.plain import INT8, PLAIN
from dnnsplit.cutting.checks import DATATYPES, OPEN_BYTES, bundle_problems, read_document
from dnnsplit.cutting.examples import Example
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, raise_problems
from dnnsplit.ground.files import sha256, write_json
from dnnsplit.ground.forms import formed
from dnnsplit.ground.markup import folded, readable, shown
from dnnsplit.ground.units import show

if TYPE_CHECKING:
    import pandas as pd

FILE = "bundle.json"
SCHEMA = 1
# what bundles do not say that were cut before there was such a thing
ADDED: dict[str, Any] = {"ignored": [], "examples": [], "codings": [], "pixels": {}}


@dataclass(frozen=True)
class Wire:
    """A tensor that parts exchange; with a scale it is the 8-bit form of a float32 tensor."""

    name: str  # in ONNX, in every part that makes or reads it
    dtype: str  # numpy name, "float32", "uint8", ...
    shape: tuple[int, ...]  # an extent is -1 where it depends on the data, which only an output of the model may have
    scale: float | None = None  # real = (value - zero_point) * scale
    zero_point: int | None = None
    tensor: str = ""  # name of the float32 tensor in the whole model, where it is another

    @property
    def size_bytes(self) -> int:
        """Size of the values on the wire [B]; the most that it may be where the shape is open."""
        return OPEN_BYTES if self.is_open else math.prod(self.shape) * DATATYPES[self.dtype][1]

    @property
    def coded_bytes(self) -> int:
        """The most that the values take in any form [B]: what is pressed that cannot be pressed is a little larger."""
        return max(self.size_bytes + self.size_bytes // 128, 2 * self.size_bytes // DATATYPES[self.dtype][1])

    @property
    def plain(self) -> str:
        """The form in which it crosses a link as it is."""
        return PLAIN if self.scale is None else INT8

    @property
    def is_open(self) -> bool:
        """Whether the shape depends on the data."""
        return -1 in self.shape

    @property
    def real_bytes(self) -> int:
        """Size of the values after dequantisation [B]; the most that it may be where the shape is open."""
        return self.size_bytes // DATATYPES[self.dtype][1] * DATATYPES[self.real_dtype][1]

    @property
    def real_dtype(self) -> str:
        """The numpy name of the values after dequantisation."""
        return self.dtype if self.scale is None else "float32"

    def real(self, values: np.ndarray) -> np.ndarray:
        """Return what the values on the wire stand for: themselves, or (value - zero_point) * scale in float32."""
        if self.scale is None:
            return values
        return (values.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True)
class Part:
    """An ONNX file of the bundle and the server that runs it; `inputs` and `outputs` are Wire names = its ONNX names.

    The weights of a large part are in a file of their own, `data`, beside the first.
    """

    name: str
    server: str
    file: str
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: str = ""
    data_sha256: str = ""


@dataclass(frozen=True)
class Output:
    """A graph output of the whole model and the Wire that carries it (dequantised at the source if it has a scale)."""

    name: str
    wire: str


@dataclass(frozen=True)
class Hop:
    """A link that a relayed wire takes: `source` sends it to `target`, whoever of them runs parts that need it."""

    wire: str
    source: str
    target: str


@dataclass(frozen=True)
class Coding:
    """The form in which `source` writes a wire for `target`; what has none crosses as it is.

    From the bundle's source to itself, it is what its own parts read of a graph input that crosses in a form with a loss.
    """

    wire: str
    source: str
    target: str
    form: str


@dataclass(frozen=True)
class Bundle:
    """A cut model, ready to be run.

    Parameters
    ----------
    folder : Path
        Where `bundle.json` and the ONNX parts are.
    model_name : str
        Name under which the whole deployment answers.
    model_sha256 : str
        Of the ONNX file that was cut.
    source : str
        Server where requests arrive and where the outputs are delivered.
    servers : tuple[str, ...]
        All servers that the parts may name.
    inputs : tuple[Wire, ...]
        Graph inputs, present at `source` when a request arrives.
    outputs : tuple[Output, ...]
        Graph outputs.
    wires : tuple[Wire, ...]
        Tensors that the parts produce.
    parts : tuple[Part, ...]
        In topological order.
    plan : Mapping[str, Any], optional
        The plan's JSON, or {}.
    hops : tuple[Hop, ...], default ()
        All links of the wires that pass through other servers, in the order of travel; wires that are not named go straight from
        their producer to each server that needs them.
    ignored : tuple[str, ...], default ()
        Graph inputs that nothing reads: a request may hold them, and they go nowhere.
    examples : tuple[Example, ...], default ()
        What parts are warmed up with: of wires and graph inputs, what was seen when the parts were checked.
    codings : tuple[Coding, ...], default ()
        How wires cross links that cross in another form than they are made in.
    pixels : Mapping[str, Pixels], optional
        How graph inputs hold images, those that do: they may be given as encoded images.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n("device-edge")
    >>> plan = ds.split(graph, network, times, noise, max_noise=0.05, pins={"/model.0/conv/Conv": "device"})
    >>> bundle = ds.cut(graph, plan, "build", check=False)
    >>> bundle.parts[0].server
    'device'
    >>> ds.Bundle.load("build") == bundle
    True
    """

    folder: Path
    model_name: str
    model_sha256: str
    source: str
    servers: tuple[str, ...]
    inputs: tuple[Wire, ...]
    outputs: tuple[Output, ...]
    wires: tuple[Wire, ...]
    parts: tuple[Part, ...]
    plan: Mapping[str, Any] = field(default_factory=dict, repr=False)
    hops: tuple[Hop, ...] = ()
    ignored: tuple[str, ...] = ()
    examples: tuple[Example, ...] = field(default=(), repr=False)
    codings: tuple[Coding, ...] = ()
    pixels: Mapping[str, Pixels] = field(default_factory=dict, repr=False)

    @cached_property
    def inside(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """The moves inside of each server that a self link of the plan prices: (tensor, bytes [B]), whoever made it."""
        found: dict[str, list[tuple[str, int]]] = {}
        for t in self.plan.get("cost", {}).get("transfers", ()):
            if t["source"] == t["target"] and (t["size_bytes"] or t.get("form", PLAIN) in (PLAIN, INT8)):
                found.setdefault(t["source"], []).append((t["tensor"], round(t["size_bytes"])))
        return {server: tuple(moves) for server, moves in found.items()}

    def save(self) -> Path:
        """Check the bundle and write `bundle.json` into its folder, atomically; the parts must be there already."""
        self.check()
        document = asdict(self)
        del document["folder"]
        return write_json(self.folder / FILE, {"schema": SCHEMA} | document)

    @staticmethod
    def load(folder: str | Path) -> Bundle:
        """Read and check the bundle in `folder`.

        Raises
        ------
        DeployError
            No bundle, a damaged one, a changed part, a path that leaves the folder, tensors that nobody makes; all problems at
            once.
        """
        check_arguments(Bundle.load, locals())
        path = Path(folder) / FILE
        document = ADDED | read_document(path, SCHEMA)
        bundle = formed(document, Bundle, DeployError, str(path), complete=True, folder=Path(folder))
        bundle.check()
        return bundle

    def check(self) -> None:
        """Raise a `DeployError` with everything that is wrong with the bundle or its files."""
        raise_problems(DeployError, f"bundle {self.folder}", list(bundle_problems(self)))

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """Itself alone, where a `PlanSet` has several."""
        return (self,)

    @cached_property
    def wire_by_name(self) -> dict[str, Wire]:
        """Graph inputs and produced wires by name."""
        return {wire.name: wire for wire in self.inputs + self.wires}

    @cached_property
    def example_of(self) -> dict[str, Example]:
        """What was seen of wires and graph inputs, by name."""
        return {example.wire: example for example in self.examples}

    @cached_property
    def producers(self) -> dict[str, str]:
        """The server where each wire comes into being: the source for graph inputs, else the server of its part."""
        made = {wire.name: self.source for wire in self.inputs}
        return made | {name: part.server for part in self.parts for name in part.outputs}

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """The servers that need a running stage: the source, every server with a part, and those that relay a wire."""
        busy = {self.source, *(part.server for part in self.parts), *(hop.target for hop in self.hops)}
        return tuple(server for server in self.servers if server in busy)

    @cached_property
    def needed(self) -> dict[str, tuple[str, ...]]:
        """Wire -> the servers other than its producer's that need it; wires that stay where they are made are left out."""
        needed, users = {}, dict[str, set[str]]()
        read = [(name, part.server) for part in self.parts for name in part.inputs]
        for name, server in (*read, *((output.wire, self.source) for output in self.outputs)):
            users.setdefault(name, set()).add(server)
        place = {server: k for k, server in enumerate(self.servers)}
        for name, server in self.producers.items():
            if targets := tuple(sorted((users.get(name, set()) & place.keys()) - {server}, key=place.__getitem__)):
                needed[name] = targets
        return needed

    @cached_property
    def routes(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """(wire, server that sends it) -> the servers it sends it to."""
        relayed = {hop.wire for hop in self.hops}
        producers = self.producers
        routes = {(name, producers[name]): [*targets] for name, targets in self.needed.items() if name not in relayed}
        for hop in self.hops:
            routes.setdefault((hop.wire, hop.source), []).append(hop.target)
        return {way: tuple(targets) for way, targets in routes.items()}

    @cached_property
    def forms(self) -> dict[tuple[str, str, str], str]:
        """(wire, server that writes it, server that reads it) -> form, where it is not the plain one."""
        return {(coding.wire, coding.source, coding.target): coding.form for coding in self.codings}

    def codec(self, wire: str, form: str) -> Codec:
        """Return what writes and reads a wire in a form."""
        check_arguments(Bundle.codec, locals())
        return codec(form, self.pixels.get(wire))

    @cached_property
    def lossy_inputs(self) -> dict[str, str]:
        """The form of the graph inputs that lose something by it: whoever reads one reads what is left."""
        inputs = {wire.name for wire in self.inputs}
        return {c.wire: c.form for c in self._lossy if c.wire in inputs}

    @cached_property
    def lossy_wires(self) -> tuple[Coding, ...]:
        """Where wires between parts lose something by their form."""
        return tuple(c for c in self._lossy if c.wire not in self.lossy_inputs)

    @cached_property
    def _lossy(self) -> list[Coding]:
        return [c for c in self.codings if not self.codec(c.wire, c.form).lossless]

    @property
    def digest(self) -> str:
        """Hash of `bundle.json`, which holds those of all files: stages of one deployment agree in it."""
        return sha256(self.folder / FILE)

    @cached_property
    def largest_message_bytes(self) -> int:
        """Upper bound on one message in any form: all inputs, all outputs after dequantisation, or a wire; and the trace [B]."""
        wires = self.wire_by_name
        coded = {*self.pixels, *(coding.wire for coding in self.codings)}
        sizes = {name: wire.coded_bytes if name in coded else wire.size_bytes for name, wire in wires.items()}
        requests = sum(sizes[wire.name] for wire in self.inputs)
        answers = sum(wires[o.wire].real_bytes for o in self.outputs)
        records = len(self.parts) + sum(len(targets) for targets in self.routes.values()) + len(self.codings)
        return max(requests, answers, *sizes.values()) + 2**20 + 1024 * records

    @cached_property
    def leave_as_images(self) -> frozenset[str]:
        """Graph inputs that leave the source as 8-bit images, and that no part of the source reads as they are.

        Whoever has the images may hand these over, uint8 in the shape of the input: the tensor need not be made of them.
        """
        own = {name for part in self.parts if part.server == self.source for name in part.inputs}
        own |= {output.wire for output in self.outputs}
        found = set()
        for name, pixels in self.pixels.items():
            ways = [(name, self.source, target) for target in self.routes.get((name, self.source), ())]
            codecs = [self.codec(name, self.forms[way]) for way in ways if way in self.forms]
            written = len(codecs) == len(ways) > 0 and all(isinstance(one, Bytes | File) for one in codecs)
            through = (name, self.source, self.source) in self.forms  # its own parts read what is left of it, in that form
            if pixels.exact and written and (through or name not in own):
                found.add(name)
        return frozenset(found)

    @cached_property
    def sent_bytes(self) -> dict[tuple[str, str, str], float]:
        """(wire, source, target) -> what crosses that link [B]; in another form than the plain one, what the plan expects."""
        wires = self.wire_by_name
        planned = {
            (t["tensor"], t["source"], t["target"]): t["size_bytes"] for t in self.plan.get("cost", {}).get("transfers", ())
        }
        sizes: dict[tuple[str, str, str], float] = {}
        for (name, source), targets in self.routes.items():
            for target in targets:
                size = wires[name].size_bytes
                coded = (name, source, target) in self.forms
                sizes[name, source, target] = planned.get((wires[name].tensor or name, source, target), size) if coded else size
        return sizes

    @property
    def frame(self) -> pd.DataFrame:
        """One row per part: part, server, file, inputs, outputs, received_bytes [B], sent_bytes [B] (over links)."""
        import pandas as pd  # here: a stage process has no use for it and starts sooner without

        come, gone = dict[tuple[str, str], float](), dict[tuple[str, str], float]()
        for (name, source, target), size in self.sent_bytes.items():
            come[name, target] = come.get((name, target), 0) + size
            gone[name, source] = gone.get((name, source), 0) + size
        rows = [
            [
                part.name,
                part.server,
                part.file,
                ", ".join(part.inputs),
                ", ".join(part.outputs),
                sum(come.get((name, part.server), 0) for name in part.inputs),
                sum(gone.get((name, part.server), 0) for name in part.outputs),
            ]
            for part in self.parts
        ]
        return pd.DataFrame(rows, columns=["part", "server", "file", "inputs", "outputs", "received_bytes", "sent_bytes"])

    def __repr__(self) -> str:
        wires = self.wire_by_name
        sizes = self.sent_bytes
        most = "at most " if any(wires[name].is_open for name, _ in self.routes) else ""
        count = len(self.routes)
        many = "1 tensor crosses" if count == 1 else f"{count} tensors cross"
        sent = f"{many} ({most}{show(sum(sizes.values()), 'B')})" if sizes else "nothing crosses"
        parts = f"{len(self.parts)} part{'' if len(self.parts) == 1 else 's'}"
        return folded(f"Bundle({self.model_name}: {parts} on {', '.join(self.stages)}; {sent}; source {self.source})")

    def _repr_html_(self) -> str:
        return shown(self, readable(self.frame))
