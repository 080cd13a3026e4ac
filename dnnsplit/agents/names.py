"""What hosts and deployments may be called, and how files are called by what is in them."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # also a file name, a name in a certificate, and a part of a model's name
DIGEST = re.compile(r"[0-9a-f]{64}")


def name_problem(name: str, what: str = "the name") -> str:
    """Return what is wrong with a name, or an empty text.

    >>> name_problem("edge-1")
    ''
    >>> name_problem("../edge")
    "the name '../edge' cannot be used; take up to 63 letters, digits, '.', '_' and '-', first a letter or digit"
    """
    if NAME.fullmatch(name):
        return ""
    return f"{what} {name!r} cannot be used; take up to 63 letters, digits, '.', '_' and '-', first a letter or digit"
