"""How agents are called: questions in JSON and pieces of files over gRPC, with TLS in which certificates carry names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import grpc
import msgspec

from dnnsplit.agents.keys import CA, CERT, KEY
from dnnsplit.agents.pool import NoRoomError
from dnnsplit.deployment.hosts import check_address
from dnnsplit.deployment.wire.channels import RECONNECT, SERVICE, Tls, caller, listen, named, server_options, size_options
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import PROBE, acknowledge
from dnnsplit.ground.errors import DeployError, DnnSplitError, nearest
from dnnsplit.ground.files import plain

AGENT = "dnnsplit.Agent"
PIECE_BYTES = 2**20  # of a file in one message
LIMIT_BYTES = 2**25  # of one message: pieces, answers, and what probes send
ASK_S = 10.0
WORKERS = 16
WAITING = 256  # calls that may wait for a thread; gRPC refuses more

T = TypeVar("T")


class Question(msgspec.Struct):
    """What is asked of an agent, by the name of who answers it here, and what goes with it."""

    what: str
    given: dict[str, Any]


class Piece(msgspec.Struct):
    """Which piece of which file is asked for, from which byte on."""

    digest: str
    offset: Annotated[int, msgspec.Meta(ge=0)]


Code = grpc.StatusCode
Handler = Callable[[str, dict[str, Any]], Any]  # (name of the caller in its certificate, what was given) -> answer


class UnreachableError(DeployError):
    """Nobody answers at an address."""


def tls_of(folder: str | Path) -> Tls | None:
    """Return the TLS files of a folder from `make_keys`; None without a folder."""
    if not str(folder):
        return None
    cert, key, ca = (str(Path(folder) / name) for name in (CERT, KEY, CA))
    return Tls(cert, key, ca, named=True)


class Remote:
    """An agent, as others call it; safe to use from several threads.

    Parameters
    ----------
    address : str
        ``host:port``.
    name : str, default ""
        The name that its certificate has to carry; empty where any of the authority will do.
    tls : Tls | None, optional
        Files that secure the connection, see `tls_of`; None for a plain one.
    """

    def __init__(self, address: str, name: str = "", tls: Tls | None = None) -> None:
        check_address(address)
        self.address, self.name = address, name
        options = [*size_options(LIMIT_BYTES), *RECONNECT, ("grpc.enable_http_proxy", 0), *named(tls, name)]
        secure = tls.of_channel() if tls else None
        self._channel = grpc.secure_channel(address, secure, options) if tls else grpc.insecure_channel(address, options)
        self._ask, self._put, self._get = (self._channel.unary_unary(f"/{AGENT}/{what}") for what in ("Ask", "Put", "Get"))

    def ask(self, what: str, deadline_s: float = ASK_S, **given: Any) -> Any:
        """Ask for something; return the answer, as JSON has it.

        Raises
        ------
        UnreachableError
            Nobody answers there in time.
        DeployError
            What the agent says against it.
        """
        message = msgspec.json.encode({"what": what, "given": given}, enc_hook=plain)
        return msgspec.json.decode(self._call(self._ask, message, deadline_s))

    def push(self, path: Path, digest: str, told: Callable[[int], None] = lambda sent: None) -> None:
        """Send a file, from where it was broken off; `told` hears of every piece how many bytes it held."""
        size = path.stat().st_size
        held = self.ask("held", digests=[digest])[digest]
        with path.open("rb") as file:
            while held >= 0:
                file.seek(held)
                piece = file.read(PIECE_BYTES)
                head = (("digest", digest), ("size", str(size)), ("offset", str(held)))
                held = msgspec.json.decode(self._call(self._put, piece, ASK_S, head))
                told(len(piece))

    def pull(self, digest: str, path: Path) -> None:
        """Fetch a file, piece by piece."""
        offset, size = 0, 1
        with path.open("wb") as file:
            while offset < size:
                asked = msgspec.json.encode({"digest": digest, "offset": offset})
                answer = self._call(self._get, asked, ASK_S)
                size = int.from_bytes(answer[:8], "little")
                offset += file.write(answer[8:])

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _call(self, method: Any, message: bytes, deadline_s: float, metadata: Any = ()) -> bytes:
        try:
            answer: bytes = method(message, timeout=deadline_s, metadata=metadata)
        except grpc.RpcError as error:
            code, told = error.code(), error.details()
            text = f"{self.name or 'the agent'} at {self.address}: {told or code.name}"
            lost = code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED)
            kind = UnreachableError if lost else NoRoomError if code is Code.RESOURCE_EXHAUSTED else DeployError
            raise kind(text) from None
        except ValueError as error:  # grpc's answer to the use of a closed channel
            message_ = f"{self.address}: {error}"
            raise UnreachableError(message_) from None
        return answer


def serve_agent(
    handlers: Mapping[str, Handler],
    put: Callable[[str, int, int, bytes], int],
    read: Callable[[str, int], tuple[int, bytes]],
    host: str,
    port: int,
    tls: Tls | None,
) -> tuple[grpc.Server, int]:
    """Start to answer as an agent, and to the probes of others; return the gRPC server and its port.

    `put` takes (digest, size, offset, piece) and returns what `Pool.held` would; `read` takes (digest, offset) and returns the
    size of the file and a piece of it.
    """

    def ask(message: bytes, context: grpc.ServicerContext) -> bytes:
        question = msgspec.json.decode(message, type=Question)
        what, given = question.what, question.given
        if what not in handlers:
            text = f"nothing here answers to {what!r}{nearest(what, handlers)}; are both of one version?"
            raise DeployError(text)
        return msgspec.json.encode(handlers[what](caller(context), given), enc_hook=plain)

    def take(piece: bytes, context: grpc.ServicerContext) -> bytes:
        head = dict(context.invocation_metadata())
        return msgspec.json.encode(put(head["digest"], int(head["size"]), int(head["offset"]), piece))

    def give(message: bytes, context: grpc.ServicerContext) -> bytes:
        asked = msgspec.json.decode(message, type=Piece)
        size, piece = read(asked.digest, asked.offset)
        return size.to_bytes(8, "little") + piece

    server = grpc.server(
        ThreadPoolExecutor(WORKERS), options=server_options(LIMIT_BYTES), maximum_concurrent_rpcs=WORKERS + WAITING
    )
    methods = {"Ask": _guarded(ask), "Put": _guarded(take), "Get": _guarded(give)}
    probed = grpc.unary_unary_rpc_method_handler(_probed, Infer.request, Infer.encode)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(AGENT, methods),
            grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": probed}),
        )
    )
    bound = listen(server, host, port, tls)
    server.start()
    return server, bound


def patiently(ask: Callable[[], T], limit_s: float) -> T:
    """Return what asking gives, once somebody answers; for so long at most [s]."""
    end = time.monotonic() + limit_s
    while True:
        try:
            return ask()
        except UnreachableError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _probed(message: Infer, context: grpc.ServicerContext) -> Infer:
    if message.problem or message.head.model_name != PROBE:
        context.abort(Code.NOT_FOUND, "this is an agent: it answers probes, and its stages have addresses of their own")
    return acknowledge(message)


def _guarded(method: Callable[[bytes, grpc.ServicerContext], bytes]) -> Any:
    """Return a handler that tells the caller what is wrong, in our words."""

    def call(message: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return method(message, context)
        except NoRoomError as error:
            context.abort(Code.RESOURCE_EXHAUSTED, str(error))
        except DnnSplitError as error:
            context.abort(Code.FAILED_PRECONDITION, str(error))
        except (
            msgspec.MsgspecError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            context.abort(Code.INVALID_ARGUMENT, f"this is no question to an agent: {type(error).__name__}: {error}")
        raise AssertionError  # abort raises

    return grpc.unary_unary_rpc_method_handler(call)
