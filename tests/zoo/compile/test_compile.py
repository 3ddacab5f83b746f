"""`zoo compile` over a real build of the fake family, with a stand-in for Apple's compiler."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from tests.zoo.build.conftest import Bench, bench
from tests.zoo.compile import xcrun
from zoo.cli.compile import compile as compile_command
from zoo.compile.plan import plan_compile
from zoo.errors import Conflict, ConversionError, DigestMismatch, InvalidDocument
from zoo.lock import Lock, load_lock

__all__ = ["bench"]


@pytest.fixture
def calls(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    log = xcrun.install(bench.root / "bin", monkeypatch)
    bench.run("fake-text")
    return log


def zoo_compile(bench: Bench, *arguments: str, entry: str = "fake-text") -> Result:
    app = Typer(rich_markup_mode=None)
    app.command()(compile_command)
    out = ["--out", str(bench.root / "compiled")]
    return CliRunner().invoke(app, [str(bench.build / entry), *out, *arguments], catch_exceptions=False)


def compiled(log: Path) -> list[str]:
    """Names of the packages that the compiler was given."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return sorted(Path(line[2]).name for line in lines if line[1] == "compile")


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def is_the_bundle(bench: Bench, entry: str = "fake-text") -> Lock:
    """The compiled folder is exactly what its lock says."""
    folder = bench.root / "compiled" / entry
    lock = load_lock(folder.with_name(f"{entry}.lock.json"))
    assert tree(folder) == {file.path: file.sha256 for file in lock.files}
    return lock


def test_packages_are_compiled_and_everything_else_is_linked(bench: Bench, calls: Path) -> None:
    before = tree(bench.build)
    done = zoo_compile(bench)
    assert done.exit_code == 0, done.stdout
    assert compiled(calls) == ["chunk1.mlpackage", "chunk2.mlpackage"]
    lock = is_the_bundle(bench)
    paths = {file.path: file for file in lock.files}
    assert {"chunk1.mlmodelc/model.mil", "chunk2.mlmodelc/weights/weight.bin", "cos.npy"} <= paths.keys()
    assert not any(".mlpackage" in path for path in paths)
    assert paths["chunk1.mlmodelc/model.mil"].component == "chunk1"
    assert lock.provenance["compiler.coremlcompiler"] == xcrun.VERSION
    source = load_lock(bench.build / "fake-text.lock.json")
    assert lock.provenance.items() >= source.provenance.items()
    assert tree(bench.build) == before, "the build itself was changed"
    assert "zoo push fake-text --build" in done.stdout


def test_the_second_time_nothing_is_compiled_and_a_sibling_shares(bench: Bench, calls: Path) -> None:
    zoo_compile(bench)
    calls.write_text("")
    again = zoo_compile(bench)
    assert compiled(calls) == []
    assert "up to date" in again.stdout
    bench.run("fake-full")
    zoo_compile(bench, entry="fake-full")
    # chunk1 and chunk2 are the text entry's; `nested/again` is chunk2 under another name, which the compiler notes.
    assert compiled(calls) == ["again.mlpackage", "vision.mlpackage"]
    is_the_bundle(bench, "fake-full")
    shared = "chunk1.mlmodelc/weights/weight.bin"
    text, full = (bench.root / "compiled" / entry / shared for entry in ("fake-text", "fake-full"))
    assert text.samefile(full)


def test_force_compiles_again(bench: Bench, calls: Path) -> None:
    zoo_compile(bench)
    zoo_compile(bench, "--force")
    assert compiled(calls) == ["chunk1.mlpackage"] * 2 + ["chunk2.mlpackage"] * 2


