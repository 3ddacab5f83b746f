from __future__ import annotations

import io
import sys

import pytest

from zoo.report import progress
from zoo.report.progress import progress_display


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
