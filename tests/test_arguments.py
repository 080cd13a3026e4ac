"""Every public function refuses arguments of a wrong kind with an error of ours that names them, before it does anything else."""

import inspect
import math
import re
import types
from collections import abc
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest
from helpers.problems import random_small
from helpers.small_models import conv_net

import dnnsplit as ds
from dnnsplit.quantize.calibration import Calibration

# made by functions of ours alone, from what those have checked
RESULTS = {
    "AdaptivePlans", "BandwidthPlans", "Bundle", "Cost", "Explanation", "Front", "NoiseLimit", "NoiseMeter", "NoiseModel",
    "Plan", "Power",
    "Runs", "Transfer",
}  # fmt: skip
TOLD_BY_OTHERS = {"Layer", "Tensor", "Server", "Link"}  # whose figures the graph or the network refuses, all of them at once
WRONG = [
    object(), None, "text", b"bytes", True, 3, 1.5, math.nan, 10**400, Path("there"), pd.DataFrame({"a": [1]}), [object()],
    {object(): object()}, ("a", "b", "c", "d"), {"a": object()}, 3j,
]  # fmt: skip


def public():
    """Every public function, constructor and method that takes anything, by its name."""
    found = {}
    for name in ds.__all__:
        one = getattr(ds, name)
        if inspect.isfunction(one):
            found[name] = one
        elif inspect.isclass(one) and not issubclass(one, Exception):
            if name not in RESULTS | {"Instance"}:  # a named tuple has no place to check; `save` does
                found[name] = one
            methods = inspect.getmembers(one, inspect.isfunction)
            found |= {f"{name}.{m}": f for m, f in methods if m[0] != "_" and f.__qualname__.startswith(f"{name}.")}
    return {name: one for name, one in found.items() if parameters(one)}


def parameters(one):
    own = inspect.signature(one).parameters.values()
    return [p for p in own if p.name != "self" and p.name[0] != "_" and p.kind is not p.VAR_KEYWORD]


def hints_of(one):
    from dnnsplit.graph.onnx_file import Model

    owner = one.__init__ if inspect.isclass(one) and "__dataclass_fields__" not in vars(one) else one
    return get_type_hints(owner, localns={"Model": Model, "Calibration": Calibration})


def takes(hint, value):
    """Whether a value may be right for a parameter of this type, as far as its outside tells; what is inside is always wrong."""
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return any(takes(one, value) for one in get_args(hint))
    if hint is Any:
        return True
    if isinstance(hint, TypeVar):
        return any(takes(one, value) for one in hint.__constraints__)
    if origin in (float, int):
        return type(value) in (origin, int) and value != 10**400 and not math.isnan(value)
    if origin is np.ndarray:
        return isinstance(value, int | float | list | tuple | pd.DataFrame)  # what is in it, the model tells
    if origin is abc.Mapping:
        inside = get_args(hint)
        return isinstance(value, dict) and inside[0] is str and (inside[1] is Any or "_Supports" in str(hint)) and "a" in value
    if origin in (tuple, list, abc.Sequence, abc.Collection, abc.Iterable):
        if isinstance(value, dict) and origin in (abc.Collection, abc.Iterable):
            return "a" in value  # its keys are names
        some = isinstance(value, tuple) and (takes(get_args(hint)[0], "a") or get_args(hint)[0] is Any)
        return some and (origin is not tuple or get_args(hint)[1:] == (...,))
    if origin is abc.Callable:
        return callable(value)
    return isinstance(value, origin)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    with right_arguments(tmp_path_factory.mktemp("arguments")) as found:
        yield found


