"""Typed contents of the protocol (fp32_contents and the others), which some clients send in place of raw bytes, as raw bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

LENGTH = struct.Struct("<I")  # before each element of BYTES
# datatype -> (field, numpy dtype); FP16 has no field of its own
FIELDS = {
    "BOOL": ("bool_contents", "bool"), "INT8": ("int_contents", "int8"), "INT16": ("int_contents", "int16"),
    "INT32": ("int_contents", "int32"), "INT64": ("int64_contents", "int64"), "UINT8": ("uint_contents", "uint8"),
    "UINT16": ("uint_contents", "uint16"), "UINT32": ("uint_contents", "uint32"), "UINT64": ("uint64_contents", "uint64"),
    "FP32": ("fp32_contents", "float32"), "FP64": ("fp64_contents", "float64"), "BYTES": ("bytes_contents", ""),
}  # fmt: skip


def has_typed(entries: Sequence[Any]) -> bool:
    """Whether any tensor of a message comes with typed contents."""
    return any(_fields(entry) for entry in entries)


def raw_of(entry: Any) -> memoryview | str:
    """Return the raw bytes of a tensor (name, datatype, contents), or what is wrong with it."""
    if entry.datatype not in FIELDS:
        return f"tensor {entry.name!r} is {entry.datatype}, which has no typed contents; send it as raw content"
    (field, dtype), given = FIELDS[entry.datatype], _fields(entry)
    if set(given) - {field}:
        return f"tensor {entry.name!r} is {entry.datatype} and comes in {', '.join(sorted(given))}; give {field}"
    values = getattr(entry.contents, field)
    if entry.datatype == "BYTES":
        return memoryview(b"".join(piece for one in values for piece in (LENGTH.pack(len(one)), one)))
    array = np.array(values, np.int64) if field in ("int_contents", "uint_contents") else np.array(values, dtype)
    if array.dtype == np.int64 and dtype != "int64":
        range_ = np.iinfo(dtype)
        wrong = array[(array < range_.min) | (array > range_.max)]
        if wrong.size:
            return f"tensor {entry.name!r} holds {wrong[0]}, which is no {entry.datatype} ({range_.min} to {range_.max})"
    return array.astype(np.dtype(dtype).newbyteorder("<"), copy=False).view(np.uint8).data


def _fields(entry: Any) -> list[str]:
    """Return the typed contents that a tensor comes with."""
    return [field.name for field, _ in entry.contents.ListFields()] if entry.HasField("contents") else []
