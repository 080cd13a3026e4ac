"""Cut a model by a plan into ONNX parts that run on their servers and together give what the whole model gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dnnsplit.codecs.pixels import Pixels
from dnnsplit.codecs.plain import INT8, PLAIN
from dnnsplit.cutting.bundle import Bundle, Coding, Hop, Output, Part, Wire
from dnnsplit.cutting.checks import type_problems
from dnnsplit.cutting.examples import example_of
from dnnsplit.cutting.triton import part_file, write_repository
from dnnsplit.cutting.verification import checked
from dnnsplit.graph.blocks import load
from dnnsplit.graph.external_data import Place, is_large, move_weights
from dnnsplit.graph.feeds import Images, feeds_of
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model
from dnnsplit.graph.partitions import components
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import DeployError, raise_problems
from dnnsplit.ground.files import sha256, write_bytes
from dnnsplit.ground.forms import formed
from dnnsplit.ground.outputs import check_output
from dnnsplit.quantize.calibration import Calibration
from dnnsplit.quantize.parts import boundary, build_part
from dnnsplit.quantize.rewrite import QuantizedLayer, quantize_layer
from dnnsplit.quantize.setting import QuantizationSetting, check_one_setting
from dnnsplit.solving.plan import Plan

if TYPE_CHECKING:
    import onnx


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
    OutputError
        The folder cannot be written.
    DnnSplitError
        The plan places other layers than the model has.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> graph, network, times, noise = ds.examples.yolo11n()
    >>> bundle = ds.cut(graph, ds.split(graph, network, times, noise, max_noise=0.05), "build")
    >>> bundle.model_name, bundle.source
    ('yolo11n-ppe-320', 'device')
    """
    check_arguments(cut, locals(), some=("out", "providers"))
    check_output(out, folder=True)
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
        pixels=_pixels(plan),
    )
    bundle = replace(bundle, hops=_hops(bundle, plan, form), codings=_codings(plan, form))
    if check:
        seen = checked(bundle, graph, int8, weights, calibration, feed)
        read_by_parts = {name: part.server for part in parts for name in part.inputs}
        bundle = replace(bundle, examples=tuple(example_of(place[0], seen[place]) for place in read_by_parts.items()))
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


def _codings(plan: Plan, form: Mapping[str, str]) -> tuple[Coding, ...]:
    """Return the forms in which tensors cross that do not cross as they are made; `form` as for `_hops`."""
    coded = [t for t in plan.transfers if t.form not in (PLAIN, INT8)]
    return tuple(Coding(form.get(t.tensor, t.tensor), t.source, t.target, t.form) for t in coded)


def _pixels(plan: Plan) -> dict[str, Pixels]:
    return {name: formed(told, Pixels, DeployError, f"pixels of {name!r} in the plan") for name, told in plan.pixels.items()}


def _wire(model: Model, name: str, int8: QuantizedLayer | None = None) -> Wire:
    if int8 is None:
        dtype = str(model.dtype(name))
        raise_problems(DeployError, model.path.name, list(type_problems(name, dtype)))
        return Wire(name, dtype, model.types[name][1])
    return Wire(name, int8.dtype, model.types[int8.output][1], int8.scale, int8.zero_point, int8.output)
