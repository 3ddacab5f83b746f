from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import Conflict, HubError
from zoo.folder import FolderFile, FolderState
from zoo.lock import Lock, LockedFile, Source, make_lock
from zoo.plan.actions import Delete, Fetch, Keep, Link
from zoo.plan.pull import PullPlan, PullRequest, partial_name, plan_json, plan_pull, receipt_after
from zoo.receipt import Installed, Receipt, ReceiptFile
from zoo.selection import Selection

MANIFEST = "0" * 64
SOURCE = Source(repo="zoo/tiny", commit="0" * 40, path="x")
PATHS = (
    "chunk1.mlpackage/weight.bin",
    "chunk4.mlpackage/weight.bin",
    "chunk4.mlpackage/Manifest.json",
    "embed.bin",
    "hf_model/tokenizer.json",
    "model_config.json",
)
CONTENTS = tuple(range(5))


def sha(content: int) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


def size(content: int) -> int:
    return int(10**content)


def locked(path: str, content: int, *, digest: bool = True, sources: tuple[Source, ...] = (SOURCE,)) -> LockedFile:
    return LockedFile(
        path=path, component="any", size=size(content), sha256=sha(content) if digest else None, sources=sources
    )


def lock_of(entry: str, files: Mapping[str, int]) -> Lock:
    return make_lock(entry, MANIFEST, [locked(path, content) for path, content in files.items()])


def request_of(entry: str, files: Mapping[str, int], **others: Mapping[str, int]) -> PullRequest:
    lock = lock_of(entry, files)
    partners = {name.replace("_", "-"): lock_of(name.replace("_", "-"), theirs) for name, theirs in others.items()}
    return PullRequest(entry, lock, lock.files, Selection(), partners)


def disk_file(content: int) -> FolderFile:
    return FolderFile(size(content), sha(content))


def installed(files: Mapping[str, int]) -> Installed:
    return Installed(
        lock="1" * 64,
        files=tuple(ReceiptFile(path=p, size=size(c), sha256=sha(c)) for p, c in sorted(files.items())),
    )


def state_of(
    disk: Mapping[str, int], receipts: Mapping[str, Mapping[str, int]] | None = None, **partials: int
) -> FolderState:
    folders = {parent for path in disk for parent in (path.rpartition("/")[0],) if parent}
    receipt = Receipt(entries={entry: installed(files) for entry, files in (receipts or {}).items()})
    return FolderState({path: disk_file(c) for path, c in disk.items()}, frozenset(folders), receipt, partials)


def carried_out(plan: PullPlan, state: FolderState) -> FolderState:
    """What the folder holds after the plan: staged, then committed, then deleted, as `zoo.transfer.pull` does."""
    files = dict(state.files)
    arrived: dict[str, FolderFile] = {}
    for action in plan.actions:
        match action:
            case Fetch(file=file):
                assert file.sha256 is not None
                arrived[action.path] = FolderFile(file.size, file.sha256)
            case Link(path=path, origin=origin, inside=True, sha256=digest):
                # Both may exist: what lies at the origin now, and what will replace it.
                there = [file for file in (arrived.get(origin), files.get(origin)) if file is not None]
                found = next((file for file in there if file.sha256 == digest), there[0])
                assert found.sha256 == digest, "the origin of a link must have the bytes"
                arrived[path] = found
            case Link(path=path, sha256=digest, size=n):
                arrived[path] = FolderFile(n, digest)
            case _:
                pass
    files.update(arrived)
    for delete in plan.deletes:
        del files[delete.path]
    return replace(state, files=files, receipt=receipt_after(plan, state.receipt, {}), partials={})


bundles = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(CONTENTS), min_size=1)
disks = st.dictionaries(st.sampled_from((*PATHS, "old.bin", "sideloaded/extra.json")), st.sampled_from(CONTENTS))


@st.composite
def situations(draw: st.DrawFn) -> tuple[PullRequest, FolderState, dict[str, tuple[str, ...]]]:
    wanted = draw(bundles)
    # The partner agrees wherever both have a path; disagreement is tested by itself.
    partner = {path: wanted.get(path, content) for path, content in draw(disks).items()}
    before = draw(disks)
    receipts = {"partner": partner} | ({"mine": before} if draw(st.booleans()) else {})
    partials = {
        sha(content): draw(st.integers(0, size(content))) for content in draw(st.sets(st.sampled_from(CONTENTS)))
    }
    elsewhere: dict[str, tuple[str, ...]] = {
        sha(content): (f"/else/{content}",) for content in draw(st.sets(st.sampled_from(CONTENTS)))
    }
    state = state_of(draw(disks), receipts, **partials)
    return request_of("mine", wanted, partner=partner), state, elsewhere


