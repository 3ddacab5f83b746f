from __future__ import annotations

import os
from pathlib import Path

from tests.zoo.bundles import locked_zoo, package_files, text_files, write_files
from tests.zoo.test_sides import install
from zoo.catalog import load_catalog
from zoo.lock import lock_path, save_lock
from zoo.plan.sharing import Sharing, find_sharing
from zoo.stored import disk_holders, stored_folders

MULTIMODAL = {**text_files(), **package_files("vision.ane", b"v" * 700)}
SIZE = sum(map(len, text_files().values()))
WEIGHTS = "chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


def prepare(directory: Path) -> Path:
    """An installed folder, and a build of the same entry."""
    catalog = locked_zoo(directory, {"tiny": text_files(), "tiny-multimodal": MULTIMODAL})
    folder = directory / "models" / "tiny"
    write_files(folder, text_files())
    install(folder, directory, "tiny")
    lock = catalog.get("tiny").lock
    assert lock is not None
    save_lock(lock_path(directory / "build", "tiny"), lock)
    write_files(directory / "build" / "tiny", text_files())
    return folder


def find(directory: Path, *, full: bool = False) -> Sharing:
    stored, notes = stored_folders(directory / "models", directory / "build", load_catalog(directory / "zoo"))
    assert notes == ()
    return find_sharing(disk_holders(stored, full=full))


def test_copies_are_found_and_links_are_not_copies(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    sharing = find(tmp_path)
    assert [holder.name for holder in sharing.holders] == ["tiny", "build/tiny"]
    assert (sharing.stored, sharing.duplicated, sharing.linkable) == (2 * SIZE, SIZE, SIZE)
    (folder / WEIGHTS).unlink()
    os.link(tmp_path / "build" / "tiny" / WEIGHTS, folder / WEIGHTS)
    sharing = find(tmp_path)
    assert (sharing.stored, sharing.duplicated) == (2 * SIZE - 5000, SIZE - 5000)
    assert sharing.common("tiny", "build/tiny") == SIZE
    assert {file.label for file in sharing.holders[0].files} == {"chunk1", "tokenizer"}


def test_what_nobody_vouches_for_is_not_known_until_it_is_read(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    write_files(folder, {"prefill.bin": b"w" * 5000, "hf_model/config.json": b"edited"})
    sharing = find(tmp_path)
    assert sharing.unknown == 5000 + len(b"edited")
    sharing = find(tmp_path, full=True)
    assert sharing.unknown == 0
    assert next(content.places for content in sharing.contents if content.size == 5000) == 3


def test_reading_finds_what_a_receipt_says_wrongly(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    (folder / WEIGHTS).write_bytes(b"W" * 5000)
    assert find(tmp_path).common("tiny", "build/tiny") == SIZE
    assert find(tmp_path, full=True).common("tiny", "build/tiny") == SIZE - 5000


def test_a_damaged_receipt_is_a_note_and_strangers_are_no_holders(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    (folder / ".zoo" / "receipt.json").write_text("{")
    write_files(tmp_path / "models" / "somebody else's", {"x.bin": b"x"})
    (tmp_path / "models" / "linked").symlink_to(folder)
    stored, notes = stored_folders(tmp_path / "models", tmp_path / "build", load_catalog(tmp_path / "zoo"))
    assert [place.name for place in stored] == ["build/tiny"]
    assert len(notes) == 1
    assert "receipt.json" in notes[0]


def test_nothing_there_is_nothing_stored(tmp_path: Path) -> None:
    catalog = locked_zoo(tmp_path, {"tiny": text_files()})
    assert stored_folders(tmp_path / "models", tmp_path / "build", catalog) == ((), ())
