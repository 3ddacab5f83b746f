"""`zoo sideload` from end to end, against a folder that plays the phone (tests/data/devicectl/xcrun)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.bundles import locked_zoo, package_files, text_files, write_files
from tests.zoo.cli.in_process import Result, run_zoo
from tests.zoo.transfer.phone_support import DATA, put_phone
from zoo.lock import load_lock, lock_digest, lock_path
from zoo.plan.device_commands import Target
from zoo.receipt import Installed, Receipt, ReceiptFile, save_receipt
from zoo.transfer.sideload import device_lock

PHONE = "6F1C2D3E-0000-4000-8000-000000000001"
NAME = "Ada's iPhone"
WEIGHT = "chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin"


@dataclass(frozen=True)
class Bench:
    """A scratch zoo with an installed entry, and a phone."""

    directory: Path
    phone: Path

    @property
    def installed(self) -> Path:
        return self.directory / "models" / "tiny"

    @property
    def on_phone(self) -> Path:
        return self.phone / "container" / "Documents" / "Models" / "tiny"

    def zoo(self, *arguments: str, folder: str = "tiny") -> Result:
        places = ("--models", "models", "--zoo", "made/zoo", "--quiet")
        return run_zoo("sideload", folder, *places, *arguments, cwd=self.directory)

    def mood(self, **mood: object) -> None:
        (self.phone / "mood").write_text(json.dumps(mood))

    def calls(self, verb: str) -> list[list[str]]:
        """The arguments of every call with that verb so far; forgets them."""
        place = self.phone / "calls"
        calls = [json.loads(line) for line in place.read_text().splitlines()] if place.is_file() else []
        place.unlink(missing_ok=True)
        return [call for call in calls if verb in call[:4]]

    def phone_files(self) -> dict[str, bytes]:
        found = (path for path in self.on_phone.rglob("*") if path.is_file())
        return {path.relative_to(self.on_phone).as_posix(): path.read_bytes() for path in found}

    def install(self, files: dict[str, bytes]) -> None:
        """Install `files` as entry tiny, with its receipt."""
        locked_zoo(self.directory / "made", {"tiny": files})
        write_files(self.installed, files)
        lock = load_lock(lock_path(self.directory / "made" / "zoo", "tiny"))
        owned = tuple(ReceiptFile(path=f.path, size=f.size, sha256=f.sha256, xxh3=f.xxh3) for f in lock.files)
        save_receipt(self.installed, Receipt(entries={"tiny": Installed(lock=lock_digest(lock), files=owned)}))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path / "here", tmp_path / "phone")
    put_phone(made.phone, monkeypatch)
    made.directory.mkdir()
    made.install(text_files())
    return made


def test_a_dry_run_is_the_default_and_its_commands_do_it(bench: Bench) -> None:
    shown = bench.zoo("--device", NAME)
    assert shown.returncode == 0, shown.stderr
    assert not bench.calls("copy")
    assert not bench.on_phone.exists()
    commands = [line for line in shown.stdout.splitlines() if line.startswith("xcrun ")]
    assert "would travel" in shown.stdout
    for command in commands[:-1]:
        assert "--remove-existing-content" not in command
        words = [*shlex.split(command), "--json-output", os.devnull]
        subprocess.run(words, check=True)
    assert bench.phone_files() == text_files()
    assert commands[-1].split()[2:5] == ["device", "info", "files"]


def test_run_copies_checks_and_needs_no_second_copy(bench: Bench) -> None:
    first = bench.zoo("--device", PHONE.lower(), "--run")
    assert first.returncode == 0, first.stderr
    assert bench.phone_files() == text_files()
    assert "listed again and compared by size" in first.stdout
    copies = bench.calls("copy")
    destinations = [call[call.index("--destination") + 1] for call in copies]
    # The model is one copy and the largest, so the first; the receipt stays here.
    assert destinations == [
        "Documents/Models/tiny/chunk1.mlpackage",
        "Documents/Models/tiny/hf_model/tokenizer.json",
        "Documents/Models/tiny/hf_model/config.json",
    ]
    assert {call[call.index("--device") + 1] for call in copies} == {PHONE}
    second = bench.zoo("--device", PHONE, "--run")
    assert second.returncode == 0
    assert not bench.calls("copy")
    assert "nothing to copy" in second.stdout


def test_an_update_copies_what_changed(bench: Bench) -> None:
    assert bench.zoo("--device", PHONE, "--run").returncode == 0
    bench.calls("copy")
    # The same sizes: only the digests know.
    changed = text_files(b"W" * 5000)
    bench.install(changed)
    result = bench.zoo("--device", PHONE, "--run", "--trust-size", "--format", "json")
    assert result.returncode == 0, result.stderr
    assert bench.phone_files() == changed
    document = json.loads(result.stdout)
    assert [(copy["path"], copy["reason"]) for copy in document["plan"]["copies"]] == [(WEIGHT, "differs")]
    assert document["result"] == {"good": True, "copied_bytes": 5000, "problems": [], "compared_by": "size"}


def test_what_somebody_else_copied_is_of_unknown_content(bench: Bench) -> None:
    write_files(bench.on_phone, text_files(b"x" * 5000))
    plan = _plan(bench.zoo("--device", PHONE, "--format", "json"))
    assert {copy["reason"] for copy in plan["copies"]} == {"contents unknown"}
    assert any("no digests" in note for note in plan["notes"])
    trusted = _plan(bench.zoo("--device", PHONE, "--format", "json", "--trust-size"))
    assert not trusted["copies"]
    assert {keep["reason"] for keep in trusted["keeps"]} == {"same size; bytes not compared"}


def _plan(result: Result) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)["plan"]
    assert isinstance(plan, dict)
    return plan


def test_left_over_files_are_named_and_stop_a_run(bench: Bench) -> None:
    write_files(bench.on_phone, package_files("prefill_chunk1", b"p" * 100))
    shown = bench.zoo("--device", PHONE)
    assert shown.returncode == 0
    assert "orphan prefill_chunk1.mlpackage (3 files, 151 B): a model that is not of the bundle" in shown.stdout
    refused = bench.zoo("--device", PHONE, "--run")
    assert refused.returncode == 1
    assert "--allow-orphans" in refused.stderr
    for_programs = bench.zoo("--device", PHONE, "--run", "--format", "json")
    assert for_programs.returncode == 1
    assert len(json.loads(for_programs.stdout)["plan"]["orphans"]) == 3
    assert not bench.calls("copy")
    done = bench.zoo("--device", PHONE, "--run", "--allow-orphans")
    assert done.returncode == 0, done.stderr
    assert bench.phone_files() == {**text_files(), **package_files("prefill_chunk1", b"p" * 100)}


def test_neighbours_on_the_phone_survive(bench: Bench) -> None:
    neighbour = bench.on_phone.parent / "gemma4-e2b" / "chunk1.mlmodelc" / "model.mil"
    neighbour.parent.mkdir(parents=True)
    neighbour.write_bytes(b"neighbour")
    assert bench.zoo("--device", PHONE, "--run").returncode == 0
    assert neighbour.read_bytes() == b"neighbour"


def test_a_copy_that_landed_elsewhere_is_found(bench: Bench) -> None:
    bench.mood(nest=True)
    result = bench.zoo("--device", PHONE, "--run")
    assert result.returncode == 1
    assert "a file of that name is at chunk1.mlpackage/chunk1.mlpackage/" in result.stdout
    assert "3 of 5 files are not on the device" in result.stderr
    # Next time the plan says what that left behind.
    bench.mood()
    assert "one level too deep" in bench.zoo("--device", PHONE).stdout


def test_a_copy_that_only_claims_success_is_found(bench: Bench) -> None:
    bench.mood(lose="Documents/Models/tiny/hf_model/config.json")
    result = bench.zoo("--device", PHONE, "--run", "--format", "json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["result"]["problems"] == [{"path": "hf_model/config.json", "problem": "missing"}]


def test_an_interrupted_run_goes_on_where_it_stopped(bench: Bench) -> None:
    bench.mood(fail_copy=2)
    failed = bench.zoo("--device", PHONE, "--run")
    assert failed.returncode == 8
    assert "unlock it" in failed.stderr
    assert len(bench.calls("copy")) == 2
    bench.mood()
    assert bench.zoo("--device", PHONE, "--run").returncode == 0
    assert len(bench.calls("copy")) == 2, "the model that had arrived was copied again"
    assert bench.phone_files() == text_files()


def test_what_a_file_manager_left_in_a_model_here_is_not_copied(bench: Bench) -> None:
    (bench.installed / "chunk1.mlpackage" / ".DS_Store").write_bytes(b"litter")
    (bench.installed / "notes.txt").write_text("mine")
    result = bench.zoo("--device", PHONE, "--run")
    assert result.returncode == 0, result.stderr
    assert bench.phone_files() == text_files()
    assert "notes.txt" in result.stderr


@pytest.mark.parametrize("damage", ["missing", "digest"])
def test_a_damaged_folder_is_not_copied(bench: Bench, damage: str) -> None:
    if damage == "missing":
        (bench.installed / WEIGHT).unlink()
    else:
        (bench.installed / WEIGHT).write_bytes(b"v" * 5000)
    result = bench.zoo("--device", PHONE, "--run")
    assert result.returncode == 1
    assert f"first {WEIGHT}: {damage}" in result.stderr
    assert not bench.calls("copy")


def test_a_build_is_copied_to_the_folder_its_manifest_names(bench: Bench) -> None:
    locked_zoo(bench.directory / "made", {"tiny-multimodal": text_files()})
    build = bench.directory / "made" / "tiny-multimodal"
    lock = lock_path(bench.directory / "made" / "zoo", "tiny-multimodal")
    beside = build.parent / "tiny-multimodal.lock.json"
    nameless = bench.zoo("--device", PHONE, folder=str(build))
    assert nameless.returncode == 1
    assert "no receipt is in it" in nameless.stderr
    assert _plan(bench.zoo("--device", PHONE, "--lock", str(lock), "--format", "json", folder=str(build)))[
        "destination"
    ] == ("Documents/Models/tiny")
    beside.write_bytes(lock.read_bytes())
    named = bench.zoo("--device", PHONE, "--as", "other", "--format", "json", folder=str(build))
    assert _plan(named)["destination"] == "Documents/Models/other"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "which device? connected: Ada's iPhone"),
        (("--device", "Bob's iPhone"), 8, "no device is called"),
        (("--device", "Ada's iPad"), 8, "cannot be reached"),
        (("--device", "iPhone 17 Pro"), 2, "is a simulator"),
        (("--device", PHONE, "--app", "not an app"), 2, "--app"),
        (("--device", PHONE, "--as", "tiny/"), 2, "without a slash"),
        (("--device", PHONE, "--as", ".."), 10, "'..' part"),
        (("--device", PHONE, "--run", "--dry-run"), 2, "do not go together"),
        (("--device", PHONE, "--full", "--trust-size"), 2, "do not go together"),
        (("--device", PHONE, "--run", "--listing", "x.json"), 2, "saved listing"),
        (("--listing", "x.json"), 2, "needs --device"),
        (("--device", PHONE, "--listing", "x.json"), 8, "x.json"),
    ],
)
def test_mistakes_are_told_before_anything_is_copied(
    bench: Bench, options: tuple[str, ...], code: int, said: str
) -> None:
    result = bench.zoo(*options)
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert not bench.calls("copy")


def test_an_unknown_folder_is_told(bench: Bench) -> None:
    result = bench.zoo("--device", PHONE, folder="nowhere")
    assert result.returncode == 2
    assert "no such folder" in result.stderr


def test_without_xcode_a_saved_listing_still_gives_the_plan(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(bench.directory))
    missing = bench.zoo("--device", PHONE)
    assert missing.returncode == 11
    assert "Xcode 15" in missing.stderr
    assert "--listing" in missing.stderr
    plan = _plan(bench.zoo("--device", PHONE, "--listing", str(DATA / "files.json"), "--format", "json"))
    assert [(copy["path"], copy["reason"]) for copy in plan["copies"]] == [
        ("chunk1.mlpackage", "contents unknown"),
        ("hf_model/tokenizer.json", "contents unknown"),
        ("hf_model/config.json", "missing"),
    ]
    assert [orphan["path"] for orphan in plan["orphans"]] == [".placeholder", "prefill_chunk1.mlmodelc/model.mil"]


def test_a_damaged_ledger_costs_another_copy_and_nothing_else(bench: Bench) -> None:
    assert bench.zoo("--device", PHONE, "--run").returncode == 0
    (ledger,) = (bench.directory / "cache" / "sideload").glob("*.json")
    ledger.write_text("{")
    bench.calls("copy")
    assert bench.zoo("--device", PHONE, "--run").returncode == 0
    assert len(bench.calls("copy")) == 3


def test_a_copy_that_broke_off_is_not_taken_for_what_was_there_before(bench: Bench) -> None:
    assert bench.zoo("--device", PHONE, "--run").returncode == 0
    bench.install(text_files(b"W" * 5000))
    bench.calls("copy")
    bench.mood(fail_copy=1)
    assert bench.zoo("--device", PHONE, "--run").returncode == 8
    # Back to the old bytes: whether they still are on the phone is not known any more.
    bench.mood()
    bench.install(text_files())
    plan = _plan(bench.zoo("--device", PHONE, "--format", "json"))
    assert [(copy["path"], copy["reason"]) for copy in plan["copies"]] == [(WEIGHT, "contents unknown")]


def test_two_processes_do_not_copy_to_one_phone(bench: Bench) -> None:
    target = Target(PHONE, "com.example.CoreMLLLMChat", "tiny")
    with device_lock(bench.directory / "cache", target):
        result = bench.zoo("--device", PHONE, "--run")
    assert result.returncode == 9
    assert "another zoo process" in result.stderr
    assert not bench.calls("copy")


def test_what_must_be_absent_is_named_and_refused(bench: Bench) -> None:
    manifest = bench.directory / "made" / "zoo" / "tiny.toml"
    manifest.write_text(manifest.read_text().replace("[hub]", 'absent = ["prefill_*"]\n[hub]', 1))
    write_files(bench.on_phone, {"prefill_chunk1.mlmodelc/coremldata.bin": b"?"})
    result = bench.zoo("--device", PHONE, "--run")
    assert result.returncode == 1
    assert "orphan prefill_chunk1.mlmodelc (1 B): must be absent: the app would take it" in result.stdout
    assert not bench.calls("copy")
