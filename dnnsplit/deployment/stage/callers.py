"""Who may send a stage what stages send each other: with mutual TLS the other servers of the deployment alone."""

from __future__ import annotations

from collections.abc import Collection

import grpc

from dnnsplit.deployment.hosts import host_port
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.wire.channels import caller
from dnnsplit.deployment.wire.messages import Refusal

ALTERNATIVE = "x509_subject_alternative_name"


def check_peer(context: grpc.ServicerContext, config: Config, servers: Collection[str], addresses: Collection[str]) -> None:
    """Refuse a caller whose certificate is none of the other stages'.

    A certificate of `make_keys` carries the name of its server; another has to be good for the host of a stage's address, as it
    must be where that stage is called.

    Parameters
    ----------
    context : grpc.ServicerContext
        Of the call.
    config : Config
        Of this stage.
    servers : Collection[str]
        Of the deployment.
    addresses : Collection[str]
        ``host:port`` of the other stages.

    Raises
    ------
    Refusal
        PERMISSION_DENIED, with the names that the certificate has.
    """
    tls = config.tls
    if tls is None or not (tls.mutual and tls.ca):
        return
    if tls.named:
        names, allowed = {caller(context)}, set(servers)
    else:
        names = {name.decode(errors="replace") for name in context.auth_context().get(ALTERNATIVE, ())}
        allowed = {host_port(address)[0].strip("[]") for address in addresses}
    if not names & allowed:
        who = ", ".join(map(repr, sorted(filter(None, names)))) or "a certificate without a name"
        text = f"{who} is none of the stages of this deployment ({', '.join(sorted(allowed))}), which alone may send this"
        raise Refusal(grpc.StatusCode.PERMISSION_DENIED, text)
