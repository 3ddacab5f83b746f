"""`zoo doctor` as people and programs see it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.zoo.cli.in_process import run_zoo

MANIFESTS = Path(__file__).parents[3] / "manifests"


def test_every_check_is_a_line_and_this_machine_can_build(tmp_path: Path) -> None:
    done = run_zoo("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "good     coremltools  converts, palettizes, saves, and reads back what it saved" in done.stdout
    assert "step cache in" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1] in ("nothing stands in the way of a build", "1 warning", "3 warnings")


def test_json_has_the_same_findings_and_a_missing_checkpoint_fails(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    done = run_zoo(
        "doctor", "gemma4-e4b", "--checkpoint", "checkpoint", "--fast", "--format", "json", "--zoo", str(MANIFESTS),
        cwd=tmp_path,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert not report["good"]
    (problem,) = [finding for finding in report["findings"] if finding["severity"] == "problem"]
    assert problem["check"] == "checkpoint"
    assert "checkpoint" in problem["message"]
    assert "error: doctor: 1 problem" in done.stderr


def test_a_checkpoint_without_an_entry_is_a_usage_error(tmp_path: Path) -> None:
    done = run_zoo("doctor", "--checkpoint", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "hint: zoo doctor gemma4-e4b --checkpoint DIR" in done.stderr
