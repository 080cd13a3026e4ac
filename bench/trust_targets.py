"""What is fuzzed: each loader of a file from outside, and the reader of messages, with good inputs to begin from."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import numpy as np
import onnx
from deploy_cut import SERVERS, in_thirds
from PIL import Image
from tritonclient.grpc import service_pb2

import dnnsplit as ds
from dnnsplit.cutting.bundle import FILE
from dnnsplit.cutting.plan_set import FILE as SET_FILE
from dnnsplit.cutting.plan_set import PlanSet, load_cut
from dnnsplit.cutting.prices import FollowedLink, Prices
from dnnsplit.deployment.hosts import read_hosts
from dnnsplit.deployment.stage.config import Config
from dnnsplit.deployment.wire.encoding import Infer
from dnnsplit.deployment.wire.messages import (
    TRACE,
    Elements,
    PartRecord,
    Records,
    TransferRecord,
    contents_of,
    describe,
    infer_request,
    links_of,
)
from dnnsplit.examples import pictures
from dnnsplit.profiling.times import LayerTimes
from dnnsplit.profiling.wire_forms import WireForms
from dnnsplit.sweep.jobs import RECORD, jobs_of

CORPUS = Path(__file__).parents[1] / "tests" / "corpus"
ROWS = 12  # of a table that inputs are made from
EXPECTED = {"x": ("float32", (1, 3, 4, 4)), "n": ("int64", ()), "out": ("float32", (1, -1))}
PREPROCESSING = (b"letterbox,BGR", b"crop=.875,RGB,scale=1/127.5,mean=1", b"yolo,gray,NCHW", b"imagenet,mean=0.1:0.2:0.3,std=0.5")
TABLES = ("layers.csv", "tensors.csv", "times.csv", "times.forms.csv", "noise.csv", "lossy.csv", "network.yaml")
MODEL = """<ir_version: 8, opset_import: ["" : 17]>
small (float[1,4] x) => (float[1,4] y, float[1,4] z)
<float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, int64[2] s = {1,4}>
{ a = MatMul(x, w)  b = Relu(a)  c = Add(b, x)  d = Reshape(c, s)  y = MatMul(d, w)  z = Softmax<axis=1>(c) }"""
HOSTS = b"edge: 10.0.0.7:7002\ncloud: [fd00::7]:7002\n"
SWEEP = """parameters: {x: 3}
runs:
  - notebook: one.ipynb
    name: first
    parameters: {limits: [0, 10 %, 0.5]}
    grid: {x: [1, 2]}
  - {notebook: one.ipynb, needs: [first]}
