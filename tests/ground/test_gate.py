"""The gate: what is no plain file is never opened, and content is refused in our words before a library sees it."""

import io
import json
import os
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

import dnnsplit as ds
from dnnsplit.ground import gate
from dnnsplit.ground.arrays import read_arrays
from dnnsplit.ground.gate import Kind, is_there, opened, read_bytes, read_text
from dnnsplit.ground.json_file import read_json
from dnnsplit.ground.paths import exists, is_file, is_folder, real
from dnnsplit.ground.yaml_file import read_texts, read_values
from tests.helpers import bad_files

KIND = Kind("is no test file", ds.NetworkError, 1000, "the test file", way_out="write another")


def refused(read, path, *says, kind=KIND):
    with pytest.raises(ds.NetworkError) as error:
        read(path, kind)
    for part in says:
        assert part in str(error.value), str(error.value)
    return str(error.value)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    says = {"missing": "there is no such file", "below a file": "through another file", "a name too long": "its name is longer",
            "a name with NUL": "NUL", "folder": "it is a folder; give the test file itself", "FIFO": "it is a FIFO",
            "link to a FIFO": "it is a FIFO", "link to itself": "leads to itself", "socket": "it is a socket",
            "/dev/zero": "it is a device", "/dev/null": "it is a device", "/dev/tty": "it is a device"}  # fmt: skip
    for kind, path in bad_files.places(tmp_path):
        message = refused(read_bytes, path, says[kind], "is no test file", "write another")
        assert "Errno" not in message
    for path in (5, None, b"file", ""):
        refused(read_bytes, path, "is no path of the test file")


def test_the_size_is_asked_before_a_file_is_read(tmp_path):
    path = bad_files.written(tmp_path / "file", b"x" * 1000)
    assert read_bytes(path, KIND) == b"x" * 1000
    with opened(str(path), KIND) as (file, size):
        assert size == 1000
        assert file.read(1) == b"x"
    refused(read_bytes, bad_files.written(path, b"x" * 1001), "it holds 1.001 kB, and at most 1 kB are taken")
    refused(read_bytes, bad_files.written(path, b""), "it is empty")
    with path.open("wb") as file:
        file.truncate(2**42)
    refused(read_bytes, path, "it holds 4.398 TB")


def test_another_encoding_is_told_as_such(tmp_path):
    for content, says in {
        b"\xef\xbb\xbfa": "a byte order mark", "a".encode("utf-16"): "the mark of UTF-16", b"\xfe\xff\0a": "the mark of UTF-16",
        "a".encode("utf-32"): "the mark of UTF-32", b"a\nb\xe9\n": "line 2 is no UTF-8 (the byte 0xe9)",
        b"a\n\n\0": "line 3 has a NUL character",
    }.items():  # fmt: skip
        refused(read_text, bad_files.written(tmp_path / "file", content), says)
    assert read_text(bad_files.written(tmp_path / "file", "é\u2028😀".encode()), KIND) == "é\u2028😀"


def test_json_is_refused_by_what_is_wrong_with_it(tmp_path):
    wide = Kind("is no test file", ds.NetworkError, 10**7)
    says = {"a key twice": "'schema' is given twice", "an inner key twice": "'b' is given twice", "NaN": "it has NaN",
            "Infinity": "-Infinity", "beyond floats": "'1e999' is beyond", "10^400": "has 401 digits", "10^5000": "5001 digits",
            "deep lists": "more than 64 deep", "deep objects": "more than 64 deep", "deep, not closed": "more than 64 deep",
            "nested 900 times": "more than 64 deep", "lone surrogate": "half of a character",
            "trailing comma": "line 1, column 14"}  # fmt: skip
    told = {kind.removeprefix("JSON, "): path for kind, path in bad_files.json_texts(tmp_path)}
    for kind, text in says.items():
        refused(read_json, told[kind], text, kind=wide)
    nested = "[" * 60 + '"[[[[[[[[\\"{{{{{{"' + "]" * 60
    assert read_json(bad_files.written(tmp_path / "deep", nested.encode()), wide)
    assert read_json(bad_files.written(tmp_path / "n", b"[NaN, 2e5, 12]"), KIND, finite=False)[1:] == [2e5, 12]


def test_aliases_are_counted_before_they_are_written_out(tmp_path):
    wide = Kind("is no test file", ds.NetworkError, 10**7)
    says = {"laughs": "it stands for more than 1000000 entries", "merges": "it stands for more than", "itself": "inside of what",
            "a key of itself": "inside of what", "deep lists": "more than 32 deep", "deep blocks": "more than 32 deep",
            "key of a list": "a key must be a text", "a key twice": "on lines 1 and 2", "tag int": "tag:yaml.org,2002:int",
            "10^5000": "has 5001 digits", "beyond floats": "'1e999' is beyond", "unknown alias": "line 1, column 10",
            "control character": "line 1 has the control character '\\x01'"}  # fmt: skip
    for kind, path in bad_files.yaml_texts(tmp_path):
        if (kind := kind.removeprefix("YAML, ")) in says:
            refused(read_values, path, says[kind], kind=wide)
    text = "base: &b {x: 1}\nmore: [*b, *b, {<<: *b, y: 2}]\n"
    path = bad_files.written(tmp_path / "good.yaml", text.encode())
    assert read_values(path)["more"] == [{"x": 1}, {"x": 1}, {"x": 1, "y": 2}]
    assert read_texts(path)["more"][0] == {"x": "1"}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|b1", "|u1", "<U3", "<f2"])
