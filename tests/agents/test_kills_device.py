"""Kill -9 of the first host, and of the deployer, at every step of a deployment: it goes on where it was, and is right."""

import pytest
from helpers.agents import STEPS, killed, knowing

CASES = [(step, who) for step in STEPS for who in ("device", "device deployer")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Three agents, and a model that they know."""
    with knowing(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.mark.parametrize(("step", "who"), CASES)
def test_it_goes_on_where_it_was(site, step, who, tmp_path):
    killed(site, step, who, tmp_path)
