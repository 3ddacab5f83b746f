from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.archives import ENTRY, MANIFEST, TOP, URL
from tests.zoo.bundles import write_zoo
from tests.zoo.plan.test_pull import CONTENTS, PATHS, sha, size, state_of
from tests.zoo.plan.test_pull import MANIFEST as DIGEST
from zoo.archive import ArchiveMember
from zoo.digests import Digests
from zoo.errors import HubError, InvalidDocument
from zoo.lock import Lock, LockedArchive, LockedFile, Member, Source, dump_lock, make_lock, parse_lock
from zoo.plan.actions import Extract, Fetch
from zoo.plan.archive import archive_contents, archive_partials, find_members, lock_from_archive, packed_name
from zoo.plan.pull import PullPlan, PullRequest, partial_names, plan_json, plan_pull
from zoo.plan.repair import repair_request
from zoo.plan.verify import judge
from zoo.report.pull import plan_text

ARCHIVE_SHA = sha(77)


def packed_size(content: int) -> int:
    """A deflated member is half of its file here, and never empty."""
    return size(content) // 2 + 1


def packed_lock(files: Mapping[str, int]) -> Lock:
    """A lock whose files lie one behind the other in an archive, with ten bytes of header each."""
    at, rows = 0, []
    for path, content in sorted(files.items()):
        at += 10
        member = Member(name=TOP + path, offset=at, packed=packed_size(content), method="deflated")
        at += member.packed
        rows.append(LockedFile(path=path, component="any", size=size(content), sha256=sha(content), member=member))
    return make_lock("mine", DIGEST, rows, archive=LockedArchive(url=URL, size=at + 50, sha256=ARCHIVE_SHA))


def plan_of(
    lock: Lock, disk: Mapping[str, int], partials: Mapping[str, int] | None = None, *elsewhere: str
) -> PullPlan:
    candidates = {ARCHIVE_SHA: elsewhere} if elsewhere else {}
    return plan_pull(PullRequest("mine", lock, lock.files), state_of(disk, None, **(partials or {})), candidates)


bundles = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(CONTENTS), min_size=1)


@given(bundles, bundles, st.floats(0, 1), st.booleans(), st.sets(st.sampled_from(CONTENTS)))
def test_no_more_travels_than_the_archive_and_nothing_that_is_here(
    wanted: dict[str, int], disk: dict[str, int], arrived: float, here: bool, whole: set[int]
) -> None:
    lock = packed_lock(wanted)
    assert lock.archive is not None
    partials = {ARCHIVE_SHA: int(arrived * lock.archive.size)} | {sha(content): size(content) for content in whole}
    plan = plan_of(lock, disk, partials, *(["/Downloads/a.zip"] if here else []))
    extracted = {action.file.sha256 for action in plan.extracts}
    assert not plan.fetches
    assert len(extracted) == len(plan.extracts), "the same bytes are unpacked once"
    assert not extracted & {sha(content) for content in disk.values()}
    assert plan.bytes_to_move == plan_json(plan, "/f")["bytes_to_move"]
    assert 0 <= plan.bytes_to_move <= lock.archive.size - partials[ARCHIVE_SHA]
    if not plan.extracts:
        assert plan.archive is None
        return
    assert plan.archive is not None
    needed = extracted - {sha(content) for content in whole}
    if here or not needed:
        assert (plan.archive.how, plan.bytes_to_move) == ("here", 0)
    unpacked = [action.file for action in plan.extracts if action.file.sha256 in needed]
    packed = sum(file.member.packed for file in unpacked if file.member is not None)
    if plan.archive.how == "members":
        assert plan.bytes_to_move == packed < 0.9 * (lock.archive.size - partials[ARCHIVE_SHA])
    if plan.archive.how == "whole":
        assert plan.bytes_to_move + plan.archive.have == lock.archive.size
    assert str(len(plan.extracts)) in plan_text(plan, "/f")


def test_what_arrived_of_a_member_counts() -> None:
    lock = packed_lock({"embed.bin": 4, "model_config.json": 3})
    small = lock.by_path()["model_config.json"]
    plan = plan_of(lock, {"embed.bin": 4}, {packed_name(small): 100})
    assert plan.archive is not None
    assert (plan.archive.how, plan.archive.have, plan.bytes_to_move) == ("members", 100, packed_size(3) - 100)


def test_the_hub_is_asked_first_if_it_has_the_bytes() -> None:
    lock = packed_lock({"embed.bin": 3})
    source = Source(repo="zoo/x", commit="0" * 40, path="embed.bin")
    both = msgspec.structs.replace(lock, files=(msgspec.structs.replace(lock.files[0], sources=(source,)),))
    plan = plan_of(both, {})
    assert [type(action) for action in plan.actions] == [Fetch]
    assert plan.archive is None


