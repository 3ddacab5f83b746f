from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.cli.in_process import Result, environment, run_zoo
from tests.zoo.transfer.installed_support import write_files
from tests.zoo.transfer.pull_support import SIGHT, TEXT, World, content, make_world, sight_bundle, text_bundle
from zoo.errors import CheckFailed, HubError, UnknownEntry, UsageError
from zoo.hub_server.process import RunningHub, running_hub
from zoo.receipt import load_receipt
from zoo.transfer.remove import removal_path

BIG = 30_000
SMALL = {path: len(data) for path, data in sight_bundle(BIG).items()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def world(hub: RunningHub, tmp_path: Path) -> World:
    hub.log.clear()
    hub.faults.clear()
    world = make_world(hub, tmp_path)
    world.release(TEXT, text_bundle(BIG))
    world.release(SIGHT, sight_bundle(BIG))
    return world


def zoo(world: World, verb: str, *arguments: str) -> Result:
    where = ["--zoo", str(world.zoo)] + ([] if "--folder" in arguments else ["--models", str(world.models)])
    hub = world.hub if verb in ("pull", "repair") and "--endpoint" not in arguments else None
    return run_zoo(verb, *arguments, *where, cwd=world.root, hub=hub)


def report(world: World, verb: str, *arguments: str) -> dict[str, Any]:
    done = zoo(world, verb, *arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def both(world: World) -> None:
    for entry in (TEXT, SIGHT):
        assert zoo(world, "pull", entry, "--quiet").returncode == 0


def installed(world: World) -> set[str]:
    return set(load_receipt(world.folder).entries)


def test_remove_shows_asks_and_counts_references(world: World) -> None:
    both(world)
    before = content(world.folder)
    done = zoo(world, "remove", SIGHT)
    assert done.returncode == UsageError.exit_code
    assert "--yes" in done.stderr
    assert "audio.mlmodelc/ (3 files)" in done.stdout
    assert "tiny needs it" in done.stdout
    done = zoo(world, "remove", SIGHT, "--format", "json")
    assert (done.returncode, done.stdout) == (UsageError.exit_code, "")
    assert "audio.mlmodelc/ (3 files)" in done.stderr, "nobody is asked about what they were not shown"
    dry = report(world, "remove", SIGHT, "--dry-run")
    assert "result" not in dry
    assert "would go" in zoo(world, "remove", SIGHT, "--dry-run").stdout
    assert (content(world.folder), installed(world)) == (before, {TEXT, SIGHT})
    done_report = report(world, "remove", SIGHT, "--yes")
    assert done_report["plan"] == dry["plan"]
    assert done_report["result"]["deleted"] == dry["plan"][0]["totals"]["delete"]["count"] == 9
    assert content(world.folder) == text_bundle(BIG)
    assert installed(world) == {TEXT}
    assert zoo(world, "verify").returncode == 0
    again = zoo(world, "remove", SIGHT, "--yes")
    assert again.returncode == 0
    assert "not installed" in again.stderr
    assert zoo(world, "remove", "tinny", "--yes").returncode == UnknownEntry.exit_code


def test_an_entry_that_the_zoo_forgot_can_be_removed(world: World) -> None:
    both(world)
    (world.zoo / "tiny-sight.toml").unlink()
    assert zoo(world, "remove", TEXT, SIGHT, "--yes").returncode == 0
    assert content(world.folder) == {}


def test_an_interrupted_removal_is_finished_by_the_next_one(world: World) -> None:
    both(world)
    with mock.patch("zoo.transfer.remove.delete_files", side_effect=KeyboardInterrupt):
        assert zoo(world, "remove", SIGHT, "--yes").returncode == 130
    assert installed(world) == {TEXT}
    assert len(content(world.folder)) == len(sight_bundle(BIG))
    assert report(world, "remove", SIGHT, "--yes")["result"]["deleted"] == 9
    assert content(world.folder) == text_bundle(BIG)
    assert not removal_path(world.folder).exists()


def test_pull_takes_back_what_an_interrupted_removal_left(world: World) -> None:
    both(world)
    with mock.patch("zoo.transfer.remove.delete_files", side_effect=KeyboardInterrupt):
        zoo(world, "remove", SIGHT, "--yes")
    world.hub.log.clear()
    pulled = report(world, "pull", SIGHT, "--yes")
    assert pulled["result"]["received_bytes"] == world.sent() == 0
    assert content(world.folder) == sight_bundle(BIG)
    assert not removal_path(world.folder).exists()


def test_prune_shows_asks_and_leaves_what_was_declined(world: World) -> None:
    both(world)
    write_files(world.folder, {"prefill_chunk1.mlmodelc/coremldata.bin": b"?", "notes/a.txt": b"mine"})
    write_files(world.folder / ".zoo" / "partial", {"e" * 64: b"stale"})
    cache = Path(environment(None, world.root)["ZOO_CACHE"])
    write_files(cache / "steps" / "tmp", {f"{'d' * 64}-x/output/w.bin": b"123"})
    assert zoo(world, "prune").returncode == UsageError.exit_code
    dry = report(world, "prune", "--dry-run", "--cache", "--keep", "notes/*")
    done = report(world, "prune", "--cache", "--keep", "notes/*", "--yes")
    assert done["plan"] == dry["plan"]
    assert done["result"] == {"deleted": 3, "freed_bytes": 9}
    assert content(world.folder) == {**sight_bundle(BIG), "notes/a.txt": b"mine"}
    assert not (cache / "steps" / "tmp" / f"{'d' * 64}-x").exists()
    assert zoo(world, "verify").returncode == 0
    assert zoo(world, "prune", "--yes", "--keep", "notes/*").stdout.endswith("nothing to delete\n")
    assert "notes/a.txt" in zoo(world, "prune", "--yes").stdout
    assert content(world.folder) == sight_bundle(BIG)
    assert zoo(world, "prune", "--folder", str(world.root)).returncode == CheckFailed.exit_code


def test_prune_keeps_what_an_interrupted_pull_can_continue(world: World) -> None:
    from zoo.hub_server.faults import Fault

    world.hub.faults.add(Fault(path="chunk1.*weight", cut_after=20_000))
    world.hub.faults.add(Fault(path="chunk1.*weight", status=404, times=None))
    assert zoo(world, "pull", TEXT).returncode == HubError.exit_code
    world.hub.faults.clear()
    kept = report(world, "prune", "--yes")
    assert kept["plan"][0]["totals"].keys() == {"keep"}
    assert report(world, "pull", TEXT)["result"]["resumed_bytes"] > 0
    assert content(world.folder) == text_bundle(BIG)


def test_repair_brings_back_only_what_is_broken(world: World) -> None:
    both(world)
    assert zoo(world, "repair").stdout.count("nothing to repair") == 2
    receipt = load_receipt(world.folder)
    (world.folder / "embed.bin").write_bytes(b"damaged")
    (world.folder / "audio.mlmodelc/model.mil").unlink()
    world.hub.log.clear()
    dry = report(world, "repair", "--dry-run")
    assert dry["good"] is False
    assert (world.folder / "embed.bin").read_bytes() == b"damaged"
    assert world.hub.log.all() == []
    done = report(world, "repair")
    assert done["good"] is True
    (folder,) = done["folders"]
    changed = {a["path"] for a in folder["plan"]["actions"] if a["action"] != "keep"}
    assert changed == {"embed.bin", "audio.mlmodelc/model.mil"}
    assert world.sent() == folder["result"]["received_bytes"] == sum(SMALL[path] for path in changed)
    assert content(world.folder) == sight_bundle(BIG)
    assert load_receipt(world.folder) == receipt
    (world.folder / "embed.bin").unlink()
    text = zoo(world, "repair", TEXT).stdout
    assert "embed.bin: missing" in text
    assert "repaired: 9 files, all verified" in text
    assert zoo(world, "repair", "tinny").returncode == UnknownEntry.exit_code


def test_repair_restores_what_was_installed_although_the_lock_moved_on(world: World) -> None:
    both(world)
    assert zoo(world, "remove", SIGHT, "--yes").returncode == 0
    write_files(world.folder, {"orphan.bin": b"stays"})
    world.release(TEXT, {**text_bundle(BIG), "model_config.json": b"{}"})
    receipt = load_receipt(world.folder)
    (world.folder / "embed.bin").unlink()
    assert zoo(world, "repair").returncode == 0
    assert content(world.folder) == {**text_bundle(BIG), "orphan.bin": b"stays"}
    assert load_receipt(world.folder) == receipt, "repaired, not updated"
    for lock in world.zoo.glob("*.lock.json"):
        lock.unlink()
    backup = world.root / "backup"
    (world.folder / "embed.bin").rename(backup)
    done = zoo(world, "repair")
    assert done.returncode == HubError.exit_code
    assert "--from" in done.stderr
    aside = world.root / "aside"
    write_files(aside, {"any name": backup.read_bytes()})
    assert zoo(world, "repair", "--from", str(aside)).returncode == 0
    assert content(world.folder) == {**text_bundle(BIG), "orphan.bin": b"stays"}


def test_repair_reads_everything_if_told_to(world: World) -> None:
    assert zoo(world, "pull", TEXT).returncode == 0
    path = world.folder / "chunk1.mlmodelc" / "weights" / "weight.bin"
    status, data = path.stat(), bytearray(path.read_bytes())
    data[status.st_size // 4] ^= 1  # between the samples that tell swapped inodes
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "nothing to repair" in zoo(world, "repair").stdout
    assert zoo(world, "repair", "--full").returncode == 0
    assert content(world.folder) == text_bundle(BIG)


def test_dest_is_exactly_that_folder(world: World) -> None:
    dest = world.root / "an app" / "Model"
    both(world)
    world.hub.log.clear()
    assert zoo(world, "pull", TEXT, "--dest", str(dest), "--reuse").returncode == 0
    assert content(dest) == text_bundle(BIG)
    assert world.sent() == 0
    (dest / "embed.bin").unlink()
    assert zoo(world, "verify", "--folder", str(dest)).returncode == CheckFailed.exit_code
    assert zoo(world, "repair", "--folder", str(dest)).returncode == 0
    assert content(dest) == text_bundle(BIG)
    assert zoo(world, "remove", TEXT, "--folder", str(dest), "--yes").returncode == 0
    assert content(dest) == {}
    assert installed(world) == {TEXT, SIGHT}


def test_the_stock_client_s_cache_is_reused(world: World) -> None:
    from huggingface_hub import snapshot_download

    home = environment(world.hub, world.root)["HF_HOME"]
    snapshot_download(f"zoo/{TEXT}", cache_dir=Path(home) / "hub", endpoint=world.hub.endpoint)
    world.hub.log.clear()
    done = report(world, "pull", TEXT, "--reuse")
    assert done["result"]["received_bytes"] == world.sent() == 0
    assert done["plan"]["totals"].keys() == {"link"}
    assert content(world.folder) == text_bundle(BIG)


def test_a_mirror_helps_out(world: World) -> None:
    endpoints = f"http://127.0.0.1:9,{world.hub.endpoint}"
    done = zoo(world, "pull", TEXT, "--endpoint", endpoints, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert f"trying {world.hub.endpoint}" in done.stderr
    assert content(world.folder) == text_bundle(BIG)
