"""The commands that serve the parts of a cut model and measure links, on hosts that may have nothing else."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import dnnsplit as ds
from dnnsplit.cli.models import PROVIDER, Argument, argument

ADDRESS = (
    argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1, this machine alone)"),
    argument("--port", type=int, help="where to listen (default: as in the hosts; 7000 for probes)"),
    argument("--tls-cert", default="", help="certificate chain of this side (PEM)"),
    argument("--tls-key", default="", help="its private key (PEM)"),
    argument("--tls-ca", default="", help="authorities to trust (PEM); who listens then asks callers for a certificate"),
    argument("--tls-any-client", action="store_true", help="let in callers without a certificate all the same"),
)


def _tls(options: argparse.Namespace) -> ds.Tls | None:
    if not (options.tls_cert or options.tls_key or options.tls_ca):
        return None
    return ds.Tls(options.tls_cert, options.tls_key, options.tls_ca, mutual=not options.tls_any_client)


SERVE: tuple[Argument, ...] = (
    argument("bundle", type=Path, help="folder from 'dnnsplit cut'"),
    argument("--server", required=True, help="which of its servers this is"),
    argument("--hosts", type=Path, help="YAML or JSON file with one line 'server: host:port' per server"),
    argument("--at", action="append", default=[], metavar="SERVER=HOST:PORT", help="one such line instead (repeatable)"),
    argument("--model-server", default="", metavar="HOST:PORT", help="a Triton server that runs the parts instead"),
    argument("--deadline", type=float, default=60.0, help="limit on each request [s] (default: 60)"),
    argument("--in-flight", type=int, default=8, help="most requests at a time (default: 8)"),
    PROVIDER,
    *ADDRESS,
)


def serve(options: argparse.Namespace) -> int:
    """Run one server of a cut model."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # before gRPC is imported; a peer that leaves is told by the stage
    hosts: Any = options.hosts
    if options.at:
        pairs = [text.partition("=") for text in options.at]
        if hosts or not all(equals for _, equals, _ in pairs):
            message = f"--at {' '.join(options.at)}: write SERVER=HOST:PORT, and leave --hosts out"
            raise ds.OptionError(message)
        hosts = {server: address for server, _, address in pairs}
    ds.serve(
        options.bundle, options.server, hosts, options.host, options.port, _tls(options), options.model_server,
        options.deadline, options.in_flight, options.provider,
    )  # fmt: skip
    return 0


PROBE: tuple[Argument, ...] = (
    argument("address", nargs="?", metavar="HOST:PORT", help="what to measure the link to"),
    argument("--listen", action="store_true", help="answer the probes of others until Ctrl-C"),
    argument("--network", type=Path, writes="file", help="network YAML to write the link into"),
    argument("--link", nargs=2, metavar=("SOURCE", "TARGET"), help="which of its links was measured"),
    *ADDRESS,
)


def probe(options: argparse.Namespace) -> int:
    """Measure a link, or answer those who do."""
    if options.listen:
        port = 7000 if options.port is None else options.port
        ds.answer_probes(options.host, port, _tls(options), started=lambda address: print(address, flush=True))
        return 0
    if options.address is None or (options.network is None) != (options.link is None):
        message = "give HOST:PORT (or --listen), and --network and --link together or not at all"
        raise ds.OptionError(message)
    found = ds.probe(options.address, tls=_tls(options))
    try:
        if options.network:
            found.write(options.network, *options.link)
    finally:
        print(found)
    return 0
