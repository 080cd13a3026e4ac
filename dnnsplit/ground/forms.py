"""What JSON or YAML says, as the dataclass that tells its form; msgspec checks the types, and all that is wrong is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from dnnsplit.ground.errors import DnnSplitError, nearest, raise_problems, shortened

Form = TypeVar("Form")


def formed(value: Any, form: type[Form], error: type[DnnSplitError], heading: str, complete: bool = False, **given: Any) -> Form:
    """Return a value that was read from a file as an object of a dataclass, with dataclasses and tuples of them inside.

    Parameters
    ----------
    value : Any
        As a JSON or YAML reader returns it.
    form : type[Form]
        A dataclass; types are not converted, but whole numbers may stand for floats, and lists become tuples.
    error, heading : type[DnnSplitError], str
        Of what is raised, see `raise_problems`.
    complete : bool, default False
        Every key must be there, also one that has a default.
    **given : Any
        Fields that are not in the file.

    Raises
    ------
    DnnSplitError
        Of the class `error`: unknown and missing keys, and values of a wrong type, all of them at once; or what the dataclass
        itself refuses.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Lamp:
    ...     name: str
    ...     watts: float = 5.0
    >>> formed({"name": "desk", "watt": 3}, Lamp, DnnSplitError, "lamp.json")
    Traceback (most recent call last):
    dnnsplit.ground.errors.DnnSplitError: lamp.json: the key 'watt' is unknown (did you mean 'watts'?)
    """
    raise_problems(error, heading, list(_problems(value, form, "", complete, tuple(given))))
    try:
        return msgspec.convert({**value, **given}, form, dec_hook=lambda kind, raw: kind(raw))
    except msgspec.ValidationError as refused:
        message = f"{heading}: {refused}"
        raise error(message) from None


def _problems(value: Any, form: Any, where: str, complete: bool, given: tuple[str, ...] = ()) -> Iterable[str]:
    if is_dataclass(form) and isinstance(value, dict):
        here, known = f"{where}: " if where else "", [field for field in fields(form) if field.name not in given]
        for field in known:
            if field.name not in value and (complete or (field.default is MISSING and field.default_factory is MISSING)):
                yield f"{here}the key {field.name!r} is missing"
        hints, names = get_type_hints(form), [field.name for field in known]
        for key, entry in value.items():
            if key in names:
                yield from _problems(entry, hints[key], f"{where}.{key}".lstrip("."), complete)
            else:
                yield f"{here}the key {shortened(key)} is unknown{nearest(key, names)}"
    elif get_origin(form) is tuple and get_args(form)[1:] == (...,) and isinstance(value, list):
        for i, entry in enumerate(value):
            yield from _problems(entry, get_args(form)[0], f"{where}[{i}]", complete)
    else:
        try:
            msgspec.convert(value, form)
        except msgspec.ValidationError as error:
            yield f"{where or 'it'} is {shortened(value)}: {error}"
