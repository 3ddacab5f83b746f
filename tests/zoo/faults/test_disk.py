"""What a disk can do: full, read-only, links planted where zoo writes; and a clock that is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.zoo.faults.adversity import read_only
from tests.zoo.faults.place import SIGHT, TEXT, Place, flip
from tests.zoo.faults.state import check_folder, snapshot, third_state
from zoo.errors import Conflict, DiskError, UnsafePath
from zoo.receipt import load_receipt
from zoo.transfer.body import PIECE_BYTES

FULL = DiskError.exit_code
UNSAFE = UnsafePath.exit_code
YEARS = 10 * 365 * 86_400.0


def updated(place: Place) -> tuple[Path, dict[str, str], dict[str, str]]:
    """Version 1 is installed and version 2 is current; gives a copy to come back to, the old and the new state."""
    place.succeed("pull", SIGHT)
    kept, old = place.keep(), dict(place.installed())
    place.release(2)
    place.succeed("pull", SIGHT)
    return kept, old, dict(place.installed())


@pytest.mark.parametrize("link", ["auto", "copy"])
def test_a_disk_that_fills_up_during_a_pull(place: Place, link: str) -> None:
    kept, old, new = updated(place)
    for room in (0, 20, 3_000, 200_000, 299_999):
        place.restore(kept)
        ended = place.run("pull", SIGHT, "--link", link, full_after=room, crowded=True)
        assert (ended.code, room) == (FULL, room), ended.stderr
        assert place.installed() == old, room
        place.succeed("pull", SIGHT, "--link", link)
        assert place.installed() == new, room
    place.succeed("verify", "--full")


def test_what_fitted_on_a_full_disk_does_not_travel_again(place: Place) -> None:
    room = 200_000
    place.run("pull", TEXT, full_after=room, crowded=True)
    place.hub.log.clear()
    place.succeed("pull", TEXT)
    (start,) = (exchange.start for exchange in place.hub.log.all(r"chunk1.*weight\.bin", "GET"))
    assert room - PIECE_BYTES < start <= room


@pytest.mark.parametrize(
    "arguments", [("remove", SIGHT, "--yes"), ("repair",), ("prune", "--yes")], ids=lambda a: a[0]
)
def test_a_full_disk_and_what_changes_a_folder(place: Place, arguments: tuple[str, ...]) -> None:
    place.succeed("pull", TEXT)
    place.succeed("pull", SIGHT)
    (place.folder / "stray.bin").write_bytes(b"nobody's")
    flip(place.folder / "chunk1.mlmodelc/weights/weight.bin")
    kept, old = place.keep(), place.installed()
    place.succeed(*arguments)
    new = place.installed()
    for room in (0, 50, 100_000):
        place.restore(kept)
        ended = place.run(*arguments, full_after=room, crowded=True)
        assert ended.code in (0, FULL), ended.stderr
        check_folder(old, new, place.folder)
        place.succeed(*arguments)
        assert place.installed() == new, room


def test_a_full_disk_and_what_writes_locks(place: Place) -> None:
    place.make(3, TEXT)
    old = place.everything()
    for arguments in (("push", TEXT, "--yes"), ("lock", TEXT, "--from-hub")):
        for room in (0, 100):
            ended = place.run(*arguments, full_after=room)
            assert ended.code in (0, FULL), ended.stderr
            now = place.everything()
            place.succeed(*arguments)
            new = place.everything()
            for part in old:
                assert third_state(old[part], new[part], now[part]) == [], (arguments, room)
            old = new


@pytest.mark.parametrize(
    "arguments",
    [("pull", SIGHT), ("remove", SIGHT, "--yes"), ("repair",), ("prune", "--yes")],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_cannot_be_written(place: Place, arguments: tuple[str, ...]) -> None:
    place.succeed("pull", TEXT)
    place.succeed("pull", SIGHT)
    (place.folder / "stray.bin").write_bytes(b"nobody's")
    flip(place.folder / "chunk1.mlmodelc/weights/weight.bin")
    old = place.installed()
    with read_only(place.models):
        ended = place.run(*arguments, ordinary=True)
    assert ended.code == FULL, ended.stderr
    assert len(ended.stderr.strip().splitlines()) <= 6
    assert place.installed() == old
    place.succeed(*arguments)
    assert place.installed() != old


def test_one_model_folder_that_cannot_be_written(place: Place) -> None:
    kept, old, new = updated(place)
    for name in ("chunk1.mlmodelc", "hf_model", ".zoo"):
        place.restore(kept)
        with read_only(place.folder / name):
            ended = place.run("pull", SIGHT, ordinary=True)
        check_folder(old, new, place.folder)
        assert ended.code in (0, FULL), (name, ended.stderr)
        place.succeed("pull", SIGHT)
        assert place.installed() == new, name


def test_a_zoo_directory_that_cannot_be_written(place: Place) -> None:
    place.make(3, TEXT)
    old = place.everything()
    with read_only(place.zoo.manifests):
        assert place.run("push", TEXT, "--yes", ordinary=True).code == FULL
        assert place.run("lock", TEXT, "--from-hub", ordinary=True).code == FULL
    now = place.everything()
    assert now["zoo"] == old["zoo"]
    place.succeed("push", TEXT, "--yes")
    assert third_state(old["hub"], place.everything()["hub"], now["hub"]) == []
    place.succeed("lock", TEXT, "--from-hub", "--check")


PLANTED = ("chunk1.mlmodelc", "chunk1.mlmodelc/weights/weight.bin", "model_config.json", "hf_model", ".zoo")
PLANTED_WITHIN = (".zoo/partial", ".zoo/staging", ".zoo/receipt.json", ".zoo/removed")


@pytest.mark.parametrize("path", [*PLANTED, *PLANTED_WITHIN])
def test_links_planted_beforehand_lead_nowhere(place: Place, path: str) -> None:
    place.succeed("pull", TEXT)
    place.succeed("pull", SIGHT)
    kept, new = place.keep(), place.installed()
    outside = place.root / "outside"
    commands = (("pull", SIGHT, "--yes"), ("repair",), ("remove", SIGHT, "--yes"), ("prune", "--yes"))
    for arguments in commands:
        place.restore(kept)
        target, aside = place.folder / path, place.root / "aside"
        there = target.exists()
        if there:
            target.rename(aside)
        if not outside.exists():
            outside.mkdir()
            (outside / "mine.bin").write_bytes(b"mine")
            (outside / "weights").mkdir()
            (outside / "weights/weight.bin").write_bytes(b"mine too")
        before = snapshot(outside)
        target.symlink_to(outside / "mine.bin" if path.endswith((".bin", ".json")) else outside)
        ended = place.run(*arguments)
        assert snapshot(outside) == before, arguments
        assert ended.code in (0, 1, 3, FULL, Conflict.exit_code, UNSAFE), ended.stderr
        if target.is_symlink():
            target.unlink()
            if there:
                aside.rename(target)
        else:
            aside.unlink() if aside.is_file() else shutil.rmtree(aside, ignore_errors=True)
        # What somebody planted is not zoo's to put right in every command; a pull does.
        place.succeed("pull", SIGHT, "--yes")
        assert {key: value for key, value in place.installed().items() if key in new} == new, arguments


@pytest.mark.parametrize("path", ["chunk1.mlmodelc", "model_config.json"])
def test_links_planted_in_the_middle_lead_nowhere(place: Place, path: str) -> None:
    """Somebody swaps a link in while the pull runs: bytes stay inside, and a later pull puts everything right."""
    kept, _, new = updated(place)
    place.restore(kept)
    events = place.succeed("pull", SIGHT).events
    outside = place.root / "outside"
    outside.mkdir()
    (outside / "mine.bin").write_bytes(b"mine")
    before = snapshot(outside)
    for number in range(1, 7):
        place.restore(kept)
        target = place.folder / path
        place.run("pull", SIGHT, plant={"at": events * number // 7, "link": str(target), "to": str(outside)})
        assert snapshot(outside) == before, number
        if target.is_symlink():
            target.unlink()
        shutil.rmtree(target.with_name(f"{target.name}.moved"), ignore_errors=True)
        place.succeed("pull", SIGHT, "--yes")
        assert {key: value for key, value in place.installed().items() if key in new} == new, number


@pytest.mark.parametrize("seconds", [-YEARS, YEARS, -3600.0])
def test_a_clock_that_is_wrong(place: Place, seconds: float) -> None:
    """Nothing is decided by the time of day: digests remembered under a wrong clock do not hide a change."""
    place.succeed("pull", TEXT, clock=seconds)
    place.succeed("verify", clock=seconds)
    old = place.installed()
    flip(place.folder / "chunk1.mlmodelc/weights/weight.bin")
    for clock in (0.0, seconds):
        assert place.run("verify", clock=clock).code == 1
    place.succeed("repair", clock=seconds)
    assert place.installed() == old
    place.make(3, TEXT)
    place.succeed("push", TEXT, "--yes", clock=seconds)
    place.succeed("pull", TEXT)
    place.succeed("lock", TEXT, "--from-hub", "--check", clock=seconds)
    place.succeed("remove", TEXT, "--yes", clock=seconds)
    assert not load_receipt(place.folder).entries


def test_a_file_that_was_put_back_to_its_old_time(place: Place) -> None:
    """A clock that went backwards gives a changed file the time of the one before: reading everything finds it."""
    place.succeed("pull", TEXT)
    weights = place.folder / "chunk1.mlmodelc/weights/weight.bin"
    status = weights.stat()
    flip(weights)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert place.run("verify", "--full").code == 1
    place.succeed("repair")
    place.succeed("verify", "--full")
