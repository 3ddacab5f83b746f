from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.transfer.push_support import (
    SIGHT_REPO,
    TEXT_REPO,
    TinyZoo,
    Waits,
    bundle,
    client,
    sha256,
    tiny_zoo,
)
from zoo.errors import Conflict, DigestMismatch, HubError
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import load_lock, lock_path
from zoo.plan.actions import totals, travelling_bytes
from zoo.plan.remote import Listing, RemoteFile
from zoo.report.push import push_text
from zoo.transfer.hub import HubClient
from zoo.transfer.push import Pushed, execute
from zoo.transfer.push_look import Prepared, PushOptions, prepare


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def zoo(tmp_path: Path) -> TinyZoo:
    return tiny_zoo(tmp_path)


def plan(zoo: TinyZoo, hub: HubClient, name: str, **options: object) -> Prepared:
    catalog = zoo.catalog
    entry = catalog.get(name)
    assert entry.manifest.hub is not None
    wanted = PushOptions(**{"repo": entry.manifest.hub.repo, **options})  # type: ignore[arg-type]
    return prepare(hub, catalog, entry, load_lock(lock_path(zoo.build, name)), zoo.build / name, wanted)


def push(zoo: TinyZoo, hub: HubClient, name: str, **options: object) -> Pushed:
    return execute(hub, plan(zoo, hub, name, **options), entry=zoo.catalog.get(name))


def remote_sha256s(hub: RunningHub, repo: str) -> dict[str, str]:
    from zoo.hub_server.records import RepoId

    snapshot = hub.store.snapshot(RepoId("models", repo), "main")
    return {path: entry.sha256 for path, entry in snapshot.files.items()}


def in_repo(path: str) -> str:
    """Where the tiny text manifest keeps a bundle path."""
    moved = path.startswith("chunk4.") or path.endswith("_full.npy")
    return f"swa/{path}" if moved else path


def test_pushes_a_build_and_pins_its_lock(zoo: TinyZoo, hub: RunningHub) -> None:
    pushed = push(zoo, client(hub.endpoint), "tiny")
    there = remote_sha256s(hub, TEXT_REPO)
    for path, data in bundle("tiny").items():
        assert there[in_repo(path)] == sha256(data)
    assert {"README.md", "zoo.json", "NOTICE", ".gitattributes"} <= set(there)
    lock = zoo.catalog.get("tiny").lock
    assert lock is not None
    assert pushed.made
    assert pushed.lock_changed
    for file in lock.files:
        assert file.sources[0].repo == TEXT_REPO
        assert file.sources[0].commit == pushed.commit
        assert file.sources[0].path == in_repo(file.path)
        assert file.xxh3 is not None