"""
CELL = "x = 2  # a number\nlimits = [0.1, 0.2]  # a list\n"


@dataclass(frozen=True)
class Target:
    """Something that reads bytes from outside.

    Attributes
    ----------
    form : str
        Of the bytes: "json", "yaml", "csv", "tables" (a name on the first line, the file of that name below), "message", "onnx",
        "bytes".
    read : Callable[[bytes], object]
        Reads them, and looks at what was read.
    seeds : tuple[bytes, ...]
        Good inputs, and those of the corpus.
    guided : bool, default False
        Whether it is worth to let coverage guide the fuzzing.
    """

    form: str
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    guided: bool = False


def targets(folder: Path) -> dict[str, Target]:
    """Return all targets by name; their files are in a folder of which each has a part of its own."""
    model, data = folder / "small.onnx", ds.examples.data_folder()
    onnx.save(onnx.parser.parse_model(MODEL), model)
    plan = in_thirds(model)
    plan.save(folder / "plan.json")
    bundle = ds.cut(model, plan, folder / "bundle", check=False)
    networks = tuple(path.read_bytes() for path in sorted((data / "networks").glob("*.yaml")))
    shipped = f"{ds.examples.SHIPPED}.csv"
    forms = data / "profiles" / shipped.replace(".csv", ".forms.csv")
    found = {
        "network": Target("yaml", _of_file(folder / "network.yaml", _network), networks, guided=True),
        "hosts": Target("yaml", _of_file(folder / "hosts.yaml", read_hosts), (HOSTS,)),
        "sweep": Target("yaml", _of_sweep(folder / "sweep"), (SWEEP.encode(),), guided=True),
        "plan": Target("json", _of_file(folder / "read.json", _plan), ((folder / "plan.json").read_bytes(),), guided=True),
        "bundle": Target("json", _of_manifest(bundle.folder, FILE), ((bundle.folder / FILE).read_bytes(),), guided=True),
        "plan-set": Target("json", _of_manifest(folder / "set", SET_FILE), (_plan_set(folder / "set", bundle),)),
        "stage": Target("json", _of_file(folder / "stage.json", Config.load), (_stage(),)),
        "profile": Target("csv", _of_file(folder / "times.csv", _times), (_profile(data / "profiles" / shipped),)),
        "forms": Target("csv", _of_file(folder / "forms.csv", WireForms.load), (_head(forms),)),
        "noise": Target("csv", _of_file(folder / "noise.csv", _noise), (_head(data / "noise" / shipped),)),
        "instance": Target("tables", *_instance(folder / "instance", model)),
        "onnx": Target("onnx", _of_file(folder / "read.onnx", _onnx), (model.read_bytes(), *_models()), guided=True),
        "wire": Target("message", _message, _messages(), guided=True),
        "record": Target("json", _of_record(folder / "run"), (_record(),)),
        "picture": Target("bytes", _of_file(folder / "picture", _picture), _pictures()),
        "preprocess": Target("bytes", _preprocessing, PREPROCESSING),
    }
    kept = {name: tuple(path.read_bytes() for path in corpus(name)) for name in found}
    return {name: replace(target, seeds=target.seeds + kept[name]) for name, target in found.items()}


def corpus(name: str) -> list[Path]:
    """Return the files of a target that are kept: each was found to be read wrongly once, or is odd."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def _of_file(path: Path, load: Callable[[Path], object]) -> Callable[[bytes], object]:
    def read(content: bytes) -> object:
        path.write_bytes(content)
        return load(path)

    return read


def _head(path: Path) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[: ROWS + 2])


def _profile(path: Path) -> bytes:
    """Return the times of a few layers, with all that the first line says."""
    times = LayerTimes.load(path)
    few = times.frame["layer"].isin(times.frame["layer"].unique()[:3])
    with tempfile.TemporaryDirectory() as folder:
        replace(times, frame=times.frame[few], forms=None).save(Path(folder, "few.csv"))
        return Path(folder, "few.csv").read_bytes()


def _network(path: Path) -> None:
    network = ds.Network.load(path)
    repr(network)
    again = path.with_name("again.yaml")
    network.save(again)
    assert ds.Network.load(again) == network, "a network that is written is read as another"


def _plan(path: Path) -> None:
    plan = ds.Plan.load(path)
    str(plan), plan.frame, plan._repr_html_()
    plan.save(path)
    ds.Plan.load(path)


def _times(path: Path) -> None:
    times = LayerTimes.load(path)
    repr(times)
    times.save(path)
    LayerTimes.load(path)


def _noise(path: Path) -> None:
    samples = ds.NoiseSamples.load(path)
    repr(samples)
    samples.save(path)
    ds.NoiseSamples.load(path)


def _onnx(path: Path) -> None:
    graph = ds.load(path)
    repr(graph)


def _of_sweep(folder: Path) -> Callable[[bytes], object]:
    folder.mkdir()
    cell = nbformat.v4.new_code_cell(CELL, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "one.ipynb")
    return _of_file(folder / "sweep.yaml", lambda path: jobs_of(path, {}, {}, folder / "out"))


def _of_manifest(folder: Path, name: str) -> Callable[[bytes], object]:
    def look(path: Path) -> None:
        found = load_cut(path.parent)
        repr(found)
        for bundle in found.bundles:
            repr(bundle), bundle.frame, bundle.largest_message_bytes, bundle.leave_as_images, bundle.inside, bundle.lossy_wires

    return _of_file(folder / name, look)


def _of_record(folder: Path) -> Callable[[bytes], object]:
    folder.mkdir()
    return _of_file(folder / RECORD, lambda path: repr(ds.results(path.parent)))


