"""Quantization schemes: which layers run in int8, as names, as a 0/1 row in the order of the layers, or as a whole number.

There is one order: the first layer is the first column of a row, and the lowest bit of a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dnnsplit.ground.errors import NoiseError, OptionError, nearest, raise_problems


def row_of(layers: Sequence[str], quantized: Iterable[str]) -> np.ndarray:
    """Return the 0/1 row of the layers that are quantized, int8 (layers,); NoiseError for a name that is none of them."""
    names = set(quantized)
    unknown = [f"{name!r} is not a quantizable layer{nearest(name, layers)}" for name in sorted(names - {*layers})]
    raise_problems(NoiseError, "scheme", unknown)
    return np.array([name in names for name in layers], np.int8)


def names_of(layers: Sequence[str], bits: Iterable[int]) -> tuple[str, ...]:
    """Return the names of the layers that are quantized, from one bit per layer."""
    return tuple(name for name, bit in zip(layers, bits, strict=True) if bit)


def pack(bits: Iterable[int]) -> int:
    """Return the number of a scheme.

    Examples
    --------
    >>> pack([1, 0, 1]), unpack(5, 3)
    (5, (1, 0, 1))
    """
    return sum(int(bit) << j for j, bit in enumerate(bits))


def unpack(scheme: int, count: int) -> tuple[int, ...]:
    """Return the bits of a scheme of so many layers from its number."""
    return tuple(scheme >> j & 1 for j in range(count))


def all_schemes(count: int) -> np.ndarray:
    """Return all 2^count schemes, int8 (2^count, count), the first column changing fastest."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.int8)


def sample_schemes(count: int, number: int, seed: int = 0) -> np.ndarray:
    """Return `number` distinct schemes of `count` layers, if there are so many: none, each layer alone, all, then random ones."""
    if number < 0:
        message = f"number is {number!r}; it must be 0 or more"
        raise OptionError(message)
    if number >= 2**count:
        return all_schemes(count)
    first = np.vstack([np.zeros((1, count)), np.eye(count), np.ones((1, count))]).astype(np.int8)
    rng, rows = np.random.default_rng(seed), dict(zip(pack_schemes(first).tolist(), first, strict=True))
    while len(rows) < number:
        row = rng.integers(0, 2, count, dtype=np.int8)
        rows.setdefault(int(pack_schemes(row)[0]), row)
    return np.array([*rows.values()][:number], np.int8).reshape(number, count)


def check_schemes(schemes: np.ndarray | Sequence[Sequence[int]], count: int) -> np.ndarray:
    """Return 0/1 rows of so many layers as bool (n, count); NoiseError where they are none."""
    try:
        q = np.atleast_2d(np.asarray(schemes))
    except ValueError:
        message = "the schemes have different numbers of entries; each needs one per layer"
        raise NoiseError(message) from None
    if q.ndim > 2:
        message = f"schemes have the shape {q.shape}; give one row per scheme"
        raise NoiseError(message)
    if q.shape[1] != count:
        message = f"a scheme has {q.shape[1]} entries; there are {count} layers, and each needs one"
        raise NoiseError(message)
    if q.dtype.kind == "V" or not np.isin(q, (0, 1)).all():
        message = "a scheme holds entries other than 0 and 1"
        raise NoiseError(message)
    return q.astype(bool)


def check_rows(q: np.ndarray, count: int) -> None:
    """Raise a NoiseError unless there is a row per scheme, with an entry for each of so many layers."""
    if q.ndim != 2 or q.shape[1] != count:
        message = f"schemes have the shape {q.shape}; give (n, {count}), one row per scheme"
        raise NoiseError(message)


def pack_schemes(schemes: np.ndarray) -> np.ndarray:
    """Return the number of each scheme, int64 (n,), from 0/1 rows (n, layers)."""
    schemes = np.atleast_2d(schemes)
    if schemes.shape[1] > 62:
        message = f"a scheme of {schemes.shape[1]} layers does not fit a whole number; choose 62 layers or fewer"
        raise OptionError(message)
    return schemes.astype(np.int64) @ (1 << np.arange(schemes.shape[1], dtype=np.int64))


def cuts(excluded: np.ndarray, bits: int) -> tuple[list[int], list[int]]:
    """Return the fewest linear cuts that keep exactly the schemes that are not excluded, bool (2^bits,), the first bit lowest.

    Returns
    -------
    tuple[list[int], list[int]]
        (covers, single): schemes all of whose supersets are excluded, the minimal ones; and the excluded ones beside those.
    """
    above = excluded.copy()
    schemes = np.arange(len(excluded))
    for j in range(bits):  # and over all supersets, one bit at a time
        without = schemes[schemes >> j & 1 == 0]
        above[without] &= above[without | 1 << j]
    minimal = above.copy()
    for j in range(bits):
        with_bit = schemes[schemes >> j & 1 == 1]
        minimal[with_bit] &= ~above[with_bit & ~(1 << j)]
    return np.flatnonzero(minimal).tolist(), np.flatnonzero(excluded & ~above).tolist()
