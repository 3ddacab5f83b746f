"""The stock `hf` command, in a process and a home of its own, with xet enabled as it is by default."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.zoo.hub_server.conftest import HfCommand
from zoo.hub_server.process import RunningHub, running_hub
from zoo.hub_server.records import RepoId
from zoo.hub_server.settings import HubSettings


def test_create_upload_and_download(hf: HfCommand, hub: RunningHub, folder: Path, tmp_path: Path) -> None:
    assert hf("repos", "create", "me/a").returncode == 0

    done = hf("upload", "me/a", str(folder), HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    planned = hf("download", "me/a", "--dry-run")
    assert "Will download 7 files" in planned.stdout

    hub.log.clear()
    done = hf("download", "me/a", "--local-dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    for source in (path for path in folder.rglob("*") if path.is_file()):
        copy = tmp_path / "out" / source.relative_to(folder)
        assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    assert not hub.log.all("xet")
    assert hub.log.bytes_sent_twice() == 0


def test_upload_by_xet(hf: HfCommand, hub: RunningHub, folder: Path) -> None:
    done = hf("upload", "me/a", str(folder))
    assert done.returncode == 0, done.stderr
    assert hub.log.all("/xet-write-token/")
    assert not hub.log.all("/lfs/", "PUT")
    listed = hub.store.snapshot(RepoId("models", "me/a"), "main").files
    for source in (path for path in folder.rglob("*") if path.is_file()):
        sha256 = listed[source.relative_to(folder).as_posix()].sha256
        assert hub.store.blobs.read(sha256) == source.read_bytes()


def test_where_xet_cannot_be_the_client_is_told_what_to_do(hf: HfCommand, tmp_path: Path, folder: Path) -> None:
    with running_hub(tmp_path / "other", settings=HubSettings(xet_uploads=False)) as other:
        failed = hf("upload", "me/a", str(folder), HF_ENDPOINT=other.endpoint)
        assert failed.returncode != 0
        assert "set-HF_HUB_DISABLE_XET=1" in failed.stderr.splitlines()[-1]
        # Small files need no xet, so they need no advice either.
        done = hf("upload", "me/a", str(folder / "config.json"), "config.json", HF_ENDPOINT=other.endpoint)
        assert done.returncode == 0
