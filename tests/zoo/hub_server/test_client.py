"""The Hub as the stock client sees it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder

from zoo.hub_server.process import RunningHub, running_hub
from zoo.hub_server.records import RepoId
from zoo.hub_server.settings import HubSettings

BIG = bytes(range(256)) * 4096
BIG_SHA256 = hashlib.sha256(BIG).hexdigest()


def files(api: HfApi, repo: str, revision: str | None = None) -> dict[str, RepoFile]:
    listing = api.list_repo_tree(repo, recursive=True, revision=revision)
    return {item.path: item for item in listing if isinstance(item, RepoFile)}


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts and path.name != ".gitattributes"
    }


def test_a_folder_comes_back_as_it_was(
    api: HfApi, hub: RunningHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.create_repo("me/a")
    api.upload_folder(repo_id="me/a", folder_path=folder)
    listed = files(api, "me/a")
    assert listed.keys() == {*digests(folder), ".gitattributes"}
    for path, item in listed.items():
        assert item.xet_hash is None
        if path.endswith((".npy", "weight.bin")):
            assert item.lfs is not None
            assert item.lfs.sha256 == digests(folder)[path]
        else:
            assert item.lfs is None
    # Xet is enabled for the download: nothing may send the client to a xet server.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.log.clear()
    api.snapshot_download("me/a", local_dir=tmp_path / "out")
    assert digests(tmp_path / "out") == digests(folder)
    assert not hub.log.all("xet")
    assert hub.log.bytes_sent_twice() == 0
    checked = api.verify_repo_checksums("me/a", local_dir=tmp_path / "out")
    assert (checked.mismatches, checked.missing_paths) == ([], [])


def test_what_is_there_is_not_sent_again(api: HfApi, hub: RunningHub, folder: Path) -> None:
    api.create_repo("me/a")
    first = api.upload_folder(repo_id="me/a", folder_path=folder)
    hub.log.clear()
    again = api.upload_folder(repo_id="me/a", folder_path=folder)
    assert again.oid == first.oid
    assert not hub.log.all("", "PUT")
    assert not hub.log.all("/commit/")
    # A file that moved is new to the tree but not to the repo.
    api.upload_file(repo_id="me/a", path_or_fileobj=folder / "table + 100%.npy", path_in_repo="moved.npy")
    assert not hub.log.all("/lfs/objects/", "PUT")
    assert "moved.npy" in files(api, "me/a")


def test_a_copy_between_repos_moves_no_bytes(api: HfApi, hub: RunningHub, tmp_path: Path) -> None:
    source = api.create_repo("me/source").repo_id
    api.create_commit(
        source, [CommitOperationAdd("w.bin", BIG), CommitOperationAdd("s.txt", b"small")], commit_message="m"
    )
    target = api.create_repo("me/target").repo_id
    head = api.model_info(target).sha
    hub.log.clear()
    done = api.create_commit(
        target,
        [
            CommitOperationCopy("w.bin", "copied/w.bin", src_repo_id=source, src_repo_type="model"),
            CommitOperationCopy("s.txt", "s.txt", src_repo_id=source, src_repo_type="model"),
            CommitOperationAdd("new.bin", b"\0new"),
        ],
        commit_message="copy and add",
        parent_commit=head,
    )
    assert [e.received for e in hub.log.all("/lfs/objects/", "PUT")] == [len(b"\0new")]
    assert hub.log.bytes_received() < 4000
    assert not hub.log.all(r"resolve/.*w\.bin")
    listed = files(api, target, done.oid)
    assert listed.keys() == {".gitattributes", "copied/w.bin", "s.txt", "new.bin"}
    lfs = listed["copied/w.bin"].lfs
    assert lfs is not None
    assert lfs.sha256 == BIG_SHA256
    local = api.hf_hub_download(target, "copied/w.bin", local_dir=tmp_path / "out")
    assert Path(local).read_bytes() == BIG


def test_the_xet_hash_is_the_true_one_and_shown_in_paths_info_alone(api: HfApi, tmp_path: Path) -> None:
    from hf_xet import hash_files  # type: ignore[import-untyped]

    (tmp_path / "w").write_bytes(BIG)
    api.create_repo("me/a")
    api.create_commit("me/a", [CommitOperationAdd("d/w.bin", BIG)], commit_message="m")
    info, folder = api.get_paths_info("me/a", ["d/w.bin", "none", "d"])
    assert isinstance(info, RepoFile)
    assert isinstance(folder, RepoFolder)
    assert info.xet_hash == hash_files([str(tmp_path / "w")])[0].hash
    assert files(api, "me/a")["d/w.bin"].xet_hash is None


def test_a_digest_is_no_right_to_the_bytes(api: HfApi, hub: RunningHub) -> None:
    api.create_repo("me/secret")
    api.create_commit("me/secret", [CommitOperationAdd("w.bin", BIG)], commit_message="m")
    api.create_repo("me/thief")
    line = {"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": BIG_SHA256, "size": len(BIG)}}
    response = commit_lines(hub, "me/thief", line)
    assert response.status_code == 400
    assert "was not uploaded" in response.headers["X-Error-Message"]


def commit_lines(hub: RunningHub, repo: str, *lines: Mapping[str, object]) -> requests.Response:
    header = {"key": "header", "value": {"summary": "m"}}
    body = "\n".join(json.dumps(line) for line in (header, *lines))
    return requests.post(f"{hub.endpoint}/api/models/{repo}/commit/main", data=body.encode(), timeout=20)


def test_hostile_paths_in_a_commit(hub: RunningHub) -> None:
    repo = RepoId("models", "me/a")
    hub.store.create_repo(repo)
    before = hub.store.resolve(repo, "main")
    good = {"key": "file", "value": {"path": "good.txt", "content": "aGk=", "encoding": "base64"}}
    for path in ("../x", "/x", "a\\b", "a\nb", "a//b", ".git/x", "", "\ud800", ".gitattributes/x"):
        bad = {"key": "file", "value": {"path": path, "content": "aGk=", "encoding": "base64"}}
        response = commit_lines(hub, "me/a", good, bad)
        assert response.status_code == 400, path
        assert "Invalid path" in response.headers["X-Error-Message"], path
    assert hub.store.resolve(repo, "main") == before


def test_names_that_differ_in_case_alone_are_two_files_as_in_git(api: HfApi) -> None:
    api.create_repo("me/a")
    api.create_commit(
        "me/a", [CommitOperationAdd("A.txt", b"1"), CommitOperationAdd("a.txt", b"2")], commit_message="m"
    )
    assert {"A.txt", "a.txt"} <= files(api, "me/a").keys()


def test_pages(tmp_path: Path, no_xet_uploads: None) -> None:
    with running_hub(tmp_path / "hub", settings=HubSettings(page_size=7)) as hub:
        api = HfApi(hub.endpoint, token="any")
        api.create_repo("me/a")
        names = [f"d{n % 4}/file + {n:02d}%&=?.txt" for n in range(30)]
        api.create_commit("me/a", [CommitOperationAdd(name, b"x") for name in names], commit_message="m")
        hub.log.clear()
        assert files(api, "me/a").keys() == {*names, ".gitattributes"}
        assert len(hub.log.all("/tree/")) == 5  # 31 files and 4 folders, 7 a page
        top = list(api.list_repo_tree("me/a"))
        assert [item.path for item in top] == [".gitattributes", "d0", "d1", "d2", "d3"]
        inside = list(api.list_repo_tree("me/a", "d1"))
        assert [item.path for item in inside] == sorted(name for name in names if name.startswith("d1/"))
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree("me/a", "none"))


def test_multipart_upload(tmp_path: Path, no_xet_uploads: None) -> None:
    settings = HubSettings(multipart_threshold=100_000, part_size=300_000)
    with running_hub(tmp_path / "hub", settings=settings) as hub:
        api = HfApi(hub.endpoint, token="any")
        api.create_repo("me/a")
        api.create_commit("me/a", [CommitOperationAdd("w.bin", BIG)], commit_message="m")
        parts = hub.log.all("/lfs/parts/", "PUT")
        assert [part.received for part in parts] == [300_000, 300_000, 300_000, len(BIG) - 900_000]
        assert hub.store.blobs.read(BIG_SHA256) == BIG


def test_the_branch_must_be_where_the_client_saw_it(api: HfApi) -> None:
    api.create_repo("me/a")
    start = api.model_info("me/a").sha
    assert start is not None
    api.create_commit("me/a", [CommitOperationAdd("a", b"1")], commit_message="first", parent_commit=start)
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit("me/a", [CommitOperationAdd("b", b"2")], commit_message="second", parent_commit=start)
    assert caught.value.response.status_code == 412
    head = api.model_info("me/a").sha
    assert head is not None
    api.create_commit("me/a", [CommitOperationAdd("b", b"2")], commit_message="second", parent_commit=head[:10])
    assert [commit.title for commit in api.list_repo_commits("me/a")] == ["second", "first", "initial commit"]


def test_pull_request(api: HfApi) -> None:
    api.create_repo("me/a")
    main = api.model_info("me/a").sha
    done = api.create_commit("me/a", [CommitOperationAdd("a", b"1")], commit_message="change", create_pr=True)
    assert done.pr_revision == "refs/pr/1"
    assert api.model_info("me/a").sha == main
    assert "a" in files(api, "me/a", "refs/pr/1")
    api.create_commit("me/a", [CommitOperationAdd("b", b"2")], commit_message="more", revision="refs/pr/1")
    opened = api.create_pull_request("me/a", "another one")
    assert (opened.num, opened.git_reference, opened.is_pull_request) == (2, "refs/pr/2", True)
    api.merge_pull_request("me/a", 1)
    assert {"a", "b"} <= files(api, "me/a").keys()
    refs = api.list_repo_refs("me/a", include_pull_requests=True)
    assert refs.pull_requests is not None
    assert [ref.ref for ref in refs.pull_requests] == ["refs/pr/1", "refs/pr/2"]


def test_branches_and_tags(api: HfApi) -> None:
    api.create_repo("me/a")
    first = api.create_commit("me/a", [CommitOperationAdd("a", b"1")], commit_message="one").oid
    api.create_branch("me/a", branch="dev/x", revision=first)
    api.create_tag("me/a", tag="v1", revision="dev/x")
    with pytest.raises(HfHubHTTPError):
        api.create_branch("me/a", branch="dev/x")
    api.create_branch("me/a", branch="dev/x", exist_ok=True)
    api.create_commit("me/a", [CommitOperationAdd("a", b"2")], commit_message="two", revision="dev/x")
    assert api.model_info("me/a", revision="v1").sha == first == api.model_info("me/a").sha
    assert api.model_info("me/a", revision=first[:8]).sha == first
    assert api.model_info("me/a", revision="dev/x").sha != first
    with pytest.raises(RevisionNotFoundError):
        api.create_commit("me/a", [CommitOperationAdd("a", b"3")], commit_message="tags stay", revision="v1")
    api.delete_branch("me/a", branch="dev/x")
    api.delete_tag("me/a", tag="v1")
    refs = api.list_repo_refs("me/a")
    assert ([branch.name for branch in refs.branches], refs.tags) == (["main"], [])
    with pytest.raises(HfHubHTTPError):
        api.delete_branch("me/a", branch="main")


def test_deleting(api: HfApi) -> None:
    api.create_repo("me/a")
    names = ["d/x", "d/y", "dd/z", "w.bin"]
    api.create_commit("me/a", [CommitOperationAdd(name, b"1") for name in names], commit_message="m")
    api.create_commit("me/a", [CommitOperationDelete("d/"), CommitOperationDelete("w.bin")], commit_message="m")
    assert files(api, "me/a").keys() == {".gitattributes", "dd/z"}
    with pytest.raises(EntryNotFoundError):
        api.create_commit("me/a", [CommitOperationDelete("none")], commit_message="m")
    api.delete_repo("me/a")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/a")
    api.delete_repo("me/a", missing_ok=True)


def test_creating_twice(api: HfApi) -> None:
    assert api.whoami()["name"] == "zoo"
    assert api.create_repo("me/a") == api.create_repo("me/a", exist_ok=True)
    for name in ("me/a", "Me/A"):
        with pytest.raises(HfHubHTTPError) as caught:
            api.create_repo(name)
        assert caught.value.response.status_code == 409
    assert api.create_repo("short").repo_id == "zoo/short"
    assert [model.id for model in api.list_models(author="me")] == ["me/a"]


def test_datasets_are_another_room(api: HfApi, tmp_path: Path) -> None:
    api.create_repo("me/a", repo_type="dataset")
    api.create_commit("me/a", [CommitOperationAdd("d.bin", BIG)], commit_message="m", repo_type="dataset")
    path = api.hf_hub_download("me/a", "d.bin", repo_type="dataset", local_dir=tmp_path / "out")
    assert Path(path).read_bytes() == BIG
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/a")


def test_a_restart_sees_everything_and_the_same_files_give_the_same_commits(
    tmp_path: Path, no_xet_uploads: None
) -> None:
    heads = []
    for name in ("one", "two"):
        with running_hub(tmp_path / name) as hub:
            api = HfApi(hub.endpoint, token="any")
            api.create_repo("me/a")
            api.create_commit("me/a", [CommitOperationAdd("w.bin", BIG)], commit_message="m", commit_description="why")
            api.create_commit("me/a", [CommitOperationAdd("x", b"1")], commit_message="pr", create_pr=True)
            heads.append(api.model_info("me/a").sha)
        with running_hub(tmp_path / name) as hub:
            api = HfApi(hub.endpoint, token="any")
            assert api.model_info("me/a").sha == heads[-1]
            path = api.hf_hub_download("me/a", "w.bin", revision="refs/pr/1", local_dir=tmp_path / f"{name}-out")
            assert Path(path).read_bytes() == BIG
    assert heads[0] == heads[1]
