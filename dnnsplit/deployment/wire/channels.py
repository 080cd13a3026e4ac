"""Channels between clients and stages: message sizes, TLS by files, lost connections, and the calls of the protocol."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
from tritonclient.grpc import service_pb2

from dnnsplit.deployment.hosts import check_address, joined
from dnnsplit.deployment.wire.door import Door
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, raise_problems, shortened
from dnnsplit.ground.paths import is_file

SERVICE = "inference.GRPCInferenceService"
FROM_STAGE = (("dnnsplit-stage", "1"),)  # metadata by which stages call each other: they come through a door of their own
ANY = "any.dnnsplit"  # the name that certificates of `make_keys` have in common
INSTANCE = "dnnsplit-instance"  # trailing metadata of every answer of a stage: which process it was
# A cut link is noticed after these times [ms] while a call is waiting, and a stage that comes back is tried again soon.
KEEPALIVE = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000)]
RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 1_000),
             ("grpc.max_reconnect_backoff_ms", 1_000)]  # fmt: skip
# Small calls of the protocol: name -> (request, response)
PLAIN = {name: (getattr(service_pb2, f"{name}Request"), getattr(service_pb2, f"{name}Response"))
         for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")}  # fmt: skip


@dataclass(frozen=True)
class Tls:
    """Files (PEM) that secure a connection.

    Parameters
    ----------
    cert, key : str, default ""
        Certificate chain and private key of this side; a stage needs them, a client only where stages ask for them.
    ca : str, default ""
        Certificates of the authorities that this side trusts; without them, callers trust those of the system.
    mutual : bool, default True
        Whether a stage that has `ca` lets in only callers with a certificate of theirs.
    named : bool, default False
        Whether certificates carry the names of servers, as those of `make_keys` do, and are checked by these, whatever the
        address.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> folders = ds.make_keys(["device", "edge"])
    >>> tls = ds.Tls(*(str(folders["edge"] / name) for name in ("cert.pem", "key.pem", "ca.pem")), named=True)
    >>> tls.mutual
    True
    """

    cert: str = ""
    key: str = ""
    ca: str = ""
    mutual: bool = True
    named: bool = False

    def __post_init__(self) -> None:
        check_arguments(Tls, vars(self), DeployError)
        files = {"cert": self.cert, "key": self.key, "ca": self.ca}
        problems = [f"the {what} file {shortened(file)} is missing" for what, file in files.items() if file and not is_file(file)]
        if bool(self.cert) != bool(self.key):
            problems.append("a certificate and its private key go together; give both")
        if not (self.cert or self.ca):
            problems.append("give at least the certificates of an authority, or a certificate and its key")
        raise_problems(DeployError, "TLS", problems)

    def _read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        key, cert, ca = (Path(file).read_bytes() if file else None for file in (self.key, self.cert, self.ca))
        return key, cert, ca

    def of_channel(self) -> grpc.ChannelCredentials:
        """Return the credentials of the calling side."""
        key, cert, ca = self._read()
        return grpc.ssl_channel_credentials(ca, key, cert)

    def of_server(self) -> grpc.ServerCredentials:
        """Return the credentials of the called side."""
        key, cert, ca = self._read()
        if key is None:
            message = "TLS: a stage needs a certificate and its private key"
            raise DeployError(message)
        if ca is None or not self.mutual:
            return grpc.ssl_server_credentials([(key, cert)])
        return grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)


def size_options(limit_bytes: int) -> list[tuple[str, int]]:
    """Return the gRPC options that allow messages up to `limit_bytes` [B], or the most that gRPC can count."""
    limit_bytes = min(limit_bytes, 2**31 - 1)
    return [("grpc.max_send_message_length", limit_bytes), ("grpc.max_receive_message_length", limit_bytes)]


def server_options(limit_bytes: int) -> list[tuple[str, int]]:
    """Return the gRPC options of a stage; a port that is taken is an error, and the questions of `KEEPALIVE` are welcome."""
    questions = [("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000), ("grpc.http2.max_ping_strikes", 0)]
    return [*size_options(limit_bytes), ("grpc.so_reuseport", 0), *questions]


def named(tls: Tls | None, name: str) -> list[tuple[str, str]]:
    """Return the gRPC options by which a certificate has to carry the name of its server, where they do; `ANY` without a name."""
    return [("grpc.ssl_target_name_override", name or ANY)] if tls is not None and tls.named else []


def caller(context: grpc.ServicerContext) -> str:
    """Return the name in the caller's certificate; empty on a plain connection."""
    found = context.auth_context().get("x509_common_name", [b""])
    return str(found[0].decode(errors="replace"))


