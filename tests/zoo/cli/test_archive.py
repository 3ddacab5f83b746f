"""An entry that is published as one zip file, from `zoo lock` to `zoo swift`."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.archives import ENTRY, TOP, URL, zip_of, zipped_bundle
from tests.zoo.swift.swift_values import constants
from tests.zoo.transfer.archive_support import ON_WIRE, ArchiveWorld, default_zip, make_archive_world
from tests.zoo.transfer.pull_support import content
from zoo.errors import CheckFailed, HubError, InvalidDocument, UnknownEntry, UnsafePath, UsageError
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import load_lock, lock_path
from zoo.swift.writer import identifier


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def world(hub: RunningHub, tmp_path: Path) -> ArchiveWorld:
    hub.log.clear()
    hub.faults.clear()
    return make_archive_world(hub, tmp_path)


def zoo(world: ArchiveWorld, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command that takes no models directory."""
    command = world.command(*arguments)
    at = command.index("--models")
    done = subprocess.run(
        [*command[:at], *command[at + 2 :]],
        env=world.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_from_nothing_to_installed(world: ArchiveWorld) -> None:
    data = default_zip()
    world.publish(data)
    refused = world.run("pull", ENTRY)
    assert refused.returncode == UnknownEntry.exit_code
    assert f"`zoo lock {ENTRY} --from-hub` downloads its archive once" in refused.stderr
    world.hub.faults.add(Fault(path=ON_WIRE, cut_after=400_000, skip=1))
    report = json.loads(zoo(world, "lock", ENTRY, "--from-hub", "--format", "json", "--quiet")[0])
    assert report["written"] is True
    assert report["left_out"] == []
    assert world.hub.log.bytes_sent_twice(ON_WIRE) <= (2 << 20) + 1
    lock = load_lock(lock_path(world.zoo, ENTRY))
    assert lock.archive is not None
    assert (lock.archive.url, lock.archive.size) == (URL, len(data))
    assert {file.path for file in lock.files} == zipped_bundle().keys()
    assert all(file.member and file.member.name == TOP + file.path for file in lock.files)
    assert not lock.provisional
    # What the lock downloaded need not travel again.
    world.hub.log.clear()
    pulled = world.pull(ENTRY)
    assert pulled["plan"]["archive"]["how"] == "here"
    assert (pulled["plan"]["bytes_to_move"], world.hub.log.all(ON_WIRE)) == (0, [])
    assert content(world.folder) == zipped_bundle()
    assert world.verify()[0] == 0
    assert pulled["plan"]["totals"]["extract"]["count"] == 5


def test_the_same_archive_gives_the_same_lock(world: ArchiveWorld) -> None:
    data = default_zip()
    world.publish(data)
    zoo(world, "lock", ENTRY, "--from-hub", "--quiet")
    before = lock_path(world.zoo, ENTRY).read_bytes()
    file = world.root / "saved.zip"
    file.write_bytes(data)
    assert "lock unchanged" in zoo(world, "lock", ENTRY, "--from", str(file), "--quiet")[0]
    lock_path(world.zoo, ENTRY).unlink()
    zoo(world, "lock", ENTRY, "--from", str(file), "--quiet")
    assert lock_path(world.zoo, ENTRY).read_bytes() == before
    assert "current" in zoo(world, "lock", ENTRY, "--check")[0]
    # The unpacked bundle is the same bytes, so it keeps its places.
    folder = world.root / "unpacked"
    for path, bytes_ in zipped_bundle().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(bytes_)
    assert "lock unchanged" in zoo(world, "lock", ENTRY, "--from", str(folder), "--quiet")[0]
    # Packed anew, the files are the same and the archive is not: what the lock pins cannot be had any more.
    world.publish(default_zip(stored=True))
    _, stderr = zoo(world, "lock", ENTRY, "--from-hub", "--check", "--quiet", code=CheckFailed.exit_code)
    assert "the archive is another one" in stderr


def test_hostile_archives_are_refused_and_write_nothing(world: ArchiveWorld) -> None:
    slip = world.root / "slip.zip"
    slip.write_bytes(zip_of({**zipped_bundle(), "../../evil.txt": b"!"}))
    zoo(world, "lock", ENTRY, "--from", str(slip), "--quiet", code=UnsafePath.exit_code)
    page = world.root / "page.zip"
    page.write_bytes(b"<html>Log in")
    zoo(world, "lock", ENTRY, "--from", str(page), "--quiet", code=InvalidDocument.exit_code)
    part = world.root / "part.zip"
    part.write_bytes(zip_of({"model_config.json": b"{}"}))
    _, stderr = zoo(world, "lock", ENTRY, "--from", str(part), "--quiet", code=InvalidDocument.exit_code)
    assert "model, hf_model/tokenizer.json missing" in stderr
    assert not lock_path(world.zoo, ENTRY).exists()
    assert not list(world.root.rglob("evil.txt"))
    for option in ("--revision", "--endpoint"):
        zoo(world, "lock", ENTRY, "--from-hub", option, "http://x", "--quiet", code=UsageError.exit_code)


def test_an_address_that_has_nothing(world: ArchiveWorld) -> None:
    world.publish(default_zip())
    world.hub.faults.add(Fault(path=ON_WIRE, status=404, times=None))
    _, stderr = zoo(world, "lock", ENTRY, "--from-hub", "--quiet", code=HubError.exit_code)
    assert "answered 404" in stderr
    assert "manifest" in stderr


def test_strangers_in_the_archive_are_named(world: ArchiveWorld) -> None:
    file = world.root / "more.zip"
    file.write_bytes(zip_of({**zipped_bundle(), "notes.txt": b"!"}, top=TOP))
    stdout, _ = zoo(world, "lock", ENTRY, "--from", str(file), "--quiet")
    assert f"no component owns it: {TOP}notes.txt" in stdout


def test_every_other_command_takes_it(world: ArchiveWorld) -> None:
    data = default_zip()
    lock = world.lock(data)
    assert lock.archive is not None
    assert lock.archive.sha256 is not None
    text, _ = zoo(world, "show", ENTRY, "--files")
    assert URL in text
    assert lock.archive.sha256 in text
    assert "pinned, 5 files" in text
    shown = json.loads(zoo(world, "show", ENTRY, "--format", "json")[0])
    assert (shown["archive"], shown["archive_bytes"], shown["lock"]) == (URL, len(data), "pinned")
    assert shown["components"][2]["files"][0]["member"] == TOP + "model_config.json"
    plan = world.run("pull", ENTRY, "--dry-run")
    assert f"extract  5  2.38 MB  from zipped.zip, {len(data) / 1e6:.2f} MB" in plan.stdout
    assert f"{len(data) / 1e6:.2f} MB would travel" in plan.stdout
    world.pull(ENTRY)
    differs = zoo(world, "diff", str(world.folder), ENTRY)
    assert "0 B" in differs[0] or "same" in differs[0]
    listed = json.loads(world.run("ls", "--format", "json").stdout)
    assert [(one["lock"], one["archive"], one["installed"]) for one in listed["entries"]] == [("pinned", URL, True)]
    out = world.root / "app"
    _, stderr = zoo(world, "swift", "--out", str(out))
    assert f"which the generated downloader does not fetch: {ENTRY}" in stderr
    (entry,) = json.loads((out / "catalog.json").read_bytes())["entries"]
    assert entry["archive"] == {"url": URL, "bytes": len(data), "sha256": lock.archive.sha256}
    for file in entry["files"]:
        member = lock.by_path()[file["path"]].member
        assert member is not None
        assert file["member"] == {
            "name": member.name,
            "offset": member.offset,
            "packedBytes": member.packed,
            "method": member.method,
        }
        assert file["sources"] == []
    values = constants((out / "ZooCatalog.swift").read_bytes())
    assert values[identifier(ENTRY)] == entry, "the Swift says the same"


def test_an_interrupted_archive_is_kept_by_prune(world: ArchiveWorld) -> None:
    world.lock(default_zip())
    world.hub.faults.add(Fault(path=ON_WIRE, cut_after=1_000_000, times=1))
    world.hub.faults.add(Fault(path=ON_WIRE, status=404, skip=1, times=None))
    assert world.run("pull", ENTRY).returncode == HubError.exit_code
    pruned = world.run("prune", "--yes")
    assert pruned.returncode == 0
    assert "that a pull continues" in world.run("prune", "--dry-run").stdout
    world.hub.faults.clear()
    report = world.pull(ENTRY)
    assert report["result"]["resumed_bytes"] >= 900_000
    shutil.rmtree(world.models)
