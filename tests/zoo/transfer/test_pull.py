from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.transfer.pull_support import (
    SIGHT,
    TEXT,
    World,
    bytes_of,
    content,
    locked,
    make_world,
    model_files,
    sight_bundle,
    text_bundle,
)
from zoo.digests import DigestCache
from zoo.errors import Conflict, DigestMismatch, DiskError, HubError, UnsafePath
from zoo.folder import folder_lock, partial_directory
from zoo.hub_server.faults import Fault
from zoo.hub_server.process import RunningHub, running_hub
from zoo.links import LinkMode
from zoo.lock import dump_lock, lock_path, save_lock
from zoo.receipt import load_receipt
from zoo.selection import Selection
from zoo.transfer.http import HttpFetcher, Retry
from zoo.transfer.prepare import prepare_pull
from zoo.transfer.pull import PullResult, carry_out, recover_staging
from zoo.transfer.reuse import Provider, any_folder, installed_folders, local_builds

QUICK = Retry(attempts=2, first=0.0, longest=0.0)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def world(hub: RunningHub, tmp_path: Path) -> World:
    hub.log.clear()
    hub.faults.clear()
    return make_world(hub, tmp_path)


def pull(
    world: World,
    entry: str,
    *,
    providers: tuple[Provider, ...] = (),
    selection: Selection | None = None,
    link: LinkMode = "auto",
    models: Path | None = None,
    jobs: int = 4,
) -> PullResult:
    """What `zoo pull` does, in this process."""
    catalog = world.catalog()
    found = catalog.get(entry)
    folder = (models or world.models) / found.manifest.folder
    fetcher = HttpFetcher(world.hub.endpoint, retry=QUICK)
    with DigestCache(world.root / "digests.sqlite") as cache:
        folder.mkdir(parents=True, exist_ok=True)
        recover_staging(folder, cache)
        plan = prepare_pull(catalog, found, folder, selection=selection, providers=providers, cache=cache).plan
        try:
            return carry_out(plan, folder, fetcher=fetcher, stop=fetcher.stop, cache=cache, link=link, jobs=jobs)
        finally:
            fetcher.close()


def release_both(world: World, big: int = 3_000_000) -> None:
    world.release(TEXT, text_bundle(big))
    world.release(SIGHT, sight_bundle(big))


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / ".zoo").rglob("*") if p.name not in ("receipt.json", "lock"))


def test_text_then_multimodal_moves_only_new_bytes(world: World) -> None:
    release_both(world)
    first = pull(world, TEXT)
    assert content(world.folder) == text_bundle()
    assert first.received == sum(map(len, text_bundle().values())) == world.sent()
    world.hub.log.clear()
    second = pull(world, SIGHT)
    assert content(world.folder) == sight_bundle()
    new = sight_bundle().keys() - text_bundle().keys()
    twin = "chunk3_3way.mlmodelc/weights/weight.bin"
    assert world.sent() == second.received == sum(len(sight_bundle()[path]) for path in new - {twin})
    assert world.hub.log.all(twin) == [], "the weights of chunk4 are there already"
    assert sum(second.linked.values()) == 1
    assert load_receipt(world.folder).entries.keys() == {TEXT, SIGHT}
    assert leftovers(world.folder) == []


def test_identical_blobs_of_a_fresh_bundle_travel_once(world: World) -> None:
    release_both(world)
    result = pull(world, SIGHT)
    assert content(world.folder) == sight_bundle()
    assert world.sent() == result.received == sum(len(data) for data in set(sight_bundle().values()))
    weights = [world.folder / f"{name}.mlmodelc/weights/weight.bin" for name in ("chunk4", "chunk3_3way")]
    if result.linked["hardlink"]:
        assert weights[0].samefile(weights[1])


def test_a_second_pull_does_nothing_and_asks_nothing(world: World) -> None:
    release_both(world)
    pull(world, SIGHT)
    before = {
        path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in world.folder.rglob("*") if path.is_file()
    }
    world.hub.log.clear()
    result = pull(world, SIGHT)
    after = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in world.folder.rglob("*") if path.is_file()}
    assert (result.received, result.kept) == (0, len(sight_bundle()))
    assert world.hub.log.all() == []
    assert before == after


def test_one_damaged_file_is_repaired_alone_and_not_through_its_link(world: World) -> None:
    release_both(world)
    pull(world, SIGHT, link="hardlink")
    chunk4, twin = (world.folder / f"{name}.mlmodelc/weights/weight.bin" for name in ("chunk4", "chunk3_3way"))
    assert chunk4.samefile(twin)
    elsewhere = world.root / "elsewhere.bin"
    os.link(world.folder / "embed.bin", elsewhere)
    damaged = bytearray((world.folder / "embed.bin").read_bytes())
    damaged[7] ^= 1
    (world.folder / "embed.bin").write_bytes(damaged)
    world.hub.log.clear()
    pull(world, SIGHT)
    assert content(world.folder) == sight_bundle()
    assert world.sent() == len(damaged)
    assert elsewhere.read_bytes() == bytes(damaged), "the other name of the damaged file was not written through"


