"""Stages as they run on real hosts, each with a fixed address, for the tests; and a link between them that can be cut."""

import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom

from dnnsplit.deployment.client import Client
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.testbed.processes import StageProcess
from helpers.processes import wait_until


def free_ports(count):
    """Ports that nobody uses now, below those that the system gives to whoever asks for any."""
    ports = set()
    while len(ports) < count:
        port = SystemRandom().randrange(10_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)


class Deployment:
    """The stages of a bundle as processes on fixed ports, that can be ended and started again one by one."""

    def __init__(self, bundle, folder, deadline_s=10.0, **config):
        self.bundle, self.folder, self.config = bundle, folder, {"deadline_s": deadline_s, **config}
        self.addresses = dict(zip(bundle.stages, (f"127.0.0.1:{p}" for p in free_ports(len(bundle.stages))), strict=True))
        self.seen = dict(self.addresses)  # how the others call a stage
        self.stages = {}

    def launch(self, server, name="", **changes):
        """Start the process of one stage, under a name of its own where there is one already; wait for nothing."""
        peers = {n: a for n, a in self.seen.items() if n != server}
        port = int(self.addresses[server].rpartition(":")[2])
        config = Config(str(self.bundle.folder), server, **{"port": port, "peers": peers} | self.config | changes)
        name = name or server
        self.stages[name] = StageProcess(server, config, self.folder / name)
        return self.stages[name]

    def start(self, *servers):
        """Start some stages, or all, and wait until the whole model is ready."""
        for server in servers or self.bundle.stages:
            self.launch(server)
        wait_until(self.ready, 20, lambda: [stage.death or stage.tail for stage in self.stages.values()])
        return self

    def ready(self):
        """Whether the source says that all stages are ready."""
        import tritonclient.grpc as triton

        with triton.InferenceServerClient(self.addresses[self.bundle.source]) as client, suppress(Exception):
            return client.is_model_ready(self.bundle.model_name, client_timeout=3)
        return False

    def client(self, deadline_s=10.0):
        """A client of the whole model."""
        return Client(self.addresses[self.bundle.source], self.bundle.model_name, deadline_s)

    def kill(self, server):
        """End a stage without notice."""
        self.stages[server].process.kill()
        self.stages[server].process.wait()

    def close(self):
        """End all stages."""
        for stage in self.stages.values():
            stage.ask_to_end()
        for stage in self.stages.values():
            stage.wait()


@contextmanager
def deployment(bundle, folder, **options):
    """A deployment whose stages end in any case."""
    one = Deployment(bundle, folder, **options)
    try:
        yield one
    finally:
        one.close()


class Cable:
    """A TCP link to a port: `cut` closes its connections and takes no others, `hold` lets nothing through, `pace` slows it."""

    def __init__(self, target):
        self.target = int(target.rpartition(":")[2])
        self.port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        self.flowing = threading.Event()
        self.flowing.set()
        self.bytes_per_s = None
        self.sockets, self.listener = [], None
        self.mend()

    def mend(self):
        """Put it back."""
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self):
        """Close everything."""
        for one in (self.listener, *self.sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.sockets = []

    def hold(self):
        """Let nothing through, and say nothing."""
        self.flowing.clear()

    def release(self):
        """Let everything through again."""
        self.flowing.set()

    def _accept(self, listener):
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # nobody listens there yet
                    near.close()
                    continue
                self.sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source, target):
        with suppress(OSError):
            while data := source.recv(2**14):
                self.flowing.wait()
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def state_of(pid):
    """Resident memory [B], threads and open sockets of a process."""
    status = dict(line.split(":", 1) for line in (Path("/proc") / str(pid) / "status").read_text().splitlines())
    sockets = 0
    for entry in (Path("/proc") / str(pid) / "fd").iterdir():
        with suppress(OSError):
            sockets += str(entry.readlink()).startswith("socket:")
    return int(status["VmRSS"].split()[0]) * 1024, int(status["Threads"]), sockets
