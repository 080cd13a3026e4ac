"""The addresses of the stages of a deployment on real hosts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from dnnsplit.ground.errors import DeployError, nearest_of, raise_problems, shortened
from dnnsplit.ground.gate import Kind, name_problem
from dnnsplit.ground.yaml_file import MOST_BYTES, read_texts

_KIND = Kind("is not readable as YAML or JSON", DeployError, MOST_BYTES, "the file of hosts")
LOOPBACK = ("localhost", "127.", "::1")
LONGEST_HOST = 253  # characters
HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?")
BRACKETS = re.compile(r"^([^#\n]*:[ \t]+)(\[[0-9A-Fa-f:.%]+\]:[0-9]+)(?=[ \t]*(?:#.*)?$)", re.MULTILINE)


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
        # YAML takes a bracket for the start of a list
        hosts = read_texts(hosts, _KIND, lambda text: BRACKETS.sub(r'\1"\2"', text))
        if not isinstance(hosts, dict):
            message = f"{where} must hold one line 'server: host:port' per server, not {shortened(hosts)}"
            raise DeployError(message)
    raise_problems(DeployError, where, list(_problems(hosts)))
    return {str(server): str(address) for server, address in hosts.items()}


def host_port(address: str) -> tuple[str, int]:
    """Split ``host:port``; the host of an IPv6 address keeps its brackets."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def joined(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 address in brackets.

    >>> joined("::1", 7000)
    '[::1]:7000'
    """
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def host_problem(host: str) -> str:
    """Return what is wrong with a host: an IP address (of IPv6 with or without brackets), or a name; empty if nothing is."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        if ":" in host or bare != host or re.fullmatch("[0-9.]+", host):
            return f"{shortened(host)} is no IP address"
        if len(host) > LONGEST_HOST or not HOST.fullmatch(host):
            return f"{shortened(host)} is no name of a host: letters, digits and - between dots (other letters as xn--...)"
    return ""


def address_problem(address: object) -> str:
    """Return what is wrong with ``host:port``; empty if nothing is.

    gRPC takes a port beyond 65535 for another one.
    """
    host, colon, port = str(address).rpartition(":")
    bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    wrong = host_problem(host) if host.strip("[]") else ""
    if host.strip("[]") and colon and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536 and not bare and not wrong:
        return ""
    told = f"is {shortened(address)}{': ' * bool(wrong)}{wrong}"
    return f"{told}; write host:port, such as 192.168.0.7:7002 or [fd00::7]:7002, with a port from 1 to 65535"


def check_address(address: str) -> None:
    """Raise a `DeployError` unless an address is ``host:port``."""
    if problem := address_problem(address):
        message = f"the address {problem}"
        raise DeployError(message)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    return host.strip("[]").startswith(LOOPBACK)


def of_stages(hosts: Mapping[str, str], stages: Iterable[str]) -> dict[str, str]:
    """Return the addresses of all stages; servers of the network that have nothing to do in a cut may be among the hosts.

    Raises
    ------
    DeployError
        Some are missing.
    """
    stages = dict.fromkeys(stages)
    told = "" if hosts else "; give HOST:PORT of every server, in a file (--hosts) or one by one (--at)"
    problems = [f"the address of {name!r} is missing{told}" for name in stages if name not in hosts]
    near = nearest_of(stages)
    strange = [f"{name!r} is no stage of the bundle{near(name)}" for name in hosts if name not in stages]
    raise_problems(DeployError, "hosts", problems + strange if problems else [])
    return {name: hosts[name] for name in stages}


def _problems(hosts: Mapping[str, str]) -> Iterable[str]:
    for server, address in hosts.items():
        if not all(isinstance(text, str) and not name_problem(text) for text in (server, address)):
            yield f"{shortened(server)}: {shortened(address)} are no name and address; write server: host:port"
        elif problem := address_problem(address):
            yield f"the address of {server!r} {problem}"
    at: dict[str, list[str]] = {}
    for server, address in hosts.items():
        at.setdefault(str(address), []).append(server)
    for address, same in at.items():
        if len(same) > 1:
            yield f"{' and '.join(map(repr, same))} have the same address {address}"
