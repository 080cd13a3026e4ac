"""Which environment asks the C library for huge pages."""

import pytest

from dnnsplit.ground.huge_pages import in_huge_pages, with_huge_pages

ASKED = "glibc.malloc.hugetlb"


@pytest.mark.parametrize(
    ("tunables", "asked"),
    [
        ("", False),
        (f"{ASKED}=0", False),
        (f"{ASKED}=1", True),
        (f"{ASKED}=2", True),
        (f"glibc.malloc.check=3:{ASKED}=1", True),
        (f"{ASKED}x=1", False),
        ("glibc.malloc.check=1", False),
    ],
)
def test_asking_and_not(tunables, asked):
    given = {"HOME": "/", "GLIBC_TUNABLES": tunables}
    assert in_huge_pages(given) is asked
    for wanted in (True, False):
        environment = with_huge_pages(given, wanted)
        assert in_huge_pages(environment) is wanted
        assert environment["HOME"] == "/"
        others = [one for one in environment.get("GLIBC_TUNABLES", "").split(":") if one and not one.startswith(f"{ASKED}=")]
        assert others == [one for one in tunables.split(":") if one and not one.startswith(f"{ASKED}=")]
        assert with_huge_pages(environment, wanted) == environment
    assert given == {"HOME": "/", "GLIBC_TUNABLES": tunables}
