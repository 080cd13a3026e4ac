"""How an agent is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dnnsplit.agents.names import name_problem
from dnnsplit.deployment.hosts import address_problem, is_loopback, joined
from dnnsplit.ground.errors import OptionError, raise_problems

DISK_BYTES = 2e10


@dataclass(frozen=True)
class AgentOptions:
    """How an agent is started.

    Parameters
    ----------
    name : str
        Of this host; with keys, that of its certificate.
    join : str, default ""
        ``host:port`` of the agent that others join; empty for that one itself, which is the source of requests.
    host, port : str, int
        Where to listen; port 0 lets the system choose.
    address : str, default ""
        ``host:port`` or host by which others call this agent, where that is not where it listens.
    folder : str | Path, optional
        For what is to last: files, results, deployments. One for each agent.
    keys : str | Path, default ""
        Folder from `make_keys`; needed to be called from other hosts.
    disk_bytes : float, optional
        That files may hold [B].
    memory_bytes : int | None, optional
        That a stage may use [B].
    powers : Mapping[str, float], optional
        What this host draws [W]: compute_w, transmit_w, transmit_self_w; energies are not known without.
    emulate : str | Path, default ""
        Network YAML whose server of this name this agent is to be like: its speed and, where the file has any, its links.
    parent : int, default 0
        Process that started this one, and that it ends with; 0 for none.
    """

    name: str
    join: str = ""
    host: str = "127.0.0.1"
    port: int = 7000
    address: str = ""
    folder: str | Path = ""
    keys: str | Path = ""
    disk_bytes: float = DISK_BYTES
    memory_bytes: int | None = None
    powers: Mapping[str, float] = field(default_factory=dict)
    emulate: str | Path = ""
    parent: int = 0

    def __post_init__(self) -> None:
        problems = [problem for problem in [name_problem(self.name)] if problem]
        if not is_loopback(self.host) and not str(self.keys):
            way_out = "make keys with 'dnnsplit keys', and give this host's folder with --keys"
            problems.append(f"agents run what others send, so on {self.host} it needs keys: {way_out}")
        if not 0 <= self.port < 65536:
            problems.append(f"port is {self.port!r}; give one from 1 to 65535, or 0, which lets the system choose")
        if self.join and (problem := address_problem(self.join)):
            problems.append(f"the address to join {problem}")
        if self.address and address_problem(self.address) and address_problem(joined(self.address, 7000)):
            problems.append(f"address is {self.address!r}; give a host, or host:port")
        if not self.disk_bytes > 0:
            problems.append(f"disk_bytes is {self.disk_bytes!r}; give more than 0")
        if self.memory_bytes is not None and self.memory_bytes < 2**28:
            problems.append(f"memory_bytes is {self.memory_bytes!r}; a stage needs 256 MiB at least")
        if self.parent < 0:
            problems.append(f"parent is {self.parent!r}; give the number of a process, or 0 for none")
        problems += [f"{key} is {value!r} W; give 0 or more" for key, value in self.powers.items() if not value >= 0]
        raise_problems(OptionError, "agent", problems)
