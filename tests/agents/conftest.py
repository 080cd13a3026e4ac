"""What several modules of tests stand on: one set of agents for each of them."""

import pytest
from helpers.agents import knowing


@pytest.fixture(scope="module")
def known_site(tmp_path_factory):
    """Three agents, and a model that they know."""
    with knowing(tmp_path_factory.mktemp("site")) as found:
        yield found
