from __future__ import annotations

import io
import sys
import time

import pytest

from zoo.report import progress
from zoo.report.progress import progress_display, seconds_left


class Terminal(io.StringIO):
    """Standard error as a person has it."""

    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_for_large_files_only(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display("Fetching", unit="bytes") as display:
        for name, size in (("weight.bin", 2_000_000), ("config.json", 500)):
            display.start(name, size)
            display.advance(name, size)
            display.finish(name, "verified")
    assert capsys.readouterr().err == "Fetching: weight.bin verified\n"


def test_a_log_counts_up_to_the_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    with progress_display("Fetching", unit="bytes", total=4_000_000) as display:
        display.start("a", 2_000_000, done=1_000_000)
        display.advance("a", 500_000)
        display.finish("a")
        display.start("b", 2_000_000)
        display.advance("b", 1_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "Fetching: 1.50 MB of 4.00 MB, 38 %",
        "Fetching: 3.00 MB of 4.00 MB, 75 %",
    ]


def test_steps_without_a_total_are_told_one_by_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    with progress_display("Building", unit="steps") as display:
        display.start("chunk1", 1000)
        display.start("chunk2", 2000)
        display.advance("chunk2", 500)
    assert capsys.readouterr().err == "Building: chunk1 0 %, chunk2 25 %\n"


@pytest.mark.parametrize(
    ("advanced", "remaining", "elapsed", "left"),
    [(10, 30, 5.0, 15.0), (10, 30, 1.0, None), (0, 30, 60.0, None), (10, 0, 5.0, None), (-5, 30, 5.0, None)],
)
def test_time_left_follows_from_the_pace(
    advanced: float, remaining: float, elapsed: float, left: float | None
) -> None:
    assert seconds_left(advanced, remaining, elapsed) == left


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, as the display sees them."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_says_how_long_the_rest_takes(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with progress_display("Fetching", unit="bytes", total=400_000_000) as display:
        display.start("a", 400_000_000, done=100_000_000)  # found on the disk, so it says nothing about the pace
        clock[0] += 100
        display.advance("a", 100_000_000)
    assert capsys.readouterr().err == "Fetching: 200 MB of 400 MB, 50 %, 3 min 20 s left\n"


def test_a_build_says_how_far_it_is_and_what_runs(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with progress_display("Building", unit="steps", total=4000) as display:
        display.start("chunk1", 2000)
        clock[0] += 30
        display.advance("chunk1", 1000)
    assert capsys.readouterr().err == "Building: 25 %, 1 min 30 s left, chunk1 50 %\n"


def test_a_terminal_says_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    with progress_display("Building", unit="steps", total=4000) as display:
        display.start("chunk1", 2000)
        clock[0] += 30
        display.advance("chunk1", 1000)
    assert "1 min 30 s left" in terminal.getvalue()


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_display("Fetching", unit="bytes", quiet=True) as display:
        display.start("a", 5_000_000)
        display.finish("a", "verified")
        display.say("something")
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_names_as_they_are_and_no_bars_for_quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_display("Fetching", unit="bytes") as display:
        display.start("[red]x[/red].bin", 2_000_000)
        display.finish("[red]x[/red].bin", "verified")
    assert "[red]x[/red].bin verified" in terminal.getvalue()
    assert "Fetching" not in terminal.getvalue()


def test_a_terminal_shows_bars_for_longer_work(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "QUICK_SECONDS", -1.0)
    with progress_display("Fetching", unit="bytes") as display:
        display.start("a" * 60, 2_000_000)
        display.advance("a" * 60, 1_000_000)
    assert "Fetching" in terminal.getvalue()
    assert "…" in terminal.getvalue()
