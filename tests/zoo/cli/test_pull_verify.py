from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.transfer.pull_support import SIGHT, TEXT, World, content, make_world, sight_bundle, text_bundle
from zoo.errors import CheckFailed, Conflict, HubError, InvalidDocument, UnknownEntry, UsageError
from zoo.hub_server.process import RunningHub, running_hub
from zoo.lock import lock_path
from zoo.transfer.verify import Reading, verify_folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def world(hub: RunningHub, tmp_path: Path) -> World:
    hub.log.clear()
    hub.faults.clear()
    world = make_world(hub, tmp_path)
    world.release(TEXT, text_bundle())
    world.release(SIGHT, sight_bundle())
    return world


def flip(path: Path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_the_story_of_a_flipped_byte(world: World) -> None:
    world.pull(TEXT)
    world.pull(SIGHT, "--reuse")
    assert world.verify()[0] == 0
    flip(world.folder / "chunk1.mlmodelc/weights/weight.bin")
    for options in ((), (SIGHT,), ("--full",), ("--folder", str(world.folder))):
        code, report, stderr = world.verify(*options)
        assert code == CheckFailed.exit_code
        wrong = [problem for entry in report["entries"] for problem in entry["problems"]]
        assert {problem["path"] for problem in wrong} == {"chunk1.mlmodelc/weights/weight.bin"}
        assert len(wrong[0]["expected"]["sha256"]) == len(wrong[0]["found"]["sha256"]) == 64
        assert wrong[0]["expected"] != wrong[0]["found"]
        assert "hint: `zoo repair tiny" in stderr
    world.hub.log.clear()
    report = world.pull(SIGHT)
    assert [a["path"] for a in report["plan"]["actions"] if a["action"] != "keep"] == [
        "chunk1.mlmodelc/weights/weight.bin"
    ]
    assert world.sent() == 3_000_000
    assert world.verify()[0] == 0


def test_every_kind_of_damage_is_reported_and_repaired(world: World) -> None:
    world.pull(SIGHT)
    (world.folder / "model_config.json").unlink()
    (world.folder / "embed.bin").write_bytes(b"short")
    (world.folder / "vision.ane.mlmodelc/model.mil").unlink()
    (world.folder / "vision.ane.mlmodelc/model.mil").symlink_to("coremldata.bin")
    (world.folder / "stranger.mlmodelc").mkdir()
    (world.folder / "stranger.mlmodelc/coremldata.bin").write_bytes(b"?")
    code, report, _ = world.verify()
    assert code == 1
    (entry,) = report["entries"]
    assert {problem["path"]: problem["problem"] for problem in entry["problems"]} == {
        "embed.bin": "size",
        "model_config.json": "missing",
        "vision.ane.mlmodelc/model.mil": "not a file",
    }
    assert entry["broken_models"] == ["vision.ane.mlmodelc"]
    assert ["stranger.mlmodelc/coremldata.bin" in warning for warning in entry["warnings"]] == [True]
    world.pull(SIGHT)
    code, report, _ = world.verify()
    assert code == 0
    assert report["entries"][0]["warnings"], "a stranger is a warning, not an error"


def test_a_byte_flipped_behind_the_clock_s_back_is_found_by_full_and_then_repaired(world: World) -> None:
    import os

    world.pull(TEXT)
    path = world.folder / "embed.bin"
    before = path.stat()
    flip(path, at=before.st_size // 4)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert world.verify()[0] == 0, "documented: an unchanged time is believed, but for three samples"
    assert world.verify("--full")[0] == 1
    world.pull(TEXT)
    assert world.verify("--full")[0] == 0
    assert content(world.folder) == text_bundle()


def test_any_folder_against_a_lock(world: World) -> None:
    build = world.root / "build" / TEXT
    for path, data in text_bundle().items():
        (build / path).parent.mkdir(parents=True, exist_ok=True)
        (build / path).write_bytes(data)
    where = ("--folder", str(build), "--lock", str(lock_path(world.zoo, TEXT)))
    assert world.verify(*where)[0] == 0
    flip(build / "embed.bin")
    code, report, stderr = world.verify(*where)
    assert (code, report["entries"][0]["problems"][0]["path"]) == (1, "embed.bin")
    assert "hint" not in stderr, "zoo pull does not repair a build"


def test_a_receipt_suffices_to_verify(world: World) -> None:
    world.pull(TEXT)
    (verdict,) = verify_folder(world.folder, [], None, Reading())
    assert (verdict.good, verdict.files) == (True, 9)
    assert "receipt" in verdict.warnings[0]
    flip(world.folder / "embed.bin")
    assert [f.path for v in verify_folder(world.folder, [TEXT], None, Reading()) for f in v.findings] == ["embed.bin"]
    for manifest in world.zoo.iterdir():
        manifest.unlink()
    done = world.run("verify", TEXT)
    assert done.returncode == InvalidDocument.exit_code, "a zoo directory that was named must be one"


def test_an_installed_entry_whose_lock_moved_on_is_checked_as_installed(world: World) -> None:
    world.pull(TEXT)
    world.release(TEXT, {**text_bundle(), "embed.bin": b"new"})
    code, report, _ = world.verify()
    assert code == 0
    assert ["`zoo pull tiny` updates it" in warning for warning in report["entries"][0]["warnings"]] == [True]


def test_verify_says_what_is_not_installed(world: World) -> None:
    done = world.run("verify")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing is installed" in done.stderr
    done = world.run("verify", TEXT)
    assert done.returncode == CheckFailed.exit_code
    assert "hint: zoo pull tiny" in done.stderr
    assert world.run("verify", "tiny-sigth").returncode == UnknownEntry.exit_code
    assert world.run("verify", "--lock", "x").returncode == UsageError.exit_code


def test_a_dry_run_changes_nothing(world: World) -> None:
    report = world.pull(SIGHT, "--dry-run")
    assert "result" not in report
    assert report["plan"]["bytes_to_move"] == sum(len(data) for data in set(sight_bundle().values()))
    assert not world.models.exists()
    assert world.hub.log.all() == []


def test_text_says_what_travels_what_does_not_and_why(world: World) -> None:
    first = world.run("pull", TEXT)
    assert "fetch  9  5.50 MB  missing" in first.stdout
    assert "tiny is complete: 9 files, all verified" in first.stdout
    second = world.run("pull", SIGHT)
    assert "5.50 MB there already" in second.stdout
    assert "the same bytes as another file of this folder" in second.stdout
    third = world.run("pull", SIGHT, "--quiet")
    assert "nothing to do" in third.stdout
    assert third.stderr == ""
    verified = world.run("verify")
    assert [line.split()[0] for line in verified.stdout.splitlines()[:2]] == ["good", "good"]


def test_deleting_needs_consent(world: World) -> None:
    world.pull(SIGHT)
    done = world.run("pull", SIGHT, "--without", "audio")
    assert done.returncode == UsageError.exit_code
    assert "delete 3 files" in done.stderr
    assert "--yes" in done.stderr
    assert content(world.folder) == sight_bundle()
    report = world.pull(SIGHT, "--without", "audio", "--yes")
    assert report["result"]["deleted"] == {"count": 3}
    done = world.run("pull", SIGHT)
    assert "as it is installed: --without audio" in done.stderr
    assert world.pull(SIGHT, "--all")["result"]["fetched"]["count"] == 3
    assert world.run("pull", SIGHT, "--all", "--only", "text").returncode == UsageError.exit_code


def test_mistakes_are_one_line_with_the_documented_code(world: World) -> None:
    (world.zoo / "tiny-sight.lock.json").unlink()
    cases = {
        ("pull", "tinny"): UnknownEntry,
        ("pull", SIGHT): UnknownEntry,
        ("pull", TEXT, "--only", "txt"): UnknownEntry,
        ("pull", TEXT, "--from", "/nowhere"): UsageError,
    }
    for arguments, error in cases.items():
        done = world.run(*arguments)
        assert done.returncode == error.exit_code, arguments
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
    assert "`zoo push tiny-sight`" in world.run("pull", SIGHT).stderr


def test_bytes_come_from_wherever_they_lie(world: World) -> None:
    world.pull(TEXT)
    world.hub.log.clear()
    elsewhere = world.root / "elsewhere"
    report = world.pull(TEXT, "--from", str(world.folder), models=elsewhere)
    assert report["plan"]["totals"].keys() == {"link"}
    assert report["result"]["received_bytes"] == 0
    assert content(elsewhere / "tiny") == text_bundle()
    build = ("--build", str(world.root / "no builds"))
    assert world.pull(TEXT, "--reuse", *build)["plan"]["totals"].keys() == {"keep"}
    assert world.hub.log.all() == []


def test_orphans_are_reported_and_stay(world: World) -> None:
    (world.folder / "vision.ane.mlmodelc").mkdir(parents=True)
    (world.folder / "vision.ane.mlmodelc" / "coremldata.bin").write_bytes(b"sideloaded")
    report = world.pull(TEXT)
    assert any("vision.ane.mlmodelc/coremldata.bin" in note for note in report["plan"]["notes"])
    assert (world.folder / "vision.ane.mlmodelc" / "coremldata.bin").read_bytes() == b"sideloaded"


def test_a_token_is_never_shown(world: World) -> None:
    world.environment["HF_TOKEN"] = "hf_verysecret"
    world.environment["HF_HUB_OFFLINE"] = "1"
    done = world.run("pull", TEXT)
    assert done.returncode == HubError.exit_code
    assert "HF_HUB_OFFLINE" in done.stderr
    assert "hf_verysecret" not in done.stdout + done.stderr


def test_a_provisional_lock_is_said_loudly(world: World) -> None:
    world.release(TEXT, text_bundle(), digests=False)
    done = world.run("pull", TEXT)
    assert done.returncode == 0, done.stderr
    assert "NOT VERIFIABLE" in done.stdout
    assert "NOT verified" in done.stdout
    code, report, _ = world.verify()
    assert (code, report["entries"][0]["unverifiable"]) == (0, 9)


def test_partners_that_need_other_bytes_are_a_conflict(world: World) -> None:
    world.pull(TEXT)
    world.release(SIGHT, {**sight_bundle(), "embed.bin": b"other"})
    done = world.run("pull", SIGHT)
    assert done.returncode == Conflict.exit_code
    assert "embed.bin" in done.stderr
    assert content(world.folder) == text_bundle()
