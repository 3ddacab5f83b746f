from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.archives import ENTRY, TOP, zip_of, zipped_bundle
from tests.zoo.transfer.archive_support import ON_WIRE, ArchiveWorld, default_zip, make_archive_world
from tests.zoo.transfer.pull_support import bytes_of, content
from zoo import archive as packed
from zoo.errors import DigestMismatch, DiskError, HubError
from zoo.folder import arrived_bytes, partial_directory
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import load_lock, lock_path
from zoo.plan.archive import packed_name
from zoo.receipt import load_receipt
from zoo.selection import Selection
from zoo.transfer.reuse import any_folder, cached_archives

WEIGHT = "model.mlmodelc/weights/weight.bin"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def world(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArchiveWorld:
    hub.log.clear()
    hub.faults.clear()
    made = make_archive_world(hub, tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def leftovers(world: ArchiveWorld) -> list[str]:
    state = partial_directory(world.folder)
    return sorted(path.name for path in state.iterdir()) if state.is_dir() else []


@pytest.mark.parametrize("stored", [True, False])
def test_the_archive_travels_once_and_is_gone_afterwards(world: ArchiveWorld, stored: bool) -> None:
    data = default_zip(stored=stored)
    world.lock(data)
    result = world.pull_here()
    assert content(world.folder) == zipped_bundle()
    assert (result.received, world.sent(ON_WIRE)) == (len(data), len(data))
    assert len(world.hub.log.all(ON_WIRE)) == 1, "one request"
    assert leftovers(world) == []
    assert {file.path for file in load_receipt(world.folder).entries[ENTRY].files} == zipped_bundle().keys()
    world.hub.log.clear()
    again = world.pull_here()
    assert (again.received, again.kept, world.hub.log.all()) == (0, 5, [])


def test_one_lost_file_brings_one_part(world: ArchiveWorld) -> None:
    data = default_zip()
    lock = world.lock(data)
    world.pull_here()
    member = lock.by_path()["model.mlmodelc/model.mil"].member
    assert member is not None
    # The weights are nearly all of the archive: one request for all of it is no worse, and checks it as a whole.
    for path, travels in (("model.mlmodelc/model.mil", member.packed), (WEIGHT, len(data))):
        world.hub.log.clear()
        (world.folder / path).unlink()
        assert world.pull_here().received == travels
        assert world.sent(ON_WIRE) == travels
        assert content(world.folder) == zipped_bundle()
        assert leftovers(world) == []


def test_a_server_without_ranges_sends_the_whole(world: ArchiveWorld) -> None:
    data = default_zip()
    world.lock(data)
    world.pull_here()
    (world.folder / "model_config.json").write_bytes(b"?")
    world.hub.faults.add(Fault(path=ON_WIRE, ignore_range=True, times=None))
    assert world.pull_here().received == len(data)
    assert content(world.folder) == zipped_bundle()
    assert leftovers(world) == []


def test_a_part_of_the_bundle_is_a_part_of_the_archive(world: ArchiveWorld) -> None:
    world.lock(default_zip())
    result = world.pull_here(Selection(only=("config",)))
    assert content(world.folder) == {"model_config.json": zipped_bundle()["model_config.json"]}
    assert result.received < 100
    world.pull_here(Selection())
    assert content(world.folder) == zipped_bundle()


def test_what_is_on_this_disk_does_not_travel(world: ArchiveWorld, tmp_path: Path) -> None:
    data = default_zip()
    world.lock(data)
    downloads = tmp_path / "Downloads"
    downloads.mkdir()
    (downloads / "renamed (1).zip").write_bytes(data)
    cached = tmp_path / "cached" / f"{hashlib.sha256(data).hexdigest()}.zip"
    cached.parent.mkdir()
    cached.write_bytes(data)
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    for index, (_, bytes_) in enumerate(sorted(zipped_bundle().items())):
        (unpacked / str(index)).write_bytes(bytes_)
    for provider in (
        any_folder(downloads),
        any_folder(downloads / "renamed (1).zip"),
        cached_archives(cached.parent),
        any_folder(unpacked),
    ):
        for path in content(world.folder) if world.folder.is_dir() else ():
            (world.folder / path).unlink()
        assert world.pull_here(providers=(provider,)).received == 0
        assert content(world.folder) == zipped_bundle()
    assert world.hub.log.all(ON_WIRE) == []
    assert cached.read_bytes() == data, "somebody else's file stays"


def test_a_cut_connection_goes_on_and_a_flipped_bit_is_fetched_again(world: ArchiveWorld) -> None:
    data = default_zip()
    world.lock(data)
    world.hub.faults.add(Fault(path=ON_WIRE, cut_after=700_000))
    assert world.pull_here().received == len(data)
    assert world.hub.log.bytes_sent_twice(ON_WIRE) <= 2 << 20
    for path in content(world.folder):
        (world.folder / path).unlink()
    world.hub.faults.add(Fault(path=ON_WIRE, flip_at=300_000))
    assert world.pull_here().received == 2 * len(data)
    assert content(world.folder) == zipped_bundle()


def test_wrong_bytes_never_reach_the_folder(world: ArchiveWorld) -> None:
    data = default_zip()
    lock = world.lock(data)
    world.hub.faults.add(Fault(path=ON_WIRE, flip_at=300_000, times=None))
    with pytest.raises(DigestMismatch, match=r"zipped\.zip"):
        world.pull_here()
    assert content(world.folder) == {}
    world.hub.faults.clear()
    world.pull_here()
    (world.folder / "model.mlmodelc/model.mil").unlink()
    before = content(world.folder)
    member = lock.by_path()["model.mlmodelc/model.mil"].member
    assert member is not None
    world.hub.faults.add(Fault(path=ON_WIRE, flip_at=member.offset + 20, times=None))
    with pytest.raises(DigestMismatch, match=r"model\.mil"):
        world.pull_here()
    assert content(world.folder) == before
    world.hub.faults.clear()
    world.hub.faults.add(Fault(path=ON_WIRE, flip_at=member.offset + 20, times=1))
    assert world.pull_here().received == 2 * member.packed
    assert content(world.folder) == zipped_bundle()
    assert leftovers(world) == []


def test_another_archive_at_the_address_is_refused(world: ArchiveWorld) -> None:
    world.lock(default_zip())
    world.publish(default_zip(stored=True))
    with pytest.raises((DigestMismatch, HubError)):
        world.pull_here()
    assert content(world.folder) == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path=ON_WIRE, status=404, times=None),
        Fault(path=ON_WIRE, status=403, times=None),
        Fault(path=ON_WIRE, status=200, headers={"content-type": "text/html"}, body=b"<html>Log in", times=None),
        Fault(path=ON_WIRE, status=503, times=None),
        Fault(path=ON_WIRE, cut_after=0, times=None),
    ],
)
def test_a_server_that_does_not_have_it(world: ArchiveWorld, fault: Fault) -> None:
    world.lock(default_zip())
    world.hub.faults.add(fault)
    with pytest.raises(HubError, match=r"zipped\.zip"):
        world.pull_here()
    assert content(world.folder) == {}


