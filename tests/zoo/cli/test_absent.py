"""Files that must be absent, from end to end: the app's engine routes by which files exist."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from tests.zoo.transfer.pull_support import TEXT, World, content, make_world, text_bundle
from zoo.errors import CheckFailed, UsageError
from zoo.hub_server.process import RunningHub, running_hub
from zoo.receipt import Installed, ReceiptFile, load_receipt, save_receipt


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def world(hub: RunningHub, tmp_path: Path) -> World:
    world = make_world(hub, tmp_path)
    manifest = world.zoo / f"{TEXT}.toml"
    manifest.write_text(manifest.read_text().replace("[[component]]", 'absent = ["prefill_*"]\n[[component]]', 1))
    world.release(TEXT, text_bundle(big=3000))
    world.pull(TEXT)
    return world


def put(world: World, path: str, data: bytes = b"?") -> None:
    (world.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (world.folder / path).write_bytes(data)


def test_a_stranger_that_the_app_would_take(world: World) -> None:
    put(world, "prefill_chunk1.mlmodelc/coremldata.bin")
    put(world, "prefill_chunk1.mlmodelc/weights/weight.bin", b"12")
    put(world, "notes.txt")
    code, report, stderr = world.verify()
    assert code == CheckFailed.exit_code
    (entry,) = report["entries"]
    assert [(p["path"], p["problem"], p["found"]["size"], p["owners"]) for p in entry["problems"]] == [
        ("prefill_chunk1.mlmodelc", "must be absent", 3, [])
    ]
    assert entry["broken_models"] == []
    assert ["notes.txt" in warning for warning in entry["warnings"]] == [True], "told of once"
    assert "tiny: prefill_chunk1.mlmodelc must not be there" in stderr
    assert "`zoo pull tiny` deletes" in stderr
    assert "zoo repair" not in stderr, "a repair deletes nothing"
    listed = world.run("ls", "--installed")
    assert "1 must not be there" in listed.stdout
    assert json.loads(world.run("ls", "--installed", "--format", "json").stdout)["entries"][0]["must_be_absent"] == [
        "prefill_chunk1.mlmodelc"
    ]
    refused = world.run("pull", TEXT)
    assert refused.returncode == UsageError.exit_code
    assert "delete 2 files that zoo did not install" in refused.stderr
    assert (world.folder / "prefill_chunk1.mlmodelc").is_dir()
    report = world.pull(TEXT, "--yes")
    assert report["result"]["deleted"] == {"count": 2}
    assert content(world.folder) == {**text_bundle(big=3000), "notes.txt": b"?"}
    assert not (world.folder / "prefill_chunk1.mlmodelc").exists()
    assert world.verify()[0] == 0


def test_links_and_empty_folders_go_and_what_a_link_leads_to_stays(world: World) -> None:
    target = world.root / "elsewhere.mlmodelc"
    target.mkdir()
    (target / "coremldata.bin").write_bytes(b"mine")
    (world.folder / "prefill_chunk2.mlmodelc").symlink_to(target)
    (world.folder / "prefill_chunk3.mlpackage/Data").mkdir(parents=True)
    (world.folder / "prefill_chunk3.mlpackage/.DS_Store").write_bytes(b"litter")
    _, report, _ = world.verify()
    assert [problem["path"] for problem in report["entries"][0]["problems"]] == [
        "prefill_chunk2.mlmodelc",
        "prefill_chunk3.mlpackage",
    ]
    world.pull(TEXT, "--yes")
    assert not [path.name for path in world.folder.iterdir() if path.name.startswith("prefill")]
    assert (target / "coremldata.bin").read_bytes() == b"mine"
    assert world.verify()[0] == 0


def test_what_another_entry_owns_is_not_deleted(world: World) -> None:
    put(world, "prefill_chunk1.mlmodelc/coremldata.bin")
    owned = Installed(lock="1" * 64, files=(ReceiptFile(path="prefill_chunk1.mlmodelc/coremldata.bin", size=1),))
    save_receipt(world.folder, load_receipt(world.folder).with_entry("gone", owned))
    refused = world.run("pull", TEXT, "--yes")
    assert refused.returncode == 9
    assert "gone, which is installed there, has it" in refused.stderr
    _, _, stderr = world.verify(TEXT)
    assert "`zoo remove gone`" in stderr
    assert world.run("remove", "gone", "--yes").returncode == 0
    assert world.verify()[0] == 0


def test_repair_brings_back_what_is_wrong_and_says_what_it_leaves(world: World) -> None:
    put(world, "prefill_chunk1.mlpackage/Manifest.json")
    (world.folder / "embed.bin").unlink()
    _, _, stderr = world.verify()
    assert "`zoo repair tiny` brings back just that" in stderr
    done = world.run("repair", "--format", "json")
    assert done.returncode == CheckFailed.exit_code
    report = json.loads(done.stdout)
    assert report["good"] is False
    assert report["folders"][0]["result"]["fetched"]["count"] == 1
    assert "prefill_chunk1.mlpackage must not be there" in done.stderr
    assert (world.folder / "embed.bin").is_file()
    again = world.run("repair")
    assert (again.returncode, "Traceback" in again.stderr) == (CheckFailed.exit_code, False)
    world.pull(TEXT, "--yes")
    assert world.run("repair").returncode == 0


def test_a_build_is_checked_against_its_manifest_too(world: World) -> None:
    put(world, "prefill_chunk1.mlmodelc/coremldata.bin")
    where = ("--folder", str(world.folder), "--lock", str(world.zoo / f"{TEXT}.lock.json"))
    code, report, stderr = world.verify(*where)
    assert (code, report["entries"][0]["problems"][0]["problem"]) == (1, "must be absent")
    assert "hint: delete" in stderr
