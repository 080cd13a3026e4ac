"""One server of a deployment on a real host: ``dnnsplit serve BUNDLE --server edge --hosts hosts.yaml``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from dnnsplit.cutting.plan_set import load_cut
from dnnsplit.deployment.hosts import host_port, is_loopback, of_stages, read_hosts
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.stage.process import run
from dnnsplit.deployment.wire.channels import Tls
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, OptionError, nearest, raise_problems
from dnnsplit.runtime.sessions import find_provider


def serve(
    bundle: str | Path,
    server: str,
    hosts: Mapping[str, str] | str | Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    tls: Tls | None = None,
    model_server: str = "",
    deadline_s: float = 60.0,
    in_flight: int = 8,
    provider: str = "cpu",
) -> None:
    """Run the parts of one server until the process is told to end (Ctrl-C or SIGTERM).

    The stage speaks the Open Inference Protocol over gRPC; that of the bundle's source answers for the whole model.
    A graph input that is known to hold images may be sent as BYTES too: a PNG, JPEG or WebP file for each image of the batch.
    Stages may be started, stopped and started again in any order.

    Parameters
    ----------
    bundle : str | Path
        Folder of the cut model, or of several plans of it (`cut_plans`); every host needs a copy.
    server : str
        Which of the bundle's servers this is.
    hosts : Mapping[str, str] | str | Path | None, optional
        ``host:port`` of every stage, this one among them, as a mapping or a YAML or JSON file; not needed where the bundle has
        one stage.
    host : str, default "127.0.0.1"
        Where to listen; by default this machine alone can call. "0.0.0.0" listens on all addresses.
    port : int | None, optional
        To listen on; None takes that of `server` in `hosts`, 0 lets the system choose.
    tls : Tls | None, optional
        Files that secure all connections, see `Tls`.
    model_server : str, default ""
        ``host:port`` of a Triton server that runs the parts in place of this process; its model repository is the bundle.
    deadline_s : float, default 60.0
        Limit on each request [s].
    in_flight : int, default 8
        Most requests at a time; more are refused, to be tried again.
    provider : str, default "cpu"
        Execution provider of ONNX Runtime that runs the parts, as `dnnsplit.runtime.providers.find` names it; it has to be
        installed on this host.

    Raises
    ------
    DeployError
        A damaged bundle, unknown servers, wrong addresses, a port that is taken, parts that cannot be run.
    OptionError
        The provider is not installed here, or a model server runs the parts and chooses its own.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.serve("build", "edge", "hosts.yaml")  # doctest: +SKIP
    """
    check_arguments(serve, locals(), least={"port": 0}, most={"port": 65535}, some=("server",))
    if find_provider(provider).name != "cpu" and model_server:
        message = f"the model server at {model_server} chooses its own provider; leave out {provider!r}, or the server"
        raise OptionError(message)
    cut = load_cut(bundle)
    if server not in cut.stages:
        message = f"{server!r} has nothing to do in the cut of {cut.folder}{nearest(server, cut.stages)}"
        raise DeployError(message)
    addresses = read_hosts(hosts or {})
    if len(cut.stages) > 1:
        addresses = of_stages(addresses, cut.stages)
    raise_problems(DeployError, f"stage of {server!r}", list(_problems(addresses, server, host, deadline_s, in_flight)))
    peers = {name: address for name, address in addresses.items() if name != server}
    if port is None:
        port = host_port(addresses[server])[1] if server in addresses else 0
    config = Config(
        bundle=str(bundle), server=server, host=host, port=port, peers=peers, deadline_s=deadline_s, in_flight=in_flight,
        tls=tls, model_server=model_server, provider=provider,
    )  # fmt: skip

    def started(address: str) -> None:
        print(address, flush=True)
        others = "; ".join(f"{name} at {where}" for name, where in peers.items()) or "no other stage"
        print(f"{server!r} of {cut.model_name!r} listens on {address}; {others}; Ctrl-C ends it", file=sys.stderr)
        if tls is None and not is_loopback(host):
            print("anybody who reaches this address can use it: give tls files, or keep it inside a network", file=sys.stderr)

    before = signal.signal(signal.SIGTERM, _stop)
    try:
        run(config, started)
    except (KeyboardInterrupt, SystemExit):
        print(f"{server!r} has ended", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)


def _problems(addresses: Mapping[str, str], server: str, host: str, deadline_s: float, in_flight: int) -> list[str]:
    problems = []
    if server in addresses and is_loopback(host) and not is_loopback(host_port(addresses[server])[0]):
        where = addresses[server]
        problems.append(f"others would call it at {where}, but it listens on {host} alone; listen on {host_port(where)[0]} too "
                        "(host=, --host), or on 0.0.0.0")  # fmt: skip
    if not deadline_s > 0:
        problems.append(f"deadline_s is {deadline_s!r}; give seconds above 0")
    if not in_flight >= 1:
        problems.append(f"in_flight is {in_flight!r}; give at least 1")
    return problems


def _stop(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
