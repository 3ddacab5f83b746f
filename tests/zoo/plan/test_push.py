from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.transfer.push_support import tiny_zoo
from zoo.errors import Conflict, InvalidDocument
from zoo.lock import Lock, LockedFile, Source, make_lock
from zoo.plan.actions import Delete, Keep, ServerCopy, Upload
from zoo.plan.lock import bundle_path
from zoo.plan.push import (
    NEVER_DELETED,
    PushPlan,
    Wanted,
    copy_candidates,
    plan_push,
    same_content,
    sibling_places,
    wanted_files,
)
from zoo.plan.remote import Listing, RemoteFile, git_object_id

COMMIT = "a" * 40
SIBLING = "b" * 40


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wanted(path: str, data: bytes) -> Wanted:
    return Wanted(path, len(data), digest(data), f"/build/{path}", git_object_id(data))


def large(path: str, data: bytes, *, xet: bool = True) -> RemoteFile:
    pointer = f"oid {digest(data)}".encode()
    return RemoteFile(path, len(data), digest(data), git_object_id(pointer), digest(data)[::-1] if xet else None)


def small(path: str, data: bytes) -> RemoteFile:
    return RemoteFile(path, len(data), None, git_object_id(data))


CONTENTS = [bytes([number]) * (number * 7) for number in range(8)]
PATHS = [f"{folder}{name}" for folder in ("", "a/", "b.mlmodelc/") for name in ("x.bin", "y.json", "README.md")]
some_files = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(CONTENTS), max_size=len(PATHS))


@st.composite
def listings(draw: st.DrawFn, repo: str, commit: str) -> Listing:
    files = draw(some_files)
    kinds = draw(st.lists(st.sampled_from(["large", "large without xet", "small"]), min_size=9, max_size=9))
    found = []
    for (path, data), kind in zip(sorted(files.items()), kinds, strict=False):
        found.append(small(path, data) if kind == "small" else large(path, data, xet=kind == "large"))
    return Listing(repo, commit, tuple(found))


def carry_out(plan: PushPlan, target: Listing, siblings: list[Listing], contents: dict[str, bytes]) -> Listing:
    """What the Hub would have afterwards; refuses what the Hub would refuse."""
    files = target.by_path()
    known = {digest(data): data for data in contents.values()}
    places = {(listing.repo, listing.commit): listing.by_path() for listing in (target, *siblings)}
    sent: set[str] = set()
    for action in plan.actions:
        match action:
            case Keep(path=path):
                assert path in files
            case Upload(path=path, size=size, sha256=sha256, local=local):
                assert local is not None
                data = contents[local.removeprefix("/build/")]
                assert digest(data) == sha256
                assert size in (len(data), 0)
                if size:
                    assert sha256 not in sent, "content travels twice"
                    sent.add(sha256)
                else:
                    assert sha256 in sent or not data
                files[path] = large(path, data)
            case ServerCopy(path=path, sha256=sha256, source=source):
                origin = places[source.repo, source.commit][source.path]
                assert origin.sha256 == sha256
                assert origin.xet_hash or source.repo == target.repo, "the Hub refuses this copy"
                files[path] = large(path, known[sha256])
            case Delete(path=path):
                del files[path]
            case _:
                raise AssertionError(action)
    return Listing(target.repo, "c" * 40, tuple(sorted(files.values(), key=lambda file: file.path)))


@given(
    contents=some_files,
    target=listings("me/target", COMMIT),
    sibling=listings("me/sibling", SIBLING),
    earlier=listings("me/target", "d" * 40),
    delete=st.booleans(),
)
def test_carrying_a_plan_out_gives_the_right_bytes_and_doing_it_again_nothing(
    contents: dict[str, bytes], target: Listing, sibling: Listing, earlier: Listing, delete: bool
) -> None:
    files = [wanted(path, data) for path, data in contents.items()]
    siblings = [sibling, earlier]
    plan = plan_push(files, target, siblings, delete=delete)
    after = carry_out(plan, target, siblings, contents)
    present = after.by_path()
    for file in files:
        assert same_content(file, present[file.path])
    if delete:
        assert set(present) <= {*contents, *NEVER_DELETED}
        assert plan.extra == ()
    else:
        assert set(present) == {*contents, *target.by_path()}
        assert {path for path, _ in plan.extra} == set(target.by_path()) - set(contents) - NEVER_DELETED
    for path in NEVER_DELETED & set(target.by_path()):
        assert path in present
    again = plan_push(files, after, siblings, delete=delete)
    assert not again.changes


@given(contents=some_files, target=listings("me/target", COMMIT), sibling=listings("me/sibling", SIBLING))
def test_nothing_is_uploaded_that_the_hub_can_copy(
    contents: dict[str, bytes], target: Listing, sibling: Listing
) -> None:
    plan = plan_push([wanted(path, data) for path, data in contents.items()], target, [sibling])
    copyable = {file.sha256 for file in target.files if file.sha256}
    copyable |= {file.sha256 for file in sibling.files if file.sha256 and file.xet_hash}
    for action in plan.actions:
        if isinstance(action, Upload):
            assert action.sha256 not in copyable or action.sha256 == digest(b"")