@contextmanager
def right_arguments(there):
    """Right arguments by name; those of one function alone come first, by its name and theirs, and objects by their class."""
    file = conv_net(there / "small.onnx")
    graph, network, times, noise = random_small(0)
    read = ds.load(file)
    images = np.random.default_rng(0).random((2, 3, 12, 12), np.float32)
    everywhere = pd.DataFrame([(n, s, "float32", 1.0) for n in read.layer_names for s in network.server_names],
                              columns=["layer", "server", "precision", "seconds"])  # fmt: skip
    plan = ds.split(read, network, ds.LayerTimes(everywhere))
    ends = network.links[0].ends
    rows = [[0, 0, 0.0], [0, 1, 0.1], [1, 0, 0.2], [1, 1, 0.25]]
    samples = ds.NoiseSamples(pd.DataFrame(rows, columns=["a", "b", "noise"]))
    beside = ds.NoiseSamples(samples.frame, details=pd.DataFrame({"disagreement": samples.noise / 10}))
    found = ds.bandwidths(graph, network, times, link=ends)
    asked = {"graph": graph, "network": network, "times": times, "noise": noise}
    client = ds.Client("127.0.0.1:1", "small")
    calibration = ds.calibrate(read, images)
    yield {
        **asked, "graph": graph, "model": read, "plan": plan, "max_noise": 0.1, "samples": samples, "frame": samples.frame,
        "images": images, "calibration": calibration, "networks": {"all": network}, "bandwidths": {ends: [1e5, 1e6]},
        "bandwidth": 1e6, "limit": 0.1, "assignment": dict.fromkeys(graph.layer_names, "s0"), "server": "s0", "layer": "n0",
        "path": there / "file", "folder": there / "folder", "out": there / "out", "build": there / "build", "name": "a",
        "at": "127.0.0.1:1", "model_path": file, "overhead": {}, "compute_s": {"s0": 1.0}, "layers": ("n0",), "source": "s0",
        "target": "s1", "size_bytes": 100.0, "seconds": 1.0, "bytes_per_s": 1e6, "flops_per_s": 1e9, "factor": 2.0, "count": 1,
        "form": "float32", "quantized": ("a",), "terms": {"a": 0.1}, "schemes": np.array([[0, 1]]), "setting": "default",
        "confidence": 0.9, "q": np.array([[True, False]]), "names": ("n0",), "tensor": "x", "tensors": ("x",), "rows": [0],
        "producer": None, "address": "127.0.0.1:1", "hosts": {"a": ["127.0.0.1"]}, "notebook": "a.ipynb", "client": client,
        "inputs": {}, "low": 1e5, "high": 1e6, "test": None, "wire": "x", "other": plan, "bandwidth_bytes_per_s": 1e6,
        "link": ends, "found": {}, "value": {}, "model_name": "small", "plans": found, "servers": network.servers,
        "bundle": there, "s_per_byte_in": 0.0, "s_per_byte_out": 0.0, "s_per_part": 0.0, "tensors_per_part": 0.0, "error": 0.0,
        "worst": 0.0, "splits": 3, "ranges": {}, "model_sha256": "", "images_sha256": "",
        "AdaptivePlans.at bandwidths": dict.fromkeys([ends], 1e6), "NoiseSamples.updated other": samples,
        "NoiseModel.learn noise": np.array([0.1]), "LayerTimes frame": times.frame, "LayerTimes.from_frame frame": times.frame,
        "LayerGraph layers": graph.layers, "LayerGraph tensors": graph.tensors, "LayerGraph.from_frames layers": samples.frame,
        "LayerGraph.from_frames tensors": samples.frame, "Calibration setting": ds.QuantizationSetting(),
        "Network.transfer_s size_bytes": np.array([1.0]), "Network.with_bandwidths bandwidths": {ends: 1e6},
        "NoiseMeter.by_form schemes": {"": np.zeros((1, 1))}, "NoiseMeter.outputs quantized": (), "sweep_plans max_noise": [0.1],
        "latency_tests max_noise": [0.1], "regimes max_noise": [0.1], "Calibration.only tensors": ("x",),
        "NoiseMeter.samples schemes": np.zeros((1, 1)), "NoiseMeter.by_image schemes": np.zeros((1, 1)),
        "NoiseMeter.walk schemes": np.zeros((1, 1)), "image": 0, "noise_for samples": beside,
        **dict.fromkeys(["measure_noise graph", "noise_meter graph", "measure_wire_noise graph", "calibrate graph",
                         "parts_meter graph", "profile graph"], read),
        "NoiseModel.polynomial layers": ("a",), "load path": file,
        "explain plan": ds.split(**asked, max_noise=0.1), "Plan.check names": ("n0",),
        "Network.only names": ("s0",), "Network.without links": ends, "LayerTimes.without servers": "s1",
        "LayerTimes": times, "LayerGraph": graph, "Network": network, "Server": network.servers[0], "Link": network.links[0],
        "NoiseSamples": samples, "NoiseModel": ds.NoiseModel.measured(samples), "Plan": plan, "Front": ds.pareto(**asked),
        "BandwidthPlans": found, "AdaptivePlans": ds.AdaptivePlans.of(found), "Calibration": calibration,
        "Bundle": ds.cut(read, plan, there / "cut", check=False), "Client": client,
        "Explanation": ds.explain(ds.split(**asked, max_noise=0.1), **asked, max_noise=0.1),
        "NoiseMeter": ds.noise_meter(read, images, layers=1), "Overhead": ds.Overhead(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3),
        "given": "yolo", "Preprocessing": ds.Preprocessing(),
        "Power": ds.Power(samples.frame, (), "", "", "", "", ""), "Instance": ds.Instance(graph, network, times),
    }  # fmt: skip
    client.close()


