"""Cut a model by a plan into ONNX parts that run on their servers and together give what the whole model gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dnnsplit.cutting.bundle import Bundle, Hop, Output, Part, Wire
from dnnsplit.cutting.checks import type_problems
from dnnsplit.cutting.examples import example_of
from dnnsplit.cutting.triton import part_file, write_repository
from dnnsplit.graph.blocks import load
from dnnsplit.graph.cleanup import subgraphs
from dnnsplit.graph.external_data import Place, borrow_weights, is_large, move_weights, session_of
from dnnsplit.graph.feeds import Feed, Images, feeds_of, made_up
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.graph.partitions import components
from dnnsplit.graph.reading import is_random
from dnnsplit.ground.differences import ROUNDING, TINY, absolute, magnitude
from dnnsplit.ground.errors import DeployError, raise_problems
from dnnsplit.ground.files import sha256, write_bytes
from dnnsplit.noise.prefix_tree import RUNTIME, both_ways
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.kernels import stray_layers
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.quantize.rewrite import QuantizedLayer, quantize_layer
from dnnsplit.quantize.setting import QuantizationSetting, check_one_setting
from dnnsplit.runtime.sessions import session
from dnnsplit.solving.plan import Plan

if TYPE_CHECKING:
    import onnx

CHECK = "give inputs that the model takes (images=..., --images), or leave the check out (check=False, --no-check)"
TOLERANCE = 1e-3  # relative to the largest output; other kernels are chosen where a model is cut
OF_NOISE = 0.01  # of the int8 layers' noise: a plan's is a deployment's to 1 %; the same kernels give 0


def cut(
    model: LayerGraph | str | Path,
    plan: Plan,
    out: str | Path,
    calibration: Calibration | None = None,
    check: bool = True,
    providers: Sequence[str] = ("cpu",),
    images: Images | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Bundle:
    """Write the parts of a plan.

    A part is a set of layers of one server at one level, level(n) = max over its producers of level(p) + [another
    server], so that the parts form no cycle. Each part is cut from the float32 model first and quantized then, with
    the ranges of the whole model; what a quantized layer sends crosses in int8.

    Parameters
    ----------
    model : LayerGraph | str | Path
        The graph the plan was made for, as `load` returned it, or its ONNX file.
    plan : Plan
        From `split`.
    out : str | Path
        Folder for the parts and ``bundle.json``; made if missing.
    calibration : Calibration | None, optional
        Ranges for the quantized layers; default: those the plan's noise was measured with.
    check : bool, default True
        Run the parts one after the other and compare them with the whole model before returning; what their inputs hold then is
        kept in the bundle, for stages to warm up on.
    providers : Sequence[str], default ("cpu",)
        Of a file: those that the plan's graph was read with, see `load`.
    images : Images | None, optional
        Inputs to check with, as for `profile`, of which the first is run; default: values made up, see
        `dnnsplit.graph.feeds.made_up`.
    shapes : Mapping[str, Sequence[int]] | None, optional
        Of a file: those that the plan's graph was read with, see `load`.

    Returns
    -------
    Bundle

    Raises
    ------
    DeployError
        Layers are quantized but no calibration is known, the parts do not give what the whole model gives, or not the noise that
        schemes are measured to have, a layer of a part runs in another precision than the plan says, or the check cannot be made.
    ModelError
        The file is no usable model.
    NoiseError
        The images do not fit the model.
    DnnSplitError
        The plan places other layers than the model has.
    """
    graph = model if isinstance(model, LayerGraph) else load(model, providers, shapes)
    read = graph.model
    feed = None if images is None else feeds_of(read, images)[0]
    plan.check(graph.layer_names)
    calibration = calibration or calibration_of(plan)
    if plan.quantized:
        check_one_setting({"noise of the plan": plan.origin, "calibration": {"setting": asdict(calibration.setting)}})
    int8 = {name: quantize_layer(graph, name, calibration) for name in plan.quantized}
    out = Path(out)
    wires: dict[str, Wire] = {}
    form = {q.output: q.wire for q in int8.values()}
    by_wire = {q.wire: q for q in int8.values()}
    parts, weights = [], dict[str, Place]()
    for index, names in enumerate(components(graph, plan.assignment)):
        outputs = [form.get(t, t) for t in boundary(graph, names).outputs]
        proto = build_part(graph, names, outputs, int8, f"part {index}")
        part, places = _write(proto, out, f"part{index:02d}", plan.assignment[names[0]])
        parts.append(part)
        weights |= places
        wires |= {name: _wire(read, name, by_wire.get(name)) for name in outputs}
    bundle = Bundle(
        folder=out,
        model_name=os.fsencode(read.path.stem).decode(errors="replace"),  # a name of any bytes is one of text in messages
        model_sha256=read.sha256,
        source=plan.source,
        servers=tuple(plan.cost.compute_s),
        inputs=tuple(_wire(read, name) for name in read.inputs),
        outputs=tuple(Output(name, form.get(name, name)) for name in read.outputs),
        wires=tuple(wires.values()),
        parts=tuple(parts),
        plan=plan.to_json(),
        ignored=read.unread,
    )
    bundle = replace(bundle, hops=_hops(bundle, plan, form))
    if check:
        with _told():
            seen = verify(bundle, graph, int8, weights, calibration, made_up(read) if feed is None else feed)
        read_by_parts = dict.fromkeys(name for part in parts for name in part.inputs)
        bundle = replace(bundle, examples=tuple(example_of(name, seen[name]) for name in read_by_parts))
    bundle.save()
    write_repository(bundle)
    return bundle


def calibration_of(plan: Plan) -> Calibration:
    """Return what the int8 layers of a plan are quantized by, unless told: that of its noise; no ranges if none are."""
    if not plan.quantized:
        return Calibration({}, QuantizationSetting(), "", "")
    if "calibration" not in plan.origin:
        message = (
            f"the plan quantizes {len(plan.quantized)} layers but its noise model has no calibration; "
            "pass calibration=calibrate(graph, images)"
        )
        raise DeployError(message)
    return Calibration.from_json(plan.origin["calibration"])


def _write(proto: onnx.ModelProto, out: Path, name: str, server: str) -> tuple[Part, dict[str, Place]]:
    """Write a part, with the weights of a large one in a file beside it; tell where in `out` those are."""
    file, data, digest = part_file(name, is_large(proto)), "", ""
    places: dict[str, Place] = {}
    _make_room(out, part_file(name), (out / file).parent)
    if is_large(proto):
        data = f"{file}.data"
        places, digest = move_weights(proto, out / data)
    content = proto.SerializeToString(deterministic=True)
    write_bytes(out / file, content)
    inputs, outputs = (tuple(value.name for value in values) for values in (proto.graph.input, proto.graph.output))
    weights = {weight: (data, *place[1:]) for weight, place in places.items()}
    return Part(name, server, file, sha256(content), inputs, outputs, data, digest), weights


def _make_room(out: Path, file: str, folder: Path) -> None:
    """Remove what an earlier cut left where a file, or the folder `folder`, is to be; follow no symbolic link below `out`."""
    path = out / file
    for below in (*reversed([out / p for p in Path(file).parents[:-1]]), path):
        if below.is_symlink():
            below.unlink()
    if path == folder:
        path.unlink() if path.is_file() else None
    elif path.is_dir():
        shutil.rmtree(path)


def _hops(bundle: Bundle, plan: Plan, form: Mapping[str, str]) -> tuple[Hop, ...]:
    """Links of the tensors that the plan sends through other servers; `form` gives the wire of a quantized tensor."""
    links: dict[str, list[tuple[str, str]]] = {}
    for transfer in plan.transfers:
        if transfer.source != transfer.target:
            links.setdefault(form.get(transfer.tensor, transfer.tensor), []).append((transfer.source, transfer.target))
    straight = {name: {(bundle.producers[name], target) for target in targets} for name, targets in bundle.needed.items()}
    return tuple(Hop(name, *link) for name, route in links.items() if set(route) != straight.get(name, set()) for link in route)


def _wire(model: Model, name: str, int8: QuantizedLayer | None = None) -> Wire:
    if int8 is None:
        dtype = str(model.dtype(name))
        raise_problems(DeployError, model.path.name, list(type_problems(name, dtype)))
        return Wire(name, dtype, model.types[name][1])
    return Wire(name, int8.dtype, model.types[int8.output][1], int8.scale, int8.zero_point, int8.output)


def run_parts(bundle: Bundle, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run all parts of a bundle here, one after the other, and return the outputs of the model."""
    return delivered(bundle, all_values(bundle, feed))


