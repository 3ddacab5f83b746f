"""Bytes for people: decimal units everywhere, the ones the Hub, Finder and phone settings show."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: int) -> str:
    """`0 B`, `512 B`, `754 MB`, `8.16 GB`: three significant digits, 1 GB = 10**9 bytes."""
    value = float(count)
    for unit in _UNITS:
        digits = 0 if unit == "B" or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
        if abs(round(value, digits)) < 1000 or unit == _UNITS[-1]:
            return f"{value:.{digits}f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes any value")


def human_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
