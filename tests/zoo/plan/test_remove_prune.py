from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.plan.test_pull import CONTENTS, PATHS, lock_of, sha, state_of
from zoo.folder import FolderFile, FolderState, orphans
from zoo.plan.actions import Delete, Keep
from zoo.plan.prune import Leftovers, PrunePlan, PruneRequest, plan_prune, processes_named, prune_plan_json
from zoo.plan.pull import partial_name
from zoo.plan.remove import RemovePlan, plan_remove, remove_plan_json

ENTRIES = ("mine", "partner", "third")
STRANGE = ("old.bin", "sideloaded/extra.json", "chunk1.mlpackage/notes.txt", "a:b", "EMBED.bin", ".x.7.new")
owned = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(CONTENTS))
disks = st.dictionaries(st.sampled_from((*PATHS, *STRANGE)), st.sampled_from(CONTENTS))
chosen = st.sets(st.sampled_from(ENTRIES))
patterns = st.lists(st.sampled_from(("old.bin", "sideloaded/*", "*.txt", "*")), max_size=2)


@st.composite
def folders(draw: st.DrawFn) -> FolderState:
    receipts = {entry: draw(owned) for entry in sorted(draw(chosen))}
    # Mostly what the receipts say, with files missing and files added.
    disk = {path: content for files in receipts.values() for path, content in files.items() if draw(st.booleans())}
    return state_of({**disk, **draw(disks)}, receipts)


def removed(plan: RemovePlan | PrunePlan, state: FolderState) -> FolderState:
    gone = {action.path for action in plan.deletes}
    files = {path: file for path, file in state.files.items() if path not in gone}
    receipt = plan.receipt if isinstance(plan, RemovePlan) else state.receipt
    return replace(state, files=files, receipt=receipt)


def request(keep: list[str] | None = None) -> PruneRequest:
    return PruneRequest(locks=(), keep=tuple(keep or ()))


@given(folders(), chosen)
def test_remove_takes_exactly_what_nobody_else_owns(state: FolderState, entries: set[str]) -> None:
    plan = plan_remove(entries, state)
    assert set(plan.entries) == entries & state.receipt.entries.keys()
    gone = {action.path for action in plan.deletes}
    theirs = {file.path for entry, own in state.receipt.entries.items() if entry not in entries for file in own.files}
    mine = {file.path for entry in plan.entries for file in state.receipt.entries[entry].files}
    assert gone == (mine - theirs) & state.files.keys()
    assert {action.path for action in plan.actions if isinstance(action, Keep)} == mine & theirs & state.files.keys()
    assert plan.receipt.entries == {
        entry: own for entry, own in state.receipt.entries.items() if entry not in plan.entries
    }
    again = plan_remove(entries, removed(plan, state))
    assert (again.entries, again.actions) == ((), ())


@given(folders(), patterns)
def test_prune_never_takes_what_an_entry_owns(state: FolderState, keep: list[str]) -> None:
    plan = plan_prune(state, Leftovers(), request(keep))
    gone = {action.path for action in plan.deletes}
    assert gone.isdisjoint(state.receipt.owners())
    assert gone <= state.files.keys()
    assert not any(fnmatchcase(path, pattern) for path in gone for pattern in keep)
    after = removed(plan, state)
    assert plan_prune(after, Leftovers(), request(keep)).deletes == ()
    assert plan_prune(after, Leftovers(), request()).size >= 0


@given(folders(), chosen, patterns)
def test_after_remove_and_prune_nothing_unowned_is_left_but_what_was_declined(
    state: FolderState, entries: set[str], keep: list[str]
) -> None:
    between = removed(plan_remove(entries, state), state)
    plan = plan_prune(between, Leftovers(), request(keep))
    after = removed(plan, between)
    kept = {action.path for action in plan.actions if isinstance(action, Keep)}
    assert orphans(after).keys() == kept
    for action in plan.actions:
        declined = action.reason == "--keep" and any(fnmatchcase(action.path, pattern) for pattern in keep)
        assert isinstance(action, Delete) or declined or "letter case" in action.reason
    owners = after.receipt.owners()
    assert {path: after.files[path] for path in owners if path in after.files} == {
        path: state.files[path] for path in owners if path in state.files
    }


