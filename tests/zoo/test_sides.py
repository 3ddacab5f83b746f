from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.zoo.bundles import locked_zoo, package_files, text_files, write_files
from zoo.catalog import load_catalog
from zoo.digests import DigestCache
from zoo.errors import InvalidDocument, UnknownEntry, UsageError
from zoo.lock import lock_digest, lock_path, save_lock
from zoo.plan.diff import diff
from zoo.receipt import Installed, Receipt, ReceiptFile, save_receipt
from zoo.sides import Side, find_side, own_lock, read_sides

MULTIMODAL = {**text_files(), **package_files("vision.ane", b"v" * 700)}


def compare(one: Side, other: Side) -> dict[str, str]:
    here, there = read_sides(one, other)
    return {row.path: row.relation for row in diff(here.files, there.files).rows if row.relation != "shared"}


def install(folder: Path, directory: Path, *entries: str, without: tuple[str, ...] = ()) -> None:
    catalog = load_catalog(directory / "zoo")
    receipt = Receipt()
    for name in entries:
        lock = catalog.get(name).lock
        assert lock is not None
        files = tuple(ReceiptFile(path=file.path, size=file.size, sha256=file.sha256) for file in lock.files)
        receipt = receipt.with_entry(name, Installed(lock=lock_digest(lock), without=without, files=files))
    save_receipt(folder, receipt)


def test_what_a_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    monkeypatch.chdir(tmp_path)
    # locked_zoo leaves a folder of the entry's name here; the entry is meant all the same.
    assert find_side("tiny", catalog).kind == "entry"
    assert find_side("./tiny", catalog).kind == "folder"
    assert find_side("zoo/tiny.lock.json", catalog).kind == "lock"
    assert find_side("zoo", catalog).kind == "folder"
    with pytest.raises(UnknownEntry) as caught:
        find_side("tinny", catalog)
    assert caught.value.hint is not None
    assert "tiny" in caught.value.hint
    with pytest.raises(UnknownEntry):
        find_side("x" * 5000, catalog)
    with pytest.raises(InvalidDocument, match="no lock yet"):
        find_side("tiny-multimodal", catalog)


def test_a_folder_against_its_lock(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    folder = tmp_path / "models" / "tiny"
    write_files(folder, MULTIMODAL)
    install(folder, tmp_path, "tiny", "tiny-multimodal")
    side = find_side(str(folder), catalog)
    assert compare(side, own_lock(side, catalog)) == {}
    weights = "chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    (folder / weights).write_bytes(b"W" * 5000)
    (folder / "hf_model/config.json").write_bytes(b"longer")
    (folder / "prefill.bin").write_bytes(b"orphan")
    (folder / "vision.ane.mlpackage/Manifest.json").unlink()
    side = find_side(str(folder), catalog)
    assert compare(side, own_lock(side, catalog)) == {
        weights: "changed",
        "hf_model/config.json": "changed",
        "prefill.bin": "only_here",
        # Its bytes are those of another model's Manifest.json.
        "vision.ane.mlpackage/Manifest.json": "renamed",
    }


def test_parts_that_were_left_out_are_not_missing(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    folder = tmp_path / "models" / "tiny"
    write_files(folder, text_files())
    install(folder, tmp_path, "tiny-multimodal", without=("image",))
    side = find_side(str(folder), catalog)
    assert compare(side, own_lock(side, catalog)) == {}


def test_a_build_against_the_lock_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    lock = catalog.get("tiny").lock
    assert lock is not None
    save_lock(lock_path(tmp_path, "tiny"), lock)
    side = find_side(str(tmp_path / "tiny"), catalog)
    assert compare(side, own_lock(side, catalog)) == {}
    monkeypatch.chdir(tmp_path / "tiny")
    here = find_side(".", catalog)
    assert compare(here, own_lock(here, catalog)) == {}


def test_without_anything_to_compare_with(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    side = find_side(str(tmp_path / "tiny"), catalog)
    with pytest.raises(UsageError, match="no lock lies beside it"):
        own_lock(side, catalog)
    with pytest.raises(UsageError, match="compared with"):
        own_lock(find_side("tiny", catalog), catalog)


def test_two_folders_are_compared_by_their_bytes(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    write_files(tmp_path / "one", {"a.bin": b"same", "b.bin": b"moved", "c.bin": b"1234567"})
    write_files(tmp_path / "two", {"a.bin": b"same", "d.bin": b"moved", "c.bin": b"7654321", "e.bin": b"long enough"})
    (tmp_path / "two" / "link").symlink_to("a.bin")
    found = compare(find_side(str(tmp_path / "one"), catalog), find_side(str(tmp_path / "two"), catalog))
    assert found == {"b.bin": "renamed", "c.bin": "changed", "d.bin": "renamed", "e.bin": "only_there"}


def test_a_folder_against_a_provisional_lock_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": {**text_files(), "hf_model/config.json": b"{ }"}})
    lock = catalog.get("tiny").lock
    assert lock is not None
    files = tuple(msgspec.structs.replace(file, sha256=None, xxh3=None) for file in lock.files)
    save_lock(lock_path(tmp_path, "tiny"), msgspec.structs.replace(lock, files=files))
    monkeypatch.setattr("zoo.sides.hash_files", lambda *_, **__: pytest.fail("nothing can be proven by reading"))
    side = find_side(str(tmp_path / "tiny"), catalog)
    assert set(compare(side, own_lock(side, catalog)).values()) == {"unknown"}


def test_remembered_digests_are_used(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    side = find_side(str(tmp_path / "tiny"), catalog)
    with DigestCache(tmp_path / "cache.sqlite") as cache:
        here, there = read_sides(side, find_side("tiny", catalog), cache=cache)
    assert diff(here.files, there.files).same