def test_any_array_of_numbers_or_texts_comes_back(tmp_path, version, shape, dtype):
    wide = Kind("is no test file", ds.NetworkError, 10**7)
    array = np.ones(shape, dtype)
    for one in (array, np.asfortranarray(array)):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array(file, one, (version, 0))
        np.testing.assert_array_equal(read_arrays(tmp_path / "a.npy", wide), array)
    np.savez(tmp_path / "a.npz", one=array, two=np.arange(5))
    np.savez_compressed(tmp_path / "b.npz", one=array, two=np.arange(5))
    for name in ("a.npz", "b.npz"):
        found = read_arrays(tmp_path / name, wide, ("two",))
        assert sorted(found) == ["one", "two"]
        np.testing.assert_array_equal(found["one"], array)
    refused(lambda path, kind: read_arrays(path, kind, ("three",)), tmp_path / "a.npz", "no array 'three'", kind=wide)


def test_a_damaged_archive_is_refused_wherever_it_is_damaged(tmp_path):
    wide = Kind("is no test file", ds.NetworkError, 10**6)
    np.savez_compressed(tmp_path / "a.npz", one=np.arange(20), two=np.ones(3))
    content = (tmp_path / "a.npz").read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x55
        bad_files.written(tmp_path / "b.npz", bytes(changed))
        try:
            read_arrays(tmp_path / "b.npz", wide)
        except ds.NetworkError:
            continue


def test_arrays_are_not_unpacked_beyond_what_is_taken(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(10**6))
    refused(
        read_arrays, tmp_path / "a.npz", "its arrays hold 1 MB, and at most 100 kB", kind=Kind("is bad", ds.NetworkError, 10**5)
    )


def test_whether_something_is_there(tmp_path):
    assert not is_there(tmp_path / "no", KIND)
    assert is_there(tmp_path, KIND)
    refused(is_there, tmp_path / ("n" * 300), "its name is longer")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "far").symlink_to("n" * 300)
    for name in ("n" * 300, "loop", "loop/below", "far", "file/below", "a\0b", "none"):
        assert not any(there(tmp_path / name) for there in (exists, is_file, is_folder)), name
        assert "\0" in name or real(tmp_path / name).is_absolute()
    assert not is_file(tmp_path)
    assert is_file(bad_files.written(tmp_path / "file", b""))
    assert exists(tmp_path)
    assert is_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="who is root may read anything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = bad_files.written(tmp_path / "file", b"x")
    path.chmod(0)
    refused(read_bytes, path, "it may not be read")


def test_a_plan_is_held_against_itself_the_graph_and_the_network(tmp_path):
    graph, network, times, noise = ds.examples.tiny()
    ds.split(graph, network, times, noise, max_noise=0.02).save(tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    assert ds.Plan.load(tmp_path / "plan.json", graph, network).quantized == ("conv1",)

    def wrong(*says, **changes):
        (tmp_path / "changed.json").write_text(json.dumps(document | changes))
        with pytest.raises(ds.DnnSplitError) as error:
            ds.Plan.load(tmp_path / "changed.json", graph, network)
        for part in says:
            assert part in str(error.value), str(error.value)

    cost, places = document["cost"], document["assignment"]
    wrong("layers on 'edgy', of which it has no cost (did you mean 'edge'?)", assignment=places | {"fc": "edgy"})
    wrong("layer 'fcc' is not in the model (did you mean 'fc'?)", assignment=places | {"fcc": "edge"})
    wrong("layer 'fc' has no server", assignment={name: server for name, server in places.items() if name != "fc"})
    wrong("it quantizes 'conv9', which it does not place", quantized=["conv9"])
    wrong("layer 'pool' (MaxPool) cannot run in int8", quantized=["pool"])
    wrong("its source is 'edge', and that of the network is 'device'", source="edge")
    wrong("latency_s is -1.0", "energy_j", cost=cost | {"latency_s": -1.0, "energy_j": -0.5})
    wrong("'cloud' is no server of the network", cost=cost | {"compute_s": {**cost["compute_s"], "cloud": 0.0}})
    sent = {"tensor": "zzz", "source": "device", "target": "nowhere", "size_bytes": -5.0, "seconds": 0.1}
    wrong("tensor 'zzz'", "sends over 'nowhere'", "size_bytes of 'zzz' is -5.0", cost=cost | {"transfers": [sent]})
    wrong("gap is -1.0; it must be", "error_s is -0.1", gap=-1.0, error_s=-0.1)
    wrong("status is 'optimol' (did you mean 'optimal'?)", "noise_kind is 'guessed'", status="optimol", noise_kind="guessed")
    wrong("the reference", reference={"latency_s": "fast"})
    wrong("pixels of 'x'", pixels={"x": {"layout": 3}})


def test_a_file_takes_no_more_memory_than_it_is_large(tmp_path, monkeypatch):
    path, asked = tmp_path / "a", []
    path.write_bytes(b"1234")

    class File(io.BytesIO):
        def read(self, size=-1):
            asked.append(size)
            if size > 100:
                raise MemoryError
            return super().read(size)

    @contextmanager
    def opened(*_):
        yield File(b"1234" if len(asked) < 1 else b"123456"), 4

    monkeypatch.setattr(gate, "opened", opened)
    kind = Kind("is not readable", ds.DnnSplitError, 2**40)
    assert gate.read_bytes(path, kind) == b"1234"
    assert asked == [5]
    with pytest.raises(ds.DnnSplitError, match="there is no memory left"):  # it grows just then
        gate.read_bytes(path, kind)
