"""Constants that several layers read: a server holds each of them once, however many of those layers it runs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dnnsplit.ground.errors import ModelError, shortened
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.json_file import json_of
from dnnsplit.ground.units import is_number

if TYPE_CHECKING:
    from dnnsplit.graph.layers import Layer

_KIND = Kind("has shared constants that are not readable", ModelError, 2**20)
Shared = tuple[tuple[str, float], ...]  # names and sizes [B]


def find_shared(held: Mapping[str, Mapping[str, float]]) -> dict[str, Shared]:
    """Return, for each layer, the constants that other layers hold too, from the sizes of all that each holds [B]."""
    readers = Counter(name for names in held.values() for name in names)
    return {
        layer: tuple(sorted((name, float(size)) for name, size in names.items() if readers[name] > 1 and size))
        for layer, names in held.items()
    }


def groups(layers: Sequence[Layer]) -> tuple[tuple[float, tuple[int, ...]], ...]:
    """Return the size together [B], and the positions, of the layers of constants that the same layers share."""
    owners: dict[str, tuple[float, list[int]]] = {}
    for i, layer in enumerate(layers):
        for name, size in layer.shared:
            owners.setdefault(name, (size, []))[1].append(i)
    found: dict[tuple[int, ...], list[float]] = {}
    for size, positions in owners.values():
        found.setdefault(tuple(positions), []).append(size)
    return tuple((math.fsum(sizes), positions) for positions, sizes in found.items())


def own_bytes(layer: Layer) -> float:
    """Return the bytes of a layer's constants that no other layer reads [B]."""
    return max(0.0, layer.weight_bytes - math.fsum(size for _, size in layer.shared))


def total_bytes(layers: Sequence[Layer]) -> float:
    """Return the bytes of all constants, each once [B]."""
    return math.fsum([*map(own_bytes, layers), *(size for size, _ in groups(layers))])


def problems(layers: Iterable[Layer]) -> Iterable[str]:
    """Yield what is wrong with the shared constants of layers."""
    sizes: dict[str, float] = {}
    for layer in layers:
        if is_number(layer.weight_bytes) and math.fsum(size for _, size in layer.shared) > layer.weight_bytes * (1 + 1e-9):
            yield f"layer {layer.name!r}: its shared constants are more than its weight_bytes, {layer.weight_bytes!r}"
        for name, size in layer.shared:
            if sizes.setdefault(name, size) != size:
                yield f"layer {layer.name!r}: the shared constant {name!r} has {size!r} B, in another layer {sizes[name]!r} B"


def to_text(shared: Shared) -> str:
    """Return shared constants as a table has them: JSON, or nothing."""
    return json.dumps(dict(shared), ensure_ascii=False) if shared else ""


def from_text(text: str, layer: str) -> Shared:
    """Return what `to_text` wrote of a layer; a `ModelError` says what else stands there."""
    if not text:
        return ()
    sizes = json_of(f"layer {layer!r}", str(text), _KIND)
    if not isinstance(sizes, dict) or not all(is_number(size) and size >= 0 for size in sizes.values()):
        _KIND.refuse(f"layer {layer!r}", f"{shortened(text)} is no JSON object of sizes in bytes by name")
    return tuple((name, float(size)) for name, size in sizes.items())