def test_another_compiler_compiles_again(bench: Bench, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo_compile(bench)
    monkeypatch.setenv("FAKE_XCRUN_VERSION", "3600.1")
    zoo_compile(bench)
    assert compiled(calls) == ["chunk1.mlpackage"] * 2 + ["chunk2.mlpackage"] * 2
    assert is_the_bundle(bench).provenance["compiler.coremlcompiler"] == "3600.1"


def test_a_failure_keeps_what_was_compiled_and_the_old_bundle(
    bench: Bench, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_XCRUN_FAIL", "chunk2")
    with pytest.raises(ConversionError, match=r"chunk2.mlpackage: coremlcompiler failed: .*Espresso exception"):
        zoo_compile(bench, "--jobs", "1")
    assert not (bench.root / "compiled" / "fake-text").exists()
    monkeypatch.delenv("FAKE_XCRUN_FAIL")
    calls.write_text("")
    zoo_compile(bench)
    assert compiled(calls) == ["chunk2.mlpackage"]
    is_the_bundle(bench)


@pytest.mark.parametrize(
    ("variable", "message"),
    [("FAKE_XCRUN_OLD", "wrote no model.mil"), ("FAKE_XCRUN_LOSES_WEIGHTS", "refers to weights/weight.bin")],
)
def test_what_the_engine_could_not_load_is_refused(
    bench: Bench, calls: Path, monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConversionError, match=message):
        zoo_compile(bench)
    assert not (bench.root / "compiled" / "fake-text").exists()


def test_rewritten_weights_are_said(bench: Bench, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_XCRUN_REWRITES", "1")
    done = zoo_compile(bench)
    assert "chunk1.mlmodelc: the compiler rewrote weight.bin" in done.stdout
    is_the_bundle(bench)


def test_a_build_that_was_damaged_on_the_way_is_not_compiled(bench: Bench, calls: Path) -> None:
    weights = bench.build / "fake-text/chunk1.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(weights.read_bytes())
    content[7] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(DigestMismatch, match=r"chunk1\.mlpackage"):
        zoo_compile(bench)
    assert compiled(calls) == []


def test_without_a_compiler_the_plan_is_shown_and_the_rest_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run("fake-text")
    monkeypatch.setenv("PATH", str(bench.root))
    planned = zoo_compile(bench, "--dry-run")
    assert "2 packages to compile" in planned.stdout
    with pytest.raises(ConversionError, match="no xcrun") as error:
        zoo_compile(bench)
    assert "Mac" in (error.value.hint or "")


def test_dry_run_in_json_changes_nothing(bench: Bench, calls: Path) -> None:
    report = json.loads(zoo_compile(bench, "--dry-run", "--format", "json").stdout)
    assert [(item["path"], item["action"]) for item in report["packages"]] == [
        ("chunk1.mlpackage", "compile"),
        ("chunk2.mlpackage", "compile"),
    ]
    assert report["compiler"] == xcrun.VERSION
    assert report["kept"]["count"] == 5
    assert compiled(calls) == []
    assert not (bench.root / "compiled").exists()


def test_a_foreign_folder_is_never_replaced(bench: Bench, calls: Path) -> None:
    mine = bench.root / "compiled" / "fake-text" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(Conflict):
        zoo_compile(bench)
    assert mine.read_text() == "mine"


def test_a_folder_without_a_lock_is_no_build(bench: Bench) -> None:
    (bench.build / "stray").mkdir(parents=True)
    with pytest.raises(InvalidDocument, match=r"stray\.lock\.json beside it"):
        zoo_compile(bench, entry="stray")


def test_the_key_depends_on_bytes_name_and_compiler_and_nothing_else(bench: Bench) -> None:
    bench.run("fake-full")
    lock = load_lock(bench.build / "fake-full.lock.json")
    plan = plan_compile(lock, "1")
    keys = {package.path: package.key for package in plan.packages}
    assert keys["chunk2.mlpackage"] != keys["nested/again.mlpackage"], "the name is part of what is compiled"
    assert len(set(keys.values())) == len(keys)
    other = {package.path: package.key for package in plan_compile(lock, "2").packages}
    assert not set(keys.values()) & set(other.values())
    assert {package.path: package.key for package in plan_compile(lock, "1", keys.values()).packages} == keys
    assert plan_compile(lock, "1", keys.values()).to_compile == ()
