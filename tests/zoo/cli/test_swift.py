"""`zoo swift`: what it writes, and what `--check` says about a file that is not what the locks say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.zoo.bundles import locked_zoo, text_files
from tests.zoo.cli.in_process import Result, run_zoo

MODES = {
    "catalog": (["--out", "app"], "app/ZooCatalog.swift"),
    "drop-in": (["--drop-in", "--out", "app"], "app/ZooDropIn.swift"),
    "package": (["--package", "app"], "app/Sources/ZooModels/ZooCatalog.swift"),
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    locked_zoo(tmp_path, {"tiny": text_files()})
    return tmp_path


def swift(here: Path, *arguments: str) -> Result:
    return run_zoo("swift", "--zoo", "zoo", *arguments, cwd=here)


@pytest.mark.parametrize("mode", MODES)
def test_check_fails_on_drift_and_shows_it(here: Path, mode: str) -> None:
    options, path = MODES[mode]
    missing = swift(here, *options, "--check")
    assert missing.returncode == 1
    assert not (here / "app").exists()
    assert swift(here, *options).returncode == 0
    current = swift(here, *options, "--check")
    assert current.returncode == 0
    unlocked = "" if mode == "drop-in" else "left out, because they have no lock: tiny-multimodal\n"
    assert current.stderr == unlocked

    file = here / path
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('name: "Tiny"', 'name: "Huge"'), encoding="utf-8")
    drifted = swift(here, *options, "--check")
    assert drifted.returncode == 1
    assert '\n  -        name: "Huge",\n  +        name: "Tiny",\n' in drifted.stdout
    assert f"error: {path}: not what the locks say" in drifted.stderr
    assert f"hint: run `zoo swift {' '.join(options)}` and commit the result" in drifted.stderr
    assert "Huge" in file.read_text(encoding="utf-8"), "a check writes nothing"

    assert swift(here, *options, "--dry-run").returncode == 0
    assert "Huge" in file.read_text(encoding="utf-8")
    assert swift(here, *options).returncode == 0
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("mode", MODES)
def test_a_changed_lock_is_drift(here: Path, mode: str) -> None:
    options, path = MODES[mode]
    swift(here, *options)
    locked_zoo(here, {"tiny": text_files(b"x" * 6000)})
    drifted = swift(here, *options, "--check")
    assert drifted.returncode == 1
    assert path in drifted.stderr


def test_the_excerpt_is_short(here: Path) -> None:
    swift(here, "--out", "app")
    (here / "app/catalog.json").write_text('{"x": "' + "y" * 500 + '"}\n')
    lines = swift(here, "--out", "app", "--check").stdout.splitlines()
    assert any(line.startswith("  ... ") and line.endswith(" more lines") for line in lines)
    assert len(lines) < 40
    assert max(map(len, lines)) < 170


def test_json_says_what_differs(here: Path) -> None:
    swift(here, "--drop-in", "--out", "app")
    (here / "app/ZooDropIn.swift").write_text("// nothing\n")
    report = json.loads(swift(here, "--drop-in", "--out", "app", "--check", "--format", "json").stdout)
    (file,) = report["files"]
    assert report["left_out"] == []
    assert (report["written"], file["path"], file["changed"]) == (False, "app/ZooDropIn.swift", True)
    assert file["difference"][0] == "--- app/ZooDropIn.swift"
    assert "-// nothing" in file["difference"]


def test_entries_without_a_lock_are_left_out_and_named(here: Path) -> None:
    report = json.loads(swift(here, "--out", "app", "--format", "json").stdout)
    assert (report["entries"], report["left_out"]) == (["tiny"], ["tiny-multimodal"])
    report = json.loads(swift(here, "tiny", "--out", "app", "--format", "json").stdout)
    assert report["left_out"] == [], "nobody asked for them"


def test_the_drop_in_lists_entries_without_a_lock_too(here: Path) -> None:
    swift(here, "--drop-in", "--out", "app")
    source = (here / "app/ZooDropIn.swift").read_text(encoding="utf-8")
    assert "//   tiny-multimodal  no lock\n" in source
    assert 'size: "not locked yet"' in source
    assert sorted(path.name for path in (here / "app").iterdir()) == ["ZooDropIn.swift"]


@pytest.mark.parametrize("other", [["--drop-in"], ["--out", "elsewhere"]])
def test_a_package_does_not_go_with_other_places(here: Path, other: list[str]) -> None:
    result = swift(here, "--package", "app", *other)
    assert result.returncode == 2
    assert f"{other[0]} does not go with it" in result.stderr
    assert not (here / "app").exists()
