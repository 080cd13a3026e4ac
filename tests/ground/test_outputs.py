"""That a path cannot be written is told before the work, in one line; a result that finds no room goes elsewhere."""

import errno
import os
import re
import tempfile
from pathlib import Path

import pytest

import dnnsplit as ds
from dnnsplit.ground.files import write_text
from dnnsplit.ground.outputs import check_output, keep, writing


def paths(folder):
    """What cannot be written, why, and whether a folder is wanted."""
    (folder / "file").write_text("kept")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("nowhere")
    file = re.escape(f"{folder}/file is a file, not a folder")
    return [
        (folder / "folder", "it is a folder; give the path of a file", False),
        ("", "it is a folder", False),
        (folder / "file" / "x", file, False),
        (folder / "file" / "y" / "x", file, False),
        (folder / "file", "it is a file, not a folder", True),
        (folder / "file" / "x", file, True),
        (folder / ("n" * 256), "File name too long", False),
        (folder / ("n" * 256) / "x", "File name too long", False),
        (folder.joinpath(*["n" * 200] * 25), "File name too long", True),
        (folder / "a\0b", "a path has no NUL", False),
        (folder / "link" / "x", "link is a link that leads nowhere", False),
        (Path("/proc/none"), "No such file", False),
        ("/proc/self/none/x", "No such file", True),
    ]


def test_what_cannot_be_written_is_told_in_one_line_before_and_after(tmp_path):
    for path, reason, folder in paths(tmp_path):
        tried = [lambda: check_output(path, folder)]  # noqa: B023
        tried += [] if folder else [lambda: write_text(path, "x")]  # noqa: B023
        for action in tried:
            with pytest.raises(ds.OutputError, match=f" cannot be written: .*{reason}") as told:
                action()
            assert len(str(told.value).splitlines()) == 1
            assert isinstance(told.value, OSError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]
    assert (tmp_path / "file").read_text() == "kept"
    assert not list((tmp_path / "folder").iterdir())


def test_a_check_leaves_nothing_and_changes_nothing(tmp_path):
    write_text(tmp_path / "old.csv", "old")
    for path, folder in (("old.csv", False), ("new.csv", False), ("a/b/c.csv", False), ("a/b", True), (".", True)):
        check_output(tmp_path / path, folder)
        assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]
    assert (tmp_path / "old.csv").read_text() == "old"


def test_a_name_as_long_as_they_get_is_written(tmp_path):
    """In bytes, of which these letters have three."""
    path = tmp_path / ("層" * 85)
    check_output(path)
    assert write_text(path, "x").read_text() == "x"
    with pytest.raises(ds.OutputError, match="File name too long"):
        check_output(tmp_path / ("層" * 86))


def test_devices_and_pipes_are_written_through_and_stay(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_output(pipe)
    write_text(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "null").symlink_to("/dev/null")
    for path in ("/dev/null", tmp_path / "null"):
        check_output(path)
        write_text(path, "gone")
        assert Path(path).is_char_device()
    with (tmp_path / "out").open("w") as file:
        number = Path(f"/proc/self/fd/{file.fileno()}")
        write_text(number, "x")
    assert (tmp_path / "out").read_text() == "x"


def test_a_full_disk_is_told_and_keeps_its_number():
    with pytest.raises(ds.OutputError, match=r"^/dev/full cannot be written: No space left on device$") as told:
        write_text("/dev/full", "x")
    assert told.value.errno == errno.ENOSPC


def test_a_disk_that_is_full_already_is_found_out_before(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    for folder in (True, False):
        with pytest.raises(ds.OutputError, match="No space left"):
            check_output(tmp_path / "new" / "x", folder)
    assert not list(tmp_path.iterdir())


def test_a_result_is_kept_where_there_is_room(tmp_path, monkeypatch):
    here, scratch = tmp_path / "here", tmp_path / "scratch"
    for folder in (here, scratch):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    full = []

    def save(path):
        if path.parent in full:
            with writing(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_text(path, "result")

    for place in (here, scratch):
        with pytest.raises(ds.OutputError, match=r"^/dev/full/x.csv cannot be .*; the result is kept in (.*)$") as told:
            keep(Path("/dev/full/x.csv"), save)
        (kept,) = place.iterdir()
        assert str(told.value).endswith(str(kept))
        assert (kept.suffix, kept.read_text()) == (".csv", "result")
        full.append(place)
    with pytest.raises(ds.OutputError, match=r"^/dev/full/x.csv cannot be written: /dev/full is a file, not a folder$"):
        keep(Path("/dev/full/x.csv"), save)
    keep(tmp_path / "there" / "x.csv", save)
    assert (tmp_path / "there" / "x.csv").read_text() == "result"
