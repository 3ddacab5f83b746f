"""`zoo synth`, from the command line to the disk. What is in the files: tests/converters/gemma4/test_full_size.py."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from zoo.build import synth
from zoo.build.synth import carry_out, plan_synthesis
from zoo.cli import main as command
from zoo.errors import Conflict, DiskError, UnknownEntry, UsageError
from zoo.events import Silent
from zoo.sizes import parse_size


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["zoo", "synth", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return int(ended.value.code or 0)


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "big"
    assert run(monkeypatch, "gemma4-e4b", str(place), "--dry-run", "--format", "json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == said["parameters"] * 2 == sum(shard["bytes"] for shard in said["shards"])
    assert {shard["state"] for shard in said["shards"]} == {"missing"}
    assert run(monkeypatch, "gemma4-e4b", str(place), "--dry-run") == 0
    assert "42 layers, 7.94 billion parameters, seed 0; 15.9 GB to write" in capsys.readouterr().out
    assert not place.exists()


def test_errors_are_one_line_with_their_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for arguments, code, message in (
        (("gemma4-e4c", str(tmp_path / "a")), 4, "no synthetic model called 'gemma4-e4c'"),
        (("gemma4-e4b", str(tmp_path / "a"), "--layers", "7"), 2, "cannot have 7 layers; it can have 12, 18"),
        (("gemma4-e4b", str(tmp_path / "a"), "--shard", "many"), 2, "--shard: 'many' is not a size"),
        (("gemma4-e4b", str(tmp_path)), 9, "is not empty"),
    ):
        assert run(monkeypatch, *arguments) == code
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.convert
def test_a_small_checkpoint_is_written_with_progress_and_planned_by_its_entry(tmp_path: Path) -> None:
    from converters.checkpoint import Checkpoint

    done: dict[str, int] = {}

    class Counting(Silent):
        def advance(self, item: str, amount: int) -> None:
            done[item] = done.get(item, 0) + amount

    place = tmp_path / "small"
    synthesis = plan_synthesis("gemma4-e2b", place, layers=10, shrink=16, shard_bytes=10_000_000)
    carry_out(synthesis, Counting())
    assert done == {shard.file: shard.size for shard in synthesis.plan.shards}
    assert len(Checkpoint.open(place).names) == len(synthesis.plan.tensors)
    again = plan_synthesis("gemma4-e2b", place, layers=10, shrink=16, shard_bytes=10_000_000)
    assert again.to_write == 0
    assert {shard["state"] for shard in again.to_json()["shards"]} == {"written before"}
    with pytest.raises(Conflict, match="not this synthetic checkpoint"):
        plan_synthesis("gemma4-e2b", place, layers=10, shrink=8, shard_bytes=None)


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synth, "_free_bytes", lambda _place: 10**9)
    synthesis = plan_synthesis("gemma4-e4b", tmp_path / "big", shard_bytes=None)
    with pytest.raises(DiskError, match=r"15\.9 GB to write, 1\.00 GB free"):
        carry_out(synthesis, Silent())
    assert not (tmp_path / "big").exists()


def test_an_unknown_model_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownEntry) as caught:
        plan_synthesis("gemma4-e4", tmp_path, shard_bytes=None)
    assert "gemma4-e4b" in str(caught.value.hint)


SIZES: Mapping[str, int] = {"6G": 6 * 10**9, "1.5 GB": 15 * 10**8, "4GiB": 4 << 30, "500m": 5 * 10**8, "123": 123}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes_are_decimal_unless_they_say_otherwise(text: str, size: int) -> None:
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "6X", "1e9"])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_size(text, "--memory")
