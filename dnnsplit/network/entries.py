"""What a network file may hold: every key, what it means and in which unit, for the loader, the schema and the template alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from dnnsplit.ground.gate import LONGEST_NAME
from dnnsplit.ground.units import pattern

Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
Power = Annotated[str, Meta(pattern=pattern("power"))] | Annotated[float, Meta(ge=0)]
PowerPerRate = Annotated[str, Meta(pattern=pattern("power_per_rate"))] | Annotated[float, Meta(ge=0)]
Memory = Annotated[str, Meta(pattern=pattern("memory"))] | Annotated[float, Meta(ge=0)]
Speed = Annotated[str, Meta(pattern=pattern("speed"))] | Annotated[float, Meta(gt=0)]
Bandwidth = Annotated[str, Meta(pattern=pattern("bandwidth"))] | Annotated[float, Meta(gt=0)]
Latency = Annotated[str, Meta(pattern=pattern("latency"))] | Annotated[float, Meta(ge=0)]
PerByte = Annotated[str, Meta(pattern=pattern("serialise"))] | Annotated[float, Meta(ge=0)]

Note = Annotated[Name | UnsetType, Meta(description="Where the figures come from; shown in tables. Left out: none is shown.")]


class ServerEntry(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A place where layers run."""

    name: Annotated[Name, Meta(description="Of this server, unique; tables of times have the same name.")]
    compute: Annotated[
        Power | UnsetType,
        Meta(
            description="Power drawn while a layer runs, such as 2.9 W; 'dnnsplit power' measures it. "
            "Left out: 0 W, computing here costs no energy.",
            examples=["2.9 W"],
            extra={"attribute": "compute_w", "dimension": "power"},
        ),
    ] = UNSET
    transmit: Annotated[
        Power | UnsetType,
        Meta(
            description="Power drawn while a tensor is sent to another server, such as 3.5 W. Left out: 0 W.",
            examples=["3.5 W"],
            extra={"attribute": "transmit_w", "dimension": "power"},
        ),
    ] = UNSET
    transmit_per_rate: Annotated[
        PowerPerRate | UnsetType,
        Meta(
            description="What that power grows by with the throughput, such as 438.39 mW/(Mbit/s). Left out: it is constant.",
            examples=["438.39 mW/(Mbit/s)"],
            extra={"attribute": "transmit_j_per_byte", "dimension": "power_per_rate"},
        ),
    ] = UNSET
    transmit_self: Annotated[
        Power | UnsetType,
        Meta(
            description="Power drawn while a tensor moves inside this server, if a link from it to itself gives that a time. "
            "Left out: 0 W.",
            examples=["0.5 W"],
            extra={"attribute": "transmit_self_w", "dimension": "power"},
        ),
    ] = UNSET
    memory: Annotated[
        Memory | UnsetType,
        Meta(
            description="Most that the weights of its layers may take, such as 512 MB; int8 takes a quarter. Left out: no limit.",
            examples=["512 MB"],
            extra={"attribute": "memory_bytes", "dimension": "memory"},
        ),
    ] = UNSET
    speed: Annotated[
        Speed | UnsetType,
        Meta(
            description="Speed in CPUs of the machine that profiles, such as 0.5 CPU: ds.profile scales its times by it. "
            "Left out: its times have to be measured there ('dnnsplit profile --server') or scaled ('dnnsplit profile-scale').",
            examples=["0.5 CPU"],
            extra={"attribute": "speed_cpu", "dimension": "speed"},
        ),
    ] = UNSET
    note: Note = UNSET


class LinkEntry(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A directed link; a pair of servers without one cannot exchange tensors."""

    source: Annotated[Name, Meta(description="The server that sends.")]
    target: Annotated[Name, Meta(description="The server that receives.")]
    bandwidth: Annotated[
        Bandwidth,
        Meta(
            description="Such as 5 MB/s or 40 Mbit/s (the same); 'dnnsplit probe' measures it.",
            examples=["5 MB/s"],
            extra={"attribute": "bandwidth_bytes_per_s", "dimension": "bandwidth"},
        ),
    ]
    latency: Annotated[
        Latency | UnsetType,
        Meta(
            description="One way, half of what ping tells, such as 5 ms; every tensor that crosses pays it. Left out: 0 s.",
            examples=["5 ms"],
            extra={"attribute": "latency_s", "dimension": "latency"},
        ),
    ] = UNSET
    serialise: Annotated[
        PerByte | UnsetType,
        Meta(
            description="Packing and unpacking, such as 1.2 ns/B. Left out: 0, what was measured comes with the times.",
            examples=["1.2 ns/B"],
            extra={"attribute": "serialise_s_per_byte", "dimension": "serialise"},
        ),
    ] = UNSET
    handling: Annotated[
        Latency | UnsetType,
        Meta(
            description="What both servers do per tensor where the model is cut, such as 0.1 ms. Left out: 0, the times tell it.",
            examples=["0.1 ms"],
            extra={"attribute": "handling_s", "dimension": "latency"},
        ),
    ] = UNSET
    handling_per_byte: Annotated[
        PerByte | UnsetType,
        Meta(
            description="The same per byte of the tensor in float32, such as 0.5 ns/B. Left out: 0.",
            examples=["0.5 ns/B"],
            extra={"attribute": "handling_s_per_byte", "dimension": "serialise"},
        ),
    ] = UNSET
    note: Note = UNSET


class NetworkFile(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Servers and directed links of dnnsplit: where the layers of a network may run, and what sending takes and draws."""

    servers: Annotated[tuple[ServerEntry, ...], Meta(min_length=1, description="Where layers may run; at least one.")]
    source: Annotated[
        Name | UnsetType, Meta(description="The server where inputs arise and outputs are wanted. Left out: the first one.")
    ] = UNSET
    links: Annotated[
        tuple[LinkEntry, ...] | UnsetType, Meta(description="Each in one direction. Left out: no server reaches another.")
    ] = UNSET
    description: Annotated[Any, Meta(description="For people; dnnsplit reads over it. Left out: no matter.")] = UNSET


@dataclass(frozen=True)
class Key:
    """A key of an entry.

    Attributes
    ----------
    name : str
        As it stands in the file.
    attribute : str
        Of `Server` or `Link`.
    dimension : str | None
        Of a quantity, see `dnnsplit.ground.units.parse`; None for a text.
    description : str
        Unit, meaning, and what follows where it is left out.
    example : str
        A quantity, "" for a text.
    required : bool
        Whether it must be there.
    """

    name: str
    attribute: str
    dimension: str | None
    description: str
    example: str
    required: bool


def keys_of(entry: type[Struct]) -> dict[str, Key]:
    """Return the keys of an entry by name, in their order."""
    hints, needed = (
        get_type_hints(entry, include_extras=True),
        {one.name for one in msgspec.structs.fields(entry) if one.required},
    )
    found = {}
    for name in entry.__struct_fields__:
        meta = next(one for one in get_args(hints[name]) if isinstance(one, Meta) and one.description)
        told: dict[str, Any] = meta.extra or {}
        examples: Sequence[str] = meta.examples or [""]
        attribute, dimension = told.get("attribute", name), told.get("dimension")
        found[name] = Key(name, attribute, dimension, meta.description or "", examples[0], name in needed)
    return found


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a network file, for editors."""
    found = msgspec.json.schema(NetworkFile)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dnnsplit network", **found}