def test_a_failed_pull_leaves_the_folder_as_it_was_and_keeps_what_came(world: World) -> None:
    release_both(world)
    pull(world, TEXT)
    newer = {
        **text_bundle(),
        "embed.bin": bytes_of("new embed", 900_000),
        **model_files("chunk1", bytes_of("n", 2_000_000)),
    }
    world.release(TEXT, newer)
    world.release(SIGHT, {**sight_bundle(), **newer})
    before = content(world.folder)
    receipt = load_receipt(world.folder)
    world.hub.faults.add(Fault(path="embed", status=404, times=None))
    with pytest.raises(HubError):
        pull(world, TEXT, jobs=1)
    assert content(world.folder) == before
    assert load_receipt(world.folder) == receipt
    world.hub.faults.clear()
    result = pull(world, TEXT)
    assert content(world.folder) == newer
    assert result.resumed == 2_000_000, "the big file had arrived before the error"
    assert world.hub.log.bytes_sent_twice("chunk1.mlmodelc/weights") == 0


def test_wrong_bytes_never_reach_the_folder(world: World) -> None:
    release_both(world)
    world.hub.faults.add(Fault(path="chunk4.mlmodelc/weights", flip_at=5, times=None))
    with pytest.raises(DigestMismatch, match="chunk4"):
        pull(world, TEXT)
    assert content(world.folder) == {}
    assert load_receipt(world.folder).entries == {}


class Killed(BaseException):
    """Stands in for a kill between two renames."""