@given(folders())
def test_without_a_receipt_no_file_goes(state: FolderState) -> None:
    assert plan_prune(state, Leftovers(installed=False), request()).actions == ()


def test_a_name_that_may_be_the_owned_file_in_other_letters_stays() -> None:
    state = state_of({"EMBED.bin": 1}, {"mine": {"embed.bin": 1}})
    (action,) = plan_prune(state, Leftovers(), request()).actions
    assert (action.kind, action.path) == ("keep", "EMBED.bin")
    both = state_of({"EMBED.bin": 1, "embed.bin": 1}, {"mine": {"embed.bin": 1}})
    assert [action.path for action in plan_prune(both, Leftovers(), request()).deletes] == ["EMBED.bin"]


def test_remove_says_why_and_what_is_lost() -> None:
    receipts: Mapping[str, Mapping[str, int]] = {
        "mine": {"embed.bin": 1, "model_config.json": 2, "chunk1.mlpackage/weight.bin": 3},
        "partner": {"chunk1.mlpackage/weight.bin": 3},
    }
    state = state_of({"embed.bin": 1, "model_config.json": 4, "chunk1.mlpackage/weight.bin": 3, "x": 1}, receipts)
    plan = plan_remove(["mine", "unheard-of"], state)
    assert {action.path: (action.kind, action.reason) for action in plan.actions} == {
        "chunk1.mlpackage/weight.bin": ("keep", "partner needs it"),
        "embed.bin": ("delete", "no other entry needs it"),
        "model_config.json": ("delete", "changed since it was installed"),
    }
    assert ["1 file changed" in plan.notes[0], "zoo prune" in plan.notes[1]] == [True, True]
    data = remove_plan_json(plan, "/models/tiny")
    assert data["totals"] == {"keep": {"count": 1, "bytes": 1000}, "delete": {"count": 2, "bytes": 10_010}}
    linked = replace(state, files={"embed.bin": FolderFile(5, regular=False)})
    assert "link" in plan_remove(["mine"], linked).deletes[0].reason


def test_partials_go_only_if_no_pull_continues_them() -> None:
    lock = lock_of("mine", {"embed.bin": 3})
    wanted = partial_name(lock.files[0])
    leftovers = Leftovers(
        partials={wanted: 10, f"{wanted}.etag": 1, sha(4): 20, f"{sha(4)}.etag": 1, "lonely.etag": 1},
        staged={"embed.bin": 1000, "gone.bin": 5, ".embed.bin.12.new": 3},
        temporary={".zoo/.receipt.json.abc.new": 7},
    )
    state = state_of({}, {"mine": {}})

    def gone(request: PruneRequest) -> set[str]:
        return {action.path.removeprefix(".zoo/") for action in plan_prune(state, leftovers, request).deletes}

    dead = {".receipt.json.abc.new", "partial/lonely.etag"}
    stale = {f"partial/{sha(4)}", f"partial/{sha(4)}.etag", "staging/gone.bin", "staging/.embed.bin.12.new"}
    mine = {f"partial/{wanted}", f"partial/{wanted}.etag", "staging/embed.bin"}
    assert gone(PruneRequest(locks=None)) == dead
    assert gone(PruneRequest(locks=(lock,))) == dead | stale
    assert gone(PruneRequest(locks=(lock,), partials=True)) == dead | stale | mine
    plan = plan_prune(state, leftovers, PruneRequest(locks=(lock,)))
    assert prune_plan_json(plan, "/models/tiny")["totals"]["delete"]["bytes"] == plan.size == 20 + 1 + 1 + 5 + 3 + 7


def test_a_file_that_a_running_process_makes_stays() -> None:
    state = state_of({"a/.x.7.new": 1, ".y.8.new": 1}, {"mine": {}})
    assert processes_named(state.files) == {7, 8}
    plan = plan_prune(state, Leftovers(), PruneRequest(locks=(), alive=frozenset({7})))
    assert [action.path for action in plan.deletes] == [".y.8.new"]
