"""Plans of families are carried out against a model of the Hub that refuses what the Hub refuses."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import InvalidDocument
from zoo.plan.actions import Delete, Keep, ServerCopy, Upload, travelling_bytes
from zoo.plan.push import NEVER_DELETED, Wanted, plan_push, same_content
from zoo.plan.push_family import Member, Step, pending, pending_entry, plan_family, publish_order, waits_for
from zoo.plan.remote import Listing, RemoteFile, git_object_id, is_large

CONTENTS = [bytes([number]) * (number * 11) for number in range(9)]
PATHS = [f"{folder}{name}" for folder in ("", "a/", "b.mlmodelc/") for name in ("x.bin", "y.json", "README.md")]
ENTRIES = ["one", "two", "three", "four"]
BY_DIGEST = {hashlib.sha256(data).hexdigest(): data for data in CONTENTS}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def large(data: bytes) -> bool:
    """By content, as for binary files; the even ones are text."""
    return len(data) % 2 == 1


def wanted(path: str, data: bytes) -> Wanted:
    return Wanted(path, len(data), digest(data), f"/build/{path}", git_object_id(data), large(data))


def remote(path: str, data: bytes, *, xet: bool = True) -> RemoteFile:
    if not large(data):
        return RemoteFile(path, len(data), None, git_object_id(data))
    return RemoteFile(path, len(data), digest(data), "0" * 40, digest(data)[::-1] if xet else None)


some_files = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(CONTENTS), max_size=len(PATHS))


@st.composite
def families(draw: st.DrawFn, *, one_repo: bool = False) -> list[Member]:
    """Up to four entries, whose repos exist or not.

    With `one_repo` on branches of one repo, with the same bytes at each path of a branch. A branch that does not
    exist yet starts at `main`.
    """
    members = []
    agreed: dict[tuple[str, str, str], bytes] = {}
    states: dict[tuple[str, str], Listing] = {}
    new_repo = draw(st.booleans())
    new_branch = draw(st.booleans())
    for name in draw(st.lists(st.sampled_from(ENTRIES), min_size=1, unique=True)):
        repo = "me/together" if one_repo else f"me/{name}"
        branch = draw(st.sampled_from(["main", "n1024"])) if one_repo else "main"
        files = {path: agreed.setdefault((repo, branch, path), data) for path, data in draw(some_files).items()}
        exists = not new_repo if one_repo else draw(st.booleans())
        there = tuple(remote(path, data) for path, data in draw(some_files).items()) if exists else ()
        starts_at = "main" if new_branch else branch
        commit = digest(f"{repo} {starts_at}".encode())[:40] if exists else None
        target = states.setdefault((repo, starts_at), Listing(repo, commit, there))
        page = frozenset({"README.md"} & set(files))
        members.append(
            Member(
                entry=name,
                wanted=tuple(wanted(path, data) for path, data in files.items()),
                target=target,
                branch=branch,
                page=page,
                delete=draw(st.booleans()),
                new_branch=branch != "main" and (new_branch or not exists),
            )
        )
    return members


class ModelHub:
    """Repos at commits. A copy needs a source that is there; a push needs the parent it was planned for."""

    def __init__(self, members: list[Member]) -> None:
        self.commits: dict[tuple[str, str | None], Listing] = {
            (member.target.repo, member.target.commit): member.target
            for member in members
            if member.target.commit is not None
        }
        self.uploads: Counter[str] = Counter()
        self.uploads_by_repo: Counter[tuple[str, str]] = Counter()
        self.made: set[str] = set()

    def push(self, step: Step, target: Listing) -> Listing:
        files = target.by_path()
        for action in step.plan.actions:
            match action:
                case Keep(path=path):
                    assert path in files
                case Delete(path=path):
                    assert path not in NEVER_DELETED | step.protected
                    del files[path]
                case Upload(path=path, size=size, sha256=sha256):
                    if size:
                        self.uploads[sha256] += 1
                        self.uploads_by_repo[step.plan.repo, sha256] += 1
                    files[path] = remote(path, BY_DIGEST[sha256])
                case ServerCopy(path=path, sha256=sha256, source=source):
                    entry = pending_entry(source.commit)
                    assert entry is None or entry in self.made, "copied from a commit that is not there yet"
                    origin = self.commits[source.repo, source.commit].by_path()[source.path]
                    assert origin.sha256 == sha256
                    assert origin.xet_hash or source.repo == step.plan.repo
                    files[path] = remote(path, BY_DIGEST[sha256])
                case _:
                    raise AssertionError(action)
        if not step.plan.commits and target.commit is not None:
            return target
        self.made.add(step.entry)
        after = Listing(target.repo, pending(step.entry), tuple(files.values()))
        self.commits[after.repo, after.commit] = after
        return after


Branches = dict[tuple[str, str], Listing]
"""What the branches that exist hold, by repo and branch."""


def carry_out(members: list[Member], steps: tuple[Step, ...]) -> tuple[ModelHub, Branches]:
    hub = ModelHub(members)
    by_entry = {member.entry: member for member in members}
    branches: Branches = {}
    for member in members:
        if member.target.commit is not None:
            branches[member.target.repo, "main" if member.new_branch else member.branch] = member.target
    for step in steps:
        member = by_entry[step.entry]
        repo, _ = member.place
        assert step.plan.new_branch == (member.place not in branches and member.branch != "main")
        start = member.target if member.target.commit is not None else branches.get((repo, "main"), member.target)
        target = branches.get(member.place, start)
        assert step.plan.parent == target.commit or not target.files, "planned for something else"
        if step.plan.changes:
            branches[member.place] = hub.push(step, target)
            branches.setdefault((repo, "main"), Listing(repo, f"first commit of {repo}"))
        else:
            assert all(action.kind == "keep" for action in step.plan.actions)
    return hub, branches


@settings(deadline=None)
@given(members=families())
def test_no_content_is_uploaded_twice_and_every_copy_has_a_source(members: list[Member]) -> None:
    steps = plan_family(members)
    assert sorted(step.entry for step in steps) == sorted(member.entry for member in members)
    hub, branches = carry_out(members, steps)
    there_before = {file.sha256 for member in members for file in member.target.files if file.sha256}
    for sha256, times in hub.uploads.items():
        if large(BY_DIGEST[sha256]):
            assert times == 1
            assert sha256 not in there_before
    assert all(times == 1 for times in hub.uploads_by_repo.values())
    for step in steps:
        member = next(member for member in members if member.entry == step.entry)
        present = branches[member.place].by_path()
        assert all(same_content(file, present[file.path]) for file in step.wanted)
        assert step.wanted == member.wanted, "entries in repos of their own keep their page"


@settings(deadline=None)
@given(members=families(one_repo=True))
def test_entries_that_share_a_repo_build_on_each_other(members: list[Member]) -> None:
    steps = plan_family(members)
    hub, branches = carry_out(members, steps)
    assert all(times == 1 for sha256, times in hub.uploads.items() if large(BY_DIGEST[sha256]))
    for step in steps:
        member = next(member for member in members if member.entry == step.entry)
        present = branches[member.place].by_path()
        # Also after the entries that follow, whatever they delete.
        assert all(same_content(file, present[file.path]) for file in member.wanted)


@settings(deadline=None)
@given(members=families() | families(one_repo=True), stop=st.integers(0, 4))
def test_a_push_that_was_stopped_goes_on_and_a_second_one_has_nothing_to_do(members: list[Member], stop: int) -> None:
    steps = plan_family(members)
    _, branches = carry_out(members, steps[:stop])
    again = [_seen_anew(member, branches) for member in members]
    rest = plan_family(again)
    assert [step.entry for step in rest] == [step.entry for step in steps]
    assert not any(step.plan.changes for step in rest[:stop])
    hub, branches = carry_out(again, rest)
    assert all(times == 1 for sha256, times in hub.uploads.items() if large(BY_DIGEST[sha256]))
    final = plan_family([_seen_anew(member, branches) for member in members])
    assert not any(step.plan.changes for step in final)


def _seen_anew(member: Member, branches: Branches) -> Member:
    """The member when the Hub is looked at once more: promised commits have ids."""
    repo = member.target.repo
    now = branches.get(member.place) or branches.get((repo, "main")) or Listing(repo, None)
    commit = None if now.commit is None else digest(f"{now.commit}".encode())[:40]
    new_branch = member.branch != "main" and member.place not in branches
    return replace(member, target=replace(now, commit=commit), new_branch=new_branch)


@settings(deadline=None)
@given(members=families())
def test_together_is_never_more_than_one_by_one(members: list[Member]) -> None:
    alone = sum(
        travelling_bytes(plan_push(member.wanted, member.target, member.siblings).actions) for member in members
    )
    assert sum(travelling_bytes(step.plan.actions) for step in plan_family(members)) <= alone


@settings(deadline=None)
@given(members=families(), seed=st.integers(0, 99))
def test_the_order_in_which_entries_are_named_does_not_matter(members: list[Member], seed: int) -> None:
    mixed = members[:]
    random.Random(seed).shuffle(mixed)
    assert plan_family(mixed) == plan_family(members)


def member(entry: str, files: dict[str, bytes], **options: object) -> Member:
    settings = {"target": Listing(f"me/{entry}", None), **options}
    return Member(entry, tuple(wanted(path, data) for path, data in files.items()), **settings)  # type: ignore[arg-type]


SHARED, OWN = CONTENTS[7], CONTENTS[3]


def test_the_entry_with_least_of_its_own_comes_first_and_the_other_copies_from_it() -> None:
    sight = member("a-sight", {"w.bin": SHARED, "v.bin": OWN})
    text = member("text", {"weights.bin": SHARED})
    first, second = plan_family([sight, text])
    assert (first.entry, second.entry) == ("text", "a-sight")
    own, copy = second.plan.actions
    assert isinstance(own, Upload)
    assert isinstance(copy, ServerCopy)
    assert (copy.source.repo, copy.source.commit, copy.source.path) == ("me/text", pending("text"), "weights.bin")
    assert copy.reason == "published with text"
    assert waits_for(second.plan) == {"text"}
    assert waits_for(first.plan) == frozenset()


def test_most_shared_comes_before_least_of_its_own() -> None:
    bundles = {
        "a": [wanted("x", CONTENTS[1])],
        "b": [wanted("x", CONTENTS[8]), wanted("y", CONTENTS[1]), wanted("z", CONTENTS[5])],
        "c": [wanted("x", CONTENTS[8])],
    }
    assert publish_order(bundles) == ("b", "c", "a")


def test_what_the_repo_of_a_later_entry_has_is_copied_by_an_earlier_one() -> None:
    there = Listing("me/a-sight", "a" * 40, (remote("old.bin", SHARED),))
    sight = member("a-sight", {"w.bin": SHARED, "v.bin": OWN}, target=there)
    first, _ = plan_family([sight, member("text", {"w.bin": SHARED})])
    (action,) = first.plan.actions
    assert isinstance(action, ServerCopy)
    assert (action.source.repo, action.source.commit) == ("me/a-sight", "a" * 40)


def test_small_files_travel_to_each_repo_because_the_hub_copies_only_large_ones() -> None:
    text = CONTENTS[4]
    plans = [step.plan for step in plan_family([member("a", {"c.json": text}), member("b", {"c.json": text})])]
    assert [action.kind for plan in plans for action in plan.actions] == ["upload", "upload"]


def test_without_copying_everything_is_uploaded() -> None:
    members = [member(name, {"w.bin": SHARED}, copy=False) for name in ("a", "b")]
    assert [step.plan.actions[0].kind for step in plan_family(members)] == ["upload", "upload"]


def test_one_place_for_different_bytes_is_refused() -> None:
    target = Listing("me/both", None)
    with pytest.raises(InvalidDocument, match=r"two and one both put w\.bin into me/both"):
        plan_family([member("one", {"w.bin": SHARED}, target=target), member("two", {"w.bin": OWN}, target=target)])


def test_one_entry_writes_the_page_of_a_branch() -> None:
    target, page = Listing("me/both", None), frozenset({"README.md"})
    first, second = plan_family(
        [
            member("one", {"w.bin": SHARED, "README.md": CONTENTS[4]}, target=target, page=page),
            member("two", {"v.bin": OWN, "w.bin": SHARED, "README.md": CONTENTS[6]}, target=target, page=page),
        ]
    )
    assert [action.path for action in first.plan.actions] == ["README.md", "w.bin"]
    assert [(action.kind, action.path) for action in second.plan.actions] == [("upload", "v.bin"), ("keep", "w.bin")]
    assert second.plan.parent == pending("one")


def test_pull_requests_do_not_build_on_each_other() -> None:
    target = Listing("me/both", "a" * 40)
    members = [member(name, {"w.bin": SHARED}, target=target, moves=False) for name in ("one", "two")]
    first, second = plan_family(members)
    assert first.plan.parent == second.plan.parent == "a" * 40
    assert [first.plan.actions[0].kind, second.plan.actions[0].kind] == ["upload", "copy"]


@pytest.mark.parametrize(
    ("path", "size", "sample", "expected"),
    [
        ("a/weights/weight.bin", 10, b"text", True),
        ("model.mil", 10, b"program(1.3)", False),
        ("model.mil", 11 << 20, b"program(1.3)", True),
        ("config.json", 10, b"a\0b", True),
        ("empty.bin", 0, b"", False),
    ],
)
def test_large_files(path: str, size: int, sample: bytes, expected: bool) -> None:
    assert is_large(path, size, sample) is expected
