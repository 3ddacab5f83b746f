from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo.cli.in_process import TOKEN, run_zoo
from tests.zoo.transfer.push_support import TEXT_REPO, TinyZoo, bundle, sha256, tiny_zoo
from zoo.errors import CheckFailed, HubError, InvalidDocument, UsageError
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import load_lock, parse_lock


@pytest.fixture
def zoo(tmp_path: Path) -> TinyZoo:
    return tiny_zoo(tmp_path)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path / "hub") as running:
        yield running


def test_from_a_folder(tmp_path: Path, zoo: TinyZoo) -> None:
    lock_file = zoo.catalog.get("tiny").lock_file
    dry = run_zoo("lock", "tiny", "--from", "build/tiny", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert "lock would be written" in dry.stdout
    assert not lock_file.exists()
    first = run_zoo("lock", "tiny", "--from", "build/tiny", "--format", "json", cwd=tmp_path)
    document = json.loads(first.stdout)
    assert document["written"] is True
    assert {file["path"] for file in document["added"]} == set(bundle("tiny"))
    lock = load_lock(lock_file)
    assert {file.path: file.sha256 for file in lock.files} == {
        path: sha256(data) for path, data in bundle("tiny").items()
    }
    before = lock_file.read_bytes()
    again = run_zoo("lock", "tiny", "--from", "build/tiny", cwd=tmp_path)
    assert "lock unchanged" in again.stdout
    assert lock_file.read_bytes() == before
    assert run_zoo("lock", "tiny", "--check", cwd=tmp_path).returncode == 0


def test_unknown_and_missing_files_are_named(tmp_path: Path, zoo: TinyZoo) -> None:
    folder = zoo.build / "tiny"
    (folder / "notes.txt").write_text("stray")
    (folder / ".DS_Store").write_text("ignored")
    stray = run_zoo("lock", "tiny", "--from", "build/tiny", cwd=tmp_path)
    assert stray.returncode == InvalidDocument.exit_code
    assert "notes.txt" in stray.stderr
    assert ".DS_Store" not in stray.stderr
    allowed = run_zoo("lock", "tiny", "--from", "build/tiny", "--ignore-extra", cwd=tmp_path)
    assert allowed.returncode == 0, allowed.stderr
    assert "notes.txt" in allowed.stdout
    (folder / "sin_full.npy").unlink()
    missing = run_zoo("lock", "tiny", "--from", "build/tiny", cwd=tmp_path)
    assert missing.returncode == InvalidDocument.exit_code
    assert "sin_full.npy missing" in missing.stderr


def test_an_optional_component_may_be_left_out(tmp_path: Path, zoo: TinyZoo) -> None:
    import shutil

    shutil.rmtree(zoo.build / "tiny-sight/vision.ane.mlmodelc")
    result = run_zoo("lock", "tiny-sight", "--from", "build/tiny-sight", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    shutil.rmtree(zoo.build / "tiny-sight/chunk1.mlmodelc")
    result = run_zoo("lock", "tiny-sight", "--from", "build/tiny-sight", cwd=tmp_path)
    assert result.returncode == InvalidDocument.exit_code
    assert "chunk1 missing" in result.stderr


def test_check_names_what_differs(tmp_path: Path, zoo: TinyZoo) -> None:
    none = run_zoo("lock", "tiny", "--check", cwd=tmp_path)
    assert none.returncode == CheckFailed.exit_code
    assert "there is no lock" in none.stderr
    assert run_zoo("lock", "tiny", "--from", "build/tiny", cwd=tmp_path).returncode == 0
    before = zoo.catalog.get("tiny").lock_file.read_bytes()
    (zoo.build / "tiny/sin_full.npy").write_bytes(b"something else")
    stale = run_zoo("lock", "tiny", "--from", "build/tiny", "--check", cwd=tmp_path)
    assert stale.returncode == CheckFailed.exit_code
    assert "sin_full.npy (changed)" in stale.stderr
    assert zoo.catalog.get("tiny").lock_file.read_bytes() == before
    manifest = zoo.manifests / "tiny.toml"
    manifest.write_text(manifest.read_text().replace("order = 20", "order = 21"))
    old = run_zoo("lock", "tiny", "--check", cwd=tmp_path)
    assert old.returncode == CheckFailed.exit_code
    assert "manifest changed" in old.stderr


def test_from_the_hub_downloads_small_files_only(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    assert run_zoo("push", "tiny", "-q", cwd=tmp_path, hub=hub).returncode == 0
    lock_file = zoo.catalog.get("tiny").lock_file
    pushed = lock_file.read_bytes()
    checked = run_zoo("lock", "tiny", "--from-hub", "--check", cwd=tmp_path, hub=hub)
    assert checked.returncode == 0, checked.stderr
    kept = run_zoo("lock", "tiny", "--from-hub", cwd=tmp_path, hub=hub)
    assert "lock unchanged" in kept.stdout
    assert lock_file.read_bytes() == pushed
    lock_file.unlink()
    hub.log.clear()
    result = run_zoo("lock", "tiny", "--from-hub", cwd=tmp_path, hub=hub)
    assert result.returncode == 0, result.stderr
    assert not [exchange for exchange in hub.log.all("/resolve/") if exchange.path.endswith((".bin", ".npy"))]
    fresh, before = load_lock(lock_file), parse_lock(pushed, where="before")
    assert [(f.path, f.size, f.sha256, f.sources) for f in fresh.files] == [
        (f.path, f.size, f.sha256, f.sources) for f in before.files
    ]
    weights = fresh.by_path()["chunk4.mlmodelc/weights/weight.bin"]
    assert weights.xxh3 is None
    assert weights.sources[0].path == "swa/chunk4.mlmodelc/weights/weight.bin"
    assert fresh.by_path()["model_config.json"].xxh3 is not None


def test_a_changed_repo_makes_the_lock_stale(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    assert run_zoo("push", "tiny", "-q", cwd=tmp_path, hub=hub).returncode == 0
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_commit(TEXT_REPO, [CommitOperationAdd("model_config.json", b"{}\n")], commit_message="by hand")
    stale = run_zoo("lock", "tiny", "--from-hub", "--check", cwd=tmp_path, hub=hub)
    assert stale.returncode == CheckFailed.exit_code
    assert "model_config.json (changed)" in stale.stderr
    result = run_zoo("lock", "tiny", "--from-hub", cwd=tmp_path, hub=hub)
    assert "~  model_config.json" in result.stdout
    assert run_zoo("lock", "tiny", "--from-hub", "--check", cwd=tmp_path, hub=hub).returncode == 0


def test_missing_repo_and_revision(tmp_path: Path, zoo: TinyZoo, hub: RunningHub) -> None:
    result = run_zoo("lock", "tiny", "--from-hub", cwd=tmp_path, hub=hub)
    assert result.returncode == HubError.exit_code
    assert f"no repo {TEXT_REPO}" in result.stderr
    assert run_zoo("push", "tiny", "-q", cwd=tmp_path, hub=hub).returncode == 0
    result = run_zoo("lock", "tiny", "--from-hub", "--revision", "n1024", cwd=tmp_path, hub=hub)
    assert result.returncode == HubError.exit_code
    assert "no revision 'n1024'" in result.stderr


def test_options_that_do_not_go_together(tmp_path: Path, zoo: TinyZoo) -> None:
    for options in ([], ["--from", "build/tiny", "--from-hub"], ["--check", "--revision", "main"]):
        assert run_zoo("lock", "tiny", *options, cwd=tmp_path).returncode == UsageError.exit_code
