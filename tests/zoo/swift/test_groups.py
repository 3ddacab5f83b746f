from __future__ import annotations

from pathlib import Path

import msgspec

from tests.zoo.bundles import locked_zoo, package_files, text_files
from zoo.catalog import Catalog, load_catalog
from zoo.lock import load_lock, lock_path, make_lock, save_lock
from zoo.provisional import ROOT
from zoo.swift.groups import identical_groups


def zoo_without_digests(directory: Path, entries: set[str], **sizes: int) -> Catalog:
    """`tiny` and `tiny-multimodal`, which shares its text parts; `entries` have provisional locks."""
    multimodal = {**text_files(), **package_files("vision.ane", b"w" * 5000)}
    locked_zoo(directory, {"tiny": text_files(), "tiny-multimodal": multimodal})
    for entry in entries:
        path = lock_path(directory / "zoo", entry)
        lock = load_lock(path)
        files = [
            msgspec.structs.replace(file, sha256=None, xxh3=None, size=sizes.get(file.component, file.size))
            for file in lock.files
        ]
        save_lock(path, make_lock(entry, lock.manifest, files))
    return load_catalog(directory / "zoo")


WEIGHTS = "chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
VISION = "vision.ane.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


def test_equal_digests_are_one_group_whatever_the_files_are_called(tmp_path: Path) -> None:
    groups = identical_groups(zoo_without_digests(tmp_path, set()).entries)
    first = f"tiny-multimodal/{WEIGHTS}"
    assert groups["tiny", WEIGHTS] == groups["tiny-multimodal", WEIGHTS] == groups["tiny-multimodal", VISION] == first
    assert ("tiny-multimodal", "vision.ane.mlpackage/Data/com.apple.CoreML/model.mlmodel") not in groups


def test_without_digests_the_manifests_word_counts_and_equal_sizes_do_not(tmp_path: Path) -> None:
    groups = identical_groups(zoo_without_digests(tmp_path, {"tiny", "tiny-multimodal"}).entries)
    assert groups["tiny", WEIGHTS] == groups["tiny-multimodal", WEIGHTS]
    assert ("tiny-multimodal", VISION) not in groups, "as large as chunk1, but nobody says it is the same"


def test_a_share_of_something_whose_digest_is_known(tmp_path: Path) -> None:
    groups = identical_groups(zoo_without_digests(tmp_path, {"tiny-multimodal"}).entries)
    assert groups["tiny", WEIGHTS] == groups["tiny-multimodal", WEIGHTS]


def test_a_share_with_another_size_is_not_the_same(tmp_path: Path) -> None:
    groups = identical_groups(zoo_without_digests(tmp_path, {"tiny-multimodal"}, chunk1=77).entries)
    assert ("tiny", WEIGHTS) not in groups
    assert ("tiny-multimodal", WEIGHTS) not in groups
    assert ("tiny", "hf_model/config.json") in groups


def test_lent_weights_of_the_shipped_entries() -> None:
    zoo = load_catalog(ROOT / "manifests")
    groups = identical_groups([entry for entry in zoo.entries if entry.lock is not None])
    prefill, lender = "prefill_chunk4.mlmodelc/weights/weight.bin", "chunk3_3way.mlmodelc/weights/weight.bin"
    assert groups["gemma4-e2b-3way", prefill] == groups["gemma4-e2b-3way", lender]