def test_everything_is_one_commit(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    assert len(hub.log.all("/commit/", "POST")) == 1


def test_a_sibling_push_sends_only_what_is_new(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    hub.log.clear()
    prepared = plan(zoo, client(hub.endpoint), "tiny-sight")
    execute(client(hub.endpoint), prepared, entry=zoo.catalog.get("tiny-sight"))
    sent = [exchange.path.rsplit("/", 1)[-1] for exchange in hub.log.all("/lfs/objects/", "PUT")]
    files = bundle("tiny-sight")
    shared = {sha256(data) for data in bundle("tiny").values()}
    new = {sha256(data) for path, data in files.items() if path.endswith(".bin")} - shared
    assert sorted(sent) == sorted(new)
    there = remote_sha256s(hub, SIGHT_REPO)
    assert {path: there[path] for path in files} == {path: sha256(data) for path, data in files.items()}
    copied = totals(prepared.plan.actions)["copy"]
    assert copied.size == 300_000 + 2 * 200_000 + 2 * 4096 + 2 * 300


def test_a_sibling_is_another_source_in_the_lock(zoo: TinyZoo, hub: RunningHub) -> None:
    first = push(zoo, client(hub.endpoint), "tiny")
    push(zoo, client(hub.endpoint), "tiny-sight")
    lock = zoo.catalog.get("tiny-sight").lock
    assert lock is not None
    weights = lock.by_path()["chunk3_3way.mlmodelc/weights/weight.bin"]
    assert [source.repo for source in weights.sources] == [SIGHT_REPO, TEXT_REPO]
    assert weights.sources[1].commit == first.commit
    assert weights.sources[1].path == "swa/chunk4.mlmodelc/weights/weight.bin"


def test_identical_files_of_a_bundle_travel_once(zoo: TinyZoo, hub: RunningHub) -> None:
    prepared = plan(zoo, client(hub.endpoint), "tiny-sight")
    execute(client(hub.endpoint), prepared, entry=zoo.catalog.get("tiny-sight"))
    sent = [exchange.path for exchange in hub.log.all("/lfs/objects/", "PUT")]
    assert len(sent) == len(set(sent))
    unique = {sha256(data): len(data) for data in bundle("tiny-sight").values()}
    extras = sum(len(data) for data in prepared.generated.values())
    assert travelling_bytes(prepared.plan.actions) == sum(unique.values()) + extras


def test_a_second_push_makes_no_commit_and_sends_nothing(zoo: TinyZoo, hub: RunningHub) -> None:
    first = push(zoo, client(hub.endpoint), "tiny")
    before = zoo.catalog.get("tiny").lock_file.read_bytes()
    hub.log.clear()
    again = push(zoo, client(hub.endpoint), "tiny")
    assert not again.made
    assert not again.lock_changed
    assert again.commit == first.commit
    assert zoo.catalog.get("tiny").lock_file.read_bytes() == before
    assert hub.log.all("", "PUT") == []
    assert hub.log.all("/commit/") == []


def test_a_push_that_died_before_the_lock_was_written_is_completed(zoo: TinyZoo, hub: RunningHub) -> None:
    first = push(zoo, client(hub.endpoint), "tiny")
    lock_file = zoo.catalog.get("tiny").lock_file
    before = lock_file.read_bytes()
    lock_file.unlink()
    again = push(zoo, client(hub.endpoint), "tiny")
    assert not again.made
    assert again.commit == first.commit
    assert lock_file.read_bytes() == before


def test_one_changed_file_is_the_only_one_sent(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    files = bundle("tiny") | {"sin_full.npy": b"other" * 1000, "model_config.json": b'{"model": "tiny!"}\n'}
    zoo.build_entry("tiny", files)
    hub.log.clear()
    push(zoo, client(hub.endpoint), "tiny")
    sent = [exchange.path.rsplit("/", 1)[-1] for exchange in hub.log.all("/lfs/objects/", "PUT")]
    assert sent == [sha256(files["sin_full.npy"])]
    assert remote_sha256s(hub, TEXT_REPO)["model_config.json"] == sha256(files["model_config.json"])


def test_a_branch_that_moved_is_a_conflict_and_nothing_is_pinned(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    before = zoo.catalog.get("tiny").lock_file.read_bytes()
    zoo.build_entry("tiny", bundle("tiny") | {"sin_full.npy": b"mine" * 500})
    prepared = plan(zoo, client(hub.endpoint), "tiny")
    _someone_else_commits(hub, TEXT_REPO)
    with pytest.raises(Conflict, match="somebody else") as caught:
        execute(client(hub.endpoint), prepared, entry=zoo.catalog.get("tiny"))
    assert caught.value.hint is not None
    assert "again" in caught.value.hint
    assert zoo.catalog.get("tiny").lock_file.read_bytes() == before
    assert push(zoo, client(hub.endpoint), "tiny").made
    assert "other.txt" in remote_sha256s(hub, TEXT_REPO)


def _someone_else_commits(hub: RunningHub, repo: str, path: str = "other.txt", data: bytes = b"hello\n") -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=hub.endpoint, token="hf_zoo_test")
    add = CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)
    api.create_commit(repo, [add], commit_message="by hand")


def test_two_times_503_on_the_commit_are_waited_out(zoo: TinyZoo, hub: RunningHub) -> None:
    waits = Waits()
    hub.faults.add(Fault(path="/commit/", method="POST", times=2, status=503))
    assert push(zoo, client(hub.endpoint, waits), "tiny").made
    assert waits.seconds == [1.0, 2.0]


def test_retry_after_is_obeyed(zoo: TinyZoo, hub: RunningHub) -> None:
    waits = Waits()
    hub.faults.add(Fault(path="/commit/", method="POST", times=1, status=429, headers={"Retry-After": "7"}))
    assert push(zoo, client(hub.endpoint, waits), "tiny").made
    assert waits.seconds == [7.0]


def test_a_lost_answer_to_the_commit_does_not_make_a_second_one(zoo: TinyZoo, hub: RunningHub) -> None:
    hub.faults.add(Fault(path="/commit/", method="POST", times=1, cut_after=0))
    pushed = push(zoo, client(hub.endpoint), "tiny")
    assert pushed.made
    assert len(hub.log.all("/commit/", "POST")) == 1
    lock = zoo.catalog.get("tiny").lock
    assert lock is not None
    assert lock.files[0].sources[0].commit == pushed.commit
    hub.log.clear()
    assert not push(zoo, client(hub.endpoint), "tiny").made


def test_an_upload_that_is_cut_is_taken_up_again(zoo: TinyZoo, hub: RunningHub) -> None:
    hub.faults.add(Fault(path="/lfs/objects/", method="PUT", times=1, cut_request_after=10_000))
    assert push(zoo, client(hub.endpoint), "tiny").made
    there = remote_sha256s(hub, TEXT_REPO)
    assert there["chunk1.mlmodelc/weights/weight.bin"] == sha256(bundle("tiny")["chunk1.mlmodelc/weights/weight.bin"])


def test_a_hub_that_has_something_else_after_the_commit_is_noticed(
    zoo: TinyZoo, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = client(hub.endpoint)
    prepared = plan(zoo, talk, "tiny")
    honest = talk.listing

    def lying(repo: str, commit: str) -> Listing:
        files = honest(repo, commit).files
        return Listing(
            repo, commit, tuple(_spoiled(file) if file.path == "model_config.json" else file for file in files)
        )

    monkeypatch.setattr(talk, "listing", lying)
    with pytest.raises(DigestMismatch, match=r"model_config\.json"):
        execute(talk, prepared, entry=zoo.catalog.get("tiny"))
    assert zoo.catalog.get("tiny").lock is None


def _spoiled(file: RemoteFile) -> RemoteFile:
    return RemoteFile(file.path, file.size, file.sha256, "0" * 40)


def test_a_build_that_is_not_what_its_lock_says_is_refused_before_anything_is_sent(
    zoo: TinyZoo, hub: RunningHub
) -> None:
    weights = zoo.build / "tiny/chunk1.mlmodelc/weights/weight.bin"
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DigestMismatch, match=r"chunk1\.mlmodelc/weights/weight\.bin.*nothing was sent"):
        push(zoo, client(hub.endpoint), "tiny")
    assert hub.log.all("", "PUT") == []
    assert hub.log.all("/repos/create") == []


def test_no_token_where_one_is_needed(zoo: TinyZoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.hub_server.access import Access, Account
    from zoo.hub_server.settings import HubSettings

    settings = HubSettings(access=Access(accounts={"hf_right": Account("zoo")}))
    with running_hub(tmp_path / "hub2", settings=settings) as hub:
        with pytest.raises(HubError, match="token") as caught:
            push(zoo, client(hub.endpoint), "tiny")
        assert "hf_zoo_test" not in f"{caught.value.message} {caught.value.hint}"
        assert "hf auth login" in (caught.value.hint or "")


def test_a_hub_that_is_not_there(zoo: TinyZoo) -> None:
    waits = Waits()
    with pytest.raises(HubError, match="no answer"):
        push(zoo, client("http://127.0.0.1:9", waits), "tiny")
    assert len(waits.seconds) == 4


def test_a_readme_written_by_hand_stays(zoo: TinyZoo, hub: RunningHub) -> None:
    client(hub.endpoint).create_repo(TEXT_REPO)
    _someone_else_commits(hub, TEXT_REPO, "README.md", b"# By hand\n")
    prepared = plan(zoo, client(hub.endpoint), "tiny")
    assert any("README.md was written by hand" in note for note in prepared.notes)
    execute(client(hub.endpoint), prepared, entry=zoo.catalog.get("tiny"))
    assert remote_sha256s(hub, TEXT_REPO)["README.md"] == sha256(b"# By hand\n")
    push(zoo, client(hub.endpoint), "tiny", overwrite_card=True)
    assert remote_sha256s(hub, TEXT_REPO)["README.md"] != sha256(b"# By hand\n")


def test_delete_removes_what_no_lock_knows_and_only_that(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    _someone_else_commits(hub, TEXT_REPO, "old/chunk2.txt", b"stale")
    prepared = plan(zoo, client(hub.endpoint), "tiny")
    assert prepared.plan.extra == (("old/chunk2.txt", 5),)
    push(zoo, client(hub.endpoint), "tiny", delete=True)
    there = remote_sha256s(hub, TEXT_REPO)
    assert "old/chunk2.txt" not in there
    assert {".gitattributes", "README.md", "zoo.json"} <= set(there)
    assert set(map(in_repo, bundle("tiny"))) <= set(there)


def test_a_pull_request_leaves_branch_and_lock_alone(zoo: TinyZoo, hub: RunningHub) -> None:
    client(hub.endpoint).create_repo(TEXT_REPO)
    before = client(hub.endpoint).resolve(TEXT_REPO, "main")
    pushed = push(zoo, client(hub.endpoint), "tiny", pull_request=True)
    assert pushed.pull_request is not None
    assert pushed.lock_changed is None
    assert zoo.catalog.get("tiny").lock is None
    assert client(hub.endpoint).resolve(TEXT_REPO, "main") == before
    listing = client(hub.endpoint).listing(TEXT_REPO, pushed.commit)
    assert set(map(in_repo, bundle("tiny"))) <= set(listing.by_path())


def test_a_new_branch_starts_at_main_and_copies_nothing_twice(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    hub.log.clear()
    zoo.build_entry("tiny", bundle("tiny") | {"sin_full.npy": b"branch" * 100})
    pushed = push(zoo, client(hub.endpoint), "tiny", branch="n1024")
    assert client(hub.endpoint).resolve(TEXT_REPO, "n1024") == pushed.commit
    assert len(hub.log.all("/lfs/objects/", "PUT")) == 1


def test_a_new_branch_is_made_even_if_main_has_everything(zoo: TinyZoo, hub: RunningHub) -> None:
    client(hub.endpoint).create_repo(TEXT_REPO)
    _someone_else_commits(hub, TEXT_REPO, "README.md", b"# By hand\n")
    first = push(zoo, client(hub.endpoint), "tiny")
    prepared = plan(zoo, client(hub.endpoint), "tiny", branch="n1024")
    assert (prepared.plan.changes, prepared.plan.commits) == (True, False)
    assert "branch n1024 will be made" in push_text(prepared, "tiny")
    pushed = push(zoo, client(hub.endpoint), "tiny", branch="n1024")
    assert not pushed.made
    assert client(hub.endpoint).resolve(TEXT_REPO, "n1024") == pushed.commit == first.commit
    assert not plan(zoo, client(hub.endpoint), "tiny", branch="n1024").plan.changes


def test_without_copying_everything_is_uploaded(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    prepared = plan(zoo, client(hub.endpoint), "tiny-sight", copy=False)
    assert "copy" not in totals(prepared.plan.actions)


def test_a_repo_named_by_hand_is_copied_from(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    zoo.catalog.get("tiny").lock_file.unlink()
    assert "copy" not in totals(plan(zoo, client(hub.endpoint), "tiny-sight").plan.actions)
    named = plan(zoo, client(hub.endpoint), "tiny-sight", copy_from=(TEXT_REPO,))
    assert totals(named.plan.actions)["copy"].count == 7


def test_a_hub_that_refuses_to_copy_says_how_to_go_on(zoo: TinyZoo, hub: RunningHub) -> None:
    push(zoo, client(hub.endpoint), "tiny")
    hub.faults.add(Fault(path="/lfs-files/duplicate", times=1, status=403))
    with pytest.raises(HubError, match="refused") as caught:
        push(zoo, client(hub.endpoint), "tiny-sight")
    assert "--no-copy" in (caught.value.hint or "")
    failed = b'{"failed": [{"sha256": "00", "error": "other region"}]}'
    hub.faults.add(Fault(path="/lfs-files/duplicate", times=1, status=200, body=failed))
    with pytest.raises(HubError, match="other region") as caught:
        push(zoo, client(hub.endpoint), "tiny-sight")
    assert "--no-copy" in (caught.value.hint or "")
    assert push(zoo, client(hub.endpoint), "tiny-sight", copy=False).made


def test_something_that_is_not_a_hub(zoo: TinyZoo, hub: RunningHub) -> None:
    for body in (b"<html>hello</html>", b"{}", b"[]", b"null"):
        hub.faults.add(Fault(path="/api/models/", times=1, status=200, body=body))
        with pytest.raises(HubError):
            plan(zoo, client(hub.endpoint), "tiny")


def test_what_arrived_before_a_failure_is_not_sent_again(zoo: TinyZoo, hub: RunningHub) -> None:
    hub.faults.add(Fault(path="/lfs/objects/", method="PUT", skip=2, times=1, status=403))
    with pytest.raises(HubError):
        push(zoo, client(hub.endpoint), "tiny")
    arrived = {exchange.path for exchange in hub.log.all("/lfs/objects/", "PUT") if exchange.status == 200}
    assert arrived
    assert zoo.catalog.get("tiny").lock is None
    hub.log.clear()
    assert push(zoo, client(hub.endpoint), "tiny").made
    again = {exchange.path for exchange in hub.log.all("/lfs/objects/", "PUT")}
    assert not arrived & again


def test_a_file_that_changes_while_it_is_uploaded_is_not_committed(
    zoo: TinyZoo, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = client(hub.endpoint)
    prepared = plan(zoo, talk, "tiny")
    honest = talk.stage

    def while_somebody_writes(*arguments: Any, **options: Any) -> Any:
        done = honest(*arguments, **options)
        (zoo.build / "tiny/model_config.json").write_bytes(b'{"model": "TINY"}\n')
        return done

    monkeypatch.setattr(talk, "stage", while_somebody_writes)
    with pytest.raises(DigestMismatch, match="changed while it was uploaded"):
        execute(talk, prepared, entry=zoo.catalog.get("tiny"))
    assert hub.log.all("/commit/") == []


def test_a_lost_answer_to_a_pull_request_does_not_open_a_second_one(zoo: TinyZoo, hub: RunningHub) -> None:
    hub.faults.add(Fault(path="/commit/", method="POST", times=1, cut_after=0))
    pushed = push(zoo, client(hub.endpoint), "tiny", pull_request=True)
    assert pushed.pull_request is not None
    assert client(hub.endpoint).pull_request_commits(TEXT_REPO) == {pushed.commit}


def test_files_of_another_entry_on_the_same_branch_are_not_deleted(zoo: TinyZoo, hub: RunningHub) -> None:
    sight = zoo.manifests / "tiny-sight.toml"
    sight.write_text(sight.read_text().replace(SIGHT_REPO, TEXT_REPO))
    zoo.build_entry("tiny-sight")
    push(zoo, client(hub.endpoint), "tiny-sight")
    push(zoo, client(hub.endpoint), "tiny", delete=True)
    assert "vision.ane.mlmodelc/weights/weight.bin" in remote_sha256s(hub, TEXT_REPO)
