"""Files that no loader may take: of a wrong kind, empty, huge, in another encoding, nested, repeated, or full of odd values.

Each function yields (kind, path) of files that it makes in a folder, so that tests and benchmarks can throw them at loaders.
"""

import copy
import io
import json
import os
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

DEEP = 100_000
ODD_VALUES = (None, True, -1, 0.5, 10**400, 2**70, "", "x", "\x00", "y" * 5000, [], [[]], {}, {"a": 1}, [1, "a", None], {"": {}})


def places(folder):
    """Yield what is no file that can be read to its end."""
    yield "missing", folder / "missing"
    yield "below a file", written(folder / "file", b"1") / "below"
    yield "a name too long", folder / ("n" * 300)
    yield "a name with NUL", folder / "a\0b"
    (folder / "folder").mkdir()
    yield "folder", folder / "folder"
    if not hasattr(os, "mkfifo"):
        return
    os.mkfifo(folder / "fifo")
    yield "FIFO", folder / "fifo"
    (folder / "loop").symlink_to(folder / "loop")
    yield "link to itself", folder / "loop"
    (folder / "link").symlink_to(folder / "fifo")
    yield "link to a FIFO", folder / "link"
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket is short
        try:
            one.bind("socket")
        finally:
            os.chdir(here)
    yield "socket", folder / "socket"
    for device in map(Path, ("/dev/zero", "/dev/null", "/dev/tty")):
        if device.exists():
            yield str(device), device


def contents(folder):
    """Yield files whose bytes are of no format."""
    rng = np.random.default_rng(0)
    for kind, content in {
        "empty": b"",
        "blanks": b" \n\n",
        "NUL": b"\0" * 100,
        "random": rng.bytes(5000),
        "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
        "a byte order mark alone": b"\xef\xbb\xbf",
        "UTF-16": '{"a": 1}'.encode("utf-16"),
        "UTF-16 of Java": b"\xfe\xff" + '{"a": 1}'.encode("utf-16-be"),
        "UTF-32": '{"a": 1}'.encode("utf-32"),
        "latin-1": '{"café": 1}'.encode("latin-1"),
        "a surrogate": b'{"a": "\xed\xa0\x80"}',
        "cut UTF-8": b'{"a": "\xc3',
        "PNG": b"\x89PNG\r\n\x1a\n" + rng.bytes(100),
        "zip": zipped({"a.txt": b"hello"}),
        "cut zip": zipped({"a.npy": b"hello"})[:40],
        "one word": b"word",
        "one number": b"5",
        "one quote": b'"',
        "null": b"null",
        "control characters": bytes(range(32)) * 10,
    }.items():
        yield kind, written(folder / f"content {kind}", content)
    with (folder / "sparse").open("wb") as file:
        file.truncate(2**42)  # it takes no room
    yield "4 TiB", folder / "sparse"


def json_texts(folder):
    """Yield what is no JSON, or JSON that no reader should take."""
    for kind, text in {
        "cut": '{"schema": 1, "a": [1, 2',
        "two documents": "{} {}",
        "deep lists": "[" * DEEP + "]" * DEEP,
        "deep, not closed": "[" * DEEP,
        "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
        "nested 900 times": '{"schema": 1, "a": ' + "[" * 900 + "]" * 900 + "}",
        "a key twice": '{"schema": 1, "schema": 1}',
        "an inner key twice": '{"schema": 1, "a": [{"b": 1, "b": 2}]}',
        "NaN": '{"schema": 1, "a": NaN}',
        "Infinity": '{"schema": 1, "a": -Infinity}',
        "beyond floats": '{"schema": 1, "a": 1e999}',
        "10^400": '{"schema": 1, "a": 1' + "0" * 400 + "}",
        "10^5000": '{"schema": 1, "a": 1' + "0" * 5000 + "}",
        "lone surrogate": '{"schema": 1, "\\ud800": "\\udfff"}',
        "trailing comma": '{"schema": 1,}',
        "comment": '{"schema": 1} // no',
        "list": "[1, 2, 3]",
        "text": '"schema"',
        "unclosed strings": '"\\"' * 50_000,
        "control character in a text": '{"a": "\x01"}',
    }.items():
        yield f"JSON, {kind}", written(folder / f"{kind}.json", text.encode())


