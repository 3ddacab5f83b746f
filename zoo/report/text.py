"""Plain text for people: aligned columns and a little colour, on terminals only.

`rich` draws progress; tables are drawn here, because importing rich's costs more than all of `zoo ls`.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Literal, TextIO

Style = Literal["bold", "dim", "red", "green", "yellow", "cyan"]
_CODES: dict[Style, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
Align = Literal["<", ">"]


def colours(stream: TextIO) -> bool:
    """Whether `stream` takes colours: a terminal, `NO_COLOR` unset, `TERM` not dumb; `FORCE_COLOR` overrides."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, style: Style, stream: TextIO | None = None) -> str:
    """`text` in a style if `stream` (stdout by default) takes colours."""
    if not colours(stream or sys.stdout):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def width(text: str) -> int:
    """Columns a terminal needs for `text` (wide East Asian characters take two)."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def columns(
    rows: Sequence[Sequence[str]],
    *,
    header: Sequence[str] = (),
    align: str = "",
    indent: int = 0,
    stream: TextIO | None = None,
) -> str:
    """Rows as aligned columns, two spaces apart, no trailing blanks.

    Args:
        rows: cells; every row as long as the first.
        header: column titles, in bold on a terminal.
        align: one of `<` and `>` per column; missing ones are `<`.
        indent: blanks before every line.
        stream: where it will be printed, to decide on colours.
    """
    everything = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not everything:
        return ""
    widths = [max(width(row[column]) for row in everything) for column in range(len(everything[0]))]
    lines = []
    for number, row in enumerate(everything):
        cells = []
        for column, cell in enumerate(row):
            pad = " " * (widths[column] - width(cell))
            right = align[column : column + 1] == ">"
            cells.append(pad + cell if right else cell + pad)
        line = " " * indent + "  ".join(cells).rstrip()
        lines.append(paint(line, "bold", stream) if header and number == 0 else line)
    return "\n".join(lines)


def elide(text: str, longest: int) -> str:
    """`text`, or its two ends with `…` between them if it has more than `longest` characters."""
    if len(text) <= longest:
        return text
    tail = longest // 2
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 file`, `2 files`, `3 entries`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"
