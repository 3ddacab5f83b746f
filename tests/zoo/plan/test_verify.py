from __future__ import annotations

from tests.zoo.plan.test_pull import disk_file, lock_of, sha, size, state_of
from zoo.folder import FolderFile, FolderState
from zoo.plan.verify import judge, orphan_warnings
from zoo.receipt import Receipt


def test_each_kind_of_damage_is_named_with_both_sides() -> None:
    lock = lock_of("mine", {"a.mlmodelc/weight.bin": 1, "b.bin": 2, "c.bin": 3, "d.bin": 4, "e.bin": 0})
    files = {
        "b.bin": FolderFile(size(2) + 1),
        "c.bin": FolderFile(size(3), sha(0)),
        "d.bin": FolderFile(size(4), regular=False),
        "e.bin": disk_file(0),
    }
    verdict = judge("mine", "/f", lock.files, FolderState(files, frozenset(), Receipt(), {}))
    assert [(f.path, f.problem) for f in verdict.findings] == [
        ("a.mlmodelc/weight.bin", "missing"),
        ("b.bin", "size"),
        ("c.bin", "digest"),
        ("d.bin", "not a file"),
    ]
    assert verdict.findings[2].as_json() == {
        "path": "c.bin",
        "problem": "digest",
        "expected": {"size": size(3), "sha256": sha(3)},
        "found": {"size": size(3), "sha256": sha(0)},
    }
    assert verdict.broken_models == ("a.mlmodelc",)
    assert not verdict.good


def test_a_whole_folder_is_good_and_strangers_are_warnings() -> None:
    files = {"a.bin": 1, "hf_model/b.json": 2}
    state = state_of({**files, "vision.ane.mlmodelc/coremldata.bin": 3}, {"mine": files})
    verdict = judge("mine", "/f", lock_of("mine", files).files, state, warnings=orphan_warnings(state))
    assert verdict.good
    assert verdict.size == size(1) + size(2)
    assert len(verdict.warnings) == 1
    assert "vision.ane.mlmodelc/coremldata.bin" in verdict.warnings[0]


def test_a_folder_in_the_place_of_a_file_is_found() -> None:
    state = FolderState({}, frozenset({"a.bin"}), Receipt(), {})
    assert judge("mine", "/f", lock_of("mine", {"a.bin": 1}).files, state).findings[0].problem == "not a file"
