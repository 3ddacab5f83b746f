"""The benchmarks at a thousandth of their size: that they run, compare what they say, and leave nothing behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the [serve] extra")
pytest.importorskip("uvicorn", reason="needs the [serve] extra")

from benchmarks import planning, pull, push, verify
from benchmarks.measure import run_once
from benchmarks.served import make_bundle, parse_bytes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "count"), [("6G", 6_000_000_000), ("1.5M", 1_500_000), ("20KB", 20_000), ("7", 7), ("7b", 7)]
)
def test_amounts(text: str, count: int) -> None:
    assert parse_bytes(text) == count


def test_a_bundle_has_the_size_and_number_of_files_asked_for(tmp_path: Path) -> None:
    names = make_bundle(tmp_path / "a", 1_000_000, 52)
    sizes = [(tmp_path / "a" / name).stat().st_size for name in names]
    assert len(sizes) == 52
    assert 0 <= 1_000_000 - sum(sizes) < 60
    assert max(sizes) == 345_000
    assert make_bundle(tmp_path / "b", 1_000_000, 52) == names
    assert (tmp_path / "a" / names[0]).read_bytes() == (tmp_path / "b" / names[0]).read_bytes()


def test_memory_is_that_of_the_command_and_not_of_who_started_it() -> None:
    ballast = bytearray(200 << 20)
    run = run_once([sys.executable, "-c", "pass"], environment={}, cwd=ROOT)
    more = run_once([sys.executable, "-c", "x = bytearray(150 << 20)"], environment={}, cwd=ROOT)
    assert len(ballast) > run.memory + (100 << 20)
    assert more.memory - run.memory > 100 << 20
    assert 0 < run.wall < 10


def test_pull_beside_what_is_installed(tmp_path: Path) -> None:
    figures = pull.measure(tmp_path, 2_000_000, 52, rounds=1)
    names = {"zoo pull (verified)", "hf download", "curl -Z (4)", "aria2c -j4 -x1", "(sha256 alone)"}
    absent = {name for name in names if any(tool in name for tool in figures["absent"])}
    assert set(figures["runs"]) == names - absent
    assert "zoo pull (verified)" not in absent
    zoo = figures["runs"]["zoo pull (verified)"][0]
    assert 0 < zoo["memory"] < 80_000_000, "the bound of the issue, whatever the size"
    text = pull.report(figures)
    assert all(name in text for name in figures["runs"])
    assert all(f"not installed: {name}" in text for name in figures["absent"])


def test_verify(tmp_path: Path) -> None:
    figures = verify.measure(tmp_path, 2_000_000, 12, rounds=1)
    first, unchanged = (figures["runs"][f"zoo verify, {name}"][0] for name in ("first time", "nothing changed"))
    assert unchanged["cpu"] < first["cpu"] + 0.1
    assert "sha256sum" in verify.report(figures)


def test_planning() -> None:
    found = planning.measure(entries=40, files=60, rounds=1)
    # A fiftieth of a thousand entries, with room for a machine that does something else too.
    for name in found:
        assert found[name][0].cpu < planning.TARGET_SECONDS, name


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
def test_push_of_a_sibling_reads_and_sends_nothing_that_the_hub_has(tmp_path: Path) -> None:
    figures = push.measure(tmp_path, 60_000_000, 12)
    own = figures["own_bytes"]
    assert own <= figures["sent"] < own + 100_000, "its own file and the list of copies"
    assert figures["read"] < figures["bytes"] / 3, "Python and its packages; of the bundle its own file alone"
    assert abs(figures["read"] - figures["read_when_nothing_is_left_to_do"]) < 3_000_000
