"""A stage as a process: ``python -m dnnsplit.deployment.stage.process config.json``; the first line it prints is its address."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc

from dnnsplit.deployment.hosts import joined
from dnnsplit.deployment.stage.adaptive import stage_of
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.wire.channels import handlers, listen, server_options
from dnnsplit.ground.errors import DeployError

TICK_S = 0.1
DOOR_S = 1.0  # between two looks at messages that are still arriving
SMALL = 8  # threads for what comes without tensors
WAITING = 256  # calls that may wait for a thread; gRPC refuses more


def main(arguments: list[str]) -> NoReturn:
    """Run a stage until it is told to end (SIGTERM) or its parent has died."""
    code = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted notebook ends its stages in order
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if len(arguments) != 1:
            message = "give one argument: the JSON file with the configuration of the stage"
            raise DeployError(message)
        config = Config.load(arguments[0])
        if config.parent_pid:
            threading.Thread(target=follow, args=(config.parent_pid,), daemon=True).start()
        run(config, lambda address: print(address, flush=True))
    except SystemExit:
        code = 0
    except DeployError as error:
        print(error, file=sys.stderr)
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # no interpreter shutdown: it could catch a thread inside onnxruntime, and there is nothing left to save
        os._exit(code)


def run(config: Config, started: Callable[[str], None]) -> NoReturn:
    """Serve one server of a bundle until SystemExit or KeyboardInterrupt is raised; `started` is told its ``host:port``."""
    stage = stage_of(config)
    with answering(stage, config, stage.largest_message_bytes) as address:
        started(address)
        stage.prepare()
        while True:
            time.sleep(TICK_S)
            stage.look_after()


@contextmanager
def answering(stage: Any, config: Config, limit_bytes: int) -> Iterator[str]:
    """Let a stage answer at its address, ``host:port``, messages up to `limit_bytes` [B]."""
    clients, stages = 2 * config.in_flight, 4 * config.in_flight + 8  # as many of clients are read or refused as are worked on
    workers = clients + stages + SMALL
    server = grpc.server(
        ThreadPoolExecutor(workers), options=server_options(limit_bytes), maximum_concurrent_rpcs=workers + WAITING
    )
    found, doors = handlers(stage, clients, stages, config.deadline_s)
    server.add_generic_rpc_handlers((found,))
    port = listen(server, config.host, config.port, stage.tls)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(DOOR_S):
            for door in doors:
                door.look_after()

    threading.Thread(target=watch, name="doors", daemon=True).start()
    server.start()
    try:
        yield joined(config.host, port)
    finally:
        ended.set()
        server.stop(0)
        stage.close()


def child_environment() -> dict[str, str]:
    """Return the environment of children: one thread each, and gRPC keeps to itself what we tell in our own words."""
    return {"GRPC_VERBOSITY": "ERROR"} | os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def limit_memory(size_bytes: int) -> None:
    """Let this process have no more memory than that [B]; 0 for no limit."""
    if size_bytes:
        import resource  # which not every system has

        resource.setrlimit(resource.RLIMIT_DATA, (size_bytes, size_bytes))


def follow(parent_pid: int) -> None:
    """End this process when its parent has ended."""
    while os.getppid() == parent_pid:
        time.sleep(2 * TICK_S)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
