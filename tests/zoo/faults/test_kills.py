"""SIGKILL before any of the events of a command: the old state or the new one, and the next run completes."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.zoo.faults.place import SIGHT, TEXT, Place, flip
from tests.zoo.faults.state import check_folder, third_state
from zoo.receipt import load_receipt

POINTS = int(os.environ.get("ZOO_KILL_POINTS", "5"))
"""Kills per command, spread evenly over its events, each at a place that depends on the command alone. With
`ZOO_KILL_POINTS=9999` a command is killed before every one of its events."""


@dataclass(frozen=True)
class Case:
    """A command that changes the installed folder.

    Attributes:
        prepare: makes the state that the command is run in.
        arguments: the command.
    """

    prepare: Callable[[Place], object]
    arguments: tuple[str, ...]


def _install(place: Place, *entries: str) -> None:
    for entry in entries:
        place.succeed("pull", entry, "--quiet")


def _installed_then_updated(place: Place) -> None:
    _install(place, TEXT, SIGHT)
    place.release(2)


def _with_strangers(place: Place) -> None:
    _install(place, TEXT)
    for path in ("chunk9.mlmodelc/coremldata.bin", "chunk9.mlmodelc/model.mil", "notes/x.txt"):
        (place.folder / path).parent.mkdir(exist_ok=True)
        (place.folder / path).write_bytes(b"nobody's")


def _damaged(place: Place) -> None:
    _install(place, TEXT)
    flip(place.folder / "chunk1.mlmodelc/weights/weight.bin")
    (place.folder / "model_config.json").unlink()


CASES = {
    "first pull": Case(lambda place: None, ("pull", TEXT)),
    "pull of a sibling": Case(lambda place: _install(place, TEXT), ("pull", SIGHT)),
    "update": Case(_installed_then_updated, ("pull", SIGHT)),
    "pull without images": Case(lambda place: _install(place, SIGHT), ("pull", SIGHT, "--without", "image", "--yes")),
    "remove": Case(lambda place: _install(place, TEXT, SIGHT), ("remove", SIGHT, "--yes")),
    "remove everything": Case(lambda place: _install(place, TEXT, SIGHT), ("remove", TEXT, SIGHT, "--yes")),
    "prune": Case(_with_strangers, ("prune", "--yes")),
    "repair": Case(_damaged, ("repair",)),
}


def kill_points(name: str, events: int, points: int = POINTS) -> list[int]:
    """Numbers of events, the first and the last few among them: that is where commands begin and end to act."""
    dice = random.Random(name)
    step = events / points
    spread = {1 + int(step * (index + dice.random())) for index in range(points)}
    return sorted({min(point, events) for point in (*spread, events - dice.randrange(4))})


@pytest.mark.parametrize("name", CASES)
def test_a_kill_leaves_the_old_folder_or_the_new_one(place: Place, name: str) -> None:
    case = CASES[name]
    case.prepare(place)
    kept, old = place.keep(), place.installed()
    damaged = load_receipt(place.folder).owners().keys() - old.keys()
    hub = place.everything()["hub"]
    whole = place.succeed(*case.arguments)
    new = place.installed()
    assert new != old
    for point in kill_points(name, whole.events):
        place.restore(kept)
        ended = place.run(*case.arguments, kill_at=point)
        check_folder(old, new, place.folder, damaged=damaged)
        place.succeed(*case.arguments)
        assert place.installed() == new, f"killed before event {point} of {whole.events}"
        assert ended.killed or ended.events < point
        assert place.everything()["hub"] == hub
        place.succeed("verify")


def test_a_killed_push_leaves_whole_commits_and_true_locks(fresh: Place) -> None:
    events = fresh.succeed("push", TEXT, "--yes").events
    number = 1
    for point in kill_points("push", events):
        number += 1
        fresh.make(number)
        old = fresh.everything()
        ended = fresh.run("push", TEXT, "--yes", kill_at=point)
        now = fresh.everything()
        fresh.succeed("push", TEXT, "--yes")
        new = fresh.everything()
        assert ended.killed or ended.events < point
        for part in old:
            assert third_state(old[part], new[part], now[part]) == [], f"killed before event {point} of {events}"
        assert now["hub"] == new["hub"] or now["zoo"] == old["zoo"], "a lock names what is not there"
        # Repeating it made no second commit.
        assert len([e for e in fresh.hub.log.all("/commit/", "POST") if e.status == 200]) == number


def test_a_killed_push_of_a_family_goes_on_with_the_entry_it_was_at(fresh: Place) -> None:
    events = fresh.succeed("push", "--family", "tiny", "--yes").events
    number = 1
    for point in kill_points("push --family", events, POINTS // 2):
        number += 1
        fresh.make(number)
        old = fresh.everything()
        fresh.run("push", "--family", "tiny", "--yes", kill_at=point)
        now = fresh.everything()
        fresh.succeed("push", "--family", "tiny", "--yes")
        new = fresh.everything()
        for part in old:
            assert third_state(old[part], new[part], now[part]) == [], f"killed before event {point} of {events}"
        for entry in (TEXT, SIGHT):
            assert now["zoo"][f"{entry}.lock.json"] in (
                old["zoo"][f"{entry}.lock.json"],
                new["zoo"][f"{entry}.lock.json"],
            )


@pytest.mark.parametrize("source", ["--from-hub", "--from"])
def test_a_killed_lock_leaves_the_old_lock_or_the_new_one(place: Place, source: str) -> None:
    arguments = ["lock", TEXT, source, *([str(place.zoo.build / TEXT)] if source == "--from" else [])]
    old = place.everything()
    events = place.succeed(*arguments).events
    new = place.everything()
    assert new["zoo"] != old["zoo"]
    for point in kill_points(source, events, POINTS // 2):
        place.release(1)
        place.run(*arguments, kill_at=point)
        assert third_state(old["zoo"], new["zoo"], place.everything()["zoo"]) == []
        place.succeed(*arguments)
        assert place.everything() == new
