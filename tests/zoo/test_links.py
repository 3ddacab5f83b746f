from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from zoo import links
from zoo.errors import DiskError
from zoo.links import MINIMUM_HARDLINK_BYTES, LinkMode, place

BULK = b"b" * MINIMUM_HARDLINK_BYTES


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(BULK)
    return path


@pytest.fixture
def no_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(links, "clone", refuse)


def test_bulk_is_linked_and_small_files_are_copied(tmp_path: Path, source: Path, no_clone: None) -> None:
    small = tmp_path / "small.json"
    small.write_bytes(b"{}")
    assert place(source, tmp_path / "a.bin", bulk=True) == "hardlink"
    assert (tmp_path / "a.bin").samefile(source)
    assert place(small, tmp_path / "b.json", bulk=True) == "copy"
    assert place(source, tmp_path / "c.bin", bulk=False) == "copy"
    assert not (tmp_path / "c.bin").samefile(source)


@pytest.mark.parametrize("mode", ["auto", "hardlink", "copy"])
def test_the_target_is_replaced_and_its_other_names_are_not(
    tmp_path: Path, source: Path, no_clone: None, mode: LinkMode
) -> None:
    target = tmp_path / "target.bin"
    target.write_bytes(b"old")
    os.link(target, tmp_path / "other name of old")
    place(source, target, mode=mode, bulk=True)
    assert target.read_bytes() == BULK
    assert (tmp_path / "other name of old").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other name of old", "source.bin", "target.bin"]


def test_linking_a_file_onto_itself_leaves_one(tmp_path: Path, source: Path, no_clone: None) -> None:
    target = tmp_path / "target.bin"
    place(source, target, bulk=True)
    assert place(source, target, bulk=True) == "hardlink"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.bin", "target.bin"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_a_file_system_without_links_gets_a_copy(
    tmp_path: Path, source: Path, no_clone: None, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    assert place(source, tmp_path / "target.bin", bulk=True) == "copy"
    with pytest.raises(DiskError):
        place(source, tmp_path / "target.bin", mode="hardlink", bulk=True)


def test_a_full_disk_is_an_error_and_the_old_file_stays(
    tmp_path: Path, source: Path, no_clone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(links, "_copy", full)
    target = tmp_path / "target.bin"
    target.write_bytes(b"old")
    with pytest.raises(DiskError, match="No space left"):
        place(source, target, mode="copy", bulk=True)
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.bin", "target.bin"]


def test_a_forced_clone_works_or_says_that_it_does_not(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "target.bin"
    try:
        assert place(source, target, mode="clone", bulk=True) == "clone"
    except DiskError:
        assert not target.exists()
    else:
        assert target.read_bytes() == BULK
        assert not target.samefile(source)
