"""Files are written whole or not at all."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.small_models import conv_net

import dnnsplit as ds
from dnnsplit.ground.files import plain, sha256, write_bytes, write_json, write_text
from dnnsplit.sweep.jobs import jobs_of


def test_bytes_are_written_and_the_path_comes_back(tmp_path):
    path = write_bytes(str(tmp_path / "a.bin"), b"\x00\xff")
    assert isinstance(path, Path)
    assert path.read_bytes() == b"\x00\xff"


def test_missing_folders_are_made(tmp_path):
    assert write_text(tmp_path / "a" / "b" / "c.txt", "x").read_text() == "x"


def test_text_is_utf8_with_plain_newlines(tmp_path):
    assert write_text(tmp_path / "a.txt", "5 µs\n").read_bytes() == b"5 \xc2\xb5s\n"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("disk full"), MemoryError])
@pytest.mark.parametrize("step", ["replace"])
def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, stop, step):
    path = write_text(tmp_path / "a.txt", "old")

    def broken(*_, **__):
        raise stop

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(stop if isinstance(stop, type) else type(stop)):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_value_without_json_form_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError, match="complex has no JSON form"):
        write_json(path, {"a": 1j})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = write_text(tmp_path / "a.txt", "x")
        assert os.umask(umask) == umask  # left as it was found
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_json_of_numpy_tuples_sets_and_paths(tmp_path):
    value = {
        "i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "a": np.arange(4).reshape(2, 2),
        "t": (1, 2), "s": {"b", "a"}, "p": Path("a") / "b",
    }  # fmt: skip
    path = write_json(tmp_path / "a.json", value)
    assert json.loads(path.read_text()) == {
        "i": 3, "f": 0.5, "b": True, "a": [[0, 1], [2, 3]], "t": [1, 2], "s": ["a", "b"], "p": "a/b",
    }  # fmt: skip
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), np.array([np.inf])])
def test_json_refuses_what_is_not_finite(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert not list(tmp_path.iterdir())


def test_plain_names_the_type_it_cannot_write():
    with pytest.raises(TypeError, match="object has no JSON form"):
        plain(object())


def test_sha256_of_bytes_text_and_file_agree(tmp_path):
    expected = hashlib.sha256("µ".encode()).hexdigest()
    path = write_text(tmp_path / "a.txt", "µ")
    assert sha256("µ") == sha256("µ".encode()) == sha256(path) == expected
    assert sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_writing_never_changes_the_mode_of_files_beside_it(tmp_path, umask):
    code = """
import os, stat, sys, threading
from dnnsplit.ground.files import write_bytes
os.umask(int(sys.argv[2]))
folder, wrong, ended = sys.argv[1], [], threading.Event()
def write():
    while not ended.is_set():
        write_bytes(folder + "/a", b"x")
thread = threading.Thread(target=write)
thread.start()
for n in range(2000):
    with open(f"{folder}/b{n}", "w"):
        pass
    wrong += [n] * (stat.S_IMODE(os.stat(f"{folder}/b{n}").st_mode) != 0o666 & ~int(sys.argv[2]))
ended.set()
thread.join()
print(len(wrong), oct(stat.S_IMODE(os.stat(folder + "/a").st_mode)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(umask)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", oct(0o666 & ~umask)]


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "elsewhere").read_text() == "untouched"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("large", [False, True])
def test_cut_writes_through_no_symbolic_link(tmp_path, monkeypatch, large):
    path = conv_net(tmp_path / "net.onnx")
    monkeypatch.setattr("dnnsplit.graph.external_data.LARGE", 1 if large else 2**40)
    graph = ds.load(path)
    times = pd.DataFrame({"layer": graph.layer_names, "server": "device", "precision": "float32", "seconds": 1.0})
    plan = ds.split(graph, ds.Network([ds.Server("device")]), ds.LayerTimes(times))
    first = ds.cut(path, plan, tmp_path / "first")
    files = [file.relative_to(first.folder) for file in first.folder.rglob("*") if file.is_file()]
    outside = tmp_path / "outside"
    outside.mkdir()
    for i, name in enumerate([*files, Path("part00"), Path("part00/1"), Path("part00/1/model.onnx")]):
        out = tmp_path / f"out{i}"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / "victim").write_text("untouched")
        is_folder = (first.folder / name).is_dir()
        (out / name).symlink_to(outside if is_folder else outside / "victim")
        ds.cut(path, plan, out)
        assert (outside / "victim").read_text() == "untouched"
        assert sorted(p.name for p in outside.iterdir()) == ["victim"]


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "..", ".hidden", "a\\b", "x" * 250, "a\nb"])
def test_the_name_of_a_run_cannot_leave_the_folder(tmp_path, name):
    (tmp_path / "n.ipynb").write_text("{}")
    document = {"runs": [{"notebook": "n.ipynb", "name": name}]}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ds.OptionError, match="is no file name"):
        jobs_of(tmp_path / "all.yaml", {}, {}, tmp_path / "out")


def test_half_of_a_character_is_refused(tmp_path):
    for path, text in ((tmp_path / "a.txt", "name \ud800"), (tmp_path / "\ud800.txt", "name")):
        with pytest.raises(ds.OutputError, match=r"cannot be written: .*ud800' ends in half of a character"):
            write_text(path, text)
    assert not [*tmp_path.iterdir()]