def yaml_texts(folder):
    """Yield what is no YAML, or YAML that no reader should take."""
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    merges = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10))
    for kind, text in {
        "laughs": laughs + "source: d\nservers: *a9\nruns: *a9\n",
        "merges": merges + "runs: [*a9]\nparameters: *a9\n",
        "itself": "servers: &a [*a]\nruns: *a\n",
        "a key of itself": "&a {? *a : 1}",
        "unknown alias": "servers: *nobody",
        "deep lists": "[" * DEEP + "]" * DEEP,
        "deep blocks": "".join(" " * i + "a:\n" for i in range(2000)),
        "deep dashes": "- " * 5000 + "x",
        "key of a list": "? [a, b]\n: 1\n",
        "key of a mapping": "{{a: b}: c}",
        "a key twice": "servers: []\nservers: []\n",
        "not closed": "servers: [",
        "tab": "\tservers: 1",
        "control character": "a: \x01",
        "python object": "!!python/object/apply:os.system ['true']",
        "tag int": "runs: !!int abc\nservers: !!int ''\n",
        "tag float": "runs: !!float abc\nservers: !!float ''\n",
        "tag bool": "runs: !!bool abc\nservers: !!bool x\n",
        "tag time": "runs: !!timestamp abc\nservers: !!timestamp x\n",
        "tag binary": "runs: !!binary '='\nservers: !!binary '\u00e9'\n",
        "tag set": "!!set {a, b}",
        "tag omap": "!!omap [1]",
        "tag merge": "servers: {!!merge x: 1}",
        "two documents": "a: 1\n---\nb: 2\n",
        "directive": "%YAML 9.9\n---\na: 1\n",
        "10^5000": "parameters: {a: 1" + "0" * 5000 + "}\nservers: 1\n",
        "beyond floats": "parameters: {a: 1e999}\nruns: []\n",
        "a long text": "a" * 3_000_000,
        "many keys": "".join(f"k{i}: {i}\n" for i in range(300_000)),
    }.items():
        yield f"YAML, {kind}", written(folder / f"{kind}.yaml", text.encode())


def csv_texts(folder, good="layer,server,precision,seconds\na,s,float32,1\n"):
    """Yield what is no table, or no table of `good`'s columns."""
    head, row = good.splitlines()[:2]
    cells = row.split(",")
    column = max(range(len(cells)), key=lambda i: cells[i].replace(".", "").isdigit())  # of numbers
    texts = {
        "only a head": f"{head}\n",
        "only a comment": "# nothing",
        "a comment that is no JSON": f"# hello\n{good}",
        "a comment with a list": f"# [1, 2]\n{good}",
        "a comment with a number": f"# 5\n{good}",
        "a comment with NaN": f'# {{"a": NaN}}\n{good}',
        "a comment with a key twice": f'# {{"made": {{}}, "made": {{}}}}\n{good}',
        "a deep comment": f"# {'[' * DEEP}{']' * DEEP}\n{good}",
        "a comment with overheads of texts": f'# {{"overhead": "a", "made": "b"}}\n{good}',
        "a comment of odd tensors": f'# {{"tensors": {{"a": {{"b": "c"}}}}, "pixels": 3}}\n{good}',
        "a column twice": f"{head},{head}\n{row},{row}\n",
        "a name less": f"{head.partition(',')[2]}\n{row}\n",
        "an entry more": f"{head}\n{row},7\n{row},8\n",
        "an entry less": f"{head}\n{row.rpartition(',')[0]}\n",
        "an open quote": f'{head}\n"{row}\n',
        "NUL": f"{head}\n{row}\0\n",
        "no name": f"{head},\n{row},\n",
        "semicolons": good.replace(",", ";"),
        "other columns": "a,b\n1,2\n",
        "a row twice": f"{head}\n{row}\n{row}\n",
        "carriage returns": good.replace("\n", "\r") + "\r\r",
        "a long cell": f"{head}\n{'x' * 200_000}{row}\n",
        "many columns": ",".join(f"c{i}" for i in range(20_000)) + "\n" + ",".join("1" for _ in range(20_000)) + "\n",
    }
    for value in ("nan", "inf", "-1", "1e999", "1" + "0" * 400, "1" + "0" * 5000, "text", "", "١٢", "1_000", "0x10", "True"):
        entries = [value if i == column else cell for i, cell in enumerate(cells)]
        texts[f"{value[:9]!r} for a number"] = f"{head}\n{','.join(entries)}\n"
        texts[f"{value[:9]!r} everywhere"] = f"{head}\n{','.join([value] * len(cells))}\n"
    for i, (kind, text) in enumerate(texts.items()):
        yield f"CSV, {kind}", written(folder / f"table{i}.csv", text.encode())


