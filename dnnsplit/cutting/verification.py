"""The check of a cut: its parts beside the whole model, and what its forms do to the tensors that cross."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from dnnsplit.cutting.bundle import Bundle
from dnnsplit.cutting.examples import some_images
from dnnsplit.cutting.running import all_values, delivered, received, whole
from dnnsplit.graph.cleanup import subgraphs
from dnnsplit.graph.external_data import Place
from dnnsplit.graph.feeds import Feed, made_up
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.graph.reading import is_random
from dnnsplit.ground.differences import ROUNDING, TINY, absolute, magnitude
from dnnsplit.ground.errors import DeployError, raise_problems
from dnnsplit.noise.prefix_tree import RUNTIME, both_ways
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.kernels import stray_layers
from dnnsplit.quantize.rewrite import QuantizedLayer

CHECK = "give inputs that the model takes (images=..., --images), or leave the check out (check=False, --no-check)"
TOLERANCE = 1e-3  # relative to the largest output; other kernels are chosen where a model is cut
OF_NOISE = 0.01  # of the int8 layers' noise: a plan's is a deployment's to 1 %; the same kernels give 0
SHAKEN = 1e-6  # of float inputs: as much as sums in another order change float32 values within a model
SHAKES = 4


def checked(
    bundle: Bundle,
    graph: LayerGraph,
    int8: Mapping[str, QuantizedLayer],
    weights: Mapping[str, Place],
    calibration: Calibration,
    feed: Feed | None,
) -> dict[tuple[str, str], np.ndarray]:
    """`verify`, on inputs that are made up where none are given; whatever keeps parts from it is told in words of ours."""
    with _told():
        return verify(bundle, graph, int8, weights, calibration, _made_up(bundle, graph.model) if feed is None else feed)


def _made_up(bundle: Bundle, model: Model) -> Feed:
    """Return inputs that the model takes; those that hold images hold some."""
    shapes = {wire.name: (wire.dtype, wire.shape) for wire in bundle.inputs}
    return made_up(model) | {name: some_images(pixels, *shapes[name]) for name, pixels in bundle.pixels.items()}


@contextmanager
def _told() -> Iterator[None]:
    """Turn whatever keeps parts from being checked into an error of ours that says how to go on."""
    try:
        yield
    except DeployError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"the parts cannot be checked: {why}; {CHECK}"
        raise DeployError(message) from None


def verify(
    bundle: Bundle,
    graph: LayerGraph,
    int8: Mapping[str, QuantizedLayer],
    weights: Mapping[str, Place],
    calibration: Calibration,
    feed: Feed,
) -> dict[tuple[str, str], np.ndarray]:
    """Compare the parts with the whole model on one input, and with what a scheme is measured to do to it.

    Returns all graph inputs and wires of that inference, as `all_values` does.

    The greatest difference is at most 1e-3 of the greatest value of an output; a value that is no number is one unless both hold
    the same. Of outputs that are no floats (classes, indices, truth, texts) at most 1e-3 may differ at all.
    The whole model has the same layers in int8. Where there are any, its outputs are those of the segments in which noise is
    measured (`dnnsplit.noise.prefix_tree`), so that the parts have the noise that the plan was chosen by: the mean difference
    takes the place of the greatest, and it is at most a hundredth of their noise, or what rounding alone changes (few outputs of
    a deep model may change by several hundredths where an input changes in its last bit); and no kernel of the parts computes a
    float32 layer in int8. `weights` tells where in the bundle's folder those of large parts are, so that the whole model need not
    hold them.

    Forms that lose nothing must change no bit of what they carry. Where a graph input loses something, the whole model gets what
    is left of it too. Forms of other wires that lose something are left out where the parts are compared with the whole model,
    and the parts must run with them.
    """
    if drawn := _random_nodes(graph.model):
        way_out = "leave the check out (check=False, --no-check)"
        message = f"no two runs of the model agree, as {drawn[0]} draws random numbers without a seed; {way_out}"
        raise DeployError(message)
    stray = [
        f"{name!r} runs as {kernel} in {part.name}"
        for part in bundle.parts if int8
        for name, kernel in stray_layers(bundle.folder / part.file, graph, int8).items()
    ]  # fmt: skip
    raise_problems(DeployError, "layers that the plan has in float32 run in int8", stray)
    inputs, plain = received(bundle, feed), dict[str, np.ndarray]()
    names = [name for name in graph.topological if name in int8]
    if int8:
        plain, expected = both_ways(graph, names, calibration, inputs)
    else:
        expected = whole(graph, int8, inputs, bundle.folder, weights)
    values = all_values(bundle, feed)
    raise_problems(DeployError, "forms that are to lose nothing", list(_losses(bundle, values)))
    compared = replace(bundle, codings=tuple(c for c in bundle.codings if c not in bundle.lossy_wires))
    found = delivered(bundle, all_values(compared, feed) if bundle.lossy_wires else values)
    # Rounding at the border of two int8 steps may fall either way in other kernels, so int8 is compared by its mean.
    told = {name: _difference(found[name], expected[name], mean=bool(int8)) for name in graph.model.outputs}
    heading = "the parts differ from the whole model (check=False, or --no-check, takes them as they are)"
    raise_problems(DeployError, heading, [f"output {name!r} {text}" for name, text in told.items() if text])
    shape = {name: array.shape for name, array in expected.items() if array.size and array.dtype.kind in "biuf"}
    plain = {name: array for name, array in plain.items() if array.shape == shape.get(name)}  # int8 may find other boxes
    noise = sum(absolute(expected[name], plain[name]).mean() for name in plain)
    apart = sum(absolute(found[name], expected[name]).mean() for name in plain)
    rounding = ROUNDING * sum(magnitude(expected[name]).mean() for name in plain)
    near = apart <= OF_NOISE * noise + rounding
    if not near and not apart <= _by_rounding(graph, names, calibration, inputs, {name: expected[name] for name in plain}):
        message = (
            f"the parts are {apart / max(noise, TINY):.1%} of the noise of their int8 layers away from what that noise was "
            f"measured on (at most {OF_NOISE:.0%}, or what rounding alone changes); another optimizer may be at work in {RUNTIME}"
        )
        raise DeployError(message, "report it; check=False, or --no-check, takes the parts as they are")
    return values


def _by_rounding(
    graph: LayerGraph, names: list[str], calibration: Calibration, inputs: Feed, expected: Mapping[str, np.ndarray]
) -> float:
    """Return how far int8 outputs move where inputs change by no more than float32 rounds: values at the border of two steps."""
    moved, draws = [0.0], np.random.default_rng(0)
    for _ in range(SHAKES):
        shaken = {
            name: (value * (1 + SHAKEN * draws.standard_normal(value.shape))).astype(value.dtype)
            if value.dtype.kind == "f"
            else value
            for name, value in inputs.items()
        }
        found = both_ways(graph, names, calibration, shaken)[1]
        same = [name for name, array in expected.items() if found[name].shape == array.shape]
        moved.append(sum(absolute(found[name], expected[name]).mean() for name in same))
    return max(moved)


def _losses(bundle: Bundle, values: Mapping[tuple[str, str], np.ndarray]) -> Iterator[str]:
    for (wire, source, target), form in bundle.forms.items():
        if source != target and bundle.codec(wire, form).lossless:
            sent, came = values[wire, source], values[wire, target]
            if (sent.dtype, sent.shape, sent.tobytes()) != (came.dtype, came.shape, came.tobytes()):
                yield f"{form!r} changes {wire!r} on its way from {source!r} to {target!r}"


def _difference(found: np.ndarray, expected: np.ndarray, mean: bool) -> str:
    """Say how far an output of the parts is from that of the whole model, by the mean or the greatest; nothing if it is not."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        return f"has the shape {found.shape}, not {expected.shape}"
    if not found.size:
        return ""
    if expected.dtype.kind == "f":
        size = absolute(found, expected).mean() if mean else absolute(found, expected).max()
        size, of = float(size / max(magnitude(expected).max(), TINY)), "is off by {:.3g} of its greatest value"
    else:
        size, of = float((found != expected).mean()), "has {:.3g} of its values wrong"
    return "" if size <= TOLERANCE else f"{of.format(size)} (at most {TOLERANCE:g})"


def _random_nodes(model: Model) -> list[str]:
    """Name the nodes that draw other random numbers in each run, those in bodies too."""
    found, bodies = [], [[*model.nodes.values()]]
    for nodes in bodies:
        bodies += [[*graph.node] for node in nodes for attribute in node.attribute for graph in subgraphs(attribute)]
        for node in nodes:
            training = node.input[2] if node.op_type == "Dropout" and len(node.input) > 2 else ""
            drops = training and not (model.is_constant(training) and not model.weight(training))
            if (is_random(node) or drops) and not any(attribute.name == "seed" for attribute in node.attribute):
                found.append(f"{node.op_type} {node.name!r}")
    return found
