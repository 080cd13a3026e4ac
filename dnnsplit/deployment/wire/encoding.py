"""ModelInfer messages as bytes, so that a tensor is copied once where it is sent and not at all where it arrives.

Protocol buffers copy every raw tensor into the message, out of it and into the encoded form. Here the small rest of the
message goes through them, and the tensors are joined to it, or cut from it, as fields of their own. The bytes are the same
Open Inference Protocol that every other client and server speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

# fields that hold the tensors: raw_input_contents of a request and raw_output_contents of a response
RAW_FIELD = {service_pb2.ModelInferRequest: 7, service_pb2.ModelInferResponse: 6}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
ALIGNED_BYTES = 16
PADDING = bytes([0xFA, 0x7F])  # key of field 2047, bytes, which no message has


@dataclass(frozen=True, eq=False)
class Infer:
    """A ModelInfer request or response: its description, and the raw tensors in the order of the description.

    Attributes
    ----------
    head : Any
        ModelInferRequest or ModelInferResponse without raw contents.
    contents : Sequence[memoryview]
        Flat views of bytes.
    problem : str
        Why the bytes that were received are no such message; empty for a good one.
    """

    head: Any
    contents: Sequence[memoryview] = ()
    problem: str = ""

    def encode(self) -> bytes:
        """Return the message in the wire format of protocol buffers.

        Each tensor is put at a multiple of 16 bytes, behind a field that everybody skips, so that nobody who reads it in
        place has to move it.
        """
        key = _varint(RAW_FIELD[type(self.head)] << 3 | BYTES)
        pieces: list[bytes | memoryview] = [self.head.SerializeToString()]
        end = len(pieces[0])
        for content in self.contents:
            start = key + _varint(len(content))
            filling = -(end + len(PADDING) + 1 + len(start)) % ALIGNED_BYTES
            start = PADDING + bytes([filling]) + bytes(filling) + start
            pieces += [start, content]
            end += len(start) + len(content)
        return b"".join(pieces)

    @staticmethod
    def request(data: bytes) -> Infer:
        """Read a ModelInferRequest."""
        return _decode(data, service_pb2.ModelInferRequest)

    @staticmethod
    def response(data: bytes) -> Infer:
        """Read a ModelInferResponse."""
        return _decode(data, service_pb2.ModelInferResponse)


def raw(array: np.ndarray) -> memoryview:
    """Return the values in row-major order and little-endian, as the protocol wants them; a view where they are so already."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data


def array_of(content: memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor that raw contents hold, read-only; copied only where it would lie crooked in memory."""
    array = np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    if array.__array_interface__["data"][0] % ALIGNED_BYTES:  # kernels expect what an allocator gives
        array = array.copy()
        array.flags.writeable = False
    return array


def _decode(data: bytes, kind: Any) -> Infer:
    view = memoryview(data)
    raw_field, position, rest, contents = RAW_FIELD[kind], 0, [], []
    try:
        while position < len(view):
            start = position
            key, position = _read_varint(view, position)
            size, wire_type = 0, key & 7
            if wire_type == VARINT:
                _, position = _read_varint(view, position)
            elif wire_type == BYTES:
                size, position = _read_varint(view, position)
            elif wire_type in (FIXED32, FIXED64):
                size = 4 if wire_type == FIXED32 else 8
            else:
                message = f"wire type {wire_type}"
                raise DecodeError(message)
            if position + size > len(view):
                message = "it ends too early"
                raise DecodeError(message)
            if key == raw_field << 3 | BYTES:
                contents.append(view[position : position + size])
            else:
                rest.append(view[start : position + size])
            position += size
        return Infer(kind.FromString(b"".join(rest)), contents)
    except (DecodeError, IndexError) as error:
        return Infer(kind(), problem=f"these {len(data)} B are no {kind.DESCRIPTOR.name}: {error}")


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        digit = view[position]
        value |= (digit & 127) << shift
        position, shift = position + 1, shift + 7
        if digit < 128:
            return value, position
    message = "a number is too long"
    raise DecodeError(message)
