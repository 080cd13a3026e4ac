"""Arrays of numbers and texts in ``.npy`` and ``.npz`` files: what they say of their size is held against what is there first."""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection
from typing import IO, BinaryIO, NoReturn

import numpy as np

from dnnsplit.ground.gate import Kind, opened
from dnnsplit.ground.units import show

_MAGIC = b"\x93NUMPY"
_ARCHIVE = b"PK"
_LENGTH = {1: 2, 2: 4, 3: 4}  # bytes that the length of the header takes, by version of the format
_SEALED = 0x61  # flags of an archive's member: encrypted, or a difference to another
_LARGE, _PRESSED = 2**28, 100  # an array of more bytes that is pressed more is a trap
_LONGEST = 4096  # bytes of a header: plain arrays have some hundred
_ENTRY = r"""(?:'descr': *'(?P<kind>[<>|=]?[biufUS]\d{1,9})'|'fortran_order': *(?:True|False)|'shape': *\((?P<shape>[\d, ]*)\))"""
_HEADER = re.compile(rf"\{{ *{_ENTRY}, *{_ENTRY.replace('?P<', '?P<b')}, *{_ENTRY.replace('?P<', '?P<c')},? *\}}\s*")


class _Wrong(ValueError):
    """What is wrong with an array; it does not leave this module."""


def read_arrays(path: str | os.PathLike[str], kind: Kind, names: Collection[str] = ()) -> np.ndarray | dict[str, np.ndarray]:
    """Read the array of a ``.npy`` file, or those of an ``.npz`` file by name, which must have arrays of some `names`.

    Raises
    ------
    DnnSplitError
        Of the class that `kind` names: what `dnnsplit.ground.gate.opened` refuses, and arrays that are cut, of objects, or do not
        fit into what `kind` takes.
    """
    with opened(path, kind) as (file, size):
        start = file.read(len(_MAGIC))
        file.seek(0)
        try:
            if start.startswith(_ARCHIVE):
                return _members(file, kind.most_bytes, names)
            _check(file, size)
        except _Wrong as wrong:
            kind.refuse(path, str(wrong))
        file.seek(0)
        found: np.ndarray = np.load(file, allow_pickle=False)
    return found


def _members(file: BinaryIO, most_bytes: int, needed: Collection[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an archive, none of which is unpacked before its size is known."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            names = [info.filename.removesuffix(".npy") for info in infos]
            if len({*names}) < len(names):
                _wrong("two arrays in it have one name")
            if lacking := [name for name in needed if name not in names]:
                _wrong(f"it has no array {', '.join(map(repr, lacking))}")
            whole = sum(info.file_size for info in infos)
            if whole > most_bytes:
                _wrong(f"its arrays hold {show(whole, 'B')}, and at most {show(most_bytes, 'B')} are taken")
            for info in infos:
                if info.flag_bits & _SEALED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    _wrong(f"{info.filename!r} in it is encrypted, or packed as numpy does not")
                if info.file_size > max(_LARGE, _PRESSED * info.compress_size):
                    _wrong(f"{info.filename!r} in it is pressed more than {_PRESSED}-fold; write it without pressing")
                with archive.open(info) as member:
                    try:
                        _check(member, info.file_size)
                    except _Wrong as wrong:
                        _wrong(f"{info.filename!r} in it: {wrong}")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, UnicodeDecodeError):
        _wrong("it is a damaged archive")


def _check(file: IO[bytes], size: int) -> None:
    """Raise unless a file of a known size [B] holds one array, all of it."""
    start = file.read(len(_MAGIC) + 2)
    version = start[-2] if start.startswith(_MAGIC) and len(start) == len(_MAGIC) + 2 else 0
    if version not in _LENGTH:
        _wrong("it is no array as numpy writes it")
    length = int.from_bytes(file.read(_LENGTH[version]), "little")
    header = file.read(min(length, _LONGEST)).decode("latin-1")
    found = _HEADER.fullmatch(header)
    values = found.groupdict() if found else {}
    kinds = [value for name, value in values.items() if name.endswith("kind") and value]
    shapes = [value for name, value in values.items() if name.endswith("shape") and value is not None]
    if len(kinds) != 1 or len(shapes) != 1:
        _wrong(f"it is no array of numbers or texts (its header is {header[:80]!r})")
    extents = [digits for digits in shapes[0].replace(" ", "").split(",") if digits]
    if any(len(digits) > 18 for digits in extents):
        _wrong(f"its shape ({shapes[0][:80]}) is larger than any memory")
    try:
        dtype = np.dtype(kinds[0])
    except TypeError:
        _wrong(f"{kinds[0]!r} is no type of numbers")
    needed, there = math.prod(map(int, extents)) * dtype.itemsize, size - len(start) - _LENGTH[version] - length
    if needed != there:
        much = "more" if needed > there else "less"
        _wrong(f"the shape ({', '.join(extents)}) of {dtype} takes {much} than the {there} B that are there; write it again")


def _wrong(problem: str) -> NoReturn:
    raise _Wrong(problem)
