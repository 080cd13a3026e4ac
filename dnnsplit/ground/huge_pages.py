"""Huge pages: whether a process takes its memory in pages of 2 MB, where the kernel has them, instead of 4 kB.

In small pages a session of a large network is several per cent slower than the next one, for good, by where its memory happens to
lie; what one process was measured to take then says less of what another takes. The C library decides when a process starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"
_NAME = "glibc.malloc.hugetlb"


def in_huge_pages(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a process with such an environment asks the kernel for huge pages.

    Examples
    --------
    >>> in_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}), in_huge_pages({})
    (True, False)
    """
    return any(one.partition("=")[::2] in {(_NAME, "1"), (_NAME, "2")} for one in environment.get(_VARIABLE, "").split(":"))


def with_huge_pages(environment: Mapping[str, str], wanted: bool = True) -> dict[str, str]:
    """Return an environment for a process that asks for huge pages, or for none; other tunables stay.

    Examples
    --------
    >>> with_huge_pages({"GLIBC_TUNABLES": "glibc.malloc.check=0"})
    {'GLIBC_TUNABLES': 'glibc.malloc.check=0:glibc.malloc.hugetlb=1'}
    >>> with_huge_pages({"HOME": "/", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, False)
    {'HOME': '/'}
    """
    tunables = [one for one in environment.get(_VARIABLE, "").split(":") if one and one.partition("=")[0] != _NAME]
    tunables += [f"{_NAME}=1"] if wanted else []
    others = {name: value for name, value in environment.items() if name != _VARIABLE}
    return others | ({_VARIABLE: ":".join(tunables)} if tunables else {})
