"""Kinds of values, as type hints tell them: a test for each, and words for what is none of them."""

from __future__ import annotations

import inspect
import math
import os
import types
from collections import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin

import numpy as np

from dnnsplit.ground.errors import shortened
from dnnsplit.ground.units import is_number, is_whole

MOST_LISTED = 10**7
MOST = 2**63 - 1  # whole numbers beyond it have no place in an array


class Kind(NamedTuple):
    """What a value has to be: a test, and how one and many are called in words.

    `classes` are the names of those that it may be of; `parts` tells what a collection holds, each with its place and its kind,
    or None where the value is no such collection.
    """

    fits: Callable[[Any], bool]
    words: str
    many: str = ""
    classes: tuple[str, ...] = ()
    parts: Callable[[Any], Iterable[tuple[str, Kind, Any]] | None] = lambda value: None


ANYTHING = Kind(lambda value: True, "anything")


def kind_of(hint: Any) -> Kind:
    """Return the kind that a type hint tells; what it cannot tell is anything."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        several = len(inside) - (type(None) in inside) > 1  # what takes other things too, such as a list, makes an array of it
        like: dict[Any, Kind] = {np.ndarray: Kind(_is_array_like, "an array", "arrays")} if several else {}
        like |= {str: Kind(_is_path, "a text", "texts")} if Path in inside else {}
        return either([like.get(get_origin(one) or one) or kind_of(one) for one in inside])
    if isinstance(hint, TypeVar):
        return either([kind_of(one) for one in hint.__constraints__]) if hint.__constraints__ else kind_of(hint.__bound__ or Any)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if np.ndarray in (hint, origin):
        return Kind(_is_array, "an array of numbers", "arrays of numbers")
    if origin is abc.Callable or hint is abc.Callable:
        return Kind(callable, "a function", "functions")
    if origin is tuple and inside[1:] != (...,):
        return _several([kind_of(one) for one in inside])
    if origin in (abc.Mapping, dict):
        return _mapping(kind_of(inside[0]), kind_of(inside[1]))
    if origin in (tuple, list, abc.Sequence, abc.Collection, abc.Iterable):
        return each(kind_of(inside[0]), origin is abc.Iterable, keys=origin in (abc.Collection, abc.Iterable))
    if inspect.isclass(hint) and not getattr(hint, "_is_protocol", False):
        name = hint.__name__
        article = "an" if name[0] in "AEIOU" else "a"
        return Kind(lambda value: isinstance(value, hint), f"{article} {name}", f"{name} objects", (name,))
    return ANYTHING


def either(kinds: Sequence[Kind]) -> Kind:
    """Return the kind of what is of one of these."""
    if ANYTHING in kinds:
        return ANYTHING
    tests = [kind.fits for kind in kinds]
    words, many = (" or ".join(dict.fromkeys(texts)) for texts in ([k.words for k in kinds], [k.many or k.words for k in kinds]))
    classes = tuple(name for kind in kinds for name in kind.classes)

    def parts(value: Any) -> Iterable[tuple[str, Kind, Any]] | None:
        return next((found for kind in kinds if (found := kind.parts(value)) is not None), None)

    if len(tests) == 2:  # the usual case, and the fastest
        first, second = tests
        return Kind(lambda value: first(value) or second(value), words, many, classes, parts)
    return Kind(lambda value: any(fits(value) for fits in tests), words, many, classes, parts)


def each(kind: Kind, once: bool, keys: bool = False) -> Kind:
    """Return the kind of a sequence, or of a mapping with such `keys`.

    Where it is read only `once`, an iterator will do, which is not looked into.
    """
    fits, numbers = kind.fits, kind.fits(0)

    def listed(value: Any) -> bool:
        if isinstance(value, range) and value[MOST_LISTED:]:  # as short as it is written, nobody waits for its end
            return False
        if isinstance(value, str | bytes | bytearray | abc.Iterator) or not isinstance(value, Iterable):
            return False
        if isinstance(value, Mapping):
            return keys
        # arrays of numbers will do; those of texts have no truth as sequences have it, and a table gives the names of its columns
        return not hasattr(value, "__array__") or (numbers and getattr(value, "ndim", 0) >= 1 and not hasattr(value, "columns"))

    def test(value: Any) -> bool:
        if isinstance(value, tuple | list) or listed(value):
            return all(map(fits, value))
        return once and isinstance(value, abc.Iterator)

    def parts(value: Any) -> Iterable[tuple[str, Kind, Any]] | None:
        alone = fits(value)  # one where a list of such is asked for
        return ((f"[{i}]", kind, one) for i, one in enumerate(value)) if listed(value) and not alone else None

    words = "a list" if kind is ANYTHING else f"a list of {kind.many or kind.words}"
    return Kind(test, words, words.replace("a list", "lists", 1), parts=parts)


def _several(kinds: Sequence[Kind]) -> Kind:
    tests, words = [kind.fits for kind in kinds], f"({', '.join(kind.words for kind in kinds)})"

    def test(value: Any) -> bool:
        ordered = isinstance(value, tuple | list) and len(value) == len(tests)
        return ordered and all(fits(one) for fits, one in zip(tests, value, strict=True))

    return Kind(test, words, f"tuples {words}")


def _mapping(key: Kind, entry: Kind) -> Kind:
    def test(value: Any) -> bool:
        return isinstance(value, Mapping) and all(map(key.fits, value)) and all(map(entry.fits, value.values()))

    def parts(value: Any) -> Iterable[tuple[str, Kind, Any]] | None:
        if not isinstance(value, Mapping):
            return None
        keys = ((f": its key {told(one)}", key, one) for one in value)
        return [*keys, *((f"[{told(one)}]", entry, inner) for one, inner in value.items())]

    words = f"a mapping of {key.many or key.words} to {entry.many or entry.words}"
    return Kind(test, words, words.replace("a mapping", "mappings", 1), parts=parts)


def _is_real(value: Any) -> bool:
    return is_number(value) and value == value


def is_nan(value: Any) -> bool:
    """Whether a value is the float that is no number."""
    return isinstance(value, float) and math.isnan(value)


def path_text(value: object) -> str | None:
    """Return the text of what may be a path on this system, None of what is none."""
    if not isinstance(value, str | os.PathLike):
        return None
    try:
        text = os.fspath(value)
        os.fsencode(text)
    except (TypeError, UnicodeEncodeError):  # one that gives no text; half of a character
        return None
    return text if isinstance(text, str) and "\0" not in text else None


def _is_path(value: Any) -> bool:
    return path_text(value) is not None


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def _is_array_like(value: Any) -> bool:
    return isinstance(value, np.ndarray | list | tuple) or hasattr(value, "__array__") or is_number(value)


_PLAIN: dict[Any, Kind] = {
    Any: ANYTHING,
    object: ANYTHING,
    None: Kind(lambda value: value is None, "None"),
    type(None): Kind(lambda value: value is None, "None"),
    float: Kind(_is_real, "a number", "numbers"),
    int: Kind(lambda value: is_whole(value, -MOST) and value <= MOST, "a whole number", "whole numbers"),
    bool: Kind(lambda value: isinstance(value, bool | np.bool_), "True or False"),
    str: Kind(lambda value: isinstance(value, str), "a text", "texts"),
    bytes: Kind(lambda value: isinstance(value, bytes), "bytes"),
    Path: Kind(lambda value: isinstance(value, os.PathLike) and _is_path(value), "a path", "paths"),
}


def told(value: object) -> str:
    """Return a value in few words: itself if it is a plain one, else what it is."""
    if value is None or isinstance(value, str | bytes | Real):
        return shortened(value)
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"the {type(value).__name__} {shortened(value)}"
    if isinstance(value, os.PathLike):
        try:
            text = os.fspath(value)
        except TypeError:
            return f"of the type {type(value).__name__}, which gives no path"
        wrong = ", which has a NUL character" if "\0" in str(text) else ", which no file has"
        return f"the path {shortened(text)}{wrong if path_text(value) is None else ''}"
    return f"of the type {type(value).__name__}"
