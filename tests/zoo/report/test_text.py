from __future__ import annotations

import io

import pytest

from zoo.report.text import columns, elide, paint, plural


def test_columns_line_up_without_trailing_blanks() -> None:
    table = columns([("a", "1", "x"), ("bbb", "22", "")], header=("NAME", "N", ""), align="<>")
    assert table == "NAME   N\na      1  x\nbbb   22"


def test_wide_characters_take_two_columns() -> None:
    assert columns([("重み", "x"), ("ab", "y")]) == "重み  x\nab    y"


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert paint("x", "red", io.StringIO()) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", io.StringIO()) == "x"


def test_plural() -> None:
    assert [plural(1, "file"), plural(2, "file"), plural(0, "entry", "entries")] == ["1 file", "2 files", "0 entries"]


def test_elide_keeps_both_ends() -> None:
    assert elide("short", 10) == "short"
    assert elide("vision.ane.mlpackage/weights/weight.bin", 20) == "vision.an…weight.bin"
