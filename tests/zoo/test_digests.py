from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from zoo.digests import DigestCache, Digests, Hasher, feed_file, hash_file, hash_files
from zoo.errors import DiskError

OLD = 1_600_000_000_000_000_000


def old_file(path: Path, data: bytes) -> Path:
    """A file that was not changed lately, so that its digest may be remembered."""
    path.write_bytes(data)
    os.utime(path, ns=(OLD, OLD))
    return path


def truth(data: bytes) -> Digests:
    return Digests(len(data), hashlib.sha256(data).hexdigest(), xxhash.xxh3_128_hexdigest(data))


@given(st.lists(st.binary(max_size=100)))
def test_pieces_give_the_digests_of_the_whole(pieces: list[bytes]) -> None:
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digests() == truth(b"".join(pieces))


def test_files_of_all_sizes(tmp_path: Path) -> None:
    contents = {tmp_path / str(size): os.urandom(size) for size in (0, 1, 4095, 1 << 20, (1 << 20) + 1)}
    for path, data in contents.items():
        path.write_bytes(data)
    seen: list[int] = []
    assert hash_files(contents, on_bytes=seen.append) == {path: truth(data) for path, data in contents.items()}
    assert sum(seen) == sum(map(len, contents.values()))


def test_a_prefix_and_the_rest_are_the_whole(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"begin")
    hasher = Hasher()
    feed_file(tmp_path / "part", hasher)
    hasher.update(b"end")
    assert hasher.digests() == truth(b"beginend")


def test_a_file_that_cannot_be_read_is_a_disk_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        hash_file(tmp_path / "none")
    with pytest.raises(DiskError):
        hash_files([tmp_path / "none"])
    with pytest.raises(DiskError):
        hash_file(tmp_path)


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old_file(tmp_path / "file", b"data")
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        first = hash_files([path], cache=cache)
    monkeypatch.setattr("zoo.digests.hash_file", lambda *_args, **_options: pytest.fail("read again"))
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        assert hash_files([path], cache=cache) == first


@pytest.mark.parametrize("change", ["content", "size", "time", "inode"])
def test_changed_files_are(tmp_path: Path, change: str) -> None:
    path = old_file(tmp_path / "file", b"data")
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        hash_files([path], cache=cache)
        if change == "content":
            path.write_bytes(b"DATA")
        elif change == "size":
            old_file(path, b"data and more")
        elif change == "time":
            os.utime(path, ns=(OLD, OLD + 1))
        else:
            old_file(tmp_path / "new", b"DATA").replace(path)
        assert cache.get(path) is None
        assert hash_files([path], cache=cache)[path] == truth(path.read_bytes())


def test_a_file_changed_a_moment_ago_is_not_remembered_unless_it_is_our_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        hash_files([path], cache=cache)
        assert cache.get(path) is None
        cache.trust(path, truth(b"data"))
        assert cache.get(path) == truth(b"data")
        cache.trust(path, truth(b"another length"))
        assert cache.get(path) == truth(b"data")


def test_a_rename_and_a_hard_link_keep_what_is_known(tmp_path: Path) -> None:
    path = old_file(tmp_path / "file", b"data")
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        hash_files([path], cache=cache)
        os.link(path, tmp_path / "link")
        path.rename(tmp_path / "renamed")
        assert cache.get(tmp_path / "link") == cache.get(tmp_path / "renamed") == truth(b"data")


@pytest.mark.parametrize("size", [1, 300, 4096, 5000, 100_000])
@pytest.mark.parametrize("at", ["first", "middle", "last"])
def test_an_inode_that_another_file_of_the_same_size_and_time_got(tmp_path: Path, size: int, at: str) -> None:
    """A folder that was deleted and copied back with its times: inodes are given out in another order."""
    one = bytearray(size)
    other = one[:]
    other[{"first": 0, "middle": size // 2, "last": size - 1}[at]] = 1
    path = old_file(tmp_path / "file", bytes(one))
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        hash_files([path], cache=cache)
        inode = path.stat().st_ino
        old_file(path, bytes(other))
        assert path.stat().st_ino == inode
        assert hash_files([path], cache=cache)[path] == truth(bytes(other))


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100])
def test_a_damaged_cache_is_replaced(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "cache.sqlite").write_bytes(damage)
    path = old_file(tmp_path / "file", b"data")
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        assert hash_files([path], cache=cache)[path] == truth(b"data")
        assert cache.get(path) == truth(b"data")


def test_a_place_where_nothing_can_be_kept_costs_memory_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with DigestCache(tmp_path / "file" / "cache.sqlite") as cache:
        path = old_file(tmp_path / "data", b"data")
        assert hash_files([path], cache=cache)[path] == truth(b"data")


def test_threads_and_processes_share_a_cache(tmp_path: Path) -> None:
    paths = [old_file(tmp_path / str(number), str(number).encode()) for number in range(40)]
    code = (
        "import sys; from pathlib import Path; from zoo.digests import *\n"
        "with DigestCache(Path(sys.argv[1])) as cache: hash_files(map(Path, sys.argv[2:]), cache=cache)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache.sqlite"), *map(str, paths)]
    others = [subprocess.Popen(command) for _ in range(2)]
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        threads = [threading.Thread(target=hash_files, args=(paths,), kwargs={"cache": cache}) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [other.wait(timeout=60) for other in others] == [0, 0]
        assert all(cache.get(path) == truth(path.read_bytes()) for path in paths)
