"""Kill -9 of another host, and the stages of all, at every step of a deployment: it goes on where it was, and is right."""

import pytest
from helpers.agents import STEPS, killed, knowing

CASES = [(step, "edge") for step in STEPS] + [(s, f"{host} changing") for s in STEPS[-2:] for host in ("edge", "device")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Three agents, and a model that they know."""
    with knowing(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.mark.parametrize(("step", "who"), CASES)
def test_it_goes_on_where_it_was(site, step, who, tmp_path):
    killed(site, step, who, tmp_path)