@given(situations())
def test_the_folder_ends_with_exactly_what_the_entries_own(
    situation: tuple[PullRequest, FolderState, dict[str, tuple[str, ...]]],
) -> None:
    request, state, elsewhere = situation
    plan = plan_pull(request, state, elsewhere)
    after = carried_out(plan, state)
    for file in request.files:
        assert after.files[file.path].sha256 == file.sha256
    # Nothing of others and nothing of nobody is touched.
    mine_before = (
        {file.path for file in state.receipt.entries["mine"].files} if "mine" in state.receipt.entries else set()
    )
    wanted = {file.path for file in request.files}
    partner = {file.path for file in state.receipt.entries["partner"].files}
    for path, before in state.files.items():
        if path not in wanted and (path not in mine_before or path in partner):
            assert after.files[path] == before
    assert not (after.files.keys() & mine_before) - wanted - partner, "own files that are no longer wanted are gone"


@given(situations())
def test_a_second_plan_keeps_everything(
    situation: tuple[PullRequest, FolderState, dict[str, tuple[str, ...]]],
) -> None:
    request, state, elsewhere = situation
    after = carried_out(plan_pull(request, state, elsewhere), state)
    again = plan_pull(request, after, elsewhere)
    assert not again.changes
    assert [type(action) for action in again.actions] == [Keep] * len(request.files)
    assert receipt_after(again, after.receipt, {}) == after.receipt


@given(situations())
def test_no_content_travels_twice_or_needlessly(
    situation: tuple[PullRequest, FolderState, dict[str, tuple[str, ...]]],
) -> None:
    request, state, elsewhere = situation
    plan = plan_pull(request, state, elsewhere)
    travelling = [action.file.sha256 for action in plan.fetches]
    assert len(travelling) == len(set(travelling))
    here = {file.sha256 for file in state.files.values()} | set(elsewhere)
    assert not here.intersection(travelling)
    needed = {file.sha256: file.size for file in request.files if file.sha256 not in here}
    resumed = sum(state.partials.get(digest or "", 0) for digest in needed)
    assert sum(action.size for action in plan.fetches) == sum(needed.values()) - resumed
    assert plan_json(plan, "/f")["bytes_to_move"] == sum(needed.values()) - resumed


@given(situations())
def test_every_wanted_path_has_one_action_and_links_follow_their_origins(
    situation: tuple[PullRequest, FolderState, dict[str, tuple[str, ...]]],
) -> None:
    request, state, elsewhere = situation
    plan = plan_pull(request, state, elsewhere)
    placed = [action.path for action in plan.actions if not isinstance(action, Delete)]
    assert sorted(placed) == [file.path for file in request.files]
    for link in plan.links:
        if link.inside and link.origin in placed and link.origin not in state.files:
            assert placed.index(link.origin) < placed.index(link.path)
    sizes = [action.file.size for action in plan.fetches if not action.have]
    assert sizes == sorted(sizes, reverse=True)


def test_identical_blobs_of_a_bundle_travel_once() -> None:
    plan = plan_pull(request_of("mine", {"a.bin": 3, "b.bin": 3, "c.bin": 2}), state_of({}))
    assert [(a.kind, a.path) for a in plan.actions] == [("fetch", "a.bin"), ("fetch", "c.bin"), ("link", "b.bin")]


def test_a_moved_file_does_not_travel() -> None:
    state = state_of({"old.bin": 4}, {"mine": {"old.bin": 4}})
    plan = plan_pull(request_of("mine", {"new.bin": 4}), state)
    assert [(a.kind, a.path) for a in plan.actions] == [("link", "new.bin"), ("delete", "old.bin")]


def test_the_partner_of_a_shared_folder_keeps_its_files() -> None:
    text = {"chunk1.mlpackage/weight.bin": 3, "model_config.json": 1}
    both = {**text, "audio.mlpackage/weight.bin": 2}
    state = state_of(both, {"text": text, "both": both})
    smaller = plan_pull(request_of("both", {"model_config.json": 1}, text=text), state)
    assert [delete.path for delete in smaller.deletes] == ["audio.mlpackage/weight.bin"]