def test_files_that_have_no_place_in_the_archive_they_name(world: ArchiveWorld) -> None:
    """A lock that somebody wrote: places are within the archive, but nothing like the file lies there."""
    lock = world.lock(default_zip())
    text = lock_path(world.zoo, ENTRY).read_text()
    member = lock.by_path()["hf_model/tokenizer.json"].member
    assert member is not None
    lock_path(world.zoo, ENTRY).write_text(text.replace(f'"offset": {member.offset},', '"offset": 3,'))
    load_lock(lock_path(world.zoo, ENTRY))
    with pytest.raises(DigestMismatch, match=r"tokenizer\.json"):
        world.pull_here()
    assert content(world.folder) == {}


class Killed(BaseException):
    """Stands in for a kill."""


@pytest.mark.parametrize("stored", [True, False])
def test_a_kill_at_any_moment_costs_no_byte(
    world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """Killed after the 1st, 2nd, ... piece that is unpacked, and after the 1st, 2nd, ... rename."""
    data = default_zip(stored=stored)
    world.lock(data)
    replace, unpack = Path.replace, packed.unpack
    for limit in range(60):
        left = limit

        def step() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        def replace_until(self: Path, target: Path) -> Path:
            step()
            return replace(self, target)

        def unpack_until(*arguments: object, **options: object) -> Iterator[bytes]:
            for piece in unpack(*arguments, **options):  # type: ignore[arg-type]
                step()
                yield piece

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace_until)
            patch.setattr("zoo.transfer.archive.unpack", unpack_until)
            try:
                world.pull_here()
            except Killed:
                found = content(world.folder)
                assert {path for path in found if path.startswith("model.")} in (
                    set(),
                    {path for path in zipped_bundle() if path.startswith("model.")},
                ), "a model is there whole or not at all"
                assert all(zipped_bundle()[path] == bytes_ for path, bytes_ in found.items())
            else:
                break
    else:
        pytest.fail("it never got through")
    assert limit >= 8
    assert content(world.folder) == zipped_bundle()
    assert world.sent(ON_WIRE) == len(data), "nothing travelled twice"
    assert leftovers(world) == []


