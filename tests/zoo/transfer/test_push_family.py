from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.zoo.transfer.push_support import SIGHT_REPO, TEXT_REPO, TinyZoo, bundle, client, sha256, tiny_zoo
from zoo.errors import Conflict, DigestMismatch, HubError
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import load_lock, lock_path
from zoo.plan.actions import ServerCopy, travelling_bytes
from zoo.plan.push_family import pending
from zoo.plan.remote import Listing
from zoo.transfer.hub import HubClient
from zoo.transfer.push_family import Build, Done, FamilyMember, execute_family, execute_next, prepare_family
from zoo.transfer.push_look import PushOptions

BOTH = ("tiny", "tiny-sight")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def zoo(tmp_path: Path) -> TinyZoo:
    return tiny_zoo(tmp_path)


def plan(zoo: TinyZoo, talk: HubClient, **options: object) -> tuple[FamilyMember, ...]:
    catalog = zoo.catalog
    builds = []
    for name in BOTH:
        entry = catalog.get(name)
        assert entry.manifest.hub is not None
        wanted = {"repo": entry.manifest.hub.repo, "branch": entry.manifest.hub.revision, **options}
        lock = load_lock(lock_path(zoo.build, name))
        builds.append(Build(entry, lock, zoo.build / name, PushOptions(**wanted)))  # type: ignore[arg-type]
    return prepare_family(talk, catalog, builds)


def publish(zoo: TinyZoo, hub: RunningHub, **options: object) -> tuple[Done, ...]:
    talk = client(hub.endpoint)
    return execute_family(talk, plan(zoo, talk, **options))


def sent(hub: RunningHub) -> list[str]:
    return sorted(exchange.path.rsplit("/", 1)[-1] for exchange in hub.log.all("/lfs/objects/", "PUT"))


def in_repo(name: str, path: str) -> str:
    moved = name == "tiny" and (path.startswith("chunk4.") or path.endswith("_full.npy"))
    return f"swa/{path}" if moved else path


def check_published(zoo: TinyZoo, hub: RunningHub, repos: dict[str, str]) -> None:
    """Every entry's lock is pinned, and what it names has the bytes."""
    talk = client(hub.endpoint)
    for name, repo in repos.items():
        lock = zoo.catalog.get(name).lock
        assert lock is not None, name
        files = bundle(name)
        assert {file.path for file in lock.files} == set(files)
        for file in lock.files:
            first = file.sources[0]
            assert (first.repo, first.path) == (repo, in_repo(name, file.path))
            for source in file.sources:
                assert sha256(talk.read(source.repo, source.commit, source.path)) == sha256(files[file.path])


REPOS = {"tiny": TEXT_REPO, "tiny-sight": SIGHT_REPO}


def test_two_new_entries_send_what_they_share_once(zoo: TinyZoo, hub: RunningHub) -> None:
    family = plan(zoo, client(hub.endpoint))
    assert [member.entry.id for member in family] == ["tiny", "tiny-sight"]
    copies = [action for action in family[1].prepared.plan.actions if isinstance(action, ServerCopy)]
    assert {copy.source.commit for copy in copies} == {pending("tiny")}
    assert hub.log.all("", "PUT") == []
    assert hub.log.all("/repos/create") == []
    done = execute_family(client(hub.endpoint), family)
    contents = {
        sha256(data) for name in BOTH for path, data in bundle(name).items() if path.endswith((".bin", ".npy"))
    }
    assert sent(hub) == sorted(contents)
    assert len(hub.log.all("/commit/", "POST")) == 2
    for before, member in zip(done, family, strict=True):
        assert before.pushed.made
        planned, carried_out = member.prepared.plan.actions, before.prepared.plan.actions
        assert [(action.kind, action.path) for action in planned] == [
            (action.kind, action.path) for action in carried_out
        ]
        assert travelling_bytes(planned) == travelling_bytes(carried_out)
    check_published(zoo, hub, REPOS)
    lock = zoo.catalog.get("tiny-sight").lock
    assert lock is not None
    shared = lock.by_path()["chunk1.mlmodelc/weights/weight.bin"]
    assert [(source.repo, source.commit) for source in shared.sources] == [
        (SIGHT_REPO, done[1].pushed.commit),
        (TEXT_REPO, done[0].pushed.commit),
    ]


def test_a_second_time_nothing_is_sent_and_no_lock_changes(zoo: TinyZoo, hub: RunningHub) -> None:
    publish(zoo, hub)
    before = {name: zoo.catalog.get(name).lock_file.read_bytes() for name in BOTH}
    hub.log.clear()
    done = publish(zoo, hub)
    assert not any(one.pushed.made or one.pushed.lock_changed for one in done)
    assert hub.log.all("", "PUT") == []
    assert hub.log.all("/commit/") == []
    assert {name: zoo.catalog.get(name).lock_file.read_bytes() for name in BOTH} == before