def test_partners_that_disagree_are_a_conflict_unless_the_partner_moves_along() -> None:
    text = {"chunk1.mlpackage/weight.bin": 3}
    state = state_of(text, {"text": text})
    updated = {"chunk1.mlpackage/weight.bin": 4}
    with pytest.raises(Conflict, match=r"both and text, .* different bytes at chunk1\.mlpackage/weight\.bin"):
        plan_pull(request_of("both", updated, text=text), state)
    with pytest.raises(Conflict):
        plan_pull(request_of("both", updated), state)
    plan = plan_pull(request_of("both", updated, text=updated), state)
    assert [action.kind for action in plan.actions] == ["fetch"]
    assert "zoo pull text" in plan.notes[0]
    after = receipt_after(plan, state.receipt, {})
    assert after.entries["text"].files[0].sha256 == sha(4)


def test_a_file_nobody_owns_is_replaced_with_consent_only_and_never_deleted() -> None:
    state = state_of({"model_config.json": 1, "notes.txt": 2})
    plan = plan_pull(request_of("mine", {"model_config.json": 3}), state)
    assert plan.replaces == ("model_config.json",)
    assert plan.needs_consent
    assert not plan.deletes
    assert any("notes.txt" in note for note in plan.notes)
    damaged = state_of({"model_config.json": 1}, {"mine": {"model_config.json": 3}})
    assert not plan_pull(request_of("mine", {"model_config.json": 3}), damaged).needs_consent


def test_a_provisional_lock_goes_by_size_and_says_so_loudly() -> None:
    files = (locked("a.bin", 3, digest=False), locked("b.bin", 3, digest=False), locked("c.bin", 2, digest=False))
    lock = make_lock("mine", MANIFEST, files)
    plan = plan_pull(PullRequest("mine", lock, lock.files), state_of({"c.bin": 2}))
    assert [(a.kind, a.path) for a in plan.actions] == [("keep", "c.bin"), ("fetch", "a.bin"), ("fetch", "b.bin")]
    assert plan.notes[0].startswith("NOT VERIFIABLE")
    assert plan_json(plan, "/f")["verifiable"] is False
    assert len({partial_name(file) for file in files}) == 3


def test_a_size_alone_proves_nothing_when_the_digest_is_known() -> None:
    state = replace(state_of({}), files={"a.bin": FolderFile(size(3))})
    plan = plan_pull(request_of("mine", {"a.bin": 3}), state)
    assert [(a.kind, a.reason) for a in plan.actions] == [("fetch", "differs")]


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        ({}, {"model_config.json"}),
        ({"hf_model": FolderFile(3, regular=False)}, set()),
        ({"hf_model": FolderFile(3)}, set()),
    ],
)
def test_what_is_in_the_way_is_a_conflict(files: dict[str, FolderFile], folders: set[str]) -> None:
    state = FolderState(files, frozenset(folders), Receipt(), {})
    with pytest.raises(Conflict, match="belongs"):
        plan_pull(request_of("mine", {"model_config.json": 1, "hf_model/tokenizer.json": 2}), state)


def test_unpublished_bytes_cannot_be_fetched_but_may_be_linked() -> None:
    lock = make_lock("mine", MANIFEST, [locked("a.bin", 3, sources=())])
    request = PullRequest("mine", lock, lock.files)
    with pytest.raises(HubError, match=r"a\.bin"):
        plan_pull(request, state_of({}))
    assert plan_pull(request, state_of({}), {sha(3): ("/build/a.bin",)}).links[0].origin == "/build/a.bin"
    # All of it has arrived already: nothing needs to travel, so nothing needs a source.
    assert plan_pull(request, state_of({}, None, **{sha(3): size(3)})).fetches[0].size == 0


def test_a_path_that_changed_its_letter_case_is_not_deleted() -> None:
    state = state_of({"Embed.bin": 3}, {"mine": {"Embed.bin": 3}})
    assert not plan_pull(request_of("mine", {"embed.bin": 3}), state).deletes


def test_abandoned_partials_go_but_those_of_partners_stay() -> None:
    state = state_of({}, None, **{sha(0): 1, sha(1): 1, sha(2): 1})
    plan = plan_pull(request_of("mine", {"a.bin": 0}, partner={"b.bin": 1}), state)
    assert plan.unused_partials == (sha(2),)
