"""The links that a test-bed emulates: those that the cut model uses, as a network gives them, now and while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.plan_set import PlanSet
from dnnsplit.deployment.client import Client
from dnnsplit.deployment.wire.channels import Stub
from dnnsplit.deployment.wire.messages import LINKS, infer_request
from dnnsplit.ground.errors import DeployError, raise_problems
from dnnsplit.network.servers import Network


def link_problems(cut: Bundle | PlanSet, network: Network) -> Iterable[str]:
    """Yield a sentence for every tensor that has to cross a link that the network lacks."""
    for bundle in cut.bundles:
        for (wire, source), targets in bundle.routes.items():
            for target in targets:
                if {source, target} <= set(network.server_names) and network.link(source, target) is None:
                    way = f"{source!r} -> {target!r}"
                    yield f"tensor {wire!r} goes from {source!r} to {target!r}, but the network has no link {way}"


def paces(cut: Bundle | PlanSet, network: Network, server: str) -> dict[str, tuple[float, float]]:
    """Return target -> (latency [s], seconds per byte [s/B]) of the links that leave a server and are used, to itself too."""
    routes = [route for bundle in cut.bundles for route in bundle.routes.items()]
    used = {target for (_, source), targets in routes if source == server for target in targets}
    used |= {server for bundle in cut.bundles if server in bundle.inside}
    links = [link for link in network.links if link.source == server and link.target in used]
    return {link.target: (link.latency_s, link.s_per_byte) for link in links}


class PacedClient(Client):
    """A client of an emulated test-bed, whose links can be changed while it runs.

    Parameters
    ----------
    cut : Bundle | PlanSet
        What is in operation.
    stages : Mapping[str, str]
        ``host:port`` of the stage of every server.
    *arguments : Any
        As of a `Client`.
    """

    def __init__(self, cut: Bundle | PlanSet, stages: Mapping[str, str], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._cut, self._stages = cut, stages

    def pace(self, network: Network) -> None:
        """Emulate the links of another network from now on; a transfer on its way ends as it began.

        Raises
        ------
        DeployError
            The network lacks a link that is needed; a stage does not answer.
        """
        raise_problems(DeployError, "test-bed", list(link_problems(self._cut, network)))
        for server, address in self._stages.items():
            with closing(Stub(address)) as stub:
                links = json.dumps(paces(self._cut, network, server))
                self._call(stub.infer, infer_request(LINKS, parameters={"links": links}))