def test_a_failure_in_the_middle_leaves_the_first_entry_pinned_and_a_rerun_goes_on(
    zoo: TinyZoo, hub: RunningHub
) -> None:
    hub.faults.add(Fault(path=f"/{SIGHT_REPO}/commit/", method="POST", times=1, status=403))
    with pytest.raises(HubError):
        publish(zoo, hub)
    check_published(zoo, hub, {"tiny": TEXT_REPO})
    assert zoo.catalog.get("tiny-sight").lock is None
    before = zoo.catalog.get("tiny").lock_file.read_bytes()
    hub.log.clear()
    first, second = publish(zoo, hub)
    assert not first.pushed.made
    assert second.pushed.made
    assert sent(hub) == []
    assert zoo.catalog.get("tiny").lock_file.read_bytes() == before
    check_published(zoo, hub, REPOS)


def test_a_build_of_a_later_entry_that_is_not_what_its_lock_says_stops_everything(
    zoo: TinyZoo, hub: RunningHub
) -> None:
    weights = zoo.build / "tiny-sight/vision.ane.mlmodelc/weights/weight.bin"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DigestMismatch, match=r"vision\.ane.*nothing was sent"):
        publish(zoo, hub)
    assert hub.log.all("", "PUT") == []
    assert hub.log.all("/repos/create") == []


def test_what_only_the_later_repo_has_is_copied_from_there(zoo: TinyZoo, hub: RunningHub) -> None:
    publish(zoo, hub)
    talk = client(hub.endpoint)
    # The text repo is gone, and so are the locks: only the repo itself tells what it has.
    from huggingface_hub import HfApi

    HfApi(endpoint=hub.endpoint, token="hf_zoo_test").delete_repo(TEXT_REPO)
    for name in BOTH:
        zoo.catalog.get(name).lock_file.unlink()
    hub.log.clear()
    execute_family(talk, plan(zoo, talk))
    assert sent(hub) == []
    check_published(zoo, hub, REPOS)


def test_without_copying_both_send_everything(zoo: TinyZoo, hub: RunningHub) -> None:
    publish(zoo, hub, copy=False)
    assert hub.log.all("/lfs-files/duplicate") == []
    assert len(sent(hub)) > len(set(sent(hub)))
    check_published(zoo, hub, REPOS)


def test_a_copy_that_the_hub_cannot_make_after_all_is_sent_instead_and_said(
    zoo: TinyZoo, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:

    talk = client(hub.endpoint)
    family = plan(zoo, talk)
    said: list[str] = []
    monkeypatch.setattr(talk.progress, "say", said.append)
    first = execute_next(talk, family, [])
    honest = talk.listing

    def without_xet(repo: str, commit: str) -> Listing:
        listing = honest(repo, commit)
        return replace(listing, files=tuple(replace(file, xet_hash=None) for file in listing.files))

    monkeypatch.setattr(talk, "listing", without_xet)
    monkeypatch.setattr(talk, "with_xet_hashes", lambda listing, paths: listing)
    execute_next(talk, family, [first])
    assert any("more to send than planned" in text for text in said)
    check_published(zoo, hub, REPOS)


def _in_one_repo(zoo: TinyZoo, revision: str | None = None) -> None:
    sight = zoo.manifests / "tiny-sight.toml"
    place = f'"{TEXT_REPO}"' + (f', revision = "{revision}"' if revision else "")
    sight.write_text(sight.read_text().replace(f'"{SIGHT_REPO}"', place))
    zoo.build_entry("tiny-sight")


@pytest.mark.parametrize("revision", [None, "n1024"])
def test_entries_of_one_repo(zoo: TinyZoo, hub: RunningHub, revision: str | None) -> None:
    _in_one_repo(zoo, revision)
    first, second = publish(zoo, hub, delete=revision is None)
    assert first.pushed.commit != second.pushed.commit
    assert len(sent(hub)) == len(set(sent(hub)))
    check_published(zoo, hub, {"tiny": TEXT_REPO, "tiny-sight": TEXT_REPO})
    assert client(hub.endpoint).resolve(TEXT_REPO, revision or "main") == second.pushed.commit
    hub.log.clear()
    publish(zoo, hub, delete=revision is None)
    assert hub.log.all("/commit/") == []


def test_pull_requests_copy_from_each_other(zoo: TinyZoo, hub: RunningHub) -> None:
    for repo in REPOS.values():
        client(hub.endpoint).create_repo(repo)
    done = publish(zoo, hub, pull_request=True)
    assert all(one.pushed.pull_request for one in done)
    assert len(sent(hub)) == len(set(sent(hub)))
    assert all(zoo.catalog.get(name).lock is None for name in BOTH)


def test_nothing_is_deleted_that_was_not_shown(zoo: TinyZoo, hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    _in_one_repo(zoo)
    talk = client(hub.endpoint)
    family = plan(zoo, talk, delete=True)
    first = execute_next(talk, family, [])
    add = CommitOperationAdd(path_in_repo="theirs.txt", path_or_fileobj=b"hello\n")
    commit = HfApi(endpoint=hub.endpoint, token="hf_zoo_test").create_commit(
        TEXT_REPO, [add], commit_message="by hand"
    )
    honest = talk.listing
    monkeypatch.setattr(talk, "listing", lambda repo, _: honest(repo, str(commit.oid)))
    with pytest.raises(Conflict, match=r"theirs\.txt was not there"):
        execute_next(talk, family, [first])
