"""Agents on this machine for tests: an emulated network, a small model, and clients that ask all the time."""

import itertools
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import onnxruntime
import psutil
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.ground.errors import DeployError
from helpers.processes import wait_until
from helpers.small_models import conv_net, images, saved

SIZE = 64
MBIT = 1e6 / 8


def network_file(path, device_edge=20e6, device_cloud=2e6):
    """A device that is slow, an edge and a cloud that are this machine."""
    servers = (
        ds.Server("device", 2.0, 1.0, speed_cpu=0.01),
        ds.Server("edge", 5.0, 1.0, speed_cpu=1.0),
        ds.Server("cloud", 30.0, 1.0, speed_cpu=1.0),
    )
    speeds = {
        ("device", "edge"): device_edge,
        ("edge", "device"): device_edge,
        ("device", "cloud"): device_cloud,
        ("cloud", "device"): device_cloud,
    }
    speeds |= {("edge", "cloud"): 20e6, ("cloud", "edge"): 20e6}
    ds.Network(servers, tuple(ds.Link(*ends, speed, 0.002) for ends, speed in speeds.items()), "device").save(path)
    return path


def model(folder, name="net", size=SIZE, channels=32):
    """A small network whose convolutions are worth sending away, and pictures for it."""
    path = conv_net(folder / f"{name}.onnx", size=size, channels=channels)
    np.save(folder / f"{name}.npy", images(12, size))
    return path, folder / f"{name}.npy"


def deep(folder):
    """A network that computes much of little, and pictures for it: sent away even over a slow start."""
    rng, count, channels, size = np.random.default_rng(0), 16, 64, 32
    nodes, weights, last, inside = [], {}, "x", 3
    for i in range(count):
        outside = 4 if i == count - 1 else channels
        weights[f"w{i}"] = rng.normal(0, (1 / (9 * inside)) ** 0.5, (outside, inside, 3, 3)).astype(np.float32)
        nodes += [helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], name=f"c{i}", pads=[1] * 4)]
        nodes += [helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"r{i}")]
        last, inside = f"r{i}", outside
    nodes[-1].output[0] = "out"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, size, size]) for n, c in (("x", 3), ("out", 4))]
    np.save(folder / "deep.npy", images(12, size))
    return saved(folder / "deep.onnx", nodes, ends[:1], ends[1:], weights), folder / "deep.npy"


def whole(path, x):
    """What the whole model makes of an input."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": x}), strict=True))


class Asking:
    """Clients that ask all the time; what they were answered is compared with the whole model."""

    def __init__(self, client, path, count=4, size=SIZE):
        self.client, self.feeds = client, [images(1, size, seed) for seed in range(3)]
        self.wanted = [whole(path, x) for x in self.feeds]
        self.answers, self.lost, self.wrong = 0, [], []
        self.answered_at = time.monotonic()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(count)]

    def _ask(self, i):
        while not self._stop.is_set():
            number = i % len(self.feeds)
            try:
                found = self.client.infer({"x": self.feeds[number]})
            except DeployError as error:
                with self._lock:
                    self.lost.append(str(error))
                time.sleep(0.1)
                continue
            with self._lock:
                self.answers += 1
                self.answered_at = time.monotonic()
                for name, array in self.wanted[number].items():
                    if not np.allclose(found[name], array, rtol=1e-3, atol=1e-3):
                        self.wrong.append(name)
            i += 1

    def more(self, count=8, limit_s=60.0):
        """Wait for more answers."""
        before = self.answers
        wait_until(
            lambda: self.answers >= before + count, limit_s, lambda: f"{self.answers - before} answers; lost: {self.lost[-3:]}"
        )

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@contextmanager
def deployed(agents, path, pictures, **asked):
    """A deployment, and the lines that were told."""
    lines = []
    keys = agents.keys / "device" if agents.keys else ""
    with ds.deploy(path, agents.at, images=pictures, keys=keys, told=lines.append, **(MEASURED | asked)) as client:
        client.lines = lines
        yield client


def children(agents, name, what):
    """The processes below an agent whose command has a word in it."""
    found = []
    for process in psutil.Process(agents.processes[name].pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # or it has ended, and nobody has noticed yet
            if any(what in word for word in process.cmdline()):
                found.append(process)
    return found


STEPS = ("model", "register", "push", "profile", "probe", "noise", "solve", "why", "cut", "push parts", "start", "first request")
FRESH = ("push", "profile", "noise")
MEASURED = {"budget": 20, "layers": 3}
CHANNELS = itertools.count(24)


class Kill:
    """Kills once, when a step is told; agents are started again a moment later, what they have started comes back by itself."""

    def __init__(self, agents, step, who):
        self.agents, self.step, self.who, self.done = agents, step, who, False
        self.back = threading.Timer(0.3, agents.start, [who])

    def __call__(self, line):
        print(line.splitlines()[0])
        if self.done or line.split(":")[0] != self.step:
            return
        self.done = True
        if self.who in self.agents.processes:
            self.agents.kill(self.who)
            self.back.start()
        else:
            host, _, what = self.who.partition(" ")
            for process in children(self.agents, host, f".{what}"):
                process.kill()


def killed(site, step, who, folder):
    """Deploy while something is killed, and be answered."""
    agents, path, pictures = site
    if step in FRESH:  # much is done for a model that is not known yet
        path, pictures = model(folder, channels=next(CHANNELS))
    kill = Kill(agents, step, who)
    with ds.deploy(
        path, agents.at, images=pictures, told=kill, **MEASURED | {"max_noise": 1e-9 if step in FRESH else 0}
    ) as client:
        assert kill.done
        if who in agents.processes:
            kill.back.join()
        wait_until(lambda: client.state["servers"] == ["edge"] and client.state["status"] == "running", 60, lambda: client.state)
        with Asking(client, path, 1) as asking:  # a stage of the source that was killed is away for a moment
            asking.more(1)
        assert not asking.wrong
    ds.undeploy(client.name, agents.at)


@contextmanager
def knowing(folder):
    """Three agents, and a model that they know."""
    path, pictures = model(folder)
    with ds.local_agents(network_file(folder / "net.yaml"), folder / "agents") as agents:
        with deployed(agents, path, pictures, max_noise=0):
            ds.undeploy("net", agents.at)
        yield agents, path, pictures