def array_files(folder):
    """Yield what numpy must not be given, or fails on."""
    npy = _npy(np.ones((2, 3, 4, 4), np.float32))
    bomb = _header("<f4", (2**26 + 2**20,)) + bytes(2**28 + 2**22)  # of some hundred kB in the archive
    for kind, content in {
        "cut array": npy[:-5],
        "longer array": npy + b"12345",
        "huge shape": _header("<f4", (2**40, 2**20)) + b"1234",
        "shape beyond integers": _header("<f4", (10**400,)) + b"1234",
        "negative shape": _header("<f4", (-1, 4)) + b"1234",
        "objects": _npy(np.array([{"a": 1}], object)),
        "records": _npy(np.zeros(3, [("a", "f4")])),
        "texts": _npy(np.array(["a", "b"])),
        "times": _npy(np.array(["2020-01-01"], "M8[D]")),
        "header of code": _raw(b"__import__('os').system('true')\n"),
        "header without shape": _raw(b"{'descr': '<f4', 'fortran_order': False}\n"),
        "header of nests": _raw(b"(" * 3000 + b"\n"),
        "header of brackets": _raw(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"(" * 900 + b"\n"),
        "header not closed": _raw(b"{'descr': '<f4\n"),
        "version 9": npy[:6] + b"\x09\x00" + npy[8:],
        "magic alone": npy[:6],
        "no archive member": zipped({}),
        "member of text": zipped({"a.txt": b"hello"}),
        "member cut": zipped({"a.npy": npy[:30]}),
        "member twice": zipped({"a.npy": npy}, twice=True),
        "member of objects": zipped({"a.npy": _npy(np.array([None], object))}),
        "changed archive": zipped({"a.npy": npy}).replace(npy[-40:], b"x" * 40),
        "bomb": zipped({"a.npy": bomb}),
        "encrypted": _encrypted(zipped({"a.npy": npy})),
        "odd compression": _compressed_oddly(zipped({"a.npy": npy})),
        "journal of a list": zipped({"identity.npy": _npy(np.array("[1]")), "schemes.npy": npy, "values.npy": npy}),
        "journal of no JSON": zipped({"identity.npy": _npy(np.array("{")), "schemes.npy": npy, "values.npy": npy}),
        "deep journal": zipped({"identity.npy": _npy(np.array("[" * DEEP)), "schemes.npy": npy, "values.npy": npy}),
        "journal of numbers": zipped({"identity.npy": npy, "schemes.npy": npy, "values.npy": npy}),
        "journal without schemes": zipped({"identity.npy": _npy(np.array("{}")), "values.npy": npy}),
        "journal of scalars": zipped({f"{n}.npy": _npy(np.array("{}")) for n in ("identity", "schemes", "values")}),
    }.items():
        ending = "npz" if content[:2] == b"PK" else "npy"
        yield f"array, {kind}", written(folder / f"{kind}.{ending}", content)