def all_values(bundle: Bundle, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run all parts of a bundle here, one after the other, and return all graph inputs and wires."""
    values = dict(feed)
    for part in bundle.parts:
        one = session(bundle.folder / part.file)
        values |= dict(zip(part.outputs, one.run(list(part.outputs), {name: values[name] for name in part.inputs}), strict=True))
    return values


def delivered(bundle: Bundle, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of the model, of the wires that carry them."""
    wires = bundle.wire_by_name
    return {output.name: wires[output.wire].real(values[output.wire]) for output in bundle.outputs}


def whole(
    graph: LayerGraph,
    int8: Mapping[str, QuantizedLayer],
    feed: Mapping[str, np.ndarray],
    folder: Path | None = None,
    weights: Mapping[str, Place] | None = None,
) -> dict[str, np.ndarray]:
    """Run the whole model, with the same layers in int8, as one session; some weights may be taken from files in `folder`."""
    names = list(graph.model.outputs)
    proto = build_part(graph, graph.layer_names, names, int8, "whole")
    if folder is None or not weights:
        return dict(zip(names, session_of(proto).run(names, dict(feed)), strict=True))
    borrow_weights(proto, weights)
    file = write_bytes(folder / "whole.onnx", proto.SerializeToString())
    del proto
    try:
        return dict(zip(names, session(file).run(names, dict(feed)), strict=True))
    finally:
        file.unlink()


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
) -> dict[str, np.ndarray]:
    """Compare the parts with the whole model on one input, and with what a scheme is measured to do to it.

    Returns all graph inputs and wires of that inference.

    The greatest difference is at most 1e-3 of the greatest value of an output; a value that is no number is one unless both hold
    the same. Of outputs that are no floats (classes, indices, truth, texts) at most 1e-3 may differ at all.
    The whole model has the same layers in int8. Where there are any, its outputs are those of the segments in which noise is
    measured (`dnnsplit.noise.prefix_tree`), so that the parts have the noise that the plan was chosen by: the mean difference
    takes the place of the greatest, and it is at most a hundredth of their noise; and no kernel of the parts computes a float32
    layer in int8. `weights` tells where in the bundle's folder those of large parts are, so that the whole model need not hold
    them.
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
    plain: dict[str, np.ndarray] = {}
    if int8:
        plain, expected = both_ways(graph, [name for name in graph.topological if name in int8], calibration, feed)
    else:
        expected = whole(graph, int8, feed, bundle.folder, weights)
    values = all_values(bundle, feed)
    found = delivered(bundle, values)
    # Rounding at the border of two int8 steps may fall either way in other kernels, so int8 is compared by its mean.
    told = {name: _difference(found[name], expected[name], mean=bool(int8)) for name in graph.model.outputs}
    heading = "the parts differ from the whole model (check=False, or --no-check, takes them as they are)"
    raise_problems(DeployError, heading, [f"output {name!r} {text}" for name, text in told.items() if text])
    shape = {name: array.shape for name, array in expected.items() if array.size and array.dtype.kind in "biuf"}
    plain = {name: array for name, array in plain.items() if array.shape == shape.get(name)}  # int8 may find other boxes
    noise = sum(absolute(expected[name], plain[name]).mean() for name in plain)
    apart = sum(absolute(found[name], expected[name]).mean() for name in plain)
    rounding = ROUNDING * sum(magnitude(expected[name]).mean() for name in plain)
    if not apart <= OF_NOISE * noise + rounding:
        message = (
            f"the parts are {apart / max(noise, TINY):.1%} of the noise of their int8 layers away from what that noise was "
            f"measured on (at most {OF_NOISE:.0%}); another optimizer may be at work in {RUNTIME}: report it"
        )
        raise DeployError(message)
    return values


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
