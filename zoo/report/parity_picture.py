"""The picture of a parity run: an SVG with one small chart for each check that has something at every position.

The vertical axis is logarithmic, in multiples of the limit, which is the red line: what is above it fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from zoo.report.parity import parity_summary
from zoo.report.text import elide

Document = Mapping[str, Any]

WIDTH, HEIGHT = 300, 120
"""Of a chart, in pixels."""

COLUMNS = 3
MARGIN, TITLE, GAP = 16, 34, 26

LEAST, MOST = 1e-4, 1e3
"""Multiples of the limit that are drawn; what is beyond lies on the edge."""

TITLE_LETTERS = 48
FONT = "system-ui, sans-serif"

INK, GOOD, BAD = "#1a202c", "#276749", "#c53030"
COLOURS = ("#2b6cb0", "#b7791f", "#6b46c1", "#2f855a")


def parity_svg(report: Document) -> str:
    """Draws a report.

    Args:
        report: `converters.parity.report.Report.to_json()`.

    Returns:
        A standalone SVG document.
    """
    charts = [check for check in report["checks"] if _drawn(check)]
    rows = math.ceil(len(charts) / COLUMNS)
    width = 2 * MARGIN + COLUMNS * WIDTH + (COLUMNS - 1) * GAP
    height = MARGIN + TITLE + rows * (HEIGHT + TITLE + GAP) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _label(MARGIN, MARGIN + 8, f"{report['folder']} against {report['checkpoint']}", size=14),
        _label(MARGIN, MARGIN + 24, parity_summary(report), colour=GOOD if report["passed"] else BAD),
    ]
    for index, check in enumerate(charts):
        row, column = divmod(index, COLUMNS)
        left = MARGIN + column * (WIDTH + GAP)
        top = MARGIN + 2 * TITLE + row * (HEIGHT + TITLE + GAP)
        parts += _chart(check, left, top)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(check: Document) -> dict[str, tuple[Sequence[float | None], float]]:
    """Series that have a limit, by name, with the limit."""
    limits = {measure["name"]: measure["limit"] for measure in check["measures"] if measure["limit"]}
    found = {name: (values, limits[name]) for name, values in check["series"].items() if name in limits}
    if "1 - cosine" in check["series"] and "1 - mean cosine" in limits:
        found["1 - cosine"] = (check["series"]["1 - cosine"], limits["1 - mean cosine"])
    return found


def _chart(check: Document, left: int, top: int) -> list[str]:
    title = elide(f"{check['name']}: {check['says']}", TITLE_LETTERS)
    line = top + _height(1.0)
    parts = [
        _label(left, top - 8, title, colour=GOOD if check["passed"] else BAD),
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="#f7fafc" stroke="#cbd5e0"/>',
        f'<line x1="{left}" x2="{left + WIDTH}" y1="{line:.1f}" y2="{line:.1f}" stroke="{BAD}"/>',
    ]
    for index, (name, (values, bound)) in enumerate(_drawn(check).items()):
        colour = COLOURS[index % len(COLOURS)]
        parts += [_line(run, len(values), bound, left, top, colour) for run in _runs(values)]
        parts.append(_label(left + 4 + 80 * index, top + HEIGHT + 13, f"{name} / {bound:.3g}", colour=colour))
    return parts


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Stretches without a gap, as (position, value)."""
    runs: list[list[tuple[int, float]]] = [[]]
    for position, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((position, value))
    return [run for run in runs if run]


def _line(run: Sequence[tuple[int, float]], length: int, bound: float, left: int, top: int, colour: str) -> str:
    step = WIDTH / max(1, length - 1)
    points = [(left + position * step, top + _height(value / bound)) for position, value in run]
    if len(points) == 1:
        x, y = points[0]
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>'


def _height(multiple: float) -> float:
    """Pixels below the top of a chart."""
    within = min(max(multiple, LEAST), MOST)
    share = (math.log10(within) - math.log10(LEAST)) / (math.log10(MOST) - math.log10(LEAST))
    return HEIGHT * (1 - share)


def _label(x: int, y: int, text: str, *, size: int = 11, colour: str = INK) -> str:
    return f'<text x="{x}" y="{y}" font-family="{FONT}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
