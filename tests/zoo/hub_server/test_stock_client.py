"""What people do with the stock `hf` command, one after the other, on one Hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, HfFileSystem, close_session
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from tests.zoo.stock_client import HF_PROGRAM
from zoo.hub_server.process import RunningHub, running_hub
from zoo.hub_server.records import RepoId

Run = Callable[..., subprocess.CompletedProcess[str]]

WEIGHT = bytes(range(256)) * 1000
FILES = {
    "weights/weight.bin": WEIGHT,
    "weights/table.npy": WEIGHT[:70_000],
    "config.json": b'{"a": 1}\n',
    "README.md": b"---\nlicense: gemma\n---\n# A bundle\n",
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("room")


@pytest.fixture(scope="module")
def hub(room: Path) -> Iterator[RunningHub]:
    with running_hub(room / "hub") as running:
        yield running
    close_session()


@pytest.fixture(scope="module")
def bundle(room: Path) -> Path:
    for name, data in FILES.items():
        (room / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (room / "bundle" / name).write_bytes(data)
    return room / "bundle"


@pytest.fixture(scope="module")
def hf(hub: RunningHub, room: Path) -> Run:
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    environment |= {"HOME": str(room), "HF_HOME": str(room / "hf"), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "any"}
    environment |= {"NO_COLOR": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}

    def run(*arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(HF_PROGRAM), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode != 0) == fails, f"hf {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="module")
def api(hub: RunningHub) -> HfApi:
    return HfApi(hub.endpoint, token="any")


@pytest.fixture(scope="module")
def made(hf: Run, bundle: Path, hub: RunningHub) -> str:
    """A repo with the bundle in it, by `hf repos create` and `hf upload`, large files by xet."""
    hf("repos", "create", "me/a")
    hf("upload", "me/a", str(bundle))
    assert hub.log.all("/xet-write-token/")
    assert files(hub, "me/a") == {**FILES, ".gitattributes": files(hub, "me/a")[".gitattributes"]}
    return "me/a"


def files(hub: RunningHub, repo: str, revision: str = "main") -> dict[str, bytes]:
    found = hub.store.snapshot(RepoId("models", repo), revision).files
    return {path: hub.store.blobs.read(entry.sha256) for path, entry in found.items()}


def local(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_who_am_i(hf: Run) -> None:
    assert "zoo" in hf("auth", "whoami").stdout


def test_lists(hf: Run, made: str) -> None:
    assert [row["id"] for row in rows(hf("models", "ls", "--author", "me", "--json"))] == [made]
    assert made in hf("repos", "ls", "--json").stdout
    listing = hf("models", "ls", made, "-R").stdout
    assert all(name in listing for name in FILES)
    assert json.loads(hf("models", "info", made, "--json").stdout)["id"] == made
    assert "# A bundle" in hf("models", "card", made).stdout


def test_download_a_part_a_revision_and_all(hf: Run, api: HfApi, hub: RunningHub, made: str, room: Path) -> None:
    hf("download", made, "--include", "weights/*", "--exclude", "*.npy", "--local-dir", str(room / "part"))
    assert local(room / "part") == {"weights/weight.bin": WEIGHT}
    first = hub.store.history(RepoId("models", made), "main")[-1][0]
    hf("download", made, "--revision", first, "--local-dir", str(room / "first"))
    assert local(room / "first").keys() == {".gitattributes"}
    hf("download", made, "config.json", "--local-dir", str(room / "one"))
    assert local(room / "one") == {"config.json": FILES["config.json"]}
    assert "(out of 5)" in hf("download", made, "--dry-run").stdout
    assert local(Path(str(api.snapshot_download(made, cache_dir=room / "all")))) == files(hub, made)
    assert not hub.log.all("/xet-read-token/")


def test_the_cache(hf: Run, made: str) -> None:
    (blob,) = Path(hf("download", made, "-q").stdout.strip()).rglob("weight.bin")
    assert made in hf("cache", "ls").stdout
    hf("cache", "verify", made)
    good = blob.read_bytes()
    blob.resolve().chmod(0o644)
    blob.resolve().write_bytes(bytes([good[0] ^ 1]) + good[1:])
    hf("cache", "verify", made, fails=True)
    hf("cache", "rm", f"model/{made}", "-y")
    hf("cache", "prune", "-y")
    assert made not in hf("cache", "ls").stdout


def test_branches_and_tags(hf: Run, api: HfApi, made: str, bundle: Path) -> None:
    hf("repos", "branch", "create", made, "dev")
    hf("repos", "tag", "create", made, "v1", "--revision", "dev", "-m", "a message")
    assert "v1" in hf("repos", "tag", "list", made).stdout
    hf("upload", made, str(bundle / "config.json"), "other.json", "--revision", "dev")
    assert api.file_exists(made, "other.json", revision="dev")
    assert not api.file_exists(made, "other.json", revision="v1")
    assert api.revision_exists(made, "v1")
    assert [branch.name for branch in api.list_repo_refs(made).branches] == ["dev", "main"]
    hf("repos", "tag", "delete", made, "v1", "-y")
    hf("repos", "branch", "delete", made, "dev")
    assert [branch.name for branch in api.list_repo_refs(made).branches] == ["main"]


def test_copies_within_and_between_repos(hf: Run, hub: RunningHub, made: str) -> None:
    hf("repos", "create", "me/copies")
    hub.log.clear()
    hf("cp", f"hf://{made}/weights/weight.bin", "hf://me/copies/w.bin")
    hf("cp", f"hf://{made}/config.json", "hf://me/copies/config.json")
    hf("cp", "hf://me/copies/w.bin", "hf://me/copies/again.bin")
    found = files(hub, "me/copies")
    assert found["w.bin"] == found["again.bin"] == WEIGHT
    assert found["config.json"] == FILES["config.json"]
    assert hub.log.bytes_received() < len(WEIGHT) // 10
    hf("repos", "delete", "me/copies", "-y")


def test_pull_requests(hf: Run, api: HfApi, hub: RunningHub, made: str, bundle: Path) -> None:
    hf("upload", made, str(bundle / "config.json"), "new.json", "--create-pr", "--commit-message", "One more")
    api.create_pull_request(made, "Later")
    assert {row["title"] for row in rows(hf("discussions", "ls", made, "--json"))} == {"One more", "Later"}
    assert "One more" in hf("discussions", "info", made, "1").stdout
    assert "new.json" not in files(hub, made)
    api.rename_discussion(made, 2, "Much later")
    hf("discussions", "close", made, "2", "-y")
    assert [(found.num, found.title) for found in api.get_repo_discussions(made)] == [
        (2, "Much later"),
        (1, "One more"),
    ]
    assert [found.num for found in api.get_repo_discussions(made, discussion_status="open")] == [1]
    with pytest.raises(HfHubHTTPError, match="is closed"):
        api.merge_pull_request(made, 2)
    assert api.change_discussion_status(made, 2, "open").type == "status-change"
    hf("discussions", "merge", made, "1", "-y")
    assert "new.json" in files(hub, made)
    assert api.get_discussion_details(made, 1).merge_commit_oid == api.model_info(made).sha
    with pytest.raises(HfHubHTTPError, match="is merged"):
        api.merge_pull_request(made, 1)
    assert "no discussions" in hf("discussions", "create", made, "--title", "A talk", fails=True).stderr
    with pytest.raises(HfHubHTTPError, match="has no POST"):
        api.comment_discussion(made, 2, "Hm")


def test_duplicate_move_and_delete(hf: Run, hub: RunningHub, api: HfApi, made: str) -> None:
    hf("repos", "duplicate", made, "you/twin")
    assert files(hub, "you/twin") == files(hub, made)
    hf("repos", "move", "you/twin", "me/Twin")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("you/twin")
    hf("repos", "delete-files", "me/Twin", "weights/*", "config.json")
    assert not {name for name in files(hub, "me/Twin") if name.startswith("weights")}
    assert files(hub, made)["weights/weight.bin"] == WEIGHT
    with pytest.raises(HfHubHTTPError, match="exists already"):
        api.move_repo("me/Twin", made)
    hf("repos", "settings", "me/Twin", "--private")
    assert hub.store.repo_info(RepoId("models", "me/Twin")).private
    hf("repos", "delete", "me/Twin", "-y")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/Twin")


def test_a_history_of_one_commit(api: HfApi, hub: RunningHub, made: str) -> None:
    api.duplicate_repo(made, to_id="me/squashed")
    before = files(hub, "me/squashed")
    api.super_squash_history("me/squashed", commit_message="all of it")
    assert [commit.title for commit in api.list_repo_commits("me/squashed")] == ["all of it"]
    assert files(hub, "me/squashed") == before
    api.auth_check("me/squashed")
    with pytest.raises(RepositoryNotFoundError):
        api.auth_check("me/none")
    api.delete_repo("me/squashed")


def test_a_file_system(hub: RunningHub, made: str) -> None:
    system = HfFileSystem(endpoint=hub.endpoint, token="any", skip_instance_cache=True)
    assert {Path(str(path)).name for path in system.ls(f"{made}/weights", detail=False)} == {"table.npy", "weight.bin"}
    with system.open(f"{made}/weights/weight.bin", "rb") as file:
        file.seek(1000)
        assert file.read(10) == WEIGHT[1000:1010]


def test_datasets_and_spaces(hf: Run, api: HfApi, bundle: Path, room: Path) -> None:
    hf("repos", "create", "me/data", "--type", "dataset")
    hf("upload", "me/data", str(bundle), "--repo-type", "dataset", "--delete", "*.txt")
    hf("download", "me/data", "weights/weight.bin", "--repo-type", "dataset", "--local-dir", str(room / "data"))
    assert hashlib.sha256((room / "data/weights/weight.bin").read_bytes()).digest() == hashlib.sha256(WEIGHT).digest()
    api.create_repo("me/space", repo_type="space", space_sdk="static")
    assert [space.id for space in api.list_spaces(author="me")] == ["me/space"]


@pytest.mark.parametrize(
    "what",
    [
        ("buckets", "create", "me/bucket"),
        ("collections", "ls"),
        ("jobs", "ps"),
        ("webhooks", "ls"),
        ("papers", "ls"),
    ],
    ids=lambda what: what[0],
)
def test_what_is_not_there_is_said_at_once(hf: Run, what: tuple[str, ...]) -> None:
    failed = hf(*what, fails=True)
    assert "This Hub has no" in failed.stderr, failed.stderr
    assert "Traceback" not in failed.stderr


def test_what_only_the_library_asks_for(api: HfApi, made: str) -> None:
    for ask in (
        lambda: list(api.list_lfs_files(made)),
        lambda: list(api.list_repo_likers(made)),
        lambda: api.get_user_overview("me"),
        lambda: api.accept_access_request(made, "you"),
    ):
        with pytest.raises(HfHubHTTPError, match="This Hub has no") as caught:
            ask()
        assert caught.value.response.status_code == 501