@given(contents=some_files, target=listings("me/target", COMMIT), seed=st.integers(0, 99))
def test_the_order_of_files_does_not_matter(contents: dict[str, bytes], target: Listing, seed: int) -> None:
    files = [wanted(path, data) for path, data in contents.items()]
    shuffled = files[:]
    random.Random(seed).shuffle(shuffled)
    mixed = list(target.files)
    random.Random(seed).shuffle(mixed)
    assert plan_push(files, target) == plan_push(shuffled, Listing(target.repo, target.commit, tuple(mixed)))


def test_a_small_file_whose_git_id_is_not_known_is_sent_rather_than_believed() -> None:
    data = b"same"
    file = Wanted("config.json", len(data), digest(data), "/build/config.json")
    plan = plan_push([file], Listing("me/target", COMMIT, (small("config.json", data),)))
    assert [action.kind for action in plan.actions] == ["upload"]


def test_the_repo_itself_comes_before_its_siblings_as_a_source() -> None:
    data = b"weights" * 9
    plan = plan_push(
        [wanted("new.bin", data)],
        Listing("me/target", COMMIT, (large("old.bin", data, xet=False),)),
        [Listing("me/sibling", SIBLING, (large("w.bin", data),))],
    )
    (action,) = plan.actions
    assert isinstance(action, ServerCopy)
    assert action.source == Source(repo="me/target", commit=COMMIT, path="old.bin")


def test_protected_paths_are_neither_deleted_nor_reported() -> None:
    target = Listing("me/target", COMMIT, (large("theirs.bin", b"theirs"),))
    plan = plan_push([wanted("mine.bin", b"mine")], target, delete=True, protected=["theirs.bin"])
    assert [action.kind for action in plan.actions] == ["upload"]
    assert plan.extra == ()


def test_a_file_where_a_folder_is_needed_is_a_conflict_unless_it_may_go() -> None:
    target = Listing("me/target", COMMIT, (small("chunk1.mlmodelc", b"oops"),))
    files = [wanted("chunk1.mlmodelc/model.mil", b"program(1.3)")]
    with pytest.raises(Conflict, match=r"chunk1\.mlmodelc"):
        plan_push(files, target)
    assert [action.kind for action in plan_push(files, target, delete=True).actions] == ["upload", "delete"]


def test_an_empty_repo_gets_everything_once() -> None:
    files = [wanted("a.bin", b"twin" * 5), wanted("b.bin", b"twin" * 5)]
    plan = plan_push(files, Listing("me/target", None))
    assert [(action.path, action.size) for action in plan.actions] == [("a.bin", 20), ("b.bin", 0)]


def test_only_paths_that_would_be_copied_are_asked_about() -> None:
    shared, kept, other = b"shared" * 3, b"kept" * 3, b"other" * 3
    target = Listing("me/target", COMMIT, (large("kept.bin", kept),))
    sibling = Listing(
        "me/sibling",
        SIBLING,
        tuple(large(f"{data[:4].decode()}.bin", data, xet=False) for data in (shared, kept, other)),
    )
    files = [wanted("kept.bin", kept), wanted("shared.bin", shared)]
    assert copy_candidates(files, target, sibling) == ("shar.bin",)
    assert copy_candidates(files, target, Listing("me/target", SIBLING, sibling.files)) == ()


def locked(entry: str, repo: str, files: dict[str, bytes]) -> Lock:
    source = {path: (Source(repo=repo, commit=COMMIT, path=path),) for path in files}
    return make_lock(
        entry,
        "0" * 64,
        [
            LockedFile(path=path, component="c", size=len(data), sha256=digest(data), sources=source[path])
            for path, data in files.items()
        ],
    )


def test_the_sibling_with_most_of_the_bytes_comes_first() -> None:
    big, little, foreign = b"b" * 90, b"l" * 10, b"f" * 500
    locks = [locked("one", "me/one", {"l": little, "f": foreign}), locked("two", "me/two", {"b": big})]
    assert sibling_places([digest(big), digest(little)], locks) == (("me/two", COMMIT), ("me/one", COMMIT))


def test_a_provisional_lock_and_two_files_at_one_place_are_refused() -> None:
    provisional = make_lock("tiny", "0" * 64, [LockedFile(path="a.bin", component="c", size=3)])
    with pytest.raises(InvalidDocument, match="provisional"):
        wanted_files(provisional, {"a.bin": "a.bin"}, "/build")
    lock = locked("tiny", "me/one", {"a.bin": b"a", "x/a.bin": b"b"})
    with pytest.raises(InvalidDocument, match=r"both go to a\.bin"):
        wanted_files(lock, {"a.bin": "a.bin", "x/a.bin": "a.bin"}, "/build")


def test_paths_in_the_repo_lead_back_to_bundle_paths(tmp_path_factory: pytest.TempPathFactory) -> None:
    zoo = tiny_zoo(tmp_path_factory.mktemp("zoo"))
    entry = zoo.catalog.get("tiny")
    for path in (
        "chunk1.mlmodelc/weights/weight.bin",
        "chunk4.mlpackage/Manifest.json",
        "cos_full.npy",
        "hf_model/tokenizer_config.json",
    ):
        part = entry.owner_of(path)
        assert part is not None
        assert bundle_path(entry, part.remote_path(path)) == path
    assert bundle_path(entry, "chunk4.mlmodelc/weights/weight.bin") is None
    assert bundle_path(entry, "README.md") is None
