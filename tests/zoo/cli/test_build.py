"""`zoo build` as people and programs see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from tests.zoo.build import fake
from zoo.build import recipes
from zoo.cli.build import build
from zoo.errors import ConversionError, UnknownEntry


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_DIR", str(fake.write_zoo(tmp_path / "zoo")))
    monkeypatch.setenv("ZOO_BUILD", str(tmp_path / "build"))
    monkeypatch.delenv("ZOO_CHECKPOINTS", raising=False)
    monkeypatch.setattr(recipes, "FAMILIES", {"fake": "tests.zoo.build.fake_family"})
    recipes.load_family.cache_clear()
    return tmp_path


def zoo_build(*arguments: str) -> Result:
    app = Typer(rich_markup_mode=None)
    app.command()(build)
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_a_build_says_what_it_did_and_the_next_one_that_there_is_nothing_to_do(place: Path) -> None:
    checkpoint = str(fake.write_checkpoint(place / "checkpoint"))
    first = zoo_build("fake-text", "--checkpoint", checkpoint, "--jobs", "2")
    assert first.exit_code == 0
    rows = [line.split() for line in first.stdout.splitlines()]
    assert ["component", "state", "files", "size", "time"] in rows
    assert ["chunk1", "built", "3", "3.15", "MB"] in [row[:5] for row in rows]
    assert f"fake-text is in {place / 'build' / 'fake-text'}: 11 files, 6.29 MB" in first.stdout
    assert "left to do on a Mac: compile 2 packages" in first.stdout
    assert "5 steps to run, from 6.29 MB of tensors" in first.stderr
    assert "first build" in first.stderr
    second = zoo_build("fake-text", "--checkpoint", checkpoint)
    assert second.stdout == f"fake-text is up to date in {place / 'build' / 'fake-text'} (6.29 MB); nothing to do\n"
    assert second.stderr == ""


def test_dry_run_changes_nothing_and_shows_what_would_go(place: Path) -> None:
    checkpoint = str(fake.write_checkpoint(place / "checkpoint"))
    planned = zoo_build("fake-text", "--checkpoint", checkpoint, "--dry-run")
    assert "5 steps to run" in planned.stdout
    assert not (place / "build").exists()
    zoo_build("fake-text", "--checkpoint", checkpoint)
    (place / "build" / "fake-text" / "notes.txt").write_text("mine")
    (place / "build" / "fake-text" / "chunk1.mlmodelc").mkdir()
    (place / "build" / "fake-text" / "chunk1.mlmodelc" / "model.mil").write_text("mine too")
    planned = zoo_build("fake-text", "--checkpoint", checkpoint, "-n")
    assert "remove notes.txt (4 B): no component owns it" in planned.stdout
    assert "remove chunk1.mlmodelc/model.mil (8 B)" in planned.stdout
    assert (place / "build" / "fake-text" / "notes.txt").exists()


def test_json_has_the_documented_keys(place: Path) -> None:
    checkpoint = str(fake.write_checkpoint(place / "checkpoint"))
    plan = json.loads(zoo_build("fake-full", "--checkpoint", checkpoint, "-n", "--format", "json").stdout)
    assert {"entry", "checkpoint", "steps", "not_built", "to_remove", "up_to_date"} == set(plan)
    assert plan["up_to_date"] is False
    keys = {"step", "components", "recipe", "parameters", "key", "state", "reason", "size", "tensor_bytes", "memory"}
    assert set(plan["steps"][0]) == keys
    assert plan["not_built"][0]["component"] == "extra"
    done = json.loads(zoo_build("fake-full", "--checkpoint", checkpoint, "--format", "json", "-q").stdout)
    added = {"components", "changed", "folder", "lock", "removed", "to_compile_on_a_mac"}
    assert set(done) == {"entry", "checkpoint", "steps", "not_built"} | added
    assert done["to_compile_on_a_mac"] == [
        f"{name}.mlpackage" for name in ("chunk1", "chunk2", "nested/again", "vision")
    ]
    documented = (Path(__file__).parents[3] / "docs" / "build.md").read_text()
    for key in {*plan, *done, *plan["steps"][0], *done["components"][0]}:
        assert f"`{key}`" in documented, key


def test_only_says_what_is_still_missing(place: Path) -> None:
    checkpoint = str(fake.write_checkpoint(place / "checkpoint"))
    result = zoo_build("fake-text", "--checkpoint", checkpoint, "--only", "rope,tokenizer")
    assert "fake-text was not assembled: chunk1, chunk2, model-config still to be built" in result.stdout


def test_the_checkpoint_is_found_by_its_repos_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConversionError, match="someone/fake-checkpoint: no --checkpoint DIR given") as caught:
        zoo_build("fake-text", "-n")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("hf download someone/fake-checkpoint --local-dir fake-checkpoint")
    monkeypatch.setenv("ZOO_CHECKPOINTS", str(place))
    with pytest.raises(ConversionError, match="fake-checkpoint does not exist"):
        zoo_build("fake-text", "-n")
    fake.write_checkpoint(place / "fake-checkpoint")
    assert "5 steps to run" in zoo_build("fake-text", "-n").stdout


def test_unknown_entries_have_neighbours(place: Path) -> None:
    with pytest.raises(UnknownEntry, match="fake-txt") as caught:
        zoo_build("fake-txt")
    assert "fake-text" in str(caught.value.hint)
