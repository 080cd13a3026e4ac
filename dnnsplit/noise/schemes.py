"""Quantization schemes: 0/1 rows that say which layers run in int8."""

from __future__ import annotations

import numpy as np

from dnnsplit.ground.errors import OptionError


def all_schemes(count: int) -> np.ndarray:
    """Return all 2^count schemes, int8 (2^count, count), the first column changing fastest."""
    return (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.int8)


def sample_schemes(count: int, number: int, seed: int = 0) -> np.ndarray:
    """Return distinct random schemes after the ones that matter most.

    Parameters
    ----------
    count : number of layers
    number : of schemes wanted; at most 2^count
    seed : of the random ones

    Returns
    -------
    int8 (number, count) : none, each layer alone, all; then uniform random ones without repetition
    """
    if number < 0:
        raise OptionError(f"number is {number!r}; it must be 0 or more")
    first = np.vstack([np.zeros((1, count)), np.eye(count), np.ones((1, count))]).astype(np.int8)
    first = first[np.unique(pack_schemes(first), return_index=True)[1]] if count < 2 else first
    if number >= 2**count:
        return all_schemes(count)
    rng = np.random.default_rng(seed)
    seen = set(pack_schemes(first).tolist())
    rows = list(first)
    while len(rows) < number:
        row = rng.integers(0, 2, count, dtype=np.int8)
        key = int(pack_schemes(row[None])[0])
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return np.array(rows[:number], np.int8).reshape(number, count)


def pack_schemes(schemes: np.ndarray) -> np.ndarray:
    """Return one integer per scheme, the first column being the lowest bit: int64 (n,)."""
    schemes = np.atleast_2d(schemes)
    if schemes.shape[1] > 62:
        raise OptionError(f"a scheme of {schemes.shape[1]} layers does not fit a whole number; choose 62 layers or fewer")
    return schemes.astype(np.int64) @ (1 << np.arange(schemes.shape[1], dtype=np.int64))


def cuts(excluded: np.ndarray, bits: int) -> tuple[list[int], list[int]]:
    """Return the fewest linear cuts that keep exactly the schemes that are not excluded.

    Parameters
    ----------
    excluded : bool (2^bits,), the first bit lowest

    Returns
    -------
    (covers, single) : schemes all of whose supersets are excluded, the minimal ones; and the excluded ones beside those
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