def test_kill_9_in_the_middle_of_the_archive(world: ArchiveWorld) -> None:
    data = default_zip()
    world.lock(data)
    world.hub.faults.add(Fault(path=ON_WIRE, bytes_per_s=2_000_000))
    process = subprocess.Popen(
        world.command("pull", ENTRY, "--quiet"),
        env=world.environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    partial = partial_directory(world.folder) / hashlib.sha256(data).hexdigest()
    for _ in range(3000):
        if partial.exists() and arrived_bytes(partial) > 500_000:
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    arrived = arrived_bytes(partial)
    world.hub.log.clear()
    report = world.pull(ENTRY)
    assert report["plan"]["archive"]["have"] == arrived
    assert report["result"]["received_bytes"] == len(data) - arrived
    assert report["result"]["resumed_bytes"] == arrived
    assert content(world.folder) == zipped_bundle()
    assert world.verify()[0] == 0


def test_repair_brings_parts(world: ArchiveWorld) -> None:
    world.lock(default_zip())
    world.pull_here()
    wrong = bytearray(zipped_bundle()[WEIGHT])
    wrong[7] ^= 1
    (world.folder / WEIGHT).write_bytes(wrong)
    (world.folder / "hf_model/tokenizer.json").unlink()
    done = world.run("repair", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert content(world.folder) == zipped_bundle()
    assert bytes_of("zipped", 2_000_000) == (world.folder / WEIGHT).read_bytes()


def test_a_member_that_broke_off_goes_on(world: ArchiveWorld) -> None:
    data = default_zip()
    lock = world.lock(data)
    world.pull_here()
    file = lock.by_path()["model.mlmodelc/model.mil"]
    assert file.member is not None
    (world.folder / file.path).unlink()
    partial = partial_directory(world.folder) / packed_name(file)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[file.member.offset : file.member.offset + 200])
    result = world.pull_here()
    assert (result.received, result.resumed) == (file.member.packed - 200, 200)
    # What cannot be continued costs the whole member, and no more.
    (world.folder / file.path).unlink()
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"?" * 200)
    assert world.pull_here().received == 2 * file.member.packed - 200
    assert content(world.folder) == zipped_bundle()
    assert leftovers(world) == []


def test_a_full_disk_while_unpacking(world: ArchiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    data = default_zip()
    world.lock(data)

    def full(*arguments: object, **options: object) -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("zoo.transfer.archive.unpack", full)
        with pytest.raises(DiskError, match="No space left"):
            world.pull_here()
    assert content(world.folder) == {}
    assert world.pull_here().received == 0
    assert (content(world.folder), world.sent(ON_WIRE)) == (zipped_bundle(), len(data))


def test_links_planted_where_bytes_are_unpacked(world: ArchiveWorld, tmp_path: Path) -> None:
    data = default_zip()
    lock = world.lock(data)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    partials = partial_directory(world.folder)
    partials.mkdir(parents=True)
    for name in (*(file.sha256 or "" for file in lock.files), hashlib.sha256(data).hexdigest()):
        (partials / name).symlink_to(victim)
    world.pull_here()
    assert victim.read_bytes() == b"mine"
    assert content(world.folder) == zipped_bundle()
    assert not [path for path in world.folder.rglob("*") if path.is_symlink()]


def test_several_connections_bring_one_archive(world: ArchiveWorld) -> None:
    """The threads that wait for it to unpack their files do not only wait."""
    files = {**zipped_bundle(), WEIGHT: bytes_of("large", 8_000_000)}
    data = zip_of(files, top=TOP, extra=False)
    world.lock(data)
    world.hub.faults.add(Fault(path=ON_WIRE, bytes_per_s=6_000_000, times=None))
    result = world.pull_here(connections=4)
    assert content(world.folder) == files
    assert result.received == len(data)
    assert len(world.hub.log.all(ON_WIRE)) > 1
    assert world.hub.log.bytes_sent_twice(ON_WIRE) == 0
    assert leftovers(world) == []
