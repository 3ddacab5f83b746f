from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zoo.demo.narrator import Narrator
from zoo.demo.workplace import prepare
from zoo.errors import CheckFailed, Conflict


def test_only_a_demo_is_ever_cleared(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.bin").write_bytes(b"keep me")
    with pytest.raises(Conflict, match="not empty and not a demo's"):
        prepare(tmp_path, ("gemma4-e4b",))
    assert (tmp_path / "models" / "mine.bin").read_bytes() == b"keep me"


def test_a_second_demo_keeps_the_checkpoint_and_the_step_cache(tmp_path: Path) -> None:
    place = prepare(tmp_path / "demo", ("gemma4-e4b",))
    for kept in (place.checkpoint, place.cache, place.models):
        kept.mkdir(parents=True)
        (kept / "x").touch()
    again = prepare(tmp_path / "demo", ("gemma4-e4b",))
    assert (again.checkpoint / "x").exists()
    assert (again.cache / "x").exists()
    assert not again.models.exists()
    assert [file.name for file in again.zoo.iterdir()] == ["gemma4-e4b.toml"]


def test_commands_see_the_demo_and_nobody_s_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("ZOO_MODELS", "/home/someone/models")
    environment = prepare(tmp_path / "demo", ()).environment("http://127.0.0.1:1")
    assert "hf_secret" not in environment.values()
    assert environment["ZOO_MODELS"] == str(tmp_path.resolve() / "demo" / "device" / "models")
    assert environment["HF_ENDPOINT"] == "http://127.0.0.1:1"


def test_an_unexpected_exit_code_stops_the_demo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    narrator = Narrator(1, {}, tmp_path)
    assert narrator.run([sys.executable, "-c", "exit(3)"], shown=("x",), expect=3) >= 0
    with pytest.raises(CheckFailed, match="exit code 3, expected 0"):
        narrator.run([sys.executable, "-c", "exit(3)"], shown=("zoo", "verify"))
    assert "$ zoo verify" in capfd.readouterr().out
