"""A client of a deployed model that speaks numpy and says in our words what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import pandas as pd
from tritonclient.grpc import service_pb2

from dnnsplit.deployment.wire.channels import Stub, Tls
from dnnsplit.deployment.wire.messages import (
    BYTES,
    IGNORES,
    IMAGES,
    NUMPY,
    TRACE,
    Elements,
    PartRecord,
    Records,
    TransferRecord,
    infer_request,
    mismatch,
    tensors_of,
)
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, raise_problems

WHAT = ["kind", "name", "source", "target", "form"]
COLUMNS = [*WHAT, "size_bytes", "seconds", "cpu_s", "paced_s", "overrun_s", "encode_s", "decode_s", "latency_s", "pace"]
Given = np.ndarray | bytes | Sequence[bytes]  # an input: its values, or an encoded image or several


@dataclass(frozen=True)
class Trace:
    """What one request took.

    Attributes
    ----------
    latency_s : float
        From the arrival of the request at the source to all outputs being there, in emulated seconds [s].
    parts : tuple[PartRecord, ...]
        One record per part; empty where the server is not one of ours.
    transfers : tuple[TransferRecord, ...]
        One record per tensor and target server.
    plan : str
        Folder of the plan it was run by, where the deployment has several (`cut_plans`); else empty.
    """

    latency_s: float
    parts: tuple[PartRecord, ...]
    transfers: tuple[TransferRecord, ...]
    plan: str = ""

    @property
    def frame(self) -> pd.DataFrame:
        """One row per part and per transfer: kind, name, source, target, form, size_bytes [B], and durations [s].

        ``seconds`` is what it took, of a transfer the link alone; ``cpu_s`` (parts) and ``paced_s`` (transfers) are what the
        emulation asked for; ``overrun_s`` is how much longer a part took than that, because the machine was too slow or too
        busy; ``pace`` is how slow the machine was then, as `PartRecord` has it. ``form`` is how a tensor crossed, ``encode_s``
        and ``decode_s`` are what its source took to write it and its target to read it; ``latency_s`` is the part of ``paced_s``
        that does not depend on the size. A graph input may have a row from the source to itself: what it took to read the images
        of a client, or to write and read what its own parts read of an input that loses something by its form.
        """
        rows: list[dict[str, Any]] = []
        for part in self.parts:
            rows.append(
                {"kind": "part", "form": "", "source": part.server, "target": part.server, "seconds": part.wall_s} | asdict(part)
            )
        for transfer in self.transfers:
            rows.append({"kind": "transfer", "name": transfer.wire} | asdict(transfer))
        return pd.DataFrame(rows, columns=COLUMNS)


class Client:
    """Calls a deployed model; a context manager, and safe to use from several threads.

    Parameters
    ----------
    address : str
        ``host:port`` of the stage of the source server.
    model_name : str
        Name of the model there.
    deadline_s : float, default 60.0
        Limit on each call [s], in wall time.
    diagnose : Callable[[], str] | None, optional
        Returns a text that is added when a server is not reached in time (the test-bed tells which has died).
    tls : Tls | None, optional
        Files that secure the connection; None for a plain one.
    server : str, default ""
        Name of the source server, which its certificate has to carry where they are `Tls.named`.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> bundle = ds.cut(graph, ds.split(graph, network, times, noise, max_noise=0.05), "build", check=False)
    >>> with ds.testbed(bundle, network, times.slowdown) as running:
    ...     with ds.Client(running.address, bundle.model_name) as client:
    ...         answer = client.infer({"images": ds.scenes.images(1)})
    >>> answer["output0"].shape
    (1, 9, 2100)
    """

    def __init__(
        self, address: str, model_name: str, deadline_s: float = 60.0, diagnose: Callable[[], str] | None = None,
        tls: Tls | None = None, server: str = "",
    ) -> None:  # fmt: skip
        check_arguments(Client.__init__, locals(), DeployError)
        if not (isinstance(deadline_s, int | float) and 0 < deadline_s < math.inf):
            message = f"deadline_s is {deadline_s!r}; give a finite number of seconds above 0"
            raise DeployError(message)
        self.address, self.model_name, self.deadline_s = address, model_name, deadline_s
        self._diagnose = diagnose or (lambda: "")
        self._stub = Stub(address, tls=tls, name=server)
        self._metadata: Any = None
        self._told: tuple[str, ...] | None = None

    @property
    def metadata(self) -> Any:
        """The ModelMetadataResponse of the server: names, types and shapes of inputs and outputs; asked for once."""
        if self._metadata is None:
            self._metadata = self._call(self._stub.ModelMetadata, service_pb2.ModelMetadataRequest(name=self.model_name))
        return self._metadata

    @property
    def ignored(self) -> frozenset[str]:
        """Graph inputs that nothing reads: they may be given, and are not sent; asked for once."""
        return self._named(IGNORES)

    @property
    def images(self) -> frozenset[str]:
        """Graph inputs that may be given as encoded images; asked for once."""
        return self._named(IMAGES)

    @property
    def inputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Graph input -> (numpy dtype, shape)."""
        return _kinds(self.metadata.inputs)

    @property
    def outputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Graph output -> (numpy dtype, shape); an extent is -1 where it depends on the data."""
        return _kinds(self.metadata.outputs)

    def infer(self, inputs: Mapping[str, Given], max_noise: float | None = None) -> dict[str, np.ndarray]:
        """Run the model once: input name -> array, to output name -> array (read-only).

        Parameters
        ----------
        inputs : Mapping[str, Given]
            Arrays; of the inputs in `images` also the 8-bit images that they hold, uint8 in the shape of the input, or the bytes
            of a PNG, JPEG or WebP file, or a list of them, one for each image of the batch. Where these are of the kind in which
            the plan sends them on, they are passed on as they are.
        max_noise : float | None, optional
            Where the deployment has several plans, the best one that keeps this noise limit is taken; None sets no limit.

        Raises
        ------
        DeployError
            Wrong inputs (all of them at once), a limit that no plan keeps, or the error of the server.
        """
        check_arguments(Client.infer, locals(), DeployError)
        return self.trace(inputs, max_noise)[0]

    def trace(self, inputs: Mapping[str, Given], max_noise: float | None = None) -> tuple[dict[str, np.ndarray], Trace]:
        """Run the model once; return the outputs and what every part and transfer took."""
        check_arguments(Client.trace, locals(), DeployError, least={"max_noise": 0})
        if not inputs.keys() <= self.inputs.keys():
            inputs = {name: array for name, array in inputs.items() if name not in self.ignored}
        self._check(inputs)
        limit = {} if max_noise is None else {"max_noise": float(max_noise)}
        tensors = {name: given if isinstance(given, np.ndarray) else Elements(_files(given)) for name, given in inputs.items()}
        response = self._call(self._stub.infer, infer_request(self.model_name, tensors=tensors, parameters=limit))
        plan = response.head.parameters["plan"].string_param
        if limit and not plan:
            message = f"{self.model_name!r} at {self.address} has one plan, so it cannot keep max_noise; leave it out"
            raise DeployError(message)
        outputs = tensors_of(response.head.outputs, response.contents, self.outputs)
        if TRACE not in response.head.parameters:
            return outputs, Trace(math.nan, (), (), plan)
        told = Records.read(response.head)
        return outputs, Trace(told.latency_s, told.parts, told.transfers, plan)

    def close(self) -> None:
        """Close the connection."""
        self._stub.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.model_name} at {self.address}, deadline {self.deadline_s:g} s)"

    def _named(self, what: str) -> frozenset[str]:
        """Return the inputs of which the server tells something."""
        if self._told is None:
            self._told = tuple(self._call(self._stub.ServerMetadata, service_pb2.ServerMetadataRequest()).extensions)
        return frozenset(entry.removeprefix(what) for entry in self._told if entry.startswith(what))

    def _check(self, inputs: Mapping[str, Given]) -> None:
        expected = self.inputs
        problems = [f"input {name!r} is missing" for name in expected if name not in inputs]
        for name, given in inputs.items():
            if isinstance(given, np.ndarray):
                held = given.dtype == np.uint8 and name in expected and name in self.images
                dtype = expected[name][0] if held else given.dtype.name
                problems += filter(None, [mismatch(name, dtype, given.shape, expected)])
            elif not _files(given):
                problems.append(f"input {name!r} is a {type(given).__name__}, not a numpy array")
            elif name in expected and name not in self.images:
                dtype, shape = expected[name]
                problems.append(f"input {name!r} takes no encoded images; give an array of {dtype}, shape {list(shape)}")
            elif name not in expected:
                problems.append(mismatch(name, BYTES, (), expected))
        raise_problems(DeployError, f"inputs of {self.model_name!r}", problems)

    def _call(self, method: Callable[..., Any], message: Any) -> Any:
        try:
            return method(message, timeout=self.deadline_s)
        except grpc.RpcError as error:
            lost = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            ours = error.details() == "Deadline Exceeded"  # gRPC's words where no stage had any
            told = f"no answer within deadline_s={self.deadline_s:g}" if ours else error.details()
            texts = [f"{error.code().name}: {told}", self._diagnose() if lost else ""]
        except ValueError as error:  # grpc's answer to the use of a closed channel
            texts = [str(error)]
        message = f"{self.model_name!r} at {self.address}: {'; '.join(filter(None, texts))}"
        raise DeployError(message)


def _files(given: object) -> list[bytes]:
    """Return the encoded images that an input is given as; none where it is something else."""
    files = [given] if isinstance(given, bytes) else [*given] if isinstance(given, list | tuple) else []
    return files if all(isinstance(file, bytes) for file in files) else []


def _kinds(entries: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {entry.name: (NUMPY.get(entry.datatype, entry.datatype), tuple(entry.shape)) for entry in entries}
