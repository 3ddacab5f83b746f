from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoo.digests import hash_file
from zoo.errors import DiskError, UnsafePath
from zoo.folder import (
    SPACE_MARGIN,
    check_space,
    folder_lock,
    free_bytes,
    list_folder,
    orphans,
    partial_directory,
    place_in,
    read_state,
)
from zoo.lock import LockedFile
from zoo.receipt import Installed, Receipt, ReceiptFile, save_receipt


def locked(path: str, data: bytes, where: Path) -> LockedFile:
    where.write_bytes(data)
    return LockedFile(path=path, component="x", size=len(data), sha256=hash_file(where).sha256)


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    state = read_state(tmp_path / "none", [])
    assert (state.files, state.folders, state.partials, state.receipt) == ({}, frozenset(), {}, Receipt())
    assert not (tmp_path / "none").exists()


def test_links_are_listed_but_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"x")
    folder = tmp_path / "folder"
    (folder / "real").mkdir(parents=True)
    (folder / "real" / "file").write_bytes(b"12345")
    (folder / "loop").symlink_to(folder)
    (folder / "away").symlink_to(outside)
    (folder / "dangling").symlink_to("nowhere")
    (folder / ".zoo").mkdir()
    (folder / ".zoo" / "lock").touch()
    (folder / ".DS_Store").touch()
    files, folders = list_folder(folder)
    assert folders == {"real"}
    assert files["real/file"].size == 5
    assert {path for path, file in files.items() if not file.regular} == {"loop", "away", "dangling"}
    assert len(files) == 4


def test_names_that_are_not_text_are_listed(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"bad\xff")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    files, _ = list_folder(tmp_path)
    assert list(files) == ["bad\\xff"]


def test_only_files_that_could_be_wanted_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    wanted = locked("a.bin", b"12345", tmp_path / "sample")
    (folder / "elsewhere.bin").write_bytes(b"12345")
    (folder / "other.bin").write_bytes(b"123456")
    state = read_state(folder, [wanted])
    assert state.files["elsewhere.bin"].sha256 == wanted.sha256
    assert state.files["other.bin"].sha256 is None


def test_orphans_are_what_nobody_owns(tmp_path: Path) -> None:
    for name in ("owned", "wanted", "stranger"):
        (tmp_path / name).write_bytes(b"x")
    mine = Installed(lock="0" * 64, files=(ReceiptFile(path="owned", size=1),))
    save_receipt(tmp_path, Receipt(entries={"mine": mine}))
    assert list(orphans(read_state(tmp_path, []), ["wanted"])) == ["stranger"]


def test_partials_are_known_by_name_and_size(tmp_path: Path) -> None:
    partial_directory(tmp_path).mkdir(parents=True)
    (partial_directory(tmp_path) / "abc").write_bytes(b"123")
    (partial_directory(tmp_path) / "abc.etag").write_bytes(b'"x"')
    assert read_state(tmp_path, []).partials == {"abc": 3}


@pytest.mark.parametrize("path", ["link/file", "link/deep/file", "inner/file"])
def test_nothing_is_placed_through_a_link(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "folder"
    (folder / "real").mkdir(parents=True)
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "inner").symlink_to("real")
    with pytest.raises(UnsafePath):
        place_in(folder, path)
    assert place_in(folder, "real/file") == folder / "real" / "file"


def test_the_models_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk2").mkdir()
    (tmp_path / "folder").symlink_to(tmp_path / "disk2")
    assert place_in(tmp_path / "folder", "a/b").parent.name == "a"


def test_space_is_checked_with_a_margin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_bytes(tmp_path / "not" / "there" / "yet") > 0
    monkeypatch.setattr("zoo.folder.free_bytes", lambda _folder: 1000 + SPACE_MARGIN)
    check_space(tmp_path, 1000)
    check_space(tmp_path, 0)
    with pytest.raises(DiskError, match="are needed"):
        check_space(tmp_path, 1001)


def test_a_lock_ends_with_its_owner(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        with folder_lock(tmp_path / "folder", doing="test", on_wait=said.append, timeout=0):
            assert "test" in (tmp_path / "folder" / ".zoo" / "owner").read_text()
    assert said == []
    assert not (tmp_path / "folder" / ".zoo" / "owner").exists()


def test_a_place_that_cannot_be_written_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="file"), folder_lock(tmp_path / "file", doing="x", on_wait=print):
        pass
