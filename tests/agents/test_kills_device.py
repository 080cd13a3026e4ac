"""Kill -9 of the first host, and of the deployer, at every step of a deployment: it goes on where it was, and is right."""

import pytest
from helpers.agents import STEPS, killed

CASES = [(step, who) for step in STEPS for who in ("device", "device deployer")]


@pytest.mark.parametrize(("step", "who"), CASES)
def test_it_goes_on_where_it_was(known_site, step, who, tmp_path):
    killed(known_site, step, who, tmp_path)
