"""The configuration of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dnnsplit.deployment.stage.emulation import Emulation
from dnnsplit.deployment.wire.channels import Tls
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.forms import formed
from dnnsplit.ground.gate import Kind
from dnnsplit.ground.json_file import read_json

_KIND = Kind("is not readable as the configuration of a stage", DeployError, 2**22)


@dataclass(frozen=True)
class Config:
    """What a stage is told at its start, as JSON.

    Parameters
    ----------
    bundle : str
        Folder of the bundle.
    server : str
        Which of its servers this stage is.
    host, port : str, int
        Where to listen; port 0 lets the system choose. The address is printed as the first line.
    peers : Mapping[str, str], optional
        Server -> ``host:port`` of every other stage; when empty, they are awaited as a ``<model>/peers`` message.
    emulation : Emulation, optional
        Of the server and its links; by default there is none.
    deadline_s : float, default 60.0
        Wall seconds after which an unanswered request is dropped.
    in_flight : int, default 8
        Most requests in flight at a time.
    tls : Tls | None, optional
        Files that secure all connections; without them they are plain.
    model_server : str, default ""
        ``host:port`` of a server of the Open Inference Protocol, such as Triton, that runs the parts instead.
    provider : str, default "cpu"
        Execution provider of ONNX Runtime that runs the parts here.
    parent_pid : int | None, optional
        The stage exits when this process is no longer its parent.
    """

    bundle: str
    server: str
    host: str = "127.0.0.1"
    port: int = 0
    peers: Mapping[str, str] = field(default_factory=dict)
    emulation: Emulation = field(default_factory=Emulation)
    deadline_s: float = 60.0
    in_flight: int = 8
    tls: Tls | None = None
    model_server: str = ""
    provider: str = "cpu"
    parent_pid: int | None = None

    @staticmethod
    def load(path: str | Path) -> Config:
        """Read the JSON file."""
        document = read_json(path, _KIND)
        return formed(document, Config, DeployError, f"{path} is not usable as the configuration of a stage")
