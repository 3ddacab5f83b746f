from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.zoo.transfer.installed_support import write_files, write_receipt
from tests.zoo.transfer.pull_support import TEXT, content, text_bundle
from zoo.build.cache import StepCache
from zoo.digests import DigestCache
from zoo.folder import partial_directory, staging_directory
from zoo.plan.actions import Keep
from zoo.transfer.prune import (
    carry_out_cache_prune,
    carry_out_prune,
    folders_with_state,
    prepare_cache_prune,
    prepare_prune,
)
from zoo.transfer.verify import Reading, verify_folder

BIG = 3000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny"
    write_files(folder, text_bundle(BIG))
    write_receipt(folder, {TEXT: text_bundle(BIG)})
    return folder


def prune(folder: Path, *keep: str, partials: bool = False) -> set[str]:
    plan = prepare_prune(folder, None, keep=keep, partials=partials)
    gone = carry_out_prune(plan, folder)
    assert set(gone) == {action.path for action in plan.deletes}
    return set(gone)


def test_orphans_of_every_kind_go_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    strange = {"prefill_chunk1.mlmodelc/coremldata.bin": b"?", "a:b?.txt": b"x", "sub/deep/x": b"", "kept.txt": b"k"}
    write_files(folder, {**strange, "chunk1.mlmodelc/extra": b"in a model that stays"})
    (folder / "link").symlink_to(precious)
    (folder / "linked").symlink_to(tmp_path)
    gone = prune(folder, "kept.*")
    assert gone == {*strange, "chunk1.mlmodelc/extra", "link", "linked"} - {"kept.txt"}
    assert content(folder) == {**text_bundle(BIG), "kept.txt": b"k"}
    assert not (folder / "sub").exists()
    assert not (folder / "prefill_chunk1.mlmodelc").exists()
    assert precious.read_text() == "keep"
    assert verify_folder(folder, [], None, Reading())[0].good
    assert prune(folder, "kept.*") == set()


def test_what_dead_processes_left_goes(folder: Path) -> None:
    write_files(partial_directory(folder), {"f" * 64: b"12345", "lonely.etag": b"x"})
    write_files(staging_directory(folder), {"embed.bin": b"abc"})
    write_files(folder / ".zoo", {".receipt.json.abc.new": b"{", "removed/x.mlmodelc/y": b"y"})
    dead = {".zoo/partial/lonely.etag", ".zoo/.receipt.json.abc.new", ".zoo/removed/x.mlmodelc/y"}
    assert prune(folder) == dead, "without a catalog nobody knows what a pull may continue"
    assert prune(folder, partials=True) == {f".zoo/partial/{'f' * 64}", ".zoo/staging/embed.bin"}
    assert sorted(path.name for path in (folder / ".zoo").iterdir()) == ["receipt.json"]


def test_a_file_in_the_making_stays_while_its_process_runs(folder: Path) -> None:
    write_files(folder, {f".a.{os.getpid()}.new": b"1", f".b.{2**64}.new": b"1"})
    assert prune(folder) == {f".b.{2**64}.new"}


def test_a_folder_that_zoo_did_not_fill_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sideloaded"
    write_files(folder, {"model.bin": b"mine", f".zoo/partial/{'a' * 64}": b"a pull that was given up"})
    assert folders_with_state(tmp_path) == [folder]
    plan = prepare_prune(folder, None)
    assert [type(action) for action in plan.actions] == [Keep]
    assert prune(folder, partials=True) == {f".zoo/partial/{'a' * 64}"}
    assert content(folder) == {"model.bin": b"mine"}
    assert folders_with_state(tmp_path / "nowhere") == []


def test_the_step_cache_loses_what_killed_builds_left(tmp_path: Path) -> None:
    with DigestCache(tmp_path / "digests.sqlite") as digests:
        steps = StepCache(tmp_path / "steps", digests)
        dead, busy, whole = "d" * 64, "b" * 64, "c" * 64
        write_files(steps.directory, {f"tmp/{dead}-1/output/w": b"123", f"tmp/{busy}-1/output/w": b"123"})
        write_files(steps.directory, {f"dd/{dead}/output/w": b"12", f"cc/{whole}/step.json": b"{}"})
        with steps.lock(busy):
            plan = prepare_cache_prune(steps)
            assert {action.path: action.size for action in plan.deletes} == {f"dd/{dead}": 2, f"tmp/{dead}-1": 3}
            assert len(carry_out_cache_prune(plan, steps)) == 2
        assert [action.path for action in prepare_cache_prune(steps).deletes] == [f"tmp/{busy}-1"]
        assert steps.directory_of(whole).is_dir()