def called(name, one, given, good):
    """Call a function or a method with right arguments but for those given; enter what is to be entered."""
    owner, _, method = name.partition(".")
    static = method and isinstance(inspect.getattr_static(getattr(ds, owner), method), staticmethod)
    one = getattr(good[owner], method) if method and not static else one
    places, options = [], {}
    for p in parameters(one):
        if p.kind is p.VAR_POSITIONAL:
            places.append(given.get(p.name, good.get(f"{name} {p.name}", good.get(p.name))))
        elif p.name in given or p.default is p.empty:
            options[p.name] = given[p.name] if p.name in given else good.get(f"{name} {p.name}", good[p.name])
    result = one(*places, **options)
    if hasattr(result, "__enter__"):
        with result:
            pass


def outcome(name, one, given, good):
    """Say what came of a wrong argument, nothing where it was refused as it should be."""
    (parameter,) = given
    try:
        called(name, one, given, good)
    except ds.DnnSplitError as error:
        return "" if parameter in str(error) else f"its name is not in: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@pytest.mark.parametrize("name", public())
def test_a_wrong_kind_is_refused_by_the_name_of_its_argument(name, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problems = [f"{called} = {str(value)[:40]!r}: {found[:200]}" for called, value, found in outcomes(name, good) if found]
    assert problems == []


def outcomes(name, good):
    """Try every wrong value on every argument of a public callable; what came of it, nothing where it was refused rightly."""
    one, hints = public()[name], hints_of(public()[name])
    for p in parameters(one):
        for value in WRONG:
            if (name in TOLD_BY_OTHERS and "float" in str(p.annotation)) or (p.name == "consumers" and isinstance(value, str)):
                continue  # a reader alone may be given by its name
            if p.name in hints and not takes(hints[p.name], value):
                yield p.name, value, outcome(name, one, {p.name: value}, good)


def takes_a_path(p):
    return "Path" in str(p.annotation)


@pytest.mark.parametrize("name", [name for name, one in public().items() if any(map(takes_a_path, parameters(one)))])
def test_a_path_that_no_file_can_have_is_no_error_of_the_system(name, good, tmp_path, monkeypatch):
    """It is refused in words, or nothing is read or written there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "far").symlink_to("n" * 300)
    (tmp_path / "file").write_text("1")
    paths = ["n" * 300, "n" * 300 + "/below", "loop", "loop/below", "far", "far/below", "file/below", "n/" * 3000]
    problems = []
    for p in filter(takes_a_path, parameters(public()[name])):
        for path in paths:
            try:
                called(name, public()[name], {p.name: Path(path)}, good)
            except ds.DnnSplitError as error:
                if re.search(r"Errno|Error:", str(error)):
                    problems.append(f"{p.name} = {path[:20]}: {error}")
            except OSError as error:
                problems.append(f"{p.name} = {path[:20]}: {error!r}")
    assert problems == []


@pytest.mark.parametrize(
    ("name", "parameter", "values"),
    [
        ("split", "gap", [-1, -1e-9, -math.inf]),
        ("split", "time_limit_s", [-1]),
        ("split", "max_noise", [-1, -0.5]),
        ("split", "forbid_links", [("s0", "s1"), [("s0",)], [("s0", "s1", "s2")], "s0"]),
        ("split", "pins", ["n0", ["n0", "s0"], {"n0": 3}, {3: "s0"}]),
        ("split", "forbid", [{"n0": 3}, {"n0": [3]}]),
        ("split", "colocate", [("n0", "n1"), [3]]),
        ("baselines", "time_limit_s", [-1, "1 s"]),
        ("adaptive_plans", "bandwidths", [{}]),
        ("adaptive_plans", "max_noises", [[], ()]),
        ("energy_front", "resolution", [0, -1]),
        ("explore", "max_noise", [-1]),
        ("latency_tests", "repeats", [0, -1, 1.5]),
        ("latency_tests", "networks", [{}, {"all": "network.yaml"}]),
        ("latency_tests", "weights", [[]]),
        ("measure_noise", "seed", [-1]),
        ("measure_noise", "workers", [0, -1, 2**62]),
        ("measure_noise", "budget", [0, 1.5]),
        ("noise_meter", "workers", [0, 2**62]),
        ("measure_wire_noise", "workers", [0, 2**62]),
        ("fit_noise", "degree", [0, -1, 1.0]),
        ("fit_noise", "folds", [1, 0]),
        ("profile", "runs", [0, -1]),
        ("profile", "cpu_slowdown", [0, -1, math.inf]),
        ("profile", "source_seconds", [0, math.inf]),
        ("profile_here", "count", [-1, 1.5]),
        ("profile_here", "server", [""]),
        ("measure_power", "meter", [3, "zeus"]),
        ("flops_times", "server", [""]),
        ("make_keys", "days", [0, -1, 10**9]),
        ("probe", "address", [""]),
        ("probe", "deadline_s", [0, -1, math.inf]),
        ("serve", "port", [-1, 65536]),
        ("answer_probes", "port", [-1, 65536]),
        ("load", "path", [""]),
        ("cut", "out", [""]),
        ("cut", "providers", [()]),
        ("deploy", "at", [""]),
        ("deploy", "wait_s", [-1]),
        ("run", "workers", [0, -1]),
        ("local_agents", "names", [[], ""]),
        ("LayerGraph.quantizable", "count", [-1, 1.0]),
        ("Overhead.scaled", "factor", [0, -1, math.inf]),
        ("NoiseSamples.only", "rows", [np.array([10**6]), np.array([0.5])]),
        ("Calibration.only", "tensors", [("nowhere",)]),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_argument(name, parameter, values, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {str(value): outcome(name, public()[name], {parameter: value}, good) for value in values}
    assert {value: what for value, what in found.items() if what} == {}


def test_numbers_of_numpy_are_as_good_as_those_of_python(good):
    asked = (good["graph"], good["network"], good["times"], good["noise"])
    given = {"max_noise": np.float32(0.1), "gap": np.float64(1e-9), "time_limit_s": np.int64(60), "latency_weight": np.int32(1)}
    assert ds.split(*asked, **given).assignment == ds.split(*asked, max_noise=0.1).assignment
    assert ds.noise_meter(good["model"], good["images"], layers=np.int64(1), detections=np.bool_(False)).layers
    assert good["noise"].predict(np.eye(len(good["noise"].layers), dtype=np.int64)).shape == (len(good["noise"].layers),)


def test_all_that_is_wrong_is_told_at_once_with_a_way_out(good):
    with pytest.raises(ds.OptionError) as caught:
        ds.split("small.onnx", good["samples"], good["times"].frame, good["samples"], pins="n0", forbid_links=("s0", "s1"))
    for line in (
        "graph is 'small.onnx'; give a LayerGraph, such as ds.load('small.onnx')",
        "network is of the type NoiseSamples; give a Network, such as ds.Network.load('network.yaml')",
        "times is of the type DataFrame; give a LayerTimes, such as ds.LayerTimes.load('times.csv')",
        "noise is of the type NoiseSamples; give a NoiseModel or None, such as ds.fit_noise(ds.NoiseSamples.load('noise.csv'))",
        "pins is 'n0'; give a mapping of texts to texts or None",
        "forbid_links is the tuple ('s0', 's1'); give a list of tuples (a text, a text), such as [('s0', 's1')]",
    ):
        assert line in str(caught.value)
