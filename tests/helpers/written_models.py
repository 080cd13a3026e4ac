"""Models written as text, in ONNX's own syntax, for tests that read them; and the whole line from such a model to its outputs."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import dnnsplit as ds
from dnnsplit.cutting.running import run_parts
from helpers.plans import SERVERS

LINKS = [ds.Link(a, b, 1e9, 0.0001) for a in SERVERS for b in SERVERS if a != b]
NETWORK = ds.Network([ds.Server(name, speed_cpu=1.0) for name in SERVERS], LINKS, "device")


@dataclass(frozen=True)
class Written:
    """A model as text: `body` is ``(inputs) => (outputs) { nodes }``; more weights by name, and what to run it with."""

    body: str
    weights: dict = field(default_factory=dict)
    opset: int = 17
    ir: int = 8
    domains: dict = field(default_factory=dict)
    functions: str = ""
    feed: dict | None = None
    shapes: dict | None = None

    def proto(self):
        imports = ", ".join(f'"{domain}" : {version}' for domain, version in {"": self.opset, **self.domains}.items())
        proto = onnx.parser.parse_model(f"<ir_version: {self.ir}, opset_import: [{imports}]> g {self.body} {self.functions}")
        proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in self.weights.items())
        return proto


def written(body, weights=None, **options):
    """A `Written`, with the weights of type float32 where they are numbers of Python or of float64."""
    arrays = {name: np.asarray(value) for name, value in (weights or {}).items()}
    arrays = {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in arrays.items()}
    return Written(body, arrays, **options)


def normal(*shape, seed=0):
    """Random weights."""
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def save(proto, folder, name="model"):
    """Write a model to a file in a folder; return its path."""
    path = folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def reference(path, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    """The file as it is, in a session that shares nothing with the package."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.graph_optimization_level = 4, 1, level
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feed_for(session, shapes=None):
    """Random inputs of [-0.5, 0.5) for every input of floats; ones for all others."""
    rng, feed = np.random.default_rng(7), {}
    types = {"float": "float32", "double": "float64"}
    for value in session.get_inputs():
        name = value.type.removeprefix("tensor(").removesuffix(")")
        dtype, shape = np.dtype(types.get(name, name)), (shapes or {}).get(value.name, value.shape)
        feed[value.name] = np.asarray(rng.random(shape) - 0.5 if dtype.kind == "f" else np.ones(shape)).astype(dtype)
    return feed


def in_three(graph):
    """Every layer pinned: a third of them, in topological order, on each server."""
    order = graph.topological
    return {layer: SERVERS[len(SERVERS) * i // len(order)] for i, layer in enumerate(order)}


def through_the_line(path, folder, feed=None, shapes=None, testbed=False):
    """Load, noise, profile, split over three servers, cut and run a model: it gives what the file does. Return the graph."""
    session = reference(path)
    feed = feed_for(session, shapes) if feed is None else feed
    names = [value.name for value in session.get_outputs()]
    expected = dict(zip(names, map(np.asarray, session.run(names, feed)), strict=True))

    graph = ds.load(path, shapes=shapes)
    layers, calibration = graph.quantizable(2), None
    if layers and all(name in graph.model.open for name in graph.model.outputs):
        with pytest.raises(ds.NoiseError, match="cannot be measured"):
            ds.measure_noise(graph, feed, layers, progress=False)
        layers = ()
    if layers:
        calibration = ds.calibrate(graph, feed)
        noise = ds.measure_noise(graph, feed, layers, calibration=calibration, workers=1, progress=False).noise
        numbers = [value[np.isfinite(value)] for value in expected.values() if value.dtype.kind == "f"]
        size = sum(float(np.abs(value).mean()) for value in numbers if value.size)
        assert noise[0] == 0
        assert noise.max() <= 0.2 * size, f"int8 makes a noise of {noise.max():.3g} where outputs are about {size:.3g}"
    times = ds.profile(graph, NETWORK, feed, calibration, layers, runs=2, splits=3 * testbed, progress=False)
    assert set(times.frame["layer"]) == set(graph.layer_names)
    assert times.seconds_of("device") > 0
    bundle = ds.cut(graph, ds.split(graph, NETWORK, times, pins=in_three(graph)), folder / "parts")
    assert len({part.server for part in bundle.parts}) == min(3, len(graph.layers))
    if testbed:
        with ds.testbed(bundle, NETWORK) as client:
            found = client.infer(feed)
    else:
        found = run_parts(bundle, feed)
    assert set(found) == set(names)
    for name, wanted in expected.items():
        assert_same(found[name], wanted, name)
    return graph


def assert_same(found, wanted, name):
    """Equal, or floats that are apart by at most 1e-5 of the largest; half floats by their last bit."""
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), name
    if wanted.dtype.kind != "f" or not wanted.size:
        np.testing.assert_array_equal(found, wanted, name)
        return
    # ONNX Runtime computes half floats in float32, and rounds them where they leave a session
    close = max(1e-5, float(np.finfo(wanted.dtype).eps))
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=close * largest, err_msg=name)
