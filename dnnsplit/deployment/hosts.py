"""The addresses of the stages of a deployment on real hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dnnsplit.ground.errors import DeployError, nearest_of, raise_problems
from dnnsplit.ground.yaml_file import YAML_ERRORS, read_texts

LOOPBACK = ("localhost", "127.", "::1")


def read_hosts(hosts: Mapping[str, str] | str | Path) -> dict[str, str]:
    """Return ``host:port`` by server.

    Parameters
    ----------
    hosts : Mapping[str, str] | str | Path
        The mapping itself, or a YAML or JSON file that holds it, one line ``edge: 192.168.0.7:7002`` per server.

    Raises
    ------
    DeployError
        The file is missing or holds something else, or addresses are wrong; all of them at once.
    """
    where = "hosts"
    if not isinstance(hosts, Mapping):
        where = str(hosts)
        try:
            hosts = read_texts(hosts)
        except YAML_ERRORS as error:
            message = f"{where} is not readable as YAML or JSON: {error}"
            raise DeployError(message) from None
        if not isinstance(hosts, dict):
            message = f"{where} must hold one line 'server: host:port' per server, not {hosts!r}"
            raise DeployError(message)
    raise_problems(DeployError, where, list(_problems(hosts)))
    return {str(server): str(address) for server, address in hosts.items()}


def host_port(address: str) -> tuple[str, int]:
    """Split ``host:port``; the host of an IPv6 address keeps its brackets."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    return host.strip("[]").startswith(LOOPBACK)


def check_servers(hosts: Mapping[str, str], stages: Iterable[str]) -> None:
    """Raise unless there is an address for every stage, and for nobody else."""
    stages = dict.fromkeys(stages)
    problems = [f"the address of {name!r} is missing" for name in stages if name not in hosts]
    near = nearest_of(stages)
    problems += [f"{name!r} is no stage of the bundle{near(name)}" for name in hosts if name not in stages]
    raise_problems(DeployError, "hosts", problems)


def _problems(hosts: Mapping[str, str]) -> Iterable[str]:
    for server, address in hosts.items():
        host, colon, port = str(address).rpartition(":")
        bare = ":" in host and not host.startswith("[")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536) or bare:
            yield f"the address of {server!r} is {address!r}; write host:port, such as 192.168.0.7:7002 or [fd00::7]:7002"
    at: dict[str, list[str]] = {}
    for server, address in hosts.items():
        at.setdefault(str(address), []).append(server)
    for address, same in at.items():
        if len(same) > 1:
            yield f"{' and '.join(map(repr, same))} have the same address {address}"