def test_interrupted_fetches_of_the_archive_and_its_members_are_kept() -> None:
    lock = packed_lock({"embed.bin": 3})
    names = {ARCHIVE_SHA, packed_name(lock.files[0])}
    assert archive_partials(lock) == names
    assert partial_names(lock) == names | {sha(3)}
    plan = plan_of(lock, {}, dict.fromkeys((*names, sha(3), sha(9)), 1))
    assert plan.unused_partials == (sha(9),)


def test_a_provisional_archive_says_what_to_do() -> None:
    files = [LockedFile(path="embed.bin", component="any", size=10)]
    lock = make_lock("mine", DIGEST, files, archive=LockedArchive(url=URL, size=350_000_000))
    assert lock.provisional
    assert make_lock("mine", DIGEST, [], archive=lock.archive).provisional
    with pytest.raises(HubError, match=r"embed\.bin cannot be fetched") as caught:
        plan_of(lock, {})
    assert "`zoo lock mine --from-hub` downloads its archive" in str(caught.value.hint)
    assert parse_lock(dump_lock(lock), where="x") == lock


def test_a_repair_takes_members_from_any_lock_that_has_the_bytes() -> None:
    lock = packed_lock({"embed.bin": 3, "model_config.json": 2})
    state = state_of({"embed.bin": 3})
    expected = tuple(msgspec.structs.replace(file, member=None) for file in lock.files)
    verdict = judge("mine", "/f", expected, state)
    request = repair_request([verdict], {"mine": expected}, [lock])
    assert request is not None
    (action,) = (action for action in plan_pull(request, state).actions if action.kind != "keep")
    assert isinstance(action, Extract)
    assert action.file.member == lock.by_path()["model_config.json"].member
    assert find_members([lock], [sha(9)]) == (None, {})


def entry_members(*names: str) -> list[ArchiveMember]:
    return [ArchiveMember(name, 10 * at, 5, 5, "stored", 0) for at, name in enumerate(names)]


COMPLETE = ("model.mlmodelc/model.mil", "hf_model/tokenizer.json", "model_config.json")


@pytest.mark.parametrize("top", ["", "release-1.0/", "model/"])
def test_one_folder_around_everything_is_left_out(tmp_path: Path, top: str) -> None:
    entry = write_zoo(tmp_path, MANIFEST).get(ENTRY)
    contents = archive_contents(entry, entry_members(*(top + name for name in COMPLETE)), where="a.zip")
    assert contents.top == top
    assert {path: member.name for path, member in contents.members.items()} == {name: top + name for name in COMPLETE}
    archive = LockedArchive(url=URL, size=99, sha256=ARCHIVE_SHA)
    lock = lock_from_archive(entry, archive, contents, dict.fromkeys(COMPLETE, Digests(5, sha(0), "0" * 32)))
    assert parse_lock(dump_lock(lock), where="x") == lock


def test_a_folder_that_is_part_of_the_bundle_stays(tmp_path: Path) -> None:
    manifest = MANIFEST.split('[[component]]\nname = "tokenizer"')[0]
    entry = write_zoo(tmp_path, manifest).get(ENTRY)
    contents = archive_contents(entry, entry_members("model.mlmodelc/model.mil", "model.mlmodelc/x"), where="a.zip")
    assert contents.top == ""
    assert len(contents.members) == 2


def test_two_folders_deep_is_not_guessed_at(tmp_path: Path) -> None:
    entry = write_zoo(tmp_path, MANIFEST).get(ENTRY)
    with pytest.raises(InvalidDocument, match="not complete"):
        archive_contents(entry, entry_members(*(f"a/b/{name}" for name in COMPLETE)), where="a.zip")


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 10**6},
        {"packed": 10**6},
        {"offset": 2**53, "packed": 2**53},
        {"packed": 1, "method": "stored"},
        {"packed": 0},
        {"name": "a\x1b[2Jb"},
    ],
)
def test_a_lock_with_an_impossible_place_is_refused(changes: dict[str, object]) -> None:
    lock = packed_lock({"embed.bin": 3})
    place = lock.files[0].member
    assert place is not None
    member = msgspec.structs.replace(place, **changes)
    bad = msgspec.structs.replace(lock, files=(msgspec.structs.replace(lock.files[0], member=member),))
    with pytest.raises(InvalidDocument, match=r"embed\.bin: member"):
        parse_lock(dump_lock(bad), where="x")
    for archive in (None, LockedArchive(url=URL, size=lock.size)):
        with pytest.raises(InvalidDocument, match="needs an archive"):
            parse_lock(dump_lock(msgspec.structs.replace(lock, archive=archive)), where="x")


def test_progress_counts_up_to_what_is_brought() -> None:
    lock = packed_lock({"embed.bin": 4, "model_config.json": 3})
    whole = plan_of(lock, {})
    assert lock.archive is not None
    assert whole.bytes_to_place == lock.archive.size + size(4) + size(3)
    one = plan_of(lock, {"embed.bin": 4})
    assert one.bytes_to_place == packed_size(3) + size(3)
    assert replace(one, archive=None).bytes_to_place == size(3)
