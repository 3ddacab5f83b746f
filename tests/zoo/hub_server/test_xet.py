"""Uploads by xet, by the stock client with hf_xet as it is installed."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import BadRequestError
from huggingface_hub.hf_api import RepoFile

from zoo.hub_server import xet
from zoo.hub_server.errors import Refusal
from zoo.hub_server.process import RunningHub, running_hub
from zoo.hub_server.records import RepoId
from zoo.hub_server.settings import HubSettings
from zoo.hub_server.xet import XetFile, parse_shard

hf_xet = pytest.importorskip("hf_xet")

REPO = RepoId("models", "me/a")


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path / "hub") as running:
        HfApi(running.endpoint, token="any").create_repo("me/a")
        yield running


@pytest.fixture
def api(hub: RunningHub) -> HfApi:
    return HfApi(hub.endpoint, token="any")


def stages(hub: RunningHub) -> list[Path]:
    return [path for path in (hub.directory / "uploads").iterdir() if any(path.rglob("*.mdb"))]


def test_a_folder_comes_by_xet_and_goes_by_http(
    api: HfApi, hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(300_000) * 12  # repeats: several segments, fewer chunks than bytes
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "w.bin").write_bytes(data)
    (folder / "v.bin").write_bytes(data[: 1 << 20])
    (folder / "config.json").write_text("{}")
    api.upload_folder(repo_id="me/a", folder_path=folder)
    assert hub.log.all("/xet-write-token/main")
    assert not hub.log.all("/lfs/", "PUT")
    listed = {item.path: item for item in api.list_repo_tree("me/a") if isinstance(item, RepoFile)}
    for name in ("w.bin", "v.bin"):
        lfs = listed[name].lfs
        assert lfs is not None
        assert lfs.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert lfs.size == listed[name].size == (folder / name).stat().st_size
    assert stages(hub) == []

    path = api.hf_hub_download("me/a", "w.bin", local_dir=tmp_path / "out")
    assert Path(path).read_bytes() == data
    assert not hub.log.all("/xet-read-token/")
    url = f"{hub.endpoint}/me/a/resolve/main/w.bin"
    part = requests.get(url, headers={"Range": "bytes=299999-300000"}, timeout=20)
    assert (part.status_code, part.content) == (206, data[299_999:300_001])
    # The xet hash that lets the client copy between repos is the one the client itself would compute.
    info = api.get_paths_info("me/a", ["w.bin"])[0]
    assert isinstance(info, RepoFile)
    assert info.xet_hash == hf_xet.hash_files([str(folder / "w.bin")])[0].hash


def test_a_single_file_and_one_sent_ahead_of_its_commit(api: HfApi, hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(content(200_000))
    api.upload_file(repo_id="me/a", path_or_fileobj=tmp_path / "w.bin", path_in_repo="d/w.bin")
    first, second = (CommitOperationAdd(f"{n}.bin", content(100_000, n)) for n in (1, 2))
    api.preupload_lfs_files("me/a", [first])
    api.preupload_lfs_files("me/a", [second])
    assert len(stages(hub)) == 2
    api.create_commit("me/a", [first, second], commit_message="m")
    assert stages(hub) == []
    files = hub.store.snapshot(REPO, "main").files
    assert hub.store.blobs.read(files["1.bin"].sha256) == content(100_000, 1)
    assert hub.store.blobs.read(files["d/w.bin"].sha256) == content(200_000)


def test_a_digest_that_is_not_that_of_the_content(api: HfApi, hub: RunningHub) -> None:
    operation = CommitOperationAdd("w.bin", content(100_000))
    operation.upload_info.sha256 = bytes(32)  # the client takes its word for it
    with pytest.raises(BadRequestError, match="Digest mismatch"):
        api.create_commit("me/a", [operation], commit_message="m")
    assert "w.bin" not in hub.store.snapshot(REPO, "main").files
    assert hub.store.blobs.size("0" * 64) is None
    with pytest.raises(BadRequestError, match="was not uploaded"):
        api.create_commit("me/a", [other_repo_s_upload(api, hub)], commit_message="m")


def other_repo_s_upload(api: HfApi, hub: RunningHub) -> CommitOperationAdd:
    api.create_repo("me/b")
    operation = CommitOperationAdd("x.bin", content(50_000, 9))
    api.preupload_lfs_files("me/b", [operation])
    assert hub.store.xet.fetch(REPO, [operation.upload_info.sha256.hex()]) == set()
    return operation


def test_a_damaged_upload_is_refused(api: HfApi, hub: RunningHub) -> None:
    operation = CommitOperationAdd("w.bin", content(100_000))
    api.preupload_lfs_files("me/a", [operation])
    (stage,) = stages(hub)
    (chunks,) = (path for path in stage.glob("xet/xorbs/xorbs/default.*") if path.suffix != ".tagset")
    chunks.chmod(0o600)
    data = bytearray(chunks.read_bytes())
    data[50_000] ^= 1
    chunks.write_bytes(data)
    with pytest.raises(BadRequestError, match=r"Digest mismatch|cannot be read"):
        api.create_commit("me/a", [operation], commit_message="m")
    chunks.unlink()
    # hf_xet either says so or ends the stream early.
    with pytest.raises(Refusal, match=r"cannot be read|Size mismatch"):
        hub.store.xet.fetch(REPO, [operation.upload_info.sha256.hex()])
    leftover = {path.name for path in (hub.directory / "uploads").iterdir()}
    assert leftover == {stage.name}


def test_uploads_that_were_given_up_are_swept(
    api: HfApi, hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.bin").write_bytes(content(100_000))
    api.upload_file(repo_id="me/a", path_or_fileobj=tmp_path / "w.bin", path_in_repo="w.bin")
    # The client sends first and finds out afterwards that nothing changed: no commit follows.
    api.upload_folder(repo_id="me/a", folder_path=tmp_path, allow_patterns="w.bin")
    api.preupload_lfs_files("me/a", [CommitOperationAdd("new.bin", content(100_000, 1))])
    assert len(stages(hub)) == 2
    hub.store.sweep()
    assert len(stages(hub)) == 2  # too fresh to be sure
    monkeypatch.setattr(xet, "QUIET_S", -1.0)
    hub.store.sweep()
    assert len(stages(hub)) == 1  # the one that holds something new
    monkeypatch.setattr(xet, "STAGE_LIFE_S", -1.0)
    hub.store.sweep()
    assert stages(hub) == []


def test_only_who_shares_the_disk_is_told_a_folder(hub: RunningHub, tmp_path: Path) -> None:
    address = f"{hub.endpoint}/api/models/me/a/xet-write-token/main"
    told = requests.get(address, timeout=20)
    assert told.json()["casUrl"].startswith(f"local://{hub.directory.resolve() / 'uploads'}{os.sep}")
    assert not any(name.lower().startswith("x-xet") for name in told.headers)
    for host in ("my-mac.local:8750", "192.168.1.7"):
        answer = requests.get(address, headers={"Host": host}, timeout=20, allow_redirects=False)
        assert answer.status_code == 307
        assert answer.headers["Location"].startswith(f"http://{host}/this-Hub-takes-LFS")
    with running_hub(tmp_path / "other", settings=HubSettings(xet_uploads=False)) as other:
        other.store.create_repo(REPO)
        answer = requests.get(address.replace(hub.endpoint, other.endpoint), timeout=20)
        assert answer.status_code == 400
        assert "HF_HUB_DISABLE_XET=1" in answer.headers["X-Error-Message"]


def test_the_folder_is_private(hub: RunningHub) -> None:
    assert (hub.directory / "uploads").stat().st_mode & 0o777 == 0o700


def test_a_library_that_changed_is_not_used(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xet, "_INDEX", "moved.redb")
    answer = requests.get(f"{hub.endpoint}/api/models/me/a/xet-write-token/main", timeout=20)
    assert answer.status_code == 400


def test_a_shard_as_hf_xet_writes_it(tmp_path: Path) -> None:
    commit = hf_xet.XetSession().new_upload_commit(endpoint=f"local://{tmp_path}")
    pieces = {hashlib.sha256(data).hexdigest(): data for data in (content(500_000, 1), content(70_000, 2))}
    handles = [commit.start_upload_bytes(data, sha256=hf_xet.COMPUTE_SHA256) for data in pieces.values()]
    commit.wait_to_finish()
    found: list[XetFile] = []
    for shard in tmp_path.glob("xet/xorbs/shards/*.mdb"):
        found += parse_shard(shard.read_bytes())
        for cut in (10, 60, 100, 300):
            with pytest.raises(Refusal, match="incomplete"):
                parse_shard(shard.read_bytes()[:cut])
    hashes = {handle.result().xet_info.hash for handle in handles}
    assert {file.xet_hash for file in found} == hashes
    assert {file.sha256: file.size for file in found} == {sha256: len(data) for sha256, data in pieces.items()}
