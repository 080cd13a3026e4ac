"""Files by their hash: resumed, checked, bounded."""

import errno
from pathlib import Path

import pytest

from dnnsplit.agents import pool as module
from dnnsplit.agents.pool import NoRoomError, Pool
from dnnsplit.ground.errors import DeployError
from dnnsplit.ground.files import sha256

ONE, OTHER = b"a" * 1000, b"b" * 1000


def pushed(pool, content, step=300):
    digest = sha256(content)
    for offset in range(max(pool.held(digest), 0), len(content), step):
        held = pool.put(digest, len(content), offset, content[offset : offset + step])
    return held


def test_a_push_goes_on_where_it_was_broken_off(tmp_path):
    pool, digest = Pool(tmp_path, 1e6), sha256(ONE)
    assert pool.held(digest) == 0
    assert pool.put(digest, 1000, 0, ONE[:300]) == 300
    pool = Pool(tmp_path, 1e6)  # another process
    assert pool.held(digest) == 300
    assert pool.put(digest, 1000, 300, ONE[300:]) == -1
    assert pool.path(digest).read_bytes() == ONE
    assert pool.put(digest, 1000, 0, b"x") == -1  # it is there


def test_what_does_not_follow_on_or_has_another_hash_is_refused(tmp_path):
    pool, digest = Pool(tmp_path, 1e6), sha256(ONE)
    with pytest.raises(DeployError, match="does not follow on the 0 B that are here"):
        pool.put(digest, 1000, 5, b"x")
    with pytest.raises(DeployError, match="does not follow on"):
        pool.put(digest, 1000, 0, b"x" * 1001)
    with pytest.raises(DeployError, match="has another hash; it begins anew"):
        pool.put(digest, 1000, 0, OTHER)
    assert pool.held(digest) == 0
    for name in ("../" + digest, digest[:-1], digest.upper(), "kept.json"):
        with pytest.raises(DeployError, match="no SHA-256 in hex"):
            pool.held(name)
    with pytest.raises(DeployError, match="push it first"):
        pool.path(digest)


def test_what_nobody_keeps_makes_room_the_longest_unused_first(tmp_path):
    import os

    pool = Pool(tmp_path, 2500)
    pushed(pool, ONE)
    pushed(pool, OTHER)
    os.utime(tmp_path / sha256(OTHER), (1, 1))
    third = b"c" * 1000
    assert pushed(pool, third) == -1
    assert pool.held(sha256(OTHER)) == 0
    assert pool.held(sha256(ONE)) == -1
    pool.keep("a/model", [sha256(ONE)])
    pool.keep("b/model", [sha256(third)])
    with pytest.raises(
        NoRoomError, match=r"1 kB do not fit: 2 kB of the 2.5 kB that files may hold here are in use; give more with --disk"
    ):
        pushed(pool, OTHER)
    pool.release("b")
    assert pushed(Pool(tmp_path, 2500), OTHER) == -1  # what is kept is known to another process
    assert pool.held(sha256(ONE)) == -1


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    pool = Pool(tmp_path, 1e6)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": module.RESERVE_BYTES + 10}))
    with pytest.raises(NoRoomError, match=r"the disk of .* has 67.11 MB left"):
        pushed(pool, ONE)
    monkeypatch.undo()

    def full(path, *args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(NoRoomError, match=r"the disk of .* is full"):
        pushed(pool, ONE)


def test_files_are_laid_out_by_their_names_and_others_go(tmp_path):
    pool = Pool(tmp_path / "pool", 1e6)
    pushed(pool, ONE)
    pushed(pool, OTHER)
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "old").write_text("gone")
    pool.lay_out({"part/1/a.onnx": sha256(ONE), "part/1/a.data": sha256(OTHER)}, folder)
    pool.lay_out({"part/1/a.onnx": sha256(ONE), "b.data": sha256(OTHER)}, folder)
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"part/1/a.onnx": ONE, "b.data": OTHER}
    for name in ("../a", "a/../b", ".a", "", "/a", "a//b", "a/.."):
        with pytest.raises(DeployError, match="is no name of a file in a folder"):
            pool.lay_out({name: sha256(ONE)}, folder)