def _record() -> bytes:
    row = {"run": "one", "notebook": "one.ipynb", "status": "done", "cell": "", "error": "", "seconds": 1.5, "cpu_s": 1.0}
    row |= {"output": "one.ipynb", "results": {"noise": 0.02, "server": "edge", "limits": [1, 2]}}
    record = {"row": row, "parameters": {"x": 3, "limits": [0.1]}, "own": ["out"], "notebook": "../one.ipynb"}
    return json.dumps(record | {"notebook_sha256": "0" * 64, "versions": {}, "inputs": {"a.csv": "0"}, "outputs": {}}).encode()


def _pictures() -> tuple[bytes, ...]:
    """Return small pictures of several formats and modes."""
    pixels, made = np.arange(192, dtype=np.uint8).reshape(8, 8, 3), []
    for form, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("TIFF", "I;16"),
                       ("TIFF", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("PPM", "L")):  # fmt: skip
        grey = Image.fromarray(pixels[..., 0].astype(np.uint16) * 300)
        (grey if mode == "I;16" else Image.fromarray(pixels).convert(mode)).save(file := io.BytesIO(), form)
        made.append(file.getvalue())
    return tuple(made)


def _picture(path: Path) -> None:
    found = pictures.read([path], ds.Preprocessing(), np.dtype("float32"), (1, 3, 8, 8))
    assert found.shape == (1, 3, 8, 8), "an input of another shape"
    assert np.isfinite(found).all(), "an input that is not finite"


def _preprocessing(content: bytes) -> None:
    how = ds.Preprocessing.of(content.decode(errors="surrogateescape"))
    assert ds.Preprocessing.of(str(how)) == how, "what is written is read as something else"


def _stage() -> bytes:
    emulation = {"slowdown": 2.0, "time_dilation": 1.0, "links": {"edge": [0.005, 1e-7]}}
    config = {"bundle": "bundle", "server": "device", "port": 7001, "peers": {"edge": "127.0.0.1:7002"}, "emulation": emulation}
    return json.dumps(config | {"tls": {"cert": "", "key": "", "ca": __file__, "mutual": False}}).encode()


def _plan_set(folder: Path, bundle: ds.Bundle) -> bytes:
    """Write several plans, both the same bundle; return what says so."""
    shutil.copytree(bundle.folder, folder / "one")
    link = FollowedLink("device", "edge", 5e6, 0.005, 0.0)
    prices = Prices((link.ends,), (0.0, 0.1), (0.2, 0.1), ((0.0,), (1e5,)))
    PlanSet(folder, "small", (link,), ("one", "one"), (bundle.digest,) * 2, prices).save()
    return (folder / SET_FILE).read_bytes()


def _instance(folder: Path, model: Path) -> tuple[Callable[[bytes], object], tuple[bytes, ...]]:
    graph = ds.load(model)
    times = ds.joined(*(ds.flops_times(graph, server, 1e10, 1e10) for server in SERVERS))
    noise = ds.NoiseModel.polynomial(graph.quantizable(2), {name: 0.01 for name in graph.quantizable(2)}, 0.001)
    links = [ds.Link(a, b, 5e6, 0.005) for a in SERVERS for b in SERVERS if a != b]
    network = ds.Network([ds.Server(name, 1.0, 1.0) for name in SERVERS], links, "device")
    ds.Instance(graph, network, times, noise).save(folder)
    good = {name: (folder / name).read_bytes() for name in TABLES if (folder / name).is_file()}
    (first, *_), server = (t.name for t in graph.tensors), SERVERS[0]
    good["times.forms.csv"] = (
        "tensor,precision,form,server,size_bytes,size_bytes_95,encode_s,decode_s,lossless\n"
        f"{first},float32,zstd-3,{server},10,12,0.001,0.001,True\n"
    ).encode()
    good["lossy.csv"] = f"tensor,form,noise\n,float16,0.001\n{first},float16,0.002\n".encode()

    whole = ("layers.csv", "tensors.csv", "times.csv", "noise.csv", "network.yaml")

    def read(content: bytes) -> None:
        name, _, below = content.partition(b"\n")
        for one in TABLES:
            (folder / one).unlink(missing_ok=True)
            if one in whole:
                (folder / one).write_bytes(good[one])
        (folder / (name.decode() if name in map(str.encode, TABLES) else TABLES[0])).write_bytes(below)
        found = ds.Instance.load(folder)
        found._repr_html_()
        found.save(folder)
        ds.Instance.load(folder)

    return read, tuple(name.encode() + b"\n" + table for name, table in good.items())


