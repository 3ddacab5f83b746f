from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.cli.in_process import TOKEN, environment, run_zoo
from tests.zoo.stock_client import HF_PROGRAM
from tests.zoo.transfer.push_support import SIGHT_REPO, TEXT_REPO, TinyZoo, bundle, tiny_zoo
from zoo.errors import CheckFailed, DiskError, HubError, InvalidDocument, UsageError
from zoo.hub_server.process import RunningHub, running_hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def zoo(tmp_path: Path) -> TinyZoo:
    return tiny_zoo(tmp_path)


def test_push_and_push_again_and_the_stock_client_gets_the_same_bytes(
    tmp_path: Path, zoo: TinyZoo, hub: RunningHub
) -> None:
    dry = run_zoo("push", "tiny", "--dry-run", cwd=tmp_path, hub=hub)
    assert dry.returncode == 0, dry.stderr
    assert "does not exist yet" in dry.stdout
    assert "to send" in dry.stdout
    assert hub.log.all("", "PUT") == []
    assert hub.log.all("/repos/create") == []
    first = run_zoo("push", "tiny", "--format", "json", cwd=tmp_path, hub=hub)
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert document["repo"] == TEXT_REPO
    assert document["result"]["made"] is True
    assert document["bytes_to_move"] == document["totals"]["upload"]["bytes"]
    again = run_zoo("push", "tiny", cwd=tmp_path, hub=hub)
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert "lock unchanged" in again.stdout
    _download_with_the_stock_client(hub, TEXT_REPO, tmp_path)


def _download_with_the_stock_client(hub: RunningHub, repo: str, directory: Path) -> None:
    place = directory / "downloaded"
    result = subprocess.run(
        [str(HF_PROGRAM), "download", repo, "--local-dir", str(place)],
        env=environment(hub, directory),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    index = json.loads((place / "zoo.json").read_text())
    files = bundle("tiny")
    assert {file["path"] for file in index["files"]} == set(files)
    for file in index["files"]:
        data = (place / file["in_repo"]).read_bytes()
        assert data == files[file["path"]]
        assert hashlib.sha256(data).hexdigest() == file["sha256"]


def test_a_sibling_is_copied_by_the_hub_and_the_plan_says_so(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    assert run_zoo("push", "tiny", "-q", cwd=tmp_path, hub=hub).returncode == 0
    result = run_zoo("push", "tiny-sight", "-q", cwd=tmp_path, hub=hub)
    assert result.returncode == 0, result.stderr
    assert f"copied by the Hub from {TEXT_REPO}" in result.stdout
    assert f"published as {SIGHT_REPO}@" in result.stdout
    assert result.stderr == ""


def test_the_manifests_inside_an_installed_zoo_are_not_written_to(
    tmp_path: Path, zoo: TinyZoo, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = zoo.manifests.rename(tmp_path / "_manifests")
    monkeypatch.setattr("zoo.locations.packaged_manifests", lambda: packaged)
    refused = run_zoo("push", "tiny", cwd=tmp_path, hub=hub)
    assert refused.returncode == DiskError.exit_code
    assert "nothing was sent" in refused.stderr
    assert hub.log.all() == []
    assert run_zoo("push", "tiny", "--dry-run", cwd=tmp_path, hub=hub).returncode == 0


def test_without_a_build(tmp_path: Path, zoo: TinyZoo) -> None:
    result = run_zoo("push", "tiny", "--build", "nowhere", cwd=tmp_path)
    assert result.returncode == InvalidDocument.exit_code
    assert "there is no build of tiny here" in result.stderr


def test_a_build_of_another_manifest(tmp_path: Path, zoo: TinyZoo) -> None:
    manifest = zoo.manifests / "tiny.toml"
    manifest.write_text(manifest.read_text().replace("A tiny model.", "Another model."))
    result = run_zoo("push", "tiny", cwd=tmp_path)
    assert result.returncode == CheckFailed.exit_code
    assert "another version of the manifest" in result.stderr


def test_an_unreadable_answer_is_one_line(tmp_path: Path, zoo: TinyZoo) -> None:
    result = run_zoo("push", "tiny", "--endpoint", "not an address", cwd=tmp_path)
    assert result.returncode == HubError.exit_code, result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_deleting_needs_a_yes(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    assert run_zoo("push", "tiny", "-q", cwd=tmp_path, hub=hub).returncode == 0
    HfApi(endpoint=hub.endpoint, token=TOKEN).create_commit(
        TEXT_REPO, [CommitOperationAdd("old.txt", b"old")], commit_message="by hand"
    )
    kept = run_zoo("push", "tiny", cwd=tmp_path, hub=hub)
    assert "1 file (3 B) of the repo stay" in kept.stdout
    refused = run_zoo("push", "tiny", "--delete", cwd=tmp_path, hub=hub)
    assert refused.returncode == UsageError.exit_code
    done = run_zoo("push", "tiny", "--delete", "--yes", cwd=tmp_path, hub=hub)
    assert done.returncode == 0, done.stderr
