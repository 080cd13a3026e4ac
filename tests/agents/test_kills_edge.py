"""Kill -9 of another host, and the stages of all, at every step of a deployment: it goes on where it was, and is right."""

import pytest
from helpers.agents import STEPS, killed

CASES = [(step, "edge") for step in STEPS] + [(s, f"{host} changing") for s in STEPS[-2:] for host in ("edge", "device")]


@pytest.mark.parametrize(("step", "who"), CASES)
def test_it_goes_on_where_it_was(known_site, step, who, tmp_path):
    killed(known_site, step, who, tmp_path)
