from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.zoo.transfer.installed_support import write_files, write_receipt
from tests.zoo.transfer.pull_support import SIGHT, TEXT, content, sight_bundle, text_bundle
from zoo.errors import InvalidDocument, UnsafePath
from zoo.folder import list_folder
from zoo.plan.remove import plan_remove
from zoo.receipt import load_receipt
from zoo.transfer.remove import (
    carry_out_removal,
    finish_removal,
    freed_bytes,
    load_removal,
    pending_removals,
    removal_path,
    removal_state,
)
from zoo.transfer.verify import Reading, verify_folder

BIG = 3000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny"
    write_files(folder, sight_bundle(BIG))
    write_receipt(folder, {TEXT: text_bundle(BIG), SIGHT: sight_bundle(BIG)})
    return folder


def remove(folder: Path, *entries: str) -> list[str]:
    return carry_out_removal(plan_remove(entries, removal_state(folder)), folder)


def is_good(folder: Path, *entries: str) -> bool:
    return all(verdict.good for verdict in verify_folder(folder, entries, None, Reading()))


def test_only_what_the_other_entry_does_not_need_goes(folder: Path) -> None:
    write_files(folder, {"notes/mine.txt": b"mine"})
    gone = remove(folder, SIGHT)
    assert set(gone) == sight_bundle(BIG).keys() - text_bundle(BIG).keys()
    assert content(folder) == {**text_bundle(BIG), "notes/mine.txt": b"mine"}
    assert not (folder / "audio.mlmodelc").exists()
    assert is_good(folder, TEXT)
    assert remove(folder, TEXT) == sorted(text_bundle(BIG))
    assert content(folder) == {"notes/mine.txt": b"mine"}
    assert load_receipt(folder).entries == {}
    assert sorted(path.name for path in (folder / ".zoo").iterdir()) == ["receipt.json"]


def test_both_at_once_leave_nothing(folder: Path) -> None:
    remove(folder, TEXT, SIGHT)
    assert content(folder) == {}
    assert [path.name for path in folder.iterdir()] == [".zoo"]


def test_a_hard_link_frees_nothing_while_it_has_another_name(folder: Path) -> None:
    weights = folder / "audio.mlmodelc/weights/weight.bin"
    elsewhere = folder.parent / "other.bin"
    os.link(weights, elsewhere)
    plan = plan_remove([SIGHT], removal_state(folder))
    whole = sum(action.size for action in plan.deletes)
    assert freed_bytes(folder, plan.deletes) == whole - weights.stat().st_size
    elsewhere.unlink()
    os.link(weights, folder / "vision.ane.mlmodelc/weights/twin.bin")
    assert freed_bytes(folder, plan.deletes) == whole - weights.stat().st_size


def test_a_link_in_the_place_of_a_file_goes_and_what_it_leads_to_stays(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"keep me")
    model = folder / "audio.mlmodelc/model.mil"
    model.unlink()
    model.symlink_to(precious)
    outside = tmp_path / "outside"
    shutil.move(folder / "vision.ane.mlmodelc", outside)
    (folder / "vision.ane.mlmodelc").symlink_to(outside)
    remove(folder, SIGHT)
    assert precious.read_bytes() == b"keep me"
    assert len(list_folder(outside)[0]) == 3
    assert not model.exists()


def _dies_at(step: int) -> Callable[..., Any]:
    """A wrapper of file system calls that ends the process before call number `step`, as kill -9 would."""
    count = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                os._exit(9)
            return call(*arguments, **options)

        return counted

    return wrap


def _killed_at(step: int, folder: Path) -> bool:
    """Remove in a process of its own that dies at some call; whether it did."""
    child = os.fork()
    if child == 0:
        wrap = _dies_at(step)
        for name in ("unlink", "rename", "replace", "rmdir", "mkdir"):
            mock.patch.object(os, name, wrap(getattr(os, name))).start()
        try:
            remove(folder, SIGHT)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_state(folder: Path, tmp_path: Path) -> None:
    steps = 0
    seen = set()
    while True:
        place = tmp_path / f"at-{steps}"
        shutil.copytree(folder, place)
        killed = _killed_at(steps, place)
        installed = load_receipt(place).entries.keys()
        assert is_good(place, *installed), f"killed at {steps}"
        assert TEXT in installed
        seen.add(SIGHT in installed)
        if SIGHT in installed:
            remove(place, SIGHT)
        else:
            assert not killed or load_removal(place) is not None or content(place) == text_bundle(BIG)
            finish_removal(place)
        assert content(place) == text_bundle(BIG), f"killed at {steps}"
        assert load_removal(place) is None
        steps += 1
        if not killed:
            break
    assert seen == {True, False}
    assert steps > 15


def test_what_is_wanted_again_is_not_deleted_by_the_rest_of_a_removal(folder: Path) -> None:
    plan = plan_remove([SIGHT], removal_state(folder))
    with (
        mock.patch("zoo.transfer.remove.delete_files", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        carry_out_removal(plan, folder)
    assert pending_removals([folder]) == {SIGHT: folder}
    (folder / "audio.mlmodelc/model.mil").write_bytes(b"somebody wrote something longer here")
    spare = [path for path in sight_bundle(BIG) if path.startswith("vision")]
    gone = finish_removal(folder, spare=spare)
    assert {path.partition(".")[0] for path in gone} == {"audio", "chunk3_3way"}
    assert (folder / "audio.mlmodelc/model.mil").is_file(), "another file by now"
    assert is_good(folder, TEXT)
    assert finish_removal(folder) == []


def test_hostile_notes_and_links_are_refused(folder: Path, tmp_path: Path) -> None:
    removal_path(folder).write_text('{"schema": 1, "entries": [], "files": {"../../precious": 1}}')
    with pytest.raises(UnsafePath):
        finish_removal(folder)
    removal_path(folder).write_text("{")
    with pytest.raises(InvalidDocument):
        finish_removal(folder)
    removal_path(folder).unlink()
    (folder / ".zoo/removed").symlink_to(tmp_path)
    with pytest.raises(UnsafePath):
        remove(folder, SIGHT)
    assert content(folder) == sight_bundle(BIG)
