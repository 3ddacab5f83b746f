"""Two commands at the same time: both do what they are for, or one says that the other was first."""

from __future__ import annotations

import pytest

from tests.zoo.faults.place import SIGHT, TEXT, Place
from tests.zoo.faults.state import hub_state
from zoo.errors import Conflict
from zoo.receipt import load_receipt

PUSH = ("push", TEXT, "--yes")


@pytest.mark.parametrize("other", [("pull", TEXT), ("pull", SIGHT), ("repair",), ("prune", "--yes")], ids=" ".join)
def test_a_pull_and_another_command_in_one_folder(place: Place, other: tuple[str, ...]) -> None:
    place.succeed("pull", TEXT)
    place.release(2)
    place.hub.log.clear()
    for ended in place.together(("pull", TEXT), other):
        assert ended.code == 0, ended.stderr
    place.succeed("verify", "--full")
    weights = [exchange for exchange in place.hub.log.all(r"chunk1.*weight\.bin", "GET") if exchange.status == 200]
    assert len(weights) == 1, "the same bytes travelled twice"


def test_a_pull_and_a_removal_of_the_same_entry(place: Place) -> None:
    """Whichever is first: the entry is installed whole or gone whole."""
    place.succeed("pull", TEXT)
    place.succeed("pull", SIGHT)
    for ended in place.together(("remove", SIGHT, "--yes"), ("pull", SIGHT)):
        assert ended.code == 0, ended.stderr
    installed = set(load_receipt(place.folder).entries)
    assert installed in ({TEXT}, {TEXT, SIGHT})
    place.succeed("verify", "--full")
    owned = set(load_receipt(place.folder).owners())
    assert {path for path in place.installed() if not path.startswith(".zoo/")} == owned


def test_a_first_pull_of_both_entries_of_a_folder(place: Place) -> None:
    place.hub.log.clear()
    for ended in place.together(("pull", TEXT), ("pull", SIGHT)):
        assert ended.code == 0, ended.stderr
    place.succeed("verify", "--full")
    assert place.hub.log.bytes_sent_twice() == 0


def test_two_pushes_of_one_build_make_one_commit(place: Place) -> None:
    place.make(3, TEXT)
    before = len([one for one in place.hub.log.all("/commit/", "POST") if one.status == 200])
    for ended in place.together(PUSH, PUSH):
        assert ended.code in (0, Conflict.exit_code), ended.stderr
    assert len([one for one in place.hub.log.all("/commit/", "POST") if one.status == 200]) == before + 1
    place.succeed(*PUSH)
    place.succeed("lock", TEXT, "--from-hub", "--check")
    hub_state(place.hub.store)


def test_pushes_of_two_entries_do_not_meet(place: Place) -> None:
    place.make(3)
    for ended in place.together(PUSH, ("push", SIGHT, "--yes")):
        assert ended.code in (0, Conflict.exit_code), ended.stderr
    for entry in (TEXT, SIGHT):
        place.succeed("push", entry, "--yes")
        place.succeed("lock", entry, "--from-hub", "--check")