def _models() -> tuple[bytes, ...]:
    """Return models with more than the small one: a subgraph, open extents, 8-bit layers, constants in all their forms."""
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    texts = (
        f"{head} open (float[n,4] x, float[n,m] t) => (float[n,k] y) {{ a = Relu(x)  y = Concat<axis=1>(a, t) }}",
        f"{head} branch (float[2] x, bool c) => (float[2] y) {{ y = If(c) "
        "<then_branch = yes () => (float[2] p) { p = Neg(x) }, else_branch = no () => (float[2] q) { q = Abs(x) }> }",
        f"{head} eight (float[1,1,4,4] x) => (float[1,1,4,4] y) <float s = {{0.1}}, uint8 z = {{3}}, float[1,1,1,1] w = {{2}}> "
        "{ q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = Conv(d, w) }",
        f"{head} made (float[2] x) => (float[2,2] y) <int64[1] two = {{2}}> "
        "{ s = Shape(x)  t = Concat<axis=0>(two, s)  e = ConstantOfShape<value = float[1] {1}>(t)  y = Mul(e, x) }",
    )
    return tuple(onnx.parser.parse_model(text).SerializeToString() for text in texts)


def _message(content: bytes) -> None:
    """Read bytes as a stage does, and as a client does."""
    refused = []
    for read in (Infer.request, Infer.response):
        try:
            _infer(content, read)
        except ds.DnnSplitError as error:
            refused.append(error)
    if len(refused) == 2:
        raise refused[0]


def _infer(content: bytes, read: Callable[[bytes], Infer]) -> None:
    """Read bytes as a request or a response."""
    message = read(content)
    if message.problem:
        raise ds.DeployError(message.problem)
    head = message.head
    if "links" in head.parameters:
        links_of(head)
    if TRACE in head.parameters:
        Records.read(head)
    entries = head.inputs if read is Infer.request else head.outputs
    for tensor in contents_of(entries, message.contents, EXPECTED, ("ignored",), {"x": "zstd-3", "n": ""}, ("x",)).values():
        assert isinstance(tensor, np.ndarray) or tensor.size_bytes <= len(content), "more bytes than came"
    told = []
    for one in (head, read(message.encode()).head):
        one.DiscardUnknownFields()  # such as what fills up to where a tensor begins
        told.append(one.SerializeToString(deterministic=True))
    assert told[0] == told[1], "a message that is written is read as another"


def _messages() -> tuple[bytes, ...]:
    """Return messages of all kinds: raw and typed contents, forms, links, records."""
    x, text = np.zeros((1, 3, 4, 4), np.float32), json.dumps({"edge": [0.005, 1e-7]})
    raw = infer_request("small", "1", {"x": x, "n": np.array(3), "ignored": x})
    coded = infer_request("small", "2", {"x": Elements([b"abc"], "zstd-3", (1, 3, 4, 4)), "n": Elements([b"image", b""])})
    typed = service_pb2.ModelInferRequest(model_name="small", id="3")
    typed.inputs.add(name="n", datatype="INT64", shape=[]).contents.int64_contents.append(3)
    typed.inputs.add(name="out", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.0, 2.0])
    answer = service_pb2.ModelInferResponse(model_name="small", id="4")
    Records((PartRecord("a", "edge", 0.1, 0.1, 0.0),), (TransferRecord("x", "device", "edge", 10, 0.1, 0.1),)).write(answer)
    answered = Infer(answer, describe(answer.outputs, {"out": np.zeros((1, 5), np.float32)}))
    links = infer_request("dnnsplit/links", parameters={"links": text, "priority": 1.0})
    return tuple(message.encode() for message in (raw, coded, Infer(typed), answered, links))