def pull_with_kills(world: World, entry: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Pull again and again, killed after 0, 3, 6, ... renames, until it gets through; yields what lies there."""
    replace = Path.replace
    limit = 0
    while True:
        left = limit

        def replace_until(self: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace_until)
            try:
                pull(world, entry)
            except Killed:
                pass
            else:
                assert limit > 9
                return
        yield content(world.folder)
        limit += 3


def test_a_model_folder_appears_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release_both(world)
    whole = {
        name: {p for p in sight_bundle() if p.startswith(name)} for name in ("chunk1", "chunk4", "vision", "audio")
    }
    for present in pull_with_kills(world, SIGHT, monkeypatch):
        for name, files in whole.items():
            assert {path for path in present if path.startswith(name)} in (set(), files)
    assert content(world.folder) == sight_bundle()
    assert world.hub.log.bytes_sent_twice() == 0, "nothing that had arrived travelled again"


def test_a_killed_update_loses_nothing_that_arrived(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release_both(world)
    pull(world, SIGHT)
    newer = {path: data + b"+" if len(data) < 2_000_000 else data for path, data in sight_bundle().items()}
    world.release(TEXT, {path: newer[path] for path in text_bundle()})
    world.release(SIGHT, newer)
    world.hub.log.clear()
    for present in pull_with_kills(world, SIGHT, monkeypatch):
        assert present.keys() == newer.keys()
        assert all(data in (newer[path], sight_bundle()[path]) for path, data in present.items())
    assert content(world.folder) == newer
    assert world.sent() == sum(len(data) for data in set(newer.values()) - set(sight_bundle().values()))


@pytest.mark.parametrize(
    ("kill", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_a_kill_in_the_middle_continues_where_it_ended(world: World, kill: signal.Signals, code: int) -> None:
    release_both(world, big=8_000_000)
    world.hub.faults.add(Fault(path="chunk1.mlmodelc/weights", bytes_per_s=8_000_000))
    process = subprocess.Popen(
        world.command("pull", TEXT, "--quiet"),
        env=world.environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    weights = text_bundle(8_000_000)["chunk1.mlmodelc/weights/weight.bin"]
    partial = partial_directory(world.folder) / hashlib.sha256(weights).hexdigest()
    for _ in range(3000):
        if partial.exists() and partial.stat().st_size > 1_000_000:
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(kill)
    assert process.wait(timeout=60) == code
    arrived = partial.stat().st_size
    assert 1_000_000 < arrived < 8_000_000
    assert content(world.folder) == {}
    # The Hub notices a moment later that nobody listens any more.
    for _ in range(500):
        if world.hub.log.all("chunk1.mlmodelc/weights"):
            break
        time.sleep(0.01)
    world.hub.log.clear()
    world.hub.faults.clear()
    done = world.run("pull", TEXT, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["resumed_bytes"] >= arrived
    resumed = world.hub.log.all("chunk1.mlmodelc/weights")
    assert [e.range for e in resumed] == [f"bytes={arrived}-"]
    assert sum(e.sent for e in resumed) == 8_000_000 - arrived
    assert content(world.folder) == text_bundle(8_000_000)
    assert leftovers(world.folder) == []


def test_two_processes_pull_into_one_folder(world: World) -> None:
    release_both(world)
    world.hub.faults.add(Fault(path="embed", delay_s=0.7))
    commands = [world.command("pull", entry, "--format", "json") for entry in (TEXT, SIGHT)]
    running = [
        subprocess.Popen(
            command,
            env=world.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    outputs = [process.communicate(timeout=100) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert content(world.folder) == sight_bundle()
    assert load_receipt(world.folder).entries.keys() == {TEXT, SIGHT}
    assert world.hub.log.bytes_sent_twice() == 0
    assert world.sent() == sum(len(data) for data in set(sight_bundle().values()))


def test_a_folder_in_use_says_who(world: World) -> None:
    said: list[str] = []
    with (
        folder_lock(world.folder, doing="zoo pull tiny", on_wait=said.append),
        pytest.raises(Conflict, match=rf"process {os.getpid()} on .* \(zoo pull tiny\) works there"),
        folder_lock(world.folder, doing="another", on_wait=said.append, timeout=0.01),
    ):
        pass
    assert len(said) == 1
    assert "waiting for process" in said[0]


def test_reuse_takes_bytes_from_installed_models_and_builds(world: World) -> None:
    release_both(world)
    pull(world, TEXT)
    build = world.root / "build"
    extra = {path: data for path, data in sight_bundle().items() if path not in text_bundle()}
    for path, data in extra.items():
        (build / SIGHT / path).parent.mkdir(parents=True, exist_ok=True)
        (build / SIGHT / path).write_bytes(data)
    lock = world.catalog().get(SIGHT).lock
    assert lock is not None
    save_lock(lock_path(build, SIGHT), lock)
    world.hub.log.clear()
    other = world.root / "other"
    result = pull(
        world,
        SIGHT,
        models=other,
        providers=(installed_folders(world.models, but=other / "tiny"), local_builds(build)),
    )
    assert content(other / "tiny") == sight_bundle()
    assert world.hub.log.all() == []
    assert sum(result.linked.values()) == len(sight_bundle())
    assert not (other / "tiny/model_config.json").samefile(world.folder / "model_config.json"), (
        "small files are copies"
    )


def test_from_any_folder_goes_by_content_not_by_name(world: World) -> None:
    release_both(world)
    downloads = world.root / "downloads"
    (downloads / "deep").mkdir(parents=True)
    for number, data in enumerate(sight_bundle().values()):
        (downloads / "deep" / f"{number}.download").write_bytes(data)
    (downloads / "decoy").write_bytes(bytes(3_000_000))
    (downloads / "linked").symlink_to(downloads / "deep" / "0.download")
    result = pull(world, SIGHT, providers=(any_folder(downloads),))
    assert content(world.folder) == sight_bundle()
    assert world.hub.log.all() == []
    assert result.received == 0
    assert not any(path.is_symlink() for path in world.folder.rglob("*"))


def test_an_origin_that_is_not_what_it_claims_is_fetched_instead(world: World) -> None:
    release_both(world)
    pull(world, TEXT)
    weights = world.folder / "chunk1.mlmodelc/weights/weight.bin"
    weights.write_bytes(bytes(3_000_000))
    world.hub.log.clear()
    other = world.root / "other"
    pull(world, TEXT, models=other, providers=(installed_folders(world.models, but=other / "tiny"),))
    assert content(other / "tiny") == text_bundle()
    assert world.sent() == 3_000_000


def test_an_origin_that_changes_after_the_plan_is_fetched_instead(world: World) -> None:
    release_both(world)
    pull(world, TEXT)
    other = world.root / "other" / "tiny"
    catalog = world.catalog()
    fetcher = HttpFetcher(world.hub.endpoint, retry=QUICK)
    with DigestCache(world.root / "digests.sqlite") as cache:
        providers = [installed_folders(world.models, but=other)]
        plan = prepare_pull(catalog, catalog.get(TEXT), other, selection=None, providers=providers, cache=cache).plan
        assert not plan.fetches
        (world.folder / "embed.bin").write_bytes(bytes(1_000_000))
        result = carry_out(plan, other, fetcher=fetcher, cache=cache)
    fetcher.close()
    assert content(other) == text_bundle()
    assert result.fetched == ["embed.bin"]
    assert "changed meanwhile" in result.notes[0]


@pytest.mark.parametrize("link", ["auto", "hardlink", "copy"])
def test_every_way_to_link_gives_the_same_folder(world: World, link: LinkMode) -> None:
    release_both(world)
    pull(world, SIGHT, link=link)
    assert content(world.folder) == sight_bundle()
    assert pull(world, SIGHT).received == 0


def test_a_moved_and_swapped_file_does_not_travel(world: World) -> None:
    release_both(world)
    pull(world, TEXT)
    one, four = "chunk1.mlmodelc/weights/weight.bin", "chunk4.mlmodelc/weights/weight.bin"
    swapped = {**text_bundle(), one: text_bundle()[four], four: text_bundle()[one]}
    world.release(TEXT, swapped)
    world.release(SIGHT, {**sight_bundle(), **swapped})
    world.hub.log.clear()
    pull(world, TEXT)
    assert content(world.folder) == swapped
    assert world.sent() == 0


def test_a_selection_is_recorded_kept_and_widened(world: World) -> None:
    release_both(world)
    pull(world, SIGHT, selection=Selection(without=("audio",)))
    assert not (world.folder / "audio.mlmodelc").exists()
    assert load_receipt(world.folder).entries[SIGHT].without == ("audio",)
    assert pull(world, SIGHT).received == 0, "as it is installed"
    pull(world, SIGHT, selection=Selection())
    assert content(world.folder) == sight_bundle()
    narrower = pull(world, SIGHT, selection=Selection(only=("text",)))
    assert len(narrower.deleted) == 6
    assert not (world.folder / "vision.ane.mlmodelc").exists()


def test_a_provisional_lock_installs_by_size(world: World) -> None:
    world.release(TEXT, text_bundle(), digests=False)
    pull(world, TEXT)
    assert content(world.folder) == text_bundle()
    assert all(file.sha256 is None for file in load_receipt(world.folder).entries[TEXT].files)
    assert pull(world, TEXT).received == 0


@pytest.mark.parametrize("place", ["hf_model", "chunk1.mlmodelc"])
def test_a_symlinked_folder_is_not_written_through(world: World, place: str) -> None:
    release_both(world)
    outside = world.root / "outside"
    (outside / "weights").mkdir(parents=True)
    world.folder.mkdir(parents=True)
    (world.folder / place).symlink_to(outside, target_is_directory=True)
    with pytest.raises(Conflict, match="symbolic link"):
        pull(world, TEXT)
    assert [path for path in outside.rglob("*") if path.is_file()] == []


def test_a_symlinked_state_directory_is_refused(world: World) -> None:
    release_both(world)
    (world.root / "outside").mkdir()
    world.folder.mkdir(parents=True)
    (world.folder / ".zoo").symlink_to(world.root / "outside", target_is_directory=True)
    with pytest.raises(UnsafePath, match="symbolic link"):
        pull(world, TEXT)
    assert list((world.root / "outside").iterdir()) == []


@pytest.mark.parametrize(
    "path", ["../escape.bin", "/etc/escape", "a/../../escape", ".zoo/receipt.json", "C:/x", "a\\..\\b"]
)
def test_hostile_lock_paths_are_refused(world: World, path: str) -> None:
    lock = world.release(TEXT, text_bundle())
    text = dump_lock(lock).replace(b'"embed.bin"', json.dumps(path).encode())
    lock_path(world.zoo, TEXT).write_bytes(text)
    done = world.run("pull", TEXT)
    assert done.returncode in (3, 10), done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not list(world.root.rglob("escape*"))


def test_too_little_space_is_said_before_anything_travels(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release_both(world)
    monkeypatch.setattr("zoo.folder.free_bytes", lambda _folder: 1_000_000)
    with pytest.raises(DiskError, match=r"5\.50 MB are needed, 1\.00 MB are free"):
        pull(world, TEXT)
    assert world.sent() == 0


def test_a_folder_that_cannot_be_written_is_one_error(world: World) -> None:
    # A file where the models directory should be: even root cannot make a folder in it.
    release_both(world)
    world.models.write_text("not a folder")
    done = world.run("pull", TEXT)
    assert done.returncode == DiskError.exit_code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_lock_of_other_bytes_conflicts_with_the_installed_partner(world: World) -> None:
    release_both(world)
    pull(world, TEXT)
    catalog = world.catalog()
    other = {**sight_bundle(), "embed.bin": bytes_of("other", 10)}
    source = world.catalog().get(SIGHT).lock
    assert source is not None
    commit = source.files[0].sources[0].commit
    save_lock(lock_path(world.zoo, SIGHT), locked(SIGHT, catalog, other, f"zoo/{SIGHT}", commit))
    before = content(world.folder)
    with pytest.raises(Conflict, match=r"tiny-sight and tiny, .* embed\.bin"):
        pull(world, SIGHT)
    assert content(world.folder) == before