class Stub:
    """The calls of the Open Inference Protocol at ``host:port``, past any HTTP proxy.

    Parameters
    ----------
    address : str
        ``host:port``; anything else is a `DeployError`.
    limit_bytes : int, default -1
        Greatest message [B]; -1 allows any size.
    tls : Tls | None, optional
        Files that secure the connection; None for a plain one.
    peer : bool, default False
        Whether the other side is a stage, which may be asked often whether it lives.
    name : str, default ""
        The name of the other server, which its certificate has to carry where they are `Tls.named`.
    """

    def __init__(self, address: str, limit_bytes: int = -1, tls: Tls | None = None, peer: bool = False, name: str = "") -> None:
        check_address(address)
        options = [*size_options(limit_bytes), *RECONNECT, *(KEEPALIVE if peer else []), ("grpc.enable_http_proxy", 0),
                   *named(tls, name)]  # fmt: skip
        if tls is None:
            self.channel = grpc.insecure_channel(address, options)
        else:
            self.channel = grpc.secure_channel(address, tls.of_channel(), options)
        infer = self.channel.unary_unary(f"/{SERVICE}/ModelInfer", Infer.encode, Infer.response)
        self.infer = _OfStage(infer) if peer else infer
        self.ServerLive, self.ServerReady, self.ModelReady, self.ServerMetadata, self.ModelMetadata = map(self._plain, PLAIN)

    def _plain(self, name: str) -> Any:
        request, response = PLAIN[name]
        return self.channel.unary_unary(f"/{SERVICE}/{name}", request.SerializeToString, response.FromString)

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()


class _OfStage:
    """ModelInfer as a stage calls it."""

    def __init__(self, infer: grpc.UnaryUnaryMultiCallable) -> None:
        self._infer = infer

    def __call__(self, message: Infer, timeout: float) -> Infer:
        return cast("Infer", self._infer(message, timeout=timeout, metadata=FROM_STAGE))

    def with_call(self, message: Infer, timeout: float, wait_for_ready: bool = False) -> Any:
        return self._infer.with_call(message, timeout=timeout, metadata=FROM_STAGE, wait_for_ready=wait_for_ready)

    def future(self, message: Infer, timeout: float) -> Any:
        return self._infer.future(message, timeout=timeout, metadata=FROM_STAGE)


def instance_of(call: Any) -> str:
    """Return which process answered a call that has ended; empty for a server that is none of ours."""
    return str(dict(call.trailing_metadata() or ()).get(INSTANCE, ""))


def handlers(servicer: Any, clients: int, stages: int, limit_s: float) -> tuple[grpc.GenericRpcHandler, list[Door]]:
    """Return what makes a gRPC server answer with the methods of `servicer`, tensors uncopied, and the doors to look after.

    Every answer says which process it is from. So many messages of clients and of stages are taken at a time, each of which may
    take `limit_s` to arrive [s].
    """
    metadata = ((INSTANCE, uuid.uuid4().hex),)

    def signed(name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        answer: Callable[[Any, grpc.ServicerContext], Any] = getattr(servicer, name)

        def call(request: Any, context: grpc.ServicerContext) -> Any:
            context.set_trailing_metadata(metadata)
            return answer(request, context)

        return call

    doors = [Door(clients, limit_s, metadata), Door(stages, limit_s, metadata)]
    of_clients, of_stages = (door.answering(servicer.ModelInfer) for door in doors)

    def infer(messages: Iterator[Infer], context: grpc.ServicerContext) -> Infer:
        is_stage = FROM_STAGE[0] in context.invocation_metadata()
        return (of_stages if is_stage else of_clients)(messages, context)

    # as of a stream, which here is one message long, since that is read when it is asked for
    methods = {"ModelInfer": grpc.stream_unary_rpc_method_handler(infer, Infer.request, Infer.encode)}
    for name, (request, response) in PLAIN.items():
        methods[name] = grpc.unary_unary_rpc_method_handler(signed(name), request.FromString, response.SerializeToString)
    return grpc.method_handlers_generic_handler(SERVICE, methods), doors


def listen(server: grpc.Server, host: str, port: int, tls: Tls | None) -> int:
    """Bind a gRPC server and return its port; a `DeployError` says that it is taken or that the files do not fit."""
    if not 0 <= port < 65536:
        message = f"port is {port}; give one from 1 to 65535, or 0, which lets the system choose"
        raise DeployError(message)
    address = joined(host, port)
    try:
        bound: int = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls.of_server())
    except RuntimeError as error:
        message = f"cannot listen on {address}: {error}; choose port 0 or a free one"
        raise DeployError(message) from None
    return bound