def picture_files(folder):
    """Yield what Pillow must not be given, or fails on, in the formats that people have."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    for form in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        good = _saved(image, form)
        middle = len(good) // 2
        yield f"{form}, cut", written(folder / f"cut.{form.lower()}", good[:middle])
        yield f"{form}, head alone", written(folder / f"head.{form.lower()}", good[:12])
        changed = good[:8] + b"\xff" * 24 + good[32:]
        yield f"{form}, changed head", written(folder / f"changed.{form.lower()}", changed)
        yield f"{form}, torn", written(folder / f"torn.{form.lower()}", good[: middle - 30] + good[middle:])
        yield f"{form} under another name", written(folder / f"{form.lower()}.txt", good)
    large = zlib.compress(bytes(2**20))
    yield "PNG, 2^31 rows", written(folder / "rows.png", _png(2**31 - 1, 2**31 - 1, large))
    yield "PNG, no rows", written(folder / "none.png", _png(0, 0, large))
    yield "PNG, fewer rows than told", written(folder / "fewer.png", _png(10_000, 10_000, large))
    yield "floats", written(folder / "floats.tiff", _saved(Image.new("F", (4, 4), 0.5), "TIFF"))
    yield "steps beyond 16 bits", written(folder / "steps.tiff", _saved(Image.new("I", (4, 4), 2**20), "TIFF"))
    yield "EPS", written(folder / "page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n")
    yield "SVG", written(folder / "drawn.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>')


def _saved(image, form):
    image.save(file := io.BytesIO(), form)
    return file.getvalue()


def _png(width, height, content):
    """Return a PNG of 8-bit grey that tells a size, whatever it holds."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def onnx_files(folder):
    """Yield what is no model, or a model that cannot be used."""
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, [1, 4]), value("y", TensorProto.FLOAT, [1, 4])
    relu = helper.make_node("Relu", ["x"], ["y"])

    def model(nodes, inputs=(x,), outputs=(y,), weights=(), **more):
        graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
        return helper.make_model(graph, **{"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8, **more})

    def tensor(name="w", kind=TensorProto.FLOAT, dims=(4,), raw=b"", **more):
        return TensorProto(name=name, data_type=kind, dims=dims, raw_data=raw, **more)

    def typed(name, kind, dims=(1, 4)):
        return value(name, kind, dims)

    def add(weight):
        return model([helper.make_node("Add", ["x", "w"], ["y"])], weights=[weight])

    def outside(location):
        weight = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        for key, entry in location.items():
            weight.external_data.add(key=key, value=entry)
        return add(weight)

    deep = helper.make_graph([helper.make_node("Identity", ["x"], ["d"])], "b", [], [value("d", TensorProto.FLOAT, [1, 4])])
    for i in range(25):
        node = helper.make_node("If", ["c"], [f"d{i}"], then_branch=deep)
        deep = helper.make_graph([node], "b", [], [value(f"d{i}", TensorProto.FLOAT, [1, 4])])
    protos = {
        "no nodes": model([]),
        "no outputs": model([relu], outputs=()),
        "no opset": onnx.ModelProto(graph=model([relu]).graph, ir_version=8),
        "unknown operator": model([helper.make_node("Nonsense", ["x"], ["y"])]),
        "unknown domain": model([helper.make_node("Relu", ["x"], ["y"], domain="nobody")]),
        "opset of the future": model([relu], opset_imports=[helper.make_opsetid("", 9999)]),
        "negative opset": model([relu], opset_imports=[helper.make_opsetid("", -3)]),
        "ir version of the future": model([relu], ir_version=9999),
        "cycle": model([helper.make_node("Add", ["x", "y"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]),
        "nothing makes it": model([helper.make_node("Relu", ["nobody"], ["y"])]),
        "output of nobody": model([relu], outputs=(value("z", TensorProto.FLOAT, [1, 4]),)),
        "two makers": model([relu, relu]),
        "negative extent": model([relu], inputs=(value("x", TensorProto.FLOAT, [-5, 4]),), outputs=(value("y", 1, None),)),
        "huge input": model([relu], [typed("x", 1, [2**40, 4])], [typed("y", 1, [2**40, 4])]),
        "huge product": model([relu], [typed("x", 1, [2**40, 2**40])], [typed("y", 1, [2**40, 2**40])]),
        "extent of 2^63-1": model([relu], [typed("x", 1, [2**63 - 1, 4])], [typed("y", 1, [2**63 - 1, 4])]),
        "unknown element type": model([relu], [typed("x", 999)]),
        "negative element type": model([relu], [typed("x", -1)]),
        "input of texts": model([helper.make_node("Identity", ["x"], ["y"])], [typed("x", 8)], [typed("y", 8)]),
        "input without a type": model([relu], [onnx.ValueInfoProto(name="x")]),
        "inputs of one name": model([relu], [x, x]),
        "input without a name": model([relu], [typed("", 1), x]),
        "weight without content": add(tensor()),
        "weight too short": add(tensor(raw=b"1234")),
        "weight too long": add(tensor(raw=bytes(1000))),
        "huge weight without content": add(tensor(dims=[2**40, 2**20])),
        "negative weight": add(tensor(dims=[-4], raw=bytes(16))),
        "weight of no type": add(tensor(kind=0, raw=bytes(16))),
        "weight of unknown type": add(tensor(kind=777, raw=bytes(16))),
        "huge fill": model(
            [
                helper.make_node("ConstantOfShape", ["s"], ["c"]),
                helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
                helper.make_node("Add", ["x", "r"], ["y"]),
            ],
            weights=[helper.make_tensor("s", TensorProto.INT64, [1], [2**35])],
        ),
        "huge expansion": model(
            [helper.make_node("Expand", ["x", "s"], ["y"])],
            outputs=[typed("y", 1, [2**20, 2**20, 4])],
            weights=[helper.make_tensor("s", TensorProto.INT64, [3], [2**20, 2**20, 4])],
        ),
        "huge sparse weight": _sparse(model([helper.make_node("Add", ["x", "w"], ["y"])]), [2**40], [0]),
        "sparse weight outside": _sparse(model([helper.make_node("Add", ["x", "w"], ["y"])]), [4], [2**50]),
        "sparse weight of negative places": _sparse(model([helper.make_node("Add", ["x", "w"], ["y"])]), [4], [-99]),
        "constant without a value": model([helper.make_node("Constant", [], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]),
        "constant without an output": model([helper.make_node("Constant", [], [], value_float=1.0), relu]),
        "external, no file": outside({"location": "nobody"}),
        "external, no location": outside({}),
        "external, outside": outside({"location": "../../../etc/passwd"}),
        "external, absolute": outside({"location": "/etc/passwd"}),
        "external, a folder": outside({"location": "."}),
        "external, NUL": outside({"location": "a\0b"}),
        "external, a FIFO": outside({"location": "weights.fifo"}),
        "external, a device": outside({"location": "weights.device"}),
        "external, offset of text": outside({"location": "weights", "offset": "abc", "length": "xyz"}),
        "external, negative offset": outside({"location": "weights", "offset": "-8", "length": "-4"}),
        "external, beyond its end": outside({"location": "weights", "offset": "1" + "0" * 30, "length": "16"}),
        "external, huge length": outside({"location": "weights", "length": "1" + "0" * 12}),
        "external, length of 10^5000": outside({"location": "weights", "length": "1" + "0" * 5000}),
        "attribute of a wrong type": model([helper.make_node("Softmax", ["x"], ["y"], axis="text")]),
        "axis out of range": model([helper.make_node("Softmax", ["x"], ["y"], axis=99)]),
        "bodies nested 25 times": model([*deep.node], [x, value("c", TensorProto.BOOL, [])], [value("d24", 1, [1, 4])]),
        "node without outputs": model([helper.make_node("Relu", ["x"], []), relu]),
        "nameless outputs": model([helper.make_node("Relu", ["x"], [""]), relu]),
    }
    written(folder / "weights", bytes(16))
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "weights.fifo")
        (folder / "weights.device").symlink_to("/dev/zero")
    for i, (kind, proto) in enumerate(protos.items()):
        yield f"ONNX, {kind}", written(folder / f"model{i}.onnx", proto.SerializeToString())
    good = model([relu]).SerializeToString()
    yield "ONNX, cut", written(folder / "cut.onnx", good[:-7])
    yield "ONNX, followed by text", written(folder / "followed.onnx", good + b"hello")
    yield "ONNX, a field of a wrong type", written(folder / "field.onnx", b"\x3a\x02\x08\x01")
    nests = b""
    for _ in range(300):
        nests = b"\x0a" + _varint(len(nests) + 2) + b"\x2a" + _varint(len(nests)) + nests if len(nests) < 10**5 else nests
    yield "ONNX, nested messages", written(folder / "nests.onnx", b"\x3a" + _varint(len(nests)) + nests)


def wrong_values(document, values=ODD_VALUES):
    """Yield (where, copy of a JSON value with one entry replaced, or left out), for every entry of it."""
    for path in _paths(document):
        for value in values:
            yield f"{'.'.join(map(str, path))} is {str(value)[:20]!r}", _replaced(document, path, value)
        changed = copy.deepcopy(document)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        yield f"{'.'.join(map(str, path))} is missing", changed
    if isinstance(document, dict):
        yield "an unknown key", {**document, "surplus": 1}


def wrong_json(folder, document, values=ODD_VALUES):
    """Yield JSON files that are a good one but for one entry."""
    for i, (kind, changed) in enumerate(wrong_values(document, values)):
        yield kind, written(folder / f"wrong{i}.json", json.dumps(changed).encode())


def written(path, content):
    """Write bytes; return the path."""
    path.write_bytes(content)
    return path


def zipped(members, twice=False):
    """Return an archive, pressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
            if twice:
                info = archive.infolist()[0]
                archive.filelist.append(info)
    return file.getvalue()


def _paths(value, path=()):
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from _paths(entry, (*path, key))


def _replaced(document, path, value):
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _raw(header):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _header(kind, shape):
    return _raw(f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode())


def _encrypted(archive):
    """Set the flag of encryption, in both headers of the one member."""
    content = bytearray(archive)
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _compressed_oddly(archive):
    content = bytearray(archive)
    content[8] = 99
    content[content.index(b"PK\x01\x02") + 10] = 99
    return bytes(content)


def _sparse(model, dims, places):
    values = helper.make_tensor("w", TensorProto.FLOAT, [len(places)], [1.0] * len(places))
    indices = helper.make_tensor("i", TensorProto.INT64, [len(places)], places)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, dims))
    return model


def _varint(number):
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
